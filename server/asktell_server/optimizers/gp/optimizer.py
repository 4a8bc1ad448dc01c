"""The Gaussian-process optimizer as the server knows it: what precedes the model, and what happens when it fails.

The first trials are the default point (parameters without a default in the middle of their range), points at which source
studies were best, and then Sobol points, until `initial_points` trials have ended and one has succeeded. From then on the model
chooses. torch takes seconds to import, so that happens at the first ask that needs the model, in a compute process, not here.

When the numerics fail, step by step: jitter on the diagonal (safe_math.py), hyperparameters of the prior instead of fitted ones
(metric.py), the quasi-random fallback, which names the cause.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource, TrialState
from asktell_server.optimizers.base import Observation, Proposal, SourceStudy
from asktell_server.optimizers.design import MAX_ENUMERATED, DesignedOptimizer, Taken
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.gp.foreign import best_points

if TYPE_CHECKING:
    from asktell_server.optimizers.gp.study_model import StudyModel

LEAST_SUCCEEDED = 1
ENUMERATED = 2048
MAX_CAUSE = 300
BEST_OF_SOURCES = 2
"""Points of the initial design from one or two sources; of more each gives one, up to twice this."""


class GpAsk(DesignedOptimizer):
    """Bayesian optimisation with the models of this package."""

    uses_results = True
    explains = True
    exhausts = True

    def __init__(self, spec: StudySpec, sources: Sequence[SourceStudy] = (), device: FitDevice | None = None) -> None:
        """`device`: where large fits run; on the CPU without."""
        super().__init__(spec)
        assert isinstance(spec.algorithm, GpOptimizer)
        self.settings = spec.algorithm
        self.sources = sources
        self._device = device
        self._finished = 0
        self._succeeded: list[Observation] = []
        self._untold: list[Observation] = []
        self._model: StudyModel | None = None

    @property
    def initial_points(self) -> int:
        """Number of trials that precede the model: half the number of dimensions and 2, within 4 and 7.

        The model's average over hyperparameters is unsure enough of itself to go on exploring, and looks where it pays.
        """
        return self.settings.initial_points or max(4, min(self.encoding.dimensions + 4, 14) // 2)

    @cached_property
    def _of_sources(self) -> list[tuple[Point, str]]:
        """What the initial design takes from sources: points that were good there, with the sources' names."""
        count = max(BEST_OF_SOURCES, min(len(self.sources), 2 * BEST_OF_SOURCES))
        return best_points(self.spec, self.encoding, self.sources, count)

    def tell(self, observations: Sequence[Observation]) -> None:
        """Adds finished trials to the end of the history."""
        super().tell(observations)
        self._untold.extend(observations)
        self._finished += len(observations)
        self._succeeded += [o for o in observations if o.state is TrialState.SUCCEEDED]

    def warm_up(self) -> None:
        """Imports torch and the engine."""
        importlib.import_module("asktell_server.optimizers.gp.study_model")

    def needs_model(self) -> bool:
        """Whether the initial design is over; never if there is nothing to choose."""
        least = min(LEAST_SUCCEEDED, self.initial_points)
        enough = self._finished >= self.initial_points and len(self._succeeded) >= least
        return enough and self.spec.space.cardinality != 1

    def prepare(self) -> bool:
        """Does one piece of the work that the next asks will need; False if there is none left."""
        if not self.needs_model():
            return False
        from asktell_server.optimizers.safe_math import NumericalError, numerics

        try:
            with numerics():
                return self._up_to_date().prepare()
        except NumericalError:
            return False

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """A point of the initial design, then the one that promises most among those that are not taken."""
        taken = self.taken(pending)
        self.require_room(taken)
        if not self.needs_model():
            center = self._center()
            if center not in taken:
                return Proposal(Suggestion(center, SuggestionSource.INITIAL_DESIGN, detail=self._of_center()))
            for point, study in self._of_sources:
                if point not in taken:
                    return Proposal(
                        Suggestion(point, SuggestionSource.INITIAL_DESIGN, detail=f"best of study {study!r}")
                    )
            return Proposal(Suggestion(self.sobol_point(number, taken), SuggestionSource.INITIAL_DESIGN))
        from asktell_server.optimizers.safe_math import NumericalError, numerics

        try:
            with numerics():
                return self._modelled(number, pending, taken)
        except NumericalError as error:
            cause = f"the model failed: {error}"[:MAX_CAUSE]
            return Proposal(self.fallback(number, pending, cause), shortfall="numerical")

    def explain(self, request: ExplainRequest) -> Explanation:
        """What the models of objectives and constraints have learned, from the first ask on that they answer."""
        if not self.needs_model():
            raise NoModel(
                "study",
                f"there is no model before {self.initial_points} trials have ended, of which "
                f"{min(LEAST_SUCCEEDED, self.initial_points)} with a result, in a space of more than one point; "
                f"{self._finished} have ended, {len(self._succeeded)} with a result",
            )
        from asktell_server.optimizers.gp.explain import explain
        from asktell_server.optimizers.gp.explainable import models_of
        from asktell_server.optimizers.safe_math import NumericalError, numerics

        try:
            with numerics():
                model = self._up_to_date()
                return explain(self.spec, model.cube, models_of(model), self._succeeded, request)
        except NumericalError as error:
            raise NoModel("study", f"the model failed: {error}"[:MAX_CAUSE]) from error

    def _center(self) -> Point:
        # Defaults as they are: from a code they may come back rounded.
        parameters = zip(self.spec.space.parameters, self.encoding.columns, strict=True)
        return self.spec.space.restricted(
            {p.name: column.value(0.5) if p.default is None else p.default for p, column in parameters}
        )

    def _of_center(self) -> str:
        if self.spec.space.default_point is not None:
            return "default point"
        return "default values, and the middle of the range where there is none"

    def use(self, model: StudyModel) -> None:
        """Takes this model, new and of the same spec, in place of the one it would make. For experiments."""
        self._model = model

    def _up_to_date(self) -> StudyModel:
        from asktell_server.optimizers.gp.study_model import StudyModel

        if self._model is None:
            self._model = StudyModel(self.spec, self.encoding, sources=self.sources, device=self._device)
        self._model.tell(self._untold)
        self._untold = []
        return self._model

    def _few_are_left(self, taken: Taken) -> bool:
        """Whether the points that are not taken can be listed and are at most ENUMERATED: then each of them is looked at."""
        cardinality = self.spec.space.cardinality
        if cardinality is None or cardinality > MAX_ENUMERATED:
            return False
        spare = cardinality - ENUMERATED
        return spare <= 0 or taken.count(spare) >= spare

    def _modelled(self, number: int, pending: Sequence[Point], taken: Taken) -> Proposal:
        free = self.encoding.encode_all(self.free_points(taken)) if self._few_are_left(taken) else None

        def is_taken(units: Array) -> bool:
            return self.encoding.decode(units) in taken

        choice = self._up_to_date().choose(number, pending, is_taken, free)
        if choice is None:
            cause = "the model found no point that is not taken"
            return Proposal(self.fallback(number, pending, cause), shortfall="no_free_point")
        point = self.encoding.decode(np.asarray(choice.units))
        suggestion = Suggestion(point, SuggestionSource.MODEL, choice.predictions, choice.detail)
        return Proposal(suggestion, dict(choice.phases_s), "simpler_model" if choice.is_simpler else "")
