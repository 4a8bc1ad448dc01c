"""Objectives and measurements: what a trial is judged by, and which of two results is better."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from asktell_server.domain.errors import Violation
from asktell_server.domain.space import NAME_RE, NAME_RULE, shown

MAX_OBJECTIVES = 16
MAX_CONSTRAINTS = 16
MAX_METRICS = 256
MAX_ELAPSED_S = 315_576_000_000  # 10,000 years: what a protobuf Duration may hold


class Direction(Enum):
    """Which way is better."""

    MAXIMIZE = "MAXIMIZE"
    MINIMIZE = "MINIMIZE"


@dataclass(frozen=True)
class Objective:
    """A metric to optimise."""

    metric: str
    direction: Direction

    @property
    def sign(self) -> float:
        """1 if smaller is better, -1 if larger is: `sign * value` is always to be minimised."""
        return 1.0 if self.direction is Direction.MINIMIZE else -1.0

    def is_better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better."""
        return self.sign * value < self.sign * than


@dataclass(frozen=True)
class OutcomeConstraint:
    """A bound that a metric of a feasible trial keeps: exactly one of `min` and `max`."""

    metric: str
    min: float | None = None
    max: float | None = None

    def violation(self, value: float) -> float:
        """By how much `value` breaks the bound, in units of the metric; at most 0 if it keeps it."""
        if self.max is not None:
            return value - self.max
        assert self.min is not None
        return self.min - value

    def is_met(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return self.violation(value) <= 0

    def violations(self) -> Iterator[Violation]:
        """What is wrong with it, whatever the study."""
        if not NAME_RE.fullmatch(self.metric):
            yield Violation("metric", f"must have {NAME_RULE}, not {shown(self.metric)}")
        if (self.min is None) == (self.max is None):
            yield Violation("bound", "is required: either min or max")
        for name, bound in (("min", self.min), ("max", self.max)):
            if bound is not None and not math.isfinite(bound):
                yield Violation(name, f"must be a finite number, not {bound}")


@dataclass(frozen=True)
class Measurement:
    """What a training job measured: finite metrics, some with a standard error."""

    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float] = field(default_factory=dict)
    step: int | None = None
    elapsed_s: float | None = None

    def violations(self) -> Iterator[Violation]:
        """What is wrong with it, whatever the study."""
        if not self.metrics:
            yield Violation("metrics", "must hold at least one metric")
        if len(self.metrics) > MAX_METRICS:
            yield Violation("metrics", f"must hold at most {MAX_METRICS} metrics, not {len(self.metrics)}")
            return
        if len(self.standard_errors) > MAX_METRICS:
            yield Violation("standard_errors", f"must hold at most {MAX_METRICS}, not {len(self.standard_errors)}")
            return
        for name, value in self.metrics.items():
            if not NAME_RE.fullmatch(name):
                yield Violation(f"metrics[{shown(name)}]", f"the name must have {NAME_RULE}")
            if not math.isfinite(value):
                yield Violation(f"metrics[{shown(name)}]", f"must be a finite number, not {value}")
        for name, value in self.standard_errors.items():
            if name not in self.metrics:
                yield Violation(f"standard_errors[{shown(name)}]", "has no metric of this name beside it")
            if not math.isfinite(value) or value < 0:
                yield Violation(f"standard_errors[{shown(name)}]", f"must be finite and at least 0, not {value}")
        if self.step is not None and self.step < 0:
            yield Violation("step", f"must be at least 0, not {self.step}")
        if self.elapsed_s is not None and not 0 <= self.elapsed_s <= MAX_ELAPSED_S:
            yield Violation("elapsed", f"must be in [0, {MAX_ELAPSED_S}] s, not {self.elapsed_s} s")

    def final_violations(
        self, objectives: Sequence[Objective], constraints: Sequence[OutcomeConstraint] = ()
    ) -> Iterator[Violation]:
        """What is wrong with it as the final measurement of a trial of a study with these objectives and constraints."""
        yield from self.violations()
        wanted = [(objective.metric, "an objective") for objective in objectives]
        wanted += [(constraint.metric, "a constrained metric") for constraint in constraints]
        for metric, role in wanted:
            if metric not in self.metrics:
                given = ", ".join(shown(name) for name in list(self.metrics)[:5]) or "none"
                yield Violation(f"metrics[{shown(metric)}]", f"is missing: it is {role} of the study (given: {given})")
