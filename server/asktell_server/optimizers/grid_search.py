"""Grid search: every combination of a few levels per parameter, in an order shuffled by the seed.

A continuous parameter has `points_per_parameter` levels, evenly spaced on its search scale, both ends included (the middle
alone for 1). A finite one has all its values if there are no more than that, otherwise those at such evenly spaced places; a
categorical one always has all its choices. Parameters that are not active do not multiply the grid, and one whose condition
names only values of the parent that are not among the parent's levels never is.

The next point is the first one in the shuffled order that is neither observed nor pending, so the trial's number plays no
part. The grid is never stored: an ask costs a few steps per point that is skipped, and observed points are skipped for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asktell_server.domain.algorithms import GridSearch
from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.space import CategoricalParameter, Parameter, ParameterValue, Point, frozen_point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource
from asktell_server.optimizers.base import Proposal
from asktell_server.optimizers.design import DesignedOptimizer, Stream
from asktell_server.optimizers.encoding import column_of
from asktell_server.optimizers.level_tree import LevelTree
from asktell_server.optimizers.permutation import Permutation


class GridAsk(DesignedOptimizer):
    """Walks through the grid and then raises SearchSpaceExhausted."""

    uses_results = False
    exhausts = True

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, GridSearch)
        count = spec.algorithm.points_per_parameter
        self._tree = LevelTree(spec.space, {p.name: list(grid_levels(p, count)) for p in spec.space.parameters})
        self._order = Permutation(self._tree.size, f"{Stream.GRID_ORDER.name} {spec.seed} ".encode())
        # Every point of the shuffled order before this one is observed.
        self._start = 0

    def needs_model(self) -> bool:
        """Never."""
        return False

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:  # noqa: ARG002 (see the head of this module)
        """The next free point of the grid. Raises SearchSpaceExhausted if there is none."""
        frozen = self.taken(pending).frozen_pending()
        for i in range(self._start, self._tree.size):
            point = self._tree.point(self._order(i))
            key = frozen_point(point)
            if key in self._observed:
                if i == self._start:
                    self._start = i + 1
            elif key not in frozen:
                return Proposal(Suggestion(point, SuggestionSource.SAMPLER))
        raise SearchSpaceExhausted(
            "study",
            f"all {self._tree.size} points of the grid are taken; use another algorithm or a finer grid in a new study",
            {"points": str(self._tree.size)},
        )


def grid_levels(parameter: Parameter, count: int) -> Iterable[ParameterValue]:
    """The distinct levels of `parameter` in a grid of `count` points per parameter, in increasing order."""
    size = parameter.cardinality
    if size is not None and (size <= count or isinstance(parameter, CategoricalParameter)):
        return [parameter.level(k) for k in range(size)]
    column = column_of(parameter)
    units = [i / (count - 1) for i in range(count)] if count > 1 else [0.5]
    return dict.fromkeys(column.value(unit) for unit in units)
