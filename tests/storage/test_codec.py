"""Whatever the domain allows comes back from the database's values bit by bit."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.algorithms import SkoptEstimator, SkoptOptimizer
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import CategoricalParameter, FloatParameter, SearchSpace
from asktell_server.domain.study import StoppingCriteria, StudySpec, TrialPolicy
from asktell_server.domain.trial import Prediction, TrialState
from asktell_server.storage import codec
from asktell_server.storage.schema import count_column
from asktell_server.testing.samples import ALGORITHMS, a_study, a_trial, full_spec

VERSION_1 = (
    '{"version":1,"parameters":[{"kind":"float","name":"x","min":0.0,"max":1.0,"log":false,"step":null,"default":null,'
    '"condition":null},{"kind":"categorical","name":"c","choices":[1,1.5,true,"a"],"default":null,"condition":null}],'
    '"objectives":[{"metric":"loss","direction":"MINIMIZE"}],"algorithm":{"kind":"skopt","base_estimator":"RF",'
    '"acquisition_function":"EI","initial_points":3,"xi":0.0,"kappa":1.96,"max_observations":200},"stopping":{'
    '"max_trials":9,"target":null,"max_trials_without_improvement":0},"trial_policy":{"lease":2000000,"max_retries":2},'
    '"seed":5}'
)

finite = st.floats(allow_nan=False, allow_infinity=False)
values = finite | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.text(st.characters())
names = st.text(max_size=5)


@given(st.dictionaries(names, values), st.dictionaries(names, st.tuples(finite, finite)), st.text(st.characters()))
def test_suggestions_come_back(
    point: dict[str, float | int | str | bool], predictions: dict[str, tuple[float, float]], label: str
) -> None:
    """Points keep the type and bits of every value, predictions and labels theirs, in their order."""
    trial = a_trial(1)
    suggestion = replace(
        trial.suggestion, point=point, predictions={name: Prediction(*pair) for name, pair in predictions.items()}
    )
    trial = replace(trial, suggestion=suggestion, labels={"label": label})

    row = codec.trial_row(1, trial)
    back = codec.trial_from_row(tuple(row[column.name] for column in codec.TRIAL_COLUMNS))

    assert repr(back) == repr(trial)


@given(
    st.dictionaries(names, finite, min_size=1),
    st.dictionaries(names, finite),
    st.none() | st.integers(0, 2**63 - 1),
    st.none() | finite,
)
def test_measurements_come_back(
    metrics: dict[str, float], errors: dict[str, float], step: int | None, elapsed_s: float | None
) -> None:
    """Metrics, errors, step and time keep their bits."""
    measurement = Measurement(metrics, errors, step, elapsed_s)

    assert repr(codec.measurement_from_text(codec.measurement_to_text(measurement))) == repr(measurement)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-12, 12))
def test_times_come_back(time: datetime, hours: int) -> None:
    """A time keeps its microsecond, in whatever zone it was written."""
    assert codec.time_from_us(codec.time_to_us(time)) == time
    if 2 < time.year < 9998:
        elsewhere = time.astimezone(timezone(timedelta(hours=hours)))
        assert codec.time_to_us(elsewhere) == codec.time_to_us(time)


@given(finite)
def test_the_best_value_comes_back(value: float) -> None:
    """The best value of a study keeps its bits."""
    study = replace(a_study(), best_value=value)

    row = {"id": 0, **codec.study_row(study)}
    back = codec.study_from_row(tuple(row[column.name] for column in codec.STUDY_COLUMNS))

    assert repr(back) == repr(study)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda algorithm: type(algorithm).__name__)
def test_equal_specs_are_parsed_once(algorithm: object) -> None:
    """Reading a spec again gives the same object, so that what it computed about itself is kept."""
    spec = full_spec(algorithm)  # type: ignore[arg-type]
    text = codec.spec_to_text(spec)

    back = codec.spec_from_text(text)

    assert repr(back) == repr(spec)
    assert codec.spec_from_text("".join(list(text))) is back


def test_of_large_specs_few_are_kept() -> None:
    """Each may have a megabyte: however many are read, what stays in memory is bounded. Small ones stay."""
    small, large = codec.spec_to_text(full_spec()), []
    kept = codec.spec_from_text(small)
    for i in range(40):
        choices = tuple(f"{i}-{j}-{'a' * 900}" for j in range(100))
        space = SearchSpace((CategoricalParameter("c", choices),))
        large.append(codec.spec_to_text(replace(full_spec(), space=space)))
    read = [codec.spec_from_text(text) for text in large]

    assert codec.spec_from_text(large[-1]) is read[-1]
    assert codec.spec_from_text(large[0]) == read[0]
    assert codec.spec_from_text(large[0]) is not read[0]
    assert codec.spec_from_text(small) is kept


def test_a_spec_of_a_newer_release_is_refused() -> None:
    """A version that this release does not know is not guessed at."""
    text = codec.spec_to_text(full_spec()).replace('"version":3', '"version":4')

    with pytest.raises(StorageUnavailable, match="version 4"):
        codec.spec_from_text(text)


def test_a_spec_of_the_first_release_comes_back() -> None:
    """What version 1 wrote, without constraints, is read as it was meant, and written as version 3."""
    spec = codec.spec_from_text(VERSION_1)

    assert spec == StudySpec(
        space=SearchSpace((FloatParameter("x", 0.0, 1.0), CategoricalParameter("c", (1, 1.5, True, "a")))),
        objectives=(Objective("loss", Direction.MINIMIZE),),
        algorithm=SkoptOptimizer(SkoptEstimator.RF, initial_points=3),
        stopping=StoppingCriteria(max_trials=9),
        trial_policy=TrialPolicy(timedelta(seconds=2)),
        seed=5,
    )
    assert '"version":3' in codec.spec_to_text(spec)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_stored(value: float) -> None:
    """NaN and infinities are an error here: they are refused long before."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        codec.measurement_to_text(Measurement({"loss": value}))


def test_a_time_without_a_zone_is_not_stored() -> None:
    """A naive time is an error, not a guess."""
    with pytest.raises(TypeError):
        codec.time_to_us(datetime(2026, 1, 1))  # noqa: DTZ001


def test_states_without_trials_are_left_out() -> None:
    """A study's counts come back without zeros."""
    study = replace(a_study(), counts=dict.fromkeys(TrialState, 0))
    row = {"id": 0, **codec.study_row(study)}

    back = codec.study_from_row(tuple(row[column.name] for column in codec.STUDY_COLUMNS))

    assert back.counts == {}
    assert all(row[count_column(state)] == 0 for state in TrialState)
