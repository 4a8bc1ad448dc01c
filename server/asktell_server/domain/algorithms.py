"""How suggestions are made: each algorithm with its settings, and what can be wrong with them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from asktell_server.domain.errors import Violation
from asktell_server.domain.objectives import Objective, OutcomeConstraint
from asktell_server.domain.space import (
    NAME_RE,
    NAME_RULE,
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    NotInDomain,
    Parameter,
    ParameterValue,
    SearchSpace,
    shown,
)

MAX_INITIAL_POINTS = 10_000
MAX_PRIOR_WIDTH = 10.0
MAX_TRANSFER_SOURCES = 10


@dataclass(frozen=True)
class RandomSearch:
    """Independent uniform draws."""

    def violations(self) -> Iterator[Violation]:
        """Nothing can be wrong."""
        return iter(())


@dataclass(frozen=True)
class GridSearch:
    """Every point of a grid. `points_per_parameter` bounds the values of one parameter; at least 1."""

    points_per_parameter: int = 10

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the settings."""
        if not 1 <= self.points_per_parameter <= 10_000:
            yield Violation("points_per_parameter", f"must be in [1, 10000] or 0, not {self.points_per_parameter}")


@dataclass(frozen=True)
class SobolSearch:
    """The scrambled Sobol sequence."""

    def violations(self) -> Iterator[Violation]:
        """Nothing can be wrong."""
        return iter(())


class SkoptEstimator(Enum):
    """The regressor that models the objective."""

    GP = "GP"
    RF = "RF"
    ET = "ET"
    GBRT = "GBRT"


class SkoptAcquisition(Enum):
    """The criterion that picks the next point."""

    EI = "EI"
    LCB = "LCB"
    PI = "PI"
    GP_HEDGE = "GP_HEDGE"


@dataclass(frozen=True)
class SkoptOptimizer:
    """scikit-optimize's sequential model-based optimisation.

    `initial_points`: Sobol points before the model takes over; 0 means max(5, min(2 * dimensions, 20)).
    `xi`: improvement that EI and PI ask for, in units of the objective. `kappa`: weight of the deviation in LCB.
    `max_observations`: finished trials that the model is fitted on at most.
    """

    base_estimator: SkoptEstimator = SkoptEstimator.GP
    acquisition_function: SkoptAcquisition = SkoptAcquisition.EI
    initial_points: int = 0
    xi: float = 0.0
    kappa: float = 1.96
    max_observations: int = 200

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the settings."""
        if not 0 <= self.initial_points <= MAX_INITIAL_POINTS:
            yield Violation("initial_points", f"must be in [0, {MAX_INITIAL_POINTS}], not {self.initial_points}")
        if not math.isfinite(self.xi) or self.xi < 0:
            yield Violation("xi", f"must be finite and at least 0, not {self.xi}")
        if not math.isfinite(self.kappa) or self.kappa <= 0:
            yield Violation("kappa", f"must be finite and above 0, not {self.kappa}")
        if not 10 <= self.max_observations <= 2000:
            yield Violation("max_observations", f"must be in [10, 2000] or 0, not {self.max_observations}")


@dataclass(frozen=True)
class NormalPrior:
    """A belief about a number: normal around `mean`.

    `width`: standard deviation as a fraction of the parameter's range, or of the logarithm's range if the parameter is log.
    """

    mean: float
    width: float
    kind: ClassVar[str] = "normal"

    def violations(self, parameter: Parameter) -> Iterator[Violation]:
        """What is wrong with it as a belief about `parameter`, which is free of violations."""
        if not math.isfinite(self.width) or not 0 < self.width <= MAX_PRIOR_WIDTH:
            yield Violation("width", f"must be above 0 and at most {MAX_PRIOR_WIDTH:g}, not {self.width}")
        if isinstance(parameter, CategoricalParameter):
            yield Violation("", f"needs a float, int or discrete parameter; {shown(parameter.name)} is categorical")
            return
        is_whole = isinstance(parameter, IntParameter) and float(self.mean).is_integer()
        try:
            parameter.normalized(int(self.mean) if is_whole else self.mean)
        except NotInDomain as error:
            yield Violation("mean", str(error))


@dataclass(frozen=True)
class WeightedPrior:
    """A belief about single values: how likely each is to be the best one, relative to the others.

    Values that are not listed have the least of the weights that are.
    """

    weights: tuple[tuple[ParameterValue, float], ...]
    kind: ClassVar[str] = "weighted"

    def violations(self, parameter: Parameter) -> Iterator[Violation]:
        """What is wrong with it as a belief about `parameter`, which is free of violations."""
        if not self.weights:
            yield Violation("weights", "must hold at least one weight")
        for i, (_, weight) in enumerate(self.weights):
            if not math.isfinite(weight) or weight <= 0:
                yield Violation(f"weights[{i}].weight", f"must be finite and above 0, not {weight}")
        if isinstance(parameter, FloatParameter | IntParameter):
            yield Violation(
                "", f"needs a discrete or categorical parameter; {shown(parameter.name)} is {parameter.kind}"
            )
            return
        first: dict[ParameterValue, int] = {}
        for i, (value, _) in enumerate(self.weights):
            try:
                at = first.setdefault(parameter.normalized(value), i)
            except NotInDomain as error:
                yield Violation(f"weights[{i}].value", str(error))
            else:
                if at != i:
                    yield Violation(f"weights[{i}].value", f"repeats {shown(value)} of weights[{at}]")


@dataclass(frozen=True)
class OptimumPrior:
    """What the user believes about where the optimum of one parameter is."""

    parameter: str
    belief: NormalPrior | WeightedPrior


@dataclass(frozen=True)
class TransferSource:
    """An earlier study of the same project to learn from: its results up to `revision`, which is 0 until the server sets it."""

    study: str
    revision: int = 0


@dataclass(frozen=True)
class GpOptimizer:
    """The server's own Gaussian-process optimizer.

    `initial_points`: trials before the model takes over; 0 means that the server chooses. `cost_metric`: a metric that says
    what a trial cost; empty if cost does not count. `priors`: beliefs about the optimum, at most one for a parameter.
    `transfer_sources`: earlier studies to learn from.
    """

    initial_points: int = 0
    cost_metric: str = ""
    priors: tuple[OptimumPrior, ...] = ()
    transfer_sources: tuple[TransferSource, ...] = ()

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the settings, whatever the study."""
        if not 0 <= self.initial_points <= MAX_INITIAL_POINTS:
            yield Violation("initial_points", f"must be in [0, {MAX_INITIAL_POINTS}], not {self.initial_points}")
        if self.cost_metric and not NAME_RE.fullmatch(self.cost_metric):
            yield Violation("cost_metric", f"must have {NAME_RULE}, not {shown(self.cost_metric)}")
        first: dict[str, int] = {}
        for i, prior in enumerate(self.priors):
            at = first.setdefault(prior.parameter, i)
            if at != i:
                yield Violation(f"priors[{i}].parameter", f"repeats {shown(prior.parameter)} of priors[{at}]")
        if len(self.transfer_sources) > MAX_TRANSFER_SOURCES:
            yield Violation(
                "transfer_sources", f"must hold at most {MAX_TRANSFER_SOURCES}, not {len(self.transfer_sources)}"
            )
            return
        first = {}
        for i, source in enumerate(self.transfer_sources):
            at = first.setdefault(source.study, i)
            if at != i:
                yield Violation(
                    f"transfer_sources[{i}].study", f"repeats {shown(source.study)} of transfer_sources[{at}]"
                )
            if source.revision < 0:
                yield Violation(f"transfer_sources[{i}].revision", f"must be at least 0, not {source.revision}")

    def violations_in(
        self, space: SearchSpace, objectives: Sequence[Objective], constraints: Sequence[OutcomeConstraint]
    ) -> Iterator[Violation]:
        """What of the settings does not go with the rest of the spec."""
        if self.cost_metric:
            if len(objectives) > 1:
                yield Violation("cost_metric", "needs a study with one objective")
            for role, metrics in (
                ("an objective", [objective.metric for objective in objectives]),
                ("a constrained metric", [constraint.metric for constraint in constraints]),
            ):
                if self.cost_metric in metrics:
                    yield Violation("cost_metric", f"{shown(self.cost_metric)} is {role} of the study")
        for i, prior in enumerate(self.priors):
            parameter = space.by_name.get(prior.parameter)
            if parameter is None:
                yield Violation(f"priors[{i}].parameter", f"{shown(prior.parameter)} is not a parameter of this study")
            elif prior.parameter not in space.broken:
                at = f"priors[{i}].{prior.belief.kind}"
                yield from (violation.under(at) for violation in prior.belief.violations(parameter))


Algorithm = RandomSearch | GridSearch | SobolSearch | SkoptOptimizer | GpOptimizer
ALGORITHM_NAMES: Mapping[type, str] = {
    RandomSearch: "random",
    GridSearch: "grid",
    SobolSearch: "sobol",
    SkoptOptimizer: "skopt",
    GpOptimizer: "gp",
}
