"""The search space as the engine sees it: an array of units, and what may be done to each column.

Columns, in the order of the space's parameters (d of them), hold units as `Encoding` defines them. A column is

    free          any unit in [0, 1] is a value of its own (continuous, or so many values that it might as well be)
    levelled      a finite number of units, the middles of the cells; search moves between these and ends on one of them
    fine          levelled, and its levels lie so close that gradients show the way between them
    categorical   levelled, without an order

A *canonical* array holds only units that `Encoding.encode` would give: levels are exact and inactive parameters imputed, so that
two rows are equal exactly where they decode to the same point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asktell_server.domain.space import CategoricalParameter
from asktell_server.optimizers.encoding import Array, Encoding, Mask

MAX_LEVELS = 20_000
"""A numeric parameter with more values than this is free in the search and snapped to its nearest value."""

FINE = 30
"""A numeric parameter with more levels than this is fine: to try them one by one would cost much and tell little."""


@dataclass(frozen=True)
class _Activation:
    """Column `child` is active where `parent` is and holds one of `units`."""

    child: int
    parent: int
    units: Array


class Cube:
    """Vectorised decode-and-encode for whole arrays of units. Immutable."""

    def __init__(self, encoding: Encoding) -> None:
        self.encoding = encoding
        parameters = encoding.space.parameters
        self.dimensions = len(parameters)
        position = {parameter.name: i for i, parameter in enumerate(parameters)}
        self.levels: dict[int, Array] = {}
        """The units of each levelled column, in increasing order."""
        self.snapped: list[int] = []
        """Free columns that hold nevertheless only so many values, found by rounding."""
        self.fine: list[int] = []
        """Levelled columns that are fine."""
        for i, (parameter, column) in enumerate(zip(parameters, encoding.columns, strict=True)):
            size = parameter.cardinality
            if size is None:
                continue
            if isinstance(parameter, CategoricalParameter) or size <= MAX_LEVELS:
                self.levels[i] = np.array([column.unit(parameter.level(k)) for k in range(size)])
                if size > FINE and not isinstance(parameter, CategoricalParameter):
                    self.fine.append(i)
            else:
                self.snapped.append(i)
        self._edges = {i: encoding.columns[i].edges() for i in self.levels}
        alike: dict[bytes, list[int]] = {}
        for i, levels in self.levels.items():
            alike.setdefault(levels.tobytes() + self._edges[i].tobytes(), []).append(i)
        self._alike = [np.array(columns) for columns in alike.values()]
        """Levelled columns by their levels: wide spaces have many of one kind, which are looked up together."""
        self.imputed = encoding.imputed
        self.is_categorical: Mask = np.array(
            [isinstance(p, CategoricalParameter) and p.cardinality > 1 for p in parameters], dtype=np.bool_
        )
        self.varies: Mask = np.array([p.cardinality != 1 for p in parameters], dtype=np.bool_)
        self.is_free: Mask = np.array([i not in self.levels for i in range(self.dimensions)], dtype=np.bool_)
        self.is_conditional: Mask = np.array([p.condition is not None for p in parameters], dtype=np.bool_)
        self._activations = [
            _Activation(
                position[p.name],
                position[p.condition.parent],
                np.array([encoding.columns[position[p.condition.parent]].unit(value) for value in p.condition.values]),
            )
            for p in encoding.space.parents_first
            if p.condition is not None
        ]

    def canonical(self, units: Array) -> tuple[Array, Mask]:  # (m, d) -> (m, d), (m, d)
        """The canonical form of `units`, and which columns are active in each row."""
        units = np.clip(units, 0.0, 1.0)
        for columns in self._alike:
            units[:, columns] = self.levels[columns[0]][self.index(columns[0], units[:, columns])]
        for i in self.snapped:
            column = self.encoding.columns[i]
            units[:, i] = [column.unit(column.value(unit)) for unit in units[:, i].tolist()]
        active = np.ones(units.shape, dtype=np.bool_)
        for activation in self._activations:
            on = active[:, activation.parent] & np.isin(units[:, activation.parent], activation.units)
            active[:, activation.child] = on
            units[~on, activation.child] = self.imputed[activation.child]
        return units, active

    def index(self, column: int, units: Array) -> NDArray[np.intp]:  # any shape -> the same
        """Which level of a levelled column each unit belongs to."""
        return np.searchsorted(self._edges[column], units, side="right")
