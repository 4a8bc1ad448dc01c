"""A study server in memory, for tests of the client: obedient, and faulty on demand.

It keeps to the contract where the client can tell, gives out points by the trial's number, and remembers every request.
A `Fault` queued for a method makes its next call fail, before or after it took effect, or answer late.
"""

# ruff: noqa: D102 - the contract documents the methods
from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2, empty_pb2, timestamp_pb2
from google.rpc import error_details_pb2, status_pb2

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as service
from asktell.v1.study_service_pb2_grpc import StudyServiceServicer, add_StudyServiceServicer_to_server

State = trial_pb2.Trial.State


@dataclass
class Fault:
    """What goes wrong with one call."""

    code: str = "UNAVAILABLE"
    message: str = "injected"
    reason: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: list[tuple[str, str]] = field(default_factory=list)
    retry_delay_s: float | None = None
    after: bool = False  # the call takes effect, and only its reply is lost
    delay_s: float = 0.0  # wait so long first
    fails: bool = True


def details(fault: Fault) -> bytes:
    """The trailer `grpc-status-details-bin`, made with the public classes of googleapis-common-protos."""
    packed = []
    if fault.reason:
        packed.append(error_details_pb2.ErrorInfo(reason=fault.reason, domain="asktell", metadata=fault.metadata))
    if fault.violations:
        listed = [
            error_details_pb2.BadRequest.FieldViolation(field=name, description=description)
            for name, description in fault.violations
        ]
        packed.append(error_details_pb2.BadRequest(field_violations=listed))
    if fault.retry_delay_s is not None:
        delay = duration_pb2.Duration(nanos=int(fault.retry_delay_s * 1e9))
        packed.append(error_details_pb2.RetryInfo(retry_delay=delay))
    anys = [any_pb2.Any() for _ in packed]
    for any_, message in zip(anys, packed, strict=True):
        any_.Pack(message)
    raw: bytes = status_pb2.Status(code=3, message=fault.message, details=anys).SerializeToString()
    return raw


class Refused(Exception):
    """How a handler refuses."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.fault = Fault(code=code, message=reason.lower(), reason=reason)


class FakeService(StudyServiceServicer):
    """The servicer."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.studies: dict[str, study_pb2.Study] = {}
        self.trials: dict[str, list[trial_pb2.Trial]] = {}
        self.requests: list[tuple[str, Any]] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.should_stop = False
        self.page_size = 1000
        self.closing = False
        self._replies: dict[str, Any] = {}

    def of(self, method: str) -> list[Any]:
        """The requests of a method so far."""
        with self.lock:
            return [request for name, request in self.requests if name == method]

    def states(self, study: str) -> list[str]:
        """The states of a study's trials, by number."""
        with self.lock:
            return [State.Name(trial.state) for trial in self.trials[study]]

    def serve(self, method: str, request: Any, context: Any, handle: Callable[[Any], Any]) -> Any:
        """Records the request, then answers it or does what the fault says."""
        with self.lock:
            self.requests.append((method, request))
            fault = self.faults[method].popleft() if self.faults[method] else Fault(fails=False)
        time.sleep(fault.delay_s)
        if fault.fails and not fault.after:
            self.abort(context, fault)
        try:
            with self.lock:
                request_id = getattr(request, "request_id", "")
                reply = self._replies.get(request_id) or handle(request)
                if request_id:
                    self._replies[request_id] = reply
                copy = type(reply)()
                copy.CopyFrom(reply)
        except Refused as refused:
            self.abort(context, refused.fault)
        if fault.fails:
            self.abort(context, fault)
        return copy

    def abort(self, context: Any, fault: Fault) -> None:
        """Ends the call with an error."""
        if fault.code != "CANCELLED":  # which gRPC sends in the server's name
            context.set_trailing_metadata((("grpc-status-details-bin", details(fault)),))
        context.abort(grpc.StatusCode[fault.code], fault.message)

    def _study(self, name: str) -> study_pb2.Study:
        if name not in self.studies:
            raise Refused("NOT_FOUND", "STUDY_NOT_FOUND")
        return self.studies[name]

    def _trial(self, name: str) -> tuple[study_pb2.Study, trial_pb2.Trial]:
        study, number = name.split("/trials/")
        if int(number) > len(self.trials.get(study, [])):
            raise Refused("NOT_FOUND", "TRIAL_NOT_FOUND")
        return self.studies[study], self.trials[study][int(number) - 1]

    def _touch(self, study: study_pb2.Study, *trials: trial_pb2.Trial) -> None:
        study.revision += 1
        study.etag = str(study.revision)
        for trial in trials:
            trial.revision = study.revision
        counts = study_pb2.Study.TrialCounts()
        for trial in self.trials[study.name]:
            name = State.Name(trial.state).lower()
            setattr(counts, name, getattr(counts, name) + 1)
        study.trial_counts.CopyFrom(counts)
        self.changed.notify_all()

    def _add(self, study: study_pb2.Study, state: Any) -> trial_pb2.Trial:
        trials = self.trials[study.name]
        trial = trial_pb2.Trial(name=f"{study.name}/trials/{len(trials) + 1}", state=state, attempt=1)
        trial.create_time.GetCurrentTime()
        trials.append(trial)
        return trial

    def CreateStudy(self, request: Any, context: Any) -> Any:
        def handle(r: service.CreateStudyRequest) -> study_pb2.Study:
            name = f"{r.parent}/studies/{r.study_id}"
            if name in self.studies:
                if r.conflict_policy != service.CreateStudyRequest.USE_EXISTING:
                    raise Refused("ALREADY_EXISTS", "STUDY_ALREADY_EXISTS")
                if self.studies[name].spec != r.study.spec:
                    raise Refused("ALREADY_EXISTS", "STUDY_SPEC_MISMATCH")
                return self.studies[name]
            study = study_pb2.Study(
                name=name,
                spec=r.study.spec,
                description=r.study.description,
                labels=r.study.labels,
                state=study_pb2.Study.ACTIVE,
            )
            study.create_time.GetCurrentTime()
            self.studies[name], self.trials[name] = study, []
            self._touch(study)
            return study

        return self.serve("CreateStudy", request, context, handle)

    def GetStudy(self, request: Any, context: Any) -> Any:
        return self.serve("GetStudy", request, context, lambda r: self._study(r.name))

    def ListStudies(self, request: Any, context: Any) -> Any:
        def handle(r: service.ListStudiesRequest) -> service.ListStudiesResponse:
            prefix = "" if r.parent == "projects/-" else r.parent + "/"
            found = [s for name, s in sorted(self.studies.items()) if name.startswith(prefix)]
            found = [s for s in found if not r.states or s.state in r.states]
            page, token = self._page(found, r.page_token)
            return service.ListStudiesResponse(studies=page, next_page_token=token)

        return self.serve("ListStudies", request, context, handle)

    def _page(self, found: list[Any], token: str) -> tuple[list[Any], str]:
        start = int(token or 0)
        end = start + self.page_size
        return found[start:end], str(end) if end < len(found) else ""

    def UpdateStudy(self, request: Any, context: Any) -> Any:
        def handle(r: service.UpdateStudyRequest) -> study_pb2.Study:
            study = self._study(r.study.name)
            if "description" in r.update_mask.paths:
                study.description = r.study.description
            if "labels" in r.update_mask.paths:
                study.labels.clear()
                study.labels.update(r.study.labels)
            self._touch(study)
            return study

        return self.serve("UpdateStudy", request, context, handle)

    def _set_state(self, name: str, state: Any, reason: str) -> study_pb2.Study:
        study = self._study(name)
        study.state, study.state_reason = state, reason
        self._touch(study)
        return study

    def StopStudy(self, request: Any, context: Any) -> Any:
        return self.serve(
            "StopStudy", request, context, lambda r: self._set_state(r.name, study_pb2.Study.STOPPED, r.reason)
        )

    def ResumeStudy(self, request: Any, context: Any) -> Any:
        return self.serve(
            "ResumeStudy", request, context, lambda r: self._set_state(r.name, study_pb2.Study.ACTIVE, "")
        )

    def DeleteStudy(self, request: Any, context: Any) -> Any:
        def handle(r: service.DeleteStudyRequest) -> empty_pb2.Empty:
            if r.name not in self.studies and not r.allow_missing:
                raise Refused("NOT_FOUND", "STUDY_NOT_FOUND")
            self.studies.pop(r.name, None)
            return empty_pb2.Empty()

        return self.serve("DeleteStudy", request, context, handle)

    def WatchStudy(self, request: Any, context: Any) -> Iterator[Any]:
        with self.lock:
            self.requests.append(("WatchStudy", request))
        seen = request.after_revision
        while context.is_active() and not self.closing:
            with self.lock:
                study = self.studies.get(request.name)
                if study is None:
                    self.abort(context, Refused("NOT_FOUND", "STUDY_NOT_FOUND").fault)
                    return
                if study.revision == seen:
                    self.changed.wait(0.05)
                    continue
                fresh = [t for t in self.trials[study.name] if t.revision > seen]
                seen = study.revision
                reply = service.WatchStudyResponse(revision=seen, study=study, trials=fresh)
            yield reply
            if self.faults["WatchStudy"]:
                self.abort(context, self.faults["WatchStudy"].popleft())

    def ExplainStudy(self, request: Any, context: Any) -> Any:
        def handle(r: service.ExplainStudyRequest) -> service.ExplainStudyResponse:
            study = self._study(r.name)
            if not self.trials[r.name]:
                raise Refused("FAILED_PRECONDITION", "NO_MODEL")
            part = service.MetricExplanation
            names = [parameter.name for parameter in study.spec.parameters]
            axes = {parameter.name: _axis(parameter) for parameter in study.spec.parameters}
            slices = [part.Slice(parameters=[name], first_values=axes[name]) for name in r.slices or names]
            for pair in r.pair_slices:
                both = [pair.first, pair.second]
                slices.append(
                    part.Slice(parameters=both, first_values=axes[pair.first], second_values=axes[pair.second])
                )
            for shown in slices:
                size = len(shown.first_values) * max(1, len(shown.second_values))
                shown.means.extend(float(i) for i in range(size))
                shown.standard_deviations.extend([0.5] * size)
            metric = part(
                metric=study.spec.objectives[0].metric,
                calibration=part.Calibration(
                    observations=7,
                    coverage_90=0.875,
                    log_density=-1.25,
                    r_squared=0.5,
                    deviation_factor=1.5,
                    raw_coverage_90=0.75,
                ),
                importances=[
                    part.Importance(parameter=name, total_effect=1 / (i + 1), lower=0.5 / (i + 1), upper=1.0)
                    for i, name in enumerate(names)
                ],
                slices=slices,
            )
            return service.ExplainStudyResponse(revision=study.revision, reference_trial=1, metrics=[metric])

        return self.serve("ExplainStudy", request, context, handle)

    def Ask(self, request: Any, context: Any) -> Any:
        def handle(r: service.AskRequest) -> service.AskResponse:
            study = self._study(r.parent)
            if study.state == study_pb2.Study.COMPLETED:
                raise Refused("FAILED_PRECONDITION", "STUDY_COMPLETED")
            if study.state != study_pb2.Study.ACTIVE:
                raise Refused("FAILED_PRECONDITION", "STUDY_NOT_ACTIVE")
            given = []
            for _ in range(r.count or 1):
                limit = study.spec.stopping_criteria.max_trials
                waiting = [t for t in self.trials[study.name] if t.state == State.WAITING]
                if not waiting and limit and len(self.trials[study.name]) >= limit:
                    break
                trial = waiting[0] if waiting else self._add(study, State.RUNNING)
                trial.state, trial.worker = State.RUNNING, r.worker
                if not trial.parameters:
                    _fill(trial, study.spec)
                    trial.suggestion.source = trial_pb2.Suggestion.SAMPLER
                trial.start_time.GetCurrentTime()
                if study.spec.trial_policy.HasField("lease"):
                    trial.lease_expire_time.CopyFrom(_after(study.spec.trial_policy.lease))
                given.append(trial)
            if not given:
                raise Refused("FAILED_PRECONDITION", "TRIAL_LIMIT_REACHED")
            self._touch(study, *given)
            return service.AskResponse(trials=given)

        return self.serve("Ask", request, context, handle)

    def Tell(self, request: Any, context: Any) -> Any:
        def handle(r: service.TellRequest) -> service.TellResponse:
            study, trial = self._trial(r.name)
            kind = r.WhichOneof("result")
            assert kind is not None
            states = {
                "measurement": State.SUCCEEDED,
                "infeasible": State.INFEASIBLE,
                "failed": State.FAILED,
                "pruned": State.PRUNED,
            }
            if trial.state not in (State.RUNNING, State.EXPIRED):
                if trial.state != states[kind] or trial.measurement != r.measurement:
                    raise Refused("FAILED_PRECONDITION", "RESULT_CONFLICT")
                return service.TellResponse(trial=trial, study_state=study.state)
            trial.state = states[kind]
            if kind == "measurement":
                trial.measurement.CopyFrom(r.measurement)
            else:
                trial.state_reason = getattr(r, kind).reason
                if kind == "pruned" and r.pruned.HasField("measurement"):
                    trial.measurement.CopyFrom(r.pruned.measurement)
            trial.end_time.GetCurrentTime()
            self._touch(study, trial)
            return service.TellResponse(trial=trial, study_state=study.state)

        return self.serve("Tell", request, context, handle)

    def Report(self, request: Any, context: Any) -> Any:
        def handle(r: service.ReportRequest) -> service.ReportResponse:
            study, trial = self._trial(r.name)
            trial.intermediate_measurements.append(r.measurement)
            self._touch(study, trial)
            return service.ReportResponse(should_stop=self.should_stop, advice=self._advice())

        return self.serve("Report", request, context, handle)

    def _advice(self) -> service.StopAdvice | None:
        if not self.should_stop:
            return None
        return service.StopAdvice(cause=service.StopAdvice.STUDY_STOPPED, detail="stopped by a test")

    def Heartbeat(self, request: Any, context: Any) -> Any:
        def handle(r: service.HeartbeatRequest) -> service.HeartbeatResponse:
            _, trial = self._trial(r.name)
            if trial.state != State.RUNNING:
                raise Refused("FAILED_PRECONDITION", "TRIAL_NOT_RUNNING")
            return service.HeartbeatResponse(should_stop=self.should_stop, advice=self._advice())

        return self.serve("Heartbeat", request, context, handle)

    def CreateTrials(self, request: Any, context: Any) -> Any:
        def handle(r: service.CreateTrialsRequest) -> service.CreateTrialsResponse:
            study = self._study(r.parent)
            made = []
            for given in r.trials:
                trial = self._add(study, given.state or State.WAITING)
                name = trial.name
                trial.MergeFrom(given)
                trial.name = name
                source = (
                    trial_pb2.Suggestion.ENQUEUED if trial.state == State.WAITING else trial_pb2.Suggestion.IMPORTED
                )
                trial.suggestion.source = source
                made.append(trial)
            self._touch(study, *made)
            return service.CreateTrialsResponse(trials=made)

        return self.serve("CreateTrials", request, context, handle)

    def GetTrial(self, request: Any, context: Any) -> Any:
        return self.serve("GetTrial", request, context, lambda r: self._trial(r.name)[1])

    def ListTrials(self, request: Any, context: Any) -> Any:
        def handle(r: service.ListTrialsRequest) -> service.ListTrialsResponse:
            self._study(r.parent)
            found = [t for t in self.trials[r.parent] if not r.states or t.state in r.states]
            page, token = self._page(found, r.page_token)
            return service.ListTrialsResponse(trials=page, next_page_token=token)

        return self.serve("ListTrials", request, context, handle)

    def ListBestTrials(self, request: Any, context: Any) -> Any:
        def handle(r: service.ListBestTrialsRequest) -> service.ListBestTrialsResponse:
            objective = self._study(r.parent).spec.objectives[0]
            sign = 1 if objective.direction == study_pb2.Objective.MAXIMIZE else -1
            found = [t for t in self.trials[r.parent] if t.state == State.SUCCEEDED]
            found.sort(key=lambda t: -sign * t.measurement.metrics[objective.metric])
            return service.ListBestTrialsResponse(trials=found[:1])

        return self.serve("ListBestTrials", request, context, handle)

    def UpdateTrial(self, request: Any, context: Any) -> Any:
        def handle(r: service.UpdateTrialRequest) -> trial_pb2.Trial:
            study, trial = self._trial(r.trial.name)
            if "notes" in r.update_mask.paths:
                trial.notes = r.trial.notes
            if "labels" in r.update_mask.paths:
                trial.labels.clear()
                trial.labels.update(r.trial.labels)
            self._touch(study, trial)
            return trial

        return self.serve("UpdateTrial", request, context, handle)


def _fill(trial: trial_pb2.Trial, spec: study_pb2.StudySpec) -> None:
    number = int(trial.name.rsplit("/", 1)[1])
    for parameter in spec.parameters:
        value = trial.parameters[parameter.name]
        kind = parameter.WhichOneof("type")
        if kind == "float":
            value.float_value = parameter.float.min + (parameter.float.max - parameter.float.min) / (number + 1)
        elif kind == "int":
            value.int_value = parameter.int.min + number % (parameter.int.max - parameter.int.min + 1)
        elif kind == "discrete":
            value.float_value = parameter.discrete.values[number % len(parameter.discrete.values)]
        else:
            value.CopyFrom(parameter.categorical.choices[number % len(parameter.categorical.choices)])


def _axis(parameter: search_space_pb2.Parameter) -> list[search_space_pb2.ParameterValue]:
    kind = parameter.WhichOneof("type")
    if kind == "categorical":
        return list(parameter.categorical.choices)
    if kind == "discrete":
        return [search_space_pb2.ParameterValue(float_value=value) for value in parameter.discrete.values]
    if kind == "int":
        return [search_space_pb2.ParameterValue(int_value=value) for value in (parameter.int.min, parameter.int.max)]
    return [search_space_pb2.ParameterValue(float_value=value) for value in (parameter.float.min, parameter.float.max)]


def _after(lease: duration_pb2.Duration) -> timestamp_pb2.Timestamp:
    stamp = timestamp_pb2.Timestamp()
    stamp.FromNanoseconds(time.time_ns() + lease.ToNanoseconds())
    return stamp


class FakeServer:
    """The servicer behind a port of the loopback interface, which survives restarts."""

    def __init__(self) -> None:
        self.service = FakeService()
        self.port = 0
        self._server: grpc.Server | None = None
        self.start()

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Serves, on the same port as before."""
        self.service.closing = False
        self._server = grpc.server(futures.ThreadPoolExecutor(16))
        add_StudyServiceServicer_to_server(self.service, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        """Breaks all calls and connections."""
        self.service.closing = True
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None


@contextmanager
def running() -> Iterator[FakeServer]:
    """A server for the length of a block."""
    server = FakeServer()
    try:
        yield server
    finally:
        server.stop()
