"""Numbers 1, 2, 3, ... without a gap, each given to one ask; a request_id acts once; budgets are never exceeded, and are reached."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator

from ..history import Call, Outcome
from .evidence import Evidence, State, grouped, number_of


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
    by_worker = grouped((trial for trial in e.trials.values() if trial.worker), lambda trial: trial.worker)
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
    for calls in grouped(keyed, lambda call: f"{call.method} {call.request.request_id}").values():
        done: list[Call] = []
        for call in sorted(calls, key=lambda call: call.began):
            bodies = [before for before in done if before.ended < call.began]
            if call.ok and any(before.request != call.request for before in bodies):
                yield f"{call}: request_id {call.request.request_id} was used for two bodies"
            if call.reason == "REQUEST_ID_REUSED" and all(other.request == call.request for other in calls):
                yield f"{call}: request_id {call.request.request_id} was not reused"
            if call.ok:
                done.append(call)


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


RULES = (
    numbers_have_no_gap,
    trials_are_given_once,
    request_ids_act_once,
    budgets_are_exact,
)
