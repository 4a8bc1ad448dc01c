"""What the server tells about studies and trials, as Python reads it: states, measurements, suggestions, snapshots.

`StudyRecord` and `TrialRecord` are snapshots: what was true when the message that made them left the server. The
handles `Study` and `Trial` (and their asyncio twins) are such a snapshot plus the calls that change it.
All times are aware datetimes in UTC.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from asktell.errors import AskTellError
from asktell.names import StudyName, TrialName
from asktell.space import ParameterValue, Space, point_from_proto, restored
from asktell.spec import StudySpec, spec_from_proto
from asktell.v1 import study_pb2, study_service_pb2, trial_pb2

_E = TypeVar("_E", bound=enum.StrEnum)


class StudyState(enum.StrEnum):
    """Whether trials can be asked for."""

    ACTIVE = "ACTIVE"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""


class TrialState(enum.StrEnum):
    """Where a trial is in its life; the table of allowed changes is in `trial.proto`."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"
    PRUNED = "PRUNED"
    EXPIRED = "EXPIRED"
    UNKNOWN = "UNKNOWN"
    """A state that this client is too old to know."""

    @property
    def ended(self) -> bool:
        """Whether the trial is over (an EXPIRED one may still be told a late result)."""
        return self not in (TrialState.WAITING, TrialState.RUNNING)


class Source(enum.StrEnum):
    """Where a trial's parameters came from."""

    ENQUEUED = "ENQUEUED"
    INITIAL_DESIGN = "INITIAL_DESIGN"
    MODEL = "MODEL"
    FALLBACK = "FALLBACK"
    SAMPLER = "SAMPLER"
    IMPORTED = "IMPORTED"
    UNKNOWN = "UNKNOWN"
    """A source that this client is too old to know."""


class StopCause(enum.StrEnum):
    """Why a trial should stop."""

    STUDY_STOPPED = "STUDY_STOPPED"
    STUDY_COMPLETED = "STUDY_COMPLETED"
    TRIAL_EXPIRED = "TRIAL_EXPIRED"
    OTHER = "OTHER"
    """Something that only `StopAdvice.detail` explains, such as an interrupt on this side."""


@dataclass(frozen=True, slots=True)
class StopAdvice:
    """Whether a trial should stop; true in a condition when it should."""

    should_stop: bool = False
    cause: StopCause | None = None
    detail: str = ""

    def __bool__(self) -> bool:
        return self.should_stop


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a training job measured."""

    metrics: dict[str, float]
    _: KW_ONLY
    standard_errors: dict[str, float] = field(default_factory=dict)
    step: int | None = None
    """How far the training was, in the unit of the job's choice."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model expected of a suggestion, on the scale of the metric."""

    mean: float
    standard_deviation: float


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Where a trial's parameters came from."""

    source: Source
    predictions: dict[str, Prediction]
    """By objective, and by constrained metric where the model predicts it; empty unless `source` is MODEL."""
    detail: str


@dataclass(frozen=True, slots=True)
class TrialCounts:
    """Number of trials in each state."""

    waiting: int
    running: int
    succeeded: int
    infeasible: int
    failed: int
    pruned: int
    expired: int

    @property
    def started(self) -> int:
        """Trials that run or have ended with a word from their worker: all but WAITING and EXPIRED ones."""
        return self.running + self.ended

    @property
    def ended(self) -> int:
        """Trials that have ended with a word from their worker."""
        return self.succeeded + self.infeasible + self.failed + self.pruned


@dataclass(frozen=True, slots=True)
class FinishedTrial:
    """A trial that was evaluated elsewhere, for `Study.import_trials`."""

    params: Mapping[str, ParameterValue]
    metrics: Mapping[str, float] = field(default_factory=dict)
    _: KW_ONLY
    state: TrialState = TrialState.SUCCEEDED
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    intermediate: Sequence[Measurement] = ()
    reason: str = ""
    worker: str = ""
    notes: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], space: Space | None = None) -> FinishedTrial:
        """The trial of a row of `Study.to_dicts()` or of a data frame made from it; columns that are None, NaN or unknown
        are passed over. With a space, numbers that a data frame made floats for the sake of gaps are what they were.
        """
        row = {key: value for key, value in row.items() if not _missing(value)}
        step = row.get("step")

        def under(prefix: str) -> dict[str, Any]:
            return {key.removeprefix(prefix): value for key, value in row.items() if key.startswith(prefix)}

        return cls(
            {name: restored(value, (space or {}).get(name)) for name, value in under("params.").items()},
            under("metrics."),
            state=TrialState(row.get("state") or TrialState.SUCCEEDED),
            standard_errors=under("standard_errors."),
            step=int(step) if isinstance(step, float) and step.is_integer() else step,
            reason=row.get("reason") or "",
            worker=row.get("worker") or "",
            notes=row.get("notes") or "",
            labels=under("labels."),
        )


class StudyRecord:
    """A study as it was at `revision`."""

    def __init__(self, proto: study_pb2.Study) -> None:
        self._proto = proto
        self._spec: StudySpec | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}>"

    @property
    def proto(self) -> study_pb2.Study:
        """The whole message behind the snapshot."""
        return self._proto

    @property
    def name(self) -> str:
        """`projects/{project}/studies/{study}`."""
        return self._proto.name

    @property
    def id(self) -> str:
        """The last segment of the name."""
        return StudyName.parse(self._proto.name).study

    @property
    def spec(self) -> StudySpec:
        """What the study searches, and how."""
        if self._spec is None:
            self._spec = spec_from_proto(self._proto.spec)
        return self._spec

    @property
    def state(self) -> StudyState:
        """Whether trials can be asked for."""
        return _member(StudyState, study_pb2.Study.State, self._proto.state, StudyState.UNKNOWN)

    @property
    def state_reason(self) -> str:
        """Why the study is not ACTIVE, for people."""
        return self._proto.state_reason

    @property
    def description(self) -> str:
        """Free text."""
        return self._proto.description

    @property
    def labels(self) -> dict[str, str]:
        """Label by key."""
        return dict(self._proto.labels)

    @property
    def revision(self) -> int:
        """Grows by one with each change to the study or its trials."""
        return self._proto.revision

    @property
    def trial_counts(self) -> TrialCounts:
        """Number of trials in each state."""
        c = self._proto.trial_counts
        return TrialCounts(c.waiting, c.running, c.succeeded, c.infeasible, c.failed, c.pruned, c.expired)

    @property
    def create_time(self) -> datetime | None:
        """When the study was created."""
        return _time(self._proto, "create_time")

    @property
    def update_time(self) -> datetime | None:
        """When the study or one of its trials last changed."""
        return _time(self._proto, "update_time")


class TrialRecord:
    """A trial as it was at `revision`."""

    def __init__(self, proto: trial_pb2.Trial, space: Space) -> None:
        self._proto = proto
        self._params = point_from_proto(proto.parameters, space)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.number} {self.state} {self._params}>"

    @property
    def proto(self) -> trial_pb2.Trial:
        """The whole message behind the snapshot."""
        return self._proto

    @property
    def name(self) -> str:
        """`projects/{project}/studies/{study}/trials/{number}`."""
        return self._proto.name

    @property
    def number(self) -> int:
        """The trial's number in its study, from 1."""
        return TrialName.parse(self._proto.name).number

    @property
    def params(self) -> dict[str, ParameterValue]:
        """A value for each active parameter, in the order of the space."""
        return dict(self._params)

    @property
    def state(self) -> TrialState:
        """Where the trial is in its life."""
        return _member(TrialState, trial_pb2.Trial.State, self._proto.state, TrialState.UNKNOWN)

    @property
    def state_reason(self) -> str:
        """Why it is there, for people."""
        return self._proto.state_reason

    @property
    def measurement(self) -> Measurement | None:
        """The final measurement; for a PRUNED trial the last one, if there is any."""
        return _measurement(self._proto.measurement) if self._proto.HasField("measurement") else None

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the final measurement; empty before it."""
        return dict(self._proto.measurement.metrics)

    @property
    def intermediate(self) -> list[Measurement]:
        """The measurements reported, by step. Empty in a trial that was listed without `full=True`."""
        return [_measurement(measurement) for measurement in self._proto.intermediate_measurements]

    @property
    def suggestion(self) -> Suggestion:
        """Where the parameters came from, and what the model expected of them."""
        s = self._proto.suggestion
        source = _member(Source, trial_pb2.Suggestion.Source, s.source, Source.UNKNOWN)
        predictions = {name: Prediction(p.mean, p.standard_deviation) for name, p in s.predictions.items()}
        return Suggestion(source, predictions, s.detail)

    @property
    def worker(self) -> str:
        """Who evaluates it, as given to `ask`."""
        return self._proto.worker

    @property
    def leased(self) -> bool:
        """Whether the trial had a lease, which heartbeats renew."""
        return self._proto.HasField("lease_expire_time")

    @property
    def lease_expire_time(self) -> datetime | None:
        """When the trial becomes EXPIRED unless a sign of life comes first. None means never."""
        return _time(self._proto, "lease_expire_time")

    @property
    def attempt(self) -> int:
        """1 for the first evaluation of these parameters, one more for each retry."""
        return self._proto.attempt

    @property
    def retry_of(self) -> int | None:
        """Number of the EXPIRED trial that this one repeats."""
        return self._proto.retry_of if self._proto.HasField("retry_of") else None

    @property
    def notes(self) -> str:
        """Free text."""
        return self._proto.notes

    @property
    def labels(self) -> dict[str, str]:
        """Label by key."""
        return dict(self._proto.labels)

    @property
    def revision(self) -> int:
        """The study's revision at the trial's last change."""
        return self._proto.revision

    @property
    def create_time(self) -> datetime | None:
        """When the trial was created."""
        return _time(self._proto, "create_time")

    @property
    def start_time(self) -> datetime | None:
        """When it was given to a worker."""
        return _time(self._proto, "start_time")

    @property
    def end_time(self) -> datetime | None:
        """When it ended."""
        return _time(self._proto, "end_time")

    @property
    def duration(self) -> timedelta | None:
        """From start to end; None before the end."""
        start, end = self.start_time, self.end_time
        return end - start if start is not None and end is not None else None


def advice_from_proto(should_stop: bool, advice: study_service_pb2.StopAdvice) -> StopAdvice:
    """The answer to a report or a heartbeat."""
    if not should_stop:
        return StopAdvice()
    cause = _member(StopCause, study_service_pb2.StopAdvice.Cause, advice.cause, StopCause.OTHER)
    return StopAdvice(should_stop=True, cause=cause, detail=advice.detail)


def advice_from_error(error: AskTellError) -> StopAdvice:
    """What a refused heartbeat means: the trial does not run any more."""
    expired = error.metadata.get("state") == TrialState.EXPIRED
    cause = StopCause.TRIAL_EXPIRED if expired else StopCause.OTHER
    return StopAdvice(should_stop=True, cause=cause, detail=str(error))


def _missing(value: object) -> bool:
    """Whether a data frame means nothing by a cell: None, NaN, pandas' NA or NaT."""
    if isinstance(value, float):
        return math.isnan(value)
    return value is None or type(value).__name__ in {"NAType", "NaTType"}


def rows(spec: StudySpec, trials: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """The trials as flat rows that all have the same columns; see `Study.to_dicts`."""
    listed = list(trials)
    metrics = list(dict.fromkeys([*spec.objectives, *(name for t in listed for name in sorted(t.metrics))]))
    errors = sorted({name for t in listed for name in t.proto.measurement.standard_errors})
    labels = sorted({name for t in listed for name in t.proto.labels})
    return [_row(t, spec, metrics, errors, labels) for t in listed]


def _row(
    trial: TrialRecord, spec: StudySpec, metrics: list[str], errors: list[str], labels: list[str]
) -> dict[str, Any]:
    params, measured = trial.params, trial.measurement or Measurement({})
    return {
        "number": trial.number,
        "state": str(trial.state),
        **{f"params.{name}": params.get(name) for name in spec.space},
        **{f"metrics.{name}": measured.metrics.get(name) for name in metrics},
        **{f"standard_errors.{name}": measured.standard_errors.get(name) for name in errors},
        "step": measured.step,
        "source": str(trial.suggestion.source),
        "worker": trial.worker,
        "attempt": trial.attempt,
        "reason": trial.state_reason,
        "notes": trial.notes,
        **{f"labels.{name}": trial.labels.get(name) for name in labels},
        "create_time": trial.create_time,
        "start_time": trial.start_time,
        "end_time": trial.end_time,
    }


def _measurement(proto: trial_pb2.Measurement) -> Measurement:
    step = proto.step if proto.HasField("step") else None
    return Measurement(dict(proto.metrics), standard_errors=dict(proto.standard_errors), step=step)


def _member(kind: type[_E], wire: Any, number: int, unknown: _E) -> _E:
    members = kind.__members__
    names: dict[int, str] = {value: name for name, value in wire.items()}
    return members.get(names.get(number, ""), unknown)


def _time(proto: Any, name: str) -> datetime | None:
    if not proto.HasField(name):
        return None
    stamp: Timestamp = getattr(proto, name)
    return stamp.ToDatetime(tzinfo=UTC)
