"""The hyperparameters of a Gaussian process: their priors, the posterior given observations, its maxima, and draws from it.

Model (Rasmussen & Williams 2006, chapter 2):  y_i = c + f(x_i) + e_i,  f ~ GP(0, k),  e_i ~ N(0, s_i^2 or noise)

with k of kernel.py, c profiled out, s_i the standard error of observation i where it is known, and a learned noise
variance where it is not.
y comes standardised (transform.py), so the priors are on absolute scales:

    log lengthscale      N(log(D) / 2, 1): the expected distance of two points grows as sqrt D [1]_; shorter and tighter than
                         there, since with few data longer ones let one parameter explain everything
    log s, log a         N(0, 1) and N(-1, 1.5^2)
    log noise            N(-12, 3^2): broad, so that a deterministic objective is followed closely and a noisy one is not; or, where it
                         is to be judged whether there is noise, 1/2 N(-12, 3^2) + 1/2 N(-2, 2^2)
    log warp exponents   N(0, 0.3^2) [2]_

.. [1] C. Hvarfner, E. O. Hellsten, L. Nardi. Vanilla Bayesian optimization performs great in high dimensions. ICML 2024.
.. [2] J. Snoek et al. Input warping for Bayesian optimization of non-stationary functions. ICML 2014.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.kernel import A, Hyperparameters, Inputs, Kernel, library
from asktell_server.optimizers.gp.lbfgs import minimize
from asktell_server.optimizers.safe_math import LOG_SQRT_2PI, NumericalError

LOG_NOISY = math.log(0.1)
MUCH_NOISE = (-2.0, 2.0)
"""The other half of an even-handed prior of the noise."""
LEAST_NOISE = 1e-12
"""Where rounding begins to show."""
LEAST_KNOWN = 1e-8
"""Added to the squares of standard errors that are known, which may be nothing but rounding."""
LARGE = 200_000
"""Numbers in one array, over hyperparameter sets, dimensions and pairs of observations, from which on fits compute with torch. Those that
are large enough for a GPU too may run there (device.py)."""


@dataclass(frozen=True)
class Priors:
    """Mean and standard deviation of the logarithm of each hyperparameter, and the box that it is kept in."""

    lengthscale: tuple[float, float] = (0.0, 1.0)  # the mean grows by log(D) / 2
    scale: tuple[float, float] = (0.0, 1.0)
    additive: tuple[float, float] = (-1.0, 1.5)
    noise: tuple[float, float] = (-12.0, 3.0)
    much_noise: tuple[float, float] | None = None  # with even odds
    warp: tuple[float, float] = (0.0, 0.3)
    min_noise: float = 1e-8

    def of(self, kernel: Kernel) -> Prior:
        """The density over one kernel's hyperparameters."""
        d, p = kernel.layout.size, kernel.layout.p
        center = self.lengthscale[0] + 0.5 * math.log(max(d, 1))
        rows = [
            *[(center, self.lengthscale[1], math.log(5e-3), center + 5.0)] * d,
            (*self.scale, -7.0, 6.0),
            (*self.additive, -9.0, 6.0),
            (*self.noise, math.log(self.min_noise), 1.0),
            *[(*self.warp, -1.5, 1.5)] * (2 * p),
        ]
        table = np.array(rows)
        return Prior(table[:, 0], table[:, 1], table[:, 2], table[:, 3], d + 2, self.much_noise)


@dataclass(frozen=True)
class Prior(Generic[A]):
    """A density of rows of logarithms, in the order of `Hyperparameters.packed`: normal in each, but that of the noise is one half
    `much_noise` if there is such. And the box that rows are kept in.
    """

    means: A  # (P,)
    deviations: A  # (P,)
    lower: A  # (P,)
    upper: A  # (P,)
    noise: int  # the noise's column
    much_noise: tuple[float, float] | None

    def log_density(self, packed: A) -> tuple[A, A]:  # (H, P) -> (H,), (H, P)
        """Up to a constant, and its gradient."""
        use = library(packed)
        off = (packed - self.means) / self.deviations
        value: A = -0.5 * (off * off).sum(1)
        by_packed = -off / self.deviations
        if self.much_noise is None:
            return value, by_packed
        # What the other half of the noise's density adds to log N(x; exact) and to its derivative.
        mean, deviation = self.much_noise
        away = (packed[:, self.noise] - mean) / deviation
        exact = -0.5 * off[:, self.noise] ** 2 - use.log(self.deviations[self.noise])
        much = -0.5 * away**2 - math.log(deviation)
        share = 1.0 / (1.0 + use.exp(exact - much))
        by_packed[:, self.noise] += share * (-away / deviation - by_packed[:, self.noise])
        return value + use.logaddexp(exact, much) - exact, by_packed

    def tensors(self: Prior[Array], device: str | None = None) -> Prior[Tensor]:
        """The same for torch, on a device of its own or on the CPU."""
        rows = (self.means, self.deviations, self.lower, self.upper)
        means, deviations, lower, upper = (torch.tensor(part, device=device) for part in rows)
        return Prior(means, deviations, lower, upper, self.noise, self.much_noise)


@dataclass(frozen=True)
class Data(Generic[A]):
    """n observations of one metric."""

    inputs: Inputs[A]
    y: A  # (n,) standardised, smaller is better
    known_variance: A  # (n,) squared standard errors on the scale of y, 0 where unknown

    def __len__(self) -> int:
        return len(self.y)

    def tensors(self: Data[Array], device: str | None = None) -> Data[Tensor]:
        """The same for torch, on a device of its own or on the CPU.

        In memory of its own: in a product a vector's alignment may decide over the last bits.
        """
        y, known = (torch.tensor(part, device=device) for part in (self.y, self.known_variance))
        return Data(self.inputs.tensors(device), y, known)


def noise_variance(theta: Hyperparameters[A], known_variance: A) -> A:  # (n,) -> (H, n)
    """The variance of each observation's noise: what is known of it, or the learned one."""
    use = library(known_variance)
    found: A = use.where(known_variance > 0, known_variance + LEAST_KNOWN, use.exp(theta.noise)[:, None])
    return found


def log_posterior(
    kernel: Kernel,
    packed: A,  # (H, P)
    data: Data[A],
    prior: Prior[A],
) -> tuple[A, A]:  # (H,), (H, P)
    """Log marginal likelihood (R & W eq. 5.8) plus log prior, and the gradient (eq. 5.9), for H sets side by side."""
    use, layout = library(packed), kernel.layout
    theta = Hyperparameters.unpacked(packed, layout)
    n, d = len(data), layout.size
    features = kernel.features(theta, data.inputs, by_warp=True)
    k, k_first, by_r2 = kernel.with_derivatives(theta, features, features)
    i = np.arange(n)
    covariance = k + 0.0
    covariance[:, i, i] += noise_variance(theta, data.known_variance)
    log_determinant, inverse, broken = _inverted(covariance)
    # The constant that maximises the likelihood: (1' K^-1 y) / (1' K^-1 1).
    row_sums = inverse.sum(1)
    constant = (row_sums @ data.y) / row_sums.sum(1)
    residual = data.y - constant[:, None]
    alpha = (inverse @ residual[:, :, None])[:, :, 0]
    value = -0.5 * ((alpha * residual).sum(1) + log_determinant) - n * LOG_SQRT_2PI
    by_covariance = 0.5 * (alpha[:, :, None] * alpha[:, None, :] - inverse)
    by_z = 2.0 * kernel.pulled_to_features(by_covariance, by_r2, features, features)
    gradient = use.zeros_like(packed)
    by_lengthscale = -(by_z * features.z).sum(1)
    gradient[:, : layout.p] = by_lengthscale[:, : layout.p]
    if by_lengthscale.shape[1] > layout.p:
        gradient[:, layout.conditional] += by_lengthscale[:, layout.p :]
    if layout.size > layout.p:
        pull = kernel.pulled_apart(by_covariance, by_r2, data.inputs)
        gradient[:, layout.p : d] = -2.0 * pull * use.exp(-2.0 * theta.lengthscale[:, layout.p :])
    total = (by_covariance * k).sum((1, 2))
    first = (by_covariance * k_first).sum((1, 2))
    gradient[:, d] = first
    gradient[:, d + 1] = total - first
    gradient[:, d + 2] = use.exp(theta.noise) * (by_covariance[:, i, i] * (data.known_variance == 0)).sum(1)
    assert features.by_warp is not None
    by_warp = (by_z[:, None] * features.by_warp).sum(2)
    folded = by_warp[:, :, : layout.p]
    if by_warp.shape[2] > layout.p:
        folded[:, :, layout.conditional] += by_warp[:, :, layout.p :]
    gradient[:, d + 3 :] = folded.reshape(len(packed), -1)
    log_prior, by_packed = prior.log_density(packed)
    value = use.where(broken, -math.inf, value + log_prior)
    return value, use.where(broken[:, None], 0.0, gradient + by_packed)


def _inverted(covariance: A) -> tuple[A, A, A]:  # (H, n, n) -> (H,), (H, n, n), (H,)
    """Logarithms of the determinants, inverses, and which matrices have none and count as the identity."""
    matrix = torch.from_numpy(covariance) if isinstance(covariance, np.ndarray) else covariance
    factor, info = torch.linalg.cholesky_ex(matrix)
    # On a GPU `info` is 0 where the matrix holds NaN.
    broken = (info != 0) | ~torch.isfinite(factor).flatten(1).all(dim=1)
    if broken.any():
        identity = torch.eye(matrix.shape[1], dtype=torch.float64, device=matrix.device)
        factor = torch.where(broken[:, None, None], identity, factor)
    log_determinant = 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return _as(covariance, log_determinant), _as(covariance, torch.cholesky_inverse(factor)), _as(covariance, broken)


def _as(model: A, found: Tensor) -> A:
    """The same numbers for the library that `model` is of."""
    same: A = found.numpy() if isinstance(model, np.ndarray) else found
    return same


def fit(
    kernel: Kernel,
    data: Data,
    rng: np.random.Generator,
    *,
    starts: int = 4,
    max_calls: int = 60,
    priors: Priors | None = None,
    noisy: bool = True,
    device: str | None = None,
) -> tuple[Hyperparameters, Array]:  # H = starts sets, best first; (H,) log posteriors
    """Maxima of the posterior, from the prior's mean and draws near it, some of them `noisy`. Raises NumericalError if there is none.

    `device`: see `_LogDensity`.
    """
    prior = (priors or Priors()).of(kernel)
    means = prior.means
    draws = rng.standard_normal((starts - 1, len(means)))
    # Lengthscales below the prior's mean find structure; those above it are reached from the mean.
    start = np.concatenate([means[None], means + draws * np.minimum(prior.deviations, 1.0)])
    start[1:, : kernel.layout.size] -= 1.0
    if noisy:
        # Whether outcomes are noise or structure is a question with two answers, each a maximum: look for both.
        start[1::2, kernel.layout.size + 2] = LOG_NOISY
    log_density = _LogDensity(kernel, data, prior, starts, device)

    def negative(packed: Array, _rows: NDArray[np.intp]) -> tuple[Array, Array]:
        value, gradient = log_density(packed)
        return -value, -gradient

    found, value = minimize(
        negative, start, prior.lower, prior.upper, max_calls=max_calls, tolerance=1e-3, first_step=0.5
    )
    order = np.argsort(value, kind="stable")
    if not np.isfinite(value[order[0]]):
        raise NumericalError("no hyperparameters give a finite likelihood")
    return Hyperparameters.unpacked(found[order], kernel.layout), -value[order]


class _LogDensity:
    """`log_posterior` as a function of the hyperparameters alone: with torch on the device that is named, of which errors of all kinds may
    come, or without one on the CPU, by that library which is faster for so many sets. What goes in and out is numpy's.
    """

    def __init__(self, kernel: Kernel, data: Data, prior: Prior, sets: int, device: str | None = None) -> None:
        self._kernel, self._data, self._prior, self._device = kernel, data, prior, device
        self._is_large = device is not None or sets * kernel.layout.size * len(data) ** 2 > LARGE
        if self._is_large:
            self._tensors = data.tensors(device), prior.tensors(device)

    def __call__(self, packed: Array) -> tuple[Array, Array]:  # (H, P) -> (H,), (H, P)
        if not self._is_large:
            return log_posterior(self._kernel, packed, self._data, self._prior)
        value, gradient = log_posterior(self._kernel, torch.as_tensor(packed, device=self._device), *self._tensors)
        return value.cpu().numpy(), gradient.cpu().numpy()


def largest_array(kernel: Kernel, sets: int, n: int) -> int:
    """How many numbers the largest array of `log_posterior` holds, for so many sets and observations."""
    return sets * (kernel.layout.size if kernel.is_additive else 1) * n**2


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
    device: str | None = None,
) -> Hyperparameters:  # H sets
    """H draws from the posterior of the hyperparameters, one from each of H chains of Hamiltonian Monte Carlo [1]_.

    Coordinates are scaled by the prior's deviations (1 at most), in which a posterior that few data have narrowed is about round.
    Trajectories are of random length around leaps * step; each chain adapts its step by its own acceptance. The chains start
    at maxima, which lie inside what they are to explore, so few rounds do. `device`: see `_LogDensity`.

    .. [1] R. M. Neal. MCMC using Hamiltonian dynamics. Handbook of Markov Chain Monte Carlo, chapter 5 (2011).
    """
    prior = (priors or Priors()).of(kernel)
    lower, upper = prior.lower, prior.upper
    unit = np.minimum(prior.deviations, 1.0)
    position = start.packed()
    chains = len(position)
    log_density = _LogDensity(kernel, data, prior, chains, device)
    value, gradient = log_density(position)
    steps = np.full((chains, 1), step)
    for _ in range(rounds):
        momentum = rng.standard_normal(position.shape)
        length = steps * rng.uniform(0.7, 1.3, (chains, 1))
        energy = value - 0.5 * np.vecdot(momentum, momentum)
        stride = length * unit
        x, g, p = position, gradient, momentum
        for _ in range(leaps):
            p = p + 0.5 * stride * g
            x = x + stride * p
            # A wall reflects (Neal 2011, section 5.5.1).
            below, above = x < lower, x > upper
            x = np.where(below, 2 * lower - x, np.where(above, 2 * upper - x, x))
            x = np.minimum(np.maximum(x, lower), upper)
            p = np.where(below | above, -p, p)
            new_value, g = log_density(x)
            p = p + 0.5 * stride * g
        change = new_value - 0.5 * np.vecdot(p, p) - energy
        accept = np.isfinite(change) & (np.log(rng.random(chains)) < change)
        position = np.where(accept[:, None], x, position)
        value = np.where(accept, new_value, value)
        gradient = np.where(accept[:, None], g, gradient)
        steps = np.where(accept[:, None], steps * 1.15, steps * 0.5)
    return Hyperparameters.unpacked(position, kernel.layout)


def prior_mean(kernel: Kernel, priors: Priors) -> Hyperparameters:
    """What to go on with where nothing can be fitted: the prior's means, with noise enough for any data."""
    means = priors.of(kernel).means.copy()
    means[kernel.layout.size + 2] = math.log(1e-2)
    return Hyperparameters.unpacked(means[None], kernel.layout)
