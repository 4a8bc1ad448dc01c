"""Batched quasi-Newton in a box: where it ends, and that no row knows of another."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import minimize as scipy_minimize

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.lbfgs import ValueAndGradient, minimize


class Quadratics:
    """b quadratics, each with a minimum of its own, of some condition number."""

    def __init__(self, rows: int, size: int, condition: float, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.centers = rng.uniform(-2.0, 2.0, (rows, size))
        turns = np.linalg.qr(rng.standard_normal((rows, size, size)))[0]
        self.curvature = turns @ np.diag(np.logspace(0, np.log10(condition), size)) @ turns.mT
        self.seen: list[Array] = []

    def __call__(self, x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        """Values and gradients."""
        self.seen.append(x.copy())
        off = x - self.centers[rows]
        pull = (self.curvature[rows] @ off[:, :, None])[:, :, 0]
        return 0.5 * (off * pull).sum(axis=1), pull

    def by_scipy(self, row: int, low: float, high: float) -> float:
        """The least value of a row in a box."""

        def function(x: Array) -> tuple[float, Array]:
            value, gradient = self(x[None], np.array([row]))
            return float(value[0]), gradient[0]

        size = self.centers.shape[1]
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-10}
        found = scipy_minimize(
            function, np.zeros(size), jac=True, method="L-BFGS-B", bounds=[(low, high)] * size, options=options
        )
        return float(found.fun)


def rosenbrock(x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
    """The banana, whose minimum is 0 at (1, 1)."""
    a, b = x[:, 0], x[:, 1]
    value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
    return value, np.stack([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)], axis=1)


def box(low: float, high: float) -> tuple[Array, Array]:
    """Bounds of every variable."""
    return np.array(low), np.array(high)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
@pytest.mark.parametrize("bound", [10.0, 1.0], ids=["bounds far away", "bounds in the way"])
def test_quadratics_end_where_scipy_ends(condition: float, bound: float) -> None:
    """Well and badly conditioned, with the minimum inside the box or beyond it."""
    function = Quadratics(6, 5, condition)
    start = np.zeros((6, 5))

    x, value = minimize(function, start, *box(-bound, bound), max_calls=2000, tolerance=1e-9)

    assert (np.abs(x) <= bound).all()
    assert np.allclose(function(x, np.arange(6))[0], value)
    expected = [function.by_scipy(row, -bound, bound) for row in range(6)]
    assert value.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-6 * condition)


def test_it_follows_a_curved_valley() -> None:
    """Rosenbrock's function from several sides, in a number of calls that a quasi-Newton method needs."""
    start = np.array([[-1.2, 1.0], [0.0, 0.0], [3.0, -3.0], [1.0, 1.0]])

    x, value = minimize(rosenbrock, start, *box(-5.0, 5.0), max_calls=150, tolerance=1e-7)

    assert np.allclose(x, 1.0, atol=1e-2)
    assert float(value.max()) < 1e-4


def test_bounds_may_differ_by_row_and_leave_no_room() -> None:
    """Each row has a box of its own; a variable whose bounds meet stays."""
    function = Quadratics(2, 2, 10.0)
    lower = np.array([[-9.0, 0.5], [3.0, -9.0]])
    upper = np.array([[9.0, 0.5], [4.0, 9.0]])

    x, _ = minimize(function, np.zeros((2, 2)), lower, upper, max_calls=100)

    assert float(x[0, 1]) == 0.5
    assert float(x[1, 0]) == 3.0
    for row, free in ((0, 0), (1, 1)):
        assert abs(float(function(x[row : row + 1], np.array([row]))[1][0, free])) < 1e-3


def test_rows_do_not_know_of_each_other() -> None:
    """Alone, together or in another order a row takes the same steps, bit for bit."""
    function = Quadratics(5, 4, 1e3)
    start = np.random.default_rng(2).uniform(-1, 1, (5, 4))
    x, value = minimize(function, start, *box(-1.5, 1.5), max_calls=60)

    for row in range(5):

        def alone(x: Array, rows: NDArray[np.intp], row: int = row) -> tuple[Array, Array]:
            return function(x, np.full_like(rows, row))

        found, at = minimize(alone, start[row : row + 1], *box(-1.5, 1.5), max_calls=60)
        assert np.allclose(found[0], x[row], rtol=1e-9, atol=1e-9)
        assert float(at[0]) == pytest.approx(float(value[row]), rel=1e-9)


def test_it_never_leaves_the_box_nor_ends_above_its_start() -> None:
    """For functions of any shape: every point asked for lies in the box, and the value returned is the least accepted."""
    rng = np.random.default_rng(3)
    for seed in range(20):
        waves = rng.standard_normal((3, 4)) * 6

        def function(x: Array, rows: NDArray[np.intp], waves: Array = waves) -> tuple[Array, Array]:
            assert ((x >= -0.3) & (x <= 0.7)).all()
            angle = x[:, None, :] * waves + waves[::-1]
            return np.sin(angle).sum(axis=(1, 2)), (np.cos(angle) * waves).sum(axis=1)

        start = np.random.default_rng(seed).uniform(-0.5, 1.0, (8, 4))
        before, _ = function(np.clip(start, -0.3, 0.7), np.arange(8))

        x, value = minimize(function, start, *box(-0.3, 0.7), max_calls=40)

        assert (value <= before).all()
        assert np.allclose(function(x, np.arange(8))[0], value)


def test_it_keeps_to_its_number_of_calls() -> None:
    """One call is the start's; what was found when they are used up is the answer."""
    function = Quadratics(2, 3, 1e4)

    for calls in (1, 2, 7):
        function.seen.clear()
        x, value = minimize(function, np.ones((2, 3)), *box(-5, 5), max_calls=calls)
        assert len(function.seen) == calls
        assert np.allclose(function(x, np.arange(2))[0], value)


def broken(where: str) -> ValueAndGradient:
    """A bowl around -1 which is no number left of 0."""

    def function(x: Array, rows: NDArray[np.intp]) -> tuple[Array, Array]:
        value, gradient = np.square(x + 1.0).sum(axis=1), 2.0 * (x + 1.0)
        bad = x.min(axis=1) < 0
        if where == "value":
            return np.where(bad, np.nan, value), gradient
        if where == "infinity":
            return np.where(bad, -np.inf, value), gradient
        return value, np.where(bad[:, None], np.nan, gradient)

    return function


@pytest.mark.parametrize("where", ["value", "infinity", "gradient"])
def test_what_is_not_finite_is_kept_away_from(where: str) -> None:
    """A row ends at the edge of the region of finite values, and a row that starts outside does not move."""
    start = np.array([[2.0, 3.0], [-0.5, -0.5], [1.0, 1.0]])

    x, value = minimize(broken(where), start, *box(-5.0, 5.0), max_calls=80)

    assert np.isfinite(x).all()
    for row in (0, 2):
        assert (x[row] >= 0).all()
        assert float(value[row]) < float(np.square(start[row] + 1).sum())
    assert x[1].tolist() == [-0.5, -0.5]
    if where != "gradient":
        assert float(value[1]) == np.inf
