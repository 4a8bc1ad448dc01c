"""From a metric's values to what a model learns, and back.

Values are scaled by a power of two first, so that no difference of the better ones overflows or vanishes; then

    objective    r = (y - lowest) / (median - lowest), and z = r where that is at most 1, else 1 + log r, and beyond LONG units of
                 that, LONG + log of the excess: the better half keeps its shape, on which the search for the best depends, and
                 however bad the rest is it cannot drown that shape (the idea of Vizier's half-rank warping [1]_, with the
                 logarithm, which is smooth, in place of ranks). Of several objectives the front counts, not what is best in
                 one: if that reaches farther than the median, the middle of its values takes the median's place
    constraint   arsinh(v / scale) of the violation v: 0 stays the boundary, around which the shape is hardly bent, since that is where
                 the best feasible point is likely to be. The scale is the LINEAR quantile of |v|, but no more than WIDEST times the
                 median, so that what is far out drowns nothing. (The curvature of [2]_'s logarithm jumps at the boundary, which
                 costs a model precision where it matters most.) A constraint whose metric only ever has two values, one that keeps
                 it and one that does not, tells no more than a label: these are -1 and 1
    cost         log y
    label        as it is

and all but constraints and labels are standardised. Each transform is monotone, so it can be undone.

.. [1] X. Song et al. The Vizier Gaussian process bandit algorithm. arXiv:2408.11527 (2024), section on output warping.
.. [2] D. Eriksson, M. Poloczek. Scalable constrained Bayesian optimization. AISTATS 2021.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from asktell_server.optimizers.encoding import Array

LARGEST = float(np.finfo(np.float64).max)
TINIEST = 1e-300
"""Units below this are none."""
FARTHEST = float(np.arcsinh(LARGEST))
LONG = 4.0
"""Where the second logarithm begins: at exp(LONG - 1) = 20 times the distance of the median."""
LINEAR = 0.8
"""Of the results that are not just on a bound, this share is within the constraint's scale, where its transform is almost linear."""
WIDEST = 10.0
LABELS = 4
"""So many measurements of two values are no coincidence."""
TINY = 1e-9
"""What is nearer to the lowest value than this share of what a front reaches says nothing about the front's shape."""
FURTHER = 2.0
"""How many times as far from the lowest value as the worst one a prediction may lie."""
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


class Transform(ABC):
    """Monotone map from a metric, smaller is better, to the model's scale."""

    @abstractmethod
    def forward(self, y: Array) -> Array:  # (n,) -> (n,)
        """The values on the model's scale."""

    @abstractmethod
    def backward(self, z: Array) -> Array:  # (n,) -> (n,)
        """The inverse, cut to finite numbers."""

    def error(self, y: Array, error: Array) -> Array:  # (n,), (n,) -> (n,)
        """Standard errors on the model's scale: the longer of the two ways from a value to the ends of the interval about it."""
        with np.errstate(over="ignore"):
            below, z, above = (np.clip(self.forward(at), -LARGEST / 2, LARGEST / 2) for at in (y - error, y, y + error))
        return np.maximum(above - z, z - below)

    def prediction(self, mean: float, deviation: float) -> tuple[float, float]:
        """Mean and standard deviation of the metric whose value on the model's scale is normal (Gauss-Hermite quadrature)."""
        values = self.backward(mean + deviation * NODES)
        # A quarter of each value keeps the sums finite.
        quarter = 0.25 * values
        center = float(WEIGHTS @ quarter)
        unit = float(np.abs(quarter - center).max()) or 1.0
        spread = unit * float(np.sqrt(WEIGHTS @ ((quarter - center) / unit) ** 2))
        return cut(4.0 * np.clip(center, -LARGEST / 4, LARGEST / 4)), cut(4.0 * min(spread, LARGEST / 4))


def cut(value: float) -> float:
    """`value`, or the largest finite number of its sign if it is infinite."""
    return float(np.clip(value, -LARGEST, LARGEST))


@dataclass(frozen=True)
class ObjectiveTransform(Transform):
    """See the head of this module. `unit` is median - lowest, in scaled values; `highest` the worst value's z."""

    exponent: int
    lowest: float
    unit: float
    center: float
    deviation: float
    highest: float

    @classmethod
    def of(cls, y: Array, front: Array | None = None) -> ObjectiveTransform:  # (n,), n >= 1; (k,)
        """The transform that n values ask for; `front` are those of them at which no other objective is better as well."""
        better = y[y <= np.sort(y)[(len(y) - 1) // 2]]
        if front is not None:
            better = np.concatenate([better, front])
        exponent = int(np.frexp(np.abs(better).max())[1]) + 1
        lowest = float(np.ldexp(y.min(), -exponent))
        raised = _scaled(y, exponent) - lowest
        unit = float(np.median(raised)) or float(raised.mean())
        if front is not None:
            # Half a front may be at one objective's lowest value, give or take rounding.
            reached = _scaled(front, exponent) - lowest
            reached = reached[reached > TINY * reached.max()]
            unit = max(unit, float(np.median(reached))) if len(reached) else unit
        if not unit > TINIEST:
            return cls(exponent, lowest, 1.0, 0.0, 1.0, 1.0)
        z = _bent(raised, unit)
        deviation = float(z.std())
        center = float(z.mean())
        return cls(exponent, lowest, unit, center, deviation if deviation > 1e-12 else 1.0, float(z.max()))

    def forward(self, y: Array) -> Array:
        z = _bent(_scaled(y, self.exponent) - self.lowest, self.unit)
        return (z - self.center) / self.deviation

    def backward(self, z: Array) -> Array:
        with np.errstate(over="ignore"):  # what overflows is cut
            # A model that is unsure would else predict any number at all.
            raised = np.minimum(_unbent(self.center + self.deviation * z), FURTHER * _unbent(np.asarray(self.highest)))
            return np.clip(np.ldexp(self.lowest + self.unit * raised, self.exponent), -LARGEST, LARGEST)

    def slope(self, y: Array) -> Array:  # (n,) -> (n,)
        """Derivative of `forward`."""
        with np.errstate(over="ignore"):  # of values that the transform was not made for
            raised = np.maximum((_scaled(y, self.exponent) - self.lowest) / self.unit, 1.0)
            length = np.maximum(np.log(raised) - (LONG - 1.0), 0.0) + 1.0
            return np.ldexp(1.0 / raised / length / self.unit / self.deviation, -self.exponent)


def _scaled(y: Array, exponent: int) -> Array:
    """`y` in units of a power of two that suits the better half; what is worse by hundreds of decades is cut."""
    with np.errstate(over="ignore"):
        return np.clip(np.ldexp(y, -exponent), -1e300, 1e300)


def _bent(raised: Array, unit: float) -> Array:
    # The unit may be a billionth of the better half or mere rounding of it, and the worst value 300 decades beyond.
    with np.errstate(over="ignore"):
        r = np.minimum(raised / unit, LARGEST)
    z = np.where(r <= 1.0, r, 1.0 + np.log(np.maximum(r, 1.0)))
    return np.where(z <= LONG, z, LONG + np.log1p(np.maximum(z - LONG, 0.0)))


def _unbent(z: Array) -> Array:
    z = np.where(z <= LONG, z, LONG + np.expm1(np.clip(z - LONG, 0.0, 7.0)))
    return np.where(z <= 1.0, z, np.exp(np.clip(z - 1.0, 0.0, 700.0)))


@dataclass(frozen=True)
class ConstraintTransform(Transform):
    """Of a signed violation; see the head of this module."""

    scale: float

    @classmethod
    def of(cls, violation: Array) -> Transform:
        """The transform that n violations ask for."""
        label = LabelTransform.of(violation)
        if label is not None:
            return label
        size = np.abs(violation)
        positive = size[size > 0]
        if not len(positive):
            return cls(1.0)
        # Both are one of the values: between two of them there may be an overflow.
        median, scale = np.quantile(positive, [0.5, LINEAR], method="lower").tolist()
        return cls(max(min(scale, WIDEST * median), TINIEST))

    def forward(self, y: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.arcsinh(np.clip(y / self.scale, -LARGEST, LARGEST))

    def backward(self, z: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.clip(self.scale * np.sinh(np.clip(z, -FARTHEST, FARTHEST)), -LARGEST, LARGEST)


@dataclass(frozen=True)
class LabelTransform(Transform):
    """Of the violations of a constraint that tells no more than whether it was kept."""

    kept: float
    broken: float

    @classmethod
    def of(cls, violation: Array) -> LabelTransform | None:
        """The transform of n violations, if that is all they tell: at least LABELS of them, of two values on either side of the bound."""
        if len(violation) < LABELS:
            return None
        kept, broken = float(violation.min()), float(violation.max())
        is_apart = kept <= 0 < broken and 0.5 * broken - 0.5 * kept > TINIEST
        return cls(kept, broken) if is_apart and ((violation == kept) | (violation == broken)).all() else None

    def forward(self, y: Array) -> Array:
        # By halves, of which no difference overflows.
        with np.errstate(over="ignore"):
            share = (0.5 * y - 0.5 * self.kept) / (0.5 * self.broken - 0.5 * self.kept)
            return np.clip(2.0 * share - 1.0, -LARGEST, LARGEST)

    def backward(self, z: Array) -> Array:
        share = 0.5 * (z + 1.0)
        with np.errstate(over="ignore"):
            return np.clip(self.kept * (1.0 - share) + self.broken * share, -LARGEST, LARGEST)


@dataclass(frozen=True)
class LogTransform(Transform):
    """Of a cost above 0, standardised."""

    center: float
    deviation: float

    @classmethod
    def of(cls, cost: Array) -> LogTransform:
        """The transform that n costs ask for."""
        z = np.log(cost)
        deviation = float(z.std())
        return cls(float(z.mean()), deviation if deviation > 1e-12 else 1.0)

    def forward(self, y: Array) -> Array:
        return (np.log(y) - self.center) / self.deviation

    def backward(self, z: Array) -> Array:
        return np.exp(np.clip(self.center + self.deviation * z, -700.0, 700.0))

    def error(self, y: Array, error: Array) -> Array:
        # Upwards: the interval's lower end may be no cost.
        with np.errstate(over="ignore"):
            return np.minimum(np.log1p(error / y) / self.deviation, LARGEST)


@dataclass(frozen=True)
class IdentityTransform(Transform):
    """Of labels."""

    def forward(self, y: Array) -> Array:
        return y

    def backward(self, z: Array) -> Array:
        return z
