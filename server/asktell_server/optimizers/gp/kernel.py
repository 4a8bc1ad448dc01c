"""The covariance function: Matern-5/2 with automatic relevance determination on a Euclidean embedding of any search space.

Each varying parameter i is a *dimension* with a lengthscale l_i and contributes r_i^2 to the squared distance of two points:

    numeric, always active     ((w(x) - w(x')) / l_i)^2                 w: learned Kumaraswamy warping [1]_
    numeric, conditional       |e(x) - e(x')|^2 / l_i^2                 e: on the arc (sin(w - 1/2), cos(w - 1/2)) where active,
                                                                        in its centre where not (after [2]_): an inactive point is as
                                                                        far from every active one as the ends are from each other
    categorical                1 / l_i^2 if the choices differ          (inactive counts as a choice of its own)

    k(x, x') = s m(sum_i r_i^2) + a / D sum_i m(D r_i^2)                m: Matern-5/2

The second term models what single parameters do by themselves (an additive model, [3]_); D, the number of dimensions, brings
the lengthscales of both terms to the same size. Everything is a distance in a Euclidean space, so k is a covariance.

Shapes: H hyperparameter sets side by side, n and m points, D dimensions of which p numeric and c categorical. float64.

One text serves two libraries: fits compute with torch, on whose large batches of matrices most of their time goes, and predictions
with numpy, whose calls on the few points of a search cost a fifth of torch's. What is written here without a library's
name both understand; the parameter A says which it is, numpy unless told otherwise.

.. [1] J. Snoek, K. Swersky, R. Zemel, R. Adams. Input warping for Bayesian optimization of non-stationary functions. ICML 2014.
.. [2] K. Swersky, D. Duvenaud, J. Snoek, F. Hutter, M. Osborne. Raiders of the lost architecture: kernels for Bayesian
   optimization in conditional parameter spaces. NeurIPS workshop 2013.
.. [3] D. Duvenaud, H. Nickisch, C. Rasmussen. Additive Gaussian processes. NeurIPS 2011.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypeVar

from asktell_server.optimizers.encoding import Array, Mask
from asktell_server.optimizers.gp.cube import Cube

MAX_ADDITIVE = 30
"""With more dimensions than this the second term is left out: its cost grows with their number, its use does not."""
EDGE = 1e-7
"""Units are kept this far from 0 and 1, where the derivative of the warping may be infinite."""


A = TypeVar("A", Array, Tensor, default=Array)


def library(of: Array | Tensor) -> Any:
    """numpy or torch, whichever the array is of."""
    return np if isinstance(of, np.ndarray) else torch


def _in_order(x: A) -> A:
    """The same numbers in memory in the order of the axes."""
    found: A = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()
    return found


def _empty(like: A, shape: tuple[int, ...]) -> A:
    """Room for numbers, of the library and on the device of `like`."""
    found: A = np.empty(shape) if isinstance(like, np.ndarray) else like.new_empty(shape)
    return found


def matern52(r2: A) -> A:
    """Matern-5/2 of the squared distance r2 (Rasmussen & Williams 2006, eq. 4.17)."""
    square: A = r2 * 5.0
    root: A = library(r2).sqrt(square)
    return _matern52(root, square)


def _matern52(root: A, square: A) -> A:
    """(1 + root + square / 3) exp(-root) for root = sqrt(5 r^2) and its square; both are used up."""
    use = library(root)
    square *= 1.0 / 3.0
    square += root
    square += 1.0
    use.negative(root, out=root)
    use.exp(root, out=root)
    square *= root
    return square


def _matern52_with_derivative(root: A, square: A) -> tuple[A, A]:
    """The same, and its derivative by r^2, -5/6 (1 + root) exp(-root); both are used up."""
    use = library(root)
    decay: A = use.exp(-root)
    root += 1.0
    root *= decay
    square *= decay
    square *= 1.0 / 3.0
    square += root
    root *= -5.0 / 6.0
    return square, root


@dataclass(frozen=True)
class Layout:
    """Which columns of a cube are dimensions, and of which kind. Order of dimensions: numeric ones, then categorical ones."""

    numeric: NDArray[np.intp]
    categorical: NDArray[np.intp]
    conditional: NDArray[np.intp]
    """Numeric dimensions, by place among these, that are not always active."""

    @classmethod
    def of(cls, cube: Cube) -> Layout:
        """The layout of a space."""
        numeric = np.flatnonzero(cube.varies & ~cube.is_categorical)
        return cls(numeric, np.flatnonzero(cube.is_categorical), np.flatnonzero(cube.is_conditional[numeric]))

    @property
    def p(self) -> int:
        """Number of numeric dimensions."""
        return len(self.numeric)

    @property
    def size(self) -> int:
        """Number of dimensions, D."""
        return len(self.numeric) + len(self.categorical)


@dataclass(frozen=True)
class Choices(Generic[A]):
    """The choices that occur among n points, L over all categorical dimensions, those of each dimension together."""

    of: NDArray[np.intp]  # (L,) the dimensions, counted from the first categorical one
    units: A  # (L,)
    made: A  # (n, L) 1.0 where a point has the choice


@dataclass(frozen=True)
class Inputs(Generic[A]):
    """n points as the kernel takes them."""

    x: A  # (n, p) units
    active: A  # (n, p) 1.0 where active
    choice: A  # (n, c) units of the choices, -1 where inactive

    @staticmethod
    def of(
        layout: Layout,
        units: Array,  # (n, d) canonical
        active: Mask,  # (n, d)
    ) -> Inputs[Array]:
        """Canonical units as inputs."""
        categorical = np.where(active[:, layout.categorical], units[:, layout.categorical], -1.0)
        return Inputs(
            np.clip(units[:, layout.numeric], EDGE, 1.0 - EDGE),
            active[:, layout.numeric].astype(np.float64),
            categorical,
        )

    def __len__(self) -> int:
        return len(self.x)

    @cached_property
    def choices(self) -> Choices[A]:
        """The choices that occur."""
        use = library(self.choice)
        units = [use.unique(column) for column in self.choice.T]
        of = np.repeat(np.arange(len(units)), [len(found) for found in units])
        every = use.concat(units)
        return Choices(of, every, (self.choice[:, of] == every) * use.ones_like(every))

    def rows(self, at: NDArray[Any] | slice) -> Inputs[A]:
        """Some of the points."""
        return Inputs(self.x[at], self.active[at], self.choice[at])

    def joined(self, other: Inputs[A]) -> Inputs[A]:
        """These points followed by others."""
        join = library(self.x).concat
        return Inputs(join([self.x, other.x]), join([self.active, other.active]), join([self.choice, other.choice]))

    def tensors(self: Inputs[Array], device: str | None = None) -> Inputs[Tensor]:
        """The same points for torch, on a device of its own or on the CPU."""
        parts = (self.x, self.active, self.choice)
        return Inputs(*(torch.tensor(part, device=device) for part in parts))


@dataclass(frozen=True)
class Hyperparameters(Generic[A]):
    """H sets of hyperparameters of one model, as logarithms."""

    lengthscale: A  # (H, D)
    scale: A  # (H,) s
    additive: A  # (H,) a
    noise: A  # (H,) variance
    warp: A  # (H, 2, p) exponents of the warping

    @staticmethod
    def unpacked(packed: A, layout: Layout) -> Hyperparameters[A]:  # (H, D + 3 + 2 p)
        """From rows of numbers."""
        d = layout.size
        return Hyperparameters(
            packed[:, :d],
            packed[:, d],
            packed[:, d + 1],
            packed[:, d + 2],
            packed[:, d + 3 :].reshape(len(packed), 2, -1),
        )

    def packed(self) -> A:  # (H, D + 3 + 2 p)
        """As rows of numbers."""
        use = library(self.scale)
        rest = use.stack([self.scale, self.additive, self.noise], axis=1)
        rows: A = use.concat([self.lengthscale, rest, self.warp.reshape(len(self), -1)], axis=1)
        return rows

    def rows(self, at: NDArray[Any] | slice) -> Hyperparameters[A]:
        """Some of the sets."""
        return Hyperparameters(self.lengthscale[at], self.scale[at], self.additive[at], self.noise[at], self.warp[at])

    def __len__(self) -> int:
        return len(self.scale)


@dataclass(frozen=True)
class Features(Generic[A]):
    """n embedded points, for each of H hyperparameter sets, with what derivatives need."""

    z: A  # (H, n, p + q) embedding divided by lengthscales; the q extra columns are the cosines of conditional ones
    slope: A  # (H, n, p + q) derivative of z by the unit x
    by_warp: A | None  # (H, 2, n, p + q) derivative of z by the logarithms of the two exponents, if asked for
    inputs: Inputs[A]  # the points

    def joined(self, other: Features[A]) -> Features[A]:
        """The features of these points followed by others, without derivatives by the warping."""
        join = library(self.z).concat
        return Features(
            join([self.z, other.z], axis=1),
            join([self.slope, other.slope], axis=1),
            None,
            self.inputs.joined(other.inputs),
        )


class Kernel:
    """k of the head of this module, for the dimensions of one space; without its second term if there are many of them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.is_additive = layout.size <= MAX_ADDITIVE
        self._cosine_of = layout.conditional
        # Column of the feature matrix -> dimension.
        self._dimension = np.concatenate([np.arange(layout.p), self._cosine_of])

    def features(self, theta: Hyperparameters[A], inputs: Inputs[A], *, by_warp: bool = False) -> Features[A]:
        """The embedding."""
        x = inputs.x
        use = library(x)
        exponents = use.exp(theta.warp)
        a, b = exponents[:, 0, None, :], exponents[:, 1, None, :]
        # Kumaraswamy distribution function w = 1 - (1 - x^a)^b by way of logarithms.
        log_x = use.log(x)
        power = use.exp(a * log_x)  # x^a
        log_rest = use.log1p(-power)  # log(1 - x^a)
        rest = use.exp(b * log_rest)
        w = 1.0 - rest
        inner = a * b * rest * power / (1.0 - power)  # x dw/dx
        slope = inner / x
        derivatives = use.stack([inner * log_x, -b * rest * log_rest], axis=1) if by_warp else None
        scale = use.exp(-theta.lengthscale[:, None, : self.layout.p])
        if len(self._cosine_of):
            at = self._cosine_of
            on = inputs.active[:, at]
            angle = w[:, :, at] - 0.5
            sine, cosine = use.sin(angle) * on, use.cos(angle) * on
            d_sine, d_cosine = cosine * slope[:, :, at], -sine * slope[:, :, at]
            if derivatives is not None:
                inner_w = derivatives[:, :, :, at]
                derivatives = use.concat([derivatives, -sine[:, None] * inner_w], axis=3)
                derivatives[:, :, :, at] = cosine[:, None] * inner_w
            w[:, :, at] = sine
            slope[:, :, at] = d_sine
            w = use.concat([w, cosine], axis=2)
            slope = use.concat([slope, d_cosine], axis=2)
            scale = use.concat([scale, scale[:, :, at]], axis=2)
        if derivatives is not None:
            derivatives = derivatives * scale[:, None]
        return Features(w * scale, slope * scale, derivatives, inputs)

    def covariance(self, theta: Hyperparameters[A], one: Features[A], other: Features[A]) -> A:  # (H, m, n)
        """k between two sets of points."""
        use = library(theta.scale)
        joint = use.exp(theta.scale)[:, None, None]
        k: A
        if not self.is_additive:
            k = matern52(self._squared_distance(theta, one, other))
            k *= joint
            return k
        root, square = self._by_dimension(theta, one, other)
        k = matern52(square.sum(1) / (5.0 * self.layout.size))
        k *= joint
        k += (use.exp(theta.additive) / self.layout.size)[:, None, None] * _matern52(root, square).sum(1)
        return k

    def variance(self, theta: Hyperparameters[A]) -> A:  # (H,)
        """k of a point with itself."""
        use = library(theta.scale)
        found: A = use.exp(theta.scale) + use.exp(theta.additive) if self.is_additive else use.exp(theta.scale)
        return found

    def with_derivatives(
        self, theta: Hyperparameters[A], one: Features[A], other: Features[A]
    ) -> tuple[A, A, A]:  # (H, m, n), (H, m, n), (H, D or 1, m, n)
        """k; its first term alone; and the derivative of k by each r_i^2, or by any of them where they are all the same."""
        use = library(theta.scale)
        joint = use.exp(theta.scale)[:, None, None]
        first: A
        if not self.is_additive:
            square = 5.0 * self._squared_distance(theta, one, other)
            value, slope = _matern52_with_derivative(use.sqrt(square), square)
            first = joint * value
            return first, first, (joint * slope)[:, None]
        roots, squares = self._by_dimension(theta, one, other)
        size = float(self.layout.size)
        square = squares.sum(1) / size
        value, slope = _matern52_with_derivative(use.sqrt(square), square)
        values, slopes = _matern52_with_derivative(roots, squares)
        additive = use.exp(theta.additive)[:, None, None]
        first = joint * value
        # The factor D of the distance and the 1 / D of the sum cancel in the derivative.
        slopes *= additive[:, None]
        slope *= joint
        slopes += slope[:, None]
        return first + (additive / size) * values.sum(1), first, slopes

    def pulled_to_features(
        self,
        weights: A,  # (H, m, n)
        by_r2: A,  # (H, D or 1, m, n)
        one: Features[A],
        other: Features[A],
    ) -> A:  # (H, m, p + q)
        """Derivative of sum_n(weights * k) by the embedded points `one`."""
        found: A
        if by_r2.shape[1] == 1 and self.layout.size != 1:
            g = weights * by_r2[:, 0]
            found = one.z * g.sum(2)[:, :, None] - g @ other.z
        else:
            numeric = by_r2[:, : self.layout.p] if not len(self._cosine_of) else by_r2[:, self._dimension]
            g = weights[:, None] * numeric  # (H, p + q, m, n)
            found = one.z * g.sum(3).mT - (g @ other.z.mT[..., None])[..., 0].mT
        found *= 2.0
        return found

    def pulled_apart(
        self,
        weights: A,  # (H, n, n)
        by_r2: A,  # (H, D or 1, n, n)
        inputs: Inputs[A],
    ) -> A:  # (H, c)
        """Derivative of sum(weights * k) by the squared distance that a difference makes in each categorical dimension."""
        use = library(weights)
        pulls: list[A] = []
        if self.is_additive:
            for j, column in enumerate(inputs.choice.T):
                differs = column[:, None] != column
                pulls.append((weights * by_r2[:, self.layout.p + j] * differs).sum((1, 2)))
        else:
            # All pairs, less those that agree, as in `_categorical_distance`.
            pull = weights * by_r2[:, 0]
            choices = inputs.choices
            agree = ((pull @ choices.made) * choices.made).sum(1)  # (H, L)
            every = pull.sum((1, 2))
            start = 0
            for size in np.bincount(choices.of).tolist():
                pulls.append(every - agree[:, start : start + size].sum(1))
                start += size
        found: A = use.stack(pulls, axis=1)
        return found

    def _squared_distance(self, theta: Hyperparameters[A], one: Features[A], other: Features[A]) -> A:  # (H, m, n)
        """Sum of r_i^2 over all dimensions."""
        use = library(one.z)
        r2: A = (one.z * one.z).sum(2)[:, :, None] + (other.z * other.z).sum(2)[:, None, :] - 2.0 * one.z @ other.z.mT
        if one.inputs.choice.shape[1]:
            r2 += self._categorical_distance(theta, one, other)
        if one is other:
            i = np.arange(r2.shape[1])
            r2[:, i, i] = 0.0
        found: A = use.clip(r2, 0.0, None)
        return found

    def _categorical_distance(self, theta: Hyperparameters[A], one: Features[A], other: Features[A]) -> A:  # (H, m, n)
        """Sum of r_i^2 over the categorical dimensions: that of all, less that of those in which two points agree. The latter is a
        product of matrices of indicators, which takes less than to compare dimension by dimension.
        """
        use = library(theta.lengthscale)
        choices = other.inputs.choices
        weights = use.exp(-2.0 * theta.lengthscale[:, self.layout.p :])
        one_made = (one.inputs.choice[:, choices.of] == choices.units) * weights[:, None, choices.of]  # (H, m, L)
        distance: A = weights.sum(1)[:, None, None] - one_made @ choices.made.T
        return distance

    def _by_dimension(
        self, theta: Hyperparameters[A], one: Features[A], other: Features[A]
    ) -> tuple[A, A]:  # (H, D, m, n), (H, D, m, n)
        """sqrt(5 D) r_i of each dimension, and its square."""
        use = library(one.z)
        p = self.layout.p
        unit = math.sqrt(5.0 * self.layout.size)
        # Dimensions outermost in memory, over which sums are cheap only then.
        z, other_z = (_in_order(points.z.mT) * unit for points in (one, other))
        z, other_z = z[:, :, :, None], other_z[:, :, None, :]
        root = _empty(z, (len(z), self.layout.size, len(one.inputs), len(other.inputs)))
        numeric = root[:, :p]
        use.subtract(z[:, :p], other_z[:, :p], out=numeric)
        use.abs(numeric, out=numeric)
        if len(self._cosine_of):
            root[:, self._cosine_of] = use.hypot(root[:, self._cosine_of], z[:, p:] - other_z[:, p:])
        if one.inputs.choice.shape[1]:
            differs = one.inputs.choice.T[:, :, None] != other.inputs.choice.T[:, None, :]
            use.multiply(unit * use.exp(-theta.lengthscale[:, p:])[:, :, None, None], differs, out=root[:, p:])
        return root, root * root

    def to_units(self, by_z: A, features: Features[A]) -> A:  # (H, m, p + q) -> (H, m, p)
        """Derivative by the units, from that by the embedded points."""
        by_column: A = by_z * features.slope
        p = self.layout.p
        if not len(self._cosine_of):
            return by_column
        by_unit = by_column[:, :, :p]
        by_unit[:, :, self._cosine_of] += by_column[:, :, p:]
        return by_unit
