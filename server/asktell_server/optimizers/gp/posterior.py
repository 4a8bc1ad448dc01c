"""A Gaussian process given observations: what follows for points that were not tried.

Model (Rasmussen & Williams 2006, chapter 2) and notation are those of fit.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.fit import LEAST_NOISE, noise_variance
from asktell_server.optimizers.gp.kernel import Hyperparameters, Inputs, Kernel
from asktell_server.optimizers.safe_math import cholesky, inverse_of_lower, solved_by_lower

MIN_VARIANCE = 1e-12


class Geometry:
    """What of a posterior depends on where was observed, not on what: the factor of K, for H hyperparameter sets.

    `inverse_factor` is L^-1 with L L' = K: predictions and their gradients are then products of matrices.
    """

    def __init__(
        self,
        kernel: Kernel,
        theta: Hyperparameters,
        inputs: Inputs,
        known_variance: Array,  # (n,)
    ) -> None:
        self.kernel, self.theta, self.inputs = kernel, theta, inputs
        self.features = kernel.features(theta, inputs)
        covariance = kernel.covariance(theta, self.features, self.features)
        _diagonal(covariance)[:] += noise_variance(theta, known_variance)
        self.factor = cholesky(covariance)
        self.inverse_factor = inverse_of_lower(self.factor)

    def __len__(self) -> int:
        return len(self.inputs)

    def noises(self) -> Array:  # (H, n)
        """The variance of each observation's noise, with what was added to make K positive definite."""
        found: Array = np.square(self.factor).sum(axis=2) - self.kernel.variance(self.theta)[:, None]
        return found

    def noise(self) -> Array:  # (H,)
        """The variance of an observation's noise, on average."""
        found: Array = np.maximum(self.noises().mean(axis=1), LEAST_NOISE)
        return found

    def extended(self, inputs: Inputs, known_variance: Array) -> Geometry:  # known_variance (m,)
        """With m further points: L and its inverse get m more rows, in O(n^2 m) instead of O(n^3)."""
        kernel, theta = self.kernel, self.theta
        new = object.__new__(Geometry)
        new.kernel, new.theta, new.inputs = kernel, theta, self.inputs.joined(inputs)
        added = kernel.features(theta, inputs)
        below = solved_by_lower(self.factor, kernel.covariance(theta, self.features, added)).mT
        noise = noise_variance(theta, known_variance)
        schur = kernel.covariance(theta, added, added) - below @ below.mT
        diagonal = _diagonal(schur)
        diagonal += noise
        # Of a point next to observed ones little but the noise is left, and rounding may take some of that.
        np.maximum(diagonal, noise, out=diagonal)
        corner = cholesky(schur, kernel.variance(theta))
        corner_inverse = inverse_of_lower(corner)
        h, n, m = len(theta), len(self), len(inputs)
        new.factor = np.zeros((h, n + m, n + m))
        new.factor[:, :n, :n], new.factor[:, n:, :n], new.factor[:, n:, n:] = self.factor, below, corner
        new.inverse_factor = np.zeros((h, n + m, n + m))
        new.inverse_factor[:, :n, :n], new.inverse_factor[:, n:, n:] = self.inverse_factor, corner_inverse
        new.inverse_factor[:, n:, :n] = -corner_inverse @ (below @ self.inverse_factor)
        new.features = self.features.joined(added)
        return new


def mixed(mean: Array, variance: Array) -> tuple[Array, Array]:  # (H, m), (H, m) -> (m,), (m,)
    """Mean and variance of an equal mixture over the hyperparameter sets."""
    return mean.mean(axis=0), variance.mean(axis=0) + mean.var(axis=0)


def _diagonal(matrices: Array) -> Array:  # (H, n, n) -> (H, n), a view to write to
    view: Array = np.einsum("hii->hi", matrices)
    return view


class Trend(ABC):
    """A known function that is added to the process: with it the model is y_i = t(x_i) + c + f(x_i) + e_i."""

    @abstractmethod
    def value(self, inputs: Inputs) -> Array:  # (m,)
        """The function at m points."""

    @abstractmethod
    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:  # (m,), (m, p)
        """The function, and its gradient by the numeric units."""


class Posterior:
    """The process given n observations, for H hyperparameter sets side by side, each with outcomes of its own."""

    def __init__(
        self,
        geometry: Geometry,
        y: Array,  # (H, n) or (n,)
        trend: Trend | None = None,
        trend_observed: Array | None = None,  # (n,) the trend where was observed
    ) -> None:
        self.geometry = geometry
        self.y = np.broadcast_to(y, (len(geometry.theta), y.shape[-1]))
        self.trend, self._trend_observed = trend, trend_observed
        inverse_factor = geometry.inverse_factor
        ones = inverse_factor.sum(axis=2)
        left = self.y if trend_observed is None else self.y - trend_observed
        whitened = (inverse_factor @ left[:, :, None])[:, :, 0]
        # The constant that maximises the likelihood: (1' K^-1 y) / (1' K^-1 1).
        self.constant = (ones * whitened).sum(axis=1) / (ones * ones).sum(axis=1)  # (H,)
        self.alpha = (inverse_factor.mT @ (whitened - self.constant[:, None] * ones)[:, :, None])[:, :, 0]  # (H, n)

    def extended(self, inputs: Inputs, known_variance: Array, y: Array) -> Posterior:  # known_variance (m,), y (H, m)
        """With m further outcomes."""
        geometry = self.geometry.extended(inputs, known_variance)
        observed = self._trend_observed
        if self.trend is not None and observed is not None:
            observed = np.concatenate([observed, self.trend.value(inputs)])
        return Posterior(geometry, np.concatenate([self.y, y], axis=1), self.trend, observed)

    def predict(self, inputs: Inputs) -> tuple[Array, Array]:  # (H, m), (H, m)
        """Mean and variance of t + f + c (R & W eqs. 2.25, 2.26)."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        k = kernel.covariance(theta, kernel.features(theta, inputs), geometry.features)
        whitened = k @ geometry.inverse_factor.mT
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        variance = kernel.variance(theta)[:, None] - (whitened * whitened).sum(axis=2)
        if self.trend is not None:
            mean = mean + self.trend.value(inputs)
        return mean, np.maximum(variance, MIN_VARIANCE)

    def mean(self, inputs: Inputs) -> Array:  # (H, m)
        """The mean alone, which is cheaper."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        k = kernel.covariance(theta, kernel.features(theta, inputs), geometry.features)
        mean: Array = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        return mean if self.trend is None else mean + self.trend.value(inputs)

    def mean_observed(self) -> Array:  # (H, n)
        """The mean where was observed, without the kernel: of K alpha = y - t - c, with K = k + noise, the noise's share is taken off."""
        found: Array = self.y - self.geometry.noises() * self.alpha
        return found

    def mean_with_gradient(self, inputs: Inputs) -> tuple[Array, Array]:  # (H, m), (H, m, p)
        """The mean alone, and its gradient by the numeric units."""
        geometry = self.geometry
        kernel, theta = geometry.kernel, geometry.theta
        features = kernel.features(theta, inputs)
        k, _, by_r2 = kernel.with_derivatives(theta, features, geometry.features)
        mean = self.constant[:, None] + (k @ self.alpha[:, :, None])[:, :, 0]
        weights = np.broadcast_to(self.alpha[:, None, :], k.shape)
        by_mean = kernel.to_units(kernel.pulled_to_features(weights, by_r2, features, geometry.features), features)
        if self.trend is None:
            return mean, by_mean
        value, by_unit = self.trend.value_and_gradient(inputs)
        return mean + value, by_mean + by_unit

    def at(self, inputs: Inputs) -> PosteriorAt:
        """Mean and variance, and what their gradients need."""
        return PosteriorAt(self, inputs)

    def predict_with_gradient(self, inputs: Inputs) -> tuple[Array, Array, Array, Array]:
        """Mean (H, m), variance (H, m), and their gradients by the numeric units (H, m, p)."""
        at = PosteriorAt(self, inputs)
        one, zero = np.ones_like(at.mean), np.zeros_like(at.mean)
        return at.mean, at.variance, at.gradients(one, zero), at.gradients(zero, one)

    def joint(self, inputs: Inputs) -> tuple[Array, Array]:  # (H, m), (H, m, m)
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

    def leave_one_out(self) -> tuple[Array, Array]:  # (H, n), (H, n)
        """Mean and variance, noise included, of each y given all others (R & W eq. 5.12), which also say what the constant is.

        With the constant profiled out the inverse of K in the mean is P = K^-1 - K^-1 1 1' K^-1 / (1' K^-1 1) [1]_.

        .. [1] O. Dubrule. Cross validation of kriging in a unique neighborhood. Mathematical Geology 15 (1983).
        """
        inverse_factor = self.geometry.inverse_factor
        precision = np.square(inverse_factor).sum(axis=1)
        ones = inverse_factor.sum(axis=2)
        by_row = (inverse_factor.mT @ ones[:, :, None])[:, :, 0]
        projected = precision - np.square(by_row) / np.square(ones).sum(axis=1, keepdims=True)
        # Of a single observation nothing is left.
        residual = np.where(projected > 1e-12 * precision, self.alpha / projected, 0.0)
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
        variance = kernel.variance(theta)[:, None] - (self._whitened * self._whitened).sum(axis=2)
        self.variance = np.maximum(variance, MIN_VARIANCE)
        self._by_trend: Array | None = None
        if posterior.trend is not None:
            trend, self._by_trend = posterior.trend.value_and_gradient(inputs)
            self.mean = self.mean + trend

    def gradients(self, by_mean: Array, by_variance: Array) -> Array:  # (H, m), (H, m) -> (H, m, p)
        """Gradient by the numeric units of what has these derivatives by mean and variance, for each set by itself."""
        geometry = self._posterior.geometry
        kernel, features = geometry.kernel, self._features
        weights = self._whitened @ geometry.inverse_factor
        weights *= -2.0 * by_variance[:, :, None]
        weights += by_mean[:, :, None] * self._posterior.alpha[:, None, :]
        found = kernel.to_units(kernel.pulled_to_features(weights, self._by_r2, features, geometry.features), features)
        return found if self._by_trend is None else found + by_mean[:, :, None] * self._by_trend
