"""The search space: which values are points of it, how many there are, and what is wrong with a space."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    NotInDomain,
    Parameter,
    ParameterValue,
    SearchSpace,
    frozen_point,
    shown,
    shown_list,
)

from ..strategies import (
    categorical_parameters,
    discrete_parameters,
    float_parameters,
    int_parameters,
    points,
    spaces,
    values,
)

parameters = st.one_of(float_parameters(), int_parameters(), discrete_parameters(), categorical_parameters())


# --- one parameter ----------------------------------------------------------------------------------------------------


@given(st.data())
def test_values_of_a_parameter_are_normalized_to_themselves(data: st.DataObject) -> None:
    """A value that a parameter can take is held as it is, type included."""
    parameter = data.draw(parameters)
    value = data.draw(values(parameter))

    held = parameter.normalized(value)

    assert (type(held), held) == (type(value), value)


@given(float_parameters(), st.floats(allow_nan=False))
def test_floats_outside_are_refused(parameter: FloatParameter, number: float) -> None:
    """What a float parameter holds lies in its range; what lies outside is refused."""
    try:
        held = parameter.normalized(number)
    except NotInDomain:
        assert parameter.step is not None or not parameter.min <= number <= parameter.max
    else:
        assert parameter.min <= held <= parameter.max


@given(st.floats(-1e9, 1e9), st.sampled_from([1e-6, 0.001, 0.1, 0.7, 3.0]), st.integers(1, 10_000), st.data())
def test_a_client_may_compute_the_grid_its_own_way(low: float, step: float, count: int, data: st.DataObject) -> None:
    """Both min + k * step and summing up step by step lead to values on the grid, wherever it lies."""
    parameter = FloatParameter("x", low, low + count * step, step=step)
    if list(parameter.violations()):
        return
    assert parameter.cardinality is not None
    k = data.draw(st.integers(0, min(parameter.cardinality - 1, 50)))
    summed = low
    for _ in range(k):
        summed += step

    assert parameter.normalized(min(low + k * step, parameter.max)) == parameter.level(k)
    assert parameter.normalized(parameter.level(k)) == parameter.level(k)
    if abs(low) <= 1e3:
        assert parameter.normalized(min(summed, parameter.max)) == parameter.level(k)


@given(parameters)
def test_levels_are_distinct_values(parameter: Parameter) -> None:
    """A parameter with finitely many values has exactly `cardinality` levels, each a value of it."""
    size = parameter.cardinality
    if size is not None and size <= 2000:
        levels = [parameter.level(k) for k in range(size)]

        assert len(set(levels)) == size
        assert [parameter.normalized(level) for level in levels] == levels


@pytest.mark.parametrize(
    "value", ["1", True, None, math.nan, math.inf, -math.inf, [1.0], 10**400], ids=lambda value: str(value)[:5]
)
@pytest.mark.parametrize(
    "parameter",
    [
        FloatParameter("x", 0.0, 2.0),
        FloatParameter("x", 0.0, 2.0, step=0.5),
        IntParameter("x", 0, 2),
        DiscreteParameter("x", (0.0, 1.0)),
        CategoricalParameter("x", (0, 1, "a")),
    ],
    ids=lambda parameter: parameter.kind,
)
def test_values_of_other_types_are_refused(parameter: Parameter, value: object) -> None:
    """Text, truth values, nothing, NaN, infinity and lists are no values of a number, nor of other choices."""
    with pytest.raises(NotInDomain):
        parameter.normalized(value)


def test_a_number_written_the_other_way_is_the_same_choice() -> None:
    """A categorical parameter takes 1.0 for 1 and gives back the choice as it was defined; true is another thing."""
    parameter = CategoricalParameter("x", (1, 2.0, "a"))

    assert [(type(v), v) for v in (parameter.normalized(1.0), parameter.normalized(2))] == [(int, 1), (float, 2.0)]
    with pytest.raises(NotInDomain):
        parameter.normalized(True)  # noqa: FBT003


# --- points -----------------------------------------------------------------------------------------------------------


@given(st.data())
def test_points_pass_the_check_unchanged(data: st.DataObject) -> None:
    """A point of the space has nothing wrong with it and is returned as it is, in the order of the parameters."""
    space = data.draw(spaces())
    point = data.draw(points(space))

    checked, violations = space.checked(point)

    assert not violations
    assert list(checked.items()) == list(point.items())
    assert frozen_point(point) == frozen_point(dict(reversed(point.items())))


@given(st.data())
def test_a_spoilt_point_is_refused(data: st.DataObject) -> None:
    """A parameter more, one that is not active, or one without a default less, is named."""
    space = data.draw(spaces())
    point = dict(data.draw(points(space)))

    unknown = space.checked({**point, "stranger": 1.0})[1]
    inactive = [p for p in space.parameters if p.name not in point]
    missing = [name for name in point if space.by_name[name].default is None]

    assert [v.field for v in unknown] == ["parameters['stranger']"]
    for parameter in inactive:
        found = space.checked({**point, parameter.name: data.draw(values(parameter))})[1]
        assert [v.field for v in found] == [f"parameters['{parameter.name}']"]
    for name in missing:
        found = space.checked({key: value for key, value in point.items() if key != name})[1]
        assert [v.field for v in found] == [f"parameters['{name}']"]


@given(spaces())
def test_the_default_point(space: SearchSpace) -> None:
    """It holds the defaults of the active parameters; there is none if one of these has none."""
    point = space.default_point

    if point is None:
        assert any(parameter.default is None for parameter in space.parameters)
    else:
        assert space.checked(point) == (dict(point), [])
        assert all(point[name] == space.by_name[name].default for name in point)


def test_the_default_point_follows_the_conditions() -> None:
    """A parameter that the defaults do not activate needs no default."""
    parent = CategoricalParameter("kind", ("a", "b"), default="b")
    below_a = FloatParameter("x", 0.0, 1.0, condition=Condition("kind", ("a",)))
    below_b = IntParameter("n", 0, 9, default=0, condition=Condition("kind", ("b",)))

    assert SearchSpace((below_a, below_b, parent)).default_point == {"n": 0, "kind": "b"}
    assert SearchSpace((below_a, replace(parent, default="a"))).default_point is None


# --- how many points --------------------------------------------------------------------------------------------------


def _every_point(space: SearchSpace) -> set[tuple[tuple[str, ParameterValue], ...]]:
    """All points, by trying all combinations of all values."""
    levels = [[p.level(k) for k in range(p.cardinality or 0)] for p in space.parameters]
    names = [p.name for p in space.parameters]
    return {
        frozen_point(space.restricted(dict(zip(names, chosen, strict=True)))) for chosen in itertools.product(*levels)
    }


@given(spaces(max_parameters=5))
def test_cardinality_counts_the_points(space: SearchSpace) -> None:
    """The number of points is that of a full enumeration, conditions included; none if a parameter is continuous."""
    if any(parameter.cardinality is None for parameter in space.parameters):
        assert space.cardinality is None
    elif math.prod(parameter.cardinality or 0 for parameter in space.parameters) <= 3000:
        assert space.cardinality == len(_every_point(space))


def test_cardinality_of_nested_conditions() -> None:
    """Two levels of conditions, one of them on two values, count as by hand."""
    space = SearchSpace(
        (
            IntParameter("leaf", 1, 5, condition=Condition("mid", (True,))),
            CategoricalParameter("top", ("a", "b", "c")),
            CategoricalParameter("mid", (True, False), condition=Condition("top", ("a", "b"))),
            IntParameter("side", 0, 2, step=2),
        )
    )

    # top a or b: mid true with 5 leaves, or false; top c: alone. Each with 2 values of side.
    assert space.cardinality == (2 * (5 + 1) + 1) * 2 == len(_every_point(space))


# --- what is wrong with a space ---------------------------------------------------------------------------------------


@given(spaces())
def test_good_spaces_have_no_violations(space: SearchSpace) -> None:
    """Nothing is wrong with what the rules allow."""
    assert space.violations() == []
    assert [p.name for p in space.parents_first] != []


@given(spaces(), st.data())
def test_a_name_given_twice_is_named(space: SearchSpace, data: st.DataObject) -> None:
    """Of two parameters with one name the second is the wrong one."""
    again = replace(data.draw(st.sampled_from(space.parameters)), condition=None, default=None)

    found = SearchSpace((*space.parameters, again)).violations()

    assert f"parameters[{len(space.parameters)}].name" in {v.field for v in found}


@pytest.mark.parametrize("length", [1, 2, 5, 500])
def test_cycles(length: int) -> None:
    """Every parameter of a cycle is named; one that merely hangs below a cycle is not."""
    ring = [IntParameter(f"p{i}", 0, 1, condition=Condition(f"p{(i + 1) % length}", (1,))) for i in range(length)]
    hanging = FloatParameter("x", 0.0, 1.0, condition=Condition("p0", (0,)))

    found = SearchSpace((*ring, hanging)).violations()

    assert [v.field for v in found] == [f"parameters[{i}].condition.parent" for i in range(length)]


@given(spaces())
def test_parents_come_first(space: SearchSpace) -> None:
    """In rounds: of what is left, in its order, each whose parent is placed."""
    left, placed = list(space.parameters), list[str]()
    while left:
        later = []
        for parameter in left:
            if parameter.condition is None or parameter.condition.parent in placed:
                placed.append(parameter.name)
            else:
                later.append(parameter)
        left = later

    assert [parameter.name for parameter in space.parents_first] == placed


@pytest.mark.parametrize("choices", [(), (0,), tuple(range(25)), tuple(range(9_999)), ("a" * 200, "'"), (1.5, True)])
def test_a_list_is_shown_as_if_all_of_it_had_been_looked_at(choices: tuple[ParameterValue, ...]) -> None:
    """Though only its beginning is."""
    assert shown_list(choices) == shown(list(choices))


def test_a_long_chain_is_no_cycle() -> None:
    """A thousand parameters each below the next are a good space."""
    chain = [IntParameter(f"p{i}", 0, 1, condition=Condition(f"p{i + 1}", (1,))) for i in range(999)]
    space = SearchSpace((*chain, IntParameter("p999", 0, 1)))

    assert space.violations() == []
    assert space.cardinality == 1001


def test_shown_is_short() -> None:
    """Whatever a client sends, a message shows at most 80 characters of it."""
    assert shown("a") == "'a'"
    assert len(shown("x" * 10_000)) == 80
