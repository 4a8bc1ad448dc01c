"""What an optimizer is: the interface, its duties, and the history it learns from.

An optimizer proposes points for one study. It is a pure function: the same spec, the same source studies, the same
observations in the same order, the same pending points and the same trial number give the same suggestion, bit for bit, in
any process, whether the observations came one by one or all at once. Nothing but these arguments may enter: no clock, no
global randomness.

Order of observations: by (`finish_revision`, `number`) of their trials, which only ever grows at the end. An
implementation may therefore keep state across `tell` calls as long as the result is the same as that of a fresh instance.

Threads: an instance is used by one thread at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, TrialState


@dataclass(frozen=True)
class Observation:
    """A finished trial as an optimizer sees it.

    `state` is one of the four result states. `measurement` holds every objective and every constrained metric when
    SUCCEEDED, may be there when PRUNED (the last one before the trial was stopped, possibly without any of them), and is
    None otherwise.
    """

    number: int
    point: Point
    state: TrialState
    measurement: Measurement | None = None


@dataclass(frozen=True)
class SourceStudy:
    """An earlier study to learn from: its spec, its history in order up to the revision that is pinned, and its name."""

    spec: StudySpec
    observations: tuple[Observation, ...]
    name: str = ""


@dataclass(frozen=True)
class Proposal:
    """A suggestion and how long its parts took, in seconds, by phase: "fit", "acquisition".

    `shortfall` is why it is less than the algorithm promises: "numerical" (no model could answer), "simpler_model", or "no_free_point"
    (the search found none); empty if it is not.
    """

    suggestion: Suggestion
    phases_s: dict[str, float] = field(default_factory=dict)
    shortfall: str = ""


class Optimizer(ABC):
    """Proposes points for one study; see the head of this module for the duties."""

    uses_results: ClassVar[bool]
    """Whether a suggestion can depend on measurements. If not, a suggestion made ahead stays valid when results come in."""

    explains: ClassVar[bool] = False
    """Whether there can be a model to `explain`. If not, no compute process is asked for one."""

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

    def prepare(self) -> bool:
        """Does one piece of the work that the next asks will need, if there is any; returns whether there was.

        Called in a compute process that has nothing better to do, any number of times: no suggestion depends on it.
        """
        return False

    @abstractmethod
    def fallback(self, number: int, pending: Sequence[Point], cause: str) -> Suggestion:
        """A quasi-random suggestion, in microseconds, with source FALLBACK and `cause` as its detail.

        In a space without a free point it does what `ask` does: repeat one, or raise SearchSpaceExhausted.
        """

    def explain(self, request: ExplainRequest) -> Explanation:  # noqa: ARG002 (here there is nothing to explain)
        """What the model has learned from the history so far; may take seconds.

        A pure function of spec, source studies, history and request, which is free of violations. Asking for it changes no
        suggestion. Raises NoModel if the algorithm has no model, or too few results for one.
        """
        raise NoModel(
            "study",
            f"the algorithm {self.spec.algorithm_name} has no model to explain",
            {"algorithm": self.spec.algorithm_name},
        )
