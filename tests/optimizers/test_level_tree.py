"""Numbering the combinations of levels, and shuffling the numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from asktell_server.domain.space import FloatParameter, SearchSpace, frozen_point
from asktell_server.optimizers.level_tree import LevelTree, all_levels
from asktell_server.optimizers.permutation import Permutation
from asktell_server.testing.optimizer_contract import FINITE, assert_lies_in

from ..strategies import spaces


@given(spaces(max_parameters=4))
@settings(deadline=None)
def test_every_point_of_a_finite_space_has_one_number(space: SearchSpace) -> None:
    """The tree of all levels has as many points as the space says, all different and all in it."""
    assume((space.cardinality or 10_000) <= 1000)

    tree = LevelTree(space, all_levels(space))
    points = [tree.point(i) for i in range(tree.size)]

    assert tree.size == space.cardinality
    assert len({frozen_point(point) for point in points}) == tree.size
    for point in points:
        assert_lies_in(space, point)


def test_children_count_only_where_they_are_active() -> None:
    """2 * 3 points under one switch and 1 under the other are 7."""
    tree = LevelTree(FINITE, all_levels(FINITE))

    assert tree.size == 7
    assert [tree.point(i) for i in range(7)].count({"switch": "off"}) == 1


def test_huge_trees_are_not_listed() -> None:
    """1000 parameters with 10 levels each: the last of 10^1000 points is found at once."""
    space = SearchSpace(tuple(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(1000)))

    tree = LevelTree(space, {p.name: [k / 9 for k in range(10)] for p in space.parameters})

    assert tree.size == 10**1000
    assert set(tree.point(tree.size - 1).values()) == {1.0}


def test_a_continuum_has_no_list_of_levels() -> None:
    """Asking for all levels of a continuous parameter is an error that names it."""
    with pytest.raises(ValueError, match="'x' is continuous"):
        all_levels(SearchSpace((FloatParameter("x", 0.0, 1.0),)))


@given(st.integers(1, 500), st.binary(max_size=8))
@settings(deadline=None)
def test_a_permutation_is_one_to_one(size: int, key: bytes) -> None:
    """Every number below the size is hit exactly once."""
    permutation = Permutation(size, key)

    assert sorted(permutation(i) for i in range(size)) == list(range(size))


def test_a_permutation_shuffles() -> None:
    """Neighbours are torn apart, keys differ, and the first tenth is spread over the whole range."""
    one, other = Permutation(10_000, b"1"), Permutation(10_000, b"2")

    first = [one(i) for i in range(1000)]

    assert first != [other(i) for i in range(1000)]
    assert sum(abs(a - b) for a, b in pairwise(first)) / 999 == pytest.approx(10_000 / 3, rel=0.1)
    assert sum(first) / 1000 == pytest.approx(5000, rel=0.1)


def test_a_permutation_of_any_size_stays_in_range() -> None:
    """Sizes beyond any machine word work as well."""
    permutation = Permutation(10**1000, b"key")

    images = {permutation(i) for i in range(20)}

    assert len(images) == 20
    assert all(0 <= image < 10**1000 for image in images)
