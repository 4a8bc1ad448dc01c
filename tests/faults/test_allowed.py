"""The checker calls nothing a violation that the contract allows: histories written by hand, and where each becomes one."""

from __future__ import annotations

from random import Random
from typing import cast

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from .checker import answers, evidence, reads, studies, writes
from .clients import Caller, Client, Plan
from .history import Call, History, Outcome

NAME = "projects/faults/studies/s"
ACTIVE, STOPPED = study_pb2.Study.ACTIVE, study_pb2.Study.STOPPED


def _study(state: study_pb2.Study.State, revision: int = 1) -> study_pb2.Study:
    return study_pb2.Study(name=NAME, state=state, revision=revision, etag=f"e-{revision}")


def _evidence(*calls: Call, kept: study_pb2.Study | None = None) -> evidence.Evidence:
    found = {} if kept is None else {NAME: kept}
    return evidence.Evidence(History(list(calls)), evidence.Final(found, {name: [] for name in found}, {}, []))


def _create(outcome: Outcome) -> Call:
    request = pb.CreateStudyRequest(parent="projects/faults", study_id="s")
    return Call("c", "CreateStudy", request, 1.0, 2.0, outcome, _study(ACTIVE) if outcome is Outcome.OK else None)


def test_a_creation_in_doubt_may_come_after_the_deletion() -> None:
    """The study is there again if a creation whose answer was lost came late; not if every creation was answered before."""
    deleted = Call("c", "DeleteStudy", pb.DeleteStudyRequest(name=NAME), 5.0, 6.0, Outcome.OK)
    read = Call("c", "GetStudy", pb.GetStudyRequest(name=NAME), 7.0, 8.0, Outcome.OK, _study(ACTIVE))
    history = [_create(Outcome.OK), deleted, read]

    late = _evidence(_create(Outcome.UNKNOWN), *history, kept=_study(ACTIVE))
    answered = _evidence(*history, kept=_study(ACTIVE))

    assert not list(writes.studies_are_kept(late))
    assert len(list(writes.studies_are_kept(answered))) == 2


def test_a_stop_or_resume_in_doubt_may_come_late() -> None:
    """A study may be seen ACTIVE after a stop while a resume is in doubt, and its workers may go on; otherwise not."""
    stop = Call("c", "StopStudy", pb.StopStudyRequest(name=NAME), 3.0, 4.0, Outcome.OK, _study(STOPPED))
    resume = Call("c", "ResumeStudy", pb.ResumeStudyRequest(name=NAME), 1.0, 2.0, Outcome.UNKNOWN)
    read = Call("c", "GetStudy", pb.GetStudyRequest(name=NAME), 7.0, 8.0, Outcome.OK, _study(ACTIVE, 2))
    measurement = trial_pb2.Measurement(step=1)
    request = pb.ReportRequest(name=f"{NAME}/trials/1", measurement=measurement)
    report = Call("c", "Report", request, 7.0, 8.0, Outcome.OK, pb.ReportResponse())

    doubtful, certain = _evidence(resume, stop, read, report), _evidence(stop, read, report)

    assert not list(studies.stops_and_resumes_act(doubtful))
    assert not list(answers.advice_fits(doubtful))
    assert len(list(studies.stops_and_resumes_act(certain))) == 1
    assert len(list(answers.advice_fits(certain))) == 1


class _Recorder:
    """Stands for a caller: keeps what it is asked to send."""

    def __init__(self) -> None:
        self.rng = Random(1)
        self.requests: list[pb.CreateTrialsRequest] = []

    def call(self, _: str, request: pb.CreateTrialsRequest) -> None:
        self.requests.append(request)


def test_another_body_is_recognisable_in_all_its_trials() -> None:
    """After a creation in doubt the other body may be the one that acts, so that none of its trials has the notes of the first."""
    first = pb.CreateTrialsRequest(trials=[trial_pb2.Trial(notes="n"), trial_pb2.Trial(notes="n")], request_id="r")
    recorder = _Recorder()
    client = Client(cast(Caller, recorder), [], sent=[("CreateTrials", first)])

    for _ in range(20):
        client._repeat(Plan("plain", study_pb2.StudySpec()))

    assert {tuple(trial.notes for trial in request.trials) for request in recorder.requests} == {
        ("n", "n"),
        ("n another body", "n another body"),
    }


def _page(began: float, numbers: list[int], token: str = "", following: str = "") -> Call:
    trials = [trial_pb2.Trial(name=f"{NAME}/trials/{number}", revision=number) for number in numbers]
    request = pb.ListTrialsRequest(parent=NAME, page_size=2, page_token=token)
    answer = pb.ListTrialsResponse(trials=trials, next_page_token=following)
    return Call("c", "ListTrials", request, began, began + 1, Outcome.OK, answer)


def test_walks_through_pages_may_share_a_token() -> None:
    """The second walk goes on where the first did and finds what came since; it must not stop where the first did."""
    early = [_page(1.0, [1, 2], following="t"), _page(3.0, [3], token="t")]
    late = [_page(7.0, [1, 2], following="t"), _page(9.0, [3, 4], token="t")]
    short = [_page(7.0, [1, 2], following="t"), _page(9.0, [3], token="t")]
    seen = Call("d", "GetTrial", None, 5.0, 6.0, Outcome.OK, trial_pb2.Trial(name=f"{NAME}/trials/4", revision=4))

    assert not list(reads.pages_hold_every_trial(_evidence(*early, seen, *late)))
    assert list(reads.pages_hold_every_trial(_evidence(*early, seen, *short)))
