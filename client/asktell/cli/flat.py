"""Trials as rows of a CSV file, and such rows as trial records again.

One row per trial, with the columns of `Study.to_dicts()`: number, state, params.NAME, metrics.NAME,
standard_errors.NAME, step, source, worker, attempt, reason, notes, labels.KEY, create_time, start_time, end_time. An
empty cell means that there is no value. Intermediate measurements do not fit in a row: JSON keeps them.

Text in a cell gets its type back from the search space. A choice that is text is written bare (`adam`), or in JSON's
quotes (`"1"`) where the bare text would read as another choice or as an empty cell.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from typing import Any

from asktell.cli.problems import BadInput
from asktell.cli.records import Record, Value, value_of
from asktell.v1.search_space_pb2 import Parameter

_BEFORE = ("number", "state")
_AFTER = ("source", "worker", "attempt", "reason", "notes")
_TIMES = ("create_time", "start_time", "end_time")
_GROUPS = ("params.", "metrics.", "standard_errors.", "labels.")
_FIXED = (*_BEFORE, "step", *_AFTER, *_TIMES)

Row = dict[str, str]


def columns(space: Mapping[str, Parameter], objectives: Sequence[str], trials: Iterable[Record]) -> list[str]:
    """The columns that the trials need: all parameters and objectives, then what else was measured or labelled."""
    measured: dict[str, None] = dict.fromkeys(objectives)
    errors: set[str] = set()
    labels: set[str] = set()
    for trial in trials:
        measurement = trial.get("measurement", {})
        measured |= dict.fromkeys(measurement.get("metrics", {}))
        errors |= set(measurement.get("standard_errors", {}))
        labels |= set(trial.get("labels", {}))
    return [
        *_BEFORE,
        *(f"params.{name}" for name in space),
        *(f"metrics.{name}" for name in measured),
        *(f"standard_errors.{name}" for name in sorted(errors)),
        "step",
        *_AFTER,
        *(f"labels.{key}" for key in sorted(labels)),
        *_TIMES,
    ]


def row(trial: Record, space: Mapping[str, Parameter]) -> Row:
    """The cells of a trial record that have a value."""
    measurement = trial.get("measurement", {})
    cells: Row = {"number": str(trial["number"]), "state": trial["state"]}
    cells |= {f"params.{name}": _cell(value, space[name]) for name, value in trial["parameters"].items()}
    cells |= {f"metrics.{name}": repr(value) for name, value in measurement.get("metrics", {}).items()}
    cells |= {f"standard_errors.{name}": repr(value) for name, value in measurement.get("standard_errors", {}).items()}
    if "step" in measurement:
        cells["step"] = str(measurement["step"])
    if "suggestion" in trial:
        cells["source"] = trial["suggestion"].get("source", "")
    if "state_reason" in trial:
        cells["reason"] = trial["state_reason"]
    cells |= {key: str(trial[key]) for key in ("worker", "attempt", "notes", *_TIMES) if key in trial}
    return cells | {f"labels.{key}": value for key, value in trial.get("labels", {}).items()}


def write_csv(names: Sequence[str], rows: Iterable[Row]) -> str:
    """The text of a CSV file (RFC 4180, whose CR LF also makes sure that a lone CR in a note is quoted)."""
    out = StringIO(newline="")
    writer = csv.DictWriter(out, names, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def read_csv(text: str, where: str, space: Mapping[str, Parameter]) -> list[tuple[str, Record]]:
    """The trial records of a CSV file, each after its place ("line 2"). Raises BadInput with everything that is wrong.

    What the server gives (number, source, attempt, times) is passed over. Without a state a row with metrics has
    SUCCEEDED, one without is WAITING.
    """
    lines = csv.reader(StringIO(text, newline=""), strict=True)
    try:
        header = next(lines, [])
        body = [(lines.line_num, cells) for cells in lines if cells]
    except csv.Error as error:
        raise BadInput(where, [f"it is not CSV: line {lines.line_num}: {error}"]) from error
    problems = [f"column {name!r} is there twice" for name in sorted(set(header)) if header.count(name) > 1]
    for name in header:
        group = name.partition(".")[0] + "."
        if name not in _FIXED and (group not in _GROUPS or name == group):
            problems.append(
                f"column {name!r} is unknown; there are {', '.join([*_FIXED, *(g + 'NAME' for g in _GROUPS)])}"
            )
        elif group == "params." and name.removeprefix(group) not in space:
            problems.append(f"column {name!r}: the study has no such parameter")
    if not header:
        problems.append("it has no header line")
    if problems:
        raise BadInput(where, problems)
    records = []
    for line, cells in body:
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} cells under {len(header)} columns")
            continue
        trial, wrong = _record({name: cell for name, cell in zip(header, cells, strict=True) if cell}, space)
        problems += [f"line {line}: {problem}" for problem in wrong]
        records.append((f"line {line}", trial))
    if problems:
        raise BadInput(where, problems)
    return records


def _record(cells: Row, space: Mapping[str, Parameter]) -> tuple[Record, list[str]]:
    """The record of a row, and what is wrong with the row."""
    problems: list[str] = []

    def read(name: str, kind: Any) -> Any:
        try:
            return kind(cells[name])
        except ValueError:
            problems.append(f"{name}: {cells[name]!r} is not {'an integer' if kind is _integer else 'a number'}")

    def group(prefix: str) -> list[tuple[str, str]]:
        return [(name, name.removeprefix(prefix)) for name in cells if name.startswith(prefix)]

    parameters: dict[str, Value] = {}
    for name, parameter in group("params."):
        try:
            parameters[parameter] = _value(cells[name], space[parameter])
        except ValueError as error:
            problems.append(f"{name}: {error}")
    measurement: Record = {}
    for key in ("metrics", "standard_errors"):
        if found := {metric: read(name, float) for name, metric in group(f"{key}.")}:
            measurement[key] = found
    if "step" in cells:
        measurement["step"] = read("step", _integer)
    record: Record = {
        "state": cells.get("state", "SUCCEEDED" if "metrics" in measurement else "WAITING"),
        "parameters": parameters,
    }
    if measurement:
        record["measurement"] = measurement
    if "reason" in cells:
        record["state_reason"] = cells["reason"]
    record |= {key: cells[key] for key in ("worker", "notes") if key in cells}
    if labels := {key: cells[name] for name, key in group("labels.")}:
        record["labels"] = labels
    return record, problems


def _cell(value: Value, parameter: Parameter) -> str:
    if parameter.HasField("categorical"):
        return next(text for text, choice in _choices(parameter).items() if _same(choice, value))
    return str(value)


def _value(text: str, parameter: Parameter) -> Value:
    if parameter.HasField("categorical"):
        choices = _choices(parameter)
        for spelling in (text.lower(), text.removesuffix(".0")):  # pandas writes True, and 3.0 in a column with gaps
            if text not in choices and isinstance(choices.get(spelling), bool | int):
                return choices[spelling]
        if text not in choices:
            raise ValueError(f"{text!r} is none of the choices {', '.join(choices)}")
        return choices[text]
    kind = _integer if parameter.HasField("int") else float
    try:
        return kind(text)
    except ValueError:
        raise ValueError(f"{text!r} is not {'an integer' if kind is _integer else 'a number'}") from None


def _integer(text: str) -> int:
    """An integer, also as pandas writes one in a column with gaps: 3.0."""
    return int(text.removesuffix(".0"))


def _choices(parameter: Parameter) -> dict[str, Value]:
    """A categorical parameter's choices by the text of their cells, no two alike."""
    values = [value for choice in parameter.categorical.choices if (value := value_of(choice)) is not None]
    others = {json.dumps(value) for value in values if not isinstance(value, str)}

    def text(value: Value) -> str:
        bare = isinstance(value, str) and value and not value.startswith('"') and value not in others
        return str(value) if bare else json.dumps(value)

    return {text(value): value for value in values}


def _same(a: Value, b: Value) -> bool:
    return a == b and isinstance(a, bool) == isinstance(b, bool)
