"""Records: a trial as plain JSON and back, nothing lost and every type exact."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from asktell.cli.records import trial_message, trial_record, value_message
from asktell.v1 import search_space_pb2 as space_pb
from asktell.v1 import trial_pb2 as pb

NUMBERS = [space_pb.ParameterValue(int_value=1), space_pb.ParameterValue(float_value=2.5)]
TRUTHS = [space_pb.ParameterValue(bool_value=True), space_pb.ParameterValue(string_value="1")]
SPACE = {
    "f": space_pb.Parameter(name="f", float=space_pb.FloatParameter()),
    "i": space_pb.Parameter(name="i", int=space_pb.IntParameter()),
    "whole": space_pb.Parameter(name="whole", discrete=space_pb.DiscreteParameter(values=[32, 64])),
    "parts": space_pb.Parameter(name="parts", discrete=space_pb.DiscreteParameter(values=[32, 0.5])),
    "n": space_pb.Parameter(name="n", categorical=space_pb.CategoricalParameter(choices=NUMBERS)),
    "t": space_pb.Parameter(name="t", categorical=space_pb.CategoricalParameter(choices=TRUTHS)),
}


def _trial() -> pb.Trial:
    """A finished trial with every field that an import keeps."""
    trial = ParseDict(
        {
            "state": "PRUNED",
            "state_reason": "slow\nand bad",
            "worker": "w",
            "notes": "n",
            "labels": {"b": "2", "a": "1"},
            "measurement": {
                "metrics": {"y": 1e-300},
                "standard_errors": {"y": 0.0},
                "step": 2**62,
                "elapsed": "1.000000001s",
            },
            "intermediate_measurements": [
                {"metrics": {"y": -0.0, "z": 0.1}, "step": 0},
                {"metrics": {"y": 1 / 3}, "step": 1, "elapsed": "0.5s"},
            ],
        },
        pb.Trial(),
    )
    trial.parameters["f"].float_value = 1.0
    trial.parameters["i"].int_value = 2**63 - 1
    trial.parameters["whole"].float_value = 32.0
    trial.parameters["parts"].float_value = 32.0
    trial.parameters["n"].int_value = 1
    trial.parameters["t"].bool_value = True
    return trial


def test_a_trial_survives_the_way_through_json() -> None:
    """What the server gives (number, source, times) is in the record; what an import keeps comes back equal."""
    trial = _trial()
    trial.name = "projects/p/studies/s/trials/7"
    trial.attempt = 2
    trial.suggestion.source = pb.Suggestion.MODEL
    trial.suggestion.predictions["y"].mean = 0.5
    trial.create_time.seconds = 1

    record = trial_record(trial, SPACE)
    again = trial_message(json.loads(json.dumps(record)), SPACE)

    assert again == _trial()
    assert (record["number"], record["attempt"]) == (7, 2)
    assert record["suggestion"] == {"source": "MODEL", "predictions": {"y": {"mean": 0.5}}}
    assert record["create_time"] == "1970-01-01T00:00:01Z"


def test_discrete_values_read_as_whole_numbers_when_all_are() -> None:
    """A batch size is 32, not 32.0; where a value has a fraction all stay floats."""
    trial = _trial()
    trial.name = "projects/p/studies/s/trials/7"

    parameters = trial_record(trial, SPACE)["parameters"]

    assert list(parameters) == list(SPACE)
    assert [type(parameters[name]) for name in SPACE] == [float, int, int, float, int, bool]


def test_a_trial_that_waits_keeps_no_result() -> None:
    """Enqueued points take notes and labels; a measurement belongs to a finished trial."""
    record = {"parameters": {"f": 1}, "notes": "n", "worker": "w", "measurement": {"metrics": {"y": 1.0}}}

    message = trial_message(record, SPACE)

    assert message == pb.Trial(
        parameters={"f": space_pb.ParameterValue(float_value=1.0)}, notes="n", state=pb.Trial.WAITING
    )


@pytest.mark.parametrize(
    ("parameter", "value", "kind"),
    [
        ("f", 1, "float_value"),
        ("i", 2.0, "int_value"),
        ("whole", 32, "float_value"),
        ("n", 1.0, "int_value"),
        ("t", True, "bool_value"),
        ("t", "1", "string_value"),
    ],
)
def test_a_value_gets_the_type_of_its_parameter(parameter: str, value: Any, kind: str) -> None:
    """Other tools write 1 for 1.0 and the reverse: the search space knows better."""
    assert value_message(SPACE[parameter], value).WhichOneof("kind") == kind


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("f", "1"),
        ("f", True),
        ("f", None),
        ("i", 1.5),
        ("i", float("inf")),
        ("i", 2**63),
        ("n", True),
        ("t", 1),
        ("t", "true"),
        ("n", [1]),
    ],
)
def test_a_value_of_another_kind_is_refused(parameter: str, value: Any) -> None:
    """Text is no number, 1 is not true, and what does not fit 64 bits is no integer."""
    with pytest.raises((ValueError, OverflowError)):
        value_message(SPACE[parameter], value)
