"""Batched quasi-Newton in a box: where it ends, and that no row knows of another."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from torch import Tensor

from asktell_server.optimizers.gp.lbfgs import ValueAndGradient, minimize


class Quadratics:
    """b quadratics, each with a minimum of its own, of some condition number."""

    def __init__(self, rows: int, size: int, condition: float, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.centers = torch.from_numpy(rng.uniform(-2.0, 2.0, (rows, size)))
        turns = torch.linalg.qr(torch.from_numpy(rng.standard_normal((rows, size, size))))[0]
        self.curvature = (
            turns @ torch.diag(torch.logspace(0, np.log10(condition), size, dtype=torch.float64)) @ turns.mT
        )
        self.seen: list[Tensor] = []

    def __call__(self, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Values and gradients."""
        self.seen.append(x.clone())
        off = x - self.centers[rows]
        pull = (self.curvature[rows] @ off[:, :, None])[:, :, 0]
        return 0.5 * (off * pull).sum(dim=1), pull

    def by_scipy(self, row: int, low: float, high: float) -> float:
        """The least value of a row in a box."""

        def function(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = self(torch.from_numpy(x)[None], torch.tensor([row]))
            return float(value[0]), gradient[0].numpy()

        size = self.centers.shape[1]
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
        found = scipy_minimize(
            function, np.zeros(size), jac=True, method="L-BFGS-B", bounds=[(low, high)] * size, options=options
        )
        return float(found.fun)


def rosenbrock(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The banana, whose minimum is 0 at (1, 1)."""
    a, b = x[:, 0], x[:, 1]
    value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
    return value, torch.stack([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)], dim=1)


def box(low: float, high: float) -> tuple[Tensor, Tensor]:
    """Bounds of every variable."""
    return torch.tensor(low, dtype=torch.float64), torch.tensor(high, dtype=torch.float64)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("bound", [10.0, 1.0], ids=["bounds far away", "bounds in the way"])
def test_quadratics_end_where_scipy_ends(condition: float, bound: float) -> None:
    """Well and badly conditioned, with the minimum inside the box or beyond it."""
    function = Quadratics(6, 5, condition)
    start = torch.zeros((6, 5), dtype=torch.float64)

    x, value = minimize(function, start, *box(-bound, bound), max_calls=2000, tolerance=1e-9)

    assert bool((x.abs() <= bound).all())
    assert torch.allclose(function(x, torch.arange(6))[0], value)
    expected = [function.by_scipy(row, -bound, bound) for row in range(6)]
    assert value.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6 * condition)


def test_it_follows_a_curved_valley() -> None:
    """Rosenbrock's function from several sides, in a number of calls that a quasi-Newton method needs."""
    start = torch.tensor([[-1.2, 1.0], [0.0, 0.0], [3.0, -3.0], [1.0, 1.0]], dtype=torch.float64)

    x, value = minimize(rosenbrock, start, *box(-5.0, 5.0), max_calls=150, tolerance=1e-7)

    assert torch.allclose(x, torch.ones_like(x), atol=1e-2)
    assert float(value.max()) < 1e-4


def test_bounds_may_differ_by_row_and_leave_no_room() -> None:
    """Each row has a box of its own; a variable whose bounds meet stays."""
    function = Quadratics(2, 2, 10.0)
    lower = torch.tensor([[-9.0, 0.5], [3.0, -9.0]], dtype=torch.float64)
    upper = torch.tensor([[9.0, 0.5], [4.0, 9.0]], dtype=torch.float64)

    x, _ = minimize(function, torch.zeros((2, 2), dtype=torch.float64), lower, upper, max_calls=100)

    assert float(x[0, 1]) == 0.5
    assert float(x[1, 0]) == 3.0
    for row, free in ((0, 0), (1, 1)):
        assert abs(float(function(x[row : row + 1], torch.tensor([row]))[1][0, free])) < 1e-3


def test_rows_do_not_know_of_each_other() -> None:
    """Alone, together or in another order a row takes the same steps, bit for bit."""
    function = Quadratics(5, 4, 1e3)
    start = torch.from_numpy(np.random.default_rng(2).uniform(-1, 1, (5, 4)))
    x, value = minimize(function, start, *box(-1.5, 1.5), max_calls=60)

    for row in range(5):

        def alone(x: Tensor, rows: Tensor, row: int = row) -> tuple[Tensor, Tensor]:
            return function(x, torch.full_like(rows, row))

        found, at = minimize(alone, start[row : row + 1], *box(-1.5, 1.5), max_calls=60)
        assert torch.allclose(found[0], x[row], rtol=1e-9, atol=1e-9)
        assert float(at[0]) == pytest.approx(float(value[row]), rel=1e-9)


def test_it_never_leaves_the_box_nor_ends_above_its_start() -> None:
    """For functions of any shape: every point asked for lies in the box, and the value returned is the least accepted."""
    rng = np.random.default_rng(3)
    for seed in range(20):
        waves = torch.from_numpy(rng.standard_normal((3, 4)) * 6)

        def function(x: Tensor, rows: Tensor, waves: Tensor = waves) -> tuple[Tensor, Tensor]:
            assert bool(((x >= -0.3) & (x <= 0.7)).all())
            angle = x[:, None, :] * waves + waves.flip(0)
            return angle.sin().sum(dim=(1, 2)), (angle.cos() * waves).sum(dim=1)

        start = torch.from_numpy(np.random.default_rng(seed).uniform(-0.5, 1.0, (8, 4)))
        before, _ = function(start.clamp(-0.3, 0.7), torch.arange(8))

        x, value = minimize(function, start, *box(-0.3, 0.7), max_calls=40)

        assert bool((value <= before).all())
        assert torch.allclose(function(x, torch.arange(8))[0], value)


def test_it_keeps_to_its_number_of_calls() -> None:
    """One call is the start's; what was found when they are used up is the answer."""
    function = Quadratics(2, 3, 1e4)

    for calls in (1, 2, 7):
        function.seen.clear()
        x, value = minimize(function, torch.ones((2, 3), dtype=torch.float64), *box(-5, 5), max_calls=calls)
        assert len(function.seen) == calls
        assert torch.allclose(function(x, torch.arange(2))[0], value)


def broken(where: str) -> ValueAndGradient:
    """A bowl around -1 which is no number left of 0."""

    def function(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = (x + 1.0).square().sum(dim=1), 2.0 * (x + 1.0)
        bad = (x < 0).any(dim=1)
        if where == "value":
            return torch.where(bad, torch.nan, value), gradient
        if where == "infinity":
            return torch.where(bad, -torch.inf, value), gradient
        return value, torch.where(bad[:, None], torch.nan, gradient)

    return function


@pytest.mark.parametrize("where", ["value", "infinity", "gradient"])
def test_what_is_not_finite_is_kept_away_from(where: str) -> None:
    """A row ends at the edge of the region of finite values, and a row that starts outside does not move."""
    start = torch.tensor([[2.0, 3.0], [-0.5, -0.5], [1.0, 1.0]], dtype=torch.float64)

    x, value = minimize(broken(where), start, *box(-5.0, 5.0), max_calls=80)

    assert bool(torch.isfinite(x).all())
    for row in (0, 2):
        assert bool((x[row] >= 0).all())
        assert float(value[row]) < float((start[row] + 1).square().sum())
    assert x[1].tolist() == [-0.5, -0.5]
    if where != "gradient":
        assert float(value[1]) == torch.inf
