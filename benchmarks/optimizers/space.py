"""A search space in neutral form, which every peer's adapter translates into its own.

A *point* is a dict from parameter name to value. A *full* point gives every parameter a value, as optimizers without
conditions want it; an *active* point holds only those whose condition is met, as problems want it. Parents stand before
their children in a space.

Numbers only, no peer's types: this module runs in every peer's environment, so it needs NumPy and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

Value = float | int | str | bool
Point = dict[str, Value]
Kind = Literal["float", "int", "ordinal", "categorical"]


@dataclass(frozen=True)
class Condition:
    """Active while `parent` is active and holds one of `values`."""

    parent: str
    values: tuple[Value, ...]


@dataclass(frozen=True)
class Parameter:
    """One dimension. `low` and `high` bound a float or an int; `choices` lists an ordinal's numbers or a categorical's
    values.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Value, ...] = field(default=())
    condition: Condition | None = None

    @property
    def cardinality(self) -> float:
        """Number of values; infinite for a float."""
        if self.kind == "float":
            return math.inf
        return int(self.high) - int(self.low) + 1 if self.kind == "int" else len(self.choices)

    def decode(self, u: float) -> Value:
        """The value at `u` in [0, 1]; values of a discrete parameter own parts of equal size (of the logarithm's range,
        if log).
        """
        u = min(max(float(u), 0.0), 1.0)
        if self.kind in ("ordinal", "categorical"):
            return self.choices[min(int(u * len(self.choices)), len(self.choices) - 1)]
        if self.kind == "float":
            if not self.log:
                return min(max(self.low + u * (self.high - self.low), self.low), self.high)
            return min(max(math.exp(math.log(self.low) + u * math.log(self.high / self.low)), self.low), self.high)
        low, high = self.low - 0.5, self.high + 0.5
        real = math.exp(math.log(low) + u * math.log(high / low)) if self.log else low + u * (high - low)
        return int(min(max(round(real), self.low), self.high))

    def encode(self, value: Value) -> float:
        """A `u` in [0, 1] with `decode(u) == value`."""
        if self.kind in ("ordinal", "categorical"):
            return (self.choices.index(value) + 0.5) / len(self.choices)
        number = float(value)
        if self.kind == "float":
            if self.high == self.low:
                return 0.5
            if self.log:
                return math.log(number / self.low) / math.log(self.high / self.low)
            return (number - self.low) / (self.high - self.low)
        low, high = self.low - 0.5, self.high + 0.5
        return math.log(number / low) / math.log(high / low) if self.log else (number - low) / (high - low)

    def checked(self, value: Any) -> Value:
        """`value` as plain Python, moved onto the bound if rounding put it a hair outside. Raises ValueError if it is
        no value of this parameter.
        """
        if self.kind in ("ordinal", "categorical"):
            for choice in self.choices:
                if type(choice) is type(value) and choice == value:
                    return choice
            for choice in self.choices:  # 16 for 16.0 and the like
                if isinstance(choice, (int, float)) and isinstance(value, (int, float)) and choice == value:
                    return choice
            raise ValueError(f"{self.name}: {value!r} is not one of {self.choices}")
        slack = 1e-9 * (self.high - self.low)
        number = float(value)
        if not self.low - slack <= number <= self.high + slack:
            raise ValueError(f"{self.name}: {value!r} is not in [{self.low}, {self.high}]")
        if self.kind == "int":
            if number != round(number):
                raise ValueError(f"{self.name}: {value!r} is not an integer")
            return round(number)
        return min(max(number, self.low), self.high)


Space = tuple[Parameter, ...]


def real(name: str, low: float, high: float, *, log: bool = False, when: Condition | None = None) -> Parameter:
    """A real number in [low, high]."""
    return Parameter(name, "float", low, high, log, condition=when)


def integer(name: str, low: int, high: int, *, log: bool = False, when: Condition | None = None) -> Parameter:
    """An integer in [low, high]."""
    return Parameter(name, "int", low, high, log, condition=when)


def ordinal(name: str, values: Sequence[float], *, log: bool = False, when: Condition | None = None) -> Parameter:
    """One of some ascending numbers whose distance means something."""
    return Parameter(name, "ordinal", min(values), max(values), log, tuple(values), when)


def choice(name: str, values: Sequence[Value], *, when: Condition | None = None) -> Parameter:
    """One of some values without an order."""
    return Parameter(name, "categorical", choices=tuple(values), condition=when)


def when(parent: str, *values: Value) -> Condition:
    """A condition, to be read aloud: `when("kernel", "poly")`."""
    return Condition(parent, values)


def active(space: Space, point: Mapping[str, Any]) -> Point:
    """The active part of a point that holds at least that, each value checked. Raises ValueError."""
    found: Point = {}
    for parameter in space:
        needed = parameter.condition
        if needed is not None and found.get(needed.parent) not in needed.values:
            continue
        if parameter.name not in point:
            raise ValueError(f"{parameter.name} is active but was given no value")
        found[parameter.name] = parameter.checked(point[parameter.name])
    return found


def from_unit(space: Space, u: Sequence[float]) -> Point:
    """The full point at `u`, one number in [0, 1] for each parameter."""
    return {parameter.name: parameter.decode(x) for parameter, x in zip(space, u, strict=True)}


def to_unit(space: Space, point: Mapping[str, Value]) -> list[float]:
    """`from_unit` backwards; 0.5 where the point holds no value."""
    return [parameter.encode(point[parameter.name]) if parameter.name in point else 0.5 for parameter in space]


def sample(space: Space, rng: np.random.Generator) -> Point:
    """A full point, uniform (log-uniform where the parameter is log)."""
    return from_unit(space, rng.random(len(space)).tolist())


def to_json(space: Space) -> list[dict[str, Any]]:
    """The space as JSON values."""
    return [
        {
            "name": p.name,
            "kind": p.kind,
            "low": p.low,
            "high": p.high,
            "log": p.log,
            "choices": list(p.choices),
            "condition": None
            if p.condition is None
            else {"parent": p.condition.parent, "values": list(p.condition.values)},
        }
        for p in space
    ]


def from_json(items: Sequence[Mapping[str, Any]]) -> Space:
    """`to_json` backwards."""
    return tuple(
        Parameter(
            name=item["name"],
            kind=item["kind"],
            low=item["low"],
            high=item["high"],
            log=item["log"],
            choices=tuple(item["choices"]),
            condition=None
            if item["condition"] is None
            else Condition(item["condition"]["parent"], tuple(item["condition"]["values"])),
        )
        for item in items
    )
