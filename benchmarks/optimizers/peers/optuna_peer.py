"""Optuna: GPSampler, TPESampler, NSGAIISampler.

GPSampler models only parameters that every trial has, so it gets the flattened space. TPESampler is multivariate,
which its documentation recommends over independent sampling, with `group` for conditional spaces and the constant liar
(its default) for parallel trials. NSGA-II keeps its default population of 50 unless the budget would then hold fewer
than five generations.
"""

from __future__ import annotations

import warnings
from typing import Any

import optuna

from .. import space as spaces
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Parameter, Point

SLACK = "slack"


def _distribution(p: Parameter) -> Any:
    if p.kind == "float":
        return optuna.distributions.FloatDistribution(p.low, p.high, log=p.log)
    if p.kind == "int":
        return optuna.distributions.IntDistribution(int(p.low), int(p.high), log=p.log)
    # Optuna has no type for ordered numbers: their place in the list keeps the order.
    if p.kind == "ordinal":
        return optuna.distributions.IntDistribution(0, len(p.choices) - 1)
    return optuna.distributions.CategoricalDistribution(p.choices)


class Optuna(Peer):
    """One study in memory."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore")
        constraints = (lambda trial: trial.user_attrs.get(SLACK, (1.0,))) if brief.constraints else None
        sampler = brief.settings["sampler"]
        self._flat = sampler == "gp"
        self._trials: dict[int, Any] = {}
        made: Any
        if sampler == "gp":
            made = optuna.samplers.GPSampler(
                seed=brief.seed, deterministic_objective=not brief.noisy, constraints_func=constraints
            )
        elif sampler == "tpe":
            conditional = any(p.condition is not None for p in brief.space)
            made = optuna.samplers.TPESampler(
                seed=brief.seed,
                multivariate=True,
                group=conditional,
                constant_liar=True,
                constraints_func=constraints,
            )
        elif sampler == "nsga2":
            made = optuna.samplers.NSGAIISampler(
                seed=brief.seed,
                population_size=min(50, max(10, brief.budget // 5)),
                constraints_func=constraints,
            )
        else:
            raise ValueError(f"unknown sampler {sampler!r}")
        self._study = optuna.create_study(sampler=made, directions=["minimize"] * len(brief.objectives))
        self._distributions = {p.name: _distribution(p) for p in brief.space}

    def _suggest(self, trial: Any, p: Parameter) -> Any:
        if p.kind == "float":
            return trial.suggest_float(p.name, p.low, p.high, log=p.log)
        if p.kind == "int":
            return trial.suggest_int(p.name, int(p.low), int(p.high), log=p.log)
        if p.kind == "ordinal":
            return p.choices[trial.suggest_int(p.name, 0, len(p.choices) - 1)]
        return trial.suggest_categorical(p.name, p.choices)

    def ask(self, number: int) -> Point:
        """A trial of the study, its parameters suggested."""
        trial = self._trials[number] = self._study.ask()
        point: Point = {}
        for p in self.brief.space:
            if self._flat or p.condition is None or point.get(p.condition.parent) in p.condition.values:
                point[p.name] = self._suggest(trial, p)
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Tells the trial."""
        trial = self._trials.pop(number)
        if self.brief.constraints:
            trial.set_user_attr(SLACK, slack)
        self._study.tell(trial, values)

    def add(self, point: Point, values: list[float], slack: list[float]) -> None:
        """Adds a finished trial."""
        held = point if self._flat else spaces.active(self.brief.space, point)
        parameters = {
            p.name: p.choices.index(held[p.name]) if p.kind == "ordinal" else held[p.name]
            for p in self.brief.space
            if p.name in held
        }
        self._study.add_trial(
            optuna.trial.create_trial(
                params=parameters,
                distributions={name: self._distributions[name] for name in parameters},
                values=values,
                user_attrs={SLACK: slack} if self.brief.constraints else {},
            )
        )

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Optuna's and torch's."""
        return version("optuna", "torch")


if __name__ == "__main__":
    serve(Optuna)
