"""The bridge between points and the unit cube."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
    SearchSpace,
)
from asktell_server.optimizers.encoding import Column, Encoding, column_of
from asktell_server.testing.optimizer_contract import assert_lies_in

from ..strategies import points, spaces


def equal_on_search_scale(space: SearchSpace, a: ParameterValue, b: ParameterValue, name: str) -> bool:
    """Whether two values of a parameter are the same: exactly if finite, to float accuracy if continuous."""
    parameter = space.by_name[name]
    if parameter.cardinality is not None:
        return a == b
    assert isinstance(parameter, FloatParameter)
    if parameter.log:
        return math.isclose(math.log(float(a)), math.log(float(b)), rel_tol=1e-12, abs_tol=1e-12)
    return abs(float(a) - float(b)) <= 1e-12 * (abs(parameter.min) + abs(parameter.max))


def masses(column: Column, values: list[ParameterValue], grid: int = 100_000) -> dict[ParameterValue, float]:
    """Share of [0, 1] that decodes to each value, measured on a fine grid."""
    found = [column.value((i + 0.5) / grid) for i in range(grid)]
    return {value: found.count(value) / grid for value in values}


@given(st.data())
@settings(deadline=None)
def test_random_spaces_are_valid(data: st.DataObject) -> None:
    """The strategy that all property tests build on yields only spaces and points without violations."""
    space = data.draw(spaces())
    point = data.draw(points(space))

    assert space.violations() == []
    assert_lies_in(space, point)


@given(st.data())
@settings(deadline=None)
def test_every_code_decodes_into_the_space(data: st.DataObject) -> None:
    """Any code, the corners included, is a point with exact types, in bounds, with the active parameters only."""
    space = data.draw(spaces())
    unit = st.one_of(st.sampled_from([0.0, 1.0, math.nextafter(1.0, 0.0), 5e-324]), st.floats(0.0, 1.0))
    code = np.array(data.draw(st.lists(unit, min_size=len(space.parameters), max_size=len(space.parameters))))

    point = Encoding(space).decode(code)

    assert_lies_in(space, point)


@given(st.data())
@settings(deadline=None)
def test_encoding_a_decoded_code_lands_in_the_same_cell(data: st.DataObject) -> None:
    """Decode . encode . decode is decode."""
    space = data.draw(spaces())
    encoding = Encoding(space)
    size = len(space.parameters)
    point = encoding.decode(data.draw(st.lists(st.floats(0.0, 1.0), min_size=size, max_size=size)))

    again = encoding.decode(encoding.encode(point))

    assert again.keys() == point.keys()
    assert all(equal_on_search_scale(space, again[name], value, name) for name, value in point.items())


@given(st.data())
@settings(deadline=None)
def test_decoding_an_encoded_point_gives_it_back(data: st.DataObject) -> None:
    """Exactly for finite parameters, to float accuracy for continuous ones; codes lie in the unit cube."""
    space = data.draw(spaces())
    point = data.draw(points(space))
    encoding = Encoding(space)

    code = encoding.encode(point)
    again = encoding.decode(code)

    assert code.dtype == np.float64
    assert code.shape == (len(space.parameters),)
    assert np.all((code >= 0) & (code <= 1))
    assert again.keys() == point.keys()
    assert all(equal_on_search_scale(space, again[name], value, name) for name, value in point.items())


@given(st.data())
@settings(deadline=None)
def test_columns_keep_the_order_of_values(data: st.DataObject) -> None:
    """A larger unit never gives a smaller number."""
    space = data.draw(spaces(max_parameters=1))
    parameter = space.parameters[0]
    low, high = sorted(data.draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))
    column = column_of(parameter)

    if not isinstance(parameter, CategoricalParameter):
        assert float(column.value(low)) <= float(column.value(high))


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (FloatParameter("x", 0.0, 1.0, step=0.25), [0.2] * 5),
        (IntParameter("x", -1, 2), [0.25] * 4),
        (IntParameter("x", 0, 30, step=10), [0.25] * 4),
        (CategoricalParameter("x", ("a", 2, True)), [1 / 3] * 3),
        (DiscreteParameter("x", (3.0, 1.0, 2.0)), [1 / 3] * 3),
        (DiscreteParameter("x", (1.0, 10.0, 100.0), log=True), [1 / 3] * 3),
        # Half an equal share; the other half by distance: gaps 1, (1 + 9) / 2 and 9 of 15.
        (DiscreteParameter("x", (0.0, 1.0, 10.0)), [(1 / 3 + s / 15) / 2 for s in (1.0, 5.0, 9.0)]),
        # log(1.5 / 0.5), log(2.5 / 1.5), log(3.5 / 2.5) of log(3.5 / 0.5).
        (IntParameter("x", 1, 3, log=True), [math.log(r) / math.log(7) for r in (3, 5 / 3, 7 / 5)]),
    ],
    ids=lambda case: case.kind if hasattr(case, "kind") else "",
)
def test_cells_have_the_width_that_the_module_promises(parameter: Parameter, expected: list[float]) -> None:
    """Equal cells for steps, ints and choices; by the logarithm for log ints; half by distance for discrete numbers."""
    size = parameter.cardinality
    assert size is not None
    levels = [parameter.level(k) for k in range(size)]

    found = masses(column_of(parameter), levels)

    assert list(found.values()) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("log", [False, True])
def test_both_ends_of_a_range_are_hit_exactly(log: bool) -> None:
    """Units 0 and 1 are min and max themselves, and back."""
    column = column_of(FloatParameter("x", 1e-5, 0.3, log=log))

    assert (column.value(0.0), column.value(1.0)) == (1e-5, 0.3)
    assert (column.unit(1e-5), column.unit(0.3)) == (0.0, 1.0)


def test_a_log_scale_is_halved_at_the_geometric_mean() -> None:
    """The middle of 1e-4 to 1 is 1e-2."""
    column = column_of(FloatParameter("x", 1e-4, 1.0, log=True))

    assert column.value(0.5) == pytest.approx(1e-2)
    assert column.unit(1e-3) == pytest.approx(0.25)


@pytest.mark.parametrize(
    "parameter",
    [
        FloatParameter("x", 1e-300, 1e300, log=True),
        FloatParameter("x", 5e-324, 1.7e308, log=True),
        FloatParameter("x", -8e307, 8e307),
        FloatParameter("x", 1.0, math.nextafter(1.0, 2.0), log=True),
        FloatParameter("x", 0.0, 5e-324),
        IntParameter("x", -(2**63), 2**63 - 1),
        IntParameter("x", 1, 2**63 - 1, log=True),
        IntParameter("x", 2**63 - 2, 2**63 - 1, log=True),
        DiscreteParameter("x", (-1.7e308, 1.7e308)),
        DiscreteParameter("x", (5e-324, 1e-323, 1.7e308), log=True),
        DiscreteParameter("x", (1.0, math.nextafter(1.0, 2.0)), log=True),
    ],
    ids=str,
)
def test_extreme_ranges_stay_in_bounds(parameter: Parameter) -> None:
    """Where floats run out, values are still valid, ends are still reached and encoding loses little."""
    column = column_of(parameter)

    values = [column.value(unit) for unit in (0.0, 1e-300, 0.25, 0.5, math.nextafter(1.0, 0.0), 1.0)]

    assert all(parameter.normalized(value) == value for value in values)
    assert values[0] != values[-1]
    for value in values:
        again = column.value(column.unit(value))
        assert abs(float(again) - float(value)) <= 1e-11 * max(abs(float(value)), abs(float(values[-1])) * 1e-3)


def test_a_parameter_with_one_value_takes_the_whole_column() -> None:
    """Min equal to max, a single choice and a single number need no decision."""
    cases: list[tuple[Parameter, ParameterValue]] = [
        (FloatParameter("x", 0.5, 0.5), 0.5),
        (FloatParameter("x", 2.0, 2.0, log=True), 2.0),
        (IntParameter("x", 7, 7), 7),
        (CategoricalParameter("x", (False,)), False),
        (DiscreteParameter("x", (4.0,)), 4.0),
    ]
    for parameter, value in cases:
        column = column_of(parameter)

        assert [column.value(unit) for unit in (0.0, 0.3, 1.0)] == [value] * 3
        assert column.unit(value) == 0.5


def test_inactive_parameters_are_imputed_and_masked() -> None:
    """An inactive parameter's unit is that of its default, or of its middle without one; the mask tells which they are."""
    space = SearchSpace(
        (
            CategoricalParameter("kind", ("a", "b")),
            FloatParameter("with", 0.0, 1.0, default=0.9, condition=Condition("kind", ("a",))),
            FloatParameter("without", 0.0, 1.0, condition=Condition("kind", ("a",))),
            IntParameter("middle", 1, 3, condition=Condition("kind", ("a",))),
        )
    )
    encoding = Encoding(space)

    code = encoding.encode({"kind": "b"})

    assert code.tolist() == [0.75, 0.9, 0.5, 0.5]
    assert encoding.activity({"kind": "b"}).tolist() == [True, False, False, False]
    assert encoding.encode_all([{"kind": "b"}] * 2).shape == (2, 4)
    assert encoding.encode_all([]).shape == (0, 4)
