"""BoTorch's standard recipes, as its tutorials and documentation give them.

The model is SingleTaskGP with its defaults (inputs in the unit cube, standardised outcomes; an RBF kernel with a
dimension-scaled log-normal prior, Hvarfner et al. 2024), or MixedSingleTaskGP where there are categoricals; a design of
2 d Sobol points, at least 5 and at most 20, comes first.

    one objective           LogEI one after the other, qLogEI with X_pending in parallel, qLogNEI if noisy (Ament et al. 2023)
    with constraints        qLogEI with a model for each constraint
    several objectives      qLogNEHVI; the reference point, which the tutorials take as known, is the worst value seen of each objective.
                            (`infer_reference_point` keeps close to the front: a front of a point or two then hardly grows.)

Acquisition functions are optimised by `optimize_acqf` with 10 restarts and 512 raw samples, and over discrete parameters by
`optimize_acqf_mixed_alternating` with half of each, since it takes seconds a restart. Conditional spaces are flattened.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from botorch.acquisition.analytic import LogExpectedImprovement
from botorch.acquisition.logei import qLogExpectedImprovement, qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.acquisition.objective import GenericMCObjective
from botorch.fit import fit_gpytorch_mll
from botorch.models import MixedSingleTaskGP, ModelListGP, SingleTaskGP
from botorch.optim import optimize_acqf
from botorch.optim.optimize_mixed import optimize_acqf_mixed_alternating
from botorch.utils.sampling import draw_sobol_samples
from gpytorch.mlls import ExactMarginalLogLikelihood, SumMarginalLogLikelihood

from .. import space as spaces
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Parameter, Point, Value

RESTARTS = 10
RAW_SAMPLES = 512
DENSE = 100  # an int with more values than this is searched as a float and rounded


def _values(p: Parameter) -> list[Value]:
    return list(p.choices) if p.kind == "ordinal" else list(range(int(p.low), int(p.high) + 1))


def _column(p: Parameter, value: Value) -> float:
    """A value as the models see it: the number of a choice, or the place between the least and the largest value, 0 to
    1.
    """
    if p.kind == "categorical":
        return float(p.choices.index(value))
    number = float(value)
    if p.log:
        return math.log(number / p.low) / math.log(p.high / p.low)
    return (number - p.low) / (p.high - p.low)


def _value(p: Parameter, x: float) -> Value:
    """`_column` backwards, to the nearest value."""
    if p.kind == "categorical":
        return p.choices[round(x)]
    if p.kind == "float":
        return p.decode(x)
    if p.cardinality <= DENSE:
        return min(_values(p), key=lambda value: abs(_column(p, value) - x))
    real = p.low * (p.high / p.low) ** x if p.log else p.low + x * (p.high - p.low)
    return round(min(max(real, p.low), p.high))


class BoTorch(Peer):
    """Columns of X are in the unit interval; a categorical's column holds the number of its choice."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(brief.seed)
        d = len(brief.space)
        self._x: list[list[float]] = []
        self._y: list[list[float]] = []  # values, negated, then slack
        self._initial = max(5, min(2 * d, 20))
        self._cats = {
            i: [float(k) for k in range(len(p.choices))] for i, p in enumerate(brief.space) if p.kind == "categorical"
        }
        self._discrete = {
            i: [_column(p, v) for v in _values(p)]
            for i, p in enumerate(brief.space)
            if p.kind in ("int", "ordinal") and p.cardinality <= DENSE
        }
        self._bounds = torch.zeros(2, d)
        for i, p in enumerate(brief.space):
            self._bounds[1, i] = len(p.choices) - 1 if p.kind == "categorical" else 1.0
        self._sobol = draw_sobol_samples(
            torch.stack([torch.zeros(d), torch.ones(d)]), n=self._initial, q=1, seed=brief.seed
        )[:, 0]

    def _row(self, point: Point) -> list[float]:
        return [_column(p, point[p.name]) for p in self.brief.space]

    def _point(self, row: list[float]) -> Point:
        return {p.name: _value(p, x) for p, x in zip(self.brief.space, row, strict=True)}

    def ask(self, number: int) -> Point:
        """A Sobol point, then the acquisition's optimum."""
        if number < self._initial or len(self._x) < 2:
            return spaces.from_unit(self.brief.space, self._sobol[number % self._initial].tolist())
        # (n, d) and (n, m)
        x, y = torch.tensor(self._x), torch.tensor(self._y)
        pending = torch.tensor([self._row(point) for point in self.pending.values()]) if self.pending else None
        model = self._fit(x, y)
        return self._point(self._optimum(self._acquisition(model, x, y, pending)).tolist())

    def _fit(self, x: Any, y: Any) -> Any:
        models = []
        for column in range(y.shape[1]):
            target = y[:, column : column + 1]
            models.append(
                MixedSingleTaskGP(x, target, cat_dims=list(self._cats)) if self._cats else SingleTaskGP(x, target)
            )
        if len(models) == 1:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(models[0].likelihood, models[0]))
            return models[0]
        model = ModelListGP(*models)
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        return model

    def _acquisition(self, model: Any, x: Any, y: Any, pending: Any) -> Any:
        k = len(self.brief.objectives)
        constraints = [lambda z, i=i: z[..., i] for i in range(k, y.shape[1])] or None
        if k > 1:
            return qLogNoisyExpectedHypervolumeImprovement(
                model,
                ref_point=y[:, :k].min(dim=0).values,
                X_baseline=x,
                objective=IdentityMCMultiOutputObjective(outcomes=list(range(k))) if constraints else None,
                constraints=constraints,
                X_pending=pending,
                prune_baseline=True,
            )
        if constraints:
            feasible = (y[:, 1:] <= 0).all(dim=1)
            best = y[feasible, 0].max() if feasible.any() else y[:, 0].min()
            return qLogExpectedImprovement(
                model,
                best_f=best,
                objective=GenericMCObjective(lambda z, X=None: z[..., 0]),  # noqa: ARG005, N803
                constraints=constraints,
                X_pending=pending,
            )
        if self.brief.noisy:
            return qLogNoisyExpectedImprovement(model, X_baseline=x, X_pending=pending, prune_baseline=True)
        if pending is None:
            return LogExpectedImprovement(model, best_f=y.max())
        return qLogExpectedImprovement(model, best_f=y.max(), X_pending=pending)

    def _optimum(self, acquisition: Any) -> Any:
        if self._cats or self._discrete:
            found, _ = optimize_acqf_mixed_alternating(
                acquisition,
                self._bounds,
                discrete_dims=self._discrete,
                cat_dims=self._cats,
                q=1,
                raw_samples=RAW_SAMPLES // 2,
                num_restarts=RESTARTS // 2,
            )
        else:
            found, _ = optimize_acqf(
                acquisition,
                self._bounds,
                q=1,
                num_restarts=RESTARTS,
                raw_samples=RAW_SAMPLES,
                options={"batch_limit": 5, "maxiter": 200},
            )
        return found[0]

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Keeps the result; the model is fitted when asked."""
        self.add(point, values, slack)

    def add(self, point: Point, values: list[float], slack: list[float]) -> None:
        """Keeps the result."""
        self._x.append(self._row(point))
        self._y.append([-value for value in values] + slack)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """BoTorch's, GPyTorch's and torch's."""
        return version("botorch", "gpytorch", "torch")


if __name__ == "__main__":
    serve(BoTorch)
