"""A study: one search for the best parameters of one task, and its immutable specification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum

from asktell_server.domain.errors import Violation
from asktell_server.domain.objectives import MAX_OBJECTIVES, Objective
from asktell_server.domain.space import NAME_RE, NAME_RULE, SearchSpace, shown
from asktell_server.domain.trial import TrialState

MAX_LABELS = 64
MAX_TEXT = 16_384
MAX_REASON = 1024
LABEL_KEY_CHARACTERS = 63
LABEL_VALUE_CHARACTERS = 255


class StudyState(Enum):
    """Whether trials can be asked for."""

    ACTIVE = "ACTIVE"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"


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
        if not 0 <= self.initial_points <= 10_000:
            yield Violation("initial_points", f"must be in [0, 10000], not {self.initial_points}")
        if not math.isfinite(self.xi) or self.xi < 0:
            yield Violation("xi", f"must be finite and at least 0, not {self.xi}")
        if not math.isfinite(self.kappa) or self.kappa <= 0:
            yield Violation("kappa", f"must be finite and above 0, not {self.kappa}")
        if not 10 <= self.max_observations <= 2000:
            yield Violation("max_observations", f"must be in [10, 2000] or 0, not {self.max_observations}")


Algorithm = RandomSearch | GridSearch | SobolSearch | SkoptOptimizer
ALGORITHM_NAMES: Mapping[type, str] = {
    RandomSearch: "random",
    GridSearch: "grid",
    SobolSearch: "sobol",
    SkoptOptimizer: "skopt",
}


@dataclass(frozen=True)
class StoppingCriteria:
    """When the study is done. 0 and None mean never; see the proto for the exact meaning of each."""

    max_trials: int = 0
    target: float | None = None
    max_trials_without_improvement: int = 0

    def violations(self, objectives: int) -> Iterator[Violation]:
        """What is wrong with them in a study with so many objectives."""
        if self.max_trials < 0:
            yield Violation("max_trials", f"must be at least 0, not {self.max_trials}")
        if self.max_trials_without_improvement < 0:
            yield Violation(
                "max_trials_without_improvement", f"must be at least 0, not {self.max_trials_without_improvement}"
            )
        if self.target is not None and not math.isfinite(self.target):
            yield Violation("target", f"must be a finite number, not {self.target}")
        if objectives > 1:
            if self.target is not None:
                yield Violation("target", "needs a study with one objective")
            if self.max_trials_without_improvement:
                yield Violation("max_trials_without_improvement", "needs a study with one objective")


@dataclass(frozen=True)
class TrialPolicy:
    """What happens to trials whose worker is lost. `lease` None means that a trial may run for ever."""

    lease: timedelta | None = None
    max_retries: int = 2

    def violations(self) -> Iterator[Violation]:
        """What is wrong with it."""
        if self.lease is not None and not timedelta(seconds=1) <= self.lease <= timedelta(days=365):
            yield Violation("lease", "must be between 1 second and 365 days")
        if not 0 <= self.max_retries <= 1000:
            yield Violation("max_retries", f"must be in [0, 1000], not {self.max_retries}")


@dataclass(frozen=True)
class StudySpec:
    """What a study searches, for what, and how. `seed` is always set in a stored study."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    algorithm: Algorithm = field(default_factory=SkoptOptimizer)
    stopping: StoppingCriteria = field(default_factory=StoppingCriteria)
    trial_policy: TrialPolicy = field(default_factory=TrialPolicy)
    seed: int = 0

    @property
    def objective(self) -> Objective:
        """The first objective: the only one, wherever a rule needs exactly one."""
        return self.objectives[0]

    @property
    def algorithm_name(self) -> str:
        """Short name of the algorithm."""
        return ALGORITHM_NAMES[type(self.algorithm)]

    def violations(self) -> list[Violation]:
        """Everything that is wrong; paths are relative to the spec."""
        found = self.space.violations()
        if not self.objectives:
            found.append(Violation("objectives", "must hold at least one objective"))
        if len(self.objectives) > MAX_OBJECTIVES:
            found.append(Violation("objectives", f"must hold at most {MAX_OBJECTIVES}, not {len(self.objectives)}"))
        first: dict[str, int] = {}
        for i, objective in enumerate(self.objectives):
            if not NAME_RE.fullmatch(objective.metric):
                found.append(
                    Violation(f"objectives[{i}].metric", f"must have {NAME_RULE}, not {shown(objective.metric)}")
                )
            if objective.metric in first:
                found.append(
                    Violation(
                        f"objectives[{i}].metric",
                        f"repeats {shown(objective.metric)} of objectives[{first[objective.metric]}]",
                    )
                )
            first.setdefault(objective.metric, i)
        found += [v.under(f"algorithm.{self.algorithm_name}") for v in self.algorithm.violations()]
        found += [v.under("stopping_criteria") for v in self.stopping.violations(len(self.objectives))]
        found += [v.under("trial_policy") for v in self.trial_policy.violations()]
        if self.seed < 0:
            found.append(Violation("seed", f"must be at least 0, not {self.seed}"))
        return found

    def unimplemented(self) -> list[Violation]:
        """What this release cannot do though the spec is well formed."""
        if len(self.objectives) > 1 and isinstance(self.algorithm, SkoptOptimizer):
            return [
                Violation(
                    "objectives", "several objectives need an algorithm without a model for now: random, grid or sobol"
                )
            ]
        return []

    def differences(self, other: StudySpec, ignoring: frozenset[str] = frozenset()) -> list[str]:
        """Names of the fields that differ from `other`, but for those in `ignoring`."""
        public = {"space": "parameters", "stopping": "stopping_criteria"}
        return [
            public.get(f.name, f.name)
            for f in fields(self)
            if f.name not in ignoring and getattr(self, f.name) != getattr(other, f.name)
        ]


def label_violations(labels: Mapping[str, str]) -> Iterator[Violation]:
    """What is wrong with the labels of a study or a trial."""
    if len(labels) > MAX_LABELS:
        yield Violation("labels", f"must hold at most {MAX_LABELS} labels, not {len(labels)}")
        return
    for key, value in labels.items():
        if not NAME_RE.fullmatch(key) or len(key) > LABEL_KEY_CHARACTERS:
            yield Violation(
                f"labels[{shown(key)}]",
                f"the key must have 1 to {LABEL_KEY_CHARACTERS} characters, the first a letter or '_', then letters, digits and '_.-/'",
            )
        if len(value) > LABEL_VALUE_CHARACTERS:
            yield Violation(f"labels[{shown(key)}]", f"must have at most {LABEL_VALUE_CHARACTERS} characters")
        elif "\x00" in value:
            yield Violation(f"labels[{shown(key)}]", "must not contain the character NUL")


def text_violations(field_name: str, text: str, limit: int) -> Iterator[Violation]:
    """What is wrong with a free text."""
    if len(text) > limit:
        yield Violation(field_name, f"must have at most {limit} characters, not {len(text)}")
    elif "\x00" in text:
        yield Violation(field_name, "must not contain the character NUL")


@dataclass(frozen=True)
class Study:
    """One study as it stands at `revision`.

    `next_number` is the number of the next trial. `best_number`, `best_value` and `successes_at_best` (the count of
    succeeded trials when the best one came) are kept for the stopping criteria of a study with one objective.
    """

    id: int
    project: str
    name: str
    spec: StudySpec
    state: StudyState
    create_time: datetime
    update_time: datetime
    state_reason: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    revision: int = 1
    next_number: int = 1
    counts: Mapping[TrialState, int] = field(default_factory=dict)
    best_number: int | None = None
    best_value: float | None = None
    successes_at_best: int = 0

    def count(self, *states: TrialState) -> int:
        """Number of trials in any of the states."""
        return sum(self.counts.get(state, 0) for state in states)

    @property
    def trials_used(self) -> int:
        """Number of trials that count towards `max_trials`: all but the expired."""
        return sum(self.counts.values()) - self.counts.get(TrialState.EXPIRED, 0)

    def room(self) -> int | None:
        """How many more trials may be created by Ask; None if there is no limit."""
        limit = self.spec.stopping.max_trials
        return None if limit == 0 else max(0, limit - self.trials_used)

    def with_result(self, number: int, value: float | None) -> Study:
        """The study after trial `number` succeeded with `value` of its one objective; counts already include it."""
        if value is None or len(self.spec.objectives) > 1:
            return self
        if self.best_value is None or self.spec.objective.is_better(value, self.best_value):
            return replace(
                self, best_number=number, best_value=value, successes_at_best=self.count(TrialState.SUCCEEDED)
            )
        return self

    def completed_if_done(self) -> Study:
        """The study, COMPLETED if it was ACTIVE and one of its stopping criteria is met."""
        reason = self._completion() if self.state is StudyState.ACTIVE else None
        return self if reason is None else replace(self, state=StudyState.COMPLETED, state_reason=reason)

    def _completion(self) -> str | None:
        criteria = self.spec.stopping
        target, best = criteria.target, self.best_value
        if target is not None and best is not None and not self.spec.objective.is_better(target, best):
            return f"target {criteria.target} reached by trial {self.best_number}"
        since = self.count(TrialState.SUCCEEDED) - self.successes_at_best
        if self.best_value is not None and 0 < criteria.max_trials_without_improvement <= since:
            return f"no improvement in {since} succeeded trials"
        if 0 < criteria.max_trials <= self.trials_used and not self.count(TrialState.WAITING, TrialState.RUNNING):
            return f"all {criteria.max_trials} trials ended"
        return None
