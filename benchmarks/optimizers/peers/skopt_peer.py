"""scikit-optimize's Optimizer as `gp_minimize` sets it up: a Matérn-5/2 GP with Gaussian noise, 10 initial points, `gp_hedge`.

It has no notion of pending points other than whole batches; what it does inside a batch is done here for trials that
are still running: they are told to a copy with the best value so far (`cl_min`, its default strategy).
"""

from __future__ import annotations

import warnings
from typing import Any

from skopt import Optimizer
from skopt import space as dimensions
from skopt.utils import cook_estimator, normalize_dimensions

from ..protocol import Peer, StudyBrief, plain, serve, version
from ..space import Parameter, Point


def _dimension(p: Parameter) -> Any:
    prior = "log-uniform" if p.log else "uniform"
    if p.kind == "float":
        return dimensions.Real(p.low, p.high, prior=prior, name=p.name)
    if p.kind == "int":
        return dimensions.Integer(int(p.low), int(p.high), prior=prior, name=p.name)
    if p.kind == "ordinal":
        return dimensions.Integer(0, len(p.choices) - 1, name=p.name)
    return dimensions.Categorical([str(c) for c in p.choices], name=p.name)


class Skopt(Peer):
    """One Optimizer."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        space = normalize_dimensions([_dimension(p) for p in brief.space])
        estimator = cook_estimator("GP", space=space, random_state=brief.seed, noise="gaussian")
        self._optimizer = Optimizer(
            space, estimator, n_initial_points=10, acq_func="gp_hedge", acq_optimizer="auto", random_state=brief.seed
        )
        self._pending: dict[int, list[Any]] = {}

    def ask(self, number: int) -> Point:
        """A point; the best value is assumed for those that run."""
        optimizer = self._optimizer
        if self._pending:
            optimizer = optimizer.copy(random_state=self.brief.seed + 1000 + number)
            lie = min(optimizer.yi) if optimizer.yi else 0.0
            optimizer.tell(list(self._pending.values()), [lie] * len(self._pending))
        x = self._pending[number] = list(optimizer.ask())
        point: Point = {}
        for p, value in zip(self.brief.space, x, strict=True):
            if p.kind == "ordinal":
                point[p.name] = p.choices[int(value)]
            elif p.kind == "categorical":
                point[p.name] = next(c for c in p.choices if str(c) == str(value))
            else:
                point[p.name] = plain(value)
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Fits the model."""
        self._optimizer.tell(self._pending.pop(number), values[0])

    @classmethod
    def versions(cls) -> dict[str, str]:
        """scikit-optimize's and scikit-learn's."""
        return version("scikit-optimize", "scikit-learn")


if __name__ == "__main__":
    serve(Skopt)
