"""Spaces, algorithms and specs: Python to wire and back."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from asktell import (
    Algorithm,
    Categorical,
    Discrete,
    Float,
    Gp,
    GridSearch,
    Int,
    InvalidName,
    NormalPrior,
    Parameter,
    RandomSearch,
    Skopt,
    SobolSearch,
    StudyOptions,
    TransferSource,
    when,
)
from asktell.space import parameter_from_proto, parameter_to_proto, point_from_proto, point_to_proto, value_to_proto
from asktell.spec import build_spec, spec_from_proto, spec_to_proto


@pytest.mark.parametrize(
    "parameter",
    [
        Float(0.0, 1.0),
        Float(1e-5, 1e-1, log=True, default=1e-3),
        Float(0, 1, step=0.25, default=0.0),
        Int(-3, 3, step=2, default=-1),
        Int(16, 512, log=True, when=when("act", "relu", 2)),
        Discrete([16, 32, 64], log=True, default=32),
        Discrete([0.5, 0.25]),
        Categorical(["relu", 2, 0.5, True], default=True, when=when("n", 0)),
        Categorical(["only"], default=None),
    ],
)
def test_a_parameter_comes_back_from_the_wire_as_it_went(parameter: Parameter) -> None:
    """Range, log, step, default and condition survive, zeros and falsehoods included."""
    back = parameter_from_proto(parameter_to_proto("p", parameter))

    assert back == parameter
    assert type(back) is type(parameter)


def test_zero_is_not_absence() -> None:
    """A default of 0 and a minimum of 0 are sent as values."""
    message = parameter_to_proto("p", Float(0.0, 1.0, default=0.0))

    assert message.float.HasField("min")
    assert message.float.HasField("default_value")


def test_whole_discrete_values_come_back_as_ints() -> None:
    """A batch size is an int in Python, though the wire has doubles."""
    space = {"batch": Discrete([16, 32]), "rate": Discrete([0.5, 1.0])}

    point = point_from_proto(point_to_proto({"rate": 1.0, "batch": 16.0}), space)

    assert repr(point) == "{'batch': 16, 'rate': 1.0}"


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (bool(1), "bool_value"),
        (1, "int_value"),
        (1.0, "float_value"),
        ("1", "string_value"),
        (np.float64(0.5), "float_value"),
        (np.int64(3), "int_value"),
        (np.bool_(0), "bool_value"),
    ],
)
def test_a_value_keeps_its_kind(value: object, kind: str) -> None:
    """Truth values are no ints, and NumPy scalars are what they look like."""
    assert value_to_proto(value).WhichOneof("kind") == kind


def test_a_value_that_is_none_of_these_is_refused() -> None:
    """A list cannot be a parameter's value."""
    with pytest.raises(TypeError, match="not list"):
        value_to_proto([1])


@pytest.mark.parametrize(
    "algorithm",
    [
        None,
        RandomSearch(),
        GridSearch(7),
        SobolSearch(),
        Skopt(),
        Skopt(base_estimator="ET", acquisition_function="LCB", initial_points=4, xi=0.0, kappa=2.5, max_observations=9),
        Gp(),
        Gp(
            initial_points=3,
            cost_metric="seconds",
            priors={"x": NormalPrior(0.0, width=0.2), "c": {"b": 3, True: 0.5}, "d": {16: 2.0}},
            learn_from=[TransferSource("projects/default/studies/earlier", revision=7)],
        ),
    ],
)
def test_a_spec_comes_back_from_the_wire_as_it_went(algorithm: Algorithm | None) -> None:
    """Every field of a spec survives."""
    options: StudyOptions = {
        "maximize": ["accuracy"],
        "minimize": "loss",
        "constraints": {"latency": ("<=", 0.0), "recall": (">=", 0.9)},
        "algorithm": algorithm,
        "seed": 0,
        "lease": 1.5,
        "max_retries": 0,
        "max_trials": 10,
        "target": 0.0,
        "max_trials_without_improvement": 5,
        "max_failed_trials": 3,
    }
    spec = build_spec(
        {"x": Float(0, 1), "a": Int(1, 2), "c": Categorical(["a", "b", True]), "d": Discrete([16, 32])}, options
    )

    back = spec_from_proto(spec_to_proto(spec))

    assert back == spec
    assert repr(back.algorithm) == repr(algorithm).replace("'b': 3,", "'b': 3.0,")
    assert back.lease == timedelta(seconds=1.5)
    assert list(back.space) == ["x", "a", "c", "d"]
    assert back.objectives == {"accuracy": "maximize", "loss": "minimize"}


def test_studies_to_learn_from_are_of_the_same_project() -> None:
    """A short name means a study of the new study's project; one name may stand alone."""
    spec = build_spec({"x": Float(0, 1)}, {"minimize": "loss", "algorithm": Gp(learn_from="earlier")})

    message = spec_to_proto(spec, "vision")

    assert [(s.study, s.revision) for s in message.algorithm.gp.transfer_sources] == [
        ("projects/vision/studies/earlier", 0)
    ]
    with pytest.raises(InvalidName):
        spec_to_proto(build_spec({"x": Float(0, 1)}, {"minimize": "loss", "algorithm": Gp(learn_from=["not ok"])}))


@pytest.mark.parametrize(
    ("metrics", "feasible"),
    [
        ({"latency": 5, "recall": 0.9}, True),
        ({"latency": 5.1, "recall": 0.9}, False),
        ({"latency": 5, "recall": 0.89}, False),
        ({"latency": 5}, False),
    ],
)
def test_a_spec_says_what_is_feasible(metrics: dict[str, float], feasible: bool) -> None:
    """A result on the bounds keeps them; one without a constrained metric does not."""
    spec = build_spec(
        {"x": Float(0, 1)}, {"minimize": "loss", "constraints": {"latency": ("<=", 5), "recall": (">=", 0.9)}}
    )

    assert spec.is_feasible(metrics) is feasible
    assert spec.required_metrics == ["loss", "latency", "recall"]


def test_what_is_left_open_is_not_sent() -> None:
    """A spec without settings leaves them to the server."""
    message = spec_to_proto(build_spec({"x": Float(0, 1)}, {"minimize": "loss"}))

    assert [field.name for field, _ in message.ListFields()] == ["parameters", "objectives"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs an objective"),
        ({"maximize": "a", "minimize": ["a"]}, "both"),
        ({"maximize": "a", "algorithm": "magic"}, "choose one of random, grid, sobol, skopt, gp"),
        ({"maximise": "a"}, "unexpected arguments: maximise"),
        ({"maximize": "a", "constraints": {"b": 5}}, "constraint on 'b'"),
        ({"maximize": "a", "constraints": {"b": ("<", 5)}}, "constraint on 'b'"),
        ({"maximize": "a", "constraints": {"b": ("<=", "5")}}, "constraint on 'b'"),
    ],
)
def test_misuse_is_refused_before_anything_is_sent(options: StudyOptions, message: str) -> None:
    """What only a programmer can get wrong is a ValueError or TypeError."""
    with pytest.raises((ValueError, TypeError), match=message):
        build_spec({"x": Float(0, 1)}, options)


def test_a_space_holds_parameters_only() -> None:
    """A bare tuple is no parameter, and the message says which one is wrong."""
    with pytest.raises(TypeError, match="parameter 'x' is a Float"):
        spec_to_proto(build_spec({"x": (0, 1)}, {"maximize": "a"}))  # type: ignore[dict-item]
