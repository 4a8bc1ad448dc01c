"""Clients of every method, each with a random will of its own, that write down what they asked for and what came of it.

What a call is to be recognised by in the database is unique to it: the worker of an ask, the notes of a trial that is created, the
values of measurements, labels and descriptions. A call that can be sent again is sent again until its outcome is known, or until
the client loses patience.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2_grpc, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from .history import Call, History, Outcome, Watched

DEADLINE_S = 3.0
PATIENCE_S = 15.0
PARENT = "projects/faults"
_OPTIONS = [
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.use_local_subchannel_pool", 1),
]
# After these nobody knows whether the call took effect, unless the server itself said what was wrong.
_IN_DOUBT = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.UNKNOWN,
    grpc.StatusCode.INTERNAL,
}
State = trial_pb2.Trial


def reason_of(error: Any) -> str:
    """The reason that the server gave, or "grpc CODE" if the error did not come from its use cases."""
    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return str(info.reason)
    return f"grpc {error.code().name}"


class Caller:
    """Makes calls under a name and records each attempt. Knows several addresses of one service: each study has one of its own, to
    which calls go that do not stray, as behind a proxy that routes by the study.
    """

    def __init__(
        self,
        name: str,
        addresses: Sequence[str],
        history: History,
        rng: Random,
        end: threading.Event,
        strays: float = 1.0,
    ) -> None:
        """`strays`: the share of calls that go to any address."""
        self.name = name
        self._strays = strays
        self.rng = rng
        self.history = history
        self.end = end
        self._channels = [grpc.insecure_channel(address, options=_OPTIONS) for address in addresses]
        self._stubs = [study_service_pb2_grpc.StudyServiceStub(channel) for channel in self._channels]
        self._unique = 0

    def close(self) -> None:
        """Ends its connections."""
        for channel in self._channels:
            channel.close()

    def unique(self) -> str:
        """A text that nobody has used before."""
        self._unique += 1
        return f"{self.name}.{self._unique}"

    def call(self, method: str, request: Any, *, again: bool = True, deadline_s: float = DEADLINE_S) -> Any | None:
        """The response, or None if it was refused or is in doubt. `again`: repeat it while it is in doubt."""
        until = time.monotonic() + PATIENCE_S
        while True:
            made = self.attempt(method, request, deadline_s)
            if made.outcome is not Outcome.UNKNOWN or not again or time.monotonic() > until:
                return made.response
            time.sleep(0.05)

    def attempt(self, method: str, request: Any, deadline_s: float) -> Call:
        """One attempt, recorded."""
        stub = self._stub_for(request)
        began = time.monotonic()
        try:
            response = getattr(stub, method)(request, timeout=deadline_s)
        except grpc.RpcError as error:
            code, reason = error.code(), reason_of(error)
            outcome = Outcome.UNKNOWN if code in _IN_DOUBT else Outcome.REFUSED
            made = Call(
                *(self.name, method, request, began, time.monotonic(), outcome, None),
                reason,
                str(error.details()),
            )
        else:
            made = Call(self.name, method, request, began, time.monotonic(), Outcome.OK, response)
        self.history.calls.append(made)
        self.history.acknowledged += made.ok
        return made

    def _stub_for(self, request: Any) -> study_service_pb2_grpc.StudyServiceStub:
        study = re.search(r"studies/[^/]+", str(request))
        if study is None or self.rng.random() < self._strays:
            return self.stub()
        return self._stubs[zlib.crc32(study[0].encode()) % len(self._stubs)]

    def stub(self) -> study_service_pb2_grpc.StudyServiceStub:
        """A stub that does not record."""
        return self.rng.choice(self._stubs)


@dataclass(frozen=True)
class Plan:
    """A study of a run and what clients do with it.

    `name`: of the study. `spec`. `abandons`: how often a worker is lost and its trial left running, and then told late.
    `creates`: whether trials are enqueued and imported. `stops`: whether it is stopped and resumed.
    """

    name: str
    spec: study_pb2.StudySpec
    abandons: float = 0.0
    creates: bool = False
    stops: bool = False


def _space() -> list[search_space_pb2.Parameter]:
    """A small mixed space with a condition."""
    values = [search_space_pb2.ParameterValue(string_value=text) for text in ("sgd", "adam", "lion")]
    return [
        search_space_pb2.Parameter(name="lr", float=search_space_pb2.FloatParameter(min=1e-5, max=1.0, log=True)),
        search_space_pb2.Parameter(name="depth", int=search_space_pb2.IntParameter(min=1, max=16)),
        search_space_pb2.Parameter(name="batch", discrete=search_space_pb2.DiscreteParameter(values=[8, 32, 64])),
        search_space_pb2.Parameter(name="optimizer", categorical=search_space_pb2.CategoricalParameter(choices=values)),
        search_space_pb2.Parameter(
            name="momentum",
            float=search_space_pb2.FloatParameter(min=0.0, max=0.9, step=0.1),
            condition=search_space_pb2.Condition(parent="optimizer", values=values[:1]),
        ),
    ]


def _spec(algorithm: str, parameters: Sequence[search_space_pb2.Parameter] | None = None) -> study_pb2.StudySpec:
    spec = study_pb2.StudySpec(
        parameters=_space() if parameters is None else parameters,
        objectives=[study_pb2.Objective(metric="loss", direction=study_pb2.Objective.MINIMIZE)],
        seed=7,
    )
    getattr(spec.algorithm, algorithm).SetInParent()
    return spec


def plans(budget: int, *, model: bool) -> list[Plan]:
    """The studies of a run. `budget`: trials of those that have one. `model`: with one that needs a compute process."""
    leased = _spec("random")
    leased.trial_policy.lease.seconds = 1
    leased.trial_policy.max_retries = 1
    once = _spec("random")
    once.trial_policy.lease.seconds = 1
    once.trial_policy.max_retries = 0
    budgeted = _spec("sobol")
    budgeted.stopping_criteria.max_trials = budget
    both = _spec("random")
    both.stopping_criteria.max_trials = budget
    both.trial_policy.lease.seconds = 1
    both.trial_policy.max_retries = 1000
    grid = _spec("grid", _space()[1:4])
    found = [
        Plan("plain", _spec("random"), creates=True),
        Plan("leased", leased, abandons=0.3),
        Plan("once", once, abandons=0.3),
        Plan("budget", budgeted),
        Plan("both", both, abandons=0.3),
        Plan("grid", grid),
        Plan("stopped", _spec("random"), creates=True, stops=True),
    ]
    if model:
        modelled = _spec("skopt")
        modelled.algorithm.skopt.base_estimator = study_pb2.SkoptOptimizer.ET
        modelled.algorithm.skopt.initial_points = 4
        found += [Plan("model", modelled, creates=True), Plan("gp", _spec("gp"))]
    return found


def create_all(caller: Caller, made: Sequence[Plan]) -> None:
    """Creates the studies of a run."""
    for plan in made:
        request = pb.CreateStudyRequest(
            parent=PARENT, study_id=plan.name, study=study_pb2.Study(spec=plan.spec), request_id=caller.unique()
        )
        assert caller.call("CreateStudy", request) is not None


@dataclass
class _Held:
    """A trial that a client evaluates: what it has reported, and when it will tell; `late`: perhaps after its lease."""

    name: str
    plan: Plan
    due: float = 0.0
    late: bool = False
    steps: int = 0


@dataclass
class Client:
    """Does one thing after another, drawn at random, until the end; then tells what it has put off."""

    caller: Caller
    plans: Sequence[Plan]
    pause_s: float = 0.005
    late: list[_Held] = field(default_factory=list)
    known: dict[str, list[str]] = field(default_factory=dict)
    sent: list[tuple[str, Any]] = field(default_factory=list)
    etags: dict[str, str] = field(default_factory=dict)

    def run(self) -> None:
        """Until the end is set."""
        rng = self.caller.rng
        rare: Mapping[Callable[[Plan], None], int] = {
            self._create: 4,
            self._update_trial: 3,
            self._update_study: 2,
            self._read: 5,
            self._churn: 1,
            self._stop_or_resume: 2,
            self._repeat: 4,
            self._explain: 1,
        }
        while not self.caller.end.is_set():
            plan = rng.choice(self.plans)
            if rng.random() < 0.55:
                self._work(plan)
            else:
                rng.choices(list(rare), list(rare.values()))[0](plan)
            for held in [held for held in self.late if held.due < time.monotonic()]:
                self.late.remove(held)
                self._tell(held)
            time.sleep(self.pause_s)
        for held in self.late:
            time.sleep(max(0.0, held.due - time.monotonic()))
            self._tell(held)
        self.caller.close()

    def _work(self, plan: Plan) -> None:
        """Asks for trials, reports, and tells, now, late, or never."""
        caller, rng = self.caller, self.caller.rng
        with_id = plan.name in ("budget", "grid") or rng.random() < 0.7
        request = pb.AskRequest(
            parent=f"{PARENT}/studies/{plan.name}",
            count=rng.choice([0, 1, 1, 2, 3]),
            worker=caller.unique(),
            request_id=caller.unique() if with_id else "",
        )
        reply = caller.call("Ask", request, again=with_id)
        if reply is None:
            return
        if with_id:
            self.sent.append(("Ask", request))
        for trial in reply.trials:
            self.known.setdefault(plan.name, []).append(trial.name)
            held = _Held(trial.name, plan)
            for _ in range(rng.choice([0, 0, 1, 2])):
                self._report(held)
            if rng.random() < 0.15:
                caller.call("Heartbeat", pb.HeartbeatRequest(name=trial.name))
            if rng.random() < plan.abandons:
                if rng.random() < 0.6:
                    held.due = time.monotonic() + rng.uniform(0.5, 4.0)
                    held.late = True
                    self.late.append(held)
            else:
                self._tell(held)

    def _report(self, held: _Held) -> None:
        rng = self.caller.rng
        metrics = {"loss": rng.random()}
        held.steps += 1
        measurement = trial_pb2.Measurement(metrics=metrics, step=held.steps)
        self.caller.call("Report", pb.ReportRequest(name=held.name, measurement=measurement))

    def _tell(self, held: _Held) -> None:
        rng = self.caller.rng
        request = pb.TellRequest(name=held.name, request_id=self.caller.unique() if rng.random() < 0.5 else "")
        kind = rng.choices(["succeeded", "failed", "infeasible", "pruned"], [12, 2, 1, 2])[0]
        if kind == "succeeded":
            request.measurement.metrics["loss"] = rng.random()
            request.measurement.metrics["seconds"] = rng.random()
            request.measurement.standard_errors["loss"] = 0.5
        elif kind == "pruned":
            request.pruned.reason = self.caller.unique()
            if rng.random() < 0.5:
                request.pruned.measurement.metrics["loss"] = rng.random()
        else:
            getattr(request, kind).reason = self.caller.unique()
        if rng.random() < (0.6 if held.late else 0.1):
            self._report(held)
        self.caller.call("Tell", request)
        self.sent.append(("Tell", request))
        if rng.random() < 0.05:
            other = pb.TellRequest(name=held.name)
            other.measurement.metrics["loss"] = rng.random()
            self.caller.call("Tell", other)

    def _create(self, plan: Plan) -> None:
        if not plan.creates:
            return
        caller, rng = self.caller, self.caller.rng
        with_id = rng.random() < 0.7
        notes = caller.unique()
        trials = []
        for _ in range(rng.choice([1, 2, 5])):
            parameters = {
                "lr": search_space_pb2.ParameterValue(float_value=rng.uniform(0.001, 1.0)),
                "depth": search_space_pb2.ParameterValue(int_value=rng.randint(1, 16)),
                "batch": search_space_pb2.ParameterValue(float_value=32.0),
                "optimizer": search_space_pb2.ParameterValue(string_value="adam"),
            }
            trial = trial_pb2.Trial(parameters=parameters, notes=notes, labels={"made": caller.unique()})
            if rng.random() < 0.4:
                trial.state = State.SUCCEEDED
                trial.measurement.metrics["loss"] = rng.random()
                for step in range(rng.choice([0, 3])):
                    trial.intermediate_measurements.add(step=step).metrics["loss"] = rng.random()
            trials.append(trial)
        request = pb.CreateTrialsRequest(
            parent=f"{PARENT}/studies/{plan.name}", trials=trials, request_id=caller.unique() if with_id else ""
        )
        caller.call("CreateTrials", request, again=with_id)
        if with_id:
            self.sent.append(("CreateTrials", request))

    def _update_trial(self, plan: Plan) -> None:
        caller = self.caller
        if known := self.known.get(plan.name):
            trial = trial_pb2.Trial(name=caller.rng.choice(known), labels={"owner": caller.unique()})
            caller.call("UpdateTrial", pb.UpdateTrialRequest(trial=trial, update_mask={"paths": ["labels"]}))

    def _update_study(self, plan: Plan) -> None:
        caller = self.caller
        written = caller.unique()
        name = f"{PARENT}/studies/{plan.name}"
        study = study_pb2.Study(name=name, description=written, labels={"written": written})
        kind = caller.rng.randrange(4)
        if kind == 0:
            study.etag = "0-0"
        elif kind == 1:
            study.etag = self.etags.get(study.name, "")
        elif kind == 2:
            read = caller.call("GetStudy", pb.GetStudyRequest(name=study.name))
            if read is not None:
                study.etag = self.etags[study.name] = read.etag
        caller.call("UpdateStudy", pb.UpdateStudyRequest(study=study, update_mask={"paths": ["description", "labels"]}))

    def _read(self, plan: Plan) -> None:
        caller, rng = self.caller, self.caller.rng
        name = f"{PARENT}/studies/{plan.name}"
        kind = rng.randrange(6)
        if kind == 0:
            caller.call("GetStudy", pb.GetStudyRequest(name=name))
        elif kind == 1:
            caller.call("ListStudies", pb.ListStudiesRequest(parent=PARENT))
        elif kind == 2:
            states = rng.choice([[], [State.RUNNING], [State.WAITING]])
            request = pb.ListTrialsRequest(
                parent=name, page_size=20, states=states, view=rng.choice([pb.BASIC, pb.FULL])
            )
            page = caller.call("ListTrials", request)
            for _ in range(rng.choice([1, 30])):
                if page is None or not page.next_page_token:
                    break
                following = pb.ListTrialsRequest()
                following.CopyFrom(request)
                following.page_token = page.next_page_token
                page = caller.call("ListTrials", following)
        elif kind == 3:
            caller.call("ListBestTrials", pb.ListBestTrialsRequest(parent=name))
        elif known := self.known.get(plan.name):
            caller.call("GetTrial", pb.GetTrialRequest(name=rng.choice(known)))

    def _churn(self, _: Plan) -> None:
        """A study that comes and goes; some stay."""
        caller, rng = self.caller, self.caller.rng
        study_id = f"churn-{caller.unique()}"
        name = f"{PARENT}/studies/{study_id}"
        study = study_pb2.Study(spec=_spec("random"))
        request = pb.CreateStudyRequest(
            parent=PARENT, study_id=study_id, study=study, conflict_policy=pb.CreateStudyRequest.USE_EXISTING
        )
        if caller.call("CreateStudy", request) is None:
            return
        ask = pb.AskRequest(parent=name, count=2, worker=caller.unique(), request_id=caller.unique())
        caller.call("Ask", ask)
        if rng.random() < 0.7:
            caller.call("DeleteStudy", pb.DeleteStudyRequest(name=name, allow_missing=True))
            caller.call("GetStudy", pb.GetStudyRequest(name=name))

    def _stop_or_resume(self, plan: Plan) -> None:
        if not plan.stops:
            return
        caller = self.caller
        name = f"{PARENT}/studies/{plan.name}"
        ask = pb.AskRequest(parent=name, worker=caller.unique(), request_id=caller.unique())
        running = caller.call("Ask", ask)
        caller.call("StopStudy", pb.StopStudyRequest(name=name, reason=caller.unique()))
        caller.call("GetStudy", pb.GetStudyRequest(name=name))
        for trial in running.trials if running is not None else ():
            held = _Held(trial.name, plan)
            self._report(held)
            caller.call("Heartbeat", pb.HeartbeatRequest(name=trial.name))
            self._tell(held)
        for _ in range(2):
            self._work(plan)
        caller.call("ResumeStudy", pb.ResumeStudyRequest(name=name))

    def _repeat(self, _: Plan) -> None:
        """Sends again what was answered long ago, or something else under its request_id."""
        if not self.sent:
            return
        method, request = self.caller.rng.choice(self.sent[-20:])
        if self.caller.rng.random() < 0.3 and request.request_id:
            other = type(request)()
            other.CopyFrom(request)
            if method == "Ask":
                other.count = 17
            elif method == "Tell":
                other.failed.reason = "another body"
            else:
                # Either body may be the one that acts, so that all of each has to be recognisable.
                for trial in other.trials:
                    trial.notes += " another body"
            request = other
        self.caller.call(method, request)

    def _explain(self, plan: Plan) -> None:
        if plan.name == "gp":
            request = pb.ExplainStudyRequest(name=f"{PARENT}/studies/{plan.name}", slices=["lr"], points=3)
            self.caller.call("ExplainStudy", request, again=False)


def watch(caller: Caller, plan: Plan) -> None:
    """Watches a study until the end, from the last revision seen after each break."""
    name = f"{PARENT}/studies/{plan.name}"
    seen, stream = 0, 0
    while not caller.end.is_set():
        stream += 1
        after, message, reason = seen, None, "ENDED"

        def record(message: pb.WatchStudyResponse | None, reason: str = "") -> None:
            caller.history.watched.append(
                Watched(caller.name, stream, name, after, time.monotonic(), message, reason)  # noqa: B023
            )

        try:
            # Short streams: each deadline is a break to go on from.
            for message in caller.stub().WatchStudy(
                pb.WatchStudyRequest(name=name, after_revision=seen), timeout=caller.rng.uniform(0.5, 4.0)
            ):
                record(message)
                seen = message.revision
                if caller.end.is_set():
                    break
        except grpc.RpcError as error:
            reason = reason_of(error)
            record(None, reason)
            if reason == "REVISION_IN_FUTURE":
                seen = 0
            time.sleep(0.05)
    caller.close()


def finish(caller: Caller, made: Sequence[Plan], patience_s: float) -> list[str]:
    """Takes what waits until nothing waits and nothing with a lease runs; returns what would not come to an end."""
    stuck = []
    for plan in made:
        name = f"{PARENT}/studies/{plan.name}"
        caller.call("ResumeStudy", pb.ResumeStudyRequest(name=name))
        leased = plan.spec.trial_policy.HasField("lease")
        limited = plan.spec.stopping_criteria.max_trials > 0
        until = time.monotonic() + patience_s
        while True:
            study = caller.call("GetStudy", pb.GetStudyRequest(name=name))
            assert study is not None, name
            counts = study.trial_counts
            if study.state != study_pb2.Study.ACTIVE:
                break
            request = pb.AskRequest(
                parent=name, count=counts.waiting or 1, worker=caller.unique(), request_id=caller.unique()
            )
            if counts.waiting or limited:
                reply = caller.call("Ask", request, deadline_s=20.0)
                for trial in reply.trials if reply is not None else ():
                    tell = pb.TellRequest(name=trial.name)
                    tell.measurement.metrics["loss"] = 2.0 + caller.rng.random()
                    caller.call("Tell", tell)
                if reply is None and not leased:
                    break
            elif not leased or not counts.running:
                break
            if time.monotonic() > until:
                stuck.append(f"{name} does not come to an end: {counts.waiting} WAITING, {counts.running} RUNNING")
                break
            if leased:
                time.sleep(0.2)
    return stuck
