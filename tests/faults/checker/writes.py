"""What was acknowledged is there; what is there was asked for; of several writers the last wins."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asktell.v1 import trial_pb2

from ..history import Call, Outcome
from .evidence import RESULTS, Evidence, State, grouped, number_of, parent_of, study_id_of


def studies_are_kept(e: Evidence) -> Iterator[str]:
    """A created study is there, a deleted one is not."""
    for call in e.calls("CreateStudy"):
        name = f"{call.request.parent}/studies/{call.request.study_id}"
        if call.ok and name not in e.deleted and name not in e.final.studies:
            yield f"lost: {name} was created and is not there"
    created = grouped(e.calls("CreateStudy"), study_id_of)
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
    made = grouped(
        (trial for trial in e.trials.values() if trial.notes and not trial.HasField("retry_of")),
        lambda trial: trial.notes,
    )
    for notes, calls in grouped(e.calls("CreateTrials"), lambda call: call.request.trials[0].notes).items():
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
    for name, calls in grouped(e.calls("UpdateStudy"), lambda call: call.request.study.name).items():
        if name in e.final.studies:
            first = [call.request.study.description for call in e.calls("CreateStudy") if study_id_of(call) == name]
            yield from _register(
                f"description of {name}",
                [(call, call.request.study.description) for call in calls],
                e.final.studies[name].description,
                first or [""],
            )
    for name, calls in grouped(e.calls("UpdateTrial"), lambda call: call.request.trial.name).items():
        kept = e.trials.get(name)
        # A retry begins with the labels of what it repeats, whatever they were then.
        if kept is not None and not kept.HasField("retry_of"):
            writes = [(call, dict(call.request.trial.labels)) for call in calls]
            yield from _register(f"labels of {name}", writes, dict(kept.labels), None)


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


RULES = (
    studies_are_kept,
    trials_are_kept,
    results_are_kept,
    measurements_are_kept,
    created_trials_are_kept,
    last_writers_win,
)
