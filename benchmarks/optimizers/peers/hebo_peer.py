"""HEBO (Cowen-Rivers et al. 2022), its defaults: a warped GP and MACE. Conditional spaces are flattened.

Trials in parallel are asked for one at a time; a suggestion is drawn from the front that MACE finds, which is how HEBO
makes the points of a batch differ.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from hebo.design_space.design_space import DesignSpace
from hebo.optimizers.hebo import HEBO

from ..protocol import Peer, StudyBrief, plain, serve, version
from ..space import Parameter, Point


def _described(p: Parameter) -> dict[str, Any]:
    if p.kind == "float":
        return {"name": p.name, "type": "pow" if p.log else "num", "lb": p.low, "ub": p.high}
    if p.kind == "int":
        return {"name": p.name, "type": "pow_int" if p.log else "int", "lb": int(p.low), "ub": int(p.high)}
    if p.kind == "ordinal":
        return {"name": p.name, "type": "int", "lb": 0, "ub": len(p.choices) - 1}
    return {"name": p.name, "type": "cat", "categories": [str(c) for c in p.choices]}


class Hebo(Peer):
    """One HEBO object."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        np.random.seed(brief.seed)  # HEBO draws from it
        torch.manual_seed(brief.seed)
        self._hebo = HEBO(DesignSpace().parse([_described(p) for p in brief.space]), scramble_seed=brief.seed)
        self._rows: dict[int, Any] = {}

    def ask(self, number: int) -> Point:
        """One suggestion."""
        row = self._rows[number] = self._hebo.suggest(n_suggestions=1)
        point: Point = {}
        for p in self.brief.space:
            value = plain(row[p.name].iloc[0])
            if p.kind == "ordinal":
                value = p.choices[int(value)]
            elif p.kind == "categorical":
                value = next(c for c in p.choices if str(c) == str(value))
            point[p.name] = int(value) if p.kind == "int" else value
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Observes the result."""
        self._hebo.observe(pd.DataFrame(self._rows.pop(number)), np.array([[values[0]]]))

    @classmethod
    def versions(cls) -> dict[str, str]:
        """HEBO's and torch's."""
        return version("HEBO", "torch", "numpy")


if __name__ == "__main__":
    serve(Hebo)
