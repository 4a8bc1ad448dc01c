"""The neutral search space."""

from __future__ import annotations

import json

import numpy as np
import pytest
from benchmarks.optimizers import space as spaces
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.space import choice, integer, ordinal, real, when

SPACE = (
    choice("kernel", ["rbf", "poly", True]),
    integer("degree", 2, 5, when=when("kernel", "poly")),
    integer("units", 4, 512, log=True),
    real("rate", 1e-5, 1.0, log=True),
    ordinal("batch", [16.0, 32.0, 64.0], log=True, when=when("degree", 3, 4)),
)


def test_values_survive_the_way_through_the_unit_interval() -> None:
    """decode(encode(value)) is the value, for every kind."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        point = spaces.sample(SPACE, rng)

        again = spaces.from_unit(SPACE, spaces.to_unit(SPACE, point))

        assert again == pytest.approx(point)


def test_every_value_of_a_discrete_parameter_can_come_up() -> None:
    """The unit interval is divided among all values, the ends included."""
    degree = SPACE[1]

    assert {degree.decode(u) for u in np.linspace(0, 1, 101)} == {2, 3, 4, 5}
    assert SPACE[2].decode(0.0) == 4
    assert SPACE[2].decode(1.0) == 512


def test_only_active_parameters_are_left() -> None:
    """Conditions nest: the batch needs the degree, which needs the kernel."""
    full: spaces.Point = {"kernel": "rbf", "degree": 3, "units": 8, "rate": 0.1, "batch": 16.0}

    assert spaces.active(SPACE, full) == {"kernel": "rbf", "units": 8, "rate": 0.1}
    assert spaces.active(SPACE, full | {"kernel": "poly"}) == full | {"kernel": "poly"}
    assert "batch" not in spaces.active(SPACE, full | {"kernel": "poly", "degree": 5})


@pytest.mark.parametrize(
    ("name", "value"), [("kernel", "linear"), ("units", 3), ("units", 8.5), ("rate", 2.0), ("batch", 17.0)]
)
def test_a_value_outside_is_refused(name: str, value: object) -> None:
    """A peer that leaves the space fails instead of gaining by it."""
    point = {"kernel": "poly", "degree": 3, "units": 8, "rate": 0.1, "batch": 16.0} | {name: value}

    with pytest.raises(ValueError, match=name):
        spaces.active(SPACE, point)


def test_a_missing_active_parameter_is_refused() -> None:
    """A point must give what is active."""
    with pytest.raises(ValueError, match="rate"):
        spaces.active(SPACE, {"kernel": "rbf", "units": 8})


@pytest.mark.parametrize("name", sorted(PROBLEMS))
def test_every_space_survives_json(name: str) -> None:
    """What a peer is told is the space itself, parents before children."""
    space = PROBLEMS[name].instance(0).space

    assert spaces.from_json(json.loads(json.dumps(spaces.to_json(space)))) == space
    seen = set()
    for p in space:
        assert p.condition is None or p.condition.parent in seen
        seen.add(p.name)
