"""What a model's own results, left out one by one, say of it: how much wider its intervals have to be to hold what they promise, and,
of labels, how far it foresees them (`foresight`).

The width of a Gaussian process's predictions rests on one set of hyperparameters, or a few, that explain the data best, which
makes it too sure of itself where the data leave much open, and too cautious once a search has converged. Errors of predictions of
results that were left out, in units of the predicted deviation, show by how much. So deviations are multiplied by a factor,

    factor = (q / 1.645)^(n / (n + PRIOR))        in [LEAST, MOST]; q: the 0.9 quantile of the n errors' sizes

at which nine of ten results would have been in their 90 % interval. Estimating the scale of the variance by cross-validation is
robust to a wrong covariance function [1]_; q is the quantile of the jackknife's prediction intervals [2]_, interpolated;
the exponent holds the factor near 1 while there is little to learn it from. Explanations use the factor, suggestions only where
it widens; the search for points to try does not know it.

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
"""With fewer results nothing is scaled: of the others, nine at least, the 0.9 quantile is to lie among them."""
FORESEEN = 0.2
"""From this share of foreseen variance on a model of labels is relied on in full."""
LEAST, MOST = 0.5, 10.0
"""A search's results crowd where it converged, and what errs little there may err more elsewhere; and a few results that nothing
explains are no reason to call everything unknown.
"""


def standardised_errors(posterior: Posterior) -> Array:  # (n,)
    """Each result's distance from its prediction by all others, in deviations."""
    mean, variance = mixed(*posterior.leave_one_out())
    errors: Array = (posterior.y[0] - mean) / np.sqrt(variance)
    return errors


def deviation_factor(errors: Array) -> float:  # (n,)
    """By what deviations are to be multiplied; 1 where the errors cannot tell."""
    return 1.0 if _say_nothing(errors) else _factor(errors)


def factors_without(errors: Array) -> Array:  # (n,) -> (n,)
    """For each error the factor that the others ask for, so that no result widens its own interval."""
    if _say_nothing(errors):
        return np.ones(len(errors))
    return np.array([_factor(np.delete(errors, i)) for i in range(len(errors))])


def _say_nothing(errors: Array) -> bool:
    return len(errors) < FEWEST or not np.isfinite(errors).all()


def _factor(errors: Array) -> float:
    n = len(errors)
    size = float(np.quantile(np.abs(errors), 0.9, method="weibull"))
    return math.pow(min(max(size / Z_90, LEAST), MOST), n / (n + PRIOR))


def foresight(labels: Posterior) -> float:
    """How far a model of labels can be relied on, 0 to 1: by the share of their variance that it foresees when each is left out in turn.
    Failures at random it cannot foresee, and caution about what it makes of them would be a search at random.
    """
    y = labels.y[0]
    n = len(y)
    if n < 2:
        return 0.0
    missed = np.square(y - labels.leave_one_out()[0].mean(axis=0)).sum()
    # What the mean of the others misses.
    plain = np.square((y - y.mean()) * (n / (n - 1))).sum()
    if not plain > 0:
        return 1.0
    return float(np.clip((1.0 - missed / plain) / FORESEEN, 0.0, 1.0))
