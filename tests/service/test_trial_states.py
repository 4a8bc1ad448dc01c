"""The life of trials, against a model: random calls and random time, and after each step the server and the model agree."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from dataclasses import dataclass

import grpc
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..inprocess import InProcess, in_process
from ..rpc.refusals import read
from ..support import spec

LEASE_S = 60
MAX_RETRIES = 1
RESULTS = ["SUCCEEDED", "INFEASIBLE", "FAILED", "PRUNED"]
OK = "OK"


@dataclass
class _Trial:
    """What the model knows of a trial."""

    state: str
    value: float | None = None
    attempt: int = 1
    retry_of: int = 0
    renewed: float = 0.0
    x: float | None = None


def _result(name: str, state: str, value: float) -> pb.TellRequest:
    request = pb.TellRequest(name=name)
    if state == "SUCCEEDED":
        request.measurement.metrics["loss"] = value
    elif state == "PRUNED":
        request.pruned.measurement.metrics["loss"] = value
    else:
        getattr(request, state.lower()).SetInParent()
    return request


class TrialStates(RuleBasedStateMachine):
    """One study of a running server, and its model."""

    def __init__(self, runner: asyncio.Runner, running: InProcess) -> None:
        super().__init__()
        self.runner = runner
        self.running = running
        self.service = running.service
        self.trials: dict[int, _Trial] = {}
        self.active = True
        self.time = 0.0
        self.revision = 1

    def call(self, method: str, request: object) -> tuple[str, object]:
        """The outcome of a call, OK or the reason of its refusal, and the answer."""

        async def send() -> object:
            return await getattr(self.service, method)(request)

        try:
            return OK, self.runner.run(send())
        except grpc.RpcError as error:
            return read(error).reason, None

    def changed(self, by: int = 1) -> None:
        """The model's revision after a change."""
        self.revision += by

    @initialize()
    def create(self) -> None:
        """A study with leases and one retry."""
        made = spec(dimensions=1)
        made.trial_policy.lease.seconds = LEASE_S
        made.trial_policy.max_retries = MAX_RETRIES
        request = pb.CreateStudyRequest(
            parent="projects/model", study_id=uuid.uuid4().hex, study=study_pb2.Study(spec=made)
        )
        outcome, study = self.call("CreateStudy", request)
        assert outcome == OK
        assert isinstance(study, study_pb2.Study)
        self.study = study.name

    def teardown(self) -> None:
        """Leaves no leases behind that could run out in another example."""
        assert self.call("DeleteStudy", pb.DeleteStudyRequest(name=self.study))[0] == OK

    @rule(count=st.integers(1, 4), twice=st.booleans())
    def ask(self, count: int, twice: bool) -> None:
        """Waiting trials go first, by number; then come new ones. A repeat under the same id gives the same."""
        request = pb.AskRequest(parent=self.study, count=count, request_id=uuid.uuid4().hex if twice else "")
        outcome, answer = self.call("Ask", request)
        if not self.active:
            assert outcome == "STUDY_NOT_ACTIVE"
            return
        assert isinstance(answer, pb.AskResponse)
        waiting = sorted(n for n, trial in self.trials.items() if trial.state == "WAITING")[:count]
        expected = [*waiting, *range(len(self.trials) + 1, len(self.trials) + 1 + count - len(waiting))]
        assert [int(trial.name.rpartition("/")[2]) for trial in answer.trials] == expected
        for number in expected:
            trial = self.trials.setdefault(number, _Trial("RUNNING"))
            trial.state, trial.renewed = "RUNNING", self.time
        self.changed()
        if twice:
            assert self.call("Ask", request) == (OK, answer)

    @rule(x=st.floats(0, 1), state=st.sampled_from(["WAITING", *RESULTS]), value=st.integers(0, 3))
    def create_trial(self, x: float, state: str, value: int) -> None:
        """A point to try waits; a finished trial has its result."""
        trial = trial_pb2.Trial(
            parameters={"x0": search_space_pb2.ParameterValue(float_value=x)}, state=trial_pb2.Trial.State.Value(state)
        )
        if state in ("SUCCEEDED", "PRUNED"):
            trial.measurement.metrics["loss"] = value
        outcome, _ = self.call("CreateTrials", pb.CreateTrialsRequest(parent=self.study, trials=[trial]))
        assert outcome == OK
        measured = float(value) if state in ("SUCCEEDED", "PRUNED") else None
        self.trials[len(self.trials) + 1] = _Trial(state, measured, x=x)
        self.changed()

    @rule(data=st.data(), state=st.sampled_from(RESULTS), value=st.integers(0, 1))
    def tell(self, data: st.DataObject, state: str, value: int) -> None:
        """A running or expired trial takes a result once; a waiting retry of it is withdrawn."""
        numbers = st.integers(1, len(self.trials) + 1)
        expired = [n for n, trial in self.trials.items() if trial.state == "EXPIRED"]
        number = data.draw(st.one_of(numbers, st.sampled_from(expired)) if expired else numbers)
        outcome, _ = self.call("Tell", _result(f"{self.study}/trials/{number}", state, value))
        trial = self.trials.get(number)
        measured = float(value) if state in ("SUCCEEDED", "PRUNED") else None
        if trial is None:
            assert outcome == "TRIAL_NOT_FOUND"
        elif trial.state == "WAITING":
            assert outcome == "TRIAL_NOT_RUNNING"
        elif trial.state in RESULTS:
            assert outcome == (OK if (trial.state, trial.value) == (state, measured) else "RESULT_CONFLICT")
        else:
            assert outcome == OK
            if trial.state == "EXPIRED":
                for other in self.trials.values():
                    if other.retry_of == number and other.state == "WAITING":
                        other.state = "EXPIRED"
            trial.state, trial.value = state, measured
            self.changed()

    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        """Only a running trial has a heartbeat; it renews the lease."""
        number = data.draw(st.integers(1, len(self.trials) + 1))
        outcome, answer = self.call("Heartbeat", pb.HeartbeatRequest(name=f"{self.study}/trials/{number}"))
        trial = self.trials.get(number)
        if trial is None:
            assert outcome == "TRIAL_NOT_FOUND"
        elif trial.state != "RUNNING":
            assert outcome == "TRIAL_NOT_RUNNING"
        else:
            assert isinstance(answer, pb.HeartbeatResponse)
            assert answer.should_stop == (not self.active)
            trial.renewed = self.time
            self.changed()

    @rule(data=st.data(), step=st.integers(0, 3))
    def report(self, data: st.DataObject, step: int) -> None:
        """A report renews the lease of a running trial, and is kept without that for an expired one."""
        number = data.draw(st.integers(1, len(self.trials) + 1))
        request = pb.ReportRequest(name=f"{self.study}/trials/{number}")
        request.measurement.metrics["loss"] = step
        request.measurement.step = step
        outcome, answer = self.call("Report", request)
        trial = self.trials.get(number)
        if trial is None:
            assert outcome == "TRIAL_NOT_FOUND"
        elif trial.state in ("RUNNING", "EXPIRED"):
            assert isinstance(answer, pb.ReportResponse)
            assert answer.should_stop == (trial.state == "EXPIRED" or not self.active)
            if trial.state == "RUNNING":
                trial.renewed = self.time
            self.changed()
        else:
            assert outcome in (OK, "TRIAL_NOT_RUNNING")

    @rule(seconds=st.sampled_from([1, 20, 59, 61, 200]))
    def wait(self, seconds: int) -> None:
        """Leases that run out make their trials EXPIRED and, within the limit, their parameters wait again."""
        expired = self.runner.run(self.running.pass_time(seconds))
        self.time += seconds
        due = [n for n, t in self.trials.items() if t.state == "RUNNING" and t.renewed + LEASE_S < self.time]
        due.sort(key=lambda n: (self.trials[n].renewed, n))
        assert expired == len(due)
        for number in due:
            trial = self.trials[number]
            trial.state = "EXPIRED"
            if trial.attempt <= MAX_RETRIES:
                self.trials[len(self.trials) + 1] = _Trial(
                    "WAITING", attempt=trial.attempt + 1, retry_of=number, x=trial.x
                )
        self.changed(len(due))

    @rule()
    def stop(self) -> None:
        """A stopped study gives out nothing."""
        assert self.call("StopStudy", pb.StopStudyRequest(name=self.study))[0] == OK
        self.changed(int(self.active))
        self.active = False

    @rule()
    def resume(self) -> None:
        """A resumed study goes on."""
        assert self.call("ResumeStudy", pb.ResumeStudyRequest(name=self.study))[0] == OK
        self.changed(int(not self.active))
        self.active = True

    @invariant()
    def the_server_and_the_model_agree(self) -> None:
        """Every trial, the counts and the revision are as the model has them; a point never changes."""
        _, study = self.call("GetStudy", pb.GetStudyRequest(name=self.study))
        _, page = self.call("ListTrials", pb.ListTrialsRequest(parent=self.study, page_size=1000))
        assert isinstance(study, study_pb2.Study)
        assert isinstance(page, pb.ListTrialsResponse)
        seen = {int(trial.name.rpartition("/")[2]): trial for trial in page.trials}
        assert {n: (trial_pb2.Trial.State.Name(t.state), t.attempt, t.retry_of) for n, t in seen.items()} == {
            n: (t.state, t.attempt, t.retry_of) for n, t in self.trials.items()
        }
        counts = Counter(t.state.lower() for t in self.trials.values())
        assert {f.name: value for f, value in study.trial_counts.ListFields()} == dict(counts)
        assert study.revision == self.revision
        for number, trial in seen.items():
            x = trial.parameters["x0"].float_value
            known = self.trials[number]
            known.x = x if known.x is None else known.x
            assert x == known.x
            if known.retry_of:
                assert x == self.trials[known.retry_of].x


def test_trials_live_as_the_model_says() -> None:
    """Whatever is called in whatever order, trials change as the transition table says and nothing else changes."""
    with asyncio.Runner() as runner:
        context = in_process()
        running = runner.run(context.__aenter__())
        try:
            run_state_machine_as_test(  # type: ignore[no-untyped-call]
                lambda: TrialStates(runner, running),
                settings=settings(
                    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
                ),
            )
        finally:
            runner.run(context.__aexit__(None, None, None))
