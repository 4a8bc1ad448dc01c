"""One metric's posterior as explain.py asks for it: predictions on the metric's scale, results left out, functions drawn.

Functions are drawn at the rows of a and at those of ab, which differ in one column, and in what this activates. So of the
distances from a to everything only the part of the changed dimensions C is computed anew:

    sum_i r_i^2(p, q) = sum_i r_i^2(a_p, a_q) - sum_C r_i^2(a_p, a_q) + sum_C r_i^2(p, q)        p, q in a and ab, or q observed

and likewise for the sum of the one-dimensional terms of k. That costs O(N (N + n)) per parameter, whatever the dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from operator import mul

import numpy as np

from asktell_server.domain.objectives import OutcomeConstraint
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.calibration import deviation_factor, standardised_errors
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.explain import Sampler
from asktell_server.optimizers.gp.kernel import Features, Inputs, Layout, matern52
from asktell_server.optimizers.gp.posterior import Posterior, mixed
from asktell_server.optimizers.gp.study_model import StudyModel
from asktell_server.optimizers.gp.transform import LARGEST, Transform, cut
from asktell_server.optimizers.safe_math import cholesky

ELEMENTS = 2_000_000
"""One-dimensional terms of k that are held at once."""


def models_of(study: StudyModel) -> dict[str, ExplainablePosterior]:
    """The model of each objective and constraint, by metric. Raises NumericalError."""
    found = {}
    for objective, model in zip(study.spec.objectives, study.objectives, strict=True):
        found[objective.metric] = ExplainablePosterior(
            study.cube, study.layout, *model.even_handed().posterior(), partial(mul, objective.sign)
        )
    for constraint, model in zip(study.spec.constraints, study.constraints, strict=True):
        found[constraint.metric] = ExplainablePosterior(
            study.cube, study.layout, *model.even_handed().posterior(), partial(_kept, constraint)
        )
    return found


def _kept(constraint: OutcomeConstraint, violation: float) -> float:
    """The metric's value at which a bound is broken by so much."""
    if constraint.max is not None:
        return constraint.max + violation
    return (constraint.min or 0.0) - violation


class ExplainablePosterior:
    """An `ExplainableModel`. `restore` turns what the transform gives back, smaller being better, into the metric."""

    def __init__(
        self,
        cube: Cube,
        layout: Layout,
        posterior: Posterior,
        transform: Transform,
        restore: Callable[[float], float],
    ) -> None:
        self._cube, self._layout = cube, layout
        self._posterior, self._transform, self._restore = posterior, transform, restore
        self._factor = deviation_factor(standardised_errors(posterior))

    def predict(self, codes: Array) -> tuple[Array, Array]:  # (m, d) -> (m,), (m,)
        """Mean and standard deviation of the metric without noise; over hyperparameter sets, those of the mixture."""
        found = []
        step = max(1, ELEMENTS // (len(self._posterior.geometry) * max(1, self._layout.size)))
        for start in range(0, len(codes), step):
            mean, variance = self._posterior.predict(_inputs(self._cube, self._layout, codes[start : start + step]))
            center, spread = mixed(mean, variance)
            for z, deviation in zip(center.tolist(), np.sqrt(spread).tolist(), strict=True):
                value, uncertainty = self._transform.prediction(z, deviation)
                found.append((self._restore(value), cut(self._factor * uncertainty)))
        values = np.array(found).reshape(-1, 2)
        return np.clip(values[:, 0], -LARGEST, LARGEST), values[:, 1]

    def leave_one_out(self) -> tuple[Array, Array, Array]:  # (n,), (n,), (n,)
        """The results that the posterior rests on, standardised; mean and deviation of each given all others."""
        mean, variance = self._posterior.leave_one_out()
        center, spread = mixed(mean, variance)
        y = self._posterior.y[0]
        unit = float(y.std()) or 1.0
        middle = y.mean()
        return (y - middle) / unit, (center - middle) / unit, np.sqrt(spread) / unit

    def sampler(self, base: Array) -> Sampler:  # (N, d)
        """See the head of this module. Results that are all alike have no causes: the functions are flat."""
        y = self._posterior.y
        if (y == y[:, :1]).all():
            return _flat
        return _Around(self._cube, self._posterior, base).draw


def _flat(changed: Array, count: int, _: np.random.Generator) -> tuple[Array, Array]:
    """Functions that are 0 everywhere: what would be drawn from the prior is ignorance, not what the results say."""
    values = np.zeros((count, len(changed)))
    return values, values


def _inputs(cube: Cube, layout: Layout, codes: Array) -> Inputs:
    canonical, active = cube.canonical(codes.copy())
    return Inputs.of(layout, canonical, active)


class _Around:
    """Functions drawn at the rows of a, and at rows that differ from them in few dimensions."""

    def __init__(self, cube: Cube, posterior: Posterior, base: Array) -> None:
        self._cube, self._posterior = cube, posterior
        geometry = posterior.geometry
        self._kernel, self._theta, self._observed = geometry.kernel, geometry.theta, geometry.features
        self._inputs = _inputs(cube, self._kernel.layout, base)
        self._base = self._kernel.features(self._theta, self._inputs)
        self._to_base = self._sums(self._base)
        self._to_observed = self._sums(self._observed)

    def draw(self, changed: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Values at a and at `changed` (N, d), each (count, N); the functions are shared out among the hyperparameter sets."""
        inputs = _inputs(self._cube, self._kernel.layout, changed)
        dimensions = self._changed_dimensions(inputs)
        rows = self._base.joined(self._kernel.features(self._theta, inputs))
        cross = self._covariance(dimensions, self._to_observed, rows, self._observed)
        own = self._covariance(dimensions, self._to_base, rows, rows)
        posterior = self._posterior
        mean = posterior.constant[:, None] + (cross @ posterior.alpha[:, :, None])[:, :, 0]
        if posterior.trend is not None:
            mean = mean + posterior.trend.value(self._inputs.joined(inputs))
        whitened = cross @ posterior.geometry.inverse_factor.mT
        factor = cholesky(own - whitened @ whitened.mT, self._kernel.variance(self._theta))
        sets = len(factor)
        normal = rng.standard_normal((sets, factor.shape[1], -(-count // sets)))
        values = (mean[:, None, :] + (factor @ normal).mT).reshape(-1, mean.shape[1])[:count]
        return values[:, : len(changed)], values[:, len(changed) :]

    def _changed_dimensions(self, inputs: Inputs) -> list[int]:
        before = self._inputs
        numeric = ((inputs.x != before.x) | (inputs.active != before.active)).any(axis=0)
        choices = (inputs.choice != before.choice).any(axis=0)
        found: list[int] = np.flatnonzero(np.concatenate([numeric, choices])).tolist()
        return found

    def _sums(self, other: Features) -> tuple[Array, Array]:  # 2 x (H, N, m)
        """Of the rows of a: the squared distance, and the sum of the one-dimensional terms of k."""
        r2 = np.zeros((len(self._theta), self._base.z.shape[1], other.z.shape[1]))
        single = np.zeros_like(r2)
        self._add(range(self._kernel.layout.size), r2, single, self._base, other)
        return r2, single

    def _covariance(
        self, dimensions: list[int], sums: tuple[Array, Array], rows: Features, other: Features
    ) -> Array:  # (H, 2 N, m), or (H, 2 N, 2 N) if `other` is `rows`
        """Covariance of all rows with `other`."""
        r2, single = (part.copy() for part in sums)
        self._add(dimensions, r2, single, self._base, self._base if other is rows else other, sign=-1.0)
        repeats = (1, 2, 2 if other is rows else 1)
        r2, single = np.tile(r2, repeats), np.tile(single, repeats)
        self._add(dimensions, r2, single, rows, other)
        scale, additive = np.exp(self._theta.scale)[:, None, None], np.exp(self._theta.additive)[:, None, None]
        return scale * matern52(np.maximum(r2, 0.0)) + additive / max(1, self._kernel.layout.size) * single

    def _add(
        self,
        dimensions: Iterable[int],
        r2: Array,  # (H, m, n)
        single: Array,  # (H, m, n)
        one: Features,
        other: Features,
        sign: float = 1.0,
    ) -> None:
        """Adds the part of some dimensions, or with sign -1 takes it away."""
        for i in dimensions:
            part = self._one_dimension(i, one, other)
            r2 += sign * part
            if self._kernel.is_additive:
                single += sign * matern52(part * float(self._kernel.layout.size))

    def _one_dimension(self, i: int, one: Features, other: Features) -> Array:  # (H, m, n)
        """r_i^2."""
        layout = self._kernel.layout
        if i >= layout.p:
            differs = one.inputs.choice[:, i - layout.p, None] != other.inputs.choice[None, :, i - layout.p]
            step: Array = np.exp(-2.0 * self._theta.lengthscale[:, i])[:, None, None] * differs
            return step
        columns = [i, *(layout.p + int(k) for k in np.flatnonzero(layout.conditional == i))]
        return sum((np.square(one.z[:, :, None, c] - other.z[:, None, :, c]) for c in columns), start=np.zeros(()))
