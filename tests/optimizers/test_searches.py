"""Random, grid and Sobol search, and how points without a model are found."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from asktell_server.domain.algorithms import Algorithm, GridSearch, RandomSearch, SobolSearch
from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Point,
    SearchSpace,
    frozen_point,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import SuggestionSource, TrialState
from asktell_server.optimizers.base import Optimizer
from asktell_server.optimizers.design import MAX_DRAWS, DesignedOptimizer, SobolSequence, Taken
from asktell_server.optimizers.grid_search import grid_levels
from asktell_server.optimizers.registry import create_optimizer
from asktell_server.testing.optimizer_contract import FINITE, NESTED, NUMERIC, observation

UNIT = SearchSpace((FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0)))


def optimizer(space: SearchSpace, algorithm: Algorithm, seed: int = 1) -> Optimizer:
    """A fresh optimizer of a study with these settings."""
    return create_optimizer(StudySpec(space, (Objective("loss", Direction.MINIMIZE),), algorithm, seed=seed))


def walked(one: Optimizer, count: int) -> list[Point]:
    """The points of `count` trials, each told before the next is asked for."""
    found = []
    for number in range(1, count + 1):
        found.append(one.ask(number, []).suggestion.point)
        one.tell([observation(number, found[-1], TrialState.FAILED, None)])
    return found


def test_random_points_are_uniform() -> None:
    """Mean and variance of many draws are those of the uniform distribution."""
    one = optimizer(UNIT, RandomSearch())

    x = np.array([one.ask(number, []).suggestion.point["x"] for number in range(1, 2001)], dtype=np.float64)

    assert x.mean() == pytest.approx(0.5, abs=0.02)
    assert x.var() == pytest.approx(1 / 12, abs=0.005)


def test_random_search_has_no_default() -> None:
    """Its first point is a draw like any other."""
    assert optimizer(NUMERIC, RandomSearch()).ask(1, []).suggestion.point != NUMERIC.default_point


def test_sobol_proposes_the_default_point_until_it_is_taken() -> None:
    """First the default, while it is pending or observed another one."""
    with_default = SearchSpace(tuple(p for p in NESTED.parameters if p.name != "width_2"))
    one = optimizer(with_default, SobolSearch())
    default = with_default.default_point
    assert default is not None

    first = one.ask(1, []).suggestion
    second = one.ask(2, [default]).suggestion
    one.tell([observation(1, default, TrialState.SUCCEEDED, 1.0)])
    third = one.ask(3, []).suggestion

    assert (first.point, first.source, first.detail) == (default, SuggestionSource.SAMPLER, "default point")
    assert frozen_point(default) not in (frozen_point(second.point), frozen_point(third.point))


def test_sobol_spreads_better_than_chance() -> None:
    """128 points leave no cell of an 8 by 8 grid without its two."""
    one = optimizer(UNIT, SobolSearch())

    points = [one.ask(number, []).suggestion.point for number in range(1, 129)]

    cells = [(int(float(p["x"]) * 8), int(float(p["y"]) * 8)) for p in points]
    assert {cells.count(cell) for cell in cells} == {2}
    assert len(set(cells)) == 64


def test_sobol_codes_can_be_read_in_any_order() -> None:
    """Random access across blocks gives what reading in order gives."""
    sequence, jumping = SobolSequence(3, 5), SobolSequence(3, 5)

    codes = [sequence.code(i).tolist() for i in range(300)]

    assert [jumping.code(i).tolist() for i in (299, 0, 130, 128, 127)] == [codes[i] for i in (299, 0, 130, 128, 127)]


def test_a_nearly_full_space_is_searched_to_its_last_point() -> None:
    """Where draws no longer hit the only free point of 3000, it is found by listing."""
    space = SearchSpace((IntParameter("a", 1, 3000),))
    one = optimizer(space, RandomSearch())
    one.tell([observation(k, {"a": k}, TrialState.FAILED, None) for k in range(1, 3001) if k != 1234])

    assert one.ask(5000, []).suggestion.point == {"a": 1234}
    assert optimizer(space, SobolSearch()).ask(1, [{"a": k} for k in range(2, 3001)]).suggestion.point == {"a": 1}


def test_a_pending_point_becomes_free_again() -> None:
    """A point that was pending when the free ones were listed is proposed once it no longer is."""
    space = SearchSpace((IntParameter("a", 1, 3000),))
    one = optimizer(space, RandomSearch())
    one.tell([observation(k, {"a": k}, TrialState.FAILED, None) for k in range(3, 3001)])

    first = one.ask(5000, [{"a": 1}]).suggestion.point
    second = one.ask(5001, [{"a": 2}]).suggestion.point

    assert (first, second) == ({"a": 2}, {"a": 1})


def test_a_space_too_large_to_list_repeats_after_a_bounded_number_of_draws() -> None:
    """Nobody waits for ever for the one free point of a million."""
    space = SearchSpace((IntParameter("a", 1, 10**6),))
    one = optimizer(space, RandomSearch())
    assert isinstance(one, DesignedOptimizer)
    drawn: list[Point] = []

    class Everything(Taken):
        def __contains__(self, point: Point) -> bool:
            drawn.append(point)
            return True

    point = one.first_free(1, Everything(set(), []), (np.array([i / 1000]) for i in range(1000)))

    assert point == {"a": 1}
    assert len(drawn) == MAX_DRAWS


@pytest.mark.parametrize("algorithm", [RandomSearch(), SobolSearch()])
def test_a_full_space_repeats_points(algorithm: Algorithm) -> None:
    """When all 7 points are taken an eighth trial gets one of them."""
    one = optimizer(FINITE, algorithm)
    points = walked(one, 8)

    assert len({frozen_point(point) for point in points[:7]}) == 7
    assert points[7] in points[:7]


@pytest.mark.parametrize(
    ("parameter", "count", "expected"),
    [
        (FloatParameter("x", 0.0, 1.0), 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (FloatParameter("x", 1e-4, 1.0, log=True), 3, [1e-4, 1e-2, 1.0]),
        (FloatParameter("x", 0.0, 1.0), 1, [0.5]),
        (FloatParameter("x", 2.0, 2.0), 5, [2.0]),
        (FloatParameter("x", 0.0, 1.0, step=0.5), 5, [0.0, 0.5, 1.0]),
        (IntParameter("x", 0, 100), 3, [0, 50, 100]),
        (IntParameter("x", 1, 3), 10, [1, 2, 3]),
        (DiscreteParameter("x", (3.0, 1.0, 2.0)), 3, [1.0, 2.0, 3.0]),
        (CategoricalParameter("x", tuple("abcdefgh")), 2, list("abcdefgh")),
    ],
    ids=str,
)
def test_grid_levels(parameter: Parameter, count: int, expected: list[float]) -> None:
    """Both ends and evenly in between on the search scale; all values where they are few; all choices always."""
    levels = list(grid_levels(parameter, count))

    assert levels == (pytest.approx(expected) if isinstance(parameter, FloatParameter) else expected)


def test_a_grid_visits_each_of_its_points_once_and_then_says_so() -> None:
    """3 points under one choice and 1 under the other, in an order of the seed, then SEARCH_SPACE_EXHAUSTED."""
    space = SearchSpace(
        (CategoricalParameter("c", ("a", "b")), FloatParameter("x", 0.0, 1.0, condition=Condition("c", ("a",))))
    )
    one = optimizer(space, GridSearch(3))

    points = walked(one, 4)

    assert sorted(map(frozen_point, points)) == [
        (("c", "a"), ("x", 0.0)),
        (("c", "a"), ("x", 0.5)),
        (("c", "a"), ("x", 1.0)),
        (("c", "b"),),
    ]
    with pytest.raises(SearchSpaceExhausted, match="all 4 points"):
        one.ask(5, [])


def test_the_order_of_a_grid_comes_from_the_seed() -> None:
    """Two seeds walk through the same points differently."""
    points = [walked(optimizer(UNIT, GridSearch(4), seed), 16) for seed in (1, 2)]

    assert points[0] != points[1]
    assert sorted(map(frozen_point, points[0])) == sorted(map(frozen_point, points[1]))


def test_a_grid_skips_what_is_pending_and_returns_to_it_if_it_is_given_up() -> None:
    """A pending point is skipped; when it is neither pending nor observed any more, it is proposed again."""
    one = optimizer(UNIT, GridSearch(4))

    first = one.ask(1, []).suggestion.point
    second = one.ask(2, [first]).suggestion.point
    one.tell([observation(2, second, TrialState.FAILED, None)])
    third = one.ask(3, []).suggestion.point

    assert second != first
    assert third == first


def test_optimizers_are_created_without_loading_a_model_library() -> None:
    """Creating and asking any optimizer before it needs a model imports neither skopt nor scikit-learn."""
    script = """
import sys
from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.study import StudySpec
from asktell_server.optimizers.registry import OPTIMIZERS, create_optimizer
from asktell_server.domain.space import FloatParameter, SearchSpace
space = SearchSpace((FloatParameter("x", 0.0, 1.0),))
for algorithm in OPTIMIZERS:
    one = create_optimizer(StudySpec(space, (Objective("loss", Direction.MINIMIZE),), algorithm()))
    one.ask(1, []), one.fallback(2, [], "cause")
print(sorted({"skopt", "sklearn", "torch"} & set(sys.modules)))
"""

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
