"""All that the engine knows of one study: a model for each metric, and from them the next point.

Which trial teaches which model, by how it ended:

    succeeded            objectives, constraints, cost; and that trials succeed there
    pruned               the objective of its last measurement, if it has one; and that trials succeed there
    failed, infeasible   that they do not: a model of the label is a term of the acquisition function like a constraint

The acquisition function is log expected improvement, of several objectives that of the hypervolume, + log P(each constraint is
kept) + log P(success) - log expected cost + the user's belief [1]_. While no feasible result is known, whatever is better than the
worst is an improvement, so the probabilities decide. Pending points are taken as observed with the outcome that the model expects
(kriging believer), so that trials in parallel spread out.

If the numerics fail the hyperparameters are replaced by the prior's, once; NumericalError leaves this module only after that.

.. [1] J. Gardner, M. Kusner, Z. Xu, K. Weinberger, J. Cunningham. Bayesian optimization with inequality constraints. ICML 2014.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Prediction, TrialState
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.optimizers.design import Stream, generator
from asktell_server.optimizers.encoding import Array, Encoding, Mask
from asktell_server.optimizers.gp.acquisition import (
    LogExpectedImprovement,
    LogProbabilityBelow,
    NegativeMean,
    Term,
    total,
)
from asktell_server.optimizers.gp.calibration import deviation_factor, foresight, standardised_errors
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.gp.fit import Priors
from asktell_server.optimizers.gp.hypervolume import hypervolume_improvement, merit, spread
from asktell_server.optimizers.gp.kernel import MAX_ADDITIVE, Inputs, Kernel, Layout
from asktell_server.optimizers.gp.metric import FitConfig, MetricModel, TrendOf, no_trend
from asktell_server.optimizers.gp.posterior import Posterior, mixed
from asktell_server.optimizers.gp.prior import Belief, LogBelief
from asktell_server.optimizers.gp.search import Search, SearchConfig
from asktell_server.optimizers.gp.transfer import Sources, WeightedSources
from asktell_server.optimizers.gp.transform import (
    ConstraintTransform,
    IdentityTransform,
    LabelTransform,
    LogTransform,
    ObjectiveTransform,
    Transform,
    cut,
)
from asktell_server.optimizers.pareto import front
from asktell_server.optimizers.safe_math import NumericalError

CENTERS = 5
INCUMBENTS = 64
CANDIDATES = 256
"""Results among which the Pareto front is looked for."""
LATEST = 1024
"""Results among which the most promising are looked for while none can be the best."""
WIDE = 20
ADDITIVE_SIZE = 250
"""Results that a fit in a wide space looks at while the kernel has its additive part, which costs the square of this in each dimension."""
LUCK = 1.0
"""A result that kept a constraint is not believed if the model's mean there is so many deviations beyond the bound."""
WORTHWHILE = 1e-3
"""While a pending trial is expected to come as close to the best as this, in standard deviations of the results, others have to
promise more than so much: once a study has converged, all trials in parallel would else go where there is least left to find.
Not where other terms count (constraints, failures, cost, beliefs): where so much is out of reach the logarithm of the improvement
is in the thousands below 0 and would drown them.
"""
CORNER = 1e-6
"""How near the best points a search with constraints looks."""
LABEL_VARIANCE = 0.25
"""Added to the variance of the label's model: a handful of failures is no certainty."""
MAX_CAUTION = 8
"""The probability of success counts to the power 2^c. Each failure raises c by one, up to this, each other result lowers it: where what
promises most always fails, about half of the trials go elsewhere. Else all would go there in the end, since next to good results
improvements become so small that no probability above 0 outweighs them. c counts as far as failures can be foreseen. So does the
probability that a constraint is kept, if all that is measured is whether it is.
"""


@dataclass(frozen=True)
class Choice:
    """The point chosen: its units (d,), predictions by metric, a word about how, seconds by phase.

    `is_simpler`: a model had to make do with the prior's hyperparameters.
    """

    units: Array
    predictions: Mapping[str, Prediction]
    detail: str
    phases_s: Mapping[str, float]
    is_simpler: bool


@dataclass(frozen=True)
class Effort:
    """How hard to try. With more than `few` results an ask is to cost little and the search is the `brief` one."""

    fit: FitConfig = field(default_factory=FitConfig)
    search: SearchConfig = field(default_factory=SearchConfig)
    few: int = 60
    brief: SearchConfig = field(
        default_factory=lambda: SearchConfig(anywhere=192, near=128, starts=3, rounds=2, calls=10)
    )
    priors: Priors = field(default_factory=Priors)

    def search_after(self, results: int, *, is_bounded: bool) -> SearchConfig:
        """With constraints also very near the best points: where bounds meet, what is still better and feasible may be a corner as small
        as the models are precise, and no gradient leads into it from where a constraint is broken.
        """
        search = self.search if results <= self.few else self.brief
        return replace(search, near=2 * search.near, closest=CORNER) if is_bounded else search

    @classmethod
    def of(cls, dimensions: int) -> Effort:
        """What measured best for a space of D dimensions: the more there are, the longer the data leave much open.

        With more than WIDE the search stays near the best points (a trust region, in spirit that of Eriksson et al. 2019): far from
        all data of a wide space there is only uncertainty, and the acquisition function would be looking for nothing else.
        """
        fit = FitConfig(averaged=min(10 + 4 * dimensions, 60))
        if dimensions <= WIDE:
            return cls(fit)
        # Which of many dimensions count is not seen in a part of the results, and what the rest contradicts goes astray by tens of
        # deviations.
        fit = replace(fit, fit_size=fit.active_size if dimensions > MAX_ADDITIVE else ADDITIVE_SIZE)
        local = SearchConfig(anywhere=16, near=512, starts=6, rounds=2, calls=6)
        return cls(fit, search=local, brief=local)


class StudyModel:
    """The models of one study; observations are only ever added at the end. A pure function of spec, history and arguments."""

    def __init__(
        self,
        spec: StudySpec,
        encoding: Encoding,
        effort: Effort | None = None,
        sources: Sequence[SourceStudy] = (),
        device: FitDevice | None = None,
    ) -> None:
        assert isinstance(spec.algorithm, GpOptimizer)
        self._device = device
        self.spec, self.settings = spec, spec.algorithm
        self.cube = Cube(encoding)
        self.layout = Layout.of(self.cube)
        self.effort = effort or Effort.of(self.layout.size)
        self.kernel = Kernel(self.layout)
        self._belief = Belief(self.cube, self.layout, self.settings.priors) if self.settings.priors else None
        trends = (
            Sources(spec, self.cube, self.kernel, self.effort.priors, sources, device).trend if sources else no_trend
        )
        self.objectives = [
            self._model(i, self._transform, no_trend if i else trends, self._merit) for i in range(len(spec.objectives))
        ]
        self.constraints = [
            # The boundary is what matters.
            self._model(32 + i, ConstraintTransform.of, merit=np.abs)
            for i in range(len(spec.constraints))
        ]
        self._cost = self._model(64, LogTransform.of) if self.settings.cost_metric else None
        self._label = self._model(65, lambda _: IdentityTransform())
        self._failures = 0
        self._caution = 0
        # The same of each constraint; it counts where the constraint tells no more than a label.
        self._cautions = [0] * len(spec.constraints)
        self._results = 0
        # Rows of the objectives' models: whether the trial can be the best, and its values, smaller is better.
        self._eligible: Mask = np.empty(0, dtype=np.bool_)
        self._fronts: dict[int, NDArray[np.intp]] = {}
        """n -> the front of the first n results, of the last few n that were asked for."""
        self._values: Array = np.empty((0, len(spec.objectives)))

    def _model(
        self,
        channel: int,
        transform: Callable[[Array], Transform],
        trend_of: TrendOf = no_trend,
        merit: Callable[[Array], Array] = lambda values: values,
    ) -> MetricModel:
        def random(m: int) -> np.random.Generator:
            return generator(self.spec.seed, m << 8 | channel, Stream.FIT)

        return MetricModel(
            self.kernel, transform, random, self.effort.fit, self.effort.priors, trend_of, merit, self._device
        )

    def _merit(self, values: Array) -> Array:
        """How good the first results are, all objectives considered: which of them an objective's model is to keep."""
        return merit(self._values[: len(values)]) if len(self.spec.objectives) > 1 else values

    def _transform(self, values: Array) -> ObjectiveTransform:
        """That of an objective's first values."""
        if len(self.spec.objectives) == 1:
            return ObjectiveTransform.of(values)
        return ObjectiveTransform.of(values, values[self._front(len(values))])

    def _front(self, n: int) -> NDArray[np.intp]:
        """The Pareto front of the first n results: of those that can be the best, if any can."""
        if n not in self._fronts:
            known = max((m for m in self._fronts if m < n), default=0)
            rows = np.concatenate([self._fronts[known], np.arange(known, n)]) if known else np.arange(n)
            if self._eligible[:n].any():
                # If the first that can be the best came since, those before it that cannot leave the front.
                rows = rows[self._eligible[rows]]
            self._fronts = {m: kept for m, kept in self._fronts.items() if m >= known} | {
                n: rows[front(self._values[rows])]
            }
        return self._fronts[n]

    def tell(self, observations: Sequence[Observation]) -> None:
        """Adds finished trials to the end of the history."""
        if not observations:
            return
        units = self.cube.encoding.encode_all(o.point for o in observations)
        active = np.array([self.cube.encoding.activity(o.point) for o in observations])
        inputs = Inputs.of(self.layout, units, active)

        def add(model: MetricModel, rows: list[int], values: list[float], errors: list[float]) -> None:
            if rows:
                model.add(inputs.rows(np.array(rows)), units[rows], np.array(values), np.array(errors))

        def measured(metric: str, rows: Sequence[int]) -> tuple[list[float], list[float]]:
            found = [observations[i].measurement for i in rows]
            return (
                [m.metrics[metric] for m in found if m is not None],
                [m.standard_errors.get(metric, 0.0) for m in found if m is not None],
            )

        failed = [o.state in (TrialState.FAILED, TrialState.INFEASIBLE) for o in observations]
        add(self._label, list(range(len(failed))), [1.0 if f else -1.0 for f in failed], [0.0] * len(failed))
        self._failures += sum(failed)
        for each in failed:
            self._caution = _cautious(self._caution, each)
        self._results += len(failed)
        taught = [i for i, o in enumerate(observations) if o.measurement is not None and not failed[i]]

        def holding(*metrics: str) -> list[int]:
            return [i for i in taught if all(metric in observations[i].measurement.metrics for metric in metrics)]  # type: ignore[union-attr]

        rows = holding(*(objective.metric for objective in self.spec.objectives))
        columns = []
        for objective, model in zip(self.spec.objectives, self.objectives, strict=True):
            values, errors = measured(objective.metric, rows)
            columns.append([objective.sign * value for value in values])
            add(model, rows, columns[-1], errors)
        self._values = np.concatenate([self._values, np.array(columns).T.reshape(len(rows), len(columns))])
        self._eligible = np.concatenate([self._eligible, [self._is_eligible(observations[i]) for i in rows]]).astype(
            np.bool_
        )
        for k, (constraint, model) in enumerate(zip(self.spec.constraints, self.constraints, strict=True)):
            rows = holding(constraint.metric)
            values, errors = measured(constraint.metric, rows)
            for value in values:
                self._cautions[k] = _cautious(self._cautions[k], not constraint.is_met(value))
            add(model, rows, [cut(constraint.violation(value)) for value in values], errors)
        if self._cost is not None:
            rows = holding(self.settings.cost_metric)
            values, errors = measured(self.settings.cost_metric, rows)
            kept = [k for k, value in enumerate(values) if value > 0]
            add(self._cost, [rows[k] for k in kept], [values[k] for k in kept], [errors[k] for k in kept])

    def _is_eligible(self, observation: Observation) -> bool:
        """Whether a trial can be the best: it succeeded and kept every constraint."""
        measurement = observation.measurement
        return (
            observation.state is TrialState.SUCCEEDED and measurement is not None and self.spec.is_feasible(measurement)
        )

    def prepare(self) -> bool:
        """Does one piece of the work that the asks to come will need; False if there is none left."""
        return any(model.prepare() for model in self._all_models())

    def _all_models(self) -> Iterator[MetricModel]:
        yield from self.objectives
        yield from self.constraints
        if self._cost is not None and len(self._cost):
            yield self._cost
        if self._failures:
            yield self._label

    def choose(
        self, number: int, pending: Sequence[Point], is_taken: Callable[[Array], bool], free: Array | None
    ) -> Choice | None:
        """The best point for trial `number` that is not taken (units (d,) -> bool); None if none was found.

        `free` holds the units of all points that are left, (k, d), where these are few. Raises NumericalError.
        """
        started = time.perf_counter()
        posteriors = [model.posterior() for model in self.objectives]
        ahead = self._pending_inputs(pending)
        believed = [_believing(posterior, ahead) for posterior, _ in posteriors]
        random = generator(self.spec.seed, number, Stream.MODEL)
        incumbents = self._incumbents()
        terms = self._terms(believed, incumbents, ahead, random)
        fitted = time.perf_counter()
        centers = self._centers(posteriors[0][0], incumbents, terms)
        effort = self.effort.search_after(len(self._values), is_bounded=bool(self.constraints))
        theta = believed[0].geometry.theta
        search = Search(
            self.cube,
            self.layout,
            effort,
            random,
            self._belief,
            weight=len(theta) * len(believed[0].geometry) * (self.layout.size if self.kernel.is_additive else 1),
        )
        found, _ = search.maximize(terms, centers) if free is None else search.best_of(terms, free)
        units = next((row for row in found if not is_taken(row)), None)
        if units is None:
            return None
        phases = {"fit": fitted - started, "acquisition": time.perf_counter() - fitted}
        is_simpler = any(model.failure for model in self._all_models())
        detail = f"{len(self._values)} results{_of_sources(posteriors[0][0])}"
        if is_simpler:
            detail += "; hyperparameters of the prior, since none could be fitted"
        return Choice(units, self._predictions(units, posteriors), detail, phases, is_simpler)

    def _pending_inputs(self, pending: Sequence[Point]) -> Inputs | None:
        if not pending:
            return None
        encoding = self.cube.encoding
        return Inputs.of(
            self.layout, encoding.encode_all(pending), np.array([encoding.activity(point) for point in pending])
        )

    def _chances(self, ahead: Inputs | None) -> list[Term]:
        """That constraints are kept and trials succeed, each a logarithm of a probability."""
        terms: list[Term] = [
            LogProbabilityBelow(posterior, weight=2.0**caution)
            for posterior, caution in self._constraint_posteriors(ahead)
        ]
        if self._failures:
            posterior = self._label.posterior()[0]
            weight = 2.0 ** (self._caution * foresight(posterior))
            terms.append(LogProbabilityBelow(_believing(posterior, ahead), LABEL_VARIANCE, weight))
        return terms

    def _constraint_posteriors(self, ahead: Inputs | None) -> list[tuple[Posterior, float]]:
        """Each with its caution: of a constraint that tells more than a label none is needed. While nothing is feasible, what is pending
        is expected to be worse than the mean by a deviation: else all trials in parallel would go where one is likeliest to be feasible.
        """
        lie = 0.0 if self._eligible.any() else 1.0
        found: list[tuple[Posterior, float]] = []
        for model, caution in zip(self.constraints, self._cautions, strict=True):
            if len(model):
                posterior, transform = model.posterior()
                counts = caution * foresight(posterior) if isinstance(transform, LabelTransform) else 0.0
                found.append((_believing(posterior, ahead, lie), counts))
        return found

    def _improvement(
        self,
        believed: Sequence[Posterior],
        rows: NDArray[np.intp],
        ahead: Inputs | None,
        random: np.random.Generator,
        *,
        alone: bool,
    ) -> Term:
        """The term of the objectives, in which `rows` are the incumbents; `alone` if there is no other. While no trial can be the best,
        anything better than the worst is an improvement.
        """
        pending = np.empty(0, dtype=np.intp)
        if self._eligible.any() and ahead is not None:
            # A pending point counts if it is expected to be feasible.
            pending = np.flatnonzero(self._is_expected_feasible(ahead, 0.0))
        means = [
            model.mean_at(posterior, rows, pending) for model, posterior in zip(self.objectives, believed, strict=True)
        ]
        if not all(np.isfinite(mean).all() for mean in means):
            raise NumericalError("the means at the best results are not finite")
        if len(means) == 1:
            if not self._eligible.any():
                return LogExpectedImprovement(believed[0], means[0].max(axis=1))
            best = means[0].min(axis=1)
            if alone and len(pending):
                best = best - np.where(means[0][:, len(rows) :].min(axis=1) <= best + WORTHWHILE, WORTHWHILE, 0.0)
            return LogExpectedImprovement(believed[0], best)
        return hypervolume_improvement(believed, means, random, is_front=bool(self._eligible.any()))

    def _is_expected_feasible(self, at: Inputs, deviations: float) -> Mask:  # (m,)
        """Whether no constraint's mean is more than so many deviations beyond the bound."""
        found = np.ones(len(at), dtype=np.bool_)
        for posterior, _ in self._constraint_posteriors(None):
            mean, variance = mixed(*posterior.predict(at))
            found &= mean <= deviations * np.sqrt(variance)
        return found

    def _terms(
        self,
        believed: Sequence[Posterior],
        incumbents: NDArray[np.intp],
        ahead: Inputs | None,
        random: np.random.Generator,
    ) -> list[Term]:
        others = self._chances(ahead)
        if self._cost is not None and len(self._cost):
            posterior, transform = self._cost.posterior()
            assert isinstance(transform, LogTransform)
            others.append(NegativeMean(posterior, transform.deviation))
        if self._belief is not None:
            others.append(LogBelief(self._belief, self._results))
        return [self._improvement(believed, incumbents, ahead, random, alone=not others), *others]

    def _incumbents(self) -> NDArray[np.intp]:  # (k,)
        """Rows of the results among which the best ones are: trials that can be the best; the latest if none can."""
        if not self._eligible.any():
            return np.arange(len(self._values))[-(LATEST if len(self.objectives) == 1 else CANDIDATES) :]
        rows = np.flatnonzero(self._eligible)
        values = self._values[rows]
        if values.shape[1] == 1:
            rows = rows[np.argsort(values[:, 0], kind="stable")[:INCUMBENTS]]
        elif len(rows) > CANDIDATES:
            rows = rows[np.argsort(merit(values), kind="stable")[:CANDIDATES]]
        # Luck may have let a measurement pass.
        kept = self._is_expected_feasible(self.objectives[0].inputs_at(rows), LUCK)
        return rows[kept] if kept.any() else rows

    def _centers(self, posterior: Posterior, incumbents: NDArray[np.intp], terms: Sequence[Term]) -> Array:  # (k, d)
        """The best points known: by the model's mean, which is not misled by luck. While none can be the best, those that promise most."""
        model = self.objectives[0]
        if not self._eligible.any():
            order = np.argsort(-total(terms, model.inputs_at(incumbents)), kind="stable")
            return model.units_at(incumbents[order[:CENTERS]])
        if len(self.objectives) > 1:
            rows = incumbents[front(self._values[incumbents])]
            return model.units_at(rows[spread(self._values[rows], 2 * CENTERS)])
        mean = model.mean_at(posterior, incumbents, np.empty(0, dtype=np.intp)).mean(axis=0)
        return model.units_at(incumbents[np.argsort(mean, kind="stable")[:CENTERS]])

    def _predictions(self, units: Array, posteriors: Sequence[tuple[Posterior, Transform]]) -> dict[str, Prediction]:
        canonical, active = self.cube.canonical(units[np.newaxis].copy())
        inputs = Inputs.of(self.layout, canonical, active)
        found: dict[str, Prediction] = {}
        for objective, (posterior, transform) in zip(self.spec.objectives, posteriors, strict=True):
            mean, deviation = _moments(posterior, transform, inputs)
            found[objective.metric] = Prediction(objective.sign * mean, deviation)
        for constraint, model in zip(self.spec.constraints, self.constraints, strict=True):
            if len(model):
                violation, deviation = _moments(*model.posterior(), inputs)
                value = (
                    constraint.max + violation if constraint.max is not None else (constraint.min or 0.0) - violation
                )
                found[constraint.metric] = Prediction(cut(value), deviation)
        return found


def _cautious(caution: int, is_failure: bool) -> int:
    """The exponent c of MAX_CAUTION after one more trial."""
    return min(caution + 1, MAX_CAUTION) if is_failure else max(caution - 1, 0)


def _believing(posterior: Posterior, ahead: Inputs | None, worse: float = 0.0) -> Posterior:
    """The posterior as if each point ahead had brought what is expected of it, or so many deviations more."""
    if ahead is None:
        return posterior
    mean, variance = posterior.predict(ahead)
    return posterior.extended(ahead, np.zeros(len(ahead)), mean + worse * np.sqrt(variance))


def _of_sources(posterior: Posterior) -> str:
    """How much earlier studies count, for a person to read."""
    trend = posterior.trend
    if not isinstance(trend, WeightedSources):
        return ""
    parts = sorted(trend.parts, key=lambda part: -part.weight)[:3]
    return "; learns from " + ", ".join(f"{part.source.name!r} (weight {part.weight:.2f})" for part in parts)


def _moments(posterior: Posterior, transform: Transform, inputs: Inputs) -> tuple[float, float]:
    """Mean and standard deviation of a metric at one point, on the metric's scale."""
    mean, variance = posterior.predict(inputs)
    center, spread = mixed(mean, variance)
    if not np.isfinite(center + spread).all():
        raise NumericalError("a prediction is not finite")
    value, deviation = transform.prediction(float(center[0]), float(np.sqrt(spread[0])))
    # A point was chosen for what the model promises there, and choice favours promises that err: they are widened, never narrowed.
    return value, cut(max(1.0, deviation_factor(standardised_errors(posterior))) * deviation)
