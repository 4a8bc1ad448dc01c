"""The search for the point that promises most: it stays in the cube, and finds maxima that are known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.domain.space import (
    CategoricalParameter,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    SearchSpace,
)
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.acquisition import Term
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.kernel import EDGE, Inputs, Layout
from asktell_server.optimizers.gp.search import Search, SearchConfig
from asktell_server.optimizers.safe_math import NumericalError
from asktell_server.testing.optimizer_contract import CATEGORICAL, FINITE, NUMERIC

from ...strategies import spaces
from .support import RICH, SQUARE

BRIEF = SearchConfig(anywhere=60, near=30, starts=3, rounds=3, calls=25)
MIXED = SearchSpace(
    (
        FloatParameter("x", 0.0, 1.0),
        IntParameter("n", 1, 40),
        CategoricalParameter("c", ("a", "b", "c", "d")),
        FloatParameter("y", 0.0, 1.0),
        DiscreteParameter("d", (1.0, 2.0, 4.0)),
    )
)


class Hill(Term):
    """Highest at one point: minus the squared distance to it, and a cliff for wrong choices. Remembers what it was asked."""

    def __init__(self, top: Array, layout: Layout, choices: Array) -> None:
        self.top, self.choices = top[layout.numeric], choices
        self.asked: list[Inputs] = []

    def value(self, inputs: Inputs) -> Array:
        """See above."""
        self.asked.append(inputs)
        wrong = (inputs.choice != self.choices).sum(axis=1)
        return np.asarray(-((inputs.x - self.top) ** 2).sum(axis=1) - 0.5 * wrong)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        """See above."""
        return self.value(inputs), -2.0 * (inputs.x - self.top)


class Rough(Term):
    """Waves in every direction, and no number at all in a part of the cube."""

    def __init__(self, seed: int, dimensions: int) -> None:
        self.waves = np.random.default_rng(seed).uniform(3, 20, dimensions)

    def value(self, inputs: Inputs) -> Array:
        """See above."""
        value = np.sin(inputs.x * self.waves).sum(axis=1) + inputs.choice.sum(axis=1)
        return np.where(inputs.x.sum(axis=1) > 0.8 * inputs.x.shape[1], np.nan, value)

    def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
        """See above."""
        return self.value(inputs), np.cos(inputs.x * self.waves) * self.waves


def made(space: SearchSpace, seed: int = 1, config: SearchConfig = BRIEF) -> tuple[Search, Cube, Layout]:
    """A search of a space."""
    cube = Cube(Encoding(space))
    layout = Layout.of(cube)
    return Search(cube, layout, config, np.random.default_rng(seed)), cube, layout


def test_it_finds_the_top_of_a_hill() -> None:
    """Exactly on levels and choices, to many digits where it may move freely, from no hint at all."""
    top = {"x": 0.3141, "n": 29, "c": "c", "y": 0.0, "d": 4.0}
    for seed in range(5):
        search, cube, layout = made(MIXED, seed)
        units = cube.encoding.encode(top)

        found, values = search.maximize([Hill(units, layout, units[layout.categorical])], np.empty((0, 5)))

        point = cube.encoding.decode(found[0])
        assert {name: point[name] for name in ("n", "c", "y", "d")} == {n: top[n] for n in ("n", "c", "y", "d")}
        assert point["x"] == pytest.approx(0.3141, abs=1e-4)
        assert values[0] == pytest.approx(0.0, abs=1e-6)


def test_it_finds_the_top_of_a_hill_beyond_the_edge() -> None:
    """The maximum over the cube is on its side, and exactly there."""
    search, cube, layout = made(SQUARE)

    found, _ = search.maximize([Hill(np.array([1.7, 0.25]), layout, np.empty(0))], np.empty((0, 2)))

    assert cube.encoding.decode(found[0])["x"] == 1.0
    assert found[0, 1] == pytest.approx(0.25, abs=1e-3)


def test_centers_are_searched_around() -> None:
    """A peak that is too narrow to be found by chance is found from a center near it."""

    class Needle(Term):
        def value(self, inputs: Inputs) -> Array:
            return np.asarray(np.exp(-((inputs.x - 0.123456) ** 2).sum(axis=1) * 2e4))

        def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
            value = self.value(inputs)
            return value, value[:, None] * -4e4 * (inputs.x - 0.123456)

    search, _, _ = made(SQUARE)

    found, values = search.maximize([Needle()], np.array([[0.128, 0.119], [0.9, 0.9]]))

    assert found[0] == pytest.approx([0.123456] * 2, abs=1e-3)
    assert values[0] > 0.99


@pytest.mark.parametrize("closest", [1e-3, 1e-6])
def test_what_is_very_near_a_center_is_found_where_that_is_asked_for(closest: float) -> None:
    """A plateau of some hundred-thousandths, as far from the center, with no slope that leads there."""

    class Plateau(Term):
        def value(self, inputs: Inputs) -> Array:
            return np.where(np.abs(inputs.x - [0.40007, 0.60007]).max(axis=1) < 3e-5, 1.0, 0.0)

        def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
            return self.value(inputs), np.zeros(inputs.x.shape)

    search, _, _ = made(SQUARE, config=SearchConfig(near=2000, closest=closest))

    _, values = search.maximize([Plateau()], np.array([[0.4, 0.6]]))

    assert values[0] == (1.0 if closest < 1e-5 else 0.0)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_results_lie_in_the_cube(data: st.DataObject) -> None:
    """For any space and a rough function: canonical rows, best first, with the values that they have; the same each time."""
    space = data.draw(spaces())
    if space.cardinality == 1:
        return
    seed = data.draw(st.integers(0, 99))
    _, cube, layout = made(space)
    centers, _ = cube.canonical(np.random.default_rng(seed).random((data.draw(st.integers(0, 3)), cube.dimensions)))
    runs = []
    for _ in range(2):
        search, _, _ = made(space, seed)
        runs.append(search.maximize([Rough(seed, layout.p)], centers))
    (found, values), (again, _) = runs

    assert np.array_equal(found, again)
    canonical, active = cube.canonical(found.copy())
    assert np.allclose(canonical, found, rtol=0, atol=1e-9)
    for i, levels in cube.levels.items():
        assert set(found[:, i]) <= {*levels, cube.imputed[i]}
    assert bool((values[:-1] >= values[1:]).all())
    expected = Rough(seed, layout.p).value(Inputs.of(layout, canonical, active))
    # Also where a column was rounded: what counts is the point that can be tried.
    assert np.where(np.isnan(expected), -np.inf, expected) == pytest.approx(values, abs=1e-4)


def test_promise_between_two_integers_does_not_count() -> None:
    """In a range too large to list, the integers next to a peak that no integer reaches are worth what they are worth."""
    space = SearchSpace((IntParameter("n", 1, 10**9, log=True), FloatParameter("x", 0.0, 1.0)))
    search, cube, layout = made(space)
    between = np.array([Encoding(space).columns[0].unit(1), Encoding(space).columns[0].unit(2)]).mean()
    assert not cube.levels

    class Needle(Hill):
        """A peak in the first column that is narrower than the gap between 1 and 2, on a gentle slope towards x = 0.7."""

        def value(self, inputs: Inputs) -> Array:
            """See above."""
            peak = np.exp(-0.5 * ((inputs.x[:, 0] - between) / 0.002) ** 2)
            return np.asarray(peak - (inputs.x[:, 1] - 0.7) ** 2 - 0.1 * (inputs.x[:, 0] - 0.5) ** 2)

        def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
            """See above."""
            n, x = inputs.x.T
            peak = np.exp(-0.5 * ((n - between) / 0.002) ** 2)
            by_n = -peak * (n - between) / 0.002**2 - 0.2 * (n - 0.5)
            return self.value(inputs), np.column_stack([by_n, -2.0 * (x - 0.7)])

    term = Needle(np.zeros(2), layout, np.zeros(0))
    beside = cube.canonical(np.array([[between, 0.2]]))[0]

    found, values = search.maximize([term], beside)

    assert values[0] == pytest.approx(0.0, abs=1e-3)  # at the middle of the range, as everywhere that can be tried
    assert found[0] == pytest.approx([0.5, 0.7], abs=0.05)


def test_nothing_is_rounded_after_the_fact() -> None:
    """Levels that lie apart are never left, and all promise is that of points that can be tried."""
    for space in (NUMERIC, RICH, MIXED):
        search, cube, layout = made(space)
        term = Hill(np.full(cube.dimensions, 0.37), layout, np.zeros(len(layout.categorical)))

        found, values = search.maximize([term], cube.canonical(np.full((1, cube.dimensions), 0.4))[0])

        for inputs in term.asked:
            for j, column in enumerate(layout.numeric.tolist()):
                if column in cube.levels and column not in cube.fine:
                    levels = np.clip([*cube.levels[column], cube.imputed[column]], EDGE, 1 - EDGE)
                    assert np.isin(inputs.x[:, j], levels).all()
                elif column in layout.numeric[layout.conditional]:
                    off = inputs.active[:, j] == 0
                    assert (inputs.x[off, j] == cube.imputed[column]).all()
        units, active = cube.canonical(found.copy())
        levelled = [*cube.levels]
        assert np.array_equal(units[:, levelled], found[:, levelled])
        again = Hill(np.full(cube.dimensions, 0.37), layout, np.zeros(len(layout.categorical)))
        assert again.value(Inputs.of(layout, units, active)) == pytest.approx(values, abs=1e-6)


def test_no_level_beside_the_best_of_many_is_better() -> None:
    """On a ridge across three integers that the nearest levels of its top are not on: rounding alone would end beside it."""
    space = SearchSpace(tuple(IntParameter(name, 1, 200) for name in "abc"))
    search, cube, layout = made(space)
    assert cube.fine == [0, 1, 2]
    top = np.array([0.4345, 0.2745, 0.6195])

    class Ridge(Hill):
        """Steep along the sum, gentle along the rest."""

        def value(self, inputs: Inputs) -> Array:
            """See above."""
            off = inputs.x - top
            return np.asarray(-(off**2).sum(axis=1) - 300.0 * off.sum(axis=1) ** 2)

        def value_and_gradient(self, inputs: Inputs) -> tuple[Array, Array]:
            """See above."""
            off = inputs.x - top
            return self.value(inputs), -2.0 * off - 600.0 * off.sum(axis=1, keepdims=True)

    term = Ridge(np.zeros(3), layout, np.zeros(0))

    found, values = search.maximize([term], np.empty((0, 3)))

    nearest, active = cube.canonical(top[None].copy())
    assert values[0] > term.value(Inputs.of(layout, nearest, active))[0]
    for column in range(3):
        for step in (-2, -1, 1, 2):
            beside = found[:1].copy()
            beside[0, column] += step / 200
            beside, active = cube.canonical(beside)
            assert term.value(Inputs.of(layout, beside, active))[0] <= values[0]


@pytest.mark.parametrize("space", [FINITE, CATEGORICAL], ids=["conditional", "categorical"])
def test_few_points_are_all_looked_at(space: SearchSpace) -> None:
    """What is left of a small space is put in order, and the best comes first."""
    search, cube, layout = made(space)
    every, active = cube.canonical(np.random.default_rng(1).random((300, cube.dimensions)))
    every, at = np.unique(every, axis=0, return_index=True)
    term = Hill(np.full(cube.dimensions, 0.9), layout, np.full(len(layout.categorical), 0.75))

    found, values = search.best_of([term], every)

    assert len(every) == space.cardinality
    expected = term.value(Inputs.of(layout, every, active[at]))
    assert values.tolist() == sorted(expected.tolist(), reverse=True)
    assert np.array_equal(np.unique(found, axis=0), every)


def test_no_finite_value_is_an_error() -> None:
    """Where the function is no number anywhere there is no best point, and the caller is told."""

    class Nothing(Rough):
        def value(self, inputs: Inputs) -> Array:
            return np.full(len(inputs), np.nan)

    search, _, layout = made(MIXED)

    with pytest.raises(NumericalError, match="finite nowhere"):
        search.maximize([Nothing(1, layout.p)], np.empty((0, 5)))
