"""The asyncio surface: the same journeys, awaited."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

import asktell
from asktell import FinishedTrial, TrialState, aio
from asktell._calls import Call

from .conftest import SPACE
from .fake import FakeServer, FakeService, Fault


@pytest.fixture
async def client(server: FakeServer) -> AsyncIterator[aio.AsyncClient]:
    """A client of the server."""
    async with await aio.connect(server.target, timeout=10) as client:
        yield client


@pytest.fixture
async def study(client: aio.AsyncClient) -> aio.AsyncStudy:
    """A study that maximizes accuracy."""
    return await client.create_study("digits", SPACE, maximize="accuracy")


async def test_the_journey_of_a_trial(study: aio.AsyncStudy) -> None:
    """Ask, report, tell, look at the best."""
    trial = await study.ask()
    advice = await trial.report(1, accuracy=0.5)
    await trial.tell(accuracy=0.75)
    best = await study.best_trial()

    assert not advice
    assert best is not None
    assert best.metrics == {"accuracy": 0.75}


async def test_constraints_and_an_algorithm_of_ones_own(client: aio.AsyncClient, fake: FakeService) -> None:
    """What `create_study` takes is what the synchronous one takes; a study to learn from is of the new study's project."""
    study = await client.create_study(
        "vision/digits",
        SPACE,
        maximize="accuracy",
        constraints={"latency": ("<=", 5)},
        algorithm=asktell.Gp(learn_from=["earlier"], priors={"lr": asktell.NormalPrior(0.1, width=0.2)}),
    )

    (request,) = fake.of("CreateStudy")
    assert [source.study for source in request.study.spec.algorithm.gp.transfer_sources] == [
        "projects/vision/studies/earlier"
    ]
    assert study.spec.constraints == {"latency": ("<=", 5.0)}


async def test_the_rest_of_the_surface(study: aio.AsyncStudy, client: aio.AsyncClient, fake: FakeService) -> None:
    """Lists, tables, enqueue, import, update, stop, resume and delete."""
    await study.enqueue({"lr": 0.2})
    await study.import_trials([FinishedTrial({"lr": 0.3}, {"accuracy": 0.1})])
    first, second, third = await study.ask(3)
    await first.tell_infeasible()
    await second.tell_failed()
    await third.tell_pruned(accuracy=0.2)
    await first.update(notes="n")
    fake.page_size = 2
    numbers = [trial.number async for trial in study.trials()]
    rows = await study.to_dicts()
    frame = await study.to_dataframe()
    await study.update(description="d")
    await study.stop("enough")
    stopped = study.state
    await study.resume()
    names = [found.id async for found in client.list_studies()]
    again = await client.get_study("digits")
    await again.delete()
    await client.delete_study("digits", missing_ok=True)

    assert numbers == [1, 2, 3, 4]
    assert [row["state"] for row in rows] == ["INFEASIBLE", "SUCCEEDED", "FAILED", "PRUNED"]
    assert list(frame["number"]) == numbers
    assert stopped is asktell.StudyState.STOPPED
    assert names == ["digits"]
    with pytest.raises(asktell.StudyNotFound):
        await study.reload()


async def test_a_lost_reply_does_not_act_twice(study: aio.AsyncStudy, fake: FakeService) -> None:
    """The repeat carries the same request_id."""
    fake.faults["Ask"] += [Fault(), Fault(code="CANCELLED", message="CANCELLED"), Fault(after=True)]

    trial = await study.ask()

    assert trial.number == 1
    assert len(fake.trials[study.name]) == 1
    assert len({request.request_id for request in fake.of("Ask")}) == 1


async def test_a_call_outlasts_a_restart_of_the_server(study: aio.AsyncStudy, server: FakeServer) -> None:
    """A server that is away for a moment costs time, not the call."""
    await asyncio.to_thread(server.stop)
    threading.Timer(0.5, server.start).start()

    trial = await study.ask()

    assert trial.number == 1


async def test_an_error_of_the_server_arrives_typed(study: aio.AsyncStudy, fake: FakeService) -> None:
    """Trailers come through grpc.aio with all violations."""
    fake.faults["Ask"].append(
        Fault(code="INVALID_ARGUMENT", reason="INVALID_ARGUMENT", violations=[("count", "too large")])
    )

    with pytest.raises(asktell.InvalidArgument) as caught:
        await study.ask(5)

    assert caught.value.violations == (asktell.FieldViolation("count", "too large"),)


async def test_a_leased_trial_is_renewed_until_it_is_told(client: aio.AsyncClient, fake: FakeService) -> None:
    """One task beats for all trials; told and forgotten ones are let go."""
    study = await client.create_study("leased", SPACE, maximize="accuracy", lease=0.15)
    kept, told, dropped = await study.ask(3)
    names = {kept.name, told.name, dropped.name}
    async with asyncio.timeout(10):
        while {request.name for request in fake.of("Heartbeat")} != names:
            await asyncio.sleep(0.01)
    await told.tell(accuracy=0.5)
    del dropped
    gc.collect()
    before = len(fake.of("Heartbeat"))
    async with asyncio.timeout(10):  # a beat for another trial may be on its way still
        while {request.name for request in fake.of("Heartbeat")[before:][-4:]} != {kept.name}:
            await asyncio.sleep(0.01)
        while len(fake.of("Heartbeat")) < before + 4:
            await asyncio.sleep(0.01)

    assert {request.name for request in fake.of("Heartbeat")[-2:]} == {kept.name}


async def test_a_watch_reconnects_and_misses_nothing(study: aio.AsyncStudy, fake: FakeService) -> None:
    """A broken stream is taken up at the last revision seen."""
    changes = study.watch()
    seen = [await anext(changes)]
    fake.faults["WatchStudy"].append(Fault())
    await study.ask()
    seen.append(await anext(changes))
    await study.ask()
    seen.append(await anext(changes))
    await changes.aclose()  # type: ignore[attr-defined]

    assert [change.revision for change in seen] == [1, 2, 3]
    assert [request.after_revision > 0 for request in fake.of("WatchStudy")] == [False, True]


async def accuracy(trial: aio.AsyncTrial) -> float:
    """An objective that always succeeds."""
    await asyncio.sleep(0)
    return float(trial.params["lr"])


@pytest.mark.parametrize("n_workers", [1, 4])
async def test_it_runs_as_many_trials_as_wanted(study: aio.AsyncStudy, fake: FakeService, n_workers: int) -> None:
    """Several workers do not overshoot, and a second run adds only what is missing."""
    await study.optimize(accuracy, n_trials=8, n_workers=n_workers)
    await study.optimize(accuracy, n_trials=10, n_workers=n_workers)

    assert fake.states(study.name) == ["SUCCEEDED"] * 10


async def test_each_way_to_end_is_told(study: aio.AsyncStudy, fake: FakeService) -> None:
    """A dict, pruned, infeasible, an own tell, a caught error."""

    async def objective(trial: aio.AsyncTrial) -> dict[str, float] | None:
        match trial.number:
            case 1:
                return {"accuracy": 0.5}
            case 2:
                raise asktell.TrialPruned
            case 3:
                raise asktell.TrialInfeasible
            case 4:
                await trial.tell(accuracy=0.1)
                return None
        raise ValueError("broke")

    await study.optimize(objective, n_trials=5, catch=(ValueError,))

    assert fake.states(study.name) == ["SUCCEEDED", "PRUNED", "INFEASIBLE", "SUCCEEDED", "FAILED"]


async def test_an_error_is_told_and_raised(study: aio.AsyncStudy, fake: FakeService) -> None:
    """Other workers finish their trials; the error arrives."""

    async def objective(trial: aio.AsyncTrial) -> float:
        if trial.number == 2:
            raise ZeroDivisionError
        await asyncio.sleep(0.1)
        return 0.5

    with pytest.raises(ZeroDivisionError):
        await study.optimize(objective, n_trials=20, n_workers=3)

    assert "RUNNING" not in fake.states(study.name)
    assert fake.states(study.name).count("FAILED") == 1


async def test_the_study_can_end_it(study: aio.AsyncStudy, fake: FakeService) -> None:
    """A server that has no more trials ends the loop without an error."""
    fake.faults["Ask"].append(Fault(code="FAILED_PRECONDITION", reason="STUDY_COMPLETED"))

    await study.optimize(accuracy)

    assert fake.states(study.name) == []


async def test_cancellation_is_what_is_raised(
    study: aio.AsyncStudy, fake: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the farewell of an ask that was cancelled is refused, or not answered."""
    real, ends = study.client.run, [asyncio.CancelledError]

    async def run(call: Call[Any], timeout_s: float | None = None) -> object:
        if call.method == "Ask" and ends:
            fake.faults["Ask"].append(Fault(code="INTERNAL"))
            raise ends.pop()
        return await real(call, timeout_s)

    monkeypatch.setattr(study.client, "run", run)

    with pytest.raises(asyncio.CancelledError):
        await study.optimize(accuracy, n_trials=5)

    assert not fake.faults["Ask"]


async def test_cancellation_tells_what_runs(study: aio.AsyncStudy) -> None:
    """A cancelled optimize leaves no trial RUNNING."""
    started = asyncio.Semaphore(0)

    async def objective(trial: aio.AsyncTrial) -> float:
        started.release()
        await asyncio.sleep(60)
        return 0.5

    task = asyncio.create_task(study.optimize(objective, n_trials=10, n_workers=3))
    for _ in range(3):
        await started.acquire()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    ends = [(trial.state, trial.state_reason) async for trial in study.trials()]
    assert ends == [(TrialState.FAILED, "interrupted")] * 3


async def test_the_default_client_belongs_to_the_loop(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module-level functions share one client per event loop."""
    monkeypatch.setenv("ASKTELL_TARGET", server.target)

    study = await aio.create_study("digits", SPACE, maximize="accuracy")
    again = await aio.get_study("digits")

    assert study.client is again.client
    await study.client.close()


async def test_a_closed_client_says_so(study: aio.AsyncStudy, client: aio.AsyncClient) -> None:
    """After close every call is Cancelled."""
    await client.close()
    await client.close()

    with pytest.raises(asktell.Cancelled, match="closed"):
        await study.ask()
