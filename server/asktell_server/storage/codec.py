"""Domain objects to database values and back, without loss.

JSON keeps what SQL types would blur: 1, 1.0, True and "1" stay apart, floats come back bit by bit, integers have no
limit. Strings are escaped to ASCII, so NUL and lone surrogates pass. Infinities and NaN are refused with ValueError:
they must not have come this far. Rows go in as a mapping of column to value and come out as tuples in the order of the
`*_COLUMNS` below.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Any

from asktell_server.domain.access import Grant, Role, Token
from asktell_server.domain.algorithms import (
    ALGORITHM_NAMES,
    Algorithm,
    GpOptimizer,
    NormalPrior,
    OptimumPrior,
    SkoptAcquisition,
    SkoptEstimator,
    SkoptOptimizer,
    TransferSource,
    WeightedPrior,
)
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    SearchSpace,
)
from asktell_server.domain.study import StoppingCriteria, Study, StudySpec, StudyState, TrialPolicy
from asktell_server.domain.trial import Prediction, Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.storage.base import StoredRequest
from asktell_server.storage.schema import count_column, studies, tokens, trials

Row = dict[str, Any]
Values = tuple[Any, ...]

# Version 1 knew neither outcome constraints nor the algorithm gp, version 2 no limit on failed trials; what they wrote is read all
# the same.
SPEC_VERSION = 3
STUDY_COLUMNS = tuple(studies.c)
TRIAL_COLUMNS = tuple(column for column in trials.c if column.name != "study_id")
TOKEN_COLUMNS = tuple(tokens.c)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STUDY_STATES = {state.name: state for state in StudyState}
_TRIAL_STATES = {state.name: state for state in TrialState}
_SOURCES = {source.name: source for source in SuggestionSource}
_COUNTS = tuple((state, count_column(state)) for state in TrialState)

# What the functions below that read may raise where a row is damaged.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

to_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
from_json = json.JSONDecoder().decode


def time_to_us(time: datetime) -> int:
    """Microseconds since the epoch. Raises TypeError for a time without a zone."""
    return (time - _EPOCH) // _MICROSECOND


def time_from_us(us: int) -> datetime:
    """The time, in UTC."""
    return _EPOCH + timedelta(microseconds=us)


def _optional_us(time: datetime | None) -> int | None:
    return None if time is None else time_to_us(time)


def _optional_time(us: int | None) -> datetime | None:
    return None if us is None else time_from_us(us)


def _mapping_to_text(mapping: Mapping[str, object]) -> str:
    return to_json(dict(mapping)) if mapping else "{}"


def _mapping_from_text(text: str) -> dict[str, Any]:
    return {} if text == "{}" else from_json(text)


# Study specs -------------------------------------------------------------------------------------------------------

_PARAMETERS: Mapping[str, Callable[..., Parameter]] = {
    cls.kind: cls for cls in (FloatParameter, IntParameter, DiscreteParameter, CategoricalParameter)
}
_ALGORITHMS: Mapping[str, Callable[..., Algorithm]] = {name: cls for cls, name in ALGORITHM_NAMES.items()}


def _plain(value: Any) -> Any:
    """A value of a spec as JSON has it: dataclasses as objects, enums by name, durations in microseconds."""
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {"kind": value.kind, **plain} if isinstance(value, NormalPrior | WeightedPrior) else plain
    return value


def spec_to_text(spec: StudySpec) -> str:
    """The spec as versioned JSON."""
    return to_json(
        {
            "version": SPEC_VERSION,
            "parameters": [{"kind": p.kind, **_plain(p)} for p in spec.space.parameters],
            "objectives": _plain(spec.objectives),
            "constraints": _plain(spec.constraints),
            "algorithm": {"kind": spec.algorithm_name, **_plain(spec.algorithm)},
            "stopping": _plain(spec.stopping),
            "trial_policy": _plain(spec.trial_policy),
            "seed": spec.seed,
        }
    )


def spec_from_text(text: str) -> StudySpec:
    """The spec; equal texts share one object. Raises StorageUnavailable if a newer release wrote it."""
    return _small_spec(text) if len(text) <= _SMALL else _large_spec(text)


def _spec_from_text(text: str) -> StudySpec:
    stored = from_json(text)
    if stored["version"] > SPEC_VERSION:
        raise StorageUnavailable(
            f"a study's specification has version {stored['version']}, this release reads versions up to {SPEC_VERSION}; "
            "use a newer release of the server"
        )
    policy = stored["trial_policy"]
    lease = policy.pop("lease")
    return StudySpec(
        space=SearchSpace(tuple(_parameter(item) for item in stored["parameters"])),
        objectives=tuple(Objective(o["metric"], Direction[o["direction"]]) for o in stored["objectives"]),
        constraints=tuple(OutcomeConstraint(**c) for c in stored.get("constraints", ())),
        algorithm=_algorithm(stored["algorithm"]),
        stopping=StoppingCriteria(**stored["stopping"]),
        trial_policy=TrialPolicy(lease=None if lease is None else timedelta(microseconds=lease), **policy),
        seed=stored["seed"],
    )


# Keyed by the text, not by the study's id: an id is free again when the transaction that inserted it is rolled back. A spec may have
# a megabyte, so that no more than a few of the large ones are kept.
_SMALL = 64 * 1024
_small_spec = lru_cache(maxsize=512)(_spec_from_text)
_large_spec = lru_cache(maxsize=16)(_spec_from_text)


def _parameter(stored: dict[str, Any]) -> Parameter:
    cls = _PARAMETERS[stored.pop("kind")]
    condition = stored.pop("condition")
    if condition is not None:
        condition = Condition(condition["parent"], tuple(condition["values"]))
    arguments: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in stored.items()
    }
    return cls(condition=condition, **arguments)


def _algorithm(stored: dict[str, Any]) -> Algorithm:
    cls = _ALGORITHMS[stored.pop("kind")]
    if cls is SkoptOptimizer:
        stored["base_estimator"] = SkoptEstimator[stored["base_estimator"]]
        stored["acquisition_function"] = SkoptAcquisition[stored["acquisition_function"]]
    if cls is GpOptimizer:
        stored["priors"] = tuple(OptimumPrior(p["parameter"], _belief(p["belief"])) for p in stored["priors"])
        stored["transfer_sources"] = tuple(TransferSource(**source) for source in stored["transfer_sources"])
    return cls(**stored)


def _belief(stored: dict[str, Any]) -> NormalPrior | WeightedPrior:
    if stored["kind"] == NormalPrior.kind:
        return NormalPrior(stored["mean"], stored["width"])
    return WeightedPrior(tuple((value, weight) for value, weight in stored["weights"]))


# Studies -----------------------------------------------------------------------------------------------------------


def study_changes(study: Study) -> Row:
    """The columns of a study that can change."""
    row: Row = {
        "state": study.state.name,
        "state_reason": study.state_reason,
        "update_time": time_to_us(study.update_time),
        "revision": study.revision,
        "next_number": study.next_number,
        "best_number": study.best_number,
        "best_value": None if study.best_value is None else to_json(study.best_value),
        "successes_at_best": study.successes_at_best,
        "labels": _mapping_to_text(study.labels),
        "description": study.description,
    }
    for state, column in _COUNTS:
        row[column] = study.counts.get(state, 0)
    return row


def study_row(study: Study) -> Row:
    """All columns of a study but its id."""
    return {
        "project": study.project,
        "name": study.name,
        "spec": spec_to_text(study.spec),
        "create_time": time_to_us(study.create_time),
        **study_changes(study),
    }


def study_from_row(values: Values) -> Study:
    """The study; states that no trial is in are left out of its counts."""
    (
        id_,
        project,
        name,
        state,
        state_reason,
        create_time,
        update_time,
        revision,
        next_number,
        *counts,
        best_number,
        best_value,
        successes_at_best,
        labels,
        description,
        spec,
    ) = values
    return Study(
        id=id_,
        project=project,
        name=name,
        spec=spec_from_text(spec),
        state=_STUDY_STATES[state],
        create_time=time_from_us(create_time),
        update_time=time_from_us(update_time),
        state_reason=state_reason,
        description=description,
        labels=_mapping_from_text(labels),
        revision=revision,
        next_number=next_number,
        counts={state: count for state, count in zip(TrialState, counts, strict=True) if count},
        best_number=best_number,
        best_value=None if best_value is None else from_json(best_value),
        successes_at_best=successes_at_best,
    )


# Trials ------------------------------------------------------------------------------------------------------------


def measurement_to_text(measurement: Measurement) -> str:
    """The measurement as JSON, without what is not set."""
    stored: dict[str, object] = {"metrics": dict(measurement.metrics)}
    if measurement.standard_errors:
        stored["standard_errors"] = dict(measurement.standard_errors)
    if measurement.step is not None:
        stored["step"] = measurement.step
    if measurement.elapsed_s is not None:
        stored["elapsed_s"] = measurement.elapsed_s
    return to_json(stored)


def measurement_from_text(text: str) -> Measurement:
    """The measurement."""
    return Measurement(**from_json(text))


def _predictions_to_text(predictions: Mapping[str, Prediction]) -> str:
    return _mapping_to_text({name: [p.mean, p.standard_deviation] for name, p in predictions.items()})


def _predictions_from_text(text: str) -> dict[str, Prediction]:
    return {name: Prediction(mean, deviation) for name, (mean, deviation) in _mapping_from_text(text).items()}


def trial_changes(study_id: int, trial: Trial) -> Row:
    """The columns of a trial that can change, and its key."""
    return {
        "study_id": study_id,
        "number": trial.number,
        "state": trial.state.name,
        "state_reason": trial.state_reason,
        "revision": trial.revision,
        "finish_revision": trial.finish_revision,
        "start_time": _optional_us(trial.start_time),
        "end_time": _optional_us(trial.end_time),
        "lease_expire_time": _optional_us(trial.lease_expire_time),
        "worker": trial.worker,
        "measurement": None if trial.measurement is None else measurement_to_text(trial.measurement),
        "labels": _mapping_to_text(trial.labels),
        "notes": trial.notes,
    }


def trial_row(study_id: int, trial: Trial) -> Row:
    """All columns of a trial."""
    suggestion = trial.suggestion
    return {
        "create_time": time_to_us(trial.create_time),
        "attempt": trial.attempt,
        "retry_of": trial.retry_of,
        "parameters": _mapping_to_text(suggestion.point),
        "source": suggestion.source.name,
        "predictions": _predictions_to_text(suggestion.predictions),
        "detail": suggestion.detail,
        **trial_changes(study_id, trial),
    }


def trial_from_row(values: Values, intermediate: tuple[Measurement, ...] = ()) -> Trial:
    """The trial, with these intermediate measurements."""
    (
        number,
        state,
        state_reason,
        revision,
        finish_revision,
        create_time,
        start_time,
        end_time,
        lease_expire_time,
        worker,
        attempt,
        retry_of,
        parameters,
        source,
        predictions,
        detail,
        measurement,
        labels,
        notes,
    ) = values
    return Trial(
        number=number,
        state=_TRIAL_STATES[state],
        suggestion=Suggestion(
            point=_mapping_from_text(parameters),
            source=_SOURCES[source],
            predictions=_predictions_from_text(predictions),
            detail=detail,
        ),
        create_time=time_from_us(create_time),
        state_reason=state_reason,
        measurement=None if measurement is None else measurement_from_text(measurement),
        intermediate=intermediate,
        worker=worker,
        lease_expire_time=_optional_time(lease_expire_time),
        attempt=attempt,
        retry_of=retry_of,
        notes=notes,
        labels=_mapping_from_text(labels),
        revision=revision,
        finish_revision=finish_revision,
        start_time=_optional_time(start_time),
        end_time=_optional_time(end_time),
    )


# Requests ----------------------------------------------------------------------------------------------------------


def request_row(study_id: int | None, scope: str, request_id: str, stored: StoredRequest, time: datetime) -> Row:
    """All columns of a request."""
    return {
        "scope": scope,
        "request_id": request_id,
        "study_id": study_id,
        "time": time_to_us(time),
        "fingerprint": stored.fingerprint,
        "response": _mapping_to_text(stored.response),
    }


def request_from_row(values: Values) -> StoredRequest:
    """What the request did."""
    fingerprint, response = values
    return StoredRequest(fingerprint, _mapping_from_text(response))


def token_row(token: Token) -> Row:
    """All columns of a token."""
    return {
        "id": token.id,
        "digest": token.digest,
        "name": token.name,
        "grants": json.dumps([[grant.role.name, grant.project] for grant in token.grants]),
        "create_time": time_to_us(token.create_time),
        "expire_time": _optional_us(token.expire_time),
        "revoke_time": _optional_us(token.revoke_time),
    }


def is_active_token(values: Values) -> bool:
    """Whether a row of a token, which may be unreadable otherwise, is not revoked."""
    return values[-1] is None


def token_from_row(values: Values) -> Token:
    """The token."""
    id_, digest, name, grants, create_time, expire_time, revoke_time = values
    return Token(
        id=id_,
        digest=digest,
        name=name,
        grants=tuple(Grant(Role[role], project) for role, project in json.loads(grants)),
        create_time=time_from_us(create_time),
        expire_time=_optional_time(expire_time),
        revoke_time=_optional_time(revoke_time),
    )
