"""The search space: parameters, activation conditions, and what it means for a point to lie in it.

A *point* maps the name of each active parameter to its value. Value types are exact: `float` for float and discrete
parameters, `int` for int parameters, and for a categorical one the very choice. `SearchSpace.violations` tells everything
that is wrong with a space; the other methods may rely on there being nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from asktell_server.domain.errors import Violation

ParameterValue = float | int | str | bool
Point = Mapping[str, ParameterValue]

NAME_RULE = "1 to 128 characters, the first a letter or '_', then letters, digits and '_.-/'"
NAME_RE = re.compile(r"[A-Za-z_][A-Za-z0-9_.\-/]{0,127}")
MAX_PARAMETERS = 1000
MAX_CHOICES = 10_000
MAX_STRING = 1024
_SHOWN = 80
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
# A value is on the grid of a step if it is this close to it, in steps: what is lost when a client computes min + k * step.
STEP_TOLERANCE = 1e-6


def shown(value: object) -> str:
    """`value` for a person to read, cut to a length that fits an error message."""
    text = repr(value[:_SHOWN] if isinstance(value, str) else value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def shown_list(values: Sequence[object]) -> str:
    """`values` as `shown` shows a list, however many there are."""
    return shown(list(values[: _SHOWN // 2]))  # each takes 3 characters or more


class NotInDomain(ValueError):
    """A value that the parameter cannot take; the message says what it can."""


@dataclass(frozen=True)
class Condition:
    """Active only while `parent` is active and holds one of `values`."""

    parent: str
    values: tuple[ParameterValue, ...]


@dataclass(frozen=True)
class FloatParameter:
    """A real number in [min, max]; with `step` one of min, min + step, ...; with `log` searched on a log scale."""

    name: str
    min: float
    max: float
    log: bool = False
    step: float | None = None
    default: float | None = None
    condition: Condition | None = None
    kind: ClassVar[str] = "float"

    @cached_property
    def cardinality(self) -> int | None:
        """Number of values, or None if they form a continuum."""
        if self.min == self.max:
            return 1
        if self.step is None:
            return None
        return math.floor((self.max - self.min) / self.step + STEP_TOLERANCE) + 1

    def normalized(self, value: object) -> float:
        """`value` as this parameter holds it. Raises NotInDomain."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotInDomain(f"must be a number, not {shown(value)}")
        if not self.min <= value <= self.max:  # false for NaN, too
            raise NotInDomain(f"must be in [{self.min}, {self.max}], not {shown(value)}")
        number = float(value)
        if self.step is None:
            return number
        level = self.level(round((number - self.min) / self.step))
        if abs(number - level) > STEP_TOLERANCE * self.step + 2 * math.ulp(number):
            raise NotInDomain(f"must be {self.min} plus a multiple of {self.step}, not {shown(value)}")
        return level

    def level(self, k: int) -> float:
        """The k-th value of a stepped parameter, counted from 0."""
        return float(self.min if self.step is None else min(self.min + k * self.step, self.max))

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the range."""
        finite = True
        for field, number in (("min", self.min), ("max", self.max)):
            if not math.isfinite(number):
                finite = False
                yield Violation(field, f"must be a finite number, not {number}")
        if not finite:
            return
        if self.max < self.min:
            yield Violation("max", f"must be at least min ({self.min}), not {self.max}")
        elif not math.isfinite(self.max - self.min):
            yield Violation("max", "max - min must be a finite number")
        if self.log and self.min <= 0:
            yield Violation("min", f"must be above 0 on a log scale, not {self.min}")
        yield from _step_violations(self)


@dataclass(frozen=True)
class IntParameter:
    """An integer in [min, max]; with `step` one of min, min + step, ...; with `log` searched on a log scale."""

    name: str
    min: int
    max: int
    log: bool = False
    step: int | None = None
    default: int | None = None
    condition: Condition | None = None
    kind: ClassVar[str] = "int"

    @cached_property
    def cardinality(self) -> int:
        """Number of values."""
        return (self.max - self.min) // (self.step or 1) + 1

    def normalized(self, value: object) -> int:
        """`value` as this parameter holds it. Raises NotInDomain."""
        if isinstance(value, bool) or not isinstance(value, int):
            raise NotInDomain(f"must be an integer, not {shown(value)}")
        if not self.min <= value <= self.max:
            raise NotInDomain(f"must be in [{self.min}, {self.max}], not {shown(value)}")
        if (value - self.min) % (self.step or 1) != 0:
            raise NotInDomain(f"must be {self.min} plus a multiple of {self.step}, not {shown(value)}")
        return value

    def level(self, k: int) -> int:
        """The k-th value, counted from 0."""
        return self.min + k * (self.step or 1)

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the range."""
        for field, number in (("min", self.min), ("max", self.max)):
            if not INT64_MIN <= number <= INT64_MAX:
                yield Violation(field, "must fit a signed 64-bit integer")
        if self.max < self.min:
            yield Violation("max", f"must be at least min ({self.min}), not {self.max}")
        if self.log and self.min <= 0:
            yield Violation("min", f"must be above 0 on a log scale, not {self.min}")
        yield from _step_violations(self)


@dataclass(frozen=True)
class DiscreteParameter:
    """One of a list of numbers whose order and distance mean something. `values` are kept in increasing order."""

    name: str
    values: tuple[float, ...]
    log: bool = False
    default: float | None = None
    condition: Condition | None = None
    kind: ClassVar[str] = "discrete"

    @cached_property
    def levels(self) -> tuple[float, ...]:
        """The values in increasing order."""
        return tuple(sorted(self.values))

    @property
    def cardinality(self) -> int:
        """Number of values."""
        return len(self.values)

    def level(self, k: int) -> float:
        """The k-th value in increasing order, counted from 0."""
        return self.levels[k]

    def normalized(self, value: object) -> float:
        """`value` as this parameter holds it. Raises NotInDomain."""
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise NotInDomain(f"must be a number, not {shown(value)}")
        if value not in self._members:
            raise NotInDomain(f"must be one of {shown_list(self.levels)}, not {shown(value)}")
        return float(value)

    @cached_property
    def _members(self) -> frozenset[float]:
        return frozenset(self.values)

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the values."""
        if not self.values:
            yield Violation("values", "must hold at least one number")
        if len(self.values) > MAX_CHOICES:
            yield Violation("values", f"must hold at most {MAX_CHOICES} numbers, not {len(self.values)}")
            return
        seen: set[float] = set()
        for i, value in enumerate(self.values):
            if not math.isfinite(value):
                yield Violation(f"values[{i}]", f"must be a finite number, not {value}")
            elif self.log and value <= 0:
                yield Violation(f"values[{i}]", f"must be above 0 on a log scale, not {value}")
            if value in seen:
                yield Violation(f"values[{i}]", f"repeats {value}")
            seen.add(value)


@dataclass(frozen=True)
class CategoricalParameter:
    """One of a list of choices without an order: strings, numbers or truth values."""

    name: str
    choices: tuple[ParameterValue, ...]
    default: ParameterValue | None = None
    condition: Condition | None = None
    kind: ClassVar[str] = "categorical"

    @property
    def cardinality(self) -> int:
        """Number of choices."""
        return len(self.choices)

    def level(self, k: int) -> ParameterValue:
        """The k-th choice, counted from 0."""
        return self.choices[k]

    @cached_property
    def index(self) -> Mapping[ParameterValue, int]:
        """Position of each choice."""
        return {choice: i for i, choice in enumerate(self.choices)}

    def normalized(self, value: object) -> ParameterValue:
        """`value` as this parameter holds it. Raises NotInDomain."""
        if isinstance(value, ParameterValue):
            at = self.index.get(value)
            if at is not None:
                choice = self.choices[at]
                # 1, 1.0 and True are equal keys: only a number written the other way is the same choice.
                if isinstance(choice, bool) == isinstance(value, bool):
                    return choice
        raise NotInDomain(f"must be one of {shown_list(self.choices)}, not {shown(value)}")

    def violations(self) -> Iterator[Violation]:
        """What is wrong with the choices."""
        if not self.choices:
            yield Violation("choices", "must hold at least one choice")
        if len(self.choices) > MAX_CHOICES:
            yield Violation("choices", f"must hold at most {MAX_CHOICES} choices, not {len(self.choices)}")
            return
        seen: set[ParameterValue] = set()
        for i, choice in enumerate(self.choices):
            if isinstance(choice, float) and not math.isfinite(choice):
                yield Violation(f"choices[{i}]", f"must be a finite number, not {choice}")
            if isinstance(choice, str) and len(choice) > MAX_STRING:
                yield Violation(f"choices[{i}]", f"must have at most {MAX_STRING} characters, not {len(choice)}")
            if choice in seen:
                yield Violation(f"choices[{i}]", f"repeats {shown(choice)} (1, 1.0 and true count as equal)")
            seen.add(choice)


Parameter = FloatParameter | IntParameter | DiscreteParameter | CategoricalParameter


def _step_violations(parameter: FloatParameter | IntParameter) -> Iterator[Violation]:
    step = parameter.step
    if step is None:
        return
    if parameter.log:
        yield Violation("step", "cannot be combined with log")
    if not math.isfinite(step) or step <= 0:
        yield Violation("step", f"must be above 0, not {step}")
    elif parameter.min <= parameter.max and step > parameter.max - parameter.min:
        yield Violation("step", f"must be at most max - min ({parameter.max - parameter.min}), not {step}")
    elif isinstance(step, float) and step < 8 * math.ulp(max(abs(parameter.min), abs(parameter.max))):
        yield Violation("step", "is too small to tell neighbouring values apart; leave it out")


@dataclass(frozen=True)
class SearchSpace:
    """The parameters of a study, in the order in which they were given."""

    parameters: tuple[Parameter, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by name."""
        return {parameter.name: parameter for parameter in self.parameters}

    @cached_property
    def broken(self) -> Collection[str]:
        """Names of the parameters with violations of their own."""
        return {name for name, parameter in self.by_name.items() if any(True for _ in parameter.violations())}

    @cached_property
    def parents_first(self) -> tuple[Parameter, ...]:
        """The parameters in an order in which each comes after its parent: of those whose parents are placed the first ones first,
        again and again.
        """
        place = {parameter.name: i for i, parameter in enumerate(self.parameters)}
        turn: dict[str, int] = {}  # in which of these rounds each is placed
        for parameter in self.parameters:
            line = [parameter]
            while (condition := line[-1].condition) is not None and condition.parent not in turn:
                if condition.parent not in place or len(line) > len(place):
                    raise ValueError("conditions form a cycle or name an unknown parent")
                line.append(self.by_name[condition.parent])
            for child in reversed(line):
                parent = child.condition.parent if child.condition is not None else child.name
                turn[child.name] = turn.get(parent, 0) + (place[parent] > place[child.name])
        return tuple(sorted(self.parameters, key=lambda parameter: turn[parameter.name]))

    @cached_property
    def cardinality(self) -> int | None:
        """Number of distinct points, or None if a parameter is continuous."""
        # Each parameter contributes (points of the subtree that hangs below it); conditions form a forest.
        children: dict[str, list[Parameter]] = {}
        for parameter in self.parameters:
            if parameter.condition is not None:
                children.setdefault(parameter.condition.parent, []).append(parameter)
        points: dict[str, int] = {}
        for parameter in reversed(self.parents_first):
            if parameter.cardinality is None:
                return None
            below = children.get(parameter.name, [])
            named = {value for child in below if child.condition for value in child.condition.values}
            total = parameter.cardinality - len(named)
            for value in named:
                total += math.prod(
                    points[child.name] for child in below if child.condition and value in child.condition.values
                )
            points[parameter.name] = total
        return math.prod(points[p.name] for p in self.parameters if p.condition is None)

    def is_active(self, parameter: Parameter, point: Point) -> bool:
        """Whether `parameter` is active at `point`, which must hold its active ancestors."""
        condition = parameter.condition
        return condition is None or (condition.parent in point and point[condition.parent] in condition.values)

    def restricted(self, values: Point) -> dict[str, ParameterValue]:
        """The active part of `values`, which holds a value for every parameter; in the order of the parameters."""
        active: dict[str, ParameterValue] = {}
        for parameter in self.parents_first:
            if self.is_active(parameter, active):
                active[parameter.name] = values[parameter.name]
        return {p.name: active[p.name] for p in self.parameters if p.name in active}

    @cached_property
    def default_point(self) -> Point | None:
        """The point of default values, or None if an active parameter has none."""
        point, violations = self.checked({})
        return None if violations else point

    def checked(self, values: Mapping[str, object]) -> tuple[dict[str, ParameterValue], list[Violation]]:
        """The point that `values` give, with defaults for what is missing, and everything that is wrong with them."""
        found: dict[str, ParameterValue] = {}
        broken: set[str] = set()
        violations = [
            Violation(f"parameters[{shown(name)}]", "is not a parameter of this study")
            for name in values
            if name not in self.by_name
        ]
        for parameter in self.parents_first:
            field = f"parameters[{shown(parameter.name)}]"
            condition = parameter.condition
            if condition is not None and condition.parent in broken:
                broken.add(parameter.name)
            elif not self.is_active(parameter, found):
                if parameter.name in values:
                    assert condition is not None
                    violations.append(
                        Violation(field, f"is active only when {condition.parent} is in {shown_list(condition.values)}")
                    )
            elif parameter.name in values:
                try:
                    found[parameter.name] = parameter.normalized(values[parameter.name])
                except NotInDomain as error:
                    broken.add(parameter.name)
                    violations.append(Violation(field, str(error)))
            elif parameter.default is not None:
                found[parameter.name] = parameter.default
            else:
                broken.add(parameter.name)
                violations.append(Violation(field, "is missing: it is active and has no default"))
        return {p.name: found[p.name] for p in self.parameters if p.name in found}, violations

    def violations(self) -> list[Violation]:
        """Everything that is wrong with the space; paths are relative to the study spec."""
        found: list[Violation] = []
        if not self.parameters:
            found.append(Violation("parameters", "must hold at least one parameter"))
        if len(self.parameters) > MAX_PARAMETERS:
            found.append(
                Violation("parameters", f"must hold at most {MAX_PARAMETERS} parameters, not {len(self.parameters)}")
            )
            return found
        first: dict[str, int] = {}
        for i, parameter in enumerate(self.parameters):
            at = f"parameters[{i}]"
            if not NAME_RE.fullmatch(parameter.name):
                found.append(Violation(f"{at}.name", f"must have {NAME_RULE}, not {shown(parameter.name)}"))
            if parameter.name in first:
                found.append(
                    Violation(f"{at}.name", f"repeats {shown(parameter.name)} of parameters[{first[parameter.name]}]")
                )
            first.setdefault(parameter.name, i)
            own = [violation.under(f"{at}.{parameter.kind}") for violation in parameter.violations()]
            found += own
            if parameter.default is not None and not own:
                try:
                    parameter.normalized(parameter.default)
                except NotInDomain as error:
                    found.append(Violation(f"{at}.{parameter.kind}.default_value", str(error)))
            found += [violation.under(at) for violation in self._condition_violations(parameter)]
        return found + self._cycle_violations()

    def _condition_violations(self, parameter: Parameter) -> Iterator[Violation]:
        condition = parameter.condition
        if condition is None:
            return
        parent = self.by_name.get(condition.parent)
        if parent is None:
            yield Violation("condition.parent", f"{shown(condition.parent)} is not a parameter of this study")
            return
        if isinstance(parent, FloatParameter):
            yield Violation("condition.parent", "must be an int, discrete or categorical parameter, not a float")
            return
        if not condition.values:
            yield Violation("condition.values", "must hold at least one value")
        if condition.parent in self.broken:
            return
        seen: set[ParameterValue] = set()
        for i, value in enumerate(condition.values):
            try:
                parent.normalized(value)
            except NotInDomain as error:
                yield Violation(f"condition.values[{i}]", str(error))
            if value in seen:
                yield Violation(f"condition.values[{i}]", f"repeats {shown(value)}")
            seen.add(value)

    def _cycle_violations(self) -> list[Violation]:
        in_cycles: set[str] = set()
        seen: set[str] = set()
        for parameter in self.by_name.values():
            line: dict[str, int] = {}
            step: Parameter | None = parameter
            while step is not None and step.name not in seen:
                seen.add(step.name)
                line[step.name] = len(line)
                step = None if step.condition is None else self.by_name.get(step.condition.parent)
            if step is not None and step.name in line:
                in_cycles.update(list(line)[line[step.name] :])
        return [
            Violation(f"parameters[{i}].condition.parent", "conditions form a cycle")
            for i, parameter in enumerate(self.parameters)
            if parameter.name in in_cycles and self.by_name[parameter.name] is parameter
        ]


def frozen_point(point: Point) -> tuple[tuple[str, ParameterValue], ...]:
    """A hashable form of a point; equal for equal points whatever their order."""
    return tuple(sorted(point.items()))
