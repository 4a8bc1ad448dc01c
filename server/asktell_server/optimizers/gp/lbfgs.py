"""Batched limited-memory BFGS in a box: b independent minimisations, one function call for all of them per step.

Each row of the batch has a line search and a curvature memory of its own. A call evaluates one trial point per unfinished row;
rows that accept theirs take a quasi-Newton step next, the others a shorter one. Variables that sit on a bound with the
gradient pointing outwards are held there for the step (two-metric projection [1]_, two-loop recursion [2]_).

.. [1] D. P. Bertsekas. Projected Newton methods for optimization problems with simple constraints. SIAM J. Control Optim. 20 (1982).
.. [2] J. Nocedal. Updating quasi-Newton matrices with limited storage. Mathematics of Computation 35 (1980).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asktell_server.optimizers.encoding import Array

ValueAndGradient = Callable[[Array, NDArray[np.intp]], tuple[Array, Array]]
"""(x (c, k), rows (c,)) -> values (c,), gradients (c, k), where `rows` says which rows of the batch the x belong to."""

ARMIJO = 1e-4
MEMORY = 10
MAX_SHORTENINGS = 12


def minimize(
    function: ValueAndGradient,
    start: Array,  # (b, k)
    lower: Array,  # (k,) or (b, k)
    upper: Array,  # (k,) or (b, k)
    *,
    max_calls: int,
    tolerance: float = 1e-5,
    first_step: float = 0.1,
) -> tuple[Array, Array]:  # (b, k), (b,)
    """The best point of each row and its value, after at most `max_calls` calls of `function`.

    A row is finished when its projected gradient or its last decrease is below `tolerance` (absolute; relative to 1 + |f|). A
    point whose value or gradient is not finite is never moved to; a row whose start has no finite value stays there with
    value infinity.
    """
    low, high = np.broadcast_to(lower, start.shape), np.broadcast_to(upper, start.shape)
    x = np.minimum(np.maximum(start, low), high)
    b = len(x)
    f, g = function(x, np.arange(b))
    f = np.where(np.isfinite(f), f, np.inf)
    g = np.where(np.isfinite(f)[:, None], g, 0.0)
    memory: list[_Pair] = []
    gamma, is_taught = np.ones(b), np.zeros(b, dtype=np.bool_)
    direction, slope = _direction(x, g, low, high, memory, gamma)
    step = _first(direction, first_step)
    failures = np.zeros(b, dtype=np.intp)
    alive = np.isfinite(f) & (slope < -tolerance * tolerance)
    for _ in range(max_calls - 1):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        before = x[rows]
        trial = np.minimum(np.maximum(before + step[rows, None] * direction[rows], low[rows]), high[rows])
        f_new, g_new = function(trial, rows)
        move = trial - before
        # A bound may turn a step uphill; it counts if it descends all the same.
        accepted = f_new <= f[rows] + ARMIJO * np.minimum(np.vecdot(g[rows], move), 0.0)
        accepted &= np.isfinite(f_new) & np.isfinite(g_new).all(axis=1)
        if not accepted.all():
            no = rows[~accepted]
            failures[no] += 1
            step[no] *= 0.25
            # A poor curvature memory may be the reason: forget it once, then give up.
            stuck = no[failures[no] == MAX_SHORTENINGS // 2]
            if len(stuck):
                for pair in memory:
                    pair.rho[stuck] = 0.0
                gamma[stuck], is_taught[stuck] = 1.0, False
                _put(stuck, direction, slope, *_direction(x, g, low, high, memory, gamma))
                step[stuck] = 0.1 * _first(direction[stuck], first_step)
            alive[no[failures[no] >= MAX_SHORTENINGS]] = False
            if not accepted.any():
                memory = _remembered(memory, _Pair.nothing(x.shape))
                continue
            rows, trial, move, f_new, g_new = (part[accepted] for part in (rows, trial, move, f_new, g_new))
        decrease = f[rows] - f_new
        turn = g_new - g[rows]
        curvature, turn2 = np.vecdot(move, turn), np.vecdot(turn, turn)
        keep = curvature > 1e-10 * np.sqrt(np.vecdot(move, move) * turn2)
        memory = _remembered(memory, _Pair.of(x.shape, rows[keep], move[keep], turn[keep], curvature[keep]))
        gamma[rows[keep]], is_taught[rows[keep]] = curvature[keep] / turn2[keep], True
        x[rows], f[rows], g[rows] = trial, f_new, g_new
        failures[rows] = 0
        _put(rows, direction, slope, *_direction(x, g, low, high, memory, gamma))
        # Without curvature the gradient's length says nothing about the distance to go.
        step[rows] = np.where(is_taught[rows], 1.0, _first(direction[rows], first_step))
        flat = np.abs(trial - np.minimum(np.maximum(trial - g_new, low[rows]), high[rows])).max(axis=1) < tolerance
        done = flat | (decrease < tolerance * 1e-2 * (1.0 + np.abs(f_new))) | (slope[rows] >= 0)
        alive[rows[done]] = False
    return x, f


@dataclass(frozen=True)
class _Pair:
    """What one call taught: by how much x and the gradient changed, and 1 / (s y); rows that it taught nothing have rho 0."""

    s: Array  # (b, k)
    y: Array  # (b, k)
    rho: Array  # (b,)

    @classmethod
    def nothing(cls, shape: tuple[int, ...]) -> _Pair:
        """Of a call that taught no row anything."""
        return cls(np.zeros(shape), np.zeros(shape), np.zeros(shape[0]))

    @classmethod
    def of(cls, shape: tuple[int, ...], rows: NDArray[np.intp], s: Array, y: Array, curvature: Array) -> _Pair:
        """Of a call that taught some rows."""
        made = cls.nothing(shape)
        made.s[rows], made.y[rows], made.rho[rows] = s, y, 1.0 / curvature
        return made


def _remembered(memory: list[_Pair], newest: _Pair) -> list[_Pair]:
    """What the last MEMORY calls taught; every call counts, so that no row's memory depends on what the others do."""
    return [*memory[len(memory) == MEMORY :], newest]


def _first(direction: Array, length: float) -> Array:  # (c, k) -> (c,)
    """The step that moves no variable farther than `length`, 1 at most."""
    step: Array = length / np.maximum(np.abs(direction).max(axis=1), length)
    return step


def _put(rows: NDArray[np.intp], direction: Array, slope: Array, new_direction: Array, new_slope: Array) -> None:
    direction[rows], slope[rows] = new_direction[rows], new_slope[rows]


def _direction(
    x: Array,  # (b, k)
    g: Array,  # (b, k)
    low: Array,  # (b, k)
    high: Array,  # (b, k)
    memory: Sequence[_Pair],  # the newest last
    gamma: Array,  # (b,)
) -> tuple[Array, Array]:  # (b, k), (b,)
    """A descent direction of each row, and the slope along it."""
    free = ~(((x <= low) & (g > 0)) | ((x >= high) & (g < 0)))
    q = g * free
    shares = []
    for pair in reversed(memory):
        shares.append(pair.rho * np.vecdot(pair.s, q))
        q -= shares[-1][:, None] * pair.y
    q *= gamma[:, None]
    for pair in memory:
        q += (shares.pop() - pair.rho * np.vecdot(pair.y, q))[:, None] * pair.s
    direction = -q * free
    slope = np.vecdot(direction, g)
    uphill = ~(slope < 0)
    if uphill.any():
        steepest = -g * free
        direction[uphill] = steepest[uphill]
        slope[uphill] = -np.vecdot(steepest[uphill], steepest[uphill])
    return direction, slope
