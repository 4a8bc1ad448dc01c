"""What earlier studies teach a new one: a trend for the model of its first objective.

Each source has a model of its own of the metric, over those of its parameters that the new study has as well; what the other
parameters of the source did is noise to it, and what those of the new study alone do, the new study has to find out. With mu_j
the mean of source j's model, the new study's model is

    y(x) = sum_j w_j b_j(x) + c + f(x) + e        b_j = T_j(mu_j(x))

T_j takes the source's predictions for the new study's points through the very transform (transform.py) that the new results
went through, so that a source that differs by scale, shift and what it has seen gives exactly the new study's shape. What is
left, f, is a Gaussian process as without sources: the mean of a stack of processes as in [1]_, with weights.

The weights say how far the results of the new study bear a source out. Given a set S of sources, with K the covariance at the
prior's mean,

    y ~ N(c + B w_S, v K)    w_j ~ N(1 / |S|, v W^2)    v ~ InverseGamma    c flat

has a marginal likelihood in closed form (conjugate regression), and w is the mean over all S of the mean of w_S, weighted by
posterior probability (spike and slab, [2]_), nothing below 0. A source that orders the new results wrongly gains no weight, and
f explains the results as it would without. This asks the question of [3]_, which source ranks the target's results well, of the
shape instead of the ranks, and takes what cannot be blamed on chance instead of what a bootstrap favours.

A source knows its own function no better than its results told it. Once the target's better results lie closer together than that,
all that the source says of them is its errors, sharply bent, and it is left out (RESOLVED): it has led as far as it could.

.. [1] D. Golovin et al. Google Vizier: a service for black-box optimization. KDD 2017, section 3.3.
.. [2] E. I. George, R. E. McCulloch. Variable selection via Gibbs sampling. JASA 88 (1993).
.. [3] M. Feurer, B. Letham, F. Hutter, E. Bakshy. Practical transfer learning for Bayesian optimization. arXiv:1802.02219 (2018).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import softmax

from asktell_server.domain.space import CategoricalParameter, DiscreteParameter, Parameter
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import SourceStudy
from asktell_server.optimizers.design import Stream, generator
from asktell_server.optimizers.encoding import Array, Column, Encoding, Scale
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.gp.fit import Data, Priors, prior_mean
from asktell_server.optimizers.gp.foreign import metric_of, shared, unit_near
from asktell_server.optimizers.gp.kernel import EDGE, Inputs, Kernel, Layout
from asktell_server.optimizers.gp.metric import FitConfig, MetricModel
from asktell_server.optimizers.gp.posterior import Geometry, Trend
from asktell_server.optimizers.gp.transform import ObjectiveTransform
from asktell_server.optimizers.safe_math import NumericalError

LEAST = 3
"""Results that a source must have to be modelled."""
MOST_ROWS = 600
"""Observations that the models of all sources together rest on."""
TABULATED = 10_000
"""A parameter with more values than this is mapped by its scale."""
CHANNEL = 128
SLAB = 0.5
"""W."""
EMPTY = 0.5
"""Prior probability that no source helps; the other sizes of S are equally likely."""
SHAPE, RATE = 1.0, 1.0
"""Of the inverse gamma distribution of v."""
NEGLIGIBLE = 0.02
"""Weights below this count as 0."""
MAX_LOG = 100.0
RESOLVED = 0.1
"""A source is of use while the better half of the target's results spreads out, as it sees them, by this share of its errors there."""


class _Map(ABC):
    """The unit of a numeric parameter in the source, of the unit that it has in the target."""

    @abstractmethod
    def __call__(self, x: Array) -> tuple[Array, Array]:  # (m,) -> (m,), (m,)
        """The unit there, and its derivative."""


class _Table(_Map):
    """Of a finite parameter: exact at its values, straight lines in between."""

    def __init__(self, here: Array, there: Array) -> None:  # (k,), (k,)
        self._here, self._there = here, there

    def __call__(self, x: Array) -> tuple[Array, Array]:
        if len(self._here) == 1:
            return np.broadcast_to(self._there, x.shape), np.zeros_like(x)
        inside = np.clip(x, self._here[0], self._here[-1])
        right = np.clip(np.searchsorted(self._here, inside), 1, len(self._here) - 1)
        left = right - 1
        slope = (self._there[right] - self._there[left]) / (self._here[right] - self._here[left])
        value = np.where(
            inside == self._here[right], self._there[right], self._there[left] + slope * (inside - self._here[left])
        )
        return value, np.where(inside == x, slope, 0.0)


class _Ranges(_Map):
    """From one range to another by way of the number, clipped."""

    def __init__(self, here: Scale, there: Scale) -> None:
        self._here, self._there = here, there

    def __call__(self, x: Array) -> tuple[Array, Array]:
        here, there = self._here, self._there
        if here == there:
            return x, np.ones_like(x)
        number = here.start + here.span * x
        slope = np.full_like(x, here.span)
        if here.log:
            root = np.exp(number)
            number = np.sqrt(root * root + here.quarter) if here.quarter else root
            slope = slope * (root / number) * root
        inside = np.clip(number, there.low, there.high)
        slope = np.where(inside == number, slope, 0.0)
        if not there.log:
            return np.clip((inside - there.start) / there.span, 0.0, 1.0), slope / there.span
        square = inside * inside - there.quarter if there.quarter else inside
        unit = (0.5 * np.log(square) if there.quarter else np.log(square)) - there.start
        by_number = inside / square if there.quarter else 1.0 / inside
        return np.clip(unit / there.span, 0.0, 1.0), slope * by_number / there.span


def map_of(here: Parameter, column_here: Column, there: Parameter, column_there: Column) -> _Map:
    """The map between two numeric parameters of one kind."""
    size = here.cardinality
    if size is None or (size > TABULATED and not isinstance(here, DiscreteParameter)):
        if there.cardinality == 1:
            return _Table(np.array([0.5]), np.array([0.5]))
        return _Ranges(column_here.scale(), column_there.scale())
    values = [here.level(k) for k in range(size)]
    units = [unit_near(there, column_there, value) for value in values]
    assert not isinstance(there, CategoricalParameter)
    return _Table(np.array([column_here.unit(value) for value in values]), np.array(units, dtype=np.float64))


class Bridge:
    """From inputs of the target to inputs of a source's model, whose dimensions are the shared parameters that vary in it."""

    def __init__(self, target: Cube, source: Encoding) -> None:
        here, there = target.encoding, source
        at_here = {p.name: i for i, p in enumerate(here.space.parameters)}
        self._at_there = {p.name: i for i, p in enumerate(there.space.parameters)}
        names = [n for n in shared(there.space, here.space) if there.space.by_name[n].cardinality != 1]
        numeric = [n for n in names if not isinstance(there.space.by_name[n], CategoricalParameter)]
        categorical = [n for n in names if n not in numeric]
        self._names, self._source = [*numeric, *categorical], there
        conditional = [i for i, n in enumerate(numeric) if any(e.space.by_name[n].condition for e in (here, there))]
        p, size = len(numeric), len(names)
        self.layout = Layout(
            np.arange(p, dtype=np.intp), np.arange(p, size, dtype=np.intp), np.array(conditional, dtype=np.intp)
        )
        """Of columns in the order numeric, categorical."""
        layout = Layout.of(target)
        dimension = {int(column): i for i, column in enumerate(layout.numeric)}
        choice = {int(column): i for i, column in enumerate(layout.categorical)}
        self._p_here = layout.p
        # Of each dimension of the source: the target's numeric or categorical dimension, or None where that cannot vary.
        self._numeric = [dimension.get(at_here[n]) for n in numeric]
        self._categorical = [choice.get(at_here[n]) for n in categorical]
        self._maps = [
            map_of(
                here.space.by_name[n],
                here.columns[at_here[n]],
                there.space.by_name[n],
                there.columns[self._at_there[n]],
            )
            for n in numeric
        ]
        self._choices = [
            _choice_units(here.space.by_name[n], there.space.by_name[n], there.columns[self._at_there[n]])
            for n in categorical
        ]

    def units_of(self, source: SourceStudy, rows: Sequence[int]) -> tuple[Array, Inputs]:  # (n, D), n inputs
        """Points of the source, as its model takes them."""
        points = [source.observations[i].point for i in rows]
        columns = [self._at_there[name] for name in self._names]
        units = self._source.encode_all(points)[:, columns]
        active = np.array([[name in point for name in self._names] for point in points], dtype=np.bool_)
        return units, Inputs.of(self.layout, units, active.reshape(units.shape))

    def __call__(self, inputs: Inputs) -> tuple[Inputs, Array]:  # m inputs -> m inputs, (m, p there)
        """Inputs of the source, and the derivative of each numeric unit by that of the target."""
        m = len(inputs)
        x, active, slopes = ([np.zeros((m, 0))] for _ in range(3))
        for at, mapped in zip(self._numeric, self._maps, strict=True):
            here = np.full(m, 0.5) if at is None else inputs.x[:, at]
            unit, slope = mapped(here)
            x.append(np.clip(unit, EDGE, 1.0 - EDGE)[:, None])
            slopes.append(slope[:, None])
            # A parameter that cannot vary is not among the inputs: it counts as active.
            active.append(np.ones((m, 1)) if at is None else inputs.active[:, at, None])
        choices = [np.zeros((m, 0))]
        for at, units in zip(self._categorical, self._choices, strict=True):
            if at is None:
                choices.append(np.broadcast_to(units, m)[:, None])
                continue
            unit = inputs.choice[:, at]
            cell = np.clip((unit * len(units)).astype(np.intp), 0, len(units) - 1)
            choices.append(np.where(unit < 0, -1.0, units[cell])[:, None])
        units_there, is_active, chosen, by_unit = (
            np.concatenate(part, axis=1) for part in (x, active, choices, slopes)
        )
        return Inputs(units_there, is_active, chosen), by_unit

    def back(self, gradient: Array, slopes: Array) -> Array:  # (m, p there), (m, p there) -> (m, p here)
        """The gradient by the target's numeric units."""
        found = np.zeros((len(gradient), self._p_here))
        for j, at in enumerate(self._numeric):
            if at is not None:
                found[:, at] += gradient[:, j] * slopes[:, j]
        return found


def _choice_units(here: Parameter, there: Parameter, column: Column) -> Array:  # (choices here,)
    """The unit in the source of each choice, -1 as if inactive for unknown ones."""
    units = [unit_near(there, column, here.level(k)) for k in range(here.cardinality or 0)]
    return np.array([-1.0 if unit is None else unit for unit in units])


class SourceModel:
    """The model of one source. Raises NumericalError."""

    def __init__(
        self,
        bridge: Bridge,
        source: SourceStudy,
        rows: Sequence[int],
        values: Array,
        errors: Array,
        place: int,
        budget: int,
        device: FitDevice | None = None,
    ) -> None:
        """`rows`: the observations that teach it, their values (smaller is better), and standard errors."""
        self.name = source.name
        self._bridge = bridge
        config = FitConfig(
            fit_size=min(120, budget), active_size=budget, starts=2, averaged=0, averaged_noisy=0, eager=len(rows)
        )
        priors = Priors()
        if len(bridge.layout.numeric) + len(bridge.layout.categorical) < len(source.spec.space.parameters):
            priors = replace(priors, noise=(-3.0, 2.0))  # of the parameters that are left out

        def random(m: int) -> np.random.Generator:
            return generator(source.spec.seed, m << 8 | CHANNEL + place, Stream.FIT)

        model = MetricModel(Kernel(bridge.layout), ObjectiveTransform.of, random, config, priors, device=device)
        units, inputs = bridge.units_of(source, rows)
        model.add(inputs, units, values, errors)
        self._posterior, transform = model.posterior()
        assert isinstance(transform, ObjectiveTransform)
        self._transform = transform

    def prediction(self, inputs: Inputs) -> Array:  # (m,)
        """The mean at points of the target, in the source's (y - lowest) / (median - lowest)."""
        return self._raised(self._posterior.mean(self._bridge(inputs)[0]).mean(axis=0))[0]

    def prediction_with_error(self, inputs: Inputs) -> tuple[Array, Array]:  # (m,), (m,)
        """The same, and its standard deviation."""
        mean, variance = self._posterior.predict(self._bridge(inputs)[0])
        value, slope = self._raised(mean.mean(axis=0))
        return value, slope * np.sqrt(variance[0])

    def prediction_with_gradient(self, inputs: Inputs) -> tuple[Array, Array]:  # (m,), (m, p)
        """The same, and its gradient."""
        there, slopes = self._bridge(inputs)
        mean, gradient = self._posterior.mean_with_gradient(there)
        value, slope = self._raised(mean.mean(axis=0))
        return value, slope[:, None] * self._bridge.back(gradient.mean(axis=0), slopes)

    def _raised(self, z: Array) -> tuple[Array, Array]:
        bent = self._transform.center + self._transform.deviation * z
        power = np.exp(np.clip(bent, 1.0, MAX_LOG) - 1.0)
        is_linear = bent <= 1.0
        slope = np.where(is_linear, 1.0, np.where(bent < MAX_LOG, power, 0.0))
        return np.where(is_linear, bent, power), self._transform.deviation * slope


@dataclass(frozen=True)
class Part:
    """w_j b_j."""

    weight: float
    source: SourceModel
    transform: ObjectiveTransform


class WeightedSources(Trend):
    """sum_j w_j b_j."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts

    def value(self, inputs: Inputs) -> Array:
        found = np.zeros(len(inputs))
        for part in self.parts:
            found = found + part.weight * part.transform.forward(part.source.prediction(inputs))
        return found

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        value = np.zeros(len(inputs))
        gradient = np.zeros_like(inputs.x)
        for part in self.parts:
            raised, by_unit = part.source.prediction_with_gradient(inputs)
            value = value + part.weight * part.transform.forward(raised)
            gradient = gradient + part.weight * part.transform.slope(raised)[:, None] * by_unit
        return value, gradient


class Sources:
    """The sources of a study, and the trend that they make. Their models are fitted when they are needed first, one time."""

    def __init__(
        self,
        spec: StudySpec,
        cube: Cube,
        kernel: Kernel,
        priors: Priors,
        sources: Sequence[SourceStudy],
        device: FitDevice | None = None,
    ) -> None:
        self._spec, self._cube, self._kernel, self._priors, self._sources = spec, cube, kernel, priors, sources
        self._device = device
        self._fitted: list[SourceModel] | None = None

    def trend(self, data: Data) -> WeightedSources | None:
        """The trend that these results of the target bear out; None if no source is of use."""
        useful: list[tuple[SourceModel, ObjectiveTransform]] = []
        columns = []
        for model in self._models():
            raised, error = model.prediction_with_error(data.inputs)
            above = raised - raised.min()
            middle = np.median(above)
            # One result says nothing of how close they lie.
            if len(above) > 1 and (middle or above.mean()) <= RESOLVED * np.median(error[above <= middle]):
                continue
            transform = ObjectiveTransform.of(raised)
            useful.append((model, transform))
            columns.append(transform.forward(raised))
        if not useful:
            return None
        try:
            found = weights(self._kernel, self._priors, data, np.stack(columns, axis=1))
        except (NumericalError, np.linalg.LinAlgError):
            return None
        parts = [
            Part(weight, model, transform)
            for weight, (model, transform) in zip(found.tolist(), useful, strict=True)
            if weight >= NEGLIGIBLE
        ]
        return WeightedSources(parts) if parts else None

    def _models(self) -> list[SourceModel]:
        if self._fitted is None:
            self._fitted = []
            for place, source in enumerate(self._sources):
                made = self._model(source, place)
                if made is not None:
                    self._fitted.append(made)
        return self._fitted

    def _model(self, source: SourceStudy, place: int) -> SourceModel | None:
        metric = metric_of(self._spec, source.spec)
        bridge = Bridge(self._cube, Encoding(source.spec.space))
        if metric is None or not bridge.layout.size:
            return None
        name, sign = metric
        rows, values, errors = [], [], []
        for i, o in enumerate(source.observations):
            if o.measurement is None or o.state in (TrialState.FAILED, TrialState.INFEASIBLE):
                continue
            if name in o.measurement.metrics:
                rows.append(i)
                values.append(sign * o.measurement.metrics[name])
                errors.append(o.measurement.standard_errors.get(name, 0.0))
        if len(rows) < LEAST or min(values) == max(values):
            return None
        budget = min(200, MOST_ROWS // len(self._sources))
        try:
            return SourceModel(bridge, source, rows, np.array(values), np.array(errors), place, budget, self._device)
        except NumericalError:
            return None


def weights(
    kernel: Kernel,
    priors: Priors,
    data: Data,
    basis: Array,  # (n, J)
) -> Array:  # (J,)
    """The weights of sources whose b at the target's points are the columns of `basis`; see the head of this module."""
    geometry = Geometry(kernel, prior_mean(kernel, priors), data.inputs, data.known_variance)
    white = geometry.inverse_factor[0] @ np.concatenate([np.ones_like(basis[:, :1]), basis, data.y[:, None]], axis=1)
    ones = white[:, :1]
    # c flat: what is along the constant says nothing.
    rest = white[:, 1:] - ones @ (ones.mT @ white[:, 1:]) / (ones.mT @ ones)
    products = rest.mT @ rest
    gram, by_y, square = products[:-1, :-1], products[:-1, -1], products[-1, -1]
    j = len(gram)
    inside = (np.arange(2**j)[:, None] >> np.arange(j) & 1).astype(np.float64)  # (2^J, J)
    size = inside.sum(axis=1)
    mean = inside / np.maximum(size, 1.0)[:, None]
    # Sources outside of S have the precision matrix of the identity and change nothing.
    precision = inside[:, :, None] * inside[:, None, :] * gram
    precision += np.eye(j) * np.where(inside > 0, SLAB**-2, 1.0)[:, None, :]
    left = inside * (by_y - mean @ gram)  # B' (y - B w0)
    change = np.linalg.solve(precision, left[:, :, None])[:, :, 0]
    residual = square - 2.0 * mean @ by_y + ((mean @ gram) * mean).sum(axis=1) - (left * change).sum(axis=1)
    determinant = np.linalg.slogdet(precision)[1]
    by_size = [math.log(EMPTY)] + [math.log((1.0 - EMPTY) / j / math.comb(j, k)) for k in range(1, j + 1)]
    log_evidence = (
        np.array(by_size)[size.astype(np.intp)]
        - 0.5 * (determinant + 2.0 * math.log(SLAB) * size)
        - (SHAPE + 0.5 * (len(data) - 1)) * np.log(RATE + 0.5 * np.maximum(residual, 0.0))
    )
    found: Array = (softmax(log_evidence, axis=0)[:, None] * inside * (mean + change)).sum(axis=0)
    if not np.isfinite(found).all():
        raise NumericalError("the weights of sources are not finite")
    return np.maximum(found, 0.0)
