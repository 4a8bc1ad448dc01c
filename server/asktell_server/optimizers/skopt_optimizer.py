"""scikit-optimize as an optimizer of this server: which points it starts from, what it learns from, and when it may not.

The initial design (default point, then Sobol points) lasts until `initial_points` trials have a result and one of them
succeeded. From then on each ask builds a fresh model of the whole history (skopt_model.py), so that a suggestion depends on
nothing but its arguments. The model sees a single objective that is to be minimised:

    succeeded            its objective, negated if it is to be maximised
    pruned               the objective in its last measurement; without one as failed
    failed, infeasible   the worst objective of a succeeded trial so far
    pending              the best objective of a succeeded trial so far: the constant liar "cl_min" [1]_, in the same one fit

and of more than `max_observations` finished trials the best half of that number and the latest of the rest. If the numerics
of skopt or scikit-learn fail, the fallback answers and names the cause.

skopt and scikit-learn take seconds to import: that happens at the first ask that needs a model, not here.

.. [1] D. Ginsbourger, R. Le Riche, L. Carraro. Kriging is well-suited to parallelize optimization. In: Computational
   Intelligence in Expensive Optimization Problems, Springer (2010).
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np

from asktell_server.domain.algorithms import SkoptOptimizer
from asktell_server.domain.space import Point, frozen_point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Prediction, Suggestion, SuggestionSource, TrialState
from asktell_server.optimizers.base import Observation, Proposal
from asktell_server.optimizers.design import DesignedOptimizer, Stream, Taken, generator
from asktell_server.optimizers.encoding import Array

OTHERS = 256
NEIGHBOURHOOD = 0.05
MAX_CAUSE = 300


class SkoptAsk(DesignedOptimizer):
    """Sequential model-based optimisation of one objective."""

    uses_results = True

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, SkoptOptimizer)
        self.settings = spec.algorithm
        self._history: list[Observation] = []
        self._succeeded = False

    @property
    def initial_points(self) -> int:
        """Number of results that the initial design must bring."""
        return self.settings.initial_points or max(5, min(2 * self.encoding.dimensions, 20))

    def tell(self, observations: Sequence[Observation]) -> None:
        """Adds finished trials to the end of the history."""
        super().tell(observations)
        self._history.extend(observations)
        self._succeeded = self._succeeded or any(o.state is TrialState.SUCCEEDED for o in observations)

    def warm_up(self) -> None:
        """Imports skopt and scikit-learn."""
        importlib.import_module("asktell_server.optimizers.skopt_model")

    def needs_model(self) -> bool:
        """Whether the initial design is over; never if there is nothing to choose."""
        return self._succeeded and len(self._history) >= self.initial_points and self.spec.space.cardinality != 1

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """A point of the initial design, then the maximum of the acquisition function among those that are not taken."""
        taken = self.taken(pending)
        if not self.needs_model():
            default = self.untried_default(taken)
            if default is not None:
                return Proposal(Suggestion(default, SuggestionSource.INITIAL_DESIGN, detail="default point"))
            return Proposal(Suggestion(self.sobol_point(number, taken), SuggestionSource.INITIAL_DESIGN))
        from asktell_server.optimizers.skopt_model import numerics

        try:
            with numerics():
                return self._modelled(number, pending, taken)
        except (ValueError, ArithmeticError) as error:
            # What LinAlgError, a matrix with NaN, and an overflow are; SkoptModel raises nothing else.
            cause = f"the model failed: {type(error).__name__}: {error}"[:MAX_CAUSE]
            return Proposal(self.fallback(number, pending, cause), shortfall="numerical")

    def _modelled(self, number: int, pending: Sequence[Point], taken: Taken) -> Proposal:
        from asktell_server.optimizers.skopt_model import SkoptModel

        points, y = self._training_data(pending)
        rng = generator(self.spec.seed, number, Stream.MODEL)
        model = SkoptModel(self.encoding, self.settings, self.encoding.encode_all(points), y, rng)
        detail = f"{self.settings.base_estimator.value}, {model.acquisition}"
        point: Point = self.encoding.decode(model.maximum())
        if point in taken:
            others = self._others(number, point, taken, rng)
            if others:
                point = others[int(np.argmax(model.scores(self.encoding.encode_all(others))))]
                detail += f"; its maximum is taken: best of {len(others)} other points"
            else:
                detail += "; every point is taken"
        # To be read as the objective: y is negated if that is to be maximised.
        objective = self.spec.objective
        mean, deviation = model.prediction(self.encoding.encode(point))
        prediction = Prediction(objective.sign * mean, deviation)
        suggestion = Suggestion(point, SuggestionSource.MODEL, {objective.metric: prediction}, detail)
        return Proposal(suggestion, model.phases_s)

    def _training_data(self, pending: Sequence[Point]) -> tuple[list[Point], Array]:  # n points, (n,)
        objective = self.spec.objective
        known = [
            objective.sign * o.measurement.metrics[objective.metric]
            for o in self._history
            if o.state is TrialState.SUCCEEDED and o.measurement is not None
        ]
        best, worst = min(known), max(known)
        y = [self._value(observation, worst) for observation in self._history]
        kept = kept_observations(y, self.settings.max_observations)
        liars = pending[-self.settings.max_observations :]
        points = [self._history[i].point for i in kept] + list(liars)
        return points, np.array([y[i] for i in kept] + [best] * len(liars), dtype=np.float64)

    def _value(self, observation: Observation, worst: float) -> float:
        objective, measurement = self.spec.objective, observation.measurement
        counts = observation.state in (TrialState.SUCCEEDED, TrialState.PRUNED)
        if counts and measurement is not None and objective.metric in measurement.metrics:
            return objective.sign * measurement.metrics[objective.metric]
        return worst

    def _others(self, number: int, point: Point, taken: Taken, rng: np.random.Generator) -> list[Point]:
        """Distinct points that are not taken: neighbours of `point`, points anywhere, the Sobol point; empty if full."""
        if self.is_full(taken):
            return []
        near = self.encoding.encode(point) + NEIGHBOURHOOD * rng.standard_normal((OTHERS, self.encoding.dimensions))
        anywhere = rng.random((OTHERS, self.encoding.dimensions))
        points: list[Point] = [self.encoding.decode(code) for code in np.vstack([np.clip(near, 0.0, 1.0), anywhere])]
        points.append(self.sobol_point(number, taken))
        free = {frozen_point(other): other for other in points if other not in taken}
        return list(free.values())


def kept_observations(
    y: Sequence[float],  # n values, smaller is better
    limit: int,
) -> list[int]:
    """Which of the n observations to learn from, in their order: the best limit // 2, and the latest of the others."""
    if len(y) <= limit:
        return list(range(len(y)))
    by_value = sorted(range(len(y)), key=lambda i: (y[i], i))
    best, others = by_value[: limit // 2], sorted(by_value[limit // 2 :])
    return sorted(best + others[-(limit - limit // 2) :])
