"""Messages of the contract as plain values (records), and the trials of a record as messages again.

A record has the contract's field names and leaves unset fields out. Numbers stay numbers, also 64-bit integers (in the
proto's own JSON form they would be text); a parameter's value is the bare value; enums are their names; times and durations
are the text of the proto's JSON form ("2026-01-01T00:00:00Z", "1.5s"). Instead of its resource name a study has `name`
(the id) and `project`, a trial `number`.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from asktell.names import TrialName
from asktell.v1.search_space_pb2 import Parameter, ParameterValue
from asktell.v1.study_pb2 import Study
from asktell.v1.trial_pb2 import Trial

Record = dict[str, Any]
Value = float | int | str | bool

# The fields of a trial that CreateTrials reads besides its parameters and state, and whether only a finished one has them.
_KEPT = {
    "notes": False,
    "labels": False,
    "state_reason": True,
    "measurement": True,
    "intermediate_measurements": True,
    "worker": True,
}
FINISHED = frozenset({"SUCCEEDED", "INFEASIBLE", "FAILED", "PRUNED"})


def value_of(value: ParameterValue) -> Value | None:
    """The bare value; None when it is unset."""
    kind = value.WhichOneof("kind")
    return None if kind is None else getattr(value, kind)


def message_record(message: Message) -> Record:
    """The set fields of any message of the contract, by name."""
    record: Record = {}
    for field, value in message.ListFields():
        if field.enum_type is not None:
            known = field.enum_type.values_by_number.get(value)
            record[field.name] = value if known is None else known.name
        elif isinstance(value, MutableMapping):
            record[field.name] = {key: _plain(value[key]) for key in sorted(value)}
        elif isinstance(value, MutableSequence):
            record[field.name] = [_plain(item) for item in value]
        else:
            record[field.name] = _plain(value)
    return record


def _plain(value: Any) -> Any:
    if isinstance(value, ParameterValue):
        return value_of(value)
    if isinstance(value, (Timestamp, Duration)):
        return value.ToJsonString()
    return message_record(value) if isinstance(value, Message) else value


def space_of(study: Study) -> dict[str, Parameter]:
    """The study's parameters by name, in their order."""
    return {parameter.name: parameter for parameter in study.spec.parameters}


def trial_record(trial: Trial, space: Mapping[str, Parameter]) -> Record:
    """A trial: `number`, `state` and `parameters` (in the order of the space) always, the rest where it is set."""
    record = message_record(trial)
    record.pop("name", None)
    point = record.pop("parameters", {})
    return {
        "number": TrialName.parse(trial.name).number,
        "state": record.pop("state"),
        "parameters": {name: _shown(point[name], space[name]) for name in space if name in point},
        **record,
    }


def _shown(value: Value, parameter: Parameter) -> Value:
    """A discrete value as an int when all values of its parameter are whole, so that 32 reads as 32."""
    whole = parameter.HasField("discrete") and all(v.is_integer() for v in parameter.discrete.values)
    return int(value) if whole else value


def value_message(parameter: Parameter, value: object) -> ParameterValue:
    """The value with the exact type that the parameter has: 1 becomes 1.0 for a float, a choice keeps its own kind.

    Raises ValueError when the value has another kind than the parameter. The range is left to the server.
    """
    kind = parameter.WhichOneof("type")
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("float", "discrete") and number:
        return ParameterValue(float_value=float(value))  # type: ignore[arg-type]
    if kind == "int" and number and value == int(value):  # type: ignore[call-overload]
        return ParameterValue(int_value=int(value))  # type: ignore[call-overload]
    if kind == "categorical":
        for choice in parameter.categorical.choices:
            known = value_of(choice)
            # 1 == 1.0 == True in Python; the contract lets no two choices be equal in that sense.
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return choice
        raise ValueError(f"{value!r} is none of the choices")
    raise ValueError(f"{value!r} is not {'an integer' if kind == 'int' else 'a number'}")


def trial_message(record: Mapping[str, Any], space: Mapping[str, Parameter]) -> Trial:
    """The trial of a record, with the fields that CreateTrials reads. Raises ValueError with all that is wrong, by line."""
    problems: list[str] = []
    state = record.get("state", "WAITING")
    if state not in FINISHED | {"WAITING"}:
        problems.append(f"state: {state!r} is neither WAITING nor one of {', '.join(sorted(FINISHED))}")
    trial = Trial()
    for name, value in _mapping(record, "parameters", problems).items():
        if name not in space:
            problems.append(f"parameters.{name}: the study has no such parameter")
            continue
        try:
            trial.parameters[name].CopyFrom(value_message(space[name], value))
        except (ValueError, OverflowError) as error:
            problems.append(f"parameters.{name}: {error}")
    for field, only_finished in _KEPT.items():
        if field in record and (state in FINISHED or not only_finished):
            try:
                ParseDict({field: record[field]}, trial)
            except ParseError as error:
                problems.append(f"{field}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    trial.state = Trial.State.Value(state)
    return trial


def _mapping(record: Mapping[str, Any], key: str, problems: list[str]) -> Mapping[str, Any]:
    value = record.get(key, {})
    if isinstance(value, Mapping):
        return value
    problems.append(f"{key}: {value!r} is not a mapping")
    return {}
