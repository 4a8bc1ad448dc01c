"""The point that promises most: global candidates, neighbours of good points, then gradients and level moves in turn.

1. A pool: points anywhere, and perturbations of the best observed points at scales from a thousandth (`closest`) to a third of the
   cube, in all coordinates or in some.
2. The most promising of the pool, kept apart from each other, are improved side by side: free columns by batched quasi-Newton
   steps, levelled columns by moves to other levels, in turn until neither helps. Fine ones climb once as if they were free, and move
   by a level or two from there. What is rounded so (and integers of a huge range) is rounded between two climbs, and what counts is
   the value afterwards.
3. All that was found, best first; the caller takes the first that is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asktell_server.optimizers.encoding import Array, Mask
from asktell_server.optimizers.gp.acquisition import Term, total, total_and_gradient
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.kernel import EDGE, Inputs, Layout
from asktell_server.optimizers.gp.lbfgs import minimize
from asktell_server.optimizers.gp.prior import Belief
from asktell_server.optimizers.safe_math import NumericalError

CACHED = 120_000
"""Elements of one array of the kernel: candidates are evaluated in pieces, so that it stays in the processor's cache."""

NEXT = (1, 2)
"""How many levels up and down a fine column moves."""
MOST_MOVES = 2_500
"""Level moves of one point in a row, times levelled columns: what a move costs grows with these."""


@dataclass(frozen=True)
class SearchConfig:
    """Effort of a search. `anywhere`, `near`: sizes of the pool's two parts; `starts`: points that are improved; `rounds`: of
    gradients and level moves; `calls`: function calls of one quasi-Newton run; `closest`: the smallest perturbation.
    """

    anywhere: int = 768
    near: int = 256
    starts: int = 8
    rounds: int = 3
    calls: int = 40
    closest: float = 1e-3


class Search:
    """Maximises a sum of terms over a cube."""

    def __init__(
        self,
        cube: Cube,
        layout: Layout,
        config: SearchConfig,
        rng: np.random.Generator,
        belief: Belief | None = None,
        weight: int = 1000,
    ) -> None:
        """`weight`: elements of the kernel's arrays per candidate."""
        self._cube, self._layout, self._config, self._rng, self._belief = cube, layout, config, rng, belief
        self._free = cube.is_free[layout.numeric]
        self._fine = np.isin(layout.numeric, cube.fine)
        self._piece = max(8, CACHED // max(1, weight))
        self._levelled = [i for i in cube.levels if cube.varies[i]]

    def maximize(
        self,
        terms: Sequence[Term],
        centers: Array,  # (k, d) canonical, best first
    ) -> tuple[Array, Array]:  # (r, d) canonical, (r,) values, best first
        """Points by falling promise: the improved ones and the pool."""
        pool = self._pool(centers)
        values = self._evaluate_all(terms, pool)
        order = np.argsort(-values, kind="stable")
        units = pool[self._apart(pool, order)]
        value = np.full(len(units), -np.inf)
        moved = np.arange(len(units))
        for k in range(self._config.rounds):
            climbing = self._free | self._fine if k == 0 else self._free
            if climbing.any():
                units[moved], value[moved] = self._climb(terms, units[moved], climbing)
            if not self._levelled:
                break
            before = units.copy()
            units, value = self._step(terms, units)
            # Where the levels stayed there is nothing more to climb.
            moved = np.flatnonzero((units != before).any(axis=1))
            if not len(moved):
                break
        everything, every_value = np.concatenate([units, pool]), np.concatenate([value, values])
        order = np.argsort(-every_value, kind="stable")
        return everything[order], every_value[order]

    def best_of(self, terms: Sequence[Term], units: Array) -> tuple[Array, Array]:  # (m, d) canonical
        """All of `units` by falling promise."""
        values = self._evaluate_all(terms, units)
        order = np.argsort(-values, kind="stable")
        return units[order], values[order]

    def _evaluate_all(self, terms: Sequence[Term], units: Array) -> Array:  # canonical (m, d) -> (m,)
        value = self._evaluate(terms, units)
        if not np.isfinite(value).any():
            raise NumericalError("the acquisition function is finite nowhere")
        return value

    def _evaluate(self, terms: Sequence[Term], units: Array) -> Array:  # canonical (m, d) -> (m,)
        units, active = self._cube.canonical(units.copy())
        parts = []
        for at in range(0, len(units), self._piece):
            inputs = Inputs.of(self._layout, units[at : at + self._piece], active[at : at + self._piece])
            parts.append(total(terms, inputs))
        value = np.concatenate(parts)
        return np.where(np.isfinite(value), value, -np.inf)

    def _pool(self, centers: Array) -> Array:  # (m, d) canonical
        anywhere = self._rng.random((self._config.anywhere, self._cube.dimensions))
        parts = [anywhere]
        if self._belief is not None:
            parts.append(self._belief.sample(self._rng, self._config.near))
        if len(centers):
            parts += [centers, self._near(centers)]
        return self._cube.canonical(np.concatenate(parts))[0]

    def _near(self, centers: Array) -> Array:
        """Perturbed centers, the better ones more often."""
        rng, size, d = self._rng, self._config.near, self._cube.dimensions
        which = np.minimum((len(centers) * rng.random(size) ** 2).astype(np.intp), len(centers) - 1)
        units = centers[which].copy()
        scale = 10.0 ** rng.uniform(math.log10(self._config.closest), -0.5, size)[:, None]
        # In all coordinates or in about so many of them.
        share = np.maximum(rng.choice([1.0, 0.3, 3.0 / d, 1.0 / d], size), 1.0 / d)[:, None]
        moved = rng.random((size, d)) < share
        moved[np.arange(size), rng.integers(d, size=size)] = True
        step = scale * rng.standard_normal((size, d))
        levelled = ~self._cube.is_free
        if levelled.any():
            # At least one level up or down; another choice, or a jump now and then.
            width = np.array([1.0 / len(self._cube.levels[i]) if i in self._cube.levels else 0.0 for i in range(d)])
            at_least = np.where(step >= 0, 1.0, -1.0) * np.maximum(np.abs(step), width)
            step = np.where(levelled, at_least, step)
            jump = levelled & (self._cube.is_categorical | (rng.random((size, d)) < 0.2))
            anywhere = rng.random((size, d))
            units = np.where(moved & jump, anywhere, units + np.where(moved, step, 0.0))
        else:
            units += np.where(moved, step, 0.0)
        # Reflection keeps the points near a bound from piling up on it.
        units = np.abs(units)
        units = np.where(units > 1.0, 2.0 - units, units)
        return np.clip(units, 0.0, 1.0)

    def _apart(self, pool: Array, order: NDArray[np.intp]) -> list[int]:
        """The first of `order`, and further ones that keep some distance from those chosen before."""
        chosen: list[int] = []
        wanted = self._config.starts
        for least in (0.1, 0.01, 0.0):
            for i in order[: 40 * wanted].tolist():
                if len(chosen) == wanted:
                    return chosen
                if i not in chosen and all(np.abs(pool[i] - pool[j]).max() >= least for j in chosen):
                    chosen.append(i)
        return chosen

    def _climb(self, terms: Sequence[Term], start: Array, climbing: Mask) -> tuple[Array, Array]:
        """Quasi-Newton ascent in those of the columns that are active."""
        units, value = self._ascended(terms, start, climbing)
        rest = climbing & ~self._fine & ~np.isin(self._layout.numeric, self._cube.snapped)
        if (rest != climbing).any():
            # Between two integers there may be promise where no trial can be: it does not count.
            if rest.any():
                units, _ = self._ascended(terms, units, rest)
            value, before = self._evaluate(terms, units), self._evaluate(terms, start)
            is_worse = ~(value >= before)
            units[is_worse], value[is_worse] = self._cube.canonical(start[is_worse])[0], before[is_worse]
        return units, value

    def _ascended(self, terms: Sequence[Term], units: Array, free: Mask) -> tuple[Array, Array]:
        canonical, active = self._cube.canonical(units.copy())
        base = Inputs.of(self._layout, canonical, active)
        movable = free & (base.active > 0)

        def negative(x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
            inputs = Inputs(x, base.active[rows], base.choice[rows])
            value, gradient = total_and_gradient(terms, inputs)
            return -value, np.where(movable[rows], -gradient, 0.0)

        lower = np.where(movable, EDGE, base.x)
        upper = np.where(movable, 1.0 - EDGE, base.x)
        found, value = minimize(negative, base.x, lower, upper, max_calls=self._config.calls, first_step=0.05)
        result = canonical.copy()
        found = np.where(found <= EDGE, 0.0, np.where(found >= 1.0 - EDGE, 1.0, found))
        numeric = self._layout.numeric
        result[:, numeric] = np.where(movable, found, result[:, numeric])
        return self._cube.canonical(result)[0], -value

    def _step(self, terms: Sequence[Term], units: Array) -> tuple[Array, Array]:
        """The best move of one levelled column to another level, again and again while it helps."""
        units, active = self._cube.canonical(units.copy())
        value = self._evaluate(terms, units)
        columns = len(self._levelled)
        settled = np.zeros(len(units), dtype=np.bool_)
        for _ in range(min(2 + columns, max(8, MOST_MOVES // columns))):
            owners, moves, is_drawn = self._moves(units, active, settled)
            if not len(moves):
                break
            found = self._evaluate(terms, moves)
            improved = False
            for s in range(len(units)):
                mine = np.flatnonzero(owners == s)
                if len(mine):
                    best = mine[np.argmax(found[mine])]
                    if found[best] > value[s] + 1e-9:
                        units[s], value[s] = moves[best], found[best]
                        improved = True
                    elif not is_drawn[s]:
                        settled[s] = True
            if not improved:
                break
            units, active = self._cube.canonical(units)
        return units, value

    def _moves(self, units: Array, active: Mask, settled: Mask) -> tuple[NDArray[np.intp], Array, Mask]:
        """Whose they are, and neighbours of each point that is not settled, which differ in one levelled column; some at random where
        there are many, and of which points that is so.
        """
        owners: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        budget = max(8, 1500 // max(1, len(units)))
        held = {i: self._cube.index(i, units[:, i]).tolist() for i in self._levelled}
        is_drawn = np.zeros(len(units), dtype=np.bool_)
        for s in np.flatnonzero(~settled).tolist():
            mine: list[tuple[int, float]] = []
            for i in self._levelled:
                if not active[s, i]:
                    continue
                levels = self._cube.levels[i]
                at = held[i][s]
                if len(levels) <= (24 if self._cube.is_categorical[i] else 9):
                    targets = [k for k in range(len(levels)) if k != at]
                elif self._cube.is_categorical[i]:
                    targets = self._rng.choice(len(levels), 24, replace=False).tolist()
                    is_drawn[s] = True
                else:
                    reach = np.array(NEXT) if i in self._cube.fine else 2 ** np.arange(int(np.log2(len(levels))) + 1)
                    targets = [k for k in (*(at + reach), *(at - reach)) if 0 <= k < len(levels)]
                mine += [(i, levels[k]) for k in targets]
            if len(mine) > budget:
                mine = [mine[k] for k in self._rng.choice(len(mine), budget, replace=False)]
                is_drawn[s] = True
            owners += [s] * len(mine)
            columns += [i for i, _ in mine]
            values += [value for _, value in mine]
        moves = units[owners]
        moves[np.arange(len(owners)), columns] = values
        return np.array(owners, dtype=np.intp), self._cube.canonical(moves)[0], is_drawn
