"""A trial: one evaluation of one point, its states, and the one table of the changes between them.

    WAITING ──ask──> RUNNING ──tell──> SUCCEEDED | INFEASIBLE | FAILED | PRUNED
       │                └──lease──> EXPIRED ──tell, late──> the same four
       └──superseded──> EXPIRED

An expired trial's parameters become WAITING again as a new trial, up to the retry limit; when the expired trial gets a
result after all, a retry that nobody has taken yet is superseded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import Point

SUPERSEDED = "superseded: "
"""How the state_reason of an EXPIRED trial begins if what it repeats got its result after all."""


class TrialState(Enum):
    """Where a trial is in its life."""

    WAITING = "WAITING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"
    PRUNED = "PRUNED"
    EXPIRED = "EXPIRED"

    # Members are singletons: their identity will do, and costs a fraction of Enum's own hash. Counts are kept by state.
    __hash__ = object.__hash__

    @property
    def has_result(self) -> bool:
        """Whether a trial in this state taught something: it can change no more."""
        return self in RESULT_STATES


RESULT_STATES = frozenset({TrialState.SUCCEEDED, TrialState.INFEASIBLE, TrialState.FAILED, TrialState.PRUNED})


class Transition(Enum):
    """What changes the state of a trial."""

    ASK = "ask"
    TELL = "tell"
    EXPIRE = "expire"
    SUPERSEDE = "supersede"


TRANSITIONS: Mapping[tuple[TrialState, Transition], frozenset[TrialState]] = {
    (TrialState.WAITING, Transition.ASK): frozenset({TrialState.RUNNING}),
    (TrialState.WAITING, Transition.SUPERSEDE): frozenset({TrialState.EXPIRED}),
    (TrialState.RUNNING, Transition.TELL): RESULT_STATES,
    (TrialState.RUNNING, Transition.EXPIRE): frozenset({TrialState.EXPIRED}),
    (TrialState.EXPIRED, Transition.TELL): RESULT_STATES,
}
# States in which a trial may begin, by what creates it.
INITIAL_BY_ASK = TrialState.RUNNING
INITIAL_BY_CREATE = frozenset({TrialState.WAITING}) | RESULT_STATES


def allowed_from(transition: Transition) -> list[TrialState]:
    """The states in which a transition is possible, in the order of a trial's life."""
    return [state for state in TrialState if (state, transition) in TRANSITIONS]


def may(state: TrialState, transition: Transition, target: TrialState) -> bool:
    """Whether `transition` may take a trial from `state` to `target`."""
    return target in TRANSITIONS.get((state, transition), frozenset())


class SuggestionSource(Enum):
    """Where a trial's parameters came from."""

    ENQUEUED = "ENQUEUED"
    INITIAL_DESIGN = "INITIAL_DESIGN"
    MODEL = "MODEL"
    FALLBACK = "FALLBACK"
    SAMPLER = "SAMPLER"
    IMPORTED = "IMPORTED"


@dataclass(frozen=True)
class Prediction:
    """What a model expected of a suggestion, on the scale of the metric."""

    mean: float
    standard_deviation: float


@dataclass(frozen=True)
class Suggestion:
    """A point to try, and why: its source and, from a model, the prediction for each objective."""

    point: Point
    source: SuggestionSource
    predictions: Mapping[str, Prediction] = field(default_factory=dict)
    detail: str = ""


@dataclass(frozen=True)
class Trial:
    """One trial as it stands at `revision` of its study.

    `is_cut` says that there are more intermediate measurements, after the last one here.
    `finish_revision` is the revision at which it got its result and never changes: with `number` it orders the history
    that optimizers see, live and after a restart alike.
    """

    number: int
    state: TrialState
    suggestion: Suggestion
    create_time: datetime
    state_reason: str = ""
    measurement: Measurement | None = None
    intermediate: tuple[Measurement, ...] = ()
    is_cut: bool = False
    worker: str = ""
    lease_expire_time: datetime | None = None
    attempt: int = 1
    retry_of: int | None = None
    notes: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    finish_revision: int | None = None
    start_time: datetime | None = None
    end_time: datetime | None = None

    def is_given_up(self, max_retries: int) -> bool:
        """Whether it was lost and will not be tried again: what was superseded needs no other try."""
        is_superseded = self.state_reason.startswith(SUPERSEDED)
        return self.state is TrialState.EXPIRED and self.attempt > max_retries and not is_superseded

    @property
    def point(self) -> Point:
        """The parameters to evaluate."""
        return self.suggestion.point
