"""Reads for callers: others' reads hold up no heartbeat, projects take turns, and too many are refused."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.trial import Trial
from asktell_server.engine.admission import AdmissionConfig, QueueLimits
from asktell_server.service import trials
from asktell_server.service.reads import _Turns
from asktell_server.storage.base import READERS

from ..inprocess import InProcess, Stub, in_process
from ..rpc.refusals import read
from ..support import spec

WAIT_S = 20.0
LIMITS = QueueLimits(20, 15, 10)


class Held:
    """GetTrial keeps its reader until `let_go`. `begun` has the study of each call that has one, in order."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self._go = threading.Event()
        self.let_go = self._go.set

    def filled(self, _tx: object, study_id: int, trial: Trial, *_: object, **__: object) -> Trial:
        """In the place of the function that reads measurements."""
        self.begun.append(study_id)
        assert self._go.wait(WAIT_S)
        return trial


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    """Long reads."""
    made = Held()
    monkeypatch.setattr(trials, "filled", made.filled)
    yield made
    made.let_go()


@pytest.fixture(params=["sqlite", "postgresql"])
async def running(request: pytest.FixtureRequest, tmp_path: Path, held: Held) -> AsyncIterator[InProcess]:
    """A server with reader threads on a new database of each kind."""
    sqlite = request.param == "sqlite"
    database = str(tmp_path / "studies.db") if sqlite else request.getfixturevalue("postgres_url")
    async with in_process(database, admission=AdmissionConfig(waiting_reads=LIMITS)) as started:
        yield started
        held.let_go()


async def _trial(service: Stub, study: str) -> str:
    """A trial with a lease in a new study."""
    project, _, study_id = study.partition("/")
    made = spec()
    made.trial_policy.lease.FromTimedelta(timedelta(seconds=5))
    request = pb.CreateStudyRequest(parent=f"projects/{project}", study_id=study_id, study=study_pb2.Study(spec=made))
    name = (await service.CreateStudy(request)).name
    return (await service.Ask(pb.AskRequest(parent=name))).trials[0].name


def _get(service: Stub, trial: str, times: int, timeout: float | None = None) -> list[asyncio.Task[trial_pb2.Trial]]:
    async def get() -> trial_pb2.Trial:
        return await service.GetTrial(pb.GetTrialRequest(name=trial), timeout=timeout)

    return [asyncio.create_task(get()) for _ in range(times)]


async def _until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


def _waiting(running: InProcess) -> float | None:
    return running.app.registry.get_sample_value("asktell_queue_length", {"queue": "waiting_reads"})


async def test_heartbeats_asks_and_housekeeping_find_a_reader(running: InProcess, held: Held) -> None:
    """However many long reads wait, and however many callers of such reads have given up."""
    service = running.service
    mine, other, long = [await _trial(service, study) for study in ("p/mine", "p/other", "q/long")]
    given_up = await asyncio.gather(*_get(service, long, 8, timeout=0.5), return_exceptions=True)
    reading = _get(service, long, 8)
    await _until(lambda: _waiting(running) == 8)

    running.app.host.forget(1)
    running.app.host.forget(2)
    await service.Heartbeat(pb.HeartbeatRequest(name=mine), timeout=WAIT_S / 2)
    await service.Ask(pb.AskRequest(parent=other.partition("/trials/")[0]), timeout=WAIT_S / 2)
    async with asyncio.timeout(WAIT_S / 2):
        assert await running.pass_time(60.0) == 4

    assert {error.code() for error in given_up if isinstance(error, grpc.RpcError)} == {
        grpc.StatusCode.DEADLINE_EXCEEDED
    }
    assert len(held.begun) == READERS - 1
    held.let_go()
    assert {trial.name for trial in await asyncio.gather(*reading)} == {long}
    assert _waiting(running) == 0


async def test_projects_take_turns(running: InProcess, held: Held) -> None:
    """One read of a project comes before the last of many that another project sent earlier."""
    many, one = [await _trial(running.service, study) for study in ("p/many", "q/one")]
    reading = _get(running.service, many, 9)
    await _until(lambda: len(held.begun) == READERS - 1 and _waiting(running) == 9)
    reading += _get(running.service, one, 1)
    await _until(lambda: _waiting(running) == 10)

    held.let_go()
    await asyncio.gather(*reading)

    place = next(i for i, study_id in enumerate(held.begun) if study_id != held.begun[0])
    assert place < 2 * READERS


@pytest.mark.parametrize(
    "call",
    [
        lambda s, study: s.GetStudy(pb.GetStudyRequest(name=study)),
        lambda s, study: s.GetTrial(pb.GetTrialRequest(name=f"{study}/trials/1")),
        lambda s, study: s.ListTrials(pb.ListTrialsRequest(parent=study)),
        lambda s, study: s.ListBestTrials(pb.ListBestTrialsRequest(parent=study)),
        lambda s, study: s.ExplainStudy(pb.ExplainStudyRequest(name=study)),
        lambda s, study: s.WatchStudy(pb.WatchStudyRequest(name=study)).read(),
        lambda s, _: s.ListStudies(pb.ListStudiesRequest(parent="projects/-")),
    ],
    ids=["GetStudy", "GetTrial", "ListTrials", "ListBestTrials", "ExplainStudy", "WatchStudy", "ListStudies"],
)
async def test_every_read_is_refused_by_a_full_server(
    running: InProcess, held: Held, call: Callable[[Stub, str], Awaitable[object]]
) -> None:
    """With the time after which to come back; it is another project's that is served again once there is room."""
    service = running.service
    many, too, mine = [await _trial(service, study) for study in ("p/many", "q/many", "r/mine")]
    running.app.host.forget(3)
    reading = [*_get(service, many, LIMITS.per_study), *_get(service, too, LIMITS.per_study)]
    await _until(lambda: _waiting(running) == LIMITS.total)

    with pytest.raises(grpc.RpcError) as caught:
        await call(service, mine.partition("/trials/")[0])
    held.let_go()
    await asyncio.gather(*reading)
    await service.GetTrial(pb.GetTrialRequest(name=mine))

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
    assert refusal.metadata == {"queue": "waiting_reads", "scope": "server", "limit": str(LIMITS.total)}
    assert refusal.retry_delay_s is not None
    assert refusal.retry_delay_s > 0


async def test_an_open_watch_goes_on_beside_a_full_queue(running: InProcess, held: Held) -> None:
    """It has a place of its own, among the watches, and waits for its turn."""
    service = running.service
    many, mine = [await _trial(service, study) for study in ("p/many", "r/mine")]
    watch = service.WatchStudy(pb.WatchStudyRequest(name=mine.partition("/trials/")[0]))
    await watch.read()
    reading = _get(service, many, LIMITS.per_study)
    await _until(lambda: _waiting(running) == LIMITS.per_study)

    await service.Heartbeat(pb.HeartbeatRequest(name=mine))
    news = asyncio.create_task(watch.read())
    with pytest.raises(grpc.RpcError) as caught:
        await service.GetTrial(pb.GetTrialRequest(name=many))
    held.let_go()

    assert read(caught.value).metadata["scope"] == "study"
    assert (await news).trials[0].name == mine
    await asyncio.gather(*reading)
    watch.cancel()


@pytest.mark.parametrize("too_late", [False, True])
async def test_a_caller_that_gives_up_its_turn_leaves_it_to_the_next(*, too_late: bool) -> None:
    """Also if it gives up at the moment at which its turn comes."""
    turns = _Turns(1)
    await turns.begin("p", "s")
    waiting = [asyncio.create_task(turns.begin("p", "s")) for _ in range(2)]
    await asyncio.sleep(0)

    for act in (turns.end, waiting[0].cancel) if too_late else (waiting[0].cancel, turns.end):
        act()
    async with asyncio.timeout(WAIT_S):
        await waiting[1]
    turns.end()

    assert waiting[0].cancelled()
    assert (turns._free, list(turns._waiting)) == (1, [])
