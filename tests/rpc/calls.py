"""Short forms of the calls that the tests make again and again, over the bare stub."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2_grpc, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..support import spec

Stub = study_service_pb2_grpc.StudyServiceStub
State = trial_pb2.Trial.State
WAIT_S = 30.0


def new_study(service: Stub, study_id: str, made: study_pb2.StudySpec | None = None, project: str = "default") -> str:
    """Creates a study (random search over two floats unless told otherwise) and returns its name."""
    study = study_pb2.Study(spec=made if made is not None else spec())
    request = pb.CreateStudyRequest(parent=f"projects/{project}", study_id=study_id, study=study)
    return service.CreateStudy(request).name


def study_of(service: Stub, name: str) -> study_pb2.Study:
    """The study."""
    return service.GetStudy(pb.GetStudyRequest(name=name))


def trial_of(service: Stub, name: str) -> trial_pb2.Trial:
    """The trial with all its measurements."""
    return service.GetTrial(pb.GetTrialRequest(name=name))


def ask(service: Stub, study: str, count: int = 1, **fields: str) -> list[trial_pb2.Trial]:
    """Asks for trials."""
    return list(service.Ask(pb.AskRequest(parent=study, count=count, **fields), timeout=60).trials)


def ask_one(service: Stub, study: str, **fields: str) -> trial_pb2.Trial:
    """Asks for one trial."""
    (trial,) = ask(service, study, **fields)
    return trial


def loss(value: float, step: int | None = None, **more: float) -> trial_pb2.Measurement:
    """A measurement of the one objective of the usual spec."""
    return trial_pb2.Measurement(metrics={"loss": value, **more}, step=step)


def tell(service: Stub, trial: str, value: float, request_id: str = "") -> pb.TellResponse:
    """Tells that a trial succeeded."""
    return service.Tell(pb.TellRequest(name=trial, measurement=loss(value), request_id=request_id))


def report(service: Stub, trial: str, value: float, step: int) -> pb.ReportResponse:
    """Reports an intermediate measurement."""
    return service.Report(pb.ReportRequest(name=trial, measurement=loss(value, step)))


def point(**values: float) -> dict[str, search_space_pb2.ParameterValue]:
    """A point of floats."""
    return {name: search_space_pb2.ParameterValue(float_value=value) for name, value in values.items()}


def finished(value: float, **point_: float) -> trial_pb2.Trial:
    """A finished trial to import."""
    return trial_pb2.Trial(parameters=point(**point_), state=trial_pb2.Trial.SUCCEEDED, measurement=loss(value))


def enqueue(service: Stub, study: str, trials: Iterable[trial_pb2.Trial]) -> list[trial_pb2.Trial]:
    """Creates trials."""
    return list(service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=trials)).trials)


def every_trial(service: Stub, study: str, page_size: int = 1000) -> list[trial_pb2.Trial]:
    """All trials of a study in full, page by page."""
    found: list[trial_pb2.Trial] = []
    token = ""
    while True:
        request = pb.ListTrialsRequest(parent=study, page_size=page_size, page_token=token, view=pb.FULL)
        page = service.ListTrials(request)
        found += page.trials
        token = page.next_page_token
        if not token:
            return found


def number(trial: trial_pb2.Trial) -> int:
    """The number of a trial."""
    return int(trial.name.rpartition("/")[2])


def floats(trial: trial_pb2.Trial) -> Mapping[str, float]:
    """The parameters of a trial in a space of floats."""
    return {name: value.float_value for name, value in trial.parameters.items()}


def until(condition: Callable[[], object], what: str) -> None:
    """Waits until `condition` holds; fails after half a minute."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.05)
