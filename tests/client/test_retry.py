"""Retries: the arithmetic, then the loop against a server that fails on demand."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta

import pytest

import asktell
from asktell._retry import Attempts
from asktell.errors import AskTellError

from .conftest import SPACE
from .fake import FakeServer, FakeService, Fault


def attempts(budget_s: float = 60.0, *, patient: bool = False) -> Attempts:
    """Attempts that begin at time 0, with the longest pauses that jitter allows."""
    return Attempts("Ask", budget_s, patient=patient, now_s=0.0, uniform=lambda low, high: high)


UNAVAILABLE = asktell.Unavailable("gone", code="UNAVAILABLE")


def test_pauses_double_up_to_a_bound() -> None:
    """Full jitter is drawn below 0.1 s * 2^n, at most 2 s."""
    tries = attempts()

    pauses = [tries.pause_s(UNAVAILABLE, 0.0) for _ in range(7)]

    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_an_attempt_gets_part_of_the_budget() -> None:
    """A quick call gets 15 s at most, one that may wait for a model half of what is left, and none more than is left."""
    assert attempts().timeout_s(0.0) == 15.0
    assert attempts().timeout_s(50.0) == 10.0
    assert attempts(patient=True).timeout_s(0.0) == 30.0
    assert attempts(patient=True).timeout_s(54.0) == 5.0
    assert attempts(patient=True).timeout_s(58.0) == 2.0


def test_the_servers_delay_is_honoured() -> None:
    """A busy server says when to come back; jitter comes on top."""
    busy = asktell.ServerBusy("busy", code="RESOURCE_EXHAUSTED", retry_delay=timedelta(seconds=3))

    assert attempts().pause_s(busy, 0.0) == pytest.approx(3.1)


def test_a_delay_beyond_the_budget_is_final() -> None:
    """Sleeping to no purpose helps nobody; the error says how often it was tried."""
    busy = asktell.ServerBusy("busy", code="RESOURCE_EXHAUSTED", retry_delay=timedelta(seconds=3))

    assert attempts(2.0).pause_s(busy, 0.0) is None
    assert busy.__notes__ == ["Ask: gave up after 1 attempts, 0.0 s"]


@pytest.mark.parametrize(
    "error",
    [
        asktell.InvalidArgument("bad", code="INVALID_ARGUMENT"),
        asktell.EtagMismatch("changed", code="ABORTED"),
        asktell.ResourceExhausted("message too large", code="RESOURCE_EXHAUSTED"),
        asktell.ServerError("bug", code="INTERNAL"),
        asktell.Cancelled("closed", code="CANCELLED"),
    ],
)
def test_what_a_repeat_cannot_help_is_final(error: AskTellError) -> None:
    """Only transient errors are tried again."""
    assert attempts().pause_s(error, 0.0) is None


def test_a_long_outage_is_heard_of_once(caplog: pytest.LogCaptureFixture) -> None:
    """A person who waits learns why."""
    tries = attempts()

    with caplog.at_level(logging.WARNING, "asktell"):
        for now_s in (0.0, 1.0, 2.5, 3.0, 4.0):
            tries.pause_s(UNAVAILABLE, now_s)

    assert len(caplog.messages) == 1
    assert "gone; trying for another" in caplog.messages[0]


def test_unavailable_is_tried_again(study: asktell.Study, fake: FakeService) -> None:
    """Two failures before the effect are invisible but for the time they take."""
    fake.faults["Ask"] += [Fault(), Fault(reason="DRAINING")]

    trial = study.ask()

    assert trial.number == 1
    assert len(fake.of("Ask")) == 3


def test_a_call_that_grpc_cancels_in_the_servers_name_is_tried_again(study: asktell.Study, fake: FakeService) -> None:
    """Without details and with nobody here who cancelled it: so answers a server that is closing its connections."""
    fake.faults["Ask"].append(Fault(code="CANCELLED", message="CANCELLED"))
    fake.faults["Tell"].append(Fault(code="CANCELLED", message="CANCELLED", after=True))

    trial = study.ask()
    trial.tell(accuracy=0.5)

    assert trial.number == 1
    assert (len(fake.of("Ask")), len(fake.of("Tell"))) == (2, 2)


@pytest.mark.parametrize("method", ["Ask", "CreateTrials"])
def test_a_lost_reply_does_not_act_twice(study: asktell.Study, fake: FakeService, method: str) -> None:
    """The repeat carries the same request_id, so the server answers as it did the first time."""
    fake.faults[method].append(Fault(after=True))

    trials = study.ask(2) if method == "Ask" else study.enqueue({"lr": 0.5}, {"lr": 0.6})

    assert [trial.number for trial in trials] == [1, 2]
    assert len(fake.trials[study.name]) == 2
    first, second = fake.of(method)
    assert first == second
    assert len(first.request_id) == 36


def test_each_logical_call_has_its_own_id(study: asktell.Study, fake: FakeService) -> None:
    """Asking twice gives two trials."""
    study.ask()
    study.ask()

    assert len({request.request_id for request in fake.of("Ask")}) == 2


def test_a_lost_reply_to_create_study_finds_the_study(client: asktell.Client, fake: FakeService) -> None:
    """Even with if_exists="fail" the repeat is not a conflict with itself."""
    fake.faults["CreateStudy"].append(Fault(after=True))

    study = client.create_study("new", SPACE, maximize="accuracy", if_exists="fail")

    assert study.name in fake.studies


def test_a_lost_reply_to_tell_succeeds(study: asktell.Study, fake: FakeService) -> None:
    """The same result told again is the same result."""
    trial = study.ask()
    fake.faults["Tell"].append(Fault(after=True))

    trial.tell(accuracy=0.5)

    assert trial.state is asktell.TrialState.SUCCEEDED


def test_a_race_lost_in_the_server_is_tried_again(study: asktell.Study, fake: FakeService) -> None:
    """ABORTED with CONCURRENT_UPDATE is transient."""
    fake.faults["StopStudy"].append(Fault(code="ABORTED", reason="CONCURRENT_UPDATE"))

    study.stop("enough")

    assert study.state is asktell.StudyState.STOPPED


def test_a_busy_server_is_asked_again(study: asktell.Study, fake: FakeService) -> None:
    """RESOURCE_EXHAUSTED with a delay is transient."""
    fake.faults["Ask"].append(Fault(code="RESOURCE_EXHAUSTED", reason="SERVER_BUSY", retry_delay_s=0.01))

    study.ask()

    assert len(fake.of("Ask")) == 2


def test_an_attempt_that_hangs_is_replaced(server: FakeServer) -> None:
    """A deadline of an attempt is not the caller's: the same call goes out again while budget is left."""
    with asktell.connect(server.target, timeout=10) as client:
        study = client.create_study("digits", SPACE, maximize="accuracy")
        server.service.faults["Ask"].append(Fault(fails=False, delay_s=6.0))

        trial = study.ask(timeout=9)

    assert trial.number == 1
    first, second = server.service.of("Ask")
    assert first.request_id == second.request_id


def test_a_spent_budget_says_so(study: asktell.Study, fake: FakeService) -> None:
    """A server that answers too late is a DeadlineExceeded."""
    fake.faults["Ask"].append(Fault(fails=False, delay_s=1.0))

    with pytest.raises(asktell.DeadlineExceeded) as caught:
        study.ask(timeout=0.2)

    assert "gave up after 1 attempts" in caught.value.__notes__[0]


def test_nobody_there_is_unavailable() -> None:
    """A target where nothing listens fails after the budget, with the transport's words."""
    with asktell.connect("127.0.0.1:1", timeout=0.3) as client, pytest.raises(asktell.Unavailable) as caught:
        client.get_study("digits")

    assert caught.value.code == "UNAVAILABLE"


def test_a_call_outlasts_a_restart_of_the_server(study: asktell.Study, server: FakeServer) -> None:
    """A server that is away for a moment costs time, not the call."""
    server.stop()
    back = threading.Timer(1.0, server.start)
    back.start()

    trial = study.ask()
    back.join()
    trial.tell(accuracy=1.0)

    assert server.service.states(study.name) == ["SUCCEEDED"]


def test_an_error_of_the_server_arrives_typed(study: asktell.Study, fake: FakeService) -> None:
    """Trailers come through gRPC with all violations."""
    fake.faults["Ask"].append(
        Fault(
            code="INVALID_ARGUMENT", reason="INVALID_ARGUMENT", violations=[("count", "too large"), ("worker", "long")]
        )
    )

    with pytest.raises(asktell.InvalidArgument) as caught:
        study.ask(5)

    assert [violation.field for violation in caught.value.violations] == ["count", "worker"]
    assert len(fake.of("Ask")) == 1


def test_a_closed_client_says_so(study: asktell.Study, client: asktell.Client) -> None:
    """After close every call is Cancelled."""
    client.close()
    client.close()

    with pytest.raises(asktell.Cancelled, match="closed"):
        study.ask()
