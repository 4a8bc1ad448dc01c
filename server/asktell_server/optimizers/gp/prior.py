"""The user's beliefs about the optimum as a term of the acquisition function [1]_.

acquisition(x) * pi(x)^(beta / n): with n results the belief pi counts beta / n times, so it guides the first trials and, wrong or
right, fades. beta is STRENGTH, the paper's advice for budgets of about a hundred trials. No belief is a certainty: where pi would be
less than FLOOR of what it is at its best, it is that, since the tails of a narrow normal distribution would not fade in thousands of
trials.

.. [1] C. Hvarfner, D. Stoll, A. Souza, M. Lindauer, F. Hutter, L. Nardi. piBO: augmenting acquisition functions with user beliefs
   for Bayesian optimization. ICLR 2022. Equation (6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from asktell_server.domain.algorithms import NormalPrior, OptimumPrior
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.acquisition import Term
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.kernel import Inputs, Layout

STRENGTH = 10.0
FLOOR = 1e-12
NARROWEST = 1e-9
"""Of the widths of normal beliefs, in units: narrower ones are as good as a point, and squares of distances overflow in them."""


class Belief:
    """pi: the product of the priors, each normalised to a maximum of 1; of inactive parameters nothing is believed."""

    def __init__(self, cube: Cube, layout: Layout, priors: Sequence[OptimumPrior]) -> None:
        position = {parameter.name: i for i, parameter in enumerate(cube.encoding.space.parameters)}
        numeric = {int(column): j for j, column in enumerate(layout.numeric)}
        categorical = {int(column): j for j, column in enumerate(layout.categorical)}
        self._cube = cube
        self.normal: list[tuple[int, int, float, float]] = []  # column, numeric dimension, mean and width in units
        self.weighted: list[tuple[int, bool, int, dict[float, float], float]] = []
        for prior in priors:
            column = position[prior.parameter]
            if not cube.varies[column]:
                continue
            code = cube.encoding.columns[column].unit
            belief = prior.belief
            if isinstance(belief, NormalPrior):
                mean = int(belief.mean) if cube.encoding.space.parameters[column].kind == "int" else belief.mean
                self.normal.append((column, numeric[column], code(mean), max(belief.width, NARROWEST)))
                continue
            top = max(weight for _, weight in belief.weights)
            logs = {code(value): math.log(max(weight / top, FLOOR)) for value, weight in belief.weights}
            is_choice = column in categorical
            at = categorical[column] if is_choice else numeric[column]
            self.weighted.append((column, is_choice, at, logs, min(logs.values())))

    def sample(self, rng: np.random.Generator, count: int) -> Array:  # (count, d)
        """Units drawn from pi, uniformly where nothing is believed."""
        units = rng.random((count, self._cube.dimensions))
        for column, _, mean, width in self.normal:
            drawn = mean + width * rng.standard_normal((64, count))
            inside = (drawn >= 0.0) & (drawn <= 1.0)
            first = inside.argmax(axis=0)
            units[:, column] = np.where(inside.any(axis=0), drawn[first, np.arange(count)], np.clip(drawn[0], 0.0, 1.0))
        for column, _, _, logs, least in self.weighted:
            levels = self._cube.levels[column]
            weights = np.exp([logs.get(float(level), least) for level in levels])
            units[:, column] = rng.choice(levels, count, p=weights / weights.sum())
        return units


class LogBelief(Term):
    """beta / n log pi(x)."""

    def __init__(self, belief: Belief, results: int) -> None:
        self._belief = belief
        self._strength = STRENGTH / max(results, 1)

    def value(self, inputs: Inputs) -> Array:
        return self.value_and_gradient(inputs)[0]

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        value = np.zeros(len(inputs))
        gradient = np.zeros_like(inputs.x)
        for _, at, mean, width in self._belief.normal:
            off = (inputs.x[:, at] - mean) / width * inputs.active[:, at]
            density = np.exp(-0.5 * off * off)
            value += np.log(density + FLOOR)
            gradient[:, at] -= density / (density + FLOOR) * off / width
        for _, is_choice, at, logs, least in self._belief.weighted:
            column = inputs.choice[:, at] if is_choice else inputs.x[:, at]
            active = column >= 0 if is_choice else inputs.active[:, at] > 0
            found = np.full_like(value, least)
            for unit, log_weight in logs.items():
                found = np.where(np.abs(column - unit) < 1e-6, log_weight, found)
            value += np.where(active, found, 0.0)
        return self._strength * value, self._strength * gradient
