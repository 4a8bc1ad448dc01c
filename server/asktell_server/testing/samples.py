"""Studies and trials for tests: small ones, and ones that use every field at its extremes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from asktell_server.domain.algorithms import (
    Algorithm,
    GpOptimizer,
    GridSearch,
    NormalPrior,
    OptimumPrior,
    RandomSearch,
    SkoptAcquisition,
    SkoptEstimator,
    SkoptOptimizer,
    SobolSearch,
    TransferSource,
    WeightedPrior,
)
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    SearchSpace,
)
from asktell_server.domain.study import StoppingCriteria, Study, StudySpec, StudyState, TrialPolicy
from asktell_server.domain.trial import Prediction, Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.storage.base import Storage, Transaction

NOW = datetime(2026, 2, 28, 23, 59, 59, 999_999, tzinfo=UTC)
INT64_MAX = 2**63 - 1
TEXT = "Grüße, 世界 \U0001f600 \"quoted\" 'single' %s :name ? \\ \n\t"
ALGORITHMS: Sequence[Algorithm] = (
    RandomSearch(),
    GridSearch(7),
    SobolSearch(),
    SkoptOptimizer(SkoptEstimator.ET, SkoptAcquisition.GP_HEDGE, 12, 0.0, 1e-300, 2000),
    GpOptimizer(
        initial_points=12,
        cost_metric="seconds",
        priors=(
            OptimumPrior("lr", NormalPrior(1e-3, 5e-324)),
            OptimumPrior("width", NormalPrior(float(-(2**63)), 10.0)),
            OptimumPrior("act", WeightedPrior(((TEXT, 1e300), (2, 0.5), (2.5, 1.0), (True, 3.0)))),
        ),
        transfer_sources=(TransferSource("earlier", 17), TransferSource("0.9_b-c", 0)),
    ),
)


def full_spec(algorithm: Algorithm | None = None) -> StudySpec:
    """A spec that uses every kind of parameter, value and setting."""
    return StudySpec(
        space=SearchSpace(
            (
                FloatParameter("lr", 1e-300, 1.7976931348623157e308, log=True, default=0.1),
                FloatParameter("drop/out", -0.0, 0.5, step=0.1, condition=Condition("act", ("relu", 2, 2.5, True))),
                IntParameter("width", -(2**63), INT64_MAX, step=3, default=-1),
                DiscreteParameter(
                    "batch", (32.0, 16.0, 0.1), default=16.0, condition=Condition("width", (1, INT64_MAX))
                ),
                CategoricalParameter("act", ("relu", TEXT, 2, 2.5, True, False, ""), default=True),
                CategoricalParameter("flag", (1, "1")),
            )
        ),
        objectives=(Objective("loss", Direction.MINIMIZE), Objective("accuracy", Direction.MAXIMIZE)),
        constraints=(OutcomeConstraint("latency", max=0.1 + 0.2), OutcomeConstraint("recall", min=-0.0)),
        algorithm=algorithm or ALGORITHMS[-1],
        stopping=StoppingCriteria(max_trials=100, target=-0.0, max_trials_without_improvement=9, max_failed_trials=7),
        trial_policy=TrialPolicy(lease=timedelta(days=3, microseconds=1), max_retries=0),
        seed=INT64_MAX,
    )


def a_study(name: str = "digits", project: str = "default", state: StudyState = StudyState.ACTIVE) -> Study:
    """A small new study."""
    spec = StudySpec(SearchSpace((FloatParameter("x", 0.0, 1.0),)), (Objective("loss", Direction.MINIMIZE),))
    return Study(0, project, name, spec, state, NOW, NOW)


def a_trial(number: int, state: TrialState = TrialState.RUNNING, revision: int = 1) -> Trial:
    """A small new trial."""
    return Trial(number, state, Suggestion({"x": number / 8}, SuggestionSource.SAMPLER), NOW, revision=revision)


def full_trial(number: int) -> Trial:
    """A trial that uses every field, at the extremes."""
    return Trial(
        number=number,
        state=TrialState.SUCCEEDED,
        suggestion=Suggestion(
            point={"b": 1, "a": 1.0, "c": True, "d": "1", "e": -0.0, "f": INT64_MAX, "g": 5e-324, "h": TEXT + "\0"},
            source=SuggestionSource.MODEL,
            predictions={"loss": Prediction(0.1 + 0.2, 0.0), "accuracy": Prediction(-0.0, 1e300)},
            detail=TEXT,
        ),
        create_time=NOW,
        state_reason=TEXT,
        measurement=Measurement({"loss": -0.0, "n": 3.0}, {"loss": 1e-17}, step=INT64_MAX, elapsed_s=0.1),
        intermediate=(
            Measurement({"loss": 2.0}, step=0),
            Measurement({"loss": 1.0}, {"loss": 0.5}, step=7, elapsed_s=1 / 3),
            Measurement({"loss": 0.5}, step=INT64_MAX),
        ),
        worker=TEXT,
        lease_expire_time=NOW + timedelta(microseconds=1),
        attempt=3,
        retry_of=17,
        notes=TEXT,
        labels={"z": TEXT, "a": ""},
        revision=INT64_MAX,
        finish_revision=4,
        start_time=datetime(1, 1, 1, tzinfo=UTC),
        end_time=datetime.max.replace(tzinfo=UTC),
    )


async def add_study(storage: Storage, study: Study, *trials: Trial) -> Study:
    """Stores a study with trials; returns it with its id."""

    def work(tx: Transaction) -> Study:
        stored = tx.insert_study(study)
        tx.insert_trials(stored.id, trials)
        return stored

    return await storage.write(work)


def ask(project: str, name: str) -> Callable[[Transaction], int]:
    """A work that creates the next trial of a study and returns its number."""

    def work(tx: Transaction) -> int:
        study = tx.lock_study(project, name)
        assert study is not None
        number, revision = study.next_number, study.revision + 1
        tx.insert_trials(study.id, [a_trial(number, revision=revision)])
        tx.update_study(replace(study, next_number=number + 1, revision=revision))
        return number

    return work


def numbers(trials: Sequence[Trial]) -> list[int]:
    """Their numbers."""
    return [trial.number for trial in trials]
