"""One metric's model through the life of a study: when it is fitted, on what, and what it says now.

Fitting is the expensive part, so it follows a fixed schedule and runs ahead of need: with n observations of the metric the
hyperparameters are those fitted on the first m(n) of them (`fitted_length`). What has been observed since then extends the
Cholesky factor row by row. Nothing depends on when or in which order that is computed, so a model that lived through the study
and one that replays it agree bit for bit.

A fit looks at no more than `fit_size` observations and a posterior rests on no more than `active_size` of the first m, plus those
that came since: the best ones, and others spread over the space (`chosen`). That bounds the cost however long the study.

Standard errors are the metric's. On the model's scale, which bends, an error is the longer of the two ways from the value to the ends
of the interval of one error about it: beside a value far out the scale's slope is next to nothing, and would make a certainty of a
number that says nothing. And what says nothing has no part in the scale (`telling`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.gp.fit import (
    LEAST_NOISE,
    MUCH_NOISE,
    Data,
    Priors,
    fit,
    largest_array,
    noise_variance,
    prior_mean,
    sample,
)
from asktell_server.optimizers.gp.kernel import Hyperparameters, Inputs, Kernel
from asktell_server.optimizers.gp.posterior import Geometry, Posterior, Trend
from asktell_server.optimizers.gp.transform import Transform
from asktell_server.optimizers.safe_math import NumericalError

TrendOf = Callable[[Data], Trend | None]
"""A trend for these observations: from what is known beforehand, as far as they bear it out."""
Generator = Callable[[int], np.random.Generator]
"""m -> the random numbers of the fit on m observations."""


def no_trend(_: Data) -> None:
    """Nothing is known beforehand."""


NOISY = 1e-3
"""The noise's variance, as a share of that of all observations, from which on much remains open however many there are."""
VAGUE = 10.0
"""An error so many times the distance of the values from their median says nothing, unless the value is SURE errors away from it."""
SURE = 3.0
UNKNOWN = 1e3
"""The largest error on the model's scale, and the farthest that a value with an error lies from 0: it weighs nothing any more."""
RIVAL = 2.0
"""A maximum whose log posterior is lower than the highest by more than this is not among those that are averaged over."""


@dataclass(frozen=True)
class FitConfig:
    """Effort of a model. `fit_size`, `active_size`: see the head of this module; `starts`, `calls`: of the search for
    hyperparameters; `sets`: hyperparameter sets that are drawn and averaged over up to `averaged` observations, or
    `averaged_noisy` if they are noisy, `rounds`: of the Markov chains that draw them; `min_noise`: in place of the priors' with
    more than `averaged` observations, which show whether an outcome is exact; `eager`: up to so many observations a fit sees
    them all.
    """

    fit_size: int = 150
    active_size: int = 400
    starts: int = 3
    calls: int = 50
    sets: int = 6
    averaged: int = 30
    averaged_noisy: int = 100
    rounds: int = 6
    min_noise: float = LEAST_NOISE
    eager: int = 24


def fitted_length(n: int, eager: int) -> int:
    """m(n): on how many leading observations the hyperparameters for n >= 1 observations are fitted; non-decreasing.

    All of them while there are few; then one step of the schedule m -> m + max(1, min(m // 12, 40)) behind, so that the fit
    can be done before the ask that needs it comes.
    """
    if n <= eager:
        return n
    m = eager
    while (following := m + max(1, min(m // 12, 40))) < n:
        m = following
    return m


def chosen(
    x: Array,  # (n, d)
    y: Array,  # (n,) smaller is better
    size: int,
) -> NDArray[np.intp]:  # (k,) increasing
    """Which `size` of n observations to keep: the best half; for the rest, those farthest from what is kept already.

    The farthest-point rule (Gonzalez 1985) keeps the whole space covered, in O(size n d).
    """
    n = len(y)
    if n <= size:
        return np.arange(n)
    by_value = np.argsort(y, kind="stable")
    kept = by_value[: size // 2].tolist()
    # Of very many observations a fixed stride is as good a base to choose from.
    others = by_value[size // 2 :]
    others = np.sort(others)[:: max(1, len(others) // (8 * size))]
    distance = np.full(len(others), np.inf)
    for at in kept:
        np.minimum(distance, np.square(x[others] - x[at]).sum(axis=1), out=distance)
    while len(kept) < size:
        pick = int(np.argmax(distance))
        kept.append(int(others[pick]))
        np.minimum(distance, np.square(x[others] - x[others[pick]]).sum(axis=1), out=distance)
        distance[pick] = -1.0  # never again, even if all that is left repeats what is kept
    return np.sort(np.array(kept))


def telling(values: Array, errors: Array) -> Array:  # (n,), (n,) 0 where unknown -> (n,)
    """The values, those that say nothing replaced by the median of the others: what a transform is to be made for."""
    if not errors.any():
        return values
    with np.errstate(over="ignore"):
        off = np.abs(values - _median(values))
        # Where most are equal, as on a plateau, the others say how far values lie from it.
        usual = _median(off) or (_median(off[off > 0]) if (off > 0).any() else math.inf)
        is_vague = (errors > VAGUE * usual) & (SURE * errors > off)
    if is_vague.all() or not is_vague.any():
        return values
    return np.where(is_vague, _median(values[~is_vague]), values)


def _median(values: Array) -> float:
    """The lower one, which is one of the values: between two of them there may be an overflow."""
    return float(np.sort(values)[(len(values) - 1) // 2])


@dataclass
class _Base:
    """What a posterior starts from; `geometry` and `trend_observed` grow with the observations after the first m."""

    m: int
    geometry: Geometry
    rows: NDArray[np.intp]  # which of the first m it rests on
    transform: Transform  # of the first m
    trend: Trend | None
    trend_observed: Array


class MetricModel:
    """The model of one metric. Observations are only ever added at the end."""

    def __init__(
        self,
        kernel: Kernel,
        transform: Callable[[Array], Transform],
        generator: Generator,
        config: FitConfig,
        priors: Priors,
        trend_of: TrendOf = no_trend,
        merit: Callable[[Array], Array] = lambda values: values,
        device: FitDevice | None = None,
    ) -> None:
        """`merit`: from the first m values, how much each is worth keeping when not all can be; smaller is better. `device`: where
        large fits run; on the CPU without.
        """
        self.kernel = kernel
        self._device = device or FitDevice()
        self._trend_of, self._merit = trend_of, merit
        self._transform_of, self._generator, self._config, self._priors = transform, generator, config, priors
        self._inputs: Inputs | None = None
        self._units: Array = np.empty((0, 0))
        self._values: Array = np.empty(0)
        self._errors: Array = np.empty(0)
        # m -> what was fitted, and why not if it was not
        self._fits: dict[int, tuple[Hyperparameters, Trend | None, str]] = {}
        self._base: _Base | None = None
        self.failure = ""
        """Why the posterior rests on the prior's hyperparameters; empty if it does not."""

    def __len__(self) -> int:
        return len(self._values)

    def add(self, inputs: Inputs, units: Array, values: Array, errors: Array) -> None:
        """Adds k observations: their inputs, canonical units (k, d), values, and standard errors (0 where unknown)."""
        first = self._inputs is None
        self._inputs = inputs if self._inputs is None else self._inputs.joined(inputs)
        self._units = units if first else np.concatenate([self._units, units])
        self._values = np.concatenate([self._values, values])
        self._errors = np.concatenate([self._errors, errors])

    def prepare(self) -> bool:
        """Does the fit that the next observation's ask will need, if that is not done; returns whether it did anything."""
        m = fitted_length(len(self) + 1, self._config.eager)
        if m > len(self) or m in self._fits:
            return False
        self._fitted(m)
        return True

    def posterior(self) -> tuple[Posterior, Transform]:
        """The posterior given all observations, and the transform to its scale. Raises NumericalError."""
        n = len(self)
        assert self._inputs is not None
        m = fitted_length(n, self._config.eager)
        base = self._base_at(m) if self._base is None or self._base.m != m else self._base
        for new in range(m + len(base.geometry) - len(base.rows), n):
            inputs = self._inputs.rows(slice(new, new + 1))
            if base.trend is None:
                observed = base.trend_observed
            else:
                observed = np.concatenate([base.trend_observed, base.trend.value(inputs)])
            grown = base.geometry.extended(inputs, self._known_variance(base.transform, np.array([new])))
            base.geometry, base.trend_observed = grown, observed  # both or, if the numerics fail, neither
        self._base = base
        transform = self._transform_at(n)
        z = self._outcomes(transform, np.concatenate([base.rows, np.arange(m, n)]))
        trend_observed = None if base.trend is None else base.trend_observed
        return Posterior(base.geometry, z, base.trend, trend_observed), transform

    def _base_at(self, m: int) -> _Base:
        assert self._inputs is not None
        y = self._values[:m]
        rows = chosen(self._units[:m], self._merit(y), self._config.active_size)
        transform = self._transform_at(m)
        inputs, known = self._inputs.rows(rows), self._known_variance(transform, rows)
        theta, trend, self.failure = self._fitted(m)
        try:
            geometry = Geometry(self.kernel, theta, inputs, known)
        except NumericalError as error:
            self.failure = str(error)
            geometry = Geometry(self.kernel, prior_mean(self.kernel, self._priors), inputs, known)
        observed = np.empty(0) if trend is None else trend.value(inputs)
        return _Base(m, geometry, rows, transform, trend, observed)

    def even_handed(self) -> MetricModel:
        """A model of the same observations that takes noise for as likely as structure. A search had better bet on structure, which
        it may find; who asks what the results say is not to be told of structure that may be noise.
        """
        assert self._inputs is not None
        priors = replace(self._priors, much_noise=MUCH_NOISE)
        made = MetricModel(
            *(self.kernel, self._transform_of, self._generator, self._config, priors, self._trend_of, self._merit),
            device=self._device,
        )
        made.add(self._inputs, self._units, self._values, self._errors)
        return made

    def inputs_at(self, rows: NDArray[np.intp]) -> Inputs:
        """The inputs of some observations."""
        assert self._inputs is not None
        return self._inputs.rows(rows)

    def mean_at(
        self,
        believed: Posterior,
        rows: NDArray[np.intp],  # (k,)
        pending: NDArray[np.intp],  # (a,)
    ) -> Array:  # (H, k + a)
        """The mean at some observations and pending points, given this model's posterior with pending points added at its end."""
        resting = self._resting()
        places = np.minimum(np.searchsorted(resting, rows), len(resting) - 1)
        observed = believed.mean_observed()
        ahead = observed[:, len(resting) + pending]
        if (resting[places] == rows).all():
            return np.concatenate([observed[:, places], ahead], axis=1)
        return np.concatenate([believed.mean(self.inputs_at(rows)), ahead], axis=1)

    def _resting(self) -> NDArray[np.intp]:  # increasing
        """The observations that the posterior rests on, in its order."""
        assert self._base is not None
        return np.concatenate([self._base.rows, np.arange(self._base.m, len(self))])

    def units_at(self, rows: NDArray[np.intp]) -> Array:  # (k, d)
        """Canonical units of some observations."""
        found: Array = self._units[rows]
        return found

    def _transform_at(self, m: int) -> Transform:
        """The transform that the first m values ask for."""
        return self._transform_of(telling(self._values[:m], self._errors[:m]))

    def _outcomes(self, transform: Transform, rows: NDArray[np.intp]) -> Array:
        """Values on the model's scale."""
        with np.errstate(over="ignore"):  # of values that the transform was not made for
            z = transform.forward(self._values[rows])
        return np.where(self._errors[rows] > 0, np.clip(z, -UNKNOWN, UNKNOWN), z)

    def _known_variance(self, transform: Transform, rows: NDArray[np.intp]) -> Array:
        """Squares of standard errors on the model's scale."""
        errors = self._errors[rows]
        if not errors.any():
            return np.zeros(len(rows))
        # Next to nothing is still known, which 0 is not.
        on_scale = np.clip(transform.error(self._values[rows], errors), 1.0 / UNKNOWN**4, UNKNOWN)
        return np.where(errors > 0, on_scale, 0.0) ** 2

    def _priors_of(self, m: int) -> Priors:
        return self._priors if m <= self._config.averaged else replace(self._priors, min_noise=self._config.min_noise)

    def _maxima(self, data: Data, m: int) -> tuple[Hyperparameters, Array]:
        """Maxima of the posterior of the hyperparameters, best first, and their heights."""
        return self._device.run(
            lambda device: fit(
                self.kernel,
                data,
                self._generator(m),
                starts=self._config.starts,
                max_calls=self._config.calls,
                priors=self._priors_of(m),
                # A dozen results look like noise as easily as like a function; and then no search gets anywhere.
                noisy=m > self._config.averaged or self._priors.much_noise is not None,
                device=device,
            ),
            largest_array(self.kernel, self._config.starts, len(data)),
        )

    def _averaged(self, theta: Hyperparameters, height: Array, data: Data, m: int) -> Hyperparameters:
        """The best set, or draws around it and a rival: few data leave much open, and one set would be too sure of itself."""
        is_noisy = np.median(noise_variance(theta.rows(slice(0, 1)), data.known_variance)) >= NOISY
        if m > (self._config.averaged_noisy if is_noisy else self._config.averaged):
            return theta.rows(slice(0, 1))
        # The few rounds of a chain take it nowhere else, so chains start only where the mass can be.
        rivals = min(2, int((height > height[0] - RIVAL).sum()))
        repeated = theta.rows(np.arange(self._config.sets) % rivals)
        return self._device.run(
            lambda device: sample(
                self.kernel,
                data,
                repeated,
                self._generator(m),
                rounds=self._config.rounds,
                priors=self._priors_of(m),
                device=device,
            ),
            largest_array(self.kernel, len(repeated), len(data)),
        )

    def _fitted(self, m: int) -> tuple[Hyperparameters, Trend | None, str]:
        if m not in self._fits:
            assert self._inputs is not None
            y = self._values[:m]
            transform = self._transform_at(m)
            rows = chosen(self._units[:m], self._merit(y), self._config.fit_size)
            z = self._outcomes(transform, rows)
            data = Data(self._inputs.rows(rows), z, self._known_variance(transform, rows))
            failure = ""
            trend = self._trend_of(data)
            if trend is not None:
                data = replace(data, y=data.y - trend.value(data.inputs))
            try:
                theta = self._averaged(*self._maxima(data, m), data, m)
            except NumericalError as error:
                failure = str(error)
                theta = prior_mean(self.kernel, self._priors)
            # Of earlier fits none is needed any more.
            needed = fitted_length(len(self), self._config.eager)
            self._fits = {k: v for k, v in self._fits.items() if k >= needed} | {m: (theta, trend, failure)}
        return self._fits[m]
