"""SMAC3 by ask and tell: the facade its documentation recommends for the kind of space.

Floats only: BlackBoxFacade (a GP). Otherwise HyperparameterOptimizationFacade (a random forest, log EI), with
conditions as ConfigSpace has them; its forest is fitted after every result, where the default is after every eighth:
trials are few and dear here. Each configuration is evaluated once (`deterministic`), as for all peers. Trials that run
are known to SMAC, which does not suggest them again.
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition, Float, InCondition, Integer
from smac import BlackBoxFacade, HyperparameterOptimizationFacade, Scenario
from smac.runhistory.dataclasses import TrialValue

from ..protocol import Peer, StudyBrief, plain, serve, version
from ..space import Parameter, Point


def _hyperparameter(p: Parameter) -> Any:
    if p.kind == "float":
        return Float(p.name, (p.low, p.high), log=p.log)
    if p.kind == "int":
        return Integer(p.name, (int(p.low), int(p.high)), log=p.log)
    if p.kind == "ordinal":
        return Integer(p.name, (0, len(p.choices) - 1))
    return Categorical(p.name, [str(c) for c in p.choices])


class Smac(Peer):
    """One facade."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        space = ConfigurationSpace(seed=brief.seed)
        made = {p.name: _hyperparameter(p) for p in brief.space}
        space.add(list(made.values()))
        kinds = {p.name: p.kind for p in brief.space}
        for p in brief.space:
            if p.condition is not None:
                parent = made[p.condition.parent]
                text = kinds[p.condition.parent] == "categorical"
                values = [str(v) if text else v for v in p.condition.values]
                child = made[p.name]
                space.add(
                    EqualsCondition(child, parent, values[0])
                    if len(values) == 1
                    else InCondition(child, parent, values)
                )
        self._folder = Path(tempfile.mkdtemp(prefix="asktell-bench-smac-"))
        objectives = list(brief.objectives) if len(brief.objectives) > 1 else "cost"
        scenario = Scenario(
            space,
            deterministic=True,
            n_trials=10 * brief.budget,
            seed=brief.seed,
            output_directory=self._folder,
            objectives=objectives,
        )
        plain_box = all(p.kind == "float" and p.condition is None for p in brief.space) and len(brief.objectives) == 1
        facade = BlackBoxFacade if plain_box else HyperparameterOptimizationFacade
        # The size of the design follows the number of trials that there will be.
        design = facade.get_initial_design(scenario, n_configs=max(5, min(8 * len(brief.space), brief.budget // 4)))
        self._smac = facade(
            scenario,
            lambda config, seed=0: 0.0,  # noqa: ARG005 # never called
            initial_design=design,
            config_selector=facade.get_config_selector(scenario, retrain_after=1),
            overwrite=True,
            logging_level=False,
        )
        self._infos: dict[int, Any] = {}

    def ask(self, number: int) -> Point:
        """One configuration."""
        info = self._infos[number] = self._smac.ask()
        config = dict(info.config)
        point: Point = {}
        for p in self.brief.space:
            if p.name not in config:
                continue
            value = plain(config[p.name])
            if p.kind == "ordinal":
                value = p.choices[int(value)]
            elif p.kind == "categorical":
                value = next(c for c in p.choices if str(c) == str(value))
            point[p.name] = value
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Tells the result."""
        cost: Any = values if len(values) > 1 else values[0]
        self._smac.tell(self._infos.pop(number), TrialValue(cost=cost), save=False)

    def close(self) -> None:
        """Removes SMAC's files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """SMAC's, ConfigSpace's and scikit-learn's."""
        return version("smac", "ConfigSpace", "scikit-learn")


if __name__ == "__main__":
    serve(Smac)
