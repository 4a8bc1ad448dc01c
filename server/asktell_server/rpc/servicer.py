"""The StudyService of the contract: each method reads its request, calls one use case, writes the answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import grpc.aio
from google.protobuf.empty_pb2 import Empty

from asktell.names import InvalidName, ProjectName, StudyName, TrialName
from asktell.v1 import study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2
from asktell_server.domain.errors import MOST_VIOLATIONS, InvalidArgument, Violation
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import StudyState
from asktell_server.domain.trial import RESULT_STATES, TrialState
from asktell_server.rpc import convert
from asktell_server.rpc.access import ALL_PROJECTS, visible_projects
from asktell_server.service import paging
from asktell_server.service.asking import Asking, ask_violations
from asktell_server.service.explaining import Explaining
from asktell_server.service.new_trials import NewTrial, count_violations
from asktell_server.service.reading import REPLY_BYTES
from asktell_server.service.requests import id_violations
from asktell_server.service.studies import NewStudy, Studies, stop_violations
from asktell_server.service.studies import update_violations as update_study_violations
from asktell_server.service.trials import Advice, Result, Trials, report_violations, tell_violations
from asktell_server.service.trials import update_violations as update_trial_violations
from asktell_server.service.turns import Turns, in_turns
from asktell_server.service.watching import Watching, after_violations

if TYPE_CHECKING:  # generic only in the stubs
    Context = grpc.aio.ServicerContext[Any, Any]
N = TypeVar("N")


def _name(parse: Callable[[str], N], text: str, field: str, also: Callable[[], Iterable[Violation]] = tuple) -> N:
    """The name taken apart. Raises InvalidArgument with it and with what is `also` wrong with the request."""
    try:
        return parse(text)
    except InvalidName as error:
        raise InvalidArgument([Violation(field, str(error)), *also()]) from None


def _refuse(found: list[Violation]) -> None:
    if found:
        raise InvalidArgument(found)


class Servicer(study_service_pb2_grpc.StudyServiceServicer):
    """Thin: no rule of the domain lives here."""

    def __init__(
        self, studies: Studies, trials: Trials, asking: Asking, watching: Watching, explaining: Explaining
    ) -> None:
        self._studies = studies
        self._trials = trials
        self._asking = asking
        self._watching = watching
        self._explaining = explaining

    async def CreateStudy(self, request: study_service_pb2.CreateStudyRequest, context: Context) -> study_pb2.Study:
        found: list[Violation] = []
        project = None
        try:
            parent = ProjectName.parse(request.parent)
            project = parent.project
        except InvalidName as error:
            found.append(Violation("parent", str(error)))
            parent = ProjectName("unknown")
        if request.conflict_policy not in study_service_pb2.CreateStudyRequest.ConflictPolicy.values():
            found.append(Violation("conflict_policy", "must be FAIL or USE_EXISTING"))
        sent = request.study.spec
        too_large = self._studies.size_violations(sent.ByteSize(), convert.entries(sent))
        if too_large:  # reading it would hold up everybody else
            found += too_large
            sent = study_pb2.StudySpec()
        spec, left_open = convert.read_spec(sent, project, found, "study.spec")
        study = await self._studies.create(
            NewStudy(
                parent=parent,
                study_id=request.study_id,
                spec=spec,
                description=request.study.description,
                labels=dict(request.study.labels),
                left_open=left_open,
                use_existing=request.conflict_policy == study_service_pb2.CreateStudyRequest.USE_EXISTING,
                request_id=request.request_id,
                violations=tuple(found),
                unimplemented=tuple(convert.unimplemented(sent, "study.spec")),
            )
        )
        return convert.study_to_proto(study)

    async def GetStudy(self, request: study_service_pb2.GetStudyRequest, context: Context) -> study_pb2.Study:
        return convert.study_to_proto(await self._studies.get(_name(StudyName.parse, request.name, "name")))

    async def ListStudies(
        self, request: study_service_pb2.ListStudiesRequest, context: Context
    ) -> study_service_pb2.ListStudiesResponse:
        found = paging.page_violations(request.page_size, request.page_token)
        states = convert.read_states(StudyState, study_pb2.Study.State, request.states, found, "states")
        project = None
        if request.parent != ALL_PROJECTS:
            project = _name(ProjectName.parse, request.parent, "parent", lambda: found).project
        _refuse(found)
        asked = (project, states, request.page_size, request.page_token)
        response = study_service_pb2.ListStudiesResponse()
        most, size, last = paging.page_size(request.page_size), 0, None
        turns = Turns()
        async for study in self._studies.listed(*asked, visible_projects()):
            pb = convert.study_to_proto(study)
            size += pb.ByteSize()
            if last is not None and (size > REPLY_BYTES or len(response.studies) == most):
                response.next_page_token = self._studies.token_after(project, states, last)
                break
            response.studies.append(pb)
            last = study
            await turns.next()
        return response

    async def UpdateStudy(self, request: study_service_pb2.UpdateStudyRequest, context: Context) -> study_pb2.Study:
        pb = request.study
        changes = (list(request.update_mask.paths), dict(pb.labels), pb.description)
        name = _name(StudyName.parse, pb.name, "study.name", lambda: update_study_violations(*changes))
        study = await self._studies.update(name, *changes, pb.etag)
        return convert.study_to_proto(study)

    async def StopStudy(self, request: study_service_pb2.StopStudyRequest, context: Context) -> study_pb2.Study:
        name = _name(StudyName.parse, request.name, "name", lambda: stop_violations(request.reason))
        return convert.study_to_proto(await self._studies.stop(name, request.reason))

    async def ResumeStudy(self, request: study_service_pb2.ResumeStudyRequest, context: Context) -> study_pb2.Study:
        return convert.study_to_proto(await self._studies.resume(_name(StudyName.parse, request.name, "name")))

    async def DeleteStudy(self, request: study_service_pb2.DeleteStudyRequest, context: Context) -> Empty:
        name = _name(StudyName.parse, request.name, "name", lambda: id_violations(request.request_id))
        await self._studies.delete(
            name, request.etag, allow_missing=request.allow_missing, request_id=request.request_id
        )
        return Empty()

    async def WatchStudy(
        self, request: study_service_pb2.WatchStudyRequest, context: Context
    ) -> AsyncIterator[study_service_pb2.WatchStudyResponse]:
        wrong = after_violations(request.after_revision)
        name = _name(StudyName.parse, request.name, "name", lambda: wrong)
        async for seen in self._watching.watch(name, request.after_revision):
            yield study_service_pb2.WatchStudyResponse(
                revision=seen.revision,
                study=None if seen.study is None else convert.study_to_proto(seen.study),
                trials=[convert.trial_to_proto(name, trial) for trial in seen.trials],
            )

    async def ExplainStudy(
        self, request: study_service_pb2.ExplainStudyRequest, context: Context
    ) -> study_service_pb2.ExplainStudyResponse:
        wanted = convert.read_explain_request(request)
        name = _name(StudyName.parse, request.name, "name", lambda: wanted.violations(None))
        revision, explanation = await self._explaining.explain(name, wanted, context.time_remaining())
        return convert.explanation_to_proto(revision, explanation)

    async def Ask(self, request: study_service_pb2.AskRequest, context: Context) -> study_service_pb2.AskResponse:
        asked = (request.count, request.worker, request.request_id)
        name = _name(StudyName.parse, request.parent, "parent", lambda: ask_violations(*asked))
        trials = await self._asking.ask(name, *asked, context.time_remaining())
        return study_service_pb2.AskResponse(trials=await in_turns(trials, partial(convert.trial_to_proto, name)))

    async def Tell(self, request: study_service_pb2.TellRequest, context: Context) -> study_service_pb2.TellResponse:
        result = _read_result(request)
        wrong = [] if result else [Violation("result", "is required: measurement, infeasible, failed or pruned")]

        def also() -> list[Violation]:
            return [*wrong, *(tell_violations(result) if result else ()), *id_violations(request.request_id)]

        name = _name(TrialName.parse, request.name, "name", also)
        if result is None:
            raise InvalidArgument(also())
        trial, state = await self._trials.tell(name, result, request.request_id)
        return study_service_pb2.TellResponse(
            trial=convert.trial_to_proto(name.parent, trial), study_state=study_pb2.Study.State.Value(state.value)
        )

    async def Report(
        self, request: study_service_pb2.ReportRequest, context: Context
    ) -> study_service_pb2.ReportResponse:
        measurement = convert.read_measurement(request.measurement)
        name = _name(TrialName.parse, request.name, "name", lambda: report_violations(measurement))
        advice = await self._trials.report(name, measurement)
        return study_service_pb2.ReportResponse(
            should_stop=bool(advice.cause),
            advice=_advice(advice),
            lease_expire_time=convert.optional_timestamp(advice.lease_expire_time),
        )

    async def Heartbeat(
        self, request: study_service_pb2.HeartbeatRequest, context: Context
    ) -> study_service_pb2.HeartbeatResponse:
        advice = await self._trials.heartbeat(_name(TrialName.parse, request.name, "name"))
        return study_service_pb2.HeartbeatResponse(
            should_stop=bool(advice.cause),
            advice=_advice(advice),
            lease_expire_time=convert.optional_timestamp(advice.lease_expire_time),
        )

    async def CreateTrials(
        self, request: study_service_pb2.CreateTrialsRequest, context: Context
    ) -> study_service_pb2.CreateTrialsResponse:
        found = count_violations(len(request.trials))
        new = [] if found else await self._read_new_trials(request.trials, found)
        name = _name(StudyName.parse, request.parent, "parent", lambda: [*found, *id_violations(request.request_id)])
        if not new:
            raise InvalidArgument([*found, *id_violations(request.request_id)])
        trials = await self._trials.create(name, new, request.request_id, found)
        return study_service_pb2.CreateTrialsResponse(
            trials=await in_turns(trials, partial(convert.trial_to_proto, name))
        )

    async def _read_new_trials(self, sent: Sequence[trial_pb2.Trial], found: list[Violation]) -> list[NewTrial]:
        """All of them, or those up to where it is more than enough what is wrong with them."""
        new: list[NewTrial] = []
        turns = Turns()
        for i, pb in enumerate(sent):
            too_many = self._trials.measurements_violations(len(pb.intermediate_measurements))
            found += [violation.under(f"trials[{i}]") for violation in too_many]
            intermediate: list[Measurement] = []
            for measured in () if too_many else pb.intermediate_measurements:
                intermediate.append(convert.read_measurement(measured))
                await turns.next()
            new.append(_read_new_trial(pb, intermediate, found, f"trials[{i}]"))
            if len(found) > MOST_VIOLATIONS:
                break
            await turns.next()
        return new

    async def GetTrial(self, request: study_service_pb2.GetTrialRequest, context: Context) -> trial_pb2.Trial:
        name = _name(TrialName.parse, request.name, "name")
        after_step = request.after_step if request.HasField("after_step") else None
        return convert.trial_to_proto(name.parent, await self._trials.get(name, after_step))

    async def ListTrials(
        self, request: study_service_pb2.ListTrialsRequest, context: Context
    ) -> study_service_pb2.ListTrialsResponse:
        found = paging.page_violations(request.page_size, request.page_token)
        states = convert.read_states(TrialState, trial_pb2.Trial.State, request.states, found, "states")
        if request.view not in study_service_pb2.TrialView.values():
            found.append(Violation("view", "must be BASIC or FULL"))
        name = _name(StudyName.parse, request.parent, "parent", lambda: found)
        _refuse(found)
        full = request.view == study_service_pb2.FULL
        trials, token = await self._trials.page(name, states, request.page_size, request.page_token, full=full)
        return study_service_pb2.ListTrialsResponse(
            trials=await in_turns(trials, partial(convert.trial_to_proto, name)), next_page_token=token
        )

    async def ListBestTrials(
        self, request: study_service_pb2.ListBestTrialsRequest, context: Context
    ) -> study_service_pb2.ListBestTrialsResponse:
        wrong = paging.page_violations(request.page_size, request.page_token)
        name = _name(StudyName.parse, request.parent, "parent", lambda: wrong)
        trials, token = await self._trials.best(name, request.page_size, request.page_token)
        return study_service_pb2.ListBestTrialsResponse(
            trials=await in_turns(trials, partial(convert.trial_to_proto, name)), next_page_token=token
        )

    async def UpdateTrial(self, request: study_service_pb2.UpdateTrialRequest, context: Context) -> trial_pb2.Trial:
        changes = (list(request.update_mask.paths), dict(request.trial.labels), request.trial.notes)
        name = _name(TrialName.parse, request.trial.name, "trial.name", lambda: update_trial_violations(*changes))
        trial = await self._trials.update(name, *changes)
        return convert.trial_to_proto(name.parent, trial)


def _read_result(request: study_service_pb2.TellRequest) -> Result | None:
    kind = request.WhichOneof("result")
    if kind == "measurement":
        return Result(TrialState.SUCCEEDED, convert.read_measurement(request.measurement))
    if kind == "infeasible":
        return Result(TrialState.INFEASIBLE, None, request.infeasible.reason)
    if kind == "failed":
        return Result(TrialState.FAILED, None, request.failed.reason)
    if kind == "pruned":
        pruned = request.pruned
        measurement = convert.read_measurement(pruned.measurement) if pruned.HasField("measurement") else None
        return Result(TrialState.PRUNED, measurement, pruned.reason)
    return None


def _read_new_trial(
    pb: trial_pb2.Trial, intermediate: Sequence[Measurement], found: list[Violation], at: str
) -> NewTrial:
    state = TrialState.WAITING
    if pb.state:
        allowed = {trial_pb2.Trial.State.Value(s.value): s for s in (TrialState.WAITING, *RESULT_STATES)}
        if pb.state in allowed:
            state = allowed[pb.state]
        else:
            names = ", ".join(sorted(s.value for s in allowed.values()))
            found.append(Violation(f"{at}.state", f"must be one of {names}"))
    return NewTrial(
        parameters=convert.read_parameters(pb.parameters, found, f"{at}.parameters"),
        state=state,
        reason=pb.state_reason,
        measurement=convert.read_measurement(pb.measurement) if pb.HasField("measurement") else None,
        intermediate=tuple(intermediate),
        worker=pb.worker,
        notes=pb.notes,
        labels=dict(pb.labels),
    )


def _advice(advice: Advice) -> study_service_pb2.StopAdvice | None:
    if not advice.cause:
        return None
    cause = study_service_pb2.StopAdvice.Cause.Value(advice.cause)
    return study_service_pb2.StopAdvice(cause=cause, detail=advice.detail)
