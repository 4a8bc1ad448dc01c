"""Random search spaces and points for property tests: every kind of parameter, defaults, nested conditions, odd ranges."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
    Point,
    SearchSpace,
)

# Above it a float no longer tells neighbouring integers of a range apart with half a cell to spare.
EXACT_INT = 2**46
_numbers = st.floats(-1e300, 1e300)
_positive = st.floats(1e-300, 1e300)


@st.composite
def float_parameters(draw: st.DrawFn, name: str = "x") -> FloatParameter:
    """Linear, log or stepped, from a single value to 600 orders of magnitude; without condition or default."""
    match draw(st.sampled_from(["linear", "log", "step", "one value"])):
        case "step":
            low = draw(st.floats(-1000.0, 1000.0))
            step = draw(st.sampled_from([0.001, 0.1, 0.25, 1.0, 3.7, 1e5]))
            return FloatParameter(name, low, low + step * draw(st.floats(1.5, 200.0)), step=step)
        case "one value":
            value = draw(_numbers)
            return FloatParameter(name, value, value)
        case kind:
            low, high = sorted(draw(st.tuples(*[_positive if kind == "log" else _numbers] * 2)))
            return FloatParameter(name, low, high, log=kind == "log")


@st.composite
def int_parameters(draw: st.DrawFn, name: str = "n") -> IntParameter:
    """Linear, log or stepped; without condition or default."""
    kind = draw(st.sampled_from(["linear", "log", "step"]))
    low = draw(st.integers(1 if kind == "log" else -EXACT_INT, EXACT_INT))
    size = draw(st.one_of(st.integers(0, 12), st.integers(0, EXACT_INT)))
    step = draw(st.integers(1, size)) if kind == "step" and size > 0 else None
    return IntParameter(name, low, low + size, log=kind == "log", step=step)


@st.composite
def discrete_parameters(draw: st.DrawFn, name: str = "d") -> DiscreteParameter:
    """1 to 8 numbers, linear or log; without condition or default."""
    log = draw(st.booleans())
    values = draw(st.lists(_positive if log else _numbers, min_size=1, max_size=8, unique=True))
    return DiscreteParameter(name, tuple(values), log=log)


@st.composite
def categorical_parameters(draw: st.DrawFn, name: str = "c") -> CategoricalParameter:
    """1 to 6 choices of any kind; without condition or default."""
    choice = st.one_of(st.text("abXY é☃", max_size=5), st.integers(-5, 5), st.booleans(), st.floats(-10, 10))
    return CategoricalParameter(name, tuple(draw(st.lists(choice, min_size=1, max_size=6, unique=True))))


def values(parameter: Parameter) -> st.SearchStrategy[ParameterValue]:
    """Values that `parameter` may take."""
    if isinstance(parameter, FloatParameter) and parameter.cardinality is None:
        return st.floats(parameter.min, parameter.max)
    size = parameter.cardinality
    assert size is not None
    return st.integers(0, size - 1).map(parameter.level)


@st.composite
def spaces(draw: st.DrawFn, max_parameters: int = 6) -> SearchSpace:
    """A valid space; some parameters have defaults, some hang below an earlier int, discrete or categorical one."""
    found: list[Parameter] = []
    for i in range(draw(st.integers(1, max_parameters))):
        kinds = (float_parameters, int_parameters, discrete_parameters, categorical_parameters)
        parameter: Parameter = draw(st.one_of(*(kind(f"p{i}") for kind in kinds)))
        if draw(st.booleans()):
            parameter = replace(parameter, default=draw(values(parameter)))  # type: ignore[arg-type]
        parents = [p for p in found if not isinstance(p, FloatParameter)]
        if draw(st.booleans()) and parents:
            parent = draw(st.sampled_from(parents))
            named = draw(st.lists(values(parent), min_size=1, max_size=3, unique=True))
            parameter = replace(parameter, condition=Condition(parent.name, tuple(named)))
        found.append(parameter)
    # The order of a space need not put parents first.
    return SearchSpace(tuple(draw(st.permutations(found))))


@st.composite
def points(draw: st.DrawFn, space: SearchSpace) -> Point:
    """Points of `space`."""
    return space.restricted({parameter.name: draw(values(parameter)) for parameter in space.parameters})
