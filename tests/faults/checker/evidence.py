"""The words that all rules share: a history of calls and the database after it, sorted by what the rules ask for."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from asktell.v1 import study_pb2, trial_pb2

from ..history import Call, History

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
        return grouped(self.calls("Tell"), lambda call: call.request.name)

    @cached_property
    def reports(self) -> Mapping[str, Sequence[Call]]:
        """Reports by trial."""
        return grouped(self.calls("Report"), lambda call: call.request.name)

    @cached_property
    def asks(self) -> Mapping[str, Sequence[Call]]:
        """Attempts of asks by worker: a logical ask has a worker of its own."""
        return grouped(self.calls("Ask"), lambda call: call.request.worker)

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
        return grouped(
            (trial for trial in self.trials.values() if trial.HasField("retry_of")),
            lambda trial: f"{parent_of(trial.name)}/trials/{trial.retry_of}",
        )


def parent_of(trial: str) -> str:
    """The study of a trial."""
    return trial.partition("/trials/")[0]


def number_of(trial: trial_pb2.Trial) -> int:
    """The number of a trial."""
    return int(trial.name.rpartition("/")[2])


def grouped(items: Iterable[Any], key: Callable[[Any], str]) -> dict[str, list[Any]]:
    """Items by a key, each in the order of the items."""
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


def study_id_of(call: Call) -> str:
    """The study that a creation makes."""
    return f"{call.request.parent}/studies/{call.request.study_id}"


def content(trial: trial_pb2.Trial) -> object:
    """A trial without its measurements, to be compared."""
    copy = trial_pb2.Trial()
    copy.CopyFrom(trial)
    del copy.intermediate_measurements[:]
    return copy.SerializeToString(deterministic=True)
