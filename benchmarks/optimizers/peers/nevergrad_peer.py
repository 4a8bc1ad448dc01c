"""Nevergrad's NGOpt, the optimizer that its documentation recommends where one knows nothing. Conditional spaces are
flattened.
"""

from __future__ import annotations

import warnings
from typing import Any

import nevergrad
import numpy as np

from ..protocol import Peer, StudyBrief, plain, serve, version
from ..space import Parameter, Point


def _parameter(p: Parameter) -> Any:
    if p.kind == "categorical":
        return nevergrad.p.Choice(list(p.choices))
    if p.kind == "ordinal":
        return nevergrad.p.TransitionChoice(list(p.choices))
    if p.log:
        made = nevergrad.p.Log(lower=p.low, upper=p.high)
    else:
        made = nevergrad.p.Scalar(lower=p.low, upper=p.high)
    return made.set_integer_casting() if p.kind == "int" else made


class Nevergrad(Peer):
    """One NGOpt."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        space = nevergrad.p.Dict(**{p.name: _parameter(p) for p in brief.space})
        space.random_state = np.random.RandomState(brief.seed)  # the type it takes
        self._optimizer = nevergrad.optimizers.NGOpt(space, budget=brief.budget, num_workers=brief.parallel)
        self._candidates: dict[int, Any] = {}

    def ask(self, number: int) -> Point:
        """One candidate."""
        candidate = self._candidates[number] = self._optimizer.ask()
        point = {name: plain(value) for name, value in candidate.value.items()}
        for p in self.brief.space:
            if p.kind == "int":
                point[p.name] = int(min(max(round(point[p.name]), p.low), p.high))
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Tells the loss."""
        self._optimizer.tell(self._candidates.pop(number), values[0])

    @classmethod
    def versions(cls) -> dict[str, str]:
        """The package's."""
        return version("nevergrad")


if __name__ == "__main__":
    serve(Nevergrad)
