"""Invariant 2: the same request_id never acts twice; the same id with another body is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf.message import Message

from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as pb

from ..rpc.calls import Stub, every_trial, finished, loss, new_study, study_of
from ..rpc.refusals import refused
from ..support import ServerProcess, serving, spec, stub


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that may be restarted."""
    with serving(tmp_path_factory.mktemp("ids")) as running:
        yield running


def _calls(study: str) -> dict[str, tuple[Callable[[Stub], Message], Callable[[Stub], Message]]]:
    """For each method that takes a request_id a call, and one under the same id with another body."""
    made = study_pb2.Study(spec=spec())
    made.spec.ClearField("seed")

    def create(study_id: str) -> Callable[[Stub], Message]:
        request = pb.CreateStudyRequest(parent="projects/ids", study_id=study_id, study=made, request_id="r")
        return lambda service: service.CreateStudy(request)

    def ask(count: int) -> Callable[[Stub], Message]:
        return lambda service: service.Ask(pb.AskRequest(parent=study, count=count, request_id="r"))

    def add(value: float) -> Callable[[Stub], Message]:
        trials = [finished(value, x0=0.5, x1=0.5)] * 3
        return lambda service: service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=trials, request_id="r"))

    def tell(value: float) -> Callable[[Stub], Message]:
        request = pb.TellRequest(name=f"{study}/trials/1", measurement=loss(value), request_id="r")
        return lambda service: service.Tell(request)

    return {
        "CreateStudy": (create("one"), create("two")),
        "Ask": (ask(2), ask(3)),
        "CreateTrials": (add(1.0), add(2.0)),
        "Tell": (tell(1.0), tell(2.0)),
    }


def test_a_repeat_returns_what_the_first_call_made(own: ServerProcess) -> None:
    """Sixteen at once, one more later, one more after kill -9: all get the same answer, and it happened once."""
    with stub(own.target) as service:
        study = new_study(service, "repeated")
        service.Ask(pb.AskRequest(parent=study))
    calls = _calls(study)
    answers: dict[str, list[Message]] = {}

    for method, (call, _) in calls.items():
        start = threading.Barrier(16)

        def together(same: Callable[[Stub], Message] = call, start: threading.Barrier = start) -> Message:
            with stub(own.target) as mine:
                start.wait()
                return same(mine)

        with ThreadPoolExecutor(16) as threads:
            answers[method] = [each.result() for each in [threads.submit(together) for _ in range(16)]]
    with stub(own.target) as service:
        for method, (call, _) in calls.items():
            answers[method].append(call(service))
        before = (study_of(service, study).revision, len(every_trial(service, study)))
    own.kill()
    own.start()
    with stub(own.target) as service:
        for method, (call, other) in calls.items():
            answers[method].append(call(service))
            assert refused(lambda o=other, s=service: o(s)).reason == "REQUEST_ID_REUSED"  # type: ignore[misc]
        after = (study_of(service, study).revision, len(every_trial(service, study)))

    for method, given in answers.items():
        assert all(answer == given[0] for answer in given), method
    assert before == after == (5, 1 + 2 + 3)


def test_an_id_belongs_to_its_method_and_study(own: ServerProcess) -> None:
    """The same id in another study or another method is another id."""
    with stub(own.target) as service:
        one, two = new_study(service, "one"), new_study(service, "two")
        first = service.Ask(pb.AskRequest(parent=one, request_id="shared"))

        second = service.Ask(pb.AskRequest(parent=two, request_id="shared", count=2))
        told = service.Tell(pb.TellRequest(name=first.trials[0].name, measurement=loss(1.0), request_id="shared"))

        assert len(second.trials) == 2
        assert told.trial.name == first.trials[0].name


def test_a_repeat_of_an_ask_shows_the_trials_as_they_are(own: ServerProcess) -> None:
    """A repeated ask gives out nothing new, also when its trials have ended or the study was stopped."""
    with stub(own.target) as service:
        study = new_study(service, "shown")
        request = pb.AskRequest(parent=study, count=2, request_id="r")
        names = [trial.name for trial in service.Ask(request).trials]
        told = service.Tell(pb.TellRequest(name=names[0], measurement=loss(1.0))).trial
        service.StopStudy(pb.StopStudyRequest(name=study))

        again = service.Ask(request).trials

        assert [trial.name for trial in again] == names
        assert again[0] == told


def test_without_an_id_every_ask_is_new(tmp_path: Path, own: ServerProcess) -> None:
    """An empty request_id is none."""
    with stub(own.target) as service:
        study = new_study(service, "no-id")

        names = {service.Ask(pb.AskRequest(parent=study)).trials[0].name for _ in range(3)}

        assert len(names) == 3
