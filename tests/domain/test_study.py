"""When a study is done, which of its trials is the best, and which of two specs differ in what."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.algorithms import GpOptimizer, RandomSearch, SkoptOptimizer, SobolSearch, TransferSource
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import FloatParameter, SearchSpace
from asktell_server.domain.study import StoppingCriteria, Study, StudySpec, StudyState, TrialPolicy
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
        study = study.with_result(number, Measurement({"loss": value})).completed_if_done()
    return study


def _after_measured(study: Study, *results: tuple[float, float]) -> Study:
    """The study after trials that succeeded with these losses and latencies."""
    for loss, latency in results:
        number = study.count(S.SUCCEEDED) + 1
        study = replace(study, counts={**study.counts, S.SUCCEEDED: number}, next_number=number + 1)
        study = study.with_result(number, Measurement({"loss": loss, "latency": latency})).completed_if_done()
    return study


def _constrained(**criteria: float) -> Study:
    """A study whose trials have to keep a latency of at most 5."""
    study = _study(**criteria)
    return replace(study, spec=replace(study.spec, constraints=(OutcomeConstraint("latency", max=5.0),)))


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


@given(st.lists(st.tuples(st.floats(-10, 10), st.sampled_from([4.0, 5.0, 5.5])), max_size=20))
def test_only_a_feasible_trial_is_the_best(results: list[tuple[float, float]]) -> None:
    """The incumbent is the first of the best among the trials that keep every bound; there may be none."""
    study = _after_measured(_constrained(), *results)

    feasible = [(loss, number) for number, (loss, latency) in enumerate(results, start=1) if latency <= 5.0]
    best = min(feasible, default=(None, None))
    assert (study.best_value, study.best_number) == best


def test_only_a_feasible_trial_meets_the_target() -> None:
    """A good value at the cost of a bound does not complete the study; with the bound kept it does."""
    study = _after_measured(_constrained(target=0.1), (0.0, 5.5), (-1.0, 6.0))

    assert study.state is StudyState.ACTIVE
    assert _after_measured(study, (0.1, 5.0)).state is StudyState.COMPLETED


def test_a_trial_that_breaks_a_bound_is_no_improvement() -> None:
    """It counts as a trial without a new best one; but before the first feasible trial no run begins."""
    before = _after_measured(_constrained(max_trials_without_improvement=2), *[(0.0, 9.0)] * 5)
    after = _after_measured(before, (1.0, 1.0), (0.5, 9.0))

    assert (before.state, after.state) == (StudyState.ACTIVE, StudyState.ACTIVE)
    assert _after_measured(after, (0.5, 9.0)).state is StudyState.COMPLETED


@pytest.mark.parametrize(
    ("constraint", "value", "violation", "met"),
    [
        (OutcomeConstraint("latency", max=5.0), 7.0, 2.0, False),
        (OutcomeConstraint("latency", max=5.0), 5.0, 0.0, True),
        (OutcomeConstraint("recall", min=0.5), 0.25, 0.25, False),
        (OutcomeConstraint("recall", min=0.5), 0.75, -0.25, True),
        (OutcomeConstraint("margin", min=0.0), -1e-300, 1e-300, False),
    ],
)
def test_constraints(constraint: OutcomeConstraint, value: float, violation: float, met: bool) -> None:
    """A bound is kept where it is touched; the violation says by how much it is broken."""
    assert constraint.violation(value) == violation
    assert constraint.is_met(value) is met


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
        constraints=(OutcomeConstraint("latency", max=5.0),),
    )

    assert SPEC.differences(other) == [
        *("parameters", "objectives", "outcome_constraints", "algorithm"),
        *("stopping_criteria", "trial_policy", "seed"),
    ]
    assert SPEC.differences(replace(SPEC, seed=5), ignoring=frozenset({"seed"})) == []


def test_a_revision_left_open_is_no_difference() -> None:
    """A transfer source without a revision is equal to the same source at any; another revision or source is not."""
    spec = replace(SPEC, algorithm=GpOptimizer(transfer_sources=(TransferSource("a", 7), TransferSource("b", 3))))

    def differs(*sources: TransferSource) -> bool:
        return bool(spec.differences(replace(spec, algorithm=GpOptimizer(transfer_sources=sources))))

    assert not differs(TransferSource("a"), TransferSource("b", 3))
    assert not differs(TransferSource("a"), TransferSource("b"))
    assert differs(TransferSource("a"), TransferSource("b", 2))
    assert differs(TransferSource("a"), TransferSource("c"))
    assert differs(TransferSource("a"))


@pytest.mark.parametrize("algorithm", [RandomSearch(), SobolSearch(), GpOptimizer()])
def test_only_skopt_takes_neither_constraints_nor_several_objectives(algorithm: RandomSearch | GpOptimizer) -> None:
    """Every other algorithm takes both."""
    spec = replace(
        SPEC,
        objectives=(LOSS, Objective("size", Direction.MINIMIZE)),
        constraints=(OutcomeConstraint("latency", max=5.0),),
        algorithm=algorithm,
    )

    assert not spec.violations()
    assert not spec.unimplemented()
    refused = replace(spec, algorithm=SkoptOptimizer()).unimplemented()
    assert [violation.field for violation in refused] == ["objectives", "outcome_constraints"]
