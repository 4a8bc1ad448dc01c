"""From a metric's values to what a model learns, and back.

Values are scaled by a power of two first, so that no difference of finite values overflows; then

    objective    z = (y - lowest) / (median - lowest) where that is at most 1, else 1 + log of it: the better half keeps its
                 shape, on which the search for the best depends, and however bad the rest is it cannot drown that shape
                 (the idea of Vizier's half-rank warping [1]_, with the logarithm, which is smooth, in place of ranks)
    constraint   sign(v) log(1 + |v| / scale) of the violation v: 0 stays the boundary [2]_
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

    @abstractmethod
    def slope(self, y: Array) -> Array:  # (n,) -> (n,)
        """Derivative of `forward`: by it standard errors are scaled."""

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
    """See the head of this module. `unit` is median - lowest, in scaled values."""

    exponent: int
    lowest: float
    unit: float
    center: float
    deviation: float

    @classmethod
    def of(cls, y: Array) -> ObjectiveTransform:  # (n,), n >= 1
        """The transform that n values ask for."""
        exponent = int(np.frexp(np.abs(y).max())[1]) + 1
        raised = np.ldexp(y, -exponent)
        lowest = float(raised.min())
        raised = raised - lowest
        unit = float(np.median(raised)) or float(raised.mean())
        if not unit > 1e-300:
            return cls(exponent, lowest, 1.0, 0.0, 1.0)
        z = _bent(raised / unit)
        deviation = float(z.std())
        return cls(exponent, lowest, unit, float(z.mean()), deviation if deviation > 1e-12 else 1.0)

    def forward(self, y: Array) -> Array:
        z = _bent((np.ldexp(y, -self.exponent) - self.lowest) / self.unit)
        return (z - self.center) / self.deviation

    def backward(self, z: Array) -> Array:
        bent = self.center + self.deviation * z
        with np.errstate(over="ignore"):  # what overflows is cut
            raised = np.where(bent <= 1.0, bent, np.exp(np.minimum(bent - 1.0, 700.0)))
            return np.clip(np.ldexp(self.lowest + self.unit * raised, self.exponent), -LARGEST, LARGEST)

    def slope(self, y: Array) -> Array:
        with np.errstate(over="ignore"):  # of values that the transform was not made for
            raised = (np.ldexp(y, -self.exponent) - self.lowest) / self.unit
            return np.ldexp(1.0 / np.maximum(raised, 1.0) / self.unit / self.deviation, -self.exponent)


def _bent(z: Array) -> Array:
    return np.where(z <= 1.0, z, 1.0 + np.log(np.maximum(z, 1.0)))


@dataclass(frozen=True)
class ConstraintTransform(Transform):
    """Of a signed violation; see the head of this module."""

    scale: float

    @classmethod
    def of(cls, violation: Array) -> ConstraintTransform:
        """The transform that n violations ask for."""
        size = np.abs(violation)
        positive = size[size > 0]
        # Halves, since the median may be a sum of two.
        scale = 2.0 * float(np.median(0.5 * positive)) if len(positive) else 1.0
        return cls(max(scale, 1e-300))

    def forward(self, y: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.sign(y) * np.log1p(np.minimum(np.abs(y) / self.scale, LARGEST))

    def backward(self, z: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.clip(np.sign(z) * self.scale * np.expm1(np.minimum(np.abs(z), 709.0)), -LARGEST, LARGEST)

    def slope(self, y: Array) -> Array:
        with np.errstate(over="ignore"):
            return 1.0 / np.minimum(self.scale + np.abs(y), LARGEST)


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

    def slope(self, y: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.minimum(1.0 / y / self.deviation, LARGEST)


@dataclass(frozen=True)
class IdentityTransform(Transform):
    """Of labels."""

    def forward(self, y: Array) -> Array:
        return y

    def backward(self, z: Array) -> Array:
        return z

    def slope(self, y: Array) -> Array:
        return np.ones_like(y)
