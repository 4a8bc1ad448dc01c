"""What all optimizers share: points without a model, none of them twice, and the fallback.

*Taken* points are those observed or pending. A point is looked for among draws, one by one, until one is not taken. In a
finite space that is nearly full most draws are taken; if the space has at most MAX_ENUMERATED points the free ones are then
listed and one of them is drawn. A larger space gives up after MAX_DRAWS and repeats a point. A full one repeats points as
well, or is the end of an optimizer that `exhausts` it.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import islice
from typing import ClassVar

import numpy as np

from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.space import ParameterValue, Point, frozen_point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource
from asktell_server.optimizers.base import Observation, Optimizer
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.level_tree import LevelTree, all_levels

MAX_DRAWS = 256
MAX_ENUMERATED = 100_000
BLOCK = 128
FrozenPoint = tuple[tuple[str, ParameterValue], ...]


class Stream(IntEnum):
    """Independent sources of randomness of one study; the numbers may never change, or suggestions would."""

    SOBOL = 1
    RANDOM = 2
    FREE_POINT = 3
    GRID_ORDER = 4
    MODEL = 5
    FIT = 6


def generator(seed: int, number: int, stream: Stream) -> np.random.Generator:
    """The random numbers of one stream for trial `number`.

    .. [1] J. K. Salmon et al. Parallel random numbers: as easy as 1, 2, 3. SC '11.
    """
    # Philox is made for this: any key gives an independent stream [1]_, without the cost of hashing a seed sequence.
    return np.random.Generator(np.random.Philox(key=[seed, number << 8 | stream]))


class Taken:
    """The points that are observed or pending. `observed` is only read."""

    def __init__(self, observed: set[FrozenPoint], pending: Sequence[Point]) -> None:
        self._observed = observed
        self._pending = pending

    def __contains__(self, point: Point) -> bool:
        # Comparing with each pending point is cheaper than freezing them all: few are pending, and most differ at once.
        return frozen_point(point) in self._observed or point in self._pending

    def count(self, limit: int) -> int:
        """How many distinct points they are; any number below `limit` if they must be fewer."""
        if len(self._observed) + len(self._pending) < limit:
            return 0
        return len(self._observed | self.frozen_pending())

    def frozen_pending(self) -> set[FrozenPoint]:
        """The pending ones."""
        return {frozen_point(point) for point in self._pending}


def preload() -> None:
    """Imports what the first Sobol point would otherwise wait for."""
    importlib.import_module("scipy.stats.qmc")


class SobolSequence:
    """A scrambled Sobol sequence in d dimensions [1]_: the code of any index below 2^30, computed in blocks.

    .. [1] A. B. Owen. Scrambling Sobol' and Niederreiter-Xing points. Journal of Complexity 14 (1998).
    """

    def __init__(self, dimensions: int, seed: int) -> None:
        # scipy spawns from the generator that it gets, which takes one with a seed sequence.
        from scipy.stats import qmc  # over a second to import: not before it is needed, see `preload`

        self._engine = qmc.Sobol(dimensions, scramble=True, rng=np.random.default_rng([seed, 0, Stream.SOBOL]))
        self._first = 0
        self._block: Array = np.empty((0, dimensions))  # (BLOCK, d)

    def code(self, index: int) -> Array:  # (d,)
        """The code with this index, counted from 0."""
        if not self._first <= index < self._first + len(self._block):
            self._first = index - index % BLOCK
            self._engine.reset()
            if self._first:  # scipy cannot skip 0 points
                self._engine.fast_forward(self._first)
            self._block = self._engine.random(BLOCK)
        row: Array = self._block[index - self._first]
        return row


class DesignedOptimizer(Optimizer):
    """An optimizer with an encoding, a memory of what was observed, and quasi-random points to fall back on."""

    exhausts: ClassVar[bool] = False
    """Whether a study is over when every point of its space is taken."""

    def __init__(self, spec: StudySpec) -> None:
        super().__init__(spec)
        self.encoding = Encoding(spec.space)
        self._observed: set[FrozenPoint] = set()
        self._sobol: SobolSequence | None = None
        self._free: list[Point] | None = None

    def tell(self, observations: Sequence[Observation]) -> None:
        """Adds finished trials to the end of the history."""
        self._observed.update(frozen_point(observation.point) for observation in observations)

    def fallback(self, number: int, pending: Sequence[Point], cause: str) -> Suggestion:
        """The Sobol point for `number`. Raises SearchSpaceExhausted if the space is full and that is the end."""
        taken = self.taken(pending)
        self.require_room(taken)
        return Suggestion(self.sobol_point(number, taken), SuggestionSource.FALLBACK, detail=cause)

    def taken(self, pending: Sequence[Point]) -> Taken:
        """The points that should not be proposed."""
        return Taken(self._observed, pending)

    def untried_default(self, taken: Taken) -> Point | None:
        """The default point, if there is one and it is not taken."""
        default = self.spec.space.default_point
        return None if default is None or default in taken else default

    def sobol_point(self, number: int, taken: Taken) -> Point:
        """The first point of the study's Sobol sequence from index `number` - 1 on that is not taken."""
        if self._sobol is None:
            self._sobol = SobolSequence(self.encoding.dimensions, self.spec.seed)
        sequence, start = self._sobol, max(number - 1, 0)
        return self.first_free(number, taken, (sequence.code(start + i) for i in range(MAX_DRAWS)))

    def first_free(self, number: int, taken: Taken, codes: Iterable[Array]) -> Point:
        """The first of at most MAX_DRAWS `codes`, decoded, that is not taken; see the head of this module for what if not."""
        first: Point | None = None
        for code in islice(codes, MAX_DRAWS):
            point = self.encoding.decode(code)
            if point not in taken:
                return point
            if first is None:
                first = point
                if self.is_full(taken):
                    return first
        assert first is not None
        free = self.free_points(taken)
        if not free:
            return first
        return free[generator(self.spec.seed, number, Stream.FREE_POINT).integers(len(free))]

    def free_points(self, taken: Taken) -> list[Point]:
        """All points that are not taken, in a fixed order; none if the space has more than MAX_ENUMERATED points."""
        cardinality = self.spec.space.cardinality
        if cardinality is None or cardinality > MAX_ENUMERATED:
            return []
        if self._free is None:
            tree = LevelTree(self.spec.space, all_levels(self.spec.space))
            self._free = [tree.point(i) for i in range(tree.size)]
        # What is observed stays so and need not be looked at again; what is pending may become free once more.
        self._free = [point for point in self._free if frozen_point(point) not in self._observed]
        pending = taken.frozen_pending()
        return [point for point in self._free if frozen_point(point) not in pending]

    def is_full(self, taken: Taken) -> bool:
        """Whether every point of the space is taken."""
        cardinality = self.spec.space.cardinality
        return cardinality is not None and taken.count(cardinality) >= cardinality

    def require_room(self, taken: Taken) -> None:
        """Raises SearchSpaceExhausted if the space is full and that is the end."""
        if self.exhausts and self.is_full(taken):
            raise SearchSpaceExhausted("study", "every point of the search space is taken")
