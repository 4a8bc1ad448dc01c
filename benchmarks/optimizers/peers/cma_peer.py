"""CMA-ES by its authors' package `cma`, over the flattened unit cube, with doubled population at restarts (IPOP, Auger and Hansen 2005).

Started where its documentation says: the initial standard deviation is about a quarter of the range (0.25 here), the
mean a random point. Discrete parameters are rounded, each value owning a part of the axis. A generation ends when as
many results have come in as the population is large; a worker that comes before that gets one more draw from the same
distribution, as the ask-and-tell interface allows.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import cma

from .. import space as spaces
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Point


class Cma(Peer):
    """One strategy, started anew when it has converged."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        self._rng = np.random.default_rng([3, brief.seed])
        self._restarts = 0
        self._strategy: Any = None
        self._has_drawn = False
        self._begin()
        self._queue: list[Any] = []
        self._asked: dict[int, tuple[Any, Any]] = {}
        self._done: list[tuple[Any, float]] = []

    def _begin(self) -> None:
        d = len(self.brief.space)
        options: dict[str, Any] = {
            "bounds": [0, 1],
            "seed": self.brief.seed * 100 + self._restarts + 1,
            "verbose": -9,
        }
        if self._restarts:
            options["popsize"] = int(4 + 3 * np.log(d)) * 2**self._restarts
        self._has_drawn = False
        self._strategy = cma.CMAEvolutionStrategy(self._rng.uniform(0.2, 0.8, d), 0.25, options)

    def ask(self, number: int) -> Point:
        """The next of the generation, or one more draw."""
        if not self._queue:
            waits = len(self._done) + len(self._asked)
            self._queue = list(self._strategy.ask() if waits == 0 else self._strategy.ask(number=1))
            self._has_drawn = True
        u = self._queue.pop(0)
        self._asked[number] = u, self._strategy
        return spaces.from_unit(self.brief.space, u.tolist())

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Ends the generation if this was its last result."""
        u, strategy = self._asked.pop(number)
        if strategy is not self._strategy:
            return  # asked for before a restart
        self._done.append((u, values[0]))
        if len(self._done) >= self._strategy.popsize:
            if not self._has_drawn:
                # With more trials in parallel than a generation has; the strategy wants a draw between two generations.
                self._strategy.ask(number=1)
            self._has_drawn = False
            self._strategy.tell([u for u, _ in self._done], [value for _, value in self._done])
            self._done, self._queue = [], []
            if self._strategy.stop():
                self._restarts += 1
                self._begin()

    @classmethod
    def versions(cls) -> dict[str, str]:
        """The package's."""
        return version("cma")


if __name__ == "__main__":
    serve(Cma)
