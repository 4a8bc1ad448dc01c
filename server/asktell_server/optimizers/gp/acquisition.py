"""How much a point promises, on a log scale: the terms of the acquisition function, each with its gradient.

The acquisition function is a sum of terms; `total` adds them up. Values are logarithms throughout, which keeps gradients alive
where the promise is tiny [1]_. Smaller outcomes are better.

Shapes: m candidate points, H hyperparameter sets (and fantasies: each set has its own), p numeric dimensions.

.. [1] S. Ament et al. Unexpected improvements to expected improvement for Bayesian optimization. NeurIPS 2023.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.kernel import Inputs
from asktell_server.optimizers.gp.posterior import Posterior
from asktell_server.optimizers.safe_math import log_h, log_ndtr, logmeanexp


class Term(ABC):
    """One addend of the acquisition function."""

    @abstractmethod
    def value(self, inputs: Inputs) -> Array:  # (m,)
        """The term at m points."""

    @abstractmethod
    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:  # (m,), (m, p)
        """The term, and its gradient by the numeric units."""


class LogExpectedImprovement(Term):
    """log of the mean over hyperparameter sets of E max(best - f(x), 0).

    With noisy observations `best` is not the lowest of them but the lowest posterior mean at an observed point, which does not
    mistake luck for merit.
    """

    def __init__(self, posterior: Posterior, best: Array) -> None:  # best (H,)
        self._posterior = posterior
        self._best = best

    def value(self, inputs: Inputs) -> Array:
        mean, variance = self._posterior.predict(inputs)
        deviation = np.sqrt(variance)
        value = np.log(deviation) + log_h((self._best[:, None] - mean) / deviation)[0]
        return logmeanexp(value, axis=0)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        at = self._posterior.at(inputs)
        deviation = np.sqrt(at.variance)
        u = (self._best[:, None] - at.mean) / deviation
        log_part, slope = log_h(u)
        value = np.log(deviation) + log_part
        share = softmax(value, axis=0)
        by_mean = -share * slope / deviation
        by_variance = share * (0.5 - 0.5 * slope * u) / at.variance
        return logmeanexp(value, axis=0), at.gradients(by_mean, by_variance).sum(axis=0)


class LogProbabilityBelow(Term):
    """`weight` times the log of the mean over hyperparameter sets of P(f(x) <= 0): that a constraint is kept, or a trial succeeds."""

    def __init__(self, posterior: Posterior, extra_variance: float = 0.0, weight: float = 1.0) -> None:
        self._posterior = posterior
        self._extra_variance = extra_variance
        self._weight = weight

    def value(self, inputs: Inputs) -> Array:
        mean, variance = self._posterior.predict(inputs)
        return self._weight * logmeanexp(log_ndtr(-mean / np.sqrt(variance + self._extra_variance))[0], axis=0)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        at = self._posterior.at(inputs)
        variance = at.variance + self._extra_variance
        deviation = np.sqrt(variance)
        u = -at.mean / deviation
        value, slope = log_ndtr(u)
        share = softmax(value, axis=0)
        gradient = at.gradients(-share * slope / deviation, -0.5 * share * slope * u / variance)
        return self._weight * logmeanexp(value, axis=0), self._weight * gradient.sum(axis=0)


class NegativeMean(Term):
    """-scale times the mean: the logarithm of one over the expected cost, of a model of the logarithm of cost."""

    def __init__(self, posterior: Posterior, scale: float) -> None:
        self._posterior = posterior
        self._scale = scale

    def value(self, inputs: Inputs) -> Array:
        found: Array = -self._scale * self._posterior.mean(inputs).mean(axis=0)
        return found

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        mean, _, d_mean, _ = self._posterior.predict_with_gradient(inputs)
        return -self._scale * mean.mean(axis=0), -self._scale * d_mean.mean(axis=0)


def total(terms: Sequence[Term], inputs: Inputs) -> Array:  # (m,)
    """The acquisition function."""
    found: Array = np.sum([term.value(inputs) for term in terms], axis=0)
    return found


def total_and_gradient(terms: Sequence[Term], inputs: Inputs) -> tuple[Array, Array]:  # (m,), (m, p)
    """The acquisition function and its gradient by the numeric units."""
    pairs = [term.value_and_gradient(inputs) for term in terms]
    return np.sum([value for value, _ in pairs], axis=0), np.sum([gradient for _, gradient in pairs], axis=0)
