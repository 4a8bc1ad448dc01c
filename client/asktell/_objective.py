"""What an objective's end means for its trial: pure functions, shared by the sync and asyncio `optimize`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from asktell import _calls
from asktell._calls import Call
from asktell.errors import (
    FieldViolation,
    NotFinite,
    SearchSpaceExhausted,
    StudyCompleted,
    StudyNotActive,
    TrialInfeasible,
    TrialLimitReached,
    TrialPruned,
)
from asktell.records import StudyRecord, TrialRecord, TrialState
from asktell.spec import StudySpec
from asktell.v1 import study_service_pb2 as service

DONE = (StudyNotActive, StudyCompleted, TrialLimitReached, SearchSpaceExhausted)
"""The answers to an Ask that end an `optimize` in good order."""

INTERRUPTED = "interrupted"
FAREWELL_S = 5.0
"""Seconds that an interrupted `optimize` spends on telling about one trial, at most."""


def call_for_result(trial: TrialRecord, spec: StudySpec, result: object) -> Call[service.TellResponse]:
    """The Tell for what an objective returned. Raises TypeError for what is no result."""
    if isinstance(result, Mapping):
        measurement = _calls.measurement(result, {}, None, None)
    elif len(spec.required_metrics) == 1:
        measurement = _calls.measurement({next(iter(spec.objectives)): result}, {}, None, None)  # type: ignore[dict-item]
    else:
        raise TypeError(f"the objective has to return a dict of {', '.join(spec.required_metrics)}, not {result!r}")
    wild = _calls.not_finite(measurement)
    if wild:
        return _calls.tell_failed(trial.name, _words(wild))
    return _calls.tell_succeeded(trial.name, measurement)


def call_for_error(trial: TrialRecord, error: BaseException) -> Call[service.TellResponse]:
    """The Tell for what an objective raised."""
    if isinstance(error, TrialPruned):
        return _calls.tell_pruned(trial.name, str(error), None)
    if isinstance(error, TrialInfeasible):
        return _calls.tell_infeasible(trial.name, str(error))
    if isinstance(error, NotFinite):
        return _calls.tell_failed(trial.name, _words(error.violations))
    if isinstance(error, Exception):
        return _calls.tell_failed(trial.name, f"{type(error).__name__}: {error}")
    return _calls.tell_failed(trial.name, INTERRUPTED)


def _words(violations: Iterable[FieldViolation]) -> str:
    return ", ".join(violation.description for violation in violations)


def untold(trial: TrialRecord) -> TypeError:
    """The error of an objective that returned None without having told its trial."""
    return TypeError(f"the objective returned None for trial {trial.number} without telling its result")


class Tally:
    """How far the study is and what the best result is, for the progress display."""

    def __init__(self, study: StudyRecord, best: TrialRecord | None) -> None:
        self._spec = study.spec
        self.ended = study.trial_counts.ended
        self._best: tuple[float, int] | None = None
        if best is not None:
            self._consider(best)

    def recount(self, study: StudyRecord) -> None:
        """Takes over what the server counts, trials of other processes included."""
        self.ended = study.trial_counts.ended

    def add(self, trial: TrialRecord) -> None:
        """A trial has ended."""
        self.ended += 1
        if trial.state is TrialState.SUCCEEDED:
            self._consider(trial)

    def _consider(self, trial: TrialRecord) -> None:
        metric, direction = next(iter(self._spec.objectives.items()))
        if len(self._spec.objectives) > 1 or metric not in trial.metrics or not self._spec.is_feasible(trial.metrics):
            return
        value = trial.metrics[metric]
        sign = 1.0 if direction == "maximize" else -1.0
        if self._best is None or sign * value > sign * self._best[0]:
            self._best = value, trial.number

    @property
    def best(self) -> str:
        """The best feasible result in words; empty before there is one and with several objectives."""
        if self._best is None:
            return ""
        return f"best {next(iter(self._spec.objectives))} {self._best[0]:.6g} (trial {self._best[1]})"
