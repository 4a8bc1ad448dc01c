"""Every call but CreateStudy's spec, tried with bad input of every kind: refused for the right reason, every wrong field named,
nothing changed.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.service import paging

from ..support import ServerProcess, float_parameter, spec, stub
from .refusals import Refusal, Stub, nothing_changes, refused

PROJECT = "projects/bad-input"
STUDY = f"{PROJECT}/studies/kept"
RUNNING, SUCCEEDED, REPORTED, FAILED, PRUNED, INFEASIBLE, WAITING = (f"{STUDY}/trials/{i}" for i in range(1, 8))
NO_STUDY = f"{PROJECT}/studies/nobody"
NO_TRIAL = f"{STUDY}/trials/99"
HUGE = "x" * 10_000_000
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

Value = search_space_pb2.ParameterValue
Measurement = trial_pb2.Measurement
Trial = trial_pb2.Trial
Call = Callable[[Stub], object]

BAD_IDS = ["", " ", "a b", "-a", ".a", "a/b", "a" * 129, "ä", "a\n", "a\0", HUGE]


def _tuned() -> study_pb2.StudySpec:
    """A spec with a parameter of each kind; momentum hangs below the optimizer."""
    made = spec(dimensions=0)
    made.parameters.add(name="lr", float=search_space_pb2.FloatParameter(min=1e-4, max=1.0, log=True))
    made.parameters.add(name="width", int=search_space_pb2.IntParameter(min=4, max=16, step=4, default_value=8))
    made.parameters.add(name="batch", discrete=search_space_pb2.DiscreteParameter(values=[16, 32]))
    choices = [Value(string_value="sgd"), Value(string_value="adam"), Value(int_value=1)]
    made.parameters.add(name="optimizer", categorical=search_space_pb2.CategoricalParameter(choices=choices))
    momentum = made.parameters.add(name="momentum", float=search_space_pb2.FloatParameter(min=0.0, max=1.0))
    momentum.condition.parent = "optimizer"
    momentum.condition.values.append(choices[0])
    return made


def _point(**values: Value | float) -> dict[str, Value]:
    """A good point of that space, with changes; a plain number becomes a float_value."""
    point: dict[str, Value | float] = {"lr": 0.1, "batch": 16.0, "optimizer": Value(string_value="adam"), **values}
    return {name: Value(float_value=v) if isinstance(v, (int, float)) else v for name, v in point.items()}


def _create(service: Stub, study_id: str, made: study_pb2.StudySpec) -> str:
    request = pb.CreateStudyRequest(parent=PROJECT, study_id=study_id, study=study_pb2.Study(spec=made))
    return service.CreateStudy(request).name


@pytest.fixture(scope="module", autouse=True)
def _studies(server: ServerProcess) -> None:
    """A study with a trial in each state, and one study for each state that refuses an Ask."""
    with stub(server.target) as service:
        _create(service, "kept", _tuned())
        service.Ask(pb.AskRequest(parent=STUDY, count=6, request_id="used", worker="w"))
        service.Tell(pb.TellRequest(name=SUCCEEDED, measurement=Measurement(metrics={"loss": 0.5}), request_id="used"))
        service.Report(pb.ReportRequest(name=REPORTED, measurement=Measurement(metrics={"loss": 1}, step=3)))
        service.Tell(pb.TellRequest(name=FAILED, failed=pb.TellRequest.Failed(reason="broke")))
        service.Tell(pb.TellRequest(name=PRUNED, pruned=pb.TellRequest.Pruned()))
        service.Tell(pb.TellRequest(name=INFEASIBLE, infeasible=pb.TellRequest.Infeasible(reason="too large")))
        waiting = pb.CreateTrialsRequest(parent=STUDY, trials=[Trial(parameters=_point())], request_id="used")
        assert service.CreateTrials(waiting).trials[0].name == WAITING

        stopped = _create(service, "stopped", spec())
        service.StopStudy(pb.StopStudyRequest(name=stopped, reason="enough"))

        full = spec()
        full.stopping_criteria.max_trials = 1
        service.Ask(pb.AskRequest(parent=_create(service, "full", full)))

        completed = _create(service, "completed", full)
        trial = service.Ask(pb.AskRequest(parent=completed)).trials[0]
        service.Tell(pb.TellRequest(name=trial.name, measurement=Measurement(metrics={"loss": 0})))

        exhausted = spec("grid", dimensions=0)
        exhausted.parameters.append(float_parameter("x", 1.0, 1.0))
        service.Ask(pb.AskRequest(parent=_create(service, "exhausted", exhausted)))


def _refusal(service: Stub, call: Call) -> Refusal:
    with nothing_changes(service, PROJECT):
        return refused(lambda: call(service))


def _watched(service: Stub, name: str, after: int = 0) -> object:
    return list(service.WatchStudy(pb.WatchStudyRequest(name=name, after_revision=after), timeout=20))


# --- names ------------------------------------------------------------------------------------------------------------

MASK = FieldMask(paths=["labels"])
ON_STUDIES: dict[str, tuple[str, Callable[[Stub, str], object]]] = {
    "GetStudy": ("name", lambda s, n: s.GetStudy(pb.GetStudyRequest(name=n))),
    "UpdateStudy": (
        "study.name",
        lambda s, n: s.UpdateStudy(pb.UpdateStudyRequest(study=study_pb2.Study(name=n), update_mask=MASK)),
    ),
    "StopStudy": ("name", lambda s, n: s.StopStudy(pb.StopStudyRequest(name=n))),
    "ResumeStudy": ("name", lambda s, n: s.ResumeStudy(pb.ResumeStudyRequest(name=n))),
    "DeleteStudy": ("name", lambda s, n: s.DeleteStudy(pb.DeleteStudyRequest(name=n))),
    "WatchStudy": ("name", _watched),
    "ExplainStudy": ("name", lambda s, n: s.ExplainStudy(pb.ExplainStudyRequest(name=n))),
    "Ask": ("parent", lambda s, n: s.Ask(pb.AskRequest(parent=n))),
    "CreateTrials": (
        "parent",
        lambda s, n: s.CreateTrials(pb.CreateTrialsRequest(parent=n, trials=[Trial(parameters=_point())])),
    ),
    "ListTrials": ("parent", lambda s, n: s.ListTrials(pb.ListTrialsRequest(parent=n))),
    "ListBestTrials": ("parent", lambda s, n: s.ListBestTrials(pb.ListBestTrialsRequest(parent=n))),
}
RESULT = Measurement(metrics={"loss": 1.0})
STEP = Measurement(metrics={"loss": 1.0}, step=1)
ON_TRIALS: dict[str, tuple[str, Callable[[Stub, str], object]]] = {
    "Tell": ("name", lambda s, n: s.Tell(pb.TellRequest(name=n, measurement=RESULT))),
    "Report": ("name", lambda s, n: s.Report(pb.ReportRequest(name=n, measurement=STEP))),
    "Heartbeat": ("name", lambda s, n: s.Heartbeat(pb.HeartbeatRequest(name=n))),
    "GetTrial": ("name", lambda s, n: s.GetTrial(pb.GetTrialRequest(name=n))),
    "UpdateTrial": (
        "trial.name",
        lambda s, n: s.UpdateTrial(pb.UpdateTrialRequest(trial=Trial(name=n), update_mask=MASK)),
    ),
}


def test_every_call_is_tried() -> None:
    """The tables of this module and of the specs hold every call of the contract."""
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["StudyService"].methods}

    assert {*ON_STUDIES, *ON_TRIALS, "CreateStudy", "ListStudies"} == methods


@pytest.mark.parametrize("method", ON_STUDIES)
@pytest.mark.parametrize("name", ["", STUDY + "/", RUNNING, PROJECT, f"/{STUDY}", "kept", f"{PROJECT}/studies/", HUGE])
def test_bad_study_name(service: Stub, method: str, name: str) -> None:
    """A name that is not that of a study is refused by every call on studies."""
    field, call = ON_STUDIES[method]

    refusal = _refusal(service, lambda s: call(s, name))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert refusal.fields == [field]


@pytest.mark.parametrize("study_id", BAD_IDS)
def test_bad_ids(service: Stub, study_id: str) -> None:
    """An id of a wrong form is refused for a study and for a project."""
    made = study_pb2.Study(spec=spec())
    study = pb.CreateStudyRequest(parent=PROJECT, study_id=study_id, study=made)
    project = pb.CreateStudyRequest(parent=f"projects/{study_id}", study_id="new", study=made)

    for request, field in ((study, "study_id"), (project, "parent")):
        refusal = _refusal(service, lambda s, r=request: s.CreateStudy(r))  # type: ignore[misc]
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert refusal.fields == [field]


@pytest.mark.parametrize("method", ON_TRIALS)
@pytest.mark.parametrize("number", ["", "0", "-1", "01", "1.0", "1e3", "one", "9" * 19, "١", "1\n"], ids=ascii)
def test_bad_trial_name(service: Stub, method: str, number: str) -> None:
    """A name that is not that of a trial is refused by every call on trials."""
    field, call = ON_TRIALS[method]

    refusal = _refusal(service, lambda s: call(s, f"{STUDY}/trials/{number}"))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert refusal.fields == [field]


@pytest.mark.parametrize("method", ON_STUDIES)
def test_unknown_study(service: Stub, method: str) -> None:
    """A study that does not exist is NOT_FOUND for every call on studies."""
    refusal = _refusal(service, lambda s: ON_STUDIES[method][1](s, NO_STUDY))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "STUDY_NOT_FOUND")
    assert refusal.resource == refusal.metadata["name"] == NO_STUDY


@pytest.mark.parametrize("method", ON_TRIALS)
@pytest.mark.parametrize(
    ("name", "reason"), [(NO_TRIAL, "TRIAL_NOT_FOUND"), (f"{NO_STUDY}/trials/1", "STUDY_NOT_FOUND")]
)
def test_unknown_trial(service: Stub, method: str, name: str, reason: str) -> None:
    """A trial that does not exist, of a study that does or does not, is NOT_FOUND for every call on trials."""
    refusal = _refusal(service, lambda s: ON_TRIALS[method][1](s, name))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, reason)
    assert refusal.resource == (name if reason == "TRIAL_NOT_FOUND" else NO_STUDY)


def test_deleting_an_unknown_study_may_be_allowed(service: Stub) -> None:
    """With allow_missing a second delete succeeds."""
    service.DeleteStudy(pb.DeleteStudyRequest(name=NO_STUDY, allow_missing=True))


# --- violations of fields ---------------------------------------------------------------------------------------------


def _tell(result: Measurement | None = None, **more: object) -> Call:
    request = pb.TellRequest(name=RUNNING, measurement=result, **more)  # type: ignore[arg-type]
    return lambda s: s.Tell(request)


def _report(measurement: Measurement, name: str = RUNNING) -> Call:
    return lambda s: s.Report(pb.ReportRequest(name=name, measurement=measurement))


def _enqueue(*trials: Trial, request_id: str = "") -> Call:
    return lambda s: s.CreateTrials(pb.CreateTrialsRequest(parent=STUDY, trials=trials, request_id=request_id))


def _try(**values: Value | float) -> Call:
    return _enqueue(Trial(parameters=_point(**values)))


def _import(state: str = "SUCCEEDED", **fields: object) -> Call:
    return _enqueue(Trial(parameters=_point(), state=state, **fields))  # type: ignore[arg-type]


def _ask(**fields: object) -> Call:
    return lambda s: s.Ask(pb.AskRequest(parent=STUDY, **fields))  # type: ignore[arg-type]


def _update_study(paths: list[str], **fields: object) -> Call:
    request = pb.UpdateStudyRequest(study=study_pb2.Study(name=STUDY, **fields), update_mask=FieldMask(paths=paths))  # type: ignore[arg-type]
    return lambda s: s.UpdateStudy(request)


def _update_trial(paths: list[str], **fields: object) -> Call:
    request = pb.UpdateTrialRequest(trial=Trial(name=RUNNING, **fields), update_mask=FieldMask(paths=paths))  # type: ignore[arg-type]
    return lambda s: s.UpdateTrial(request)


def _list_trials(**fields: object) -> Call:
    return lambda s: s.ListTrials(pb.ListTrialsRequest(parent=STUDY, **fields))  # type: ignore[arg-type]


def _explain(*slices: str, pairs: list[tuple[str, str]] | None = None, points: int = 0, name: str = STUDY) -> Call:
    pair_slices = [pb.ExplainStudyRequest.Pair(first=first, second=second) for first, second in pairs or []]
    request = pb.ExplainStudyRequest(name=name, slices=slices, pair_slices=pair_slices, points=points)
    return lambda s: s.ExplainStudy(request)


def _list_studies(parent: str = PROJECT, **fields: object) -> Call:
    return lambda s: s.ListStudies(pb.ListStudiesRequest(parent=parent, **fields))  # type: ignore[arg-type]


def _create_study(**fields: object) -> Call:
    study = fields.pop("study", study_pb2.Study(spec=spec()))
    request = pb.CreateStudyRequest(parent=PROJECT, study_id="new", study=study, **fields)  # type: ignore[arg-type]
    return lambda s: s.CreateStudy(request)


def _measured(**metrics: float) -> Measurement:
    return Measurement(metrics=metrics)


def _forged(*content: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).decode()


QUERY = ("ListTrials", STUDY, [], False)
MANY_LABELS = {f"k{i}": "" for i in range(65)}
REQUEST_IDS = {"request_id of 129": "x" * 129, "request_id of 10 MB": HUGE, "request_id with NUL": "a\0"}

VIOLATIONS: dict[str, tuple[Call, set[str]]] = {
    # Tell
    "tell nothing": (_tell(), {"result"}),
    "tell an empty measurement": (_tell(Measurement()), {"measurement.metrics", "measurement.metrics['loss']"}),
    "tell without the objective": (_tell(_measured(accuracy=1.0)), {"measurement.metrics['loss']"}),
    "tell NaN": (_tell(_measured(loss=math.nan)), {"measurement.metrics['loss']"}),
    "tell inf": (_tell(_measured(loss=math.inf)), {"measurement.metrics['loss']"}),
    "tell another metric -inf": (_tell(_measured(loss=1.0, size=-math.inf)), {"measurement.metrics['size']"}),
    "tell a bad metric name": (
        _tell(Measurement(metrics={"loss": 1.0, "a b": 1.0, "": 1.0})),
        {"measurement.metrics['a b']", "measurement.metrics['']"},
    ),
    "tell 257 metrics": (
        _tell(Measurement(metrics={"loss": 1.0, **{f"m{i}": 1.0 for i in range(256)}})),
        {"measurement.metrics"},
    ),
    "tell a hundred thousand standard errors": (
        _tell(Measurement(metrics={"loss": 1.0}, standard_errors={f"e{i}": 1.0 for i in range(100_000)})),
        {"measurement.standard_errors"},
    ),
    "tell standard errors": (
        _tell(Measurement(metrics={"loss": 1.0, "a": 1.0, "b": 1.0}, standard_errors={"a": -1, "b": math.nan, "c": 1})),
        {f"measurement.standard_errors['{name}']" for name in "abc"},
    ),
    "tell a negative step": (_tell(Measurement(metrics={"loss": 1.0}, step=INT64_MIN)), {"measurement.step"}),
    "tell a negative time": (
        _tell(Measurement(metrics={"loss": 1.0}, elapsed={"seconds": -1})),  # type: ignore[arg-type]
        {"measurement.elapsed"},
    ),
    "tell a time beyond a duration": (
        _tell(Measurement(metrics={"loss": 1.0}, elapsed={"seconds": INT64_MAX})),  # type: ignore[arg-type]
        {"measurement.elapsed"},
    ),
    "tell all at once": (
        _tell(Measurement(metrics={"a": math.nan}, step=-1), request_id="x" * 129),
        {"measurement.metrics['a']", "measurement.metrics['loss']", "measurement.step", "request_id"},
    ),
    "tell infeasible with 10 MB": (
        _tell(infeasible=pb.TellRequest.Infeasible(reason=HUGE)),
        {"infeasible.reason"},
    ),
    "tell failed with NUL": (_tell(failed=pb.TellRequest.Failed(reason="a\0")), {"failed.reason"}),
    "tell pruned": (
        _tell(pruned=pb.TellRequest.Pruned(reason="x" * 1025, measurement=_measured(loss=math.nan))),
        {"pruned.reason", "pruned.measurement.metrics['loss']"},
    ),
    **{f"tell {name}": (_tell(RESULT, request_id=i), {"request_id"}) for name, i in REQUEST_IDS.items()},
    "tell nothing to a bad name": (
        lambda s: s.Tell(pb.TellRequest(name="x", request_id="\n")),
        {"name", "result", "request_id"},
    ),
    "tell NaN to a bad name": (
        lambda s: s.Tell(pb.TellRequest(name="x", measurement=_measured(loss=math.nan))),
        {"name", "measurement.metrics['loss']"},
    ),
    # Report
    "report nothing": (
        lambda s: s.Report(pb.ReportRequest(name=RUNNING)),
        {"measurement.metrics", "measurement.step"},
    ),
    "report without step": (_report(_measured(loss=1.0)), {"measurement.step"}),
    "report a negative step": (_report(Measurement(metrics={"loss": 1.0}, step=-1)), {"measurement.step"}),
    "report NaN": (_report(Measurement(metrics={"loss": math.nan}, step=1)), {"measurement.metrics['loss']"}),
    "report to a bad name": (
        _report(Measurement(metrics={"loss": math.inf}), "x"),
        {"name", "measurement.metrics['loss']", "measurement.step"},
    ),
    "report 10 MB": (
        _report(Measurement(metrics={HUGE: 1.0}, step=1)),
        {f"measurement.metrics['{'x' * 76}...]"},
    ),
    # Ask
    "ask for -1": (_ask(count=-1), {"count"}),
    "ask for 1001": (_ask(count=1001), {"count"}),
    "ask for 2**31 - 1": (_ask(count=2**31 - 1), {"count"}),
    "ask as 256": (_ask(worker="w" * 256), {"worker"}),
    "ask as 10 MB": (_ask(worker=HUGE), {"worker"}),
    "ask as NUL": (_ask(worker="\0"), {"worker"}),
    "ask all at once": (
        lambda s: s.Ask(pb.AskRequest(count=-1, worker="w" * 256, request_id=HUGE)),
        {"parent", "count", "worker", "request_id"},
    ),
    **{f"ask {name}": (_ask(request_id=i), {"request_id"}) for name, i in REQUEST_IDS.items()},
    # CreateTrials
    "create no trials": (_enqueue(), {"trials"}),
    "create 1001 trials": (_enqueue(*[Trial(parameters=_point())] * 1001), {"trials"}),
    **{
        f"create {n}": (_enqueue(Trial(parameters=_point()), request_id=i), {"request_id"})
        for n, i in REQUEST_IDS.items()
    },
    "try an unknown parameter": (_try(depth=1.0), {"trials[0].parameters['depth']"}),
    "try a parameter of 10 MB": (_try(**{HUGE: 1.0}), {f"trials[0].parameters['{'x' * 76}...]"}),
    "try without values": (
        _enqueue(Trial()),
        {f"trials[0].parameters['{name}']" for name in ("lr", "batch", "optimizer")},
    ),
    "try an unset value": (_try(lr=Value()), {"trials[0].parameters['lr']"}),
    "try a float outside": (_try(lr=2.0), {"trials[0].parameters['lr']"}),
    "try NaN": (_try(lr=math.nan), {"trials[0].parameters['lr']"}),
    "try inf": (_try(lr=math.inf), {"trials[0].parameters['lr']"}),
    "try a string for a float": (_try(lr=Value(string_value="0.1")), {"trials[0].parameters['lr']"}),
    "try a truth value for a float": (_try(lr=Value(bool_value=True)), {"trials[0].parameters['lr']"}),
    "try a float for an int": (_try(width=8.0), {"trials[0].parameters['width']"}),
    "try an int off the grid": (_try(width=Value(int_value=9)), {"trials[0].parameters['width']"}),
    "try the smallest int": (_try(width=Value(int_value=INT64_MIN)), {"trials[0].parameters['width']"}),
    "try a truth value for an int": (_try(width=Value(bool_value=True)), {"trials[0].parameters['width']"}),
    "try no number of the list": (_try(batch=17.0), {"trials[0].parameters['batch']"}),
    "try an unknown choice": (_try(optimizer=Value(string_value="lion")), {"trials[0].parameters['optimizer']"}),
    "try a choice of 10 MB": (_try(optimizer=Value(string_value=HUGE)), {"trials[0].parameters['optimizer']"}),
    "try true for 1": (_try(optimizer=Value(bool_value=True)), {"trials[0].parameters['optimizer']"}),
    "try an inactive parameter": (_try(momentum=0.5), {"trials[0].parameters['momentum']"}),
    "try without an active parameter": (
        _try(optimizer=Value(string_value="sgd")),
        {"trials[0].parameters['momentum']"},
    ),
    "try with notes of 10 MB": (_enqueue(Trial(parameters=_point(), notes=HUGE)), {"trials[0].notes"}),
    "try with 65 labels": (_enqueue(Trial(parameters=_point(), labels=MANY_LABELS)), {"trials[0].labels"}),
    "try with a measurement": (
        _enqueue(Trial(parameters=_point(), measurement=RESULT, intermediate_measurements=[STEP])),
        {"trials[0].measurement", "trials[0].intermediate_measurements"},
    ),
    "try as running": (_import("RUNNING"), {"trials[0].state"}),
    "try as expired": (_import("EXPIRED"), {"trials[0].state"}),
    "try in an unknown state": (_enqueue(Trial(parameters=_point(), state=42)), {"trials[0].state"}),  # type: ignore[arg-type]
    "import without measurement": (_import(), {"trials[0].measurement"}),
    "import without the objective": (_import(measurement=_measured(a=1.0)), {"trials[0].measurement.metrics['loss']"}),
    "import NaN": (_import(measurement=_measured(loss=math.nan)), {"trials[0].measurement.metrics['loss']"}),
    "import a failure with a measurement": (_import("FAILED", measurement=RESULT), {"trials[0].measurement"}),
    "import a bad last measurement": (
        _import("PRUNED", measurement=_measured(loss=math.inf)),
        {"trials[0].measurement.metrics['loss']"},
    ),
    "import texts of 10 MB": (
        _import("FAILED", state_reason="x" * 1025, worker="w" * 256),
        {"trials[0].state_reason", "trials[0].worker"},
    ),
    "import a curve with faults": (
        _import("FAILED", intermediate_measurements=[STEP, STEP, RESULT, Measurement(step=2), Measurement(step=-1)]),
        {
            f"trials[0].intermediate_measurements[{at}"
            for at in ("1].step", "2].step", "3].metrics", "4].metrics", "4].step")
        },
    ),
    "one bad among good": (
        _enqueue(Trial(parameters=_point()), Trial(parameters=_point(lr=0.0)), Trial(parameters=_point())),
        {"trials[1].parameters['lr']"},
    ),
    "bad in every way": (
        _enqueue(
            Trial(parameters=_point(lr=Value()), state="RUNNING"),
            Trial(parameters=_point(lr=-1.0), notes=HUGE),
            request_id="x" * 129,
        ),
        {
            *("trials[0].parameters['lr']", "trials[0].state", "trials[1].parameters['lr']", "trials[1].notes"),
            "request_id",
        },
    ),
    # UpdateStudy, UpdateTrial
    "update study without mask": (_update_study([]), {"update_mask"}),
    "update study with a hundred thousand paths": (_update_study(["x"] * 100_000), {"update_mask"}),
    "update study with *": (_update_study(["*"]), {"update_mask"}),
    "update study's state": (_update_study(["labels", "state"]), {"update_mask"}),
    "update study's spec": (_update_study(["spec.seed"]), {"update_mask"}),
    "update study with a path of 10 MB": (_update_study([HUGE]), {"update_mask"}),
    "update study's texts": (
        _update_study(["labels", "description"], description=HUGE, labels={"a b": "", "v": "v" * 256, "n": "\0"}),
        {"study.description", "study.labels['a b']", "study.labels['v']", "study.labels['n']"},
    ),
    "update study's label with a long key": (
        _update_study(["labels"], labels={"k" * 64: ""}),
        {f"study.labels['{'k' * 64}']"},
    ),
    "update study with 65 labels": (_update_study(["labels"], labels=MANY_LABELS), {"study.labels"}),
    "update a bad study badly": (
        lambda s: s.UpdateStudy(pb.UpdateStudyRequest(update_mask=FieldMask(paths=["spec"]))),
        {"study.name", "update_mask"},
    ),
    "update trial without mask": (_update_trial([]), {"update_mask"}),
    "update trial with a hundred thousand paths": (_update_trial(["x"] * 100_000), {"update_mask"}),
    "update trial's state": (_update_trial(["state", "notes"]), {"update_mask"}),
    "update trial's texts": (
        _update_trial(["labels", "notes"], notes=HUGE, labels={"": ""}),
        {"trial.notes", "trial.labels['']"},
    ),
    "update a bad trial badly": (
        lambda s: s.UpdateTrial(pb.UpdateTrialRequest()),
        {"trial.name", "update_mask"},
    ),
    # StopStudy, WatchStudy
    "stop for 10 MB": (lambda s: s.StopStudy(pb.StopStudyRequest(name=STUDY, reason=HUGE)), {"reason"}),
    "stop with NUL": (lambda s: s.StopStudy(pb.StopStudyRequest(name="", reason="\0")), {"name", "reason"}),
    "watch after -1": (lambda s: _watched(s, STUDY, -1), {"after_revision"}),
    "watch nothing after -1": (lambda s: _watched(s, "", -1), {"name", "after_revision"}),
    # ExplainStudy
    "explain strangers": (_explain("lr", "", "lr", "ä", HUGE), {f"slices[{i}]" for i in (1, 2, 3, 4)}),
    "explain bad pairs": (
        _explain(pairs=[("lr", "lr"), ("lr", "x"), ("batch", "lr"), ("lr", "batch"), ("", "")]),
        {
            *("pair_slices[0].second", "pair_slices[1].second", "pair_slices[3]"),
            *("pair_slices[4].first", "pair_slices[4].second"),
        },
    ),
    "explain too much": (
        _explain(*["lr"] * 101, pairs=[("lr", "batch")] * 11, points=101),
        {"slices", "pair_slices", "points"},
    ),
    "explain -1 points": (_explain(points=-1), {"points"}),
    "explain one point": (_explain(points=1), {"points"}),
    "explain 51 points of a pair": (_explain(pairs=[("lr", "batch")], points=51), {"points"}),
    "explain nothing badly": (
        _explain("x", "x", pairs=[("y", "y")], points=1, name="x"),
        {"name", "slices[1]", "pair_slices[0].second", "points"},
    ),
    "explain a stranger badly": (_explain("x", points=1, name=NO_STUDY), {"points"}),
    # CreateStudy beside the spec
    "create under an unknown policy": (_create_study(conflict_policy=7), {"conflict_policy"}),
    **{f"create study {name}": (_create_study(request_id=i), {"request_id"}) for name, i in REQUEST_IDS.items()},
    "create with texts of 10 MB": (
        _create_study(study=study_pb2.Study(spec=spec(), description="d" * 16_385, labels={"k": HUGE})),
        {"study.description", "study.labels['k']"},
    ),
    "create with 65 labels": (
        _create_study(study=study_pb2.Study(spec=spec(), labels=MANY_LABELS)),
        {"study.labels"},
    ),
    # lists
    "list trials by -1": (_list_trials(page_size=-1), {"page_size"}),
    "list trials in unknown states": (_list_trials(states=[1, 0, 77]), {"states[1]", "states[2]"}),
    "list trials in a million states": (_list_trials(states=[77] * 1_000_000), {"states"}),
    "list trials in an unknown view": (_list_trials(view=9), {"view"}),
    "list trials all at once": (
        lambda s: s.ListTrials(pb.ListTrialsRequest(page_size=-5, states=[99], view=99)),  # type: ignore[arg-type, list-item]
        {"parent", "page_size", "states[0]", "view"},
    ),
    "list trials from garbage": (_list_trials(page_token="garbage"), {"page_token"}),
    "list trials from garbage of a bad size": (
        _list_trials(page_token="garbage", page_size=-1),
        {"page_token", "page_size"},
    ),
    "list trials from not ASCII": (_list_trials(page_token="ü"), {"page_token"}),
    "list trials from 10 MB": (_list_trials(page_token=HUGE), {"page_token"}),
    "list trials from a deep token": (
        _list_trials(page_token=base64.urlsafe_b64encode(b"[" * 100_000).decode()),
        {"page_token"},
    ),
    "list trials from a number": (_list_trials(page_token=_forged(1)), {"page_token"}),
    "list trials from another kind": (_list_trials(page_token=_forged(["1"], "")), {"page_token"}),
    "list trials from a truth value": (_list_trials(page_token=paging.token([True], *QUERY)), {"page_token"}),
    "list trials from beyond": (_list_trials(page_token=paging.token([2**64], *QUERY)), {"page_token"}),
    "list trials from another study": (
        _list_trials(page_token=paging.token([1], *("ListTrials", NO_STUDY, [], False))),
        {"page_token"},
    ),
    "list trials from another filter": (
        _list_trials(page_token=paging.token([1], *QUERY), states=["RUNNING"]),
        {"page_token"},
    ),
    "list trials from another view": (_list_trials(page_token=paging.token([1], *QUERY), view="FULL"), {"page_token"}),
    "list best by -1": (lambda s: s.ListBestTrials(pb.ListBestTrialsRequest(page_size=-1)), {"parent", "page_size"}),
    "list best from a list": (
        lambda s: s.ListBestTrials(pb.ListBestTrialsRequest(parent=STUDY, page_token=paging.token([1], *QUERY))),
        {"page_token"},
    ),
    "list studies by -1": (_list_studies(page_size=-1), {"page_size"}),
    "list studies of nobody": (_list_studies("projects", page_size=-1), {"parent", "page_size"}),
    "list studies of every study": (_list_studies("projects/-/studies/-"), {"parent"}),
    "list studies in unknown states": (_list_studies(states=[9]), {"states[0]"}),
    "list studies in 17 states": (_list_studies(states=[1] * 17), {"states"}),
    "list studies from garbage": (_list_studies(page_token="%%%"), {"page_token"}),
    "list studies from another project": (
        _list_studies(page_token=paging.token(["p", "s"], "ListStudies", "p", [])),
        {"page_token"},
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations(service: Stub, name: str) -> None:
    """Input that is wrong in itself is INVALID_ARGUMENT with exactly the wrong fields, and changes nothing."""
    call, fields = VIOLATIONS[name]

    refusal = _refusal(service, call)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
    assert sorted(refusal.fields) == sorted(fields)
    assert all(refusal.descriptions)


def test_a_thousand_bad_trials(service: Stub) -> None:
    """Of very many violations in trials 20 are named and the rest counted."""
    trials = [Trial(parameters=_point(lr=math.nan), notes="n" * 20_000)] * 500

    refusal = _refusal(service, _enqueue(*trials))

    expected = [f"trials[{i}].{field}" for i in range(10) for field in ("parameters['lr']", "notes")]
    assert refusal.fields == [*expected, ""]
    assert refusal.descriptions[-1] == "and 980 more violations"


def test_more_than_a_message_may_hold(service: Stub) -> None:
    """A request above the message limit is refused by gRPC itself; the server goes on."""
    request = pb.AskRequest(parent=STUDY, worker="w" * (17 * 2**20))

    with nothing_changes(service, PROJECT), pytest.raises(grpc.RpcError) as caught:
        service.Ask(request)

    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


# --- what the state does not allow ------------------------------------------------------------------------------------

HEARTBEAT = {name: (lambda s, n=name: s.Heartbeat(pb.HeartbeatRequest(name=n))) for name in (WAITING, SUCCEEDED)}
PRECONDITIONS: dict[str, tuple[Call, str, str]] = {
    "ask a stopped study": (
        lambda s: s.Ask(pb.AskRequest(parent=f"{PROJECT}/studies/stopped")),
        "STUDY_NOT_ACTIVE",
        f"{PROJECT}/studies/stopped",
    ),
    "ask a completed study": (
        lambda s: s.Ask(pb.AskRequest(parent=f"{PROJECT}/studies/completed")),
        "STUDY_COMPLETED",
        f"{PROJECT}/studies/completed",
    ),
    "resume a completed study": (
        lambda s: s.ResumeStudy(pb.ResumeStudyRequest(name=f"{PROJECT}/studies/completed")),
        "STUDY_COMPLETED",
        f"{PROJECT}/studies/completed",
    ),
    "ask beyond the limit": (
        lambda s: s.Ask(pb.AskRequest(parent=f"{PROJECT}/studies/full", count=3)),
        "TRIAL_LIMIT_REACHED",
        f"{PROJECT}/studies/full",
    ),
    "ask beyond the space": (
        lambda s: s.Ask(pb.AskRequest(parent=f"{PROJECT}/studies/exhausted")),
        "SEARCH_SPACE_EXHAUSTED",
        f"{PROJECT}/studies/exhausted",
    ),
    "explain a random search": (_explain(), "NO_MODEL", STUDY),
    "tell a waiting trial": (
        lambda s: s.Tell(pb.TellRequest(name=WAITING, measurement=RESULT)),
        "TRIAL_NOT_RUNNING",
        WAITING,
    ),
    "tell another value": (
        lambda s: s.Tell(pb.TellRequest(name=SUCCEEDED, measurement=RESULT)),
        "RESULT_CONFLICT",
        SUCCEEDED,
    ),
    "tell one metric more": (
        lambda s: s.Tell(pb.TellRequest(name=SUCCEEDED, measurement=_measured(loss=0.5, a=1.0))),
        "RESULT_CONFLICT",
        SUCCEEDED,
    ),
    "tell a failure after a success": (
        lambda s: s.Tell(pb.TellRequest(name=SUCCEEDED, failed=pb.TellRequest.Failed())),
        "RESULT_CONFLICT",
        SUCCEEDED,
    ),
    "tell a success after a failure": (
        lambda s: s.Tell(pb.TellRequest(name=FAILED, measurement=RESULT)),
        "RESULT_CONFLICT",
        FAILED,
    ),
    "tell infeasible after pruned": (
        lambda s: s.Tell(pb.TellRequest(name=PRUNED, infeasible=pb.TellRequest.Infeasible())),
        "RESULT_CONFLICT",
        PRUNED,
    ),
    "report to a waiting trial": (
        lambda s: s.Report(pb.ReportRequest(name=WAITING, measurement=STEP)),
        "TRIAL_NOT_RUNNING",
        WAITING,
    ),
    "report to a finished trial": (
        lambda s: s.Report(pb.ReportRequest(name=FAILED, measurement=STEP)),
        "TRIAL_NOT_RUNNING",
        FAILED,
    ),
    "report another value": (
        lambda s: s.Report(pb.ReportRequest(name=REPORTED, measurement=Measurement(metrics={"loss": 2.0}, step=3))),
        "MEASUREMENT_CONFLICT",
        REPORTED,
    ),
    "report another time": (
        lambda s: s.Report(
            pb.ReportRequest(
                name=REPORTED,
                measurement=Measurement(metrics={"loss": 1.0}, step=3, elapsed={"seconds": 1}),  # type: ignore[arg-type]
            )
        ),
        "MEASUREMENT_CONFLICT",
        REPORTED,
    ),
    "heartbeat of a waiting trial": (HEARTBEAT[WAITING], "TRIAL_NOT_RUNNING", WAITING),
    "heartbeat of a finished trial": (HEARTBEAT[SUCCEEDED], "TRIAL_NOT_RUNNING", SUCCEEDED),
}


@pytest.mark.parametrize("name", PRECONDITIONS)
def test_states_that_do_not_allow_it(service: Stub, name: str) -> None:
    """What the state does not allow is FAILED_PRECONDITION with its own reason and the subject, and changes nothing."""
    call, reason, subject = PRECONDITIONS[name]

    refusal = _refusal(service, call)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.FAILED_PRECONDITION, reason)
    assert refusal.subject == subject


def test_a_state_error_says_which_states_would_do(service: Stub) -> None:
    """TRIAL_NOT_RUNNING carries the state the trial is in and those that the call needs."""
    refusal = _refusal(service, lambda s: s.Tell(pb.TellRequest(name=WAITING, measurement=RESULT)))

    assert refusal.metadata == {"state": "WAITING", "allowedStates": "RUNNING, EXPIRED"}


# --- conflicts --------------------------------------------------------------------------------------------------------

REUSED: dict[str, Call] = {
    "ask for more": _ask(count=2, request_id="used", worker="w"),
    "ask as another": _ask(count=6, request_id="used", worker="v"),
    "tell another trial": lambda s: s.Tell(pb.TellRequest(name=RUNNING, measurement=RESULT, request_id="used")),
    "tell another result": lambda s: s.Tell(pb.TellRequest(name=SUCCEEDED, measurement=RESULT, request_id="used")),
    "create another point": _enqueue(Trial(parameters=_point(lr=0.2)), request_id="used"),
    "create one more": _enqueue(*[Trial(parameters=_point())] * 2, request_id="used"),
}


@pytest.mark.parametrize("name", REUSED)
def test_request_id_with_another_body(service: Stub, name: str) -> None:
    """A request_id that was used with another body is refused."""
    refusal = _refusal(service, REUSED[name])

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")
    assert refusal.fields == ["request_id"]
    assert refusal.metadata["request_id"] == "used"


def test_request_id_of_a_study_with_another_body(service: Stub) -> None:
    """CreateStudy refuses an id that made another study, or found one under USE_EXISTING."""
    made = study_pb2.Study(spec=spec())
    first = pb.CreateStudyRequest(parent=PROJECT, study_id="first", study=made, request_id="create")
    found = pb.CreateStudyRequest(
        parent=PROJECT, study_id="first", study=made, request_id="find", conflict_policy="USE_EXISTING"
    )
    service.CreateStudy(first)
    service.CreateStudy(found)

    for used in ("create", "find"):
        other = pb.CreateStudyRequest(parent=PROJECT, study_id="second", study=made, request_id=used)
        refusal = _refusal(service, lambda s, r=other: s.CreateStudy(r))  # type: ignore[misc]
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "REQUEST_ID_REUSED")


def test_request_id_of_a_repeated_result(service: Stub) -> None:
    """An id under which a known result was told again is taken, too."""
    again = pb.TellRequest(name=FAILED, failed=pb.TellRequest.Failed(reason="broke"), request_id="again")
    service.Tell(again)

    refusal = _refusal(service, lambda s: s.Tell(pb.TellRequest(name=RUNNING, measurement=RESULT, request_id="again")))

    assert refusal.reason == "REQUEST_ID_REUSED"


@pytest.mark.parametrize(
    "call",
    [
        _update_study(["labels"], etag="old"),
        lambda s: s.DeleteStudy(pb.DeleteStudyRequest(name=STUDY, etag=HUGE)),
        lambda s: s.DeleteStudy(pb.DeleteStudyRequest(name=STUDY, etag="1-1", allow_missing=True)),
    ],
    ids=["update", "delete", "delete, missing or not"],
)
def test_etag_mismatch(service: Stub, call: Call) -> None:
    """An etag that is not current aborts an update and a delete."""
    refusal = _refusal(service, call)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "ETAG_MISMATCH")
    assert refusal.metadata["etag"]


@pytest.mark.parametrize("policy", ["CONFLICT_POLICY_UNSPECIFIED", "FAIL"])
def test_name_taken(service: Stub, policy: str) -> None:
    """A taken name is ALREADY_EXISTS unless the policy says otherwise, even with an equal spec."""
    request = pb.CreateStudyRequest(
        parent=PROJECT,
        study_id="kept",
        study=study_pb2.Study(spec=_tuned()),
        conflict_policy=policy,  # type: ignore[arg-type]
    )

    refusal = _refusal(service, lambda s: s.CreateStudy(request))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "STUDY_ALREADY_EXISTS")
    assert refusal.metadata == {"name": STUDY}


def test_existing_study_with_another_spec(service: Stub) -> None:
    """USE_EXISTING names every part of the spec that differs."""
    made = _tuned()
    made.parameters[0].float.max = 2.0
    made.seed = 2
    made.algorithm.sobol.SetInParent()
    made.stopping_criteria.max_trials = 5
    made.trial_policy.max_retries = 0
    made.objectives[0].direction = study_pb2.Objective.MAXIMIZE
    request = pb.CreateStudyRequest(
        parent=PROJECT, study_id="kept", study=study_pb2.Study(spec=made), conflict_policy="USE_EXISTING"
    )

    refusal = _refusal(service, lambda s: s.CreateStudy(request))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "STUDY_SPEC_MISMATCH")
    assert set(refusal.metadata["fields"].split(", ")) == {
        *("parameters", "objectives", "algorithm", "stopping_criteria", "trial_policy", "seed"),
    }


def test_watching_the_future(service: Stub) -> None:
    """A revision that is not there yet is OUT_OF_RANGE and says which is."""
    revision = service.GetStudy(pb.GetStudyRequest(name=STUDY)).revision

    refusal = _refusal(service, lambda s: _watched(s, STUDY, revision + 1))

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, "REVISION_IN_FUTURE")
    assert refusal.metadata["revision"] == str(revision)
