"""A study: one search for the best parameters of one task, and its immutable specification."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from enum import Enum

from asktell_server.domain.algorithms import ALGORITHM_NAMES, Algorithm, GpOptimizer, SkoptOptimizer, TransferSource
from asktell_server.domain.errors import Violation
from asktell_server.domain.objectives import (
    MAX_CONSTRAINTS,
    MAX_OBJECTIVES,
    Measurement,
    Objective,
    OutcomeConstraint,
)
from asktell_server.domain.space import (
    NAME_RE,
    NAME_RULE,
    SearchSpace,
    shown,
)
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
class StoppingCriteria:
    """When the study is done. 0 and None mean never; see the proto for the exact meaning of each."""

    max_trials: int = 0
    target: float | None = None
    max_trials_without_improvement: int = 0
    max_failed_trials: int = 0

    def violations(self, objectives: int) -> Iterator[Violation]:
        """What is wrong with them in a study with so many objectives."""
        if self.max_trials < 0:
            yield Violation("max_trials", f"must be at least 0, not {self.max_trials}")
        if self.max_trials_without_improvement < 0:
            yield Violation(
                "max_trials_without_improvement", f"must be at least 0, not {self.max_trials_without_improvement}"
            )
        if self.max_failed_trials < 0:
            yield Violation("max_failed_trials", f"must be at least 0, not {self.max_failed_trials}")
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
    constraints: tuple[OutcomeConstraint, ...] = field(default=(), kw_only=True)
    algorithm: Algorithm = field(default_factory=GpOptimizer)
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

    @property
    def transfer_sources(self) -> tuple[TransferSource, ...]:
        """The earlier studies to learn from."""
        return self.algorithm.transfer_sources if isinstance(self.algorithm, GpOptimizer) else ()

    def with_revisions(self, revisions: Mapping[str, int]) -> StudySpec:
        """The spec with a revision, by study, for each transfer source that has none."""
        if not isinstance(self.algorithm, GpOptimizer) or not self.algorithm.transfer_sources:
            return self
        sources = tuple(
            replace(source, revision=source.revision or revisions.get(source.study, 0))
            for source in self.algorithm.transfer_sources
        )
        return replace(self, algorithm=replace(self.algorithm, transfer_sources=sources))

    def is_feasible(self, measurement: Measurement) -> bool:
        """Whether a final measurement, which holds every constrained metric, keeps every bound."""
        return all(constraint.is_met(measurement.metrics[constraint.metric]) for constraint in self.constraints)

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
        found += self._constraint_violations(first)
        found += [v.under(f"algorithm.{self.algorithm_name}") for v in self._algorithm_violations()]
        found += [v.under("stopping_criteria") for v in self.stopping.violations(len(self.objectives))]
        found += [v.under("trial_policy") for v in self.trial_policy.violations()]
        if self.seed < 0:
            found.append(Violation("seed", f"must be at least 0, not {self.seed}"))
        return found

    def _constraint_violations(self, objectives: Mapping[str, int]) -> Iterator[Violation]:
        """What is wrong with the constraints beside `objectives`, the place of each objective by its metric."""
        if len(self.constraints) > MAX_CONSTRAINTS:
            yield Violation("outcome_constraints", f"must hold at most {MAX_CONSTRAINTS}, not {len(self.constraints)}")
            return
        first: dict[str, int] = {}
        for i, constraint in enumerate(self.constraints):
            at = f"outcome_constraints[{i}]"
            yield from (violation.under(at) for violation in constraint.violations())
            if constraint.metric in objectives:
                yield Violation(f"{at}.metric", f"{shown(constraint.metric)} is an objective of the study")
            earlier = first.setdefault(constraint.metric, i)
            if earlier != i:
                yield Violation(f"{at}.metric", f"repeats {shown(constraint.metric)} of outcome_constraints[{earlier}]")

    def _algorithm_violations(self) -> Iterator[Violation]:
        yield from self.algorithm.violations()
        if isinstance(self.algorithm, GpOptimizer):
            yield from self.algorithm.violations_in(self.space, self.objectives, self.constraints)

    def unimplemented(self) -> list[Violation]:
        """What this release cannot do though the spec is well formed."""
        if not isinstance(self.algorithm, SkoptOptimizer):
            return []
        found = []
        if len(self.objectives) > 1:
            found.append(Violation("objectives", "skopt takes one objective; gp, random, grid and sobol take several"))
        if self.constraints:
            found.append(Violation("outcome_constraints", "skopt takes none; gp, random, grid and sobol take them"))
        return found

    def differences(self, other: StudySpec, ignoring: frozenset[str] = frozenset()) -> list[str]:
        """Names of the fields that differ from `other`, but for those in `ignoring` and for revisions that it leaves open."""
        other = other.with_revisions({source.study: source.revision for source in self.transfer_sources})
        public = {"space": "parameters", "constraints": "outcome_constraints", "stopping": "stopping_criteria"}
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
    succeeded trials, feasible or not, when the best one came) are kept for the stopping criteria of a study with one
    objective. The best trial is feasible: it keeps every outcome constraint.
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

    def with_result(self, number: int, measurement: Measurement, later: int = 0) -> Study:
        """The study after trial `number` succeeded with `measurement`; counts already include it, and as many `later` successes."""
        if len(self.spec.objectives) > 1 or not self.spec.is_feasible(measurement):
            return self
        value = measurement.metrics[self.spec.objective.metric]
        if self.best_value is None or self.spec.objective.is_better(value, self.best_value):
            successes = self.count(TrialState.SUCCEEDED) - later
            return replace(self, best_number=number, best_value=value, successes_at_best=successes)
        return self

    def completed_if_done(self, given_up: int = 0) -> Study:
        """The study, COMPLETED if it was ACTIVE and one of its stopping criteria is met.

        `given_up`: trials that were lost with their last retry; needed only where there is a limit on failed trials.
        """
        reason = self._completion(given_up) if self.state is StudyState.ACTIVE else None
        return self if reason is None else replace(self, state=StudyState.COMPLETED, state_reason=reason)

    def _completion(self, given_up: int) -> str | None:
        criteria = self.spec.stopping
        target, best = criteria.target, self.best_value
        if target is not None and best is not None and not self.spec.objective.is_better(target, best):
            return f"target {criteria.target} reached by trial {self.best_number}"
        since = self.count(TrialState.SUCCEEDED) - self.successes_at_best
        if self.best_value is not None and 0 < criteria.max_trials_without_improvement <= since:
            return f"no improvement in {since} succeeded trials"
        failed = self.count(TrialState.FAILED) + given_up
        if 0 < criteria.max_failed_trials <= failed:
            return f"{failed} trials failed or were lost for good, the limit is {criteria.max_failed_trials}"
        if 0 < criteria.max_trials <= self.trials_used and not self.count(TrialState.WAITING, TrialState.RUNNING):
            return f"all {criteria.max_trials} trials ended"
        return None
