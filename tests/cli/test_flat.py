"""CSV: what is in a row comes back with its exact types, and a bad file is refused as a whole."""

from __future__ import annotations

from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell.cli import flat
from asktell.cli.problems import BadInput
from asktell.cli.records import trial_message
from asktell.v1 import search_space_pb2 as pb

CHOICES: list[Any] = ["adam", "", "1", 1, "2.5", 2.5, "true", True, "null", '"1"', '"', "a,b\nc\r", " x "]


def _choice(value: Any) -> pb.ParameterValue:
    kind = {str: "string_value", int: "int_value", float: "float_value", bool: "bool_value"}[type(value)]
    message = pb.ParameterValue()
    setattr(message, kind, value)
    return message


SPACE = {
    "f": pb.Parameter(name="f", float=pb.FloatParameter()),
    "i": pb.Parameter(name="i", int=pb.IntParameter()),
    "d": pb.Parameter(name="d", discrete=pb.DiscreteParameter(values=[32, 64])),
    "c": pb.Parameter(
        name="c", categorical=pb.CategoricalParameter(choices=[_choice(c) for c in CHOICES if c is not True])
    ),
    "b": pb.Parameter(name="b", categorical=pb.CategoricalParameter(choices=[_choice(c) for c in (True, "true")])),
}

WHOLE = pb.Parameter(name="c", categorical=pb.CategoricalParameter(choices=[_choice(1), _choice(2)]))

finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=6)
points = st.fixed_dictionaries(
    {},
    optional={
        "f": finite,
        "i": st.integers(-(2**63), 2**63 - 1),
        "d": st.sampled_from([32, 64]),
        "c": st.sampled_from([c for c in CHOICES if c is not True]),
        "b": st.sampled_from([True, "true"]),
    },
)
measurements = st.fixed_dictionaries(
    {"metrics": st.dictionaries(st.sampled_from(["y", "z"]), finite, min_size=1)},
    optional={"standard_errors": st.just({"y": 0.5}), "step": st.integers(0, 2**63 - 1)},
)
trials = st.fixed_dictionaries(
    {
        "number": st.integers(1, 10**6),
        "state": st.sampled_from(["SUCCEEDED", "PRUNED"]),
        "parameters": points,
        "measurement": measurements,
    },
    optional={
        "state_reason": text,
        "worker": text,
        "notes": text,
        "labels": st.dictionaries(st.sampled_from(["a", "b.c"]), text, min_size=1),
        "suggestion": st.just({"source": "MODEL"}),
        "attempt": st.just(1),
    },
)


@given(st.lists(trials, min_size=1, max_size=3))
def test_trials_survive_the_way_through_csv(listed: list[dict[str, Any]]) -> None:
    """Every value that an import reads comes back, of its own type, whatever signs are in the text."""
    written = flat.write_csv(flat.columns(SPACE, ["y"], listed), [flat.row(trial, SPACE) for trial in listed])

    read = flat.read_csv(written, "file", SPACE)

    assert [trial_message(trial, SPACE) for _, trial in read] == [trial_message(trial, SPACE) for trial in listed]


def test_the_columns_are_those_of_the_python_table() -> None:
    """Parameters in the order of the space, objectives first among the metrics, then what else there is."""
    listed = [
        {
            "number": 1,
            "state": "SUCCEEDED",
            "parameters": {"i": 1},
            "measurement": {"metrics": {"a": 1.0, "y": 2.0}, "standard_errors": {"y": 0.1}},
            "labels": {"k": "v"},
        }
    ]

    names = flat.columns({"i": SPACE["i"], "f": SPACE["f"]}, ["y"], listed)

    assert names == [
        *("number", "state", "params.i", "params.f", "metrics.y", "metrics.a", "standard_errors.y", "step", "source"),
        *("worker", "attempt", "reason", "notes", "labels.k", "create_time", "start_time", "end_time"),
    ]


def test_a_table_made_elsewhere_needs_only_parameters_and_metrics() -> None:
    """A row with metrics has succeeded, one without waits; values get the types of the space."""
    read = flat.read_csv("params.i,params.d,metrics.y\n3,32,0.5\n4,64,\n", "file", SPACE)

    assert [(place, trial["state"]) for place, trial in read] == [("line 2", "SUCCEEDED"), ("line 3", "WAITING")]
    first = trial_message(read[0][1], SPACE)
    assert (first.parameters["i"].int_value, first.parameters["d"].float_value) == (3, 32.0)
    assert dict(first.measurement.metrics) == {"y": 0.5}


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("", "no header"),
        ("params.f,params.f\n1,2\n", "is there twice"),
        ("params.f,metric.y\n1,2\n", "'metric.y' is unknown"),
        ("params.\n1\n", "'params.' is unknown"),
        ("params.g\n1\n", "no such parameter"),
        ("params.f,metrics.y\n1\n", "line 2: 1 cells under 2 columns"),
        ("params.f,metrics.y\nx,y\n", "line 2: params.f: 'x' is not a number"),
        ("params.f,metrics.y\nx,y\n", "line 2: metrics.y: 'y' is not a number"),
        ("params.i\n1.5\n", "line 2: params.i: '1.5' is not an integer"),
        ("params.b\nmaybe\n", "line 2: params.b: 'maybe' is none of the choices"),
        ("step\nx\n", "line 2: step: 'x' is not an integer"),
        ('params.f\n"1\n', "it is not CSV"),
    ],
)
def test_a_bad_file_is_refused_with_its_lines(written: str, problem: str) -> None:
    """The error names the line or the column and what is wrong there."""
    with pytest.raises(BadInput) as caught:
        flat.read_csv(written, "file.csv", SPACE)

    assert problem in str(caught.value)


def test_what_pandas_writes_is_read() -> None:
    """A column with gaps holds floats there, and truth is capitalized: the values are what they were all the same."""
    frame = pandas.DataFrame(
        [
            {"params.i": 3, "params.c": 1, "params.b": True, "metrics.y": 0.5, "step": 4},
            {"params.i": None, "params.c": None, "params.b": None, "metrics.y": 1.5, "step": None},
        ]
    )

    read = flat.read_csv(frame.to_csv(index=False), "file", {**SPACE, "c": WHOLE})

    first, second = (record for _, record in read)
    assert first["parameters"] == {"i": 3, "c": 1, "b": True}
    assert [type(value) for value in first["parameters"].values()] == [int, int, bool]
    assert first["measurement"] == {"metrics": {"y": 0.5}, "step": 4}
    assert second["parameters"] == {}
