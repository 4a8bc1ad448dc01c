"""Ax through its Client, generation strategy as Ax chooses it (`fast`): a Sobol design, then Modular BoTorch.
Conditional spaces are flattened.

Ax knows which trials run. Noise is told as unknown.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from ax.api.client import Client
from ax.api.configs import ChoiceParameterConfig, RangeParameterConfig

from ..protocol import Peer, StudyBrief, plain, serve, version
from ..space import Parameter, Point


def _config(p: Parameter) -> Any:
    if p.kind == "float":
        return RangeParameterConfig(
            name=p.name, bounds=(p.low, p.high), parameter_type="float", scaling="log" if p.log else None
        )
    if p.kind == "int":
        return RangeParameterConfig(
            name=p.name, bounds=(int(p.low), int(p.high)), parameter_type="int", scaling="log" if p.log else None
        )
    if p.kind == "ordinal":
        return ChoiceParameterConfig(
            name=p.name, values=[float(c) for c in p.choices], parameter_type="float", is_ordered=True
        )
    return ChoiceParameterConfig(
        name=p.name, values=[str(c) for c in p.choices], parameter_type="str", is_ordered=False
    )


class Ax(Peer):
    """One client."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.set_num_threads(1)
        self._client = Client(random_seed=brief.seed)
        # Ax reads names in its objective as expressions: no dots.
        self._names = {p.name: p.name.replace(".", "__") for p in brief.space}
        self._client.configure_experiment(parameters=[_config(_renamed(p, self._names[p.name])) for p in brief.space])
        self._client.configure_optimization(
            objective=", ".join(f"-{name}" for name in brief.objectives),
            outcome_constraints=[f"{name} <= 0" for name in brief.constraints] or None,
        )
        self._client.configure_generation_strategy(initialization_random_seed=brief.seed)
        self._trials: dict[int, int] = {}

    def ask(self, number: int) -> Point:
        """One trial."""
        ((index, parameters),) = self._client.get_next_trials(max_trials=1).items()
        self._trials[number] = index
        point: Point = {}
        for p in self.brief.space:
            value = plain(parameters[self._names[p.name]])
            if p.kind == "categorical":
                value = next(c for c in p.choices if str(c) == str(value))
            point[p.name] = value
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Completes the trial."""
        data = dict(zip((*self.brief.objectives, *self.brief.constraints), [*values, *slack], strict=True))
        self._client.complete_trial(self._trials.pop(number), raw_data=data)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Ax's, BoTorch's and torch's."""
        return version("ax-platform", "botorch", "torch")


def _renamed(p: Parameter, name: str) -> Parameter:
    return Parameter(name, p.kind, p.low, p.high, p.log, p.choices)


if __name__ == "__main__":
    serve(Ax)
