"""Outcome constraints: what counts as feasible under noise, and where to look while nothing is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from asktell_server.domain.objectives import OutcomeConstraint
from asktell_server.domain.space import FloatParameter, Point, SearchSpace
from asktell_server.domain.trial import SuggestionSource
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.gp.study_model import Effort

from .support import SQUARE, optimizer, study, succeeded

BOUND = OutcomeConstraint("size", max=0.0)
LEAST = 1.28003086301
"""By scipy's SLSQP, at a = 0.2222, b = 0.4500, c = 0.5278."""


def points(count: int) -> list[Point]:
    """Scattered over the square."""
    rng = np.random.default_rng(2)
    return [{"x": float(x), "y": float(y)} for x, y in rng.random((count, 2))]


def test_the_optimum_on_a_boundary_is_found() -> None:
    """Of x + y where x + 2 y >= 1 has to hold: 0.5, with 20 trials, of which no few are feasible."""
    made = optimizer(study(SQUARE, constraints=[BOUND]))
    feasible = []
    for number in range(1, 21):
        point = made.ask(number, []).suggestion.point
        x, y = float(point["x"]), float(point["y"])
        size = 1.0 - x - 2.0 * y
        made.tell([succeeded(number, point, x + y, size=size)])
        if size <= 0:
            feasible.append(x + y)

    assert min(feasible) < 0.51
    assert len(feasible) >= 6


def test_the_search_goes_on_to_the_very_corner_of_what_is_feasible() -> None:
    """Of a quadratic whose minimum two bounds cut off: within a hundred-thousandth of its range, among results that are better and
    not feasible.
    """
    space = SearchSpace(tuple(FloatParameter(name, 0.0, 1.0) for name in "abc"))
    bounds = [OutcomeConstraint("sum", max=1.2), OutcomeConstraint("product", min=0.1)]
    made = optimizer(study(space, constraints=bounds))
    best = np.inf
    for number in range(1, 31):
        point = made.ask(number, []).suggestion.point
        a, b, c = (float(point[name]) for name in "abc")
        loss = (a - 0.9) ** 2 + 2 * (b - 0.9) ** 2 + 3 * (c - 0.9) ** 2
        made.tell([succeeded(number, point, loss, sum=a + b + c, product=a * b)])
        if a + b + c <= 1.2 and a * b >= 0.1:
            best = min(best, loss)

    assert best < LEAST + 3e-5


def test_parallel_asks_spread_out_while_nothing_is_feasible() -> None:
    """Where a pending point may turn out feasible no second one is sent: it may not."""
    history = [
        succeeded(i, p, float(p["x"]), size=0.2 + abs(float(p["x"]) - 0.7) + abs(float(p["y"]) - 0.4))
        for i, p in enumerate(points(8), 1)
    ]
    made = optimizer(study(SQUARE, constraints=[BOUND]), history)
    pending: list[Point] = []
    for number in range(9, 13):
        suggestion = made.ask(number, pending).suggestion
        assert suggestion.source is SuggestionSource.MODEL
        pending.append(suggestion.point)

    places = np.array([[float(p["x"]), float(p["y"])] for p in pending])
    distances = np.abs(places[:, None] - places[None]).max(axis=2)[np.triu_indices(4, 1)]
    assert float(distances.min()) > 0.02


def test_while_nothing_is_feasible_the_search_is_where_least_is_missing() -> None:
    """With a hundred results, of which those with the best objective are farthest from being feasible, in 25 dimensions."""
    space = SearchSpace(tuple(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(25)))
    rng = np.random.default_rng(0)

    def told(number: int, point: Point) -> Observation:
        x = np.array([float(value) for value in point.values()])
        return succeeded(number, point, float(x.sum()), size=float(np.sqrt(np.mean((x - 0.85) ** 2))) - 0.1)

    history = [told(i, {f"x{k}": float(x) for k, x in enumerate(rng.random(25))}) for i in range(1, 101)]
    made = optimizer(study(space, constraints=[BOUND], seed=0), history)
    for number in range(101, 113):
        history.append(told(number, made.ask(number, []).suggestion.point))
        made.tell(history[-1:])

    missing = [o.measurement.metrics["size"] for o in history if o.measurement is not None]
    assert min(missing[:100]) > 0.2
    assert min(missing) < 0.1


def test_a_search_with_constraints_looks_closer() -> None:
    """A thousand times, with as many points on each scale."""
    for results in (10, 100):
        plain, bounded = (Effort().search_after(results, is_bounded=flag) for flag in (False, True))
        assert bounded.closest == pytest.approx(plain.closest / 1000)
        assert bounded.near == 2 * plain.near
        assert replace(bounded, closest=plain.closest, near=plain.near) == plain


def test_a_lucky_measurement_is_not_the_one_to_beat() -> None:
    """Amid noisy results that break a bound, one that seems to keep it is not believed; where all keep it, they are."""
    rng = np.random.default_rng(4)
    history = []
    for i, p in enumerate(points(30), 1):
        x = float(p["x"])
        history.append(succeeded(i, p, x, size=0.5 - x + 0.1 * float(rng.normal())))
    # The best of all, far on the wrong side.
    lucky: Point = {"x": 0.2, "y": 0.5}
    history.append(succeeded(31, lucky, 0.2, size=-0.01))
    made = optimizer(study(SQUARE, constraints=[BOUND]), history)
    made.ask(32, [])
    model = made._model
    assert model is not None

    rows = model._incumbents()

    assert model._eligible[30]
    assert 30 not in rows
    assert len(rows) >= 8


def test_a_pending_point_is_no_incumbent_if_it_will_hardly_be_feasible() -> None:
    """A point that is better than all feasible ones, but on the wrong side, leaves the search where it was."""
    history = [succeeded(i, p, float(p["x"]), size=0.5 - float(p["x"])) for i, p in enumerate(points(12), 1)]
    made = optimizer(study(SQUARE, constraints=[BOUND]), history)

    alone = made.ask(13, []).suggestion.point
    beside = made.ask(13, [{"x": 0.05, "y": 0.9}]).suggestion.point

    assert abs(float(alone["x"]) - 0.5) < 0.1
    assert abs(float(beside["x"]) - float(alone["x"])) < 0.05


@pytest.mark.parametrize("bound", [0.5, 0.0])
def test_a_search_goes_on_where_only_yes_or_no_is_measured(bound: float) -> None:
    """0 where a trial fits and 1 where not, the bound between them or at 0: the optimum does not fit, and still a fair part of the late
    trials do, and they go on finding better ones.
    """
    made = optimizer(study(SQUARE, constraints=[OutcomeConstraint("misfit", max=bound)]))
    best: dict[int, float] = {}
    for number in range(1, 51):
        point = made.ask(number, []).suggestion.point
        x, y = float(point["x"]), float(point["y"])
        loss, fits = (x - 0.3) ** 2 + (y - 0.7) ** 2, x > 0.8
        made.tell([succeeded(number, point, loss, misfit=0.0 if fits else 1.0)])
        if fits:
            best[number] = loss

    assert sum(number > 30 for number in best) >= 6
    assert min(best.values()) < min(value for number, value in best.items() if number <= 25)
