"""Batched limited-memory BFGS in a box: b independent minimisations, one function call for all of them per step.

Each row of the batch has a line search and a curvature memory of its own. A call evaluates one trial point per unfinished row;
rows that accept theirs take a quasi-Newton step next, the others a shorter one. Variables that sit on a bound with the
gradient pointing outwards are held there for the step (two-metric projection [1]_, two-loop recursion [2]_).

The rows' own arithmetic is done in numpy, whose calls on arrays this small cost a third of torch's.

.. [1] D. P. Bertsekas. Projected Newton methods for optimization problems with simple constraints. SIAM J. Control Optim. 20 (1982).
.. [2] J. Nocedal. Updating quasi-Newton matrices with limited storage. Mathematics of Computation 35 (1980).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asktell_server.optimizers.encoding import Array

ValueAndGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x (c, k), rows (c,)) -> values (c,), gradients (c, k), where `rows` says which rows of the batch the x belong to."""

ARMIJO = 1e-4
MEMORY = 8
MAX_SHORTENINGS = 12


def minimize(
    function: ValueAndGradient,
    start: Tensor,  # (b, k) float64
    lower: Tensor,  # (k,) or (b, k)
    upper: Tensor,  # (k,) or (b, k)
    *,
    max_calls: int,
    tolerance: float = 1e-5,
    first_step: float = 0.1,
) -> tuple[Tensor, Tensor]:  # (b, k), (b,)
    """The best point of each row and its value, after at most `max_calls` calls of `function`.

    A row is finished when its projected gradient or its last decrease is below `tolerance` (absolute; relative to 1 + |f|). A
    point whose value or gradient is not finite is never moved to; a row whose start has no finite value stays there with
    value infinity.
    """

    def evaluate(x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        value, gradient = function(torch.from_numpy(x), torch.from_numpy(rows))
        return value.numpy(), gradient.numpy()

    low, high = lower.expand_as(start).numpy(), upper.expand_as(start).numpy()
    x = np.clip(start.numpy(), low, high)
    b, k = x.shape
    f, g = evaluate(x, np.arange(b))
    f, g = np.where(np.isfinite(f), f, np.inf), g.copy()
    s_memory, y_memory = np.zeros((MEMORY, b, k)), np.zeros((MEMORY, b, k))
    rho, gamma = np.zeros((MEMORY, b)), np.ones(b)
    direction, slope = _direction(x, g, low, high, s_memory, y_memory, rho, gamma)
    step = _first(direction, first_step)
    failures = np.zeros(b, dtype=np.intp)
    alive = np.isfinite(f) & (slope < -tolerance * tolerance)
    for _ in range(max_calls - 1):
        rows = np.flatnonzero(alive)
        if not len(rows):
            break
        trial = np.clip(x[rows] + step[rows, None] * direction[rows], low[rows], high[rows])
        f_new, g_new = evaluate(trial, rows)
        move = trial - x[rows]
        # A bound may turn a step uphill; it counts if it descends all the same.
        accepted = np.isfinite(f_new) & (f_new <= f[rows] + ARMIJO * np.minimum((g[rows] * move).sum(axis=1), 0.0))
        accepted &= np.isfinite(g_new).all(axis=1)
        if not accepted.all():
            no = rows[~accepted]
            failures[no] += 1
            step[no] *= 0.25
            # A poor curvature memory may be the reason: forget it once, then give up.
            stuck = no[failures[no] == MAX_SHORTENINGS // 2]
            if len(stuck):
                rho[:, stuck], gamma[stuck] = 0.0, 1.0
                direction[stuck], slope[stuck] = _direction(
                    x[stuck],
                    g[stuck],
                    low[stuck],
                    high[stuck],
                    s_memory[:, stuck],
                    y_memory[:, stuck],
                    rho[:, stuck],
                    gamma[stuck],
                )
                step[stuck] = 0.1 * _first(direction[stuck], first_step)
            alive[no[failures[no] >= MAX_SHORTENINGS]] = False
            if not accepted.any():
                continue
        yes, change, g_yes = rows[accepted], move[accepted], g_new[accepted]
        decrease = f[yes] - f_new[accepted]
        turn = g_yes - g[yes]
        curvature = (change * turn).sum(axis=1)
        turn2 = (turn * turn).sum(axis=1)
        keep = curvature > 1e-10 * np.sqrt((change * change).sum(axis=1) * turn2)
        kept = yes[keep]
        for memory, newest in ((s_memory, change[keep]), (y_memory, turn[keep]), (rho, 1.0 / curvature[keep])):
            memory[:-1, kept] = memory[1:, kept]
            memory[-1, kept] = newest
        gamma[kept] = curvature[keep] / turn2[keep]
        x[yes], f[yes], g[yes] = trial[accepted], f_new[accepted], g_yes
        failures[yes] = 0
        direction[yes], slope[yes] = _direction(
            x[yes], g_yes, low[yes], high[yes], s_memory[:, yes], y_memory[:, yes], rho[:, yes], gamma[yes]
        )
        # Without curvature the gradient's length says nothing about the distance to go.
        step[yes] = np.where(rho[-1, yes] > 0, 1.0, _first(direction[yes], first_step))
        flat = np.abs(x[yes] - np.clip(x[yes] - g_yes, low[yes], high[yes])).max(axis=1) < tolerance
        done = flat | (decrease < tolerance * 1e-2 * (1.0 + np.abs(f[yes]))) | (slope[yes] >= 0)
        alive[yes[done]] = False
    return torch.from_numpy(x), torch.from_numpy(f)


def _first(direction: Array, length: float) -> Array:  # (c, k) -> (c,)
    """The step that moves no variable farther than `length`, 1 at most."""
    step: Array = length / np.maximum(np.abs(direction).max(axis=1), length)
    return step


def _direction(
    x: Array,  # (c, k)
    g: Array,  # (c, k)
    low: Array,  # (c, k)
    high: Array,  # (c, k)
    s: Array,  # (MEMORY, c, k), the newest last
    y: Array,  # (MEMORY, c, k)
    rho: Array,  # (MEMORY, c), 0 where there is nothing yet
    gamma: Array,  # (c,)
) -> tuple[Array, Array]:  # (c, k), (c,)
    """A descent direction of each row, and the slope along it."""
    held = ((x <= low) & (g > 0)) | ((x >= high) & (g < 0))
    free_gradient = np.where(held, 0.0, g)
    q = free_gradient.copy()
    used = np.flatnonzero(rho.any(axis=1))
    alphas = {}
    for i in used[::-1]:
        alphas[i] = rho[i] * (s[i] * q).sum(axis=1)
        q -= alphas[i][:, None] * y[i]
    q *= gamma[:, None]
    for i in used:
        q += (alphas[i] - rho[i] * (y[i] * q).sum(axis=1))[:, None] * s[i]
    direction = np.where(held, 0.0, -q)
    slope = (direction * g).sum(axis=1)
    uphill = ~(slope < 0)
    if uphill.any():
        direction[uphill] = -free_gradient[uphill]
        slope[uphill] = -(free_gradient[uphill] ** 2).sum(axis=1)
    return direction, slope
