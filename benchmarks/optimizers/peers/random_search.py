"""Independent uniform draws."""

from __future__ import annotations

import numpy as np

from .. import space as spaces
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Point


class RandomSearch(Peer):
    """Uniform, log-uniform where the parameter is log."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        self._rng = np.random.default_rng([1, brief.seed])

    def ask(self, number: int) -> Point:
        """The next draw."""
        return spaces.sample(self.brief.space, self._rng)

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Learns nothing."""

    def add(self, point: Point, values: list[float], slack: list[float]) -> None:
        """Learns nothing."""

    @classmethod
    def versions(cls) -> dict[str, str]:
        """NumPy's."""
        return version("numpy")


if __name__ == "__main__":
    serve(RandomSearch)
