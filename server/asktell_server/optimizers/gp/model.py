"""A Gaussian process: hyperparameters by maximum a posteriori, and what follows for points that were not tried.

Model (Rasmussen & Williams 2006, chapter 2):  y_i = c + f(x_i) + e_i,  f ~ GP(0, k),  e_i ~ N(0, s_i^2 or noise)

with k of kernel.py, c profiled out, s_i the standard error of observation i where it is known, and a learned noise
variance where it is not.
y comes standardised (transform.py), so the priors are on absolute scales:

    log lengthscale      N(log(D) / 2, 1): the expected distance of two points grows as sqrt D [1]_; shorter and tighter than
                         there, since with few data longer ones let one parameter explain everything
    log s, log a         N(0, 1) and N(-1, 1.5^2)
    log noise            N(-12, 3^2): broad, so that a deterministic objective is followed closely and a noisy one is not
    log warp exponents   N(0, 0.3^2) [2]_

.. [1] C. Hvarfner, E. O. Hellsten, L. Nardi. Vanilla Bayesian optimization performs great in high dimensions. ICML 2024.
.. [2] J. Snoek et al. Input warping for Bayesian optimization of non-stationary functions. ICML 2014.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from asktell_server.optimizers.gp.kernel import Hyperparameters, Inputs, Kernel
from asktell_server.optimizers.gp.lbfgs import minimize
from asktell_server.optimizers.safe_math import LOG_SQRT_2PI, NumericalError, cholesky, inverse_of_lower

MIN_VARIANCE = 1e-12
LOG_NOISY = math.log(0.1)
LEAST_NOISE = 1e-8


@dataclass(frozen=True)
class Priors:
    """Mean and standard deviation of the logarithm of each hyperparameter, and the box that it is kept in."""

    lengthscale: tuple[float, float] = (0.0, 1.0)  # the mean grows by log(D) / 2
    scale: tuple[float, float] = (0.0, 1.0)
    additive: tuple[float, float] = (-1.0, 1.5)
    noise: tuple[float, float] = (-12.0, 3.0)
    warp: tuple[float, float] = (0.0, 0.3)
    min_noise: float = LEAST_NOISE

    def packed(self, kernel: Kernel) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # 4 x (P,)
        """Means, deviations, lower and upper bounds in the order of `Hyperparameters.packed`."""
        d, p = kernel.layout.size, kernel.layout.p
        center = self.lengthscale[0] + 0.5 * math.log(max(d, 1))
        rows = [
            *[(center, self.lengthscale[1], math.log(5e-3), center + 5.0)] * d,
            (*self.scale, -7.0, 6.0),
            (*self.additive, -9.0, 6.0),
            (*self.noise, math.log(self.min_noise), 1.0),
            *[(*self.warp, -1.5, 1.5)] * (2 * p),
        ]
        table = torch.tensor(rows, dtype=torch.float64)
        return table[:, 0], table[:, 1], table[:, 2], table[:, 3]


@dataclass(frozen=True)
class Data:
    """n observations of one metric."""

    inputs: Inputs
    y: Tensor  # (n,) standardised, smaller is better
    known_variance: Tensor  # (n,) squared standard errors on the scale of y, 0 where unknown

    def __len__(self) -> int:
        return len(self.y)


def noise_variance(theta: Hyperparameters, known_variance: Tensor) -> Tensor:  # (n,) -> (H, n)
    """The variance of each observation's noise: what is known of it, or the learned one."""
    return torch.where(known_variance > 0, known_variance + LEAST_NOISE, theta.noise.exp()[:, None])


def log_posterior(
    kernel: Kernel,
    packed: Tensor,  # (H, P)
    data: Data,
    priors: tuple[Tensor, Tensor, Tensor, Tensor],
) -> tuple[Tensor, Tensor]:  # (H,), (H, P)
    """Log marginal likelihood (R & W eq. 5.8) plus log prior, and the gradient (eq. 5.9), for H sets side by side."""
    layout = kernel.layout
    theta = Hyperparameters.unpacked(packed, layout)
    n, d = len(data), layout.size
    features = kernel.features(theta, data.inputs, by_warp=True)
    k, k_first, by_r2 = kernel.with_derivatives(theta, features, features)
    noise = theta.noise.exp()
    diagonal = noise_variance(theta, data.known_variance)
    covariance = k + torch.diag_embed(diagonal)
    factor, info = torch.linalg.cholesky_ex(covariance)
    broken = (info != 0) | ~torch.isfinite(factor).flatten(1).all(dim=1)
    if broken.any():
        eye = torch.eye(n, dtype=torch.float64)
        factor = torch.where(broken[:, None, None], eye, factor)
    inverse = torch.cholesky_inverse(factor)
    # The constant that maximises the likelihood: (1' K^-1 y) / (1' K^-1 1).
    row_sums = inverse.sum(dim=2)
    constant = (row_sums @ data.y) / row_sums.sum(dim=1)
    residual = data.y - constant[:, None]
    alpha = (inverse @ residual[:, :, None])[:, :, 0]
    value = -0.5 * (alpha * residual).sum(dim=1) - factor.diagonal(dim1=1, dim2=2).log().sum(dim=1) - n * LOG_SQRT_2PI
    by_covariance = 0.5 * (alpha[:, :, None] * alpha[:, None, :] - inverse)
    by_z = 2.0 * kernel.pulled_to_features(by_covariance, by_r2, features, features)
    gradient = torch.zeros_like(packed)
    by_lengthscale = -(by_z * features.z).sum(dim=1)
    gradient[:, : layout.p] = by_lengthscale[:, : layout.p]
    if by_lengthscale.shape[1] > layout.p:
        gradient[:, torch.from_numpy(layout.conditional)] += by_lengthscale[:, layout.p :]
    for j in range(layout.size - layout.p):
        differs = (data.inputs.choice[:, j, None] != data.inputs.choice[None, :, j]).to(torch.float64)
        pull = (by_covariance * by_r2[:, layout.p + j if kernel.is_additive else 0] * differs).sum(dim=(1, 2))
        gradient[:, layout.p + j] = -2.0 * pull * (-2.0 * theta.lengthscale[:, layout.p + j]).exp()
    total = (by_covariance * k).sum(dim=(1, 2))
    first = (by_covariance * k_first).sum(dim=(1, 2))
    gradient[:, d] = first
    gradient[:, d + 1] = total - first
    unknown = (data.known_variance == 0).to(torch.float64)
    gradient[:, d + 2] = noise * (by_covariance.diagonal(dim1=1, dim2=2) @ unknown)
    assert features.by_warp is not None
    by_warp = (by_z[:, None] * features.by_warp).sum(dim=2)
    folded = by_warp[:, :, : layout.p].clone()
    if by_warp.shape[2] > layout.p:
        folded[:, :, torch.from_numpy(layout.conditional)] += by_warp[:, :, layout.p :]
    gradient[:, d + 3 :] = folded.flatten(1)
    means, deviations, _, _ = priors
    off = (packed - means) / deviations
    value = value - 0.5 * (off * off).sum(dim=1)
    gradient = gradient - off / deviations
    value = torch.where(broken, -torch.inf, value)
    return value, torch.where(broken[:, None], 0.0, gradient)


def fit(
    kernel: Kernel,
    data: Data,
    rng: np.random.Generator,
    *,
    starts: int = 4,
    max_calls: int = 60,
    priors: Priors | None = None,
    noisy: bool = True,
) -> tuple[Hyperparameters, Tensor]:  # H = starts sets, best first; (H,) log posteriors
    """Maxima of the posterior, from the prior's mean and draws near it, some of them `noisy`. Raises NumericalError if there is none."""
    table = (priors or Priors()).packed(kernel)
    means, deviations, lower, upper = table
    draws = torch.from_numpy(rng.standard_normal((starts - 1, len(means))))
    # Lengthscales below the prior's mean find structure; those above it are reached from the mean.
    spread = deviations.clamp_max(1.0)
    start = torch.cat([means[None], means + draws * spread])
    start[1:, : kernel.layout.size] -= 1.0
    if noisy:
        # Whether outcomes are noise or structure is a question with two answers, each a maximum: look for both.
        start[1::2, kernel.layout.size + 2] = LOG_NOISY

    def negative(packed: Tensor, _rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = log_posterior(kernel, packed, data, table)
        return -value, -gradient

    found, value = minimize(negative, start, lower, upper, max_calls=max_calls, tolerance=1e-3, first_step=0.5)
    order = torch.argsort(value)
    if not bool(torch.isfinite(value[order[0]])):
        raise NumericalError("no hyperparameters give a finite likelihood")
    return Hyperparameters.unpacked(found[order], kernel.layout), -value[order]


def sample(
    kernel: Kernel,
    data: Data,
    start: Hyperparameters,  # H sets
    rng: np.random.Generator,
    *,
    rounds: int = 6,
    leaps: int = 10,
    step: float = 0.15,
    priors: Priors | None = None,
) -> Hyperparameters:  # H sets
    """H draws from the posterior of the hyperparameters, one from each of H chains of Hamiltonian Monte Carlo [1]_.

    Coordinates are scaled by the prior's deviations (1 at most), in which a posterior that few data have narrowed is about round.
    Trajectories are of random length around leaps * step; each chain adapts its step by its own acceptance. The chains start
    at maxima, which lie inside what they are to explore, so few rounds do.

    .. [1] R. M. Neal. MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, chapter 5 (2011).
    """
    table = (priors or Priors()).packed(kernel)
    _, deviations, lower, upper = table
    unit = deviations.clamp_max(1.0)
    position = start.packed()
    chains = len(position)
    value, gradient = log_posterior(kernel, position, data, table)
    steps = torch.full((chains, 1), step, dtype=torch.float64)
    for _ in range(rounds):
        momentum = torch.from_numpy(rng.standard_normal(position.shape))
        length = steps * torch.from_numpy(rng.uniform(0.7, 1.3, (chains, 1)))
        energy = value - 0.5 * momentum.square().sum(dim=1)
        x, g, p = position, gradient, momentum
        for _ in range(leaps):
            p = p + 0.5 * length * unit * g
            x = x + length * unit * p
            # A wall reflects (Neal 2011, section 5.5.1).
            outside = (x < lower) | (x > upper)
            x = torch.where(x < lower, 2 * lower - x, torch.where(x > upper, 2 * upper - x, x)).clamp(lower, upper)
            p = torch.where(outside, -p, p)
            new_value, g = log_posterior(kernel, x, data, table)
            p = p + 0.5 * length * unit * g
        change = new_value - 0.5 * p.square().sum(dim=1) - energy
        accept = torch.isfinite(change) & (torch.from_numpy(np.log(rng.random(chains))) < change)
        position = torch.where(accept[:, None], x, position)
        value = torch.where(accept, new_value, value)
        gradient = torch.where(accept[:, None], g, gradient)
        steps = torch.where(accept[:, None], steps * 1.15, steps * 0.5)
    return Hyperparameters.unpacked(position, kernel.layout)


def prior_mean(kernel: Kernel, priors: Priors) -> Hyperparameters:
    """What to go on with where nothing can be fitted: the prior's means, with noise enough for any data."""
    means = priors.packed(kernel)[0].clone()
    means[kernel.layout.size + 2] = math.log(1e-2)
    return Hyperparameters.unpacked(means[None], kernel.layout)


class Geometry:
    """What of a posterior depends on where was observed, not on what: the factor of K, for H hyperparameter sets.

    `inverse_factor` is L^-1 with L L' = K: predictions and their gradients are then products of matrices.
    """

    def __init__(
        self,
        kernel: Kernel,
        theta: Hyperparameters,
        inputs: Inputs,
        known_variance: Tensor,  # (n,)
    ) -> None:
        self.kernel, self.theta, self.inputs = kernel, theta, inputs
        self.features = kernel.features(theta, inputs)
        covariance = kernel.covariance(theta, self.features, self.features)
        self.factor = cholesky(covariance + torch.diag_embed(noise_variance(theta, known_variance)))
        self.inverse_factor = inverse_of_lower(self.factor)

    def __len__(self) -> int:
        return len(self.inputs)

    def noises(self) -> Tensor:  # (H, n)
        """The variance of each observation's noise, with what was added to make K positive definite."""
        return self.factor.square().sum(dim=2) - self.kernel.variance(self.theta)[:, None]

    def noise(self) -> Tensor:  # (H,)
        """The variance of an observation's noise, on average."""
        return self.noises().mean(dim=1).clamp_min(LEAST_NOISE)

    def extended(self, inputs: Inputs, known_variance: Tensor) -> Geometry:  # known_variance (m,)
        """With m further points: L and its inverse get m more rows, in O(n^2 m) instead of O(n^3)."""
        kernel, theta = self.kernel, self.theta
        new = object.__new__(Geometry)
        new.kernel, new.theta, new.inputs = kernel, theta, self.inputs.joined(inputs)
        added = kernel.features(theta, inputs)
        below = kernel.covariance(theta, added, self.features) @ self.inverse_factor.mT
        noise = noise_variance(theta, known_variance)
        schur = kernel.covariance(theta, added, added) + torch.diag_embed(noise) - below @ below.mT
        # Of a point next to observed ones little but the noise is left, and rounding may take some of that.
        diagonal = schur.diagonal(dim1=1, dim2=2)
        diagonal.copy_(torch.maximum(diagonal, noise))
        corner = cholesky(schur, kernel.variance(theta))
        corner_inverse = inverse_of_lower(corner)
        h, n, m = len(theta), len(self), len(inputs)
        new.factor = self.factor.new_zeros((h, n + m, n + m))
        new.factor[:, :n, :n], new.factor[:, n:, :n], new.factor[:, n:, n:] = self.factor, below, corner
        new.inverse_factor = self.factor.new_zeros((h, n + m, n + m))
        new.inverse_factor[:, :n, :n], new.inverse_factor[:, n:, n:] = self.inverse_factor, corner_inverse
        new.inverse_factor[:, n:, :n] = -corner_inverse @ (below @ self.inverse_factor)
        new.features = self.features.joined(added)
        return new


class Trend(ABC):
    """A known function that is added to the process: with it the model is y_i = t(x_i) + c + f(x_i) + e_i."""

    @abstractmethod
    def value(self, inputs: Inputs) -> Tensor:  # (m,)
        """The function at m points."""

    @abstractmethod
    def value_and_gradient(self, inputs: Inputs) -> tuple[Tensor, Tensor]:  # (m,), (m, p)
        """The function, and its gradient by the numeric units."""


class Posterior:
    """The process given n observations, for H hyperparameter sets side by side, each with outcomes of its own."""

    def __init__(
        self,
        geometry: Geometry,
        y: Tensor,  # (H, n) or (n,)
        trend: Trend | None = None,
        trend_observed: Tensor | None = None,  # (n,) the trend where was observed
    ) -> None:
        self.geometry = geometry
        self.y = y.expand(len(geometry.theta), -1)
        self.trend, self._trend_observed = trend, trend_observed
        inverse_factor = geometry.inverse_factor
        ones = inverse_factor.sum(dim=2)
        left = self.y if trend_observed is None else self.y - trend_observed
        whitened = (inverse_factor @ left[:, :, None])[:, :, 0]
        # The constant that maximises the likelihood: (1' K^-1 y) / (1' K^-1 1).
        self.constant = (ones * whitened).sum(dim=1) / (ones * ones).sum(dim=1)  # (H,)
        self.alpha = (inverse_factor.mT @ (whitened - self.constant[:, None] * ones)[:, :, None])[:, :, 0]  # (H, n)

    def extended(self, inputs: Inputs, known_variance: Tensor, y: Tensor) -> Posterior:  # known_variance (m,), y (H, m)
        """With m further outcomes."""
        geometry = self.geometry.extended(inputs, known_variance)
        observed = self._trend_observed
        if self.trend is not None and observed is not None:
            observed = torch.cat([observed, self.trend.value(inputs)])
        return Posterior(geometry, torch.cat([self.y, y], dim=1), self.trend, observed)

    def predict(self, inputs: Inputs) -> tuple[Tensor, Tensor]:  # (H, m), (H, m)
        """Mean and variance of t + f + c (R & W eqs. 2.25, 2.26)."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        k = kernel.covariance(theta, kernel.features(theta, inputs), geometry.features)
        whitened = k @ geometry.inverse_factor.mT
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        variance = kernel.variance(theta)[:, None] - (whitened * whitened).sum(dim=2)
        if self.trend is not None:
            mean = mean + self.trend.value(inputs)
        return mean, variance.clamp_min(MIN_VARIANCE)

    def mean(self, inputs: Inputs) -> Tensor:  # (H, m)
        """The mean alone, which is cheaper."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        k = kernel.covariance(theta, kernel.features(theta, inputs), geometry.features)
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        return mean if self.trend is None else mean + self.trend.value(inputs)

    def mean_observed(self) -> Tensor:  # (H, n)
        """The mean where was observed, without the kernel: of K alpha = y - t - c, with K = k + noise, the noise's share is taken off."""
        return self.y - self.geometry.noises() * self.alpha

    def mean_with_gradient(self, inputs: Inputs) -> tuple[Tensor, Tensor]:  # (H, m), (H, m, p)
        """The mean alone, and its gradient by the numeric units."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        features = kernel.features(theta, inputs)
        k, _, by_r2 = kernel.with_derivatives(theta, features, geometry.features)
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        weights = self.alpha[:, None, :].expand_as(k)
        by_mean = kernel.to_units(kernel.pulled_to_features(weights, by_r2, features, geometry.features), features)
        if self.trend is None:
            return mean, by_mean
        value, by_unit = self.trend.value_and_gradient(inputs)
        return mean + value, by_mean + by_unit

    def at(self, inputs: Inputs) -> PosteriorAt:
        """Mean and variance, and what their gradients need."""
        return PosteriorAt(self, inputs)

    def predict_with_gradient(self, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean (H, m), variance (H, m), and their gradients by the numeric units (H, m, p)."""
        at = PosteriorAt(self, inputs)
        one, zero = torch.ones_like(at.mean), torch.zeros_like(at.mean)
        return at.mean, at.variance, at.gradients(one, zero), at.gradients(zero, one)

    def joint(self, inputs: Inputs) -> tuple[Tensor, Tensor]:  # (H, m), (H, m, m)
        """Mean and covariance of t + f + c at m points together."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        features = kernel.features(theta, inputs)
        k = kernel.covariance(theta, features, geometry.features)
        whitened = k @ geometry.inverse_factor.mT
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        if self.trend is not None:
            mean = mean + self.trend.value(inputs)
        return mean, kernel.covariance(theta, features, features) - whitened @ whitened.mT

    def leave_one_out(self) -> tuple[Tensor, Tensor]:  # (H, n), (H, n)
        """Mean and variance, noise included, of each y given all others (R & W eq. 5.12), which also say what the constant is.

        With the constant profiled out the inverse of K in the mean is P = K^-1 - K^-1 1 1' K^-1 / (1' K^-1 1) [1]_.

        .. [1] O. Dubrule. Cross validation of kriging in a unique neighborhood. Mathematical Geology 15 (1983).
        """
        inverse_factor = self.geometry.inverse_factor
        precision = inverse_factor.square().sum(dim=1)
        ones = inverse_factor.sum(dim=2)
        by_row = (inverse_factor.mT @ ones[:, :, None])[:, :, 0]
        projected = precision - by_row.square() / ones.square().sum(dim=1, keepdim=True)
        # Of a single observation nothing is left.
        residual = torch.where(projected > 1e-12 * precision, self.alpha / projected, 0.0)
        return self.y - residual, 1.0 / precision


class PosteriorAt:
    """Mean (H, m) and variance (H, m) of a posterior at m points, from which a function of them finds its gradient."""

    def __init__(self, posterior: Posterior, inputs: Inputs) -> None:
        self._posterior = posterior
        geometry = posterior.geometry
        kernel, theta = geometry.kernel, geometry.theta
        self._features = kernel.features(theta, inputs)
        k, _, self._by_r2 = kernel.with_derivatives(theta, self._features, geometry.features)
        self._whitened = k @ geometry.inverse_factor.mT
        self.mean = posterior.constant[:, None] + (k @ posterior.alpha[:, :, None])[:, :, 0]
        variance = kernel.variance(theta)[:, None] - (self._whitened * self._whitened).sum(dim=2)
        self.variance = variance.clamp_min_(MIN_VARIANCE)
        self._by_trend: Tensor | None = None
        if posterior.trend is not None:
            trend, self._by_trend = posterior.trend.value_and_gradient(inputs)
            self.mean = self.mean + trend

    def gradients(self, by_mean: Tensor, by_variance: Tensor) -> Tensor:  # (H, m), (H, m) -> (H, m, p)
        """Gradient by the numeric units of what has these derivatives by mean and variance, for each set by itself."""
        geometry = self._posterior.geometry
        kernel, features = geometry.kernel, self._features
        weights = self._whitened @ geometry.inverse_factor
        weights *= -2.0 * by_variance[:, :, None]
        weights.addcmul_(by_mean[:, :, None], self._posterior.alpha[:, None, :])
        found = kernel.to_units(kernel.pulled_to_features(weights, self._by_r2, features, geometry.features), features)
        return found if self._by_trend is None else found + by_mean[:, :, None] * self._by_trend
