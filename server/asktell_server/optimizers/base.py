"""What an optimizer is: the interface, its duties, and the history it learns from.

An optimizer proposes points for one study. It is a pure function: the same spec, the same observations in the same order,
the same pending points and the same trial number give the same suggestion, bit for bit, in any process, whether the
observations came one by one or all at once. Nothing but these arguments may enter: no clock, no global randomness.

Order of observations: by (`finish_revision`, `number`) of their trials, which only ever grows at the end. An
implementation may therefore keep state across `tell` calls as long as the result is the same as that of a fresh instance.

Threads: an instance is used by one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, TrialState


@dataclass(frozen=True)
class Observation:
    """A finished trial as an optimizer sees it.

    `state` is one of the four result states. `measurement` holds every objective when SUCCEEDED, may be there when PRUNED
    (the last one before the trial was stopped, possibly without an objective), and is None otherwise.
    """

    number: int
    point: Point
    state: TrialState
    measurement: Measurement | None = None


@dataclass(frozen=True)
class Proposal:
    """A suggestion and how long its parts took, in seconds, by phase: "fit", "acquisition"."""

    suggestion: Suggestion
    phases_s: dict[str, float] = field(default_factory=dict)


class Optimizer(ABC):
    """Proposes points for one study; see the head of this module for the duties."""

    uses_results: ClassVar[bool]
    """Whether a suggestion can depend on measurements. If not, a suggestion made ahead stays valid when results come in."""

    def __init__(self, spec: StudySpec) -> None:
        self.spec = spec

    @abstractmethod
    def tell(self, observations: Sequence[Observation]) -> None:
        """Adds finished trials to the end of the history. Cheap: nothing is fitted here."""

    def warm_up(self) -> None:  # noqa: B027 (most optimizers have nothing to load)
        """Loads what the first slow `ask` would otherwise have to load. Called in a compute process."""

    @abstractmethod
    def needs_model(self) -> bool:
        """Whether the next `ask` may take long: a model is fitted or searched. If not, it takes microseconds."""

    @abstractmethod
    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """The suggestion for trial `number` while `pending` points are being evaluated.

        The point lies in the space and equals no observed or pending one while the space has room. Predictions are on the
        scale of the metric (not negated). Raises SearchSpaceExhausted if the algorithm has no point left to propose.
        """

    @abstractmethod
    def fallback(self, number: int, pending: Sequence[Point], cause: str) -> Suggestion:
        """A quasi-random suggestion, in microseconds, with source FALLBACK and `cause` as its detail."""
