"""Automatic heartbeats: the schedule without a clock, then the thread against a server."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import asktell
from asktell._heartbeat import Schedule

from .conftest import SPACE
from .fake import FakeService, Fault, State


class Thing:
    """Something that can be referred to weakly."""


def eventually(condition: Callable[[], bool]) -> bool:
    """Waits for a condition, 10 s at most."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_a_trial_is_due_every_interval() -> None:
    """Due after the interval, then again after the next."""
    schedule: Schedule[Thing] = Schedule()
    trial = Thing()
    schedule.add(trial, 10.0, now_s=0.0)

    assert schedule.wait_s(4.0) == 6.0
    assert schedule.take_due(9.9) == []
    assert schedule.take_due(10.5) == [(trial, 10.0)]
    assert schedule.take_due(10.6) == []
    assert schedule.wait_s(10.5) == 10.0


def test_a_forgotten_trial_is_not_due() -> None:
    """The schedule keeps nothing alive: an abandoned trial must be able to expire."""
    schedule: Schedule[Thing] = Schedule()
    schedule.add(Thing(), 1.0, now_s=0.0)
    gc.collect()

    assert schedule.take_due(5.0) == []
    assert not schedule


def test_a_removed_trial_is_not_due() -> None:
    """What is told needs no lease."""
    schedule: Schedule[Thing] = Schedule()
    trial = Thing()
    schedule.add(trial, 1.0, now_s=0.0)
    schedule.remove(trial)
    schedule.remove(trial)

    assert schedule.take_due(5.0) == []


def test_a_leased_trial_is_renewed_until_it_is_told(client: asktell.Client, fake: FakeService) -> None:
    """Beats come by themselves, survive a failing server, and end with the Tell."""
    study = client.create_study("leased", SPACE, maximize="accuracy", lease=0.15)
    fake.faults["Heartbeat"].append(Fault(code="INTERNAL"))
    first, second = study.ask(2)

    beaten = eventually(lambda: {r.name for r in fake.of("Heartbeat")[2:]} == {first.name, second.name})
    first.tell(accuracy=0.5)
    before = len(fake.of("Heartbeat"))
    more = eventually(lambda: len(fake.of("Heartbeat")) >= before + 4)
    after = [request.name for request in fake.of("Heartbeat")[before + 1 :]]
    second.tell(accuracy=0.5)

    assert beaten
    assert more
    assert set(after) == {second.name}


def test_a_trial_that_nobody_holds_is_not_renewed(client: asktell.Client, fake: FakeService) -> None:
    """Losing the handle stops the beats."""
    study = client.create_study("leased", SPACE, maximize="accuracy", lease=0.15)
    kept = study.ask()
    dropped = study.ask()
    name = dropped.name
    eventually(lambda: any(request.name == name for request in fake.of("Heartbeat")))

    del dropped
    gc.collect()

    # Both were renewed in turn: six in a row for one mean that the other is not renewed any more.
    assert eventually(lambda: [request.name for request in fake.of("Heartbeat")[-6:]] == [kept.name] * 6)


def test_a_beat_tells_a_trial_to_stop(client: asktell.Client, fake: FakeService) -> None:
    """An objective that never reports still learns that its study was stopped."""
    trial = client.create_study("leased", SPACE, maximize="accuracy", lease=0.15).ask()

    fake.should_stop = True

    assert eventually(lambda: trial.should_stop)
    assert trial.advice.cause is asktell.StopCause.STUDY_STOPPED


def test_a_trial_that_is_over_elsewhere_is_let_go(client: asktell.Client, fake: FakeService) -> None:
    """TRIAL_NOT_RUNNING ends the beats and advises to stop."""
    study = client.create_study("leased", SPACE, maximize="accuracy", lease=0.15)
    trial = study.ask()

    with fake.lock:
        fake.trials[study.name][0].state = State.EXPIRED

    assert eventually(lambda: trial.should_stop)
    assert trial.advice.cause is asktell.StopCause.OTHER
    assert eventually(lambda: client.heartbeats._thread is None)


def test_without_a_lease_nothing_beats(study: asktell.Study, client: asktell.Client) -> None:
    """No lease, no thread."""
    study.ask()

    assert client.heartbeats._thread is None
