"""Several objectives: by how much a point is expected to enlarge the region that the Pareto front dominates.

The *hypervolume* of a front is the volume of what it dominates inside the box below a reference point. What no point of the front
dominates is cut into disjoint boxes (l, u]: strips for two objectives, otherwise the boxes that local upper bounds span [1]_. A new
outcome f gains from each box the part that lies above f, so for independent objectives [2]_ [3]_

    EHVI = sum over boxes of  prod_j  E max(u_j - f_j, 0) - E max(l_j - f_j, 0)

Each expectation is s h((edge - mean) / s) as in expected improvement, and all is done in logarithms, which keeps gradients alive
where no improvement is in sight [4]_. The front is that of the posterior means at the observed points, not of the measurements,
so that noise does not enter it: each hyperparameter set has a front of its own. And what may improve it is again a posterior mean,
that at the new point after its measurement: normal around the mean of now, with variance v^2 / (v + noise) where the outcome's is v
(as in knowledge-gradient policies [8]_). With v in its place the ends of a front would be measured again and again.

For two objectives and a front of K points there are K + 1 boxes, for three about 2 K, for four about 8 K; then they become too
many. With more than that the gain is the integral, over all corners c that no point dominates, of P(f <= c), and it is taken over
corners on random rays from the ideal point through the front: the improvement of random Chebyshev scalarisations [6]_ [7]_.

.. [1] R. Lacour, K. Klamroth, C. Fonseca. A box decomposition algorithm to compute the hypervolume indicator. Computers &
   Operations Research 79 (2017).
.. [2] K. Yang, M. Emmerich, A. Deutz, T. Baeck. Efficient computation of expected hypervolume improvement using box decomposition
   algorithms. Journal of Global Optimization 75 (2019).
.. [3] S. Daulton, M. Balandat, E. Bakshy. Parallel Bayesian optimization of multiple noisy objectives with expected hypervolume
   improvement. NeurIPS 2021.
.. [4] S. Ament et al. Unexpected improvements to expected improvement for Bayesian optimization. NeurIPS 2023.
.. [5] H. Ishibuchi, R. Imada, Y. Setoguchi, Y. Nojima. How to specify a reference point in hypervolume calculation for fair
   performance comparison. Evolutionary Computation 26 (2018).
.. [6] R. Zhang, D. Golovin. Random hypervolume scalarizations for provable multi-objective black box optimization. ICML 2020.
.. [7] A. Deutz, M. Emmerich, K. Yang. The expected R2-indicator improvement for multi-objective Bayesian optimization. EMO 2019.
.. [8] P. Frazier, W. Powell, S. Dayanik. The knowledge-gradient policy for correlated normal beliefs. INFORMS J. on Computing 21
   (2009).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.acquisition import Term
from asktell_server.optimizers.gp.kernel import Inputs
from asktell_server.optimizers.gp.posterior import Posterior, PosteriorAt
from asktell_server.optimizers.pareto import front
from asktell_server.optimizers.safe_math import log_h, log_ndtr, logsumexp

FAR = 0.5
"""Share of the asks that look from afar, see `reference_point`."""
BOXED = {2: 1000, 3: 150, 4: 40}
"""How many points of a front boxes are made for, by the number of objectives."""
RAYS = 24
DEPTHS = (0.01, 0.03, 0.1, 0.25, 0.5, 0.9)
"""Where on its way from the front to the ideal point a ray has corners."""
WEIGHTINGS = 64
MARGIN = 0.1
"""The reference point lies this much of the front's extent beyond its worst values."""
THINNEST = 1e-14
"""Boxes thinner than this, relative to the expectation at their upper edge, count as this thin."""


def reference_point(values: Array, *, is_far: bool) -> Array:  # (K, M) smaller is better, K >= 1 -> (M,)
    """A point worse than the worst of the front in each objective, or than the worst of all `values`, by some of the extent [5]_.

    From nearby the middle of the front counts most and the ends can hardly move; from afar the ends do.
    """
    everything = np.ptp(values, axis=0)
    reached = values if is_far else values[front(values)]
    extent = np.ptp(reached, axis=0)
    extent = np.where(extent > 1e-9 * everything, extent, everything)
    return np.asarray(reached.max(axis=0) + MARGIN * np.where(extent > 0, extent, 1.0))


def spread(values: Array, size: int) -> NDArray[np.intp]:  # (K, M) -> (k,)
    """Up to `size` rows of a front, far from each other: the best of each objective first, then always the farthest.

    Distances are those of the normalised objectives; the rule is that of Gonzalez 1985.
    """
    halves = 0.5 * values  # whose differences are finite
    extent = np.ptp(halves, axis=0)
    scaled = (halves - halves.min(axis=0)) / np.where(extent > 0, extent, 1.0)
    kept = list(dict.fromkeys(scaled.argmin(axis=0).tolist()))[:size]
    distance = np.min([np.square(scaled - scaled[i]).sum(axis=1) for i in kept], axis=0)
    while len(kept) < size and distance.max() > 0:
        kept.append(int(distance.argmax()))
        np.minimum(distance, np.square(scaled - scaled[kept[-1]]).sum(axis=1), out=distance)
    return np.array(kept)


def merit(values: Array) -> Array:  # (n, M) smaller is better -> (n,)
    """The best place that each result takes in any of WEIGHTINGS rankings, 0 being the first.

    They are by Chebyshev distance from the best, with random weights, on ranks, so that no scale matters.
    """
    n, objectives = values.shape
    ranks = np.argsort(np.argsort(values, axis=0, kind="stable"), axis=0, kind="stable") + 1.0
    weights = np.random.Generator(np.random.Philox(0)).dirichlet(np.ones(objectives), WEIGHTINGS)
    best = np.full(n, float(n))
    for weight in weights:
        order = np.argsort((ranks * weight).max(axis=1), kind="stable")
        best[order] = np.minimum(best[order], np.arange(n))
    return best


def hypervolume_improvement(
    posteriors: Sequence[Posterior],
    means: Sequence[Array],  # M x (H, k)
    rng: np.random.Generator,
    *,
    is_front: bool,
) -> Term:
    """The term for several objectives, given their means at the k points among which the front is.

    If there `is_front` not yet, the points only show what is bad: all that is below their worst values counts.
    """
    sets = max(len(mean) for mean in means)
    values = np.stack([np.broadcast_to(mean, (sets, mean.shape[1])) for mean in means], axis=2)
    is_far = bool(rng.random() < FAR) or not is_front
    references = [reference_point(own, is_far=is_far) for own in values]
    fronts = [own[front(own)] if is_front else own[:0] for own in values]
    if is_front and max(len(own) for own in fronts) > BOXED.get(len(means), 0):
        return LogChanceOfCorners(posteriors, *corners_of(fronts, references, rng))
    return LogExpectedHypervolumeImprovement(
        posteriors, Boxes.of([undominated_boxes(*pair) for pair in zip(fronts, references, strict=True)])
    )


def corners_of(
    fronts: Sequence[Array],  # H x (K_h, M)
    references: Sequence[Array],  # H x (M,)
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # (H, C, M), (C,)
    """Corners that no point dominates, on RAYS rays at DEPTHS each, and the logarithms of their weights.

    With weights w the ray is where w_j (c_j - ideal_j) is the same number t for all objectives; the front cuts it at the t of the
    best scalarisation max_j w_j (f_j - ideal_j). A step along the ray counts by its length in t, in units of that.
    """
    weights = np.maximum(rng.dirichlet(np.ones(references[0].shape[0]), RAYS), 1e-3)
    depths = np.array(DEPTHS)
    lengths = np.diff(np.concatenate([[0.0], 0.5 * (depths[1:] + depths[:-1]), [1.0]]))
    found = []
    for own, reference in zip(fronts, references, strict=True):
        ideal = own.min(axis=0)
        unit = (reference - ideal) / weights
        reached = ((own - ideal) / unit[:, None]).max(axis=2).min(axis=1)
        at = ideal + (reached[:, None] * (1.0 - depths))[:, :, None] * unit[:, None]
        found.append(at.reshape(-1, len(ideal)))
    return np.stack(found), np.tile(np.log(lengths), RAYS)


def undominated_boxes(points: Array, reference: Array) -> tuple[Array, Array]:  # (K, M), (M,) -> 2 x (B, M)
    """Disjoint boxes, lower and upper corners, that fill what is below `reference` and not dominated by any point.

    Lower corners may be at minus infinity.
    """
    points = points[(points < reference).all(axis=1)]
    points = np.unique(points[front(points)], axis=0)
    if len(reference) == 2:
        # From left to right; below the height of the point to the left.
        lower = np.column_stack([np.concatenate([[-np.inf], points[:, 0]]), np.full(len(points) + 1, -np.inf)])
        upper = np.column_stack(
            [np.concatenate([points[:, 0], reference[:1]]), np.concatenate([reference[1:], points[:, 1]])]
        )
        return lower, upper
    # What is not dominated is what lies below a local upper bound: seen from the other end, it is dominated by these.
    bounds, _ = _local_upper_bounds(points, reference)
    lower, upper = _dominated_boxes(-bounds, np.full(len(reference), np.inf))
    return -upper, -lower


def _dominated_boxes(points: Array, reference: Array) -> tuple[Array, Array]:
    """Disjoint boxes that fill what is below `reference` and dominated by some point ([1]_, equation (2))."""
    bounds, defining = _local_upper_bounds(points, reference)
    lower, upper = np.empty_like(bounds), bounds.copy()
    lower[:, 0], upper[:, 0] = defining[:, 0, 0], reference[0]
    for j in range(1, len(reference)):
        lower[:, j] = defining[:, :j, j].max(axis=1)
    full = (lower < upper).all(axis=1)
    return lower[full], upper[full]


def _local_upper_bounds(points: Array, reference: Array) -> tuple[Array, Array]:  # -> (U, M), (U, M, M)
    """Corners u of the region that no point dominates: all below some u is free of points; and the points that define each.

    Points are taken in one by one; those bounds above the new point are replaced by up to M each ([1]_, algorithm 1).
    """
    size = len(reference)
    bounds = reference[None].copy()
    defining = np.full((1, size, size), -np.inf)
    defining[0, np.arange(size), np.arange(size)] = reference
    for point in points:
        above = (bounds > point).all(axis=1)
        old, old_defining = bounds[above], defining[above]
        new, new_defining = [bounds[~above]], [defining[~above]]
        for j in range(size):
            others = np.delete(old_defining[:, :, j], j, axis=1)
            kept = point[j] >= others.max(axis=1)
            moved, moved_defining = old[kept].copy(), old_defining[kept].copy()
            moved[:, j] = point[j]
            moved_defining[:, j] = point
            new.append(moved)
            new_defining.append(moved_defining)
        bounds, defining = np.concatenate(new), np.concatenate(new_defining)
    return bounds, defining


@dataclass(frozen=True)
class Boxes:
    """The boxes of H hyperparameter sets, with B places each; `absent` is minus infinity where a set has fewer.

    Boxes share edges, so expectations are computed once for each of the E_j edges of objective j.
    """

    edges: tuple[Array, ...]  # M x (H, E_j), finite
    lower: tuple[NDArray[np.intp], ...]  # M x (H, B) which edge, E_j if at minus infinity
    upper: tuple[NDArray[np.intp], ...]  # M x (H, B) which edge
    absent: Array  # (H, B)

    @classmethod
    def of(cls, corners: Sequence[tuple[Array, Array]]) -> Boxes:  # H x 2 x (B_h, M)
        """From the corners of each set's boxes."""
        most = max(len(lower) for lower, _ in corners)
        edges, at_lower, at_upper = [], [], []
        for j in range(corners[0][0].shape[1]):
            own = [np.unique(np.concatenate([lower[:, j], upper[:, j]])) for lower, upper in corners]
            own = [values[np.isfinite(values)] for values in own]
            width = max(len(values) for values in own)
            table = np.stack([np.concatenate([values, np.full(width - len(values), values[-1])]) for values in own])
            at = np.full((2, len(corners), most), width)
            at[1] = 0
            for h, (lower, upper) in enumerate(corners):
                known = np.isfinite(lower[:, j])
                at[0, h, : len(lower)][known] = np.searchsorted(own[h], lower[known, j])
                at[1, h, : len(upper)] = np.searchsorted(own[h], upper[:, j])
            edges.append(table)
            at_lower.append(at[0])
            at_upper.append(at[1])
        absent = np.zeros((len(corners), most))
        for h, (lower, _) in enumerate(corners):
            absent[h, len(lower) :] = -np.inf
        return cls(tuple(edges), tuple(at_lower), tuple(at_upper), absent)


class LogExpectedHypervolumeImprovement(Term):
    """log of the mean over hyperparameter sets of the EHVI at the head of this module."""

    def __init__(self, posteriors: Sequence[Posterior], boxes: Boxes) -> None:
        self._posteriors, self._boxes = posteriors, boxes

    def value(self, inputs: Inputs) -> Array:
        total: Array = self._boxes.absent[:, None]
        for j, posterior in enumerate(self._posteriors):
            mean, variance = posterior.predict(inputs)
            total = total + self._parts(j, mean, _learnable(posterior, variance)[0])[0]
        return _mixed(total)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        total: Array = self._boxes.absent[:, None]
        pieces = []
        for j, posterior in enumerate(self._posteriors):
            at = posterior.at(inputs)
            learnable, slope = _learnable(posterior, at.variance)
            value, by_mean, by_variance = self._parts(j, at.mean, learnable)
            total = total + value
            pieces.append((at, by_mean, by_variance * slope[:, :, None]))
        return _mixed(total), _gradient(total, pieces)

    def _parts(self, j: int, mean: Array, variance: Array) -> tuple[Array, Array, Array]:  # (H, m) -> 3 x (H, m, B)
        """Objective j's factor of each box: its logarithm, and the derivatives of this by mean and variance."""
        boxes = self._boxes
        sets, most = boxes.absent.shape
        mean, deviation = mean[:, :, None], np.sqrt(variance)[:, :, None]
        u = (boxes.edges[j][:, None] - mean) / deviation
        log_part, slope = log_h(u)
        # Of the log expectation.
        by_mean = -slope / deviation
        by_variance = (0.5 - 0.5 * slope * u) / np.square(deviation)
        value = np.log(deviation) + log_part
        shape = (sets, mean.shape[1], most)
        low, high = (np.broadcast_to(at[:, None], shape) for at in (boxes.lower[j], boxes.upper[j]))
        above = np.take_along_axis(value, high, axis=2)
        # log(e^above - e^below) and its derivatives.
        gap = np.maximum(above - _at_edges(value, low, -np.inf), THINNEST)
        rest = -np.expm1(-gap)
        less = np.exp(-gap)
        pulled = [
            (np.take_along_axis(by, high, axis=2) - less * _at_edges(by, low, 0.0)) / rest
            for by in (by_mean, by_variance)
        ]
        return above + np.log(rest), pulled[0], pulled[1]


def _at_edges(values: Array, which: NDArray[np.intp], at_infinity: float) -> Array:  # (H, m, E), (H, m, B) -> (H, m, B)
    """The values at these edges; edge E is the one at minus infinity."""
    padded = np.concatenate([values, np.full((*values.shape[:2], 1), at_infinity)], axis=2)
    return np.take_along_axis(padded, which, axis=2)


class LogChanceOfCorners(Term):
    """log of the mean over hyperparameter sets of the weighted sum of P(f <= c) over corners c: see the head of this module."""

    def __init__(self, posteriors: Sequence[Posterior], corners: Array, log_weights: Array) -> None:
        """`corners` (H, C, M), `log_weights` (C,)."""
        self._posteriors, self._corners, self._log_weights = posteriors, corners, log_weights

    def value(self, inputs: Inputs) -> Array:
        total: Array = self._log_weights
        for j, posterior in enumerate(self._posteriors):
            mean, variance = posterior.predict(inputs)
            total = total + self._parts(j, mean, _learnable(posterior, variance)[0])[0]
        return _mixed(total)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        total: Array = self._log_weights
        pieces = []
        for j, posterior in enumerate(self._posteriors):
            at = posterior.at(inputs)
            learnable, slope = _learnable(posterior, at.variance)
            value, by_mean, by_variance = self._parts(j, at.mean, learnable)
            total = total + value
            pieces.append((at, by_mean, by_variance * slope[:, :, None]))
        return _mixed(total), _gradient(total, pieces)

    def _parts(self, j: int, mean: Array, variance: Array) -> tuple[Array, Array, Array]:  # (H, m) -> 3 x (H, m, C)
        """Objective j's factor of each corner, P(f_j <= c_j): its logarithm, and the derivatives of this by mean and variance."""
        deviation = np.sqrt(variance)[:, :, None]
        u = (self._corners[:, None, :, j] - mean[:, :, None]) / deviation
        value, slope = log_ndtr(u)
        return value, -slope / deviation, -0.5 * slope * u / np.square(deviation)


def _learnable(posterior: Posterior, variance: Array) -> tuple[Array, Array]:  # (H, m) -> (H, m), (H, m)
    """By how much a measurement is expected to move the mean, v^2 / (v + noise), and the derivative of this by v."""
    ratio = variance / (variance + posterior.geometry.noise()[:, None])
    return variance * ratio, ratio * (2.0 - ratio)


def _mixed(total: Array) -> Array:  # (H, m, B) -> (m,)
    """Logarithm of the mean over H of the sum over B of what `total` is the logarithm of."""
    return logsumexp(total, axis=(0, 2)) - math.log(len(total))


def _gradient(
    total: Array,  # (H, m, B)
    pieces: Sequence[tuple[PosteriorAt, Array, Array]],
) -> Array:  # (m, p)
    """The gradient of `_mixed`. `pieces` hold for each objective the derivatives of `total` by mean and variance, (H, m, B)."""
    share = np.exp(total - logsumexp(total, axis=(0, 2))[:, None])
    gradient: Array = np.zeros(())
    for at, by_mean, by_variance in pieces:
        by = [(share * part).sum(axis=2) for part in (by_mean, by_variance)]
        if len(at.mean) == 1:  # one set that serves for all
            by = [part.sum(axis=0, keepdims=True) for part in by]
        gradient = gradient + at.gradients(*by).sum(axis=0)
    return gradient
