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

.. [1] J. Snoek, K. Swersky, R. Zemel, R. Adams. Input warping for Bayesian optimization of non-stationary functions. ICML 2014.
.. [2] K. Swersky, D. Duvenaud, J. Snoek, F. Hutter, M. Osborne. Raiders of the lost architecture: kernels for Bayesian
   optimization in conditional parameter spaces. NeurIPS workshop 2013.
.. [3] D. Duvenaud, H. Nickisch, C. Rasmussen. Additive Gaussian processes. NeurIPS 2011.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asktell_server.optimizers.encoding import Array, Mask
from asktell_server.optimizers.gp.cube import Cube

MAX_ADDITIVE = 30
"""With more dimensions than this the second term is left out: its cost grows with their number, its use does not."""
EDGE = 1e-7
"""Units are kept this far from 0 and 1, where the derivative of the warping may be infinite."""


def matern52(r2: Tensor, factor: float = 1.0) -> Tensor:
    """Matern-5/2 of the squared distance `factor` * r2 (Rasmussen & Williams 2006, eq. 4.17)."""
    root = (r2 * (5.0 * factor)).sqrt_()
    decay = torch.exp(-root)
    # 1 + root + root^2 / 3
    return root.addcmul_(root, root, value=1.0 / 3.0).add_(1.0).mul_(decay)


def matern52_with_derivative(r2: Tensor, factor: float = 1.0) -> tuple[Tensor, Tensor]:
    """Matern-5/2 of the squared distance `factor` * r2, and its derivative by that, -5/6 (1 + root) exp(-root)."""
    root = (r2 * (5.0 * factor)).sqrt_()
    decay = torch.exp(-root)
    slope = torch.addcmul(decay, root, decay)
    value = torch.addcmul(slope, root.square_(), decay, value=1.0 / 3.0)
    return value, slope.mul_(-5.0 / 6.0)


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
class Inputs:
    """n points as the kernel takes them."""

    x: Tensor  # (n, p) units
    active: Tensor  # (n, p) 1.0 where active
    choice: Tensor  # (n, c) units of the choices, -1 where inactive

    @classmethod
    def of(
        cls,
        layout: Layout,
        units: Array,  # (n, d) canonical
        active: Mask,  # (n, d)
    ) -> Inputs:
        """Canonical units as inputs."""
        categorical = np.where(active[:, layout.categorical], units[:, layout.categorical], -1.0)
        return cls(
            torch.from_numpy(np.clip(units[:, layout.numeric], EDGE, 1.0 - EDGE)),
            torch.from_numpy(active[:, layout.numeric].astype(np.float64)),
            torch.from_numpy(categorical),
        )

    def __len__(self) -> int:
        return len(self.x)

    def rows(self, at: Tensor | slice) -> Inputs:
        """Some of the points."""
        return Inputs(self.x[at], self.active[at], self.choice[at])

    def joined(self, other: Inputs) -> Inputs:
        """These points followed by others."""
        return Inputs(
            torch.cat([self.x, other.x]), torch.cat([self.active, other.active]), torch.cat([self.choice, other.choice])
        )


@dataclass(frozen=True)
class Hyperparameters:
    """H sets of hyperparameters of one model, as logarithms."""

    lengthscale: Tensor  # (H, D)
    scale: Tensor  # (H,) s
    additive: Tensor  # (H,) a
    noise: Tensor  # (H,) variance
    warp: Tensor  # (H, 2, p) exponents of the warping

    @classmethod
    def unpacked(cls, packed: Tensor, layout: Layout) -> Hyperparameters:  # (H, D + 3 + 2 p)
        """From rows of numbers."""
        d = layout.size
        return cls(
            packed[:, :d],
            packed[:, d],
            packed[:, d + 1],
            packed[:, d + 2],
            packed[:, d + 3 :].reshape(len(packed), 2, -1),
        )

    def packed(self) -> Tensor:  # (H, D + 3 + 2 p)
        """As rows of numbers."""
        rest = torch.stack([self.scale, self.additive, self.noise], dim=1)
        return torch.cat([self.lengthscale, rest, self.warp.flatten(1)], dim=1)

    def rows(self, at: Tensor | slice) -> Hyperparameters:
        """Some of the sets."""
        return Hyperparameters(self.lengthscale[at], self.scale[at], self.additive[at], self.noise[at], self.warp[at])

    def __len__(self) -> int:
        return len(self.scale)


@dataclass(frozen=True)
class Features:
    """n embedded points, for each of H hyperparameter sets, with what derivatives need."""

    z: Tensor  # (H, n, p + q) embedding divided by lengthscales; the q extra columns are the cosines of conditional ones
    slope: Tensor  # (H, n, p + q) derivative of z by the unit x
    by_warp: Tensor | None  # (H, 2, n, p + q) derivative of z by the logarithms of the two exponents, if asked for
    choice: Tensor  # (n, c)

    def joined(self, other: Features) -> Features:
        """The features of these points followed by others, without derivatives by the warping."""
        return Features(
            torch.cat([self.z, other.z], dim=1),
            torch.cat([self.slope, other.slope], dim=1),
            None,
            torch.cat([self.choice, other.choice]),
        )


class Kernel:
    """k of the head of this module, for the dimensions of one space; without its second term if there are many of them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.is_additive = layout.size <= MAX_ADDITIVE
        self._cosine_of = torch.from_numpy(layout.conditional)
        # Column of the feature matrix -> dimension.
        self._dimension = torch.cat([torch.arange(layout.p), self._cosine_of])

    def features(self, theta: Hyperparameters, inputs: Inputs, *, by_warp: bool = False) -> Features:
        """The embedding."""
        x = inputs.x
        a, b = theta.warp[:, 0, None, :].exp(), theta.warp[:, 1, None, :].exp()
        # Kumaraswamy distribution function w = 1 - (1 - x^a)^b by way of logarithms.
        log_x = x.log()
        power = (a * log_x).exp()  # x^a
        log_rest = torch.log1p(-power)  # log(1 - x^a)
        rest = (b * log_rest).exp()
        w = torch.rsub(rest, 1.0)
        inner = a * b * rest * power / torch.rsub(power, 1.0)  # x dw/dx
        slope = inner / x
        derivatives = torch.stack([inner * log_x, -b * rest * log_rest], dim=1) if by_warp else None
        scale = (-theta.lengthscale[:, None, : self.layout.p]).exp()
        if len(self._cosine_of):
            at = self._cosine_of
            on = inputs.active[:, at]
            angle = w[:, :, at] - 0.5
            sine, cosine = angle.sin() * on, angle.cos() * on
            d_sine, d_cosine = cosine * slope[:, :, at], -sine * slope[:, :, at]
            if derivatives is not None:
                inner_w = derivatives[:, :, :, at]
                derivatives = torch.cat([derivatives, -sine[:, None] * inner_w], dim=3)
                derivatives[:, :, :, at] = cosine[:, None] * inner_w
            w[:, :, at] = sine
            slope[:, :, at] = d_sine
            w = torch.cat([w, cosine], dim=2)
            slope = torch.cat([slope, d_cosine], dim=2)
            scale = torch.cat([scale, scale[:, :, at]], dim=2)
        if derivatives is not None:
            derivatives = derivatives * scale[:, None]
        return Features(w * scale, slope * scale, derivatives, inputs.choice)

    def covariance(self, theta: Hyperparameters, one: Features, other: Features) -> Tensor:  # (H, m, n)
        """k between two sets of points."""
        joint = theta.scale.exp()[:, None, None]
        if not self.is_additive:
            return joint * matern52(self._squared_distance(theta, one, other))
        r2 = self._by_dimension(theta, one, other)
        single = (theta.additive.exp() / self.layout.size)[:, None, None]
        k = single * matern52(r2, float(self.layout.size)).sum(dim=1)
        return k + joint * matern52(r2.sum(dim=1))

    def variance(self, theta: Hyperparameters) -> Tensor:  # (H,)
        """k of a point with itself."""
        return theta.scale.exp() + theta.additive.exp() if self.is_additive else theta.scale.exp()

    def with_derivatives(
        self, theta: Hyperparameters, one: Features, other: Features
    ) -> tuple[Tensor, Tensor, Tensor]:  # (H, m, n), (H, m, n), (H, D or 1, m, n)
        """k; its first term alone; and the derivative of k by each r_i^2, or by any of them where they are all the same."""
        joint = theta.scale.exp()[:, None, None]
        if not self.is_additive:
            value, slope = matern52_with_derivative(self._squared_distance(theta, one, other))
            k = joint * value
            return k, k, (joint * slope)[:, None]
        r2 = self._by_dimension(theta, one, other)
        size = float(self.layout.size)
        value, slope = matern52_with_derivative(r2.sum(dim=1))
        values, slopes = matern52_with_derivative(r2, size)
        additive = theta.additive.exp()[:, None, None]
        first = joint * value
        # The factor D of the distance and the 1 / D of the sum cancel in the derivative.
        slopes *= additive[:, None]
        slopes += (joint * slope)[:, None]
        return first + (additive / size) * values.sum(dim=1), first, slopes

    def pulled_to_features(
        self,
        weights: Tensor,  # (H, m, n)
        by_r2: Tensor,  # (H, D or 1, m, n)
        one: Features,
        other: Features,
    ) -> Tensor:  # (H, m, p + q)
        """Derivative of sum_n(weights * k) by the embedded points `one`."""
        if by_r2.shape[1] == 1 and self.layout.size != 1:
            g = weights * by_r2[:, 0]
            return 2.0 * (one.z * g.sum(dim=2)[:, :, None] - g @ other.z)
        numeric = by_r2[:, : self.layout.p] if not len(self._cosine_of) else by_r2[:, self._dimension]
        g = weights[:, None] * numeric  # (H, p + q, m, n)
        return 2.0 * (one.z * g.sum(dim=3).mT - (g @ other.z.mT[..., None])[..., 0].mT)

    def _squared_distance(self, theta: Hyperparameters, one: Features, other: Features) -> Tensor:  # (H, m, n)
        """Sum of r_i^2 over all dimensions."""
        r2 = one.z.square().sum(dim=2)[:, :, None] + other.z.square().sum(dim=2)[:, None, :] - 2.0 * one.z @ other.z.mT
        if one is other:
            r2.diagonal(dim1=1, dim2=2).zero_()
        r2 = r2.clamp_min(0.0)
        for j in range(one.choice.shape[1]):
            differs = (one.choice[:, j, None] != other.choice[None, :, j]).to(r2.dtype)
            r2 += (-2.0 * theta.lengthscale[:, self.layout.p + j]).exp()[:, None, None] * differs
        return r2

    def _by_dimension(self, theta: Hyperparameters, one: Features, other: Features) -> Tensor:  # (H, D, m, n)
        """r_i^2 of each dimension."""
        p = self.layout.p
        r2 = (one.z.mT[:, :, :, None] - other.z.mT[:, :, None, :]).square_()
        if len(self._cosine_of):
            extra = r2[:, p:]
            r2 = r2[:, :p]
            r2[:, self._cosine_of] += extra
        if one.choice.shape[1]:
            differs = (one.choice.T[:, :, None] != other.choice.T[:, None, :]).to(r2.dtype)
            r2 = torch.cat([r2, (-2.0 * theta.lengthscale[:, p:]).exp()[:, :, None, None] * differs], dim=1)
        return r2

    def to_units(self, by_z: Tensor, features: Features) -> Tensor:  # (H, m, p + q) -> (H, m, p)
        """Derivative by the units, from that by the embedded points."""
        by_column = by_z * features.slope
        p = self.layout.p
        if not len(self._cosine_of):
            return by_column
        by_unit = by_column[:, :, :p].clone()
        by_unit[:, :, self._cosine_of] += by_column[:, :, p:]
        return by_unit
