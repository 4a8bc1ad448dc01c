"""WatchStudy: everything after a revision, then every further change; nothing is missed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..support import ServerProcess, spec, stub
from .calls import Stub, ask, ask_one, enqueue, every_trial, finished, new_study, number, report, study_of, tell, until
from .refusals import read

Trial = trial_pb2.Trial
Study = study_pb2.Study
TIMEOUT_S = 60


def _watch(service: Stub, name: str, after: int = 0) -> Iterator[pb.WatchStudyResponse]:
    return service.WatchStudy(pb.WatchStudyRequest(name=name, after_revision=after), timeout=TIMEOUT_S)


def _collect(
    stream: Iterator[pb.WatchStudyResponse], done: Callable[[pb.WatchStudyResponse], bool]
) -> list[pb.WatchStudyResponse]:
    """The messages up to the first for which `done` holds; then cancels."""
    found = []
    for message in stream:
        found.append(message)
        if done(message):
            break
    stream.cancel()  # type: ignore[attr-defined]
    return found


def _at(revision: int) -> Callable[[pb.WatchStudyResponse], bool]:
    return lambda message: message.revision >= revision


def test_a_new_study(service: Stub) -> None:
    """A watch from 0 begins with the study as it is, at its revision."""
    name = new_study(service, "watched-new")

    (message,) = _collect(_watch(service, name), _at(1))

    assert message.revision == 1
    assert message.study == study_of(service, name)
    assert not message.trials


def test_everything_from_the_beginning(service: Stub) -> None:
    """A watch from 0 of a study with a history sends every trial once, as it is now, by number."""
    name = new_study(service, "watched-old")
    one, _, three = ask(service, name, 3)
    report(service, one.name, 1.0, 1)
    tell(service, one.name, 2.0)
    report(service, three.name, 1.0, 1)
    study = study_of(service, name)

    messages = _collect(_watch(service, name), _at(study.revision))

    assert [m.revision for m in messages] == [study.revision]
    assert messages[0].study == study
    assert list(messages[0].trials) == every_trial(service, name)


def test_each_change_arrives(service: Stub) -> None:
    """Every kind of change reaches an open stream, with the study and the trial as they are then."""
    name = new_study(service, "watched-live")
    stream = _watch(service, name, 1)

    def step(act: Callable[[], object]) -> pb.WatchStudyResponse:
        act()
        message = next(stream)
        assert message.study == study_of(service, name)
        assert message.revision == message.study.revision
        return message

    asked = step(lambda: ask_one(service, name, worker="w"))
    trial = asked.trials[0].name
    reported = step(lambda: report(service, trial, 1.0, 5))
    reported_again = step(lambda: report(service, trial, 1.5, 6))
    told = step(lambda: tell(service, trial, 0.5))
    noted = step(
        lambda: service.UpdateTrial(
            pb.UpdateTrialRequest(trial=Trial(name=trial, notes="n"), update_mask=FieldMask(paths=["notes"]))
        )
    )
    labelled = step(
        lambda: service.UpdateStudy(
            pb.UpdateStudyRequest(study=Study(name=name, labels={"k": "v"}), update_mask=FieldMask(paths=["labels"]))
        )
    )
    imported = step(
        lambda: enqueue(
            service, name, [finished(1.0, x0=0.1, x1=0.2), Trial(parameters={**finished(1, x0=0, x1=0).parameters})]
        )
    )
    stopped = step(lambda: service.StopStudy(pb.StopStudyRequest(name=name)))
    resumed = step(lambda: service.ResumeStudy(pb.ResumeStudyRequest(name=name)))
    stream.cancel()  # type: ignore[attr-defined]

    assert (asked.trials[0].state, asked.trials[0].worker) == (Trial.RUNNING, "w")
    assert [m.step for m in reported.trials[0].intermediate_measurements] == [5]
    assert [m.step for m in reported_again.trials[0].intermediate_measurements] == [6]
    assert told.trials[0].state == Trial.SUCCEEDED
    assert not told.trials[0].intermediate_measurements
    assert noted.trials[0].notes == "n"
    assert (labelled.study.labels, list(labelled.trials)) == ({"k": "v"}, [])
    assert [trial.state for trial in imported.trials] == [Trial.SUCCEEDED, Trial.WAITING]
    assert (stopped.study.state, resumed.study.state) == (Study.STOPPED, Study.ACTIVE)


def test_resuming(service: Stub) -> None:
    """A watch after a revision sends only what changed since, of measurements only the new."""
    name = new_study(service, "watched-again")
    one, two = ask(service, name, 2)
    report(service, one.name, 1.0, 1)
    revision = study_of(service, name).revision
    report(service, one.name, 2.0, 2)

    (message,) = _collect(_watch(service, name, revision), _at(revision + 1))

    assert [trial.name for trial in message.trials] == [one.name]
    assert [m.step for m in message.trials[0].intermediate_measurements] == [2]
    assert two.name


def test_many_trials_come_in_parts(service: Stub) -> None:
    """A long catch-up comes in several messages; only the last carries the new revision, so a break in between loses nothing."""
    name = new_study(service, "watched-many")
    enqueue(service, name, [finished(1.0, x0=i / 1000, x1=0.0) for i in range(450)])

    messages = _collect(_watch(service, name), _at(2))

    assert [len(message.trials) for message in messages] == [200, 200, 50]
    assert [message.revision for message in messages] == [0, 0, 2]
    assert [number(trial) for message in messages for trial in message.trials] == list(range(1, 451))


def test_no_change_is_missed(server: ServerProcess) -> None:
    """Watchers that break off and resume at will see, under concurrent writes, the last state of every trial and every measurement."""
    with stub(server.target) as service:
        name = new_study(service, "watched-busy")

    def work(worker: int) -> None:
        with stub(server.target) as mine:
            for i in range(15):
                trial = ask_one(mine, name, worker=f"w{worker}")
                report(mine, trial.name, 1.0, 1)
                report(mine, trial.name, 2.0, 2)
                tell(mine, trial.name, float(i))

    def watch(messages_per_stream: int, end: threading.Event) -> tuple[dict[str, Trial], dict[str, list[int]], int]:
        latest: dict[str, Trial] = {}
        steps: dict[str, list[int]] = {}
        revision = 0
        with stub(server.target) as mine:
            while True:
                finished_before = end.is_set()
                if finished_before and study_of(mine, name).revision == revision:
                    return latest, steps, revision
                stream = _watch(mine, name, revision)
                for count, message in enumerate(stream):
                    assert message.revision >= revision
                    revision = message.revision
                    for trial in message.trials:
                        steps.setdefault(trial.name, []).extend(m.step for m in trial.intermediate_measurements)
                        latest[trial.name] = trial
                    if count + 1 >= messages_per_stream or end.is_set():
                        break
                stream.cancel()  # type: ignore[attr-defined]

    end = threading.Event()
    with ThreadPoolExecutor() as threads:
        watchers = [threads.submit(watch, n, end) for n in (1, 3, 1000)]
        for done in [threads.submit(work, i) for i in range(4)]:
            done.result()
        with stub(server.target) as service:
            revision = service.StopStudy(pb.StopStudyRequest(name=name)).revision
            end.set()
            service.ResumeStudy(pb.ResumeStudyRequest(name=name))  # wakes those who wait for a change
            expected = {trial.name: trial for trial in every_trial(service, name)}
        seen = [watcher.result() for watcher in watchers]

    assert len(expected) == 60
    for latest, steps, at in seen:
        assert at >= revision
        assert latest.keys() == expected.keys()
        assert {trial.state for trial in latest.values()} == {Trial.SUCCEEDED}
        assert steps == {trial: [1, 2] for trial in expected}


def test_deleting_ends_the_stream(service: Stub) -> None:
    """A stream of a study that is deleted ends with NOT_FOUND."""
    name = new_study(service, "watched-deleted")
    stream = _watch(service, name)
    next(stream)

    service.DeleteStudy(pb.DeleteStudyRequest(name=name))

    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert read(caught.value).reason == "STUDY_NOT_FOUND"


def test_a_study_made_anew_is_another(service: Stub) -> None:
    """A watch that resumes on a study of the same name, deleted and made anew, is told that its revision is not there."""
    name = new_study(service, "watched-anew")
    ask(service, name, 3)
    revision = study_of(service, name).revision
    service.DeleteStudy(pb.DeleteStudyRequest(name=name))
    new_study(service, "watched-anew")

    with pytest.raises(grpc.RpcError) as caught:
        next(_watch(service, name, revision))

    assert read(caught.value).reason == "REVISION_IN_FUTURE"


def test_cancelled_streams_are_forgotten(server: ServerProcess, service: Stub) -> None:
    """Streams that their callers gave up no longer count as open."""
    name = new_study(service, "watched-cancelled", spec())
    streams = [_watch(service, name) for _ in range(5)]
    for stream in streams:
        next(stream)

    def open_streams() -> float:
        return server.metric("asktell_watch_streams")

    assert open_streams() >= 5
    for stream in streams:
        stream.cancel()  # type: ignore[attr-defined]
    until(lambda: open_streams() == 0, "no open streams")
