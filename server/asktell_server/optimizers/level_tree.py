"""Every combination of given levels of the parameters, numbered, without ever being listed.

A conditional parameter hangs below those levels of its parent under which it is active, so each point occurs once and in a
tree of any size the point of a number is found in a few steps. Counting works as in a mixed-radix number: the combinations
below one level are a block, the block sizes add up within a parameter and multiply across independent parameters.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate

from asktell_server.domain.space import Parameter, ParameterValue, SearchSpace


class LevelTree:
    """Points made of `levels[name]`, the distinct values that each parameter may take; `size` of them, numbered from 0."""

    def __init__(self, space: SearchSpace, levels: Mapping[str, Sequence[ParameterValue]]) -> None:
        self._space = space
        self._levels = levels
        self._roots = [p for p in space.parameters if p.condition is None]
        self._children: dict[str, list[Parameter]] = {p.name: [] for p in space.parameters}
        for parameter in space.parameters:
            if parameter.condition is not None:
                self._children[parameter.condition.parent].append(parameter)
        # For each parameter: where the block of each level ends. The last entry is the number of combinations below it.
        self._block_ends: dict[str, list[int]] = {}
        for parameter in reversed(space.parents_first):
            blocks = (math.prod(map(self._below, self._active(parameter, level))) for level in levels[parameter.name])
            self._block_ends[parameter.name] = list(accumulate(blocks))
        self.size = math.prod(map(self._below, self._roots))

    def point(self, index: int) -> dict[str, ParameterValue]:
        """The point with number `index`, in [0, size)."""
        found: dict[str, ParameterValue] = {}
        unplaced: list[tuple[list[Parameter], int]] = [(self._roots, index)]
        while unplaced:
            siblings, rest = unplaced.pop()
            for parameter in siblings:
                rest, at = divmod(rest, self._below(parameter))
                ends = self._block_ends[parameter.name]
                k = bisect_right(ends, at)
                level = self._levels[parameter.name][k]
                found[parameter.name] = level
                unplaced.append((self._active(parameter, level), at - (ends[k - 1] if k else 0)))
        return {p.name: found[p.name] for p in self._space.parameters if p.name in found}

    def _below(self, parameter: Parameter) -> int:
        return self._block_ends[parameter.name][-1]

    def _active(self, parent: Parameter, level: ParameterValue) -> list[Parameter]:
        return [c for c in self._children[parent.name] if c.condition is not None and level in c.condition.values]


def all_levels(space: SearchSpace) -> dict[str, list[ParameterValue]]:
    """Every value of every parameter of a finite space."""
    found: dict[str, list[ParameterValue]] = {}
    for parameter in space.parameters:
        if parameter.cardinality is None:
            raise ValueError(f"{parameter.name!r} is continuous")
        found[parameter.name] = [parameter.level(k) for k in range(parameter.cardinality)]
    return found
