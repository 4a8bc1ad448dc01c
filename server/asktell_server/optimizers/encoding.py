"""The bridge between points of a search space and the unit cube: the one place where either becomes the other.

Vocabulary
    unit     a number in [0, 1] that stands for one parameter's value
    column   one parameter's part of the bridge: unit <-> value
    code     a float64 array of shape (d,), one unit per parameter in the order of the space
    cell     the units that decode to the same value of a finite parameter; its code is the middle of the cell

How the columns divide [0, 1]
    continuous            unit is the position between min and max, on the log scale if `log`
    stepped, linear int   cells of equal width
    log int               the value k has the cell from k - 1/2 to k + 1/2 on the log scale
    discrete              half of each cell's width is an equal share, half its share of the (log) scale, up to midway to its
                          neighbours: distance shows, and no level starves when levels are very uneven
    categorical           cells of equal width, in the order of the choices
    one value             the whole of [0, 1]

Inactive parameters have a unit as well, so that codes have one shape: that of the default value, or 0.5's cell without one.

Accuracy: decode(encode(point)) is the point itself for finite parameters of up to 2^50 values (log int: values up to 2^46)
and equal to a few units of 1e-15 on the search scale beyond that and for continuous ones. Decoded values lie in the
parameter's bounds for every unit in [0, 1] and are Python's own floats, ints, strs and bools.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from asktell_server.domain.space import (
    CategoricalParameter,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
    Point,
    SearchSpace,
)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Scale:
    """unit = (s(v) - start) / span for numbers v in [low, high]; s(v) = v, or log(v^2 - quarter) / 2 on a log scale.

    Between the values of a finite parameter this is the curve on which their units lie.
    """

    log: bool
    start: float
    span: float
    low: float
    high: float
    quarter: float = 0.0

    def unit(self, number: float) -> float:
        """The unit of the number in [low, high] that is nearest."""
        number = min(max(number, self.low), self.high)
        if self.log:
            number = 0.5 * math.log(number * number - self.quarter) if self.quarter else math.log(number)
        return min(max((number - self.start) / self.span, 0.0), 1.0)


class Column(ABC):
    """unit <-> value of one parameter."""

    @abstractmethod
    def value(self, unit: float) -> ParameterValue:
        """The value at `unit`, in [0, 1]."""

    @abstractmethod
    def unit(self, value: ParameterValue) -> float:
        """The code of `value`, in [0, 1]."""

    def edges(self) -> Array:  # (values - 1,)
        """The units at which one cell ends and the next begins. Only for a finite number of values."""
        raise TypeError("a continuum has no cells")

    def scale(self) -> Scale:
        """How units follow numbers. Only for ranges, not for lists of values."""
        raise TypeError("only a range has a scale")


class _SingleValue(Column):
    """A parameter that cannot vary."""

    def __init__(self, value: ParameterValue) -> None:
        self._value = value

    def value(self, unit: float) -> ParameterValue:  # noqa: ARG002 (the same everywhere)
        return self._value

    def unit(self, value: ParameterValue) -> float:  # noqa: ARG002 (the same everywhere)
        return 0.5

    def edges(self) -> Array:
        return np.empty(0)


class _Continuous(Column):
    """A real interval. Both ends are hit exactly: units 0 and 1 are min and max."""

    def __init__(self, low: float, high: float, log: bool) -> None:
        self._low, self._high = float(low), float(high)
        # The logarithms of neighbouring floats can be the same number: such an interval has no log scale to speak of.
        self._log = log and math.log(low) < math.log(high)
        self._start = math.log(low) if self._log else self._low
        self._span = (math.log(high) if self._log else self._high) - self._start

    def value(self, unit: float) -> float:
        if unit <= 0.0:
            return self._low
        if unit >= 1.0:
            return self._high
        scaled = self._start + unit * self._span
        return min(max(math.exp(scaled) if self._log else scaled, self._low), self._high)

    def unit(self, value: ParameterValue) -> float:
        number = float(value)
        if number <= self._low:
            return 0.0
        if number >= self._high:
            return 1.0
        return min(max(((math.log(number) if self._log else number) - self._start) / self._span, 0.0), 1.0)

    def scale(self) -> Scale:
        return Scale(log=self._log, start=self._start, span=self._span, low=self._low, high=self._high)


class _Steps(Column):
    """min, min + step, ... in cells of equal width."""

    def __init__(self, parameter: FloatParameter | IntParameter, size: int) -> None:
        self._parameter = parameter
        self._size = size

    def value(self, unit: float) -> ParameterValue:
        return self._parameter.level(min(int(unit * self._size), self._size - 1))

    def unit(self, value: ParameterValue) -> float:
        parameter = self._parameter
        if isinstance(parameter, IntParameter):
            k = (int(value) - parameter.min) // (parameter.step or 1)
        else:
            k = round((float(value) - parameter.min) / (parameter.step or 1.0))
        # Dividing integers rounds once, also beyond 2^53.
        return (2 * k + 1) / (2 * self._size)

    def edges(self) -> Array:
        return np.arange(1, self._size) / self._size

    def scale(self) -> Scale:
        low, high = float(self._parameter.min), float(self._parameter.level(self._size - 1))
        step = float(self._parameter.step or 1.0)
        return Scale(log=False, start=low - 0.5 * step, span=self._size * step, low=low, high=high)


class _LogInt(Column):
    """Integers on a log scale, each with the cell from half a unit below to half a unit above.

    Positions are log((k + 1/2) / (min - 1/2)) by way of log1p, which stays exact for a narrow range of large numbers.
    """

    def __init__(self, low: int, high: int) -> None:
        self._low, self._high = low, high
        self._edge = low - 0.5
        self._span = math.log1p((high - low + 1) / self._edge)

    def value(self, unit: float) -> int:
        return min(self._low + int(math.expm1(unit * self._span) * self._edge), self._high)

    def unit(self, value: ParameterValue) -> float:
        k = int(value) - self._low
        middle = 0.5 * (math.log1p(k / self._edge) + math.log1p((k + 1) / self._edge))
        return min(middle / self._span, 1.0)

    def edges(self) -> Array:
        return np.log1p(np.arange(1, self._high - self._low + 1) / self._edge) / self._span

    def scale(self) -> Scale:
        # The middle of a cell is (log(k - 1/2) + log(k + 1/2)) / 2.
        low, high = float(self._low), float(self._high)
        return Scale(log=True, start=math.log(self._edge), span=self._span, low=low, high=high, quarter=0.25)


class _Levels(Column):
    """A list of numbers, in increasing order, with cells as told in the head of this module."""

    def __init__(self, levels: Sequence[float], log: bool) -> None:
        self._levels = levels
        self._index = {level: k for k, level in enumerate(levels)}
        size = len(levels)
        # A quarter of a value keeps every sum below finite.
        scale = [math.log(level) if log else 0.25 * level for level in levels]
        middles = [0.5 * (a + b) for a, b in pairwise(scale)]
        edges = [2 * scale[0] - middles[0], *middles, 2 * scale[-1] - middles[-1]]
        total = edges[-1] - edges[0]
        shares = [(b - a) / total for a, b in pairwise(edges)] if total > 0 else [1 / size] * size
        self._edges = [0.0, *accumulate(0.5 / size + 0.5 * share for share in shares)]
        self._edges[-1] = 1.0

    def value(self, unit: float) -> float:
        return self._levels[bisect_right(self._edges, unit, 1, len(self._levels)) - 1]

    def unit(self, value: ParameterValue) -> float:
        k = self._index[float(value)]
        return 0.5 * (self._edges[k] + self._edges[k + 1])

    def edges(self) -> Array:
        return np.array(self._edges[1:-1])


class _Choices(Column):
    """Choices in cells of equal width."""

    def __init__(self, parameter: CategoricalParameter) -> None:
        self._parameter = parameter
        self._size = len(parameter.choices)

    def value(self, unit: float) -> ParameterValue:
        return self._parameter.choices[min(int(unit * self._size), self._size - 1)]

    def unit(self, value: ParameterValue) -> float:
        return (self._parameter.index[value] + 0.5) / self._size

    def edges(self) -> Array:
        return np.arange(1, self._size) / self._size


def column_of(parameter: Parameter) -> Column:
    """The column for `parameter`, which must be free of violations."""
    if parameter.cardinality == 1:
        return _SingleValue(parameter.level(0))
    match parameter:
        case CategoricalParameter():
            return _Choices(parameter)
        case DiscreteParameter():
            return _Levels(parameter.levels, parameter.log)
        case IntParameter(log=True):
            return _LogInt(parameter.min, parameter.max)
        case FloatParameter(step=None):
            return _Continuous(parameter.min, parameter.max, parameter.log)
        case _:
            assert parameter.cardinality is not None
            return _Steps(parameter, parameter.cardinality)


class Encoding:
    """The bridge for one search space; d is its number of parameters. Immutable."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.columns: tuple[Column, ...] = tuple(column_of(parameter) for parameter in space.parameters)
        position = {parameter.name: i for i, parameter in enumerate(space.parameters)}
        self._parents_first = [(p, position[p.name], self.columns[position[p.name]]) for p in space.parents_first]
        self._conditional = any(p.condition is not None for p in space.parameters)
        self._imputed = [
            column.unit(column.value(0.5) if parameter.default is None else parameter.default)
            for parameter, column in zip(space.parameters, self.columns, strict=True)
        ]

    @property
    def imputed(self) -> Array:  # (d,)
        """The unit that stands for each parameter where it is not active."""
        return np.array(self._imputed)

    @property
    def dimensions(self) -> int:
        """Number of columns, d."""
        return len(self.columns)

    def decode(
        self,
        code: Array | Sequence[float],  # (d,) in [0, 1]
    ) -> dict[str, ParameterValue]:
        """The point at `code`; the units of parameters that are not active there do not matter."""
        units = code.tolist() if isinstance(code, np.ndarray) else code
        point: dict[str, ParameterValue] = {}
        for parameter, i, column in self._parents_first:
            if parameter.condition is None or self.space.is_active(parameter, point):
                point[parameter.name] = column.value(units[i])
        if self._conditional:
            return {p.name: point[p.name] for p in self.space.parameters if p.name in point}
        return point

    def encode(self, point: Point) -> Array:  # (d,) float64
        """The code of `point`, with the imputed unit for each parameter that is not active."""
        return np.array(
            [
                column.unit(point[parameter.name]) if parameter.name in point else imputed
                for parameter, column, imputed in zip(self.space.parameters, self.columns, self._imputed, strict=True)
            ],
            dtype=np.float64,
        )

    def activity(self, point: Point) -> Mask:  # (d,) bool
        """Which parameters are active at `point`."""
        return np.array([parameter.name in point for parameter in self.space.parameters], dtype=np.bool_)

    def encode_all(self, points: Iterable[Point]) -> Array:  # (n, d) float64
        """The codes of n points, one per row."""
        rows = [self.encode(point) for point in points]
        return np.array(rows, dtype=np.float64).reshape(len(rows), self.dimensions)
