"""The space as an array: canonical units are what encoding a decoded point gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.domain.space import CategoricalParameter, FloatParameter, IntParameter, SearchSpace, frozen_point
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.cube import MAX_LEVELS, Cube
from asktell_server.optimizers.gp.kernel import Inputs, Layout
from asktell_server.testing.optimizer_contract import assert_lies_in

from ...strategies import points, spaces
from .support import RICH

ROUNDING = 1e-9


def drawn(cube: Cube, seed: int, count: int = 40) -> Array:
    """Units anywhere, with corners and levels among them."""
    rng = np.random.default_rng(seed)
    units = rng.random((count, cube.dimensions))
    units[rng.random(units.shape) < 0.1] = 0.0
    units[rng.random(units.shape) < 0.1] = 1.0
    levelled = [i for i in cube.levels if cube.varies[i]]
    for i in levelled:
        at = rng.random(count) < 0.3
        units[at, i] = rng.choice(cube.levels[i], int(at.sum()))
    return units


@given(st.data())
@settings(deadline=None)
def test_canonical_is_decoded_and_encoded(data: st.DataObject) -> None:
    """Exactly on levels and where inactive, to rounding on a continuum wider than that; activity is that of the point."""
    space = data.draw(spaces())
    cube = Cube(Encoding(space))
    units = drawn(cube, data.draw(st.integers(0, 999)))

    canonical, active = cube.canonical(units.copy())

    for row, found, on in zip(units, canonical, active, strict=True):
        point = cube.encoding.decode(row)
        assert_lies_in(space, point)
        assert on.tolist() == cube.encoding.activity(point).tolist()
        expected = cube.encoding.encode(point)
        for i, parameter in enumerate(space.parameters):
            if not on[i]:
                assert found[i] == cube.imputed[i]
            elif i in cube.levels:
                assert found[i] == expected[i]
                assert found[i] in cube.levels[i]
            elif parameter.cardinality is not None or not _narrow(parameter):
                assert abs(found[i] - expected[i]) < ROUNDING


def _narrow(parameter: object) -> bool:
    """Whether a continuum has so few floats that a unit does not survive them."""
    assert isinstance(parameter, FloatParameter)
    size = max(abs(parameter.min), abs(parameter.max), 1e-295)  # below 2e-308 floats are equally far apart
    return parameter.max - parameter.min < 1e-3 * size or (parameter.log and parameter.max < 1.001 * parameter.min)


@given(st.data())
@settings(deadline=None)
def test_canonical_is_its_own_canonical_form(data: st.DataObject) -> None:
    """Once more changes nothing, and neither does encoding a point."""
    space = data.draw(spaces())
    cube = Cube(Encoding(space))
    canonical, active = cube.canonical(drawn(cube, data.draw(st.integers(0, 999))))
    encoded = cube.encoding.encode_all([data.draw(points(space)) for _ in range(3)])

    again, active_again = cube.canonical(canonical.copy())
    same, _ = cube.canonical(encoded.copy())

    fine = [i for i in range(cube.dimensions) if i in cube.levels or (cube.is_free[i] and not _coarse(cube, i))]
    assert np.array_equal(again[:, fine], canonical[:, fine])
    assert np.allclose(again, canonical, rtol=0, atol=ROUNDING)
    assert np.array_equal(active_again, active)
    assert np.array_equal(same[:, fine], encoded[:, fine])
    assert np.allclose(same, encoded, rtol=0, atol=ROUNDING)


def _coarse(cube: Cube, column: int) -> bool:
    return cube.encoding.space.parameters[column].cardinality is not None


@given(st.data())
@settings(deadline=None)
def test_rows_are_equal_where_points_are(data: st.DataObject) -> None:
    """Of levelled spaces: two canonical rows are the same exactly if they decode to the same point."""
    space = data.draw(spaces())
    finite = SearchSpace(tuple(p for p in space.parameters if p.cardinality is not None and p.condition is None))
    if not finite.parameters:
        return
    cube = Cube(Encoding(finite))
    canonical, _ = cube.canonical(drawn(cube, data.draw(st.integers(0, 999))))

    rows = {row.tobytes() for row in canonical}
    decoded = {frozen_point(cube.encoding.decode(row)) for row in canonical}

    assert len(rows) == len(decoded)


def test_rows_are_equal_where_points_are_under_conditions() -> None:
    """What is inactive does not count, at any depth."""
    cube = Cube(Encoding(RICH))
    units = drawn(cube, 5, 400)
    units[:, 0] = 0.25
    units[:, 2] = 0.5

    canonical, _ = cube.canonical(units)

    rows = {row.tobytes() for row in canonical}
    decoded = {frozen_point(cube.encoding.decode(row)) for row in canonical}
    # a: 5 levels below, and 1 + 3 below the choice; b: 5; c: alone.
    assert len(rows) == len(decoded) == 5 * (1 + 3) + 5 + 1


@given(st.data())
@settings(deadline=None)
def test_an_index_is_that_of_the_level(data: st.DataObject) -> None:
    """Every level has its own index, in increasing order."""
    cube = Cube(Encoding(data.draw(spaces())))

    for i, levels in cube.levels.items():
        assert np.array_equal(cube.index(i, levels), np.arange(len(levels)))
        assert bool((np.diff(levels) > 0).all())


def test_what_the_columns_are() -> None:
    """Levelled up to MAX_LEVELS values and free beyond; a single value does not vary."""
    space = SearchSpace(
        (
            FloatParameter("free", 0.0, 1.0),
            IntParameter("levelled", 1, MAX_LEVELS),
            IntParameter("coarse", 1, MAX_LEVELS + 1, log=True),
            CategoricalParameter("choice", ("a", "b")),
            CategoricalParameter("one", ("a",)),
        )
    )
    cube = Cube(Encoding(space))

    assert cube.is_free.tolist() == [True, False, True, False, False]
    assert cube.varies.tolist() == [True, True, True, True, False]
    assert cube.is_categorical.tolist() == [False, False, False, True, False]
    layout = Layout.of(cube)
    assert (layout.numeric.tolist(), layout.categorical.tolist()) == ([0, 1, 2], [3])


def test_inputs_tell_choices_apart() -> None:
    """An inactive choice is unlike every other; units keep away from the ends."""
    cube = Cube(Encoding(RICH))
    layout = Layout.of(cube)
    units, active = cube.canonical(np.concatenate([np.zeros((1, 6)), np.ones((1, 6)), drawn(cube, 4)]))

    inputs = Inputs.of(layout, units, active)

    assert bool(((inputs.x > 0) & (inputs.x < 1)).all())
    assert set(inputs.choice[inputs.choice < 0].tolist()) <= {-1.0}
    on = np.array(active[:, layout.categorical])
    assert np.array_equal(inputs.choice >= 0, on)
    assert len(inputs.joined(inputs).rows(slice(0, 5))) == 5
