"""What the models of a study have learned: how well they predict, which parameters matter, and slices of them.

Vocabulary
    model      of one metric; what of it is needed here is `ExplainableModel`
    codes      canonical units, as cube.py defines them: inactive parameters imputed, levels exact
    reference  the trial at which slices cross

Importance is the total Sobol index of a parameter [1]_: with all d units drawn independently and uniformly from the cube,

    T_i = E[Var(f | all units but the i-th)] / Var(f)
        ~ 1/2N sum_j (f(a_j) - f(ab_ij))^2 / Var(f)                                               (Jansen's estimator, [2]_)

where the rows a_j and b_j are halves of a scrambled Sobol sequence in 2d dimensions, and ab_ij is a_j with its i-th unit from
b_j [3]_. A parameter without effect where it is not active gets, in this way, the share that it has over the whole space, and
the choice that activates it the share of what it brings along. f is not known but has a distribution: the index is computed
for a number of functions drawn from it, which gives its median and an interval [4]_. Only f on the rows of a and of one
parameter's ab has to be drawn jointly, so the cost grows with d and not with d^3. f is the metric on the model's scale, on which
very bad results count less: else whatever makes a metric explode in one corner would hide all the rest.

.. [1] I. M. Sobol'. Global sensitivity indices for nonlinear mathematical models and their Monte Carlo estimates. Mathematics
   and Computers in Simulation 55 (2001). T. Homma, A. Saltelli. Importance measures in global sensitivity analysis of nonlinear
   models. Reliability Engineering & System Safety 52 (1996).
.. [2] M. J. W. Jansen. Analysis of variance designs for model output. Computer Physics Communications 117 (1999).
.. [3] A. Saltelli et al. Variance based sensitivity analysis of model output. Design and estimator for the total sensitivity
   index. Computer Physics Communications 181 (2010).
.. [4] L. Le Gratiet, C. Cannamela, B. Iooss. A Bayesian approach for global sensitivity analysis of (multifidelity) computer codes.
   SIAM/ASA Journal on Uncertainty Quantification 2 (2014).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import (
    DEFAULT_SLICES,
    MAX_IMPORTANCES,
    Calibration,
    ExplainRequest,
    Explanation,
    Importance,
    MetricExplanation,
    Slice,
    activation,
    metrics_of,
)
from asktell_server.domain.space import CategoricalParameter, Parameter, ParameterValue, Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.encoding import Array, Column
from asktell_server.optimizers.gp.calibration import Z_90, deviation_factor, factors_without
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.pareto import front

FUNCTIONS = 64
"""Functions drawn from a model."""
MOST_BASE, LEAST_BASE = 256, 32
"""Rows of a, N: fewer when there are more parameters and metrics."""
EFFORT = 80 * MOST_BASE**2
"""N^2 times the number of indices, at most, as far as LEAST_BASE allows: what drawing functions costs."""
INTERVAL = (0.1, 0.9)
CHUNK = 8192
"""Rows that are made canonical at once."""


Sampler = Callable[[Array, int, np.random.Generator], tuple[Array, Array]]
"""(ab, count, randomness) -> f on the rows of a and f on those of ab, both (count, N), jointly, for functions drawn from the
posterior. Rows of ab (N, d), canonical, differ from those of a in few columns, or not at all."""


class ExplainableModel(Protocol):
    """What is asked of the model of one metric."""

    def predict(
        self,
        codes: Array,  # (m, d) canonical
    ) -> tuple[Array, Array]:  # (m,), (m,)
        """Mean and standard deviation of the metric without noise, on the metric's scale."""
        ...

    def leave_one_out(self) -> tuple[Array, Array, Array]:  # (n,), (n,), (n,)
        """Each result as the model sees it (transformed, standardised); its mean and deviation, with noise, given all others."""
        ...

    def sampler(
        self,
        base: Array,  # (N, d) canonical
    ) -> Sampler:
        """Draws functions: the metric without noise on the model's scale, around the rows a."""
        ...


def explain(
    spec: StudySpec,
    cube: Cube,
    models: Mapping[str, ExplainableModel],  # by metric, one for each of `metrics_of(spec)`
    observations: Sequence[Observation],
    request: ExplainRequest,
) -> Explanation:
    """What the models have learned from `observations`. Pure. Raises NoModel if no trial has succeeded."""
    reference = reference_of(spec, observations)
    metrics = metrics_of(spec)
    design = Design(cube, spec.seed, len(metrics))
    explained = []
    for i, metric in enumerate(metrics):
        model = models[metric]
        importances = design.importances(model, np.random.default_rng([spec.seed, 1 + i]))
        names = request.slices or tuple(importance.parameter for importance in importances[:DEFAULT_SLICES])
        wanted: list[tuple[str, ...]] = [*((name,) for name in names), *request.pairs]
        slices = tuple(slice_of(model, cube, reference.point, shown, request) for shown in wanted)
        share = MAX_IMPORTANCES // len(metrics)
        explained.append(MetricExplanation(metric, calibration_of(model), importances[:share], slices))
    return Explanation(reference.number, tuple(explained))


def reference_of(spec: StudySpec, observations: Sequence[Observation]) -> Observation:
    """The best trial; of several objectives the one on the front that is closest to the best of each, scaled to [0, 1] there.

    If none is feasible, the one whose excess over the bounds, in units of each metric's spread, is least. The earliest of equals.
    """
    succeeded = [(o, o.measurement) for o in observations if o.state is TrialState.SUCCEEDED and o.measurement]
    if not succeeded:
        raise NoModel("study", "no trial has succeeded yet")
    feasible = [(o, m) for o, m in succeeded if spec.is_feasible(m)]
    if not feasible:
        excess = np.zeros(len(succeeded))
        for constraint in spec.constraints:
            values = np.array([m.metrics[constraint.metric] for _, m in succeeded])
            bound = constraint.min if constraint.max is None else constraint.max
            assert bound is not None
            scaled = _scaled(np.append(values, bound))
            excess += np.maximum(0.0, (scaled[:-1] - scaled[-1]) * (-1.0 if constraint.max is None else 1.0))
        return succeeded[int(excess.argmin())][0]
    losses = np.array([[o.sign * m.metrics[o.metric] for o in spec.objectives] for _, m in feasible])
    on_front = front(losses) if losses.shape[1] > 1 else np.array([int(losses[:, 0].argmin())])
    distance = sum(_scaled(column) ** 2 for column in losses[on_front].T)
    return feasible[int(on_front[int(np.argmin(distance))])][0]


def _scaled(values: Array) -> Array:  # (n,)
    """To [0, 1], whatever finite doubles they are."""
    halves = 0.5 * values
    spread = halves.max() - halves.min()
    return (halves - halves.min()) / spread if spread > 0 else np.zeros_like(values)


def calibration_of(model: ExplainableModel) -> Calibration:
    """How well the model predicts each result from all the others."""
    y, mean, deviation = model.leave_one_out()
    errors = (y - mean) / deviation
    deviation = deviation * factors_without(errors)
    z = (y - mean) / deviation
    total = float(np.sum((y - y.mean()) ** 2))
    left = float(np.sum((y - mean) ** 2))
    return Calibration(
        observations=len(y),
        coverage_90=float(np.mean(np.abs(z) <= Z_90)),
        log_density=float(np.mean(-0.5 * z * z - np.log(deviation))) - 0.5 * math.log(2.0 * math.pi),
        r_squared=1.0 - left / total if total > 1e-12 else 0.0,
        deviation_factor=deviation_factor(errors),
        raw_coverage_90=float(np.mean(np.abs(errors) <= Z_90)),
    )


class Design:
    """The points at which the models of one study are compared, and what follows for each parameter."""

    def __init__(self, cube: Cube, seed: int, metrics: int) -> None:
        from scipy.stats import qmc  # over a second to import

        self._cube = cube
        self._varying = np.flatnonzero(cube.varies)
        size = len(self._varying)
        self.base = MOST_BASE
        while self.base > LEAST_BASE and metrics * size * self.base**2 > EFFORT:
            self.base //= 2
        self._a = self._b = np.empty((self.base, 0))
        if size:
            sequence = qmc.Sobol(2 * size, scramble=True, rng=np.random.default_rng([seed, 0])).random(self.base)
            self._a, self._b = sequence[:, :size], sequence[:, size:]

    def importances(self, model: ExplainableModel, rng: np.random.Generator) -> tuple[Importance, ...]:
        """Total effects, the largest first; equal ones in the order of the space."""
        found = []
        base = self._cube.canonical(self._units(self._a))[0]
        draw = model.sampler(base)
        for column, changed in self._changed():
            effects = np.zeros(FUNCTIONS)
            same = (base == changed).all(axis=1)
            if not same.all():
                before, after = draw(changed, FUNCTIONS, rng)
                effects = total_effect(before, np.where(same, before, after))
            lower, middle, upper = np.quantile(effects, [INTERVAL[0], 0.5, INTERVAL[1]]).tolist()
            found.append(Importance(self._cube.encoding.space.parameters[column].name, middle, lower, upper))
        return tuple(sorted(found, key=lambda importance: -importance.total_effect))

    def _changed(self) -> Iterator[tuple[int, Array]]:  # column, (N, d)
        """The rows of ab for each column."""
        step = max(1, CHUNK // self.base)
        for start in range(0, len(self._varying), step):
            places = range(start, min(start + step, len(self._varying)))
            units = np.tile(self._units(self._a), (len(places), 1))
            for k, place in enumerate(places):
                units[k * self.base : (k + 1) * self.base, self._varying[place]] = self._b[:, place]
            codes = self._cube.canonical(units)[0]
            for k, place in enumerate(places):
                yield int(self._varying[place]), codes[k * self.base : (k + 1) * self.base]

    def _units(self, varying: Array) -> Array:  # (N, D) -> (N, d)
        units = np.tile(self._cube.imputed, (len(varying), 1))
        units[:, self._varying] = varying
        return units


def total_effect(base: Array, changed: Array) -> Array:  # f on a and on ab, (functions, N) each -> (functions,)
    """Jansen's estimate for each function."""
    values = np.stack([base, changed], axis=1)
    size = np.abs(values).max(axis=(1, 2), keepdims=True)
    values = values / np.where(size > 0, size, 1.0)  # squares of what is left are finite
    variance = values.var(axis=(1, 2))  # a and ab are both samples of the whole space
    unexplained = 0.5 * np.mean((values[:, 0] - values[:, 1]) ** 2, axis=1)
    flat = variance <= 1e-24  # rounding of a constant
    return np.where(flat, 0.0, np.clip(unexplained / np.where(flat, 1.0, variance), 0.0, 1.0))


def slice_of(
    model: ExplainableModel, cube: Cube, reference: Point, names: Sequence[str], request: ExplainRequest
) -> Slice:
    """The model along the named parameters, one or two. Where they are not active at the reference, ancestors are switched."""
    space, columns = cube.encoding.space, cube.encoding.columns
    position = {parameter.name: i for i, parameter in enumerate(space.parameters)}
    point = dict(reference)
    for parent, allowed in activation(space, names).items():
        if point.get(parent) not in allowed:
            point[parent] = allowed[0]
    base = cube.imputed.copy()
    for name, value in point.items():
        base[position[name]] = columns[position[name]].unit(value)
    shown = [position[name] for name in names]
    axes = [axis_of(space.parameters[i], columns[i], request) for i in shown]
    units = [np.array([columns[i].unit(value) for value in axis]) for i, axis in zip(shown, axes, strict=True)]
    grid = np.meshgrid(*units, indexing="ij")
    codes = np.tile(base, (grid[0].size, 1))
    for i, values in zip(shown, grid, strict=True):
        codes[:, i] = values.reshape(-1)
    codes = cube.canonical(codes)[0]
    means, deviations = model.predict(codes)
    first, second = (*axes, ())[:2]
    return Slice(tuple(names), first, second, tuple(means.tolist()), tuple(deviations.tolist()))


def axis_of(parameter: Parameter, column: Column, request: ExplainRequest) -> tuple[ParameterValue, ...]:
    """The values along an axis: all if they are few, else evenly spaced on the scale of the search; of choices the first."""
    size = request.axis_size(parameter)
    if parameter.cardinality is not None and (
        parameter.cardinality <= size or isinstance(parameter, CategoricalParameter)
    ):
        return tuple(parameter.level(k) for k in range(size))
    return tuple(dict.fromkeys(column.value(unit) for unit in np.linspace(0.0, 1.0, size).tolist()))
