"""The contract as a model: what a history of calls, and the database after it, must satisfy. Returns violations as sentences.

Of each call it is known that it took effect (acknowledged), that it changed nothing (refused), or neither (the reply was lost):
such a call may have taken effect at any time since, but at most once, and wholly. The rules:

    writes       what was acknowledged is there; what is there was asked for
    numbers      1, 2, 3, ... without a gap; each given to one ask; the same request_id gives the same trials
    budgets      never exceeded, and reached when clients wanted more
    states       every change that anyone saw is a path of allowed edges; a result never changes; refusals fit the state
    revisions    what was seen once is never unseen (reads and watches), also across restarts; one revision, one content
    watches      in order, and complete in the end
    leases       retries within their limit, one for each lost trial, and nothing is stuck
    suggestions  inside the space, and no point twice
    summaries    counts and the best trial are those of the trials

The rules know the contract only: nothing of storage, engine or service.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2

from .history import Call, History, Outcome

State = trial_pb2.Trial
RESULTS = {State.SUCCEEDED, State.INFEASIBLE, State.FAILED, State.PRUNED}
# The edges of the contract (trial.proto), by the state that they leave.
EDGES: Mapping[int, frozenset[int]] = {
    State.WAITING: frozenset({State.RUNNING, State.EXPIRED}),
    State.RUNNING: frozenset(RESULTS | {State.EXPIRED}),
    State.EXPIRED: frozenset(RESULTS),
}


def _reachable(state: int) -> frozenset[int]:
    found = {state}
    while more := {target for at in found for target in EDGES.get(at, ())} - found:
        found |= more
    return frozenset(found)


# Several changes may be seen as one. Only a trial that was never handed out may go from WAITING to EXPIRED for good.
REACHABLE: Mapping[int, frozenset[int]] = {state: _reachable(state) for state in State.State.values()}


@dataclass
class Final:
    """The whole database, read after the faults: studies by name, their trials in full, the best of each; what did not come to an end."""

    studies: dict[str, study_pb2.Study]
    trials: dict[str, list[trial_pb2.Trial]]
    best: dict[str, list[trial_pb2.Trial]]
    stuck: list[str]


class Seen(NamedTuple):
    """A trial or study as somebody saw it, some time between `began` and `ended`."""

    began: float
    ended: float
    revision: int
    message: Any


def violations(history: History, final: Final) -> list[str]:
    """Everything in which the history breaks the contract."""
    evidence = Evidence(history, final)
    found = [f"stuck: {what}" for what in final.stuck]
    for rule in RULES:
        found += rule(evidence)
    return found


class Evidence:
    """The history, sorted for the rules."""

    def __init__(self, history: History, final: Final) -> None:
        self.history = history
        self.final = final
        self.trials = {trial.name: trial for trials in final.trials.values() for trial in trials}

    @cached_property
    def by_method(self) -> Mapping[str, Sequence[Call]]:
        """All attempts."""
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.history.calls:
            found[call.method].append(call)
        return found

    def calls(self, *methods: str) -> Iterator[Call]:
        """All attempts of some methods."""
        for method in methods:
            yield from self.by_method.get(method, ())

    @cached_property
    def deleted(self) -> set[str]:
        """Studies that somebody tried to delete."""
        return {call.request.name for call in self.calls("DeleteStudy")}

    @cached_property
    def tells(self) -> Mapping[str, Sequence[Call]]:
        """Tells by trial."""
        return _grouped(self.calls("Tell"), lambda call: call.request.name)

    @cached_property
    def reports(self) -> Mapping[str, Sequence[Call]]:
        """Reports by trial."""
        return _grouped(self.calls("Report"), lambda call: call.request.name)

    @cached_property
    def asks(self) -> Mapping[str, Sequence[Call]]:
        """Attempts of asks by worker: a logical ask has a worker of its own."""
        return _grouped(self.calls("Ask"), lambda call: call.request.worker)

    @cached_property
    def seen_trials(self) -> Mapping[str, Sequence[Seen]]:
        """What anyone saw of each trial."""
        found: dict[str, list[Seen]] = defaultdict(list)
        for call in self.history.calls:
            if call.ok:
                for trial in _trials_in(call):
                    found[trial.name].append(Seen(call.began, call.ended, trial.revision, trial))
        for watched in self.history.watched:
            for trial in watched.message.trials if watched.message is not None else ():
                found[trial.name].append(Seen(-math.inf, watched.at, trial.revision, trial))
        for trial in self.trials.values():
            found[trial.name].append(Seen(math.inf, math.inf, trial.revision, trial))
        return found

    @cached_property
    def seen_studies(self) -> Mapping[str, Sequence[Seen]]:
        """What anyone saw of each study."""
        found: dict[str, list[Seen]] = defaultdict(list)
        for call in self.history.calls:
            if call.ok:
                for study in _studies_in(call):
                    found[study.name].append(Seen(call.began, call.ended, study.revision, study))
        for watched in self.history.watched:
            if watched.message is not None and watched.message.HasField("study"):
                study = watched.message.study
                found[study.name].append(Seen(-math.inf, watched.at, study.revision, study))
        for study in self.final.studies.values():
            found[study.name].append(Seen(math.inf, math.inf, study.revision, study))
        return found

    @cached_property
    def children(self) -> Mapping[str, Sequence[trial_pb2.Trial]]:
        """Retries by the name of the trial that they repeat."""
        return _grouped(
            (trial for trial in self.trials.values() if trial.HasField("retry_of")),
            lambda trial: f"{parent_of(trial.name)}/trials/{trial.retry_of}",
        )


def parent_of(trial: str) -> str:
    """The study of a trial."""
    return trial.partition("/trials/")[0]


def number_of(trial: trial_pb2.Trial) -> int:
    """The number of a trial."""
    return int(trial.name.rpartition("/")[2])


def _grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        found[key(item)].append(item)
    return found


def _trials_in(call: Call) -> Sequence[trial_pb2.Trial]:
    if call.method == "Tell":
        return [call.response.trial]
    if call.method in ("GetTrial", "UpdateTrial"):
        return [call.response]
    if call.method in ("Ask", "CreateTrials", "ListTrials", "ListBestTrials"):
        return list(call.response.trials)
    return []


def _studies_in(call: Call) -> Sequence[study_pb2.Study]:
    if call.method in ("CreateStudy", "GetStudy", "UpdateStudy", "StopStudy", "ResumeStudy"):
        return [call.response]
    return list(call.response.studies) if call.method == "ListStudies" else []


# Writes --------------------------------------------------------------------------------------------------------------


def studies_are_kept(e: Evidence) -> Iterator[str]:
    """A created study is there, a deleted one is not."""
    for call in e.calls("CreateStudy"):
        name = f"{call.request.parent}/studies/{call.request.study_id}"
        if call.ok and name not in e.deleted and name not in e.final.studies:
            yield f"lost: {name} was created and is not there"
    created = _grouped(e.calls("CreateStudy"), _study_id)
    for call in e.calls("DeleteStudy"):
        name = call.request.name
        if any(create.over > call.began for create in created.get(name, ())):
            continue  # A creation that is in doubt may have come after the deletion.
        if call.ok and name in e.final.studies:
            yield f"lost: the deletion of {name}"
        if call.ok:
            for read in e.calls("GetStudy"):
                if read.ok and read.request.name == name and read.began > call.ended:
                    yield f"{name} was seen after it was deleted"


def trials_are_kept(e: Evidence) -> Iterator[str]:
    """Every trial that anyone saw is there, with the parameters and the origin that were seen."""
    for name, seen in e.seen_trials.items():
        if parent_of(name) in e.deleted:
            continue
        kept = e.trials.get(name)
        if kept is None:
            yield f"lost: trial {name} was seen and is not there"
            continue
        for one in seen:
            trial = one.message
            for field in ("parameters", "suggestion", "attempt", "retry_of", "create_time"):
                if getattr(trial, field) != getattr(kept, field):
                    yield f"{field} of {name} changed"
                    break


def results_are_kept(e: Evidence) -> Iterator[str]:
    """A result that was acknowledged is there; a result that is there was told."""
    for name, calls in e.tells.items():
        kept = e.trials.get(name)
        if kept is None:
            continue
        for call in calls:
            if call.ok and not _is_result_of(kept, call.request, e):
                yield f"lost: {call} is {State.State.Name(kept.state)} {dict(kept.measurement.metrics)}"
            if call.reason == "RESULT_CONFLICT" and (kept.state not in RESULTS or _is_result_of(kept, call.request, e)):
                yield f"{call} was refused for no other result"
    for name, kept in e.trials.items():
        if kept.state in RESULTS and kept.suggestion.source != trial_pb2.Suggestion.IMPORTED:
            told = [call for call in e.tells.get(name, ()) if call.outcome is not Outcome.REFUSED]
            if not any(_is_result_of(kept, call.request, e) for call in told):
                yield f"{name} has a result that nobody told: {State.State.Name(kept.state)}"
            elif not any(_is_result_of(kept, call.request, e, reason=True) for call in told):
                yield f"{name} has a reason that nobody told: {kept.state_reason!r}"


def _is_result_of(kept: trial_pb2.Trial, told: Any, e: Evidence, *, reason: bool = False) -> bool:
    """Whether the trial stands as it was told; `reason`: also with that reason."""
    kind = told.WhichOneof("result")
    if kind == "measurement":
        return kept.state == State.SUCCEEDED and kept.measurement == told.measurement
    result = getattr(told, kind)
    if kept.state != {"infeasible": State.INFEASIBLE, "failed": State.FAILED, "pruned": State.PRUNED}[kind]:
        return False
    if reason and kept.state_reason != result.reason:
        return False
    if kind != "pruned":
        return True
    if result.HasField("measurement"):
        return bool(kept.measurement == result.measurement)
    reported = list(kept.intermediate_measurements)
    return bool(kept.measurement == reported[-1]) if reported else not kept.HasField("measurement")


def measurements_are_kept(e: Evidence) -> Iterator[str]:
    """A measurement that was acknowledged is there, once; one that is there was reported or imported."""
    imported = _imports(e)
    for name, kept in e.trials.items():
        steps = [measured.step for measured in kept.intermediate_measurements]
        if steps != sorted(set(steps)):
            yield f"the steps of {name} are {steps}"
        by_step = {measured.step: measured for measured in kept.intermediate_measurements}
        calls = e.reports.get(name, ())
        for call in calls:
            if call.ok and by_step.get(call.request.measurement.step) != call.request.measurement:
                yield f"lost: {call}, step {call.request.measurement.step}"
        asked = [call.request.measurement for call in calls if call.outcome is not Outcome.REFUSED]
        asked += imported.get(kept.notes, ()) if kept.suggestion.source == trial_pb2.Suggestion.IMPORTED else ()
        for measured in kept.intermediate_measurements:
            if measured not in asked:
                yield f"{name} has a measurement at step {measured.step} that nobody reported"


def _imports(e: Evidence) -> Mapping[str, Sequence[trial_pb2.Measurement]]:
    found: dict[str, list[trial_pb2.Measurement]] = defaultdict(list)
    for call in e.calls("CreateTrials"):
        for trial in call.request.trials:
            found[trial.notes] += trial.intermediate_measurements
    return found


def created_trials_are_kept(e: Evidence) -> Iterator[str]:
    """Trials that a client brought are there as they were sent, all or none, once; and in one run of numbers."""
    made = _grouped(
        (trial for trial in e.trials.values() if trial.notes and not trial.HasField("retry_of")),
        lambda trial: trial.notes,
    )
    for notes, calls in _grouped(e.calls("CreateTrials"), lambda call: call.request.trials[0].notes).items():
        request, kept = calls[0].request, made.get(notes, [])
        outcomes = {call.outcome for call in calls}
        if Outcome.OK in outcomes and not kept:
            yield f"lost: {calls[-1]}"
        if outcomes == {Outcome.REFUSED} and kept:
            yield f"{calls[-1]} was refused and took effect"
        if not kept:
            continue
        if len(kept) != len(request.trials):
            yield f"{calls[-1]} brought {len(request.trials)} trials, {len(kept)} are there"
            continue
        numbers = [number_of(trial) for trial in kept]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            yield f"{calls[-1]} got the numbers {numbers}"
        for sent, trial in zip(request.trials, kept, strict=True):
            if sent.parameters != trial.parameters:
                yield f"{trial.name} has not the parameters of {calls[-1]}"
            if sent.state == State.SUCCEEDED and (
                trial.state != State.SUCCEEDED
                or sent.measurement != trial.measurement
                or list(sent.intermediate_measurements) != list(trial.intermediate_measurements)
            ):
                yield f"{trial.name} is not what {calls[-1]} imported"
        for call in calls:
            if call.ok and [t.name for t in call.response.trials] != [t.name for t in kept]:
                yield f"{call} answered other trials than those it made"


def last_writers_win(e: Evidence) -> Iterator[str]:
    """Labels and descriptions are those of a write that no later acknowledged one replaced."""
    for name, calls in _grouped(e.calls("UpdateStudy"), lambda call: call.request.study.name).items():
        if name in e.final.studies:
            first = [call.request.study.description for call in e.calls("CreateStudy") if _study_id(call) == name]
            yield from _register(
                f"description of {name}",
                [(call, call.request.study.description) for call in calls],
                e.final.studies[name].description,
                first or [""],
            )
    for name, calls in _grouped(e.calls("UpdateTrial"), lambda call: call.request.trial.name).items():
        kept = e.trials.get(name)
        # A retry begins with the labels of what it repeats, whatever they were then.
        if kept is not None and not kept.HasField("retry_of"):
            writes = [(call, dict(call.request.trial.labels)) for call in calls]
            yield from _register(f"labels of {name}", writes, dict(kept.labels), None)


def _study_id(call: Call) -> str:
    return f"{call.request.parent}/studies/{call.request.study_id}"


def _register(
    what: str, writes: Sequence[tuple[Call, object]], value: object, first: Sequence[object] | None
) -> Iterator[str]:
    """`first`: values before any write; None if they are not known."""
    done = [call for call, _ in writes if call.ok]
    latest = max((call.began for call in done), default=-math.inf)
    sources = [call for call, written in writes if written == value and call.outcome is not Outcome.REFUSED]
    if sources:
        if all(call.over < latest for call in sources):
            yield f"lost: {what} is {value!r}, which was replaced"
    elif done:
        yield f"lost: {what} is {value!r}, not what {done[-1]} wrote"
    elif first is not None and value not in first:
        yield f"{what} is {value!r}, which nobody wrote"


# Numbers and request ids ---------------------------------------------------------------------------------------------


def numbers_have_no_gap(e: Evidence) -> Iterator[str]:
    """The trials of a study are numbered 1, 2, 3, ..."""
    for study, trials in e.final.trials.items():
        numbers = [number_of(trial) for trial in trials]
        if numbers != list(range(1, len(numbers) + 1)):
            missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
            twice = [number for number, count in Counter(numbers).items() if count > 1]
            yield f"numbers of {study}: missing {missing[:10]}, twice {twice[:10]}"


def trials_are_given_once(e: Evidence) -> Iterator[str]:
    """A trial is given to one ask; a repeat under its request_id gives the same, and an ask gets no more than it asked for."""
    given: dict[str, set[str]] = defaultdict(set)
    for worker, calls in e.asks.items():
        with_id = bool(calls[0].request.request_id)
        answers = {tuple(trial.name for trial in call.response.trials) for call in calls if call.ok}
        if with_id and len(answers) > 1:
            yield f"request_id {calls[0].request.request_id} of {calls[0].request.parent} gave {sorted(answers)[:3]}"
        for answer in answers:
            for name in answer:
                given[name].add(worker)
        count = calls[0].request.count or 1
        for call in calls:
            if call.ok and not 1 <= len(call.response.trials) <= count:
                yield f"{call} asked for {count} and got {len(call.response.trials)}"
    for name, workers in given.items():
        if len(workers) > 1:
            yield f"given twice: {name} to {sorted(workers)}"
    by_worker = _grouped((trial for trial in e.trials.values() if trial.worker), lambda trial: trial.worker)
    for worker, trials in by_worker.items():
        calls = e.asks.get(worker, [])
        names = {trial.name for trial in trials}
        if not calls:
            yield f"{sorted(names)} belong to {worker}, who asked for nothing"
            continue
        if all(call.outcome is Outcome.REFUSED for call in calls):
            yield f"{calls[-1]} was refused and got {sorted(names)}"
        if len(names) > (calls[0].request.count or 1):
            yield f"{calls[-1]} took effect more than once: {sorted(names)}"
        if len({(trial.start_time.seconds, trial.start_time.nanos) for trial in trials}) > 1:
            yield f"{calls[-1]} took effect in parts"
        for call in calls:
            if call.ok and {trial.name for trial in call.response.trials} != names:
                yield f"lost: {call} was given {[t.name for t in call.response.trials]}, {sorted(names)} are there"


def request_ids_act_once(e: Evidence) -> Iterator[str]:
    """The same id with another body is refused once one of them was acknowledged."""
    keyed = [call for call in e.calls("Ask", "CreateTrials", "Tell") if call.request.request_id]
    for calls in _grouped(keyed, lambda call: f"{call.method} {call.request.request_id}").values():
        done: list[Call] = []
        for call in sorted(calls, key=lambda call: call.began):
            bodies = [before for before in done if before.ended < call.began]
            if call.ok and any(before.request != call.request for before in bodies):
                yield f"{call}: request_id {call.request.request_id} was used for two bodies"
            if call.reason == "REQUEST_ID_REUSED" and all(other.request == call.request for other in calls):
                yield f"{call}: request_id {call.request.request_id} was not reused"
            if call.ok:
                done.append(call)


# Budgets -------------------------------------------------------------------------------------------------------------


def budgets_are_exact(e: Evidence) -> Iterator[str]:
    """No more than `max_trials`; and no fewer, since the last client asked until it was refused."""
    for name, study in e.final.studies.items():
        limit = study.spec.stopping_criteria.max_trials
        if not limit:
            continue
        trials = e.final.trials[name]
        # A late result can make a trial and its retry count both, so what is limited are chains of retries.
        chains = sum(not trial.HasField("retry_of") for trial in trials)
        used = sum(trial.state != State.EXPIRED for trial in trials)
        if chains > limit:
            yield f"budget of {name}: {chains} trials, allowed are {limit}"
        if used < limit:
            yield f"budget of {name}: only {used} of {limit} were given out though more was wanted"


# States --------------------------------------------------------------------------------------------------------------


def edges_are_allowed(e: Evidence) -> Iterator[str]:
    """Each change of a trial, by revision, is a path of the table; results never change; one revision has one content."""
    for name, unsorted in e.seen_trials.items():
        seen = sorted(unsorted, key=lambda one: one.revision)
        for before, after in pairwise(seen):
            old, new = before.message, after.message
            names = State.State.Name(old.state), State.State.Name(new.state)
            if before.revision == after.revision:
                if _content(old) != _content(new):
                    yield f"{name} at revision {after.revision} was seen in two versions ({', '.join(names)})"
            elif new.state not in REACHABLE[old.state]:
                yield f"illegal: {name} went from {names[0]} to {names[1]}"
            elif old.state in RESULTS and (old.measurement, old.state_reason, old.end_time) != (
                new.measurement,
                new.state_reason,
                new.end_time,
            ):
                yield f"the result of {name} changed"
            elif old.worker and old.worker != new.worker:
                yield f"{name} went from worker {old.worker} to {new.worker}"


def _content(trial: trial_pb2.Trial) -> object:
    copy = trial_pb2.Trial()
    copy.CopyFrom(trial)
    del copy.intermediate_measurements[:]
    return copy.SerializeToString(deterministic=True)


# What a use case may answer, beside INVALID_ARGUMENT, which the clients never earn.
_REFUSALS: Mapping[str, set[str]] = {
    "Ask": {"REQUEST_ID_REUSED", "CONCURRENT_UPDATE", "SERVER_BUSY"},
    "Tell": {"REQUEST_ID_REUSED", "RESULT_CONFLICT"},
    "CreateTrials": {"REQUEST_ID_REUSED"},
    "Report": {"TRIAL_NOT_RUNNING"},
    "Heartbeat": {"TRIAL_NOT_RUNNING"},
    "UpdateStudy": {"ETAG_MISMATCH"},
    "ResumeStudy": {"STUDY_COMPLETED"},
    "ExplainStudy": {"NO_MODEL", "SERVER_BUSY"},
}


def refusals_fit(e: Evidence) -> Iterator[str]:
    """A call is refused only for what can be so; nothing is a bug of the server's."""
    for call in e.history.calls:
        if call.reason == "INTERNAL":
            yield f"{call}: {call.message}"
        if call.outcome is not Outcome.REFUSED or call.reason in _REFUSALS.get(call.method, ()):
            continue
        name = getattr(call.request, "name", "") or getattr(call.request, "parent", "")
        study = e.final.studies.get(parent_of(name))
        if call.method == "Ask" and study is not None:
            criteria, algorithm = study.spec.stopping_criteria, study.spec.algorithm
            if call.reason in ("TRIAL_LIMIT_REACHED", "STUDY_COMPLETED") and criteria.max_trials:
                continue
            if call.reason == "SEARCH_SPACE_EXHAUSTED" and algorithm.WhichOneof("kind") == "grid":
                continue
            if call.reason == "STUDY_NOT_ACTIVE" and any(stop.request.name == name for stop in e.calls("StopStudy")):
                continue
        if call.reason == "STUDY_NOT_FOUND" and name in e.deleted:
            continue
        yield f"{call} was refused: {call.message}"
    for call in e.calls("Report"):
        told = e.tells.get(call.request.name, ())
        if call.reason == "TRIAL_NOT_RUNNING" and not any(tell.began < call.ended for tell in told):
            yield f"{call} was refused though nobody had told the trial"


def stopped_studies_give_nothing(e: Evidence) -> Iterator[str]:
    """From when a stop was acknowledged until a resume is under way, no ask is served (but a repeat)."""
    resumes = _grouped(e.calls("ResumeStudy"), lambda call: call.request.name)
    given: dict[str, float] = {}
    for worker, calls in e.asks.items():
        given[worker] = min((call.began for call in calls), default=math.inf)
    for stop in e.calls("StopStudy"):
        if not stop.ok:
            continue
        # A resume that began before the stop ended may be the later one.
        until = min(
            (call.began for call in resumes.get(stop.request.name, ()) if call.over > stop.began), default=math.inf
        )
        for ask in e.calls("Ask"):
            first = given[ask.request.worker]
            if ask.ok and ask.request.parent == stop.request.name and stop.ended < first and ask.ended < until:
                yield f"{ask} was served while the study was stopped"


# Revisions and watches -----------------------------------------------------------------------------------------------


def revisions_never_go_back(e: Evidence) -> Iterator[str]:
    """What was seen of a study or trial before a read began, the read sees."""
    for kind in (e.seen_studies, e.seen_trials):
        for name, seen in kind.items():
            if name in e.deleted or parent_of(name) in e.deleted:
                continue
            ended = sorted(seen, key=lambda one: one.ended)
            highest, i = 0, 0
            for one in sorted(seen, key=lambda one: one.began):
                while i < len(ended) and ended[i].ended < one.began:
                    highest = max(highest, ended[i].revision)
                    i += 1
                if one.revision < highest:
                    yield f"backward: {name} was at revision {highest}, later at {one.revision}"
                    break
    for name, seen in e.seen_studies.items():
        versions: dict[int, study_pb2.Study] = {}
        for one in seen:
            if versions.setdefault(one.revision, one.message) != one.message and name not in e.deleted:
                yield f"{name} at revision {one.revision} was seen in two versions"
                break


def watches_are_complete(e: Evidence) -> Iterator[str]:
    """A watch goes forward, and what it showed in all is what is there."""
    for (watcher, study), messages in _by_watcher(e).items():
        seen = 0
        trials: dict[str, trial_pb2.Trial] = {}
        measured: dict[str, dict[int, trial_pb2.Measurement]] = defaultdict(dict)
        for watched in messages:
            if watched.reason in ("REVISION_IN_FUTURE", "STUDY_NOT_FOUND", "INTERNAL"):
                yield f"backward: the watch of {study} after revision {watched.after} ended with {watched.reason}"
            if watched.message is None:
                continue
            if watched.message.revision < max(seen, watched.after):
                yield f"{watcher} of {study} saw revision {watched.message.revision} after {seen}"
            for trial in watched.message.trials:
                if trial.revision > watched.message.study.revision:
                    yield f"{watcher} saw {trial.name} at {trial.revision}, the study at {watched.message.study.revision}"
                if trial.name in trials and trial.revision < trials[trial.name].revision:
                    yield f"{watcher} saw {trial.name} go back to revision {trial.revision}"
                trials[trial.name] = trial
                for each in trial.intermediate_measurements:
                    measured[trial.name][each.step] = each
            seen = watched.message.revision
        if study not in e.final.studies:
            continue
        if seen != e.final.studies[study].revision:
            yield f"{watcher} of {study} saw revision {seen}, the study is at {e.final.studies[study].revision}"
        for kept in e.final.trials[study]:
            shown = trials.get(kept.name)
            if shown is None or _content(shown) != _content(kept):
                yield f"{watcher} missed a change of {kept.name}"
            if measured[kept.name] != {each.step: each for each in kept.intermediate_measurements}:
                yield f"{watcher} missed measurements of {kept.name}"


def _by_watcher(e: Evidence) -> Mapping[tuple[str, str], Sequence[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for watched in e.history.watched:
        found[watched.watcher, watched.study].append(watched)
    return found


# Leases --------------------------------------------------------------------------------------------------------------


def retries_keep_their_limit(e: Evidence) -> Iterator[str]:
    """A lost trial has one retry up to the limit, with its parameters; nothing expires without a lease."""
    for name, trial in e.trials.items():
        policy = e.final.studies[parent_of(name)].spec.trial_policy
        children = e.children.get(name, ())
        if trial.attempt > policy.max_retries + 1:
            yield f"{name} is attempt {trial.attempt}, allowed are {policy.max_retries + 1}"
        if trial.HasField("retry_of"):
            before = e.trials.get(f"{parent_of(name)}/trials/{trial.retry_of}")
            if before is None or trial.attempt != before.attempt + 1 or trial.parameters != before.parameters:
                yield f"{name} does not repeat trial {trial.retry_of}"
        elif trial.attempt != 1:
            yield f"{name} is attempt {trial.attempt} of nothing"
        if len(children) > 1:
            yield f"{name} has {len(children)} retries"
        if trial.state == State.EXPIRED:
            lost = trial.HasField("start_time")
            if lost and not policy.HasField("lease"):
                yield f"{name} is EXPIRED without a lease"
            before = e.trials.get(f"{parent_of(name)}/trials/{trial.retry_of}")
            while before is not None and before.state == State.EXPIRED and before.HasField("retry_of"):
                before = e.trials.get(f"{parent_of(name)}/trials/{before.retry_of}")
            is_solved = before is not None and before.state in RESULTS
            # Nobody would ask for the retry of a study that is COMPLETED.
            is_over = is_solved or e.final.studies[parent_of(name)].state == study_pb2.Study.COMPLETED
            if lost and trial.attempt <= policy.max_retries and not children and not is_over:
                yield f"{name} was lost and is not tried again"
            if not lost and not is_solved:
                yield f"{name} was withdrawn though none of the trials that it repeats has a result"
        elif children and trial.state not in RESULTS:
            yield f"{name} is {State.State.Name(trial.state)} and has a retry"


def nothing_is_stuck(e: Evidence) -> Iterator[str]:
    """After all leases have ended nothing runs with one; what runs without one was given to somebody; the queue is in order."""
    for study, trials in e.final.trials.items():
        policy = e.final.studies[study].spec.trial_policy
        for trial in trials:
            if trial.state != State.RUNNING:
                continue
            if policy.HasField("lease"):
                yield f"stuck: {trial.name} runs after its lease has ended"
            calls = e.asks.get(trial.worker, ())
            if not any(call.outcome is not Outcome.REFUSED for call in calls):
                yield f"stuck: {trial.name} runs and belongs to nobody"
        waiting = [number_of(trial) for trial in trials if trial.state == State.WAITING]
        queued = [trial for trial in trials if trial.suggestion.source == trial_pb2.Suggestion.ENQUEUED]
        taken = [number_of(trial) for trial in queued if trial.HasField("start_time")]
        if waiting and taken and min(waiting) < max(taken):
            yield f"{study}: trial {min(waiting)} waits though {max(taken)}, which came later, was given out"


# Suggestions ---------------------------------------------------------------------------------------------------------


def suggestions_are_valid(e: Evidence) -> Iterator[str]:
    """Every point lies in the space; a suggestion repeats no point of an earlier trial, but for retries."""
    for study, trials in e.final.trials.items():
        space = e.final.studies[study].spec.parameters
        points: dict[object, str] = {}
        for trial in trials:
            wrong = list(_wrong(space, trial.parameters))
            if wrong:
                yield f"{trial.name} lies outside of the space: {', '.join(wrong)}"
            point = tuple(sorted((name, value.SerializeToString()) for name, value in trial.parameters.items()))
            fresh = not trial.HasField("retry_of") and trial.suggestion.source not in (
                trial_pb2.Suggestion.ENQUEUED,
                trial_pb2.Suggestion.IMPORTED,
            )
            if fresh and point in points:
                yield f"{trial.name} suggests the point of {points[point]} again"
            points.setdefault(point, trial.name)


def _wrong(
    space: Sequence[search_space_pb2.Parameter], values: Mapping[str, search_space_pb2.ParameterValue]
) -> Iterator[str]:
    """The parameters that are missing, of the wrong type or out of range, or should not be there."""
    known = {parameter.name: parameter for parameter in space}
    yield from (name for name in values if name not in known)
    for name, parameter in known.items():
        condition = parameter.condition
        active = not parameter.HasField("condition") or (
            condition.parent in values and values[condition.parent] in condition.values
        )
        if active != (name in values) or (active and not _fits(parameter, values[name])):
            yield name


def _fits(parameter: search_space_pb2.Parameter, value: search_space_pb2.ParameterValue) -> bool:
    kind = parameter.WhichOneof("type")
    if kind == "categorical":
        return value in parameter.categorical.choices
    if kind == "discrete":
        return value.WhichOneof("kind") == "float_value" and value.float_value in parameter.discrete.values
    if kind == "int":
        whole = parameter.int
        step = whole.step or 1
        at = value.int_value
        return value.WhichOneof("kind") == "int_value" and whole.min <= at <= whole.max and (at - whole.min) % step == 0
    real = parameter.float
    if value.WhichOneof("kind") != "float_value" or not real.min <= value.float_value <= real.max:
        return False
    if not real.HasField("step"):
        return True
    steps = (value.float_value - real.min) / real.step
    return abs(steps - round(steps)) < 1e-9


# Summaries -----------------------------------------------------------------------------------------------------------


def summaries_are_true(e: Evidence) -> Iterator[str]:
    """A study's counts are those of its trials, its best trial is the best."""
    for name, study in e.final.studies.items():
        trials = e.final.trials[name]
        states = Counter(State.State.Name(trial.state).lower() for trial in trials)
        counts = {field.name: getattr(study.trial_counts, field.name) for field in study.trial_counts.DESCRIPTOR.fields}
        if {state: count for state, count in counts.items() if count} != dict(states):
            yield f"counts of {name} are {counts}, the trials are {dict(states)}"
        losses = [trial.measurement.metrics["loss"] for trial in trials if trial.state == State.SUCCEEDED]
        best = [trial.measurement.metrics["loss"] for trial in e.final.best[name]]
        if best != ([min(losses)] if losses else []):
            yield f"best of {name} is {best}, should be {min(losses, default=None)}"
        latest = max((trial.revision for trial in trials), default=0)
        if latest > study.revision:
            yield f"{name} is at revision {study.revision}, a trial of it at {latest}"


RULES: Sequence[Callable[[Evidence], Iterable[str]]] = (
    studies_are_kept,
    trials_are_kept,
    results_are_kept,
    measurements_are_kept,
    created_trials_are_kept,
    last_writers_win,
    numbers_have_no_gap,
    trials_are_given_once,
    request_ids_act_once,
    budgets_are_exact,
    edges_are_allowed,
    refusals_fit,
    stopped_studies_give_nothing,
    revisions_never_go_back,
    watches_are_complete,
    retries_keep_their_limit,
    nothing_is_stuck,
    suggestions_are_valid,
    summaries_are_true,
)
