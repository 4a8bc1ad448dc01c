"""How much wider than it says a model's intervals have to be to hold what they promise, by its own results left out one by one.

The width of a Gaussian process's predictions rests on one set of hyperparameters, or a few, that explain the data best, which
makes it too sure of itself where the data leave much open, and too cautious once a search has converged. Errors of predictions of
results that were left out, in units of the predicted deviation, show by how much. So deviations are multiplied by a factor,

    factor = (q / 1.645)^(n / (n + PRIOR))          q: the ceil(0.9 (n + 1))-th smallest of the n errors' sizes

at which nine of ten results would have been in their 90 % interval. Estimating the scale of the variance by cross-validation goes
back to Cressie and is robust to a wrong covariance function [1]_; the rank of q is that of the jackknife's prediction intervals [2]_;
the exponent holds the factor near 1 while there is little to learn it from. What is said to people is scaled so; the search
for points to try is not.

.. [1] F. Bachoc. Cross validation and maximum likelihood estimations of hyper-parameters of Gaussian processes with model
   misspecification. Computational Statistics & Data Analysis 66 (2013).
.. [2] R. F. Barber, E. J. Candes, A. Ramdas, R. J. Tibshirani. Predictive inference with the jackknife+. Annals of Statistics 49 (2021).
"""

from __future__ import annotations

import math

import numpy as np

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.posterior import Posterior, mixed

Z_90 = 1.6448536269514722
"""Half the width of the standard normal's central 90 % interval."""
PRIOR = 2.0
"""How many errors weigh as much as what is expected beforehand: log factor ~ N(0, 0.6^2), where log q has variance 0.8 / n."""
FEWEST = 10
"""Of fewer errors there is no 90 % quantile."""
LEAST = 0.1
"""A model that errs ten times less than it says may yet err."""


def standardised_errors(posterior: Posterior) -> Array:  # (n,)
    """Each result's distance from its prediction by all others, in deviations."""
    mean, variance = mixed(*posterior.leave_one_out())
    errors: Array = (posterior.y[0] - mean) / np.sqrt(variance)
    return errors


def factor(errors: Array) -> float:  # (n,)
    """By what deviations are to be multiplied; 1 where the errors cannot tell."""
    if len(errors) < FEWEST or not np.isfinite(errors).all():
        return 1.0
    return float(_tempered(np.sort(np.abs(errors))[_rank(len(errors))], len(errors)))


def factors_without(errors: Array) -> Array:  # (n,) -> (n,)
    """For each error the factor that the others ask for, so that no result widens its own interval."""
    left = len(errors) - 1
    if left < FEWEST or not np.isfinite(errors).all():
        return np.ones(len(errors))
    sizes = np.abs(errors)
    order = np.argsort(sizes, kind="stable")
    rank = _rank(left)
    places = np.empty(len(errors), dtype=np.intp)
    places[order] = np.arange(len(errors))
    # Without one of the smaller ones, the next larger one takes the rank.
    found: Array = _tempered(np.where(places <= rank, sizes[order[rank + 1]], sizes[order[rank]]), left)
    return found


def _rank(n: int) -> int:
    return min(math.ceil(0.9 * (n + 1)), n) - 1


def _tempered(size: Array, n: int) -> Array:
    found: Array = np.maximum(size / Z_90, LEAST) ** (n / (n + PRIOR))
    return found
