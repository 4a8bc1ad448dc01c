"""Every call as a value: method, request, response type. Pure functions, shared by the sync and asyncio clients.

A call that creates something gets its request_id here, once: however often the loop sends it, it acts once.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from asktell._misuse import check_words, whole_numbers
from asktell.errors import FieldViolation, NotFinite
from asktell.names import ProjectName, StudyName, TrialName
from asktell.records import FinishedTrial, StudyState, TrialState
from asktell.space import Space, point_to_proto
from asktell.spec import StudyOptions, build_spec, spec_to_proto
from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as service

R = TypeVar("R", bound=Message)
PAGE_SIZE = 1000
MAX_REASON_CHARACTERS = 1024
_POLICIES = {"use": service.CreateStudyRequest.USE_EXISTING, "fail": service.CreateStudyRequest.FAIL}


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """One logical call of a unary method."""

    method: str
    request: Message
    response: type[R]
    patient: bool = False
    """Whether the server may take its time over it, as over an Ask that waits for a model."""


def _request_id() -> str:
    return str(uuid.uuid4())


def create_study(name: StudyName, space: Space, options: StudyOptions) -> Call[study_pb2.Study]:
    check_words(options.get("labels"), description=options.get("description"))
    study = study_pb2.Study(
        spec=spec_to_proto(build_spec(space, options), name.project),
        description=options.get("description", ""),
        labels=options.get("labels") or {},
    )
    if_exists = options.get("if_exists", "use")
    if if_exists not in _POLICIES:
        raise ValueError(f'if_exists is "use" or "fail", not {if_exists!r}')
    request = service.CreateStudyRequest(
        parent=str(name.parent),
        study_id=name.study,
        study=study,
        conflict_policy=_POLICIES[if_exists],
        request_id=_request_id(),
    )
    return Call("CreateStudy", request, study_pb2.Study)


def get_study(name: str) -> Call[study_pb2.Study]:
    return Call("GetStudy", service.GetStudyRequest(name=name), study_pb2.Study)


def list_studies(
    parent: ProjectName | str, states: Iterable[StudyState | str] | None, page_token: str
) -> Call[service.ListStudiesResponse]:
    wanted = [study_pb2.Study.State.Value(StudyState(state)) for state in states or ()]
    request = service.ListStudiesRequest(parent=str(parent), page_size=PAGE_SIZE, page_token=page_token, states=wanted)
    return Call("ListStudies", request, service.ListStudiesResponse)


def update_study(name: str, *, description: str | None, labels: Mapping[str, str] | None) -> Call[study_pb2.Study]:
    check_words(labels, description=description)
    request = service.UpdateStudyRequest(
        study=study_pb2.Study(name=name, description=description or "", labels=labels or {}),
        update_mask=_mask(description=description, labels=labels),
    )
    return Call("UpdateStudy", request, study_pb2.Study)


def stop_study(name: str, reason: str) -> Call[study_pb2.Study]:
    check_words(None, reason=reason)
    return Call("StopStudy", service.StopStudyRequest(name=name, reason=reason), study_pb2.Study)


def resume_study(name: str) -> Call[study_pb2.Study]:
    return Call("ResumeStudy", service.ResumeStudyRequest(name=name), study_pb2.Study)


def delete_study(name: str, *, missing_ok: bool) -> Call[Empty]:
    request = service.DeleteStudyRequest(name=name, allow_missing=missing_ok, request_id=_request_id())
    return Call("DeleteStudy", request, Empty)


def ask(study: str, count: int | None, worker: str) -> Call[service.AskResponse]:
    """Raises TypeError for what is no number of trials, and ValueError for less than one."""
    check_words(None, worker=worker)
    wanted = whole_numbers(count=count)["count"]
    if wanted is not None and wanted < 1:
        raise ValueError(f"count is at least 1, not {wanted}")
    request = service.AskRequest(parent=study, count=wanted or 1, worker=worker, request_id=_request_id())
    return Call("Ask", request, service.AskResponse, patient=True)


def explain(
    study: str, slices: Iterable[str], pairs: Iterable[tuple[str, str]], points: int
) -> Call[service.ExplainStudyResponse]:
    request = service.ExplainStudyRequest(
        name=study,
        slices=[slices] if isinstance(slices, str) else slices,
        pair_slices=[service.ExplainStudyRequest.Pair(first=first, second=second) for first, second in pairs],
        points=points,
    )
    return Call("ExplainStudy", request, service.ExplainStudyResponse, patient=True)


def _text(reason: object) -> str:
    """As much of a reason as a trial takes; what no UTF-8 can hold, half a surrogate pair say, is spelt out."""
    return str(reason).encode("utf-8", "backslashreplace").decode()[:MAX_REASON_CHARACTERS]


def tell_succeeded(trial: str, measurement: trial_pb2.Measurement) -> Call[service.TellResponse]:
    return Call("Tell", service.TellRequest(name=trial, measurement=measurement), service.TellResponse)


def tell_infeasible(trial: str, reason: str) -> Call[service.TellResponse]:
    result = service.TellRequest.Infeasible(reason=_text(reason))
    return Call("Tell", service.TellRequest(name=trial, infeasible=result), service.TellResponse)


def tell_failed(trial: str, reason: str) -> Call[service.TellResponse]:
    result = service.TellRequest.Failed(reason=_text(reason))
    return Call("Tell", service.TellRequest(name=trial, failed=result), service.TellResponse)


def tell_pruned(trial: str, reason: str, measurement: trial_pb2.Measurement | None) -> Call[service.TellResponse]:
    result = service.TellRequest.Pruned(reason=_text(reason), measurement=measurement)
    return Call("Tell", service.TellRequest(name=trial, pruned=result), service.TellResponse)


def report(trial: str, measurement: trial_pb2.Measurement) -> Call[service.ReportResponse]:
    """Raises NotFinite."""
    wild = not_finite(measurement)
    if wild:
        raise NotFinite("; ".join(map(str, wild)), code="INVALID_ARGUMENT", violations=wild)
    return Call("Report", service.ReportRequest(name=trial, measurement=measurement), service.ReportResponse)


def heartbeat(trial: str) -> Call[service.HeartbeatResponse]:
    return Call("Heartbeat", service.HeartbeatRequest(name=trial), service.HeartbeatResponse)


def enqueue(
    study: str, points: Iterable[Mapping[str, object]], notes: str, labels: Mapping[str, str] | None
) -> Call[service.CreateTrialsResponse]:
    check_words(labels, notes=notes)
    trials = [
        trial_pb2.Trial(
            parameters=point_to_proto(point), state=trial_pb2.Trial.WAITING, notes=notes, labels=labels or {}
        )
        for point in points
    ]
    request = service.CreateTrialsRequest(parent=study, trials=trials, request_id=_request_id())
    return Call("CreateTrials", request, service.CreateTrialsResponse)


def import_trials(study: str, finished: Iterable[FinishedTrial]) -> Call[service.CreateTrialsResponse]:
    request = service.CreateTrialsRequest(
        parent=study, trials=[_finished(trial) for trial in finished], request_id=_request_id()
    )
    return Call("CreateTrials", request, service.CreateTrialsResponse)


def trial_name(study: str, number: int) -> TrialName:
    """Raises TypeError for what is no whole number."""
    return StudyName.parse(study).trial(whole_numbers(number=number)["number"] or 0)


def get_trial(name: TrialName | str) -> Call[trial_pb2.Trial]:
    return Call("GetTrial", service.GetTrialRequest(name=str(name)), trial_pb2.Trial)


def cut_trials(reply: Message) -> list[trial_pb2.Trial]:
    """The trials in a reply that lack measurements which did not fit it."""
    trials = [reply] if isinstance(reply, trial_pb2.Trial) else getattr(reply, "trials", ())
    return [trial for trial in trials if trial.has_more_measurements]


def rest_of_trial(trial: trial_pb2.Trial) -> Call[trial_pb2.Trial]:
    """The call for the measurements that follow those of a cut trial."""
    measured = trial.intermediate_measurements
    request = service.GetTrialRequest(name=trial.name, after_step=measured[-1].step if measured else None)
    return Call("GetTrial", request, trial_pb2.Trial)


def add_measurements(trial: trial_pb2.Trial, rest: trial_pb2.Trial) -> None:
    """Adds the measurements of the rest to a cut trial."""
    trial.intermediate_measurements.extend(rest.intermediate_measurements)
    trial.has_more_measurements = rest.has_more_measurements


def list_trials(
    study: str, states: Iterable[TrialState | str] | None, full: bool, page_token: str
) -> Call[service.ListTrialsResponse]:
    request = service.ListTrialsRequest(
        parent=study,
        page_size=PAGE_SIZE,
        page_token=page_token,
        states=[trial_pb2.Trial.State.Value(TrialState(state)) for state in states or ()],
        view=service.FULL if full else service.BASIC,
    )
    return Call("ListTrials", request, service.ListTrialsResponse)


def list_best_trials(study: str, page_token: str) -> Call[service.ListBestTrialsResponse]:
    request = service.ListBestTrialsRequest(parent=study, page_size=PAGE_SIZE, page_token=page_token)
    return Call("ListBestTrials", request, service.ListBestTrialsResponse)


def update_trial(name: str, *, notes: str | None, labels: Mapping[str, str] | None) -> Call[trial_pb2.Trial]:
    check_words(labels, notes=notes)
    request = service.UpdateTrialRequest(
        trial=trial_pb2.Trial(name=name, notes=notes or "", labels=labels or {}),
        update_mask=_mask(notes=notes, labels=labels),
    )
    return Call("UpdateTrial", request, trial_pb2.Trial)


def watch_study(name: str, after_revision: int) -> service.WatchStudyRequest:
    """The request of the one streaming method, WatchStudy."""
    return service.WatchStudyRequest(name=name, after_revision=after_revision)


def measurement(
    metrics: Mapping[str, float] | None,
    more: Mapping[str, float],
    standard_errors: Mapping[str, float] | None,
    step: int | None,
) -> trial_pb2.Measurement:
    """A measurement on the wire; the metrics are those of both mappings. Raises TypeError for what is no number, or no whole step."""
    if not isinstance(metrics, Mapping | None):
        raise TypeError(f"metrics is a mapping from names to numbers, not {metrics!r}")
    both = {**(metrics or {}), **more}
    return trial_pb2.Measurement(
        metrics={name: _number(name, value) for name, value in both.items()},
        standard_errors={name: _number(name, value) for name, value in (standard_errors or {}).items()},
        step=whole_numbers(step=step)["step"],
    )


def last_measurement(
    metrics: Mapping[str, float] | None,
    more: Mapping[str, float],
    standard_errors: Mapping[str, float] | None,
    step: int | None,
) -> trial_pb2.Measurement | None:
    """The measurement of a trial that may end without one. Raises ValueError for what belongs to metrics that are not given."""
    if metrics or more:
        return measurement(metrics, more, standard_errors, step)
    alone = [name for name, given in (("standard_errors", standard_errors), ("step", step)) if given or given == 0]
    if alone:
        raise ValueError(f"{' and '.join(alone)} without metrics: they say more about a measurement, and none is given")
    return None


def not_finite(measurement: trial_pb2.Measurement) -> list[FieldViolation]:
    """What is NaN or infinite in a measurement."""
    return [
        FieldViolation(f"measurement.{kind}[{name}]", f"{name} is {value}")
        for kind, values in (("metrics", measurement.metrics), ("standard_errors", measurement.standard_errors))
        for name, value in values.items()
        if not math.isfinite(value)
    ]


def _number(name: str, value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # NumPy scalars and zero-dimensional tensors are welcome
    except (TypeError, ValueError):
        raise TypeError(f"metric {name!r} is a number, not {type(value).__name__}: {value!r}") from None


def _finished(trial: FinishedTrial) -> trial_pb2.Trial:
    check_words(trial.labels, worker=trial.worker, notes=trial.notes)
    message = trial_pb2.Trial(
        parameters=point_to_proto(trial.params),
        state=trial_pb2.Trial.State.Value(trial.state),
        state_reason=_text(trial.reason),
        worker=trial.worker,
        notes=trial.notes,
        labels=trial.labels,
        intermediate_measurements=[measurement(m.metrics, {}, m.standard_errors, m.step) for m in trial.intermediate],
    )
    measured = last_measurement(trial.metrics, {}, trial.standard_errors, trial.step)
    if measured is not None:
        message.measurement.CopyFrom(measured)
    return message


def _mask(**fields: object) -> FieldMask:
    return FieldMask(paths=[name for name, value in fields.items() if value is not None])
