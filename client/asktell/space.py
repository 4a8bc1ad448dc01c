"""The search space: the parameters that a study tunes, and Python values for what they hold.

    {"optimizer": Categorical(["sgd", "adam"]),
     "lr":        Float(1e-5, 1e-1, log=True),
     "momentum":  Float(0.0, 0.99, when=when("optimizer", "sgd"))}

The server checks a space and names everything that is wrong with it; here only Python types are checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from asktell.v1 import search_space_pb2 as pb

ParameterValue: TypeAlias = float | int | str | bool
"""A value of a parameter: float, int, str or bool by the parameter's type."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Makes a parameter active only while its parent is active and holds one of `values`. See `when`."""

    parent: str
    values: tuple[ParameterValue, ...]


def when(parent: str, *values: ParameterValue) -> Condition:
    """The condition that the int, discrete or categorical parameter `parent` holds one of `values`."""
    return Condition(parent, values)


class Parameter:
    """One dimension of a search space: a `Float`, `Int`, `Discrete` or `Categorical`."""

    __slots__ = ()

    when: Condition | None
    """When the parameter is active; None means always."""


@dataclass(frozen=True, slots=True)
class Float(Parameter):
    """A real number in [min, max]; with `step` one of min, min + step, ..."""

    min: float
    max: float
    _: KW_ONLY
    log: bool = False
    """Search the logarithm of the value; `min` must then be above 0. Excludes `step`."""
    step: float | None = None
    default: float | None = None
    """The value that people use today: the first point tried."""
    when: Condition | None = None
    """When the parameter is active; None means always."""


@dataclass(frozen=True, slots=True)
class Int(Parameter):
    """An integer in [min, max]; with `step` one of min, min + step, ..."""

    min: int
    max: int
    _: KW_ONLY
    log: bool = False
    """Search the logarithm of the value; `min` must then be above 0. Excludes `step`."""
    step: int | None = None
    default: int | None = None
    """The value that people use today: the first point tried."""
    when: Condition | None = None
    """When the parameter is active; None means always."""


@dataclass(frozen=True, slots=True)
class Discrete(Parameter):
    """One of a list of numbers whose order and distance mean something, such as batch sizes.

    Its values come back as ints when all of them are whole numbers, otherwise as floats.
    """

    values: Sequence[float]
    _: KW_ONLY
    log: bool = False
    """Search the logarithm of the value; all values must then be above 0."""
    default: float | None = None
    """The value that people use today: the first point tried."""
    when: Condition | None = None
    """When the parameter is active; None means always."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        return all(float(value).is_integer() for value in self.values)


@dataclass(frozen=True, slots=True)
class Categorical(Parameter):
    """One of a list of choices without an order: strings, numbers or truth values."""

    choices: Sequence[ParameterValue]
    _: KW_ONLY
    default: ParameterValue | None = None
    """The choice that people use today: the first point tried."""
    when: Condition | None = None
    """When the parameter is active; None means always."""

    def __post_init__(self) -> None:
        if isinstance(self.choices, str):
            raise TypeError(f"choices is a list of choices, not the text {self.choices!r}")
        object.__setattr__(self, "choices", tuple(self.choices))


Space: TypeAlias = Mapping[str, Parameter]


def value_to_proto(value: object) -> pb.ParameterValue:
    """A Python value (or NumPy scalar) on the wire. Raises TypeError for what cannot be a parameter's value."""
    item = getattr(value, "item", None)
    if callable(item):  # a NumPy scalar or a zero-dimensional tensor
        value = item()
    if isinstance(value, bool):
        return pb.ParameterValue(bool_value=value)
    if isinstance(value, int):
        return pb.ParameterValue(int_value=value)
    if isinstance(value, float):
        return pb.ParameterValue(float_value=value)
    if isinstance(value, str):
        return pb.ParameterValue(string_value=value)
    raise TypeError(f"a parameter's value is a float, int, str or bool, not {type(value).__name__}: {value!r}")


def value_from_proto(value: pb.ParameterValue) -> ParameterValue:
    """The Python value of what came over the wire."""
    kind = value.WhichOneof("kind")
    if kind == "float_value":
        return value.float_value
    if kind == "int_value":
        return value.int_value
    if kind == "bool_value":
        return value.bool_value
    return value.string_value


def point_to_proto(params: Mapping[str, object]) -> dict[str, pb.ParameterValue]:
    """A point of a space on the wire. Raises TypeError for what is no point or holds what cannot be a value."""
    if not isinstance(params, Mapping):
        raise TypeError(f"a point is a mapping from parameters to values, not {params!r}")
    return {name: value_to_proto(value) for name, value in params.items()}


def point_from_proto(point: Mapping[str, pb.ParameterValue], space: Space) -> dict[str, ParameterValue]:
    """A point as Python values, in the order of the space."""
    known = [name for name in space if name in point]
    unknown = sorted(name for name in point if name not in space)
    return {name: _typed(value_from_proto(point[name]), space.get(name)) for name in known + unknown}


def axis_from_proto(values: Iterable[pb.ParameterValue], parameter: Parameter | None) -> tuple[ParameterValue, ...]:
    """Values of one parameter as Python values."""
    return tuple(_typed(value_from_proto(value), parameter) for value in values)


def _typed(value: ParameterValue, parameter: Parameter | None) -> ParameterValue:
    return int(value) if isinstance(parameter, Discrete) and parameter.whole else value


def restored(value: Any, parameter: Parameter | None) -> Any:
    """A value that was kept as a float, in a data frame with gaps say, as the parameter has it."""
    if not isinstance(value, float) or not value.is_integer():
        return value
    if isinstance(parameter, Int):
        return int(value)
    if isinstance(parameter, Categorical):
        alike = (choice for choice in parameter.choices if choice == value and not isinstance(choice, bool))
        return next(alike, value)
    return value


def parameter_to_proto(name: str, parameter: Parameter) -> pb.Parameter:
    """One dimension of a space on the wire. Raises TypeError for what is not a parameter."""
    message = pb.Parameter(name=name)
    if isinstance(parameter, Float):
        message.float.CopyFrom(
            pb.FloatParameter(
                min=parameter.min,
                max=parameter.max,
                log=parameter.log,
                step=parameter.step,
                default_value=parameter.default,
            )
        )
    elif isinstance(parameter, Int):
        message.int.CopyFrom(
            pb.IntParameter(
                min=parameter.min,
                max=parameter.max,
                log=parameter.log,
                step=parameter.step,
                default_value=parameter.default,
            )
        )
    elif isinstance(parameter, Discrete):
        message.discrete.CopyFrom(
            pb.DiscreteParameter(values=parameter.values, log=parameter.log, default_value=parameter.default)
        )
    elif isinstance(parameter, Categorical):
        message.categorical.CopyFrom(
            pb.CategoricalParameter(
                choices=[value_to_proto(choice) for choice in parameter.choices],
                default_value=None if parameter.default is None else value_to_proto(parameter.default),
            )
        )
    else:
        raise TypeError(f"parameter {name!r} is a Float, Int, Discrete or Categorical, not {parameter!r}")
    if parameter.when is not None:
        values = [value_to_proto(value) for value in parameter.when.values]
        message.condition.CopyFrom(pb.Condition(parent=parameter.when.parent, values=values))
    return message


def parameter_from_proto(message: pb.Parameter) -> Parameter:
    """One dimension of a space as Python describes it."""
    condition = None
    if message.HasField("condition"):
        values = tuple(value_from_proto(value) for value in message.condition.values)
        condition = Condition(message.condition.parent, values)
    kind = message.WhichOneof("type")
    if kind == "float":
        f = message.float
        return Float(
            f.min,
            f.max,
            log=f.log,
            step=f.step if f.HasField("step") else None,
            default=f.default_value if f.HasField("default_value") else None,
            when=condition,
        )
    if kind == "int":
        i = message.int
        return Int(
            i.min,
            i.max,
            log=i.log,
            step=i.step if i.HasField("step") else None,
            default=i.default_value if i.HasField("default_value") else None,
            when=condition,
        )
    if kind == "discrete":
        d = message.discrete
        default = d.default_value if d.HasField("default_value") else None
        return Discrete(d.values, log=d.log, default=default, when=condition)
    c = message.categorical
    return Categorical(
        [value_from_proto(choice) for choice in c.choices],
        default=value_from_proto(c.default_value) if c.HasField("default_value") else None,
        when=condition,
    )
