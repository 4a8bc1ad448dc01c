"""When a study is done, and which of two specs differ in what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.space import FloatParameter, SearchSpace
from asktell_server.domain.study import (
    RandomSearch,
    SobolSearch,
    StoppingCriteria,
    Study,
    StudySpec,
    StudyState,
    TrialPolicy,
)
from asktell_server.domain.trial import TrialState

S = TrialState
NOW = datetime(2026, 1, 1, tzinfo=UTC)
LOSS = Objective("loss", Direction.MINIMIZE)
SPEC = StudySpec(SearchSpace((FloatParameter("x", 0.0, 1.0),)), (LOSS,), RandomSearch())


def _study(direction: Direction = Direction.MINIMIZE, **criteria: float) -> Study:
    spec = replace(SPEC, objectives=(Objective("loss", direction),), stopping=StoppingCriteria(**criteria))  # type: ignore[arg-type]
    return Study(1, "p", "s", spec, StudyState.ACTIVE, NOW, NOW)


def _after(study: Study, *values: float) -> Study:
    """The study after trials that succeeded with these values, one after the other."""
    for value in values:
        number = study.count(S.SUCCEEDED) + 1
        study = replace(study, counts={**study.counts, S.SUCCEEDED: number}, next_number=number + 1)
        study = study.with_result(number, value).completed_if_done()
    return study


@pytest.mark.parametrize("direction", Direction)
@given(values=st.lists(st.floats(-10, 10), min_size=1, max_size=20))
def test_the_best_is_the_earliest_of_the_best(direction: Direction, values: list[float]) -> None:
    """The incumbent is the first trial with the best value."""
    study = _after(_study(direction), *values)

    best = min(values) if direction is Direction.MINIMIZE else max(values)
    assert study.best_value == best
    assert study.best_number == values.index(best) + 1


@pytest.mark.parametrize(
    ("direction", "value", "state"),
    [
        (Direction.MINIMIZE, 0.1, StudyState.COMPLETED),
        (Direction.MINIMIZE, 0.0, StudyState.COMPLETED),
        (Direction.MINIMIZE, 0.2, StudyState.ACTIVE),
        (Direction.MAXIMIZE, 0.1, StudyState.COMPLETED),
        (Direction.MAXIMIZE, 0.2, StudyState.COMPLETED),
        (Direction.MAXIMIZE, 0.0, StudyState.ACTIVE),
    ],
)
def test_target(direction: Direction, value: float, state: StudyState) -> None:
    """A value at least as good as the target completes the study, in either direction."""
    assert _after(_study(direction, target=0.1), value).state is state


@given(st.lists(st.floats(-10, 10), max_size=25), st.integers(1, 5))
def test_patience(values: list[float], patience: int) -> None:
    """A study completes with the first trial that ends a run of `patience` without a new best one."""
    study = _study(max_trials_without_improvement=patience)
    ended = None
    for i, value in enumerate(values):
        study = _after(study, value)
        if study.state is StudyState.COMPLETED:
            ended = i
            break

    expected = None
    best, run = float("inf"), 0
    for i, value in enumerate(values):
        best, run = (value, 0) if value < best else (best, run + 1)
        if run == patience:
            expected = i
            break
    assert ended == expected


@pytest.mark.parametrize(
    ("counts", "state", "room"),
    [
        ({}, StudyState.ACTIVE, 3),
        ({S.RUNNING: 3}, StudyState.ACTIVE, 0),
        ({S.WAITING: 1, S.SUCCEEDED: 2}, StudyState.ACTIVE, 0),
        ({S.FAILED: 1, S.PRUNED: 1, S.INFEASIBLE: 1}, StudyState.COMPLETED, 0),
        ({S.SUCCEEDED: 2, S.EXPIRED: 5}, StudyState.ACTIVE, 1),
        ({S.SUCCEEDED: 3, S.EXPIRED: 5}, StudyState.COMPLETED, 0),
        ({S.SUCCEEDED: 5}, StudyState.COMPLETED, 0),
        ({S.SUCCEEDED: 5, S.RUNNING: 1}, StudyState.ACTIVE, 0),
    ],
)
def test_max_trials(counts: dict[TrialState, int], state: StudyState, room: int) -> None:
    """All trials but the expired count; the study completes once nothing waits or runs."""
    study = replace(_study(max_trials=3), counts=counts)

    assert study.completed_if_done().state is state
    assert study.room() == room


def test_without_criteria_a_study_goes_on() -> None:
    """Nothing completes a study that has no criteria."""
    study = _after(_study(), *[1.0] * 50)

    assert study.state is StudyState.ACTIVE
    assert study.room() is None


def test_a_stopped_study_stays_stopped() -> None:
    """Only an ACTIVE study completes."""
    study = _after(replace(_study(target=0.1), state=StudyState.STOPPED, state_reason="lunch"), 0.0)

    assert (study.state, study.state_reason) == (StudyState.STOPPED, "lunch")


def test_differences_are_named_as_in_the_contract() -> None:
    """Each part that differs is named; what is left open is not compared."""
    other = StudySpec(
        SearchSpace((FloatParameter("y", 0.0, 1.0),)),
        (Objective("loss", Direction.MAXIMIZE),),
        SobolSearch(),
        StoppingCriteria(max_trials=1),
        TrialPolicy(timedelta(seconds=5)),
        seed=3,
    )

    assert SPEC.differences(other) == [
        *("parameters", "objectives", "algorithm", "stopping_criteria", "trial_policy", "seed"),
    ]
    assert SPEC.differences(replace(SPEC, seed=5), ignoring=frozenset({"seed"})) == []
