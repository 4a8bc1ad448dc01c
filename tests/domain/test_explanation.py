"""Requests for an explanation: what is wrong with them, all at once."""

from __future__ import annotations

import pytest

from asktell_server.domain.algorithms import RandomSearch
from asktell_server.domain.explanation import ExplainRequest, activation
from asktell_server.domain.objectives import Direction, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec

PARAMETERS = (
    FloatParameter("lr", 0.0, 1.0),
    CategoricalParameter("optimizer", ("adam", "sgd", "lion")),
    FloatParameter("momentum", 0.0, 1.0, condition=Condition("optimizer", ("sgd", "lion"))),
    CategoricalParameter("nesterov", (True, False), condition=Condition("optimizer", ("sgd",))),
    FloatParameter("damping", 0.0, 1.0, condition=Condition("nesterov", (True,))),
    FloatParameter("beta", 0.0, 1.0, condition=Condition("optimizer", ("adam",))),
)


def a_spec(*parameters: Parameter, objectives: int = 1, constraints: int = 0) -> StudySpec:
    """A study of these parameters."""
    return StudySpec(
        SearchSpace(parameters or PARAMETERS),
        tuple(Objective(f"m{i}", Direction.MINIMIZE) for i in range(objectives)),
        constraints=tuple(OutcomeConstraint(f"c{i}", max=0.0) for i in range(constraints)),
        algorithm=RandomSearch(),
    )


def fields(request: ExplainRequest, spec: StudySpec | None = None) -> list[str]:
    """The fields that are wrong in a study of PARAMETERS."""
    return [violation.field for violation in request.violations(spec or a_spec())]


@pytest.mark.parametrize(
    "request_",
    [
        ExplainRequest(),
        ExplainRequest(points=2),
        ExplainRequest(points=100),
        ExplainRequest(("lr", "damping"), (("lr", "optimizer"), ("damping", "momentum")), 50),
        ExplainRequest(pairs=(("optimizer", "beta"), ("nesterov", "damping"))),
    ],
)
def test_good_requests(request_: ExplainRequest) -> None:
    """Nothing is wrong, with and without the study."""
    assert request_.violations(a_spec()) == []
    assert request_.violations(None) == []


def test_everything_that_is_wrong_is_named() -> None:
    """Unknown and repeated names, a parameter with itself, parameters that are never active together, points out of range."""
    request = ExplainRequest(
        ("lr", "nobody", "lr"),
        (("lr", "lr"), ("lr", "ghost"), ("momentum", "lr"), ("lr", "momentum"), ("beta", "damping")),
        51,
    )

    assert fields(request) == [
        "points",
        "slices[1]",
        "slices[2]",
        "pair_slices[0].second",
        "pair_slices[1].second",
        "pair_slices[3]",
        "pair_slices[4]",
    ]


def test_without_the_study_names_are_taken_on_trust() -> None:
    """What is wrong in itself is named all the same."""
    request = ExplainRequest(("nobody", "nobody"), (("lr", "lr"), ("beta", "damping")), 1)

    assert [violation.field for violation in request.violations(None)] == [
        "points",
        "slices[1]",
        "pair_slices[0].second",
    ]


@pytest.mark.parametrize("points", [-(2**31), -1, 1, 101, 2**31 - 1])
def test_points_have_a_range(points: int) -> None:
    """2 to 100, or to 50 with pairs; 0 leaves it to the server."""
    assert fields(ExplainRequest(points=points)) == ["points"]


def test_too_many_slices_are_counted_and_not_looked_at() -> None:
    """One violation each, however many there are."""
    request = ExplainRequest(("nobody",) * 100_000, (("x", "x"),) * 100_000)

    assert fields(request) == ["slices", "pair_slices"]


def test_an_answer_has_to_fit_a_message() -> None:
    """Slices, pairs, points and metrics together; without slices the ten largest count."""
    many = a_spec(*(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(100)), objectives=16, constraints=16)
    pairs = tuple((f"x{i}", f"x{i + 1}") for i in range(10))
    names = tuple(f"x{i}" for i in range(100))

    assert fields(ExplainRequest(names), many) == []
    assert fields(ExplainRequest(names, points=100), many) == ["slices"]
    assert fields(ExplainRequest(pairs=pairs, points=17), many) == []
    assert fields(ExplainRequest(pairs=pairs, points=50), many) == ["slices"]


def test_long_choices_count_for_more() -> None:
    """A hundred choices of a thousand characters in a hundred slices would be ten megabytes."""
    wordy = tuple(CategoricalParameter(f"c{i}", tuple(f"{k:03d}{'x' * 1000}" for k in range(100))) for i in range(100))

    assert fields(ExplainRequest(tuple(p.name for p in wordy)), a_spec(*wordy)) == ["slices"]


def test_it_is_bytes_that_count() -> None:
    """Characters of four bytes each fill an answer four times as fast."""

    def choices(character: str) -> StudySpec:
        texts = tuple(f"{k:03d}{character * 400}" for k in range(100))
        return a_spec(*(CategoricalParameter(f"c{i}", texts) for i in range(10)), objectives=3)

    assert fields(ExplainRequest(), choices("x")) == []
    assert fields(ExplainRequest(), choices("\N{GRINNING FACE}")) == ["slices"]


def test_texts_along_a_pair_count_as_well() -> None:
    """Ten choices of a thousand characters on both axes of ten pairs, for each of 32 metrics, would be six megabytes."""
    wordy = tuple(CategoricalParameter(f"c{i}", tuple(f"{k}{'x' * 1000}" for k in range(10))) for i in range(11))
    spec = a_spec(*wordy, FloatParameter("x", 0.0, 1.0), objectives=16, constraints=16)
    pairs = tuple((f"c{i}", f"c{i + 1}") for i in range(10))

    assert fields(ExplainRequest(("x",)), spec) == []
    assert fields(ExplainRequest(("x",), pairs), spec) == ["slices"]


def test_the_size_of_an_axis() -> None:
    """All values of a small parameter, `points` of a large one, choices up to the limit."""
    request, paired = ExplainRequest(points=10), ExplainRequest(pairs=(("a", "b"),), points=10)
    choices = CategoricalParameter("c", tuple(range(1000)))

    assert request.axis_size(FloatParameter("x", 0.0, 1.0)) == 10
    assert request.axis_size(FloatParameter("x", 0.0, 0.0)) == 1
    assert request.axis_size(IntParameter("n", 1, 5)) == 5
    assert request.axis_size(IntParameter("n", 1, 5000)) == 10
    assert request.axis_size(DiscreteParameter("d", (1.0, 2.0))) == 2
    assert request.axis_size(choices) == 100
    assert paired.axis_size(choices) == 50
    assert ExplainRequest().axis_size(FloatParameter("x", 0.0, 1.0)) == 25


def test_what_activates_parameters() -> None:
    """The values of ancestors at which all are active; what is shown itself is left to vary."""
    space = SearchSpace(PARAMETERS)

    assert activation(space, ["lr"]) == {}
    assert activation(space, ["damping"]) == {"nesterov": (True,), "optimizer": ("sgd",)}
    assert activation(space, ["momentum", "nesterov"]) == {"optimizer": ("sgd",)}
    assert activation(space, ["optimizer", "damping"]) == {"nesterov": (True,)}
    assert activation(space, ["momentum", "beta"]) == {"optimizer": ()}
