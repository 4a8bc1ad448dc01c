"""What load does to the service: tells beside heavy asks, starting with a full database, and ten thousand studies.

Used by service.py; the same rules hold: quiet and loaded phases take turns, and what counts are ratios of one run.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from asktell.v1 import study_service_pb2, trial_pb2
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.rpc.convert import read_spec
from asktell_server.storage.base import Transaction
from asktell_server.storage.sql import SqlStorage

if TYPE_CHECKING:
    from benchmarks.service import Address, Load

MIB = 2**20
HEAVY_STUDIES = 16


class _Unobserved:
    def committed(self, seconds: float, works: int) -> None:
        """Nobody wants to know."""


def p(quantile: float, found: list[float]) -> float:
    """The quantile, of at least one value."""
    ordered = sorted(found)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


async def tells_beside_heavy_asks(
    load: Load,
    address: Address,
    tell: Callable[[trial_pb2.Trial], study_service_pb2.TellRequest],
    rounds: int,
    count: int,
) -> None:
    """Tells of one study, one after the other, while nobody else calls, and while 16 studies ask the GP as fast as they can."""
    light = await load.create("light", "random")
    heavy = [await load.create(f"heavy{i}", "gp") for i in range(HEAVY_STUDIES)]
    asked = 0

    async def work(study: str, stub: object, asking: asyncio.Event, enough: asyncio.Event) -> None:
        nonlocal asked
        while not enough.is_set():
            await asking.wait()
            trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]  # type: ignore[attr-defined]
            await stub.Tell(tell(trial))  # type: ignore[attr-defined]
            asked += 1

    async def tells() -> list[float]:
        found: list[float] = []
        for _ in range(count // 100):
            trials = (await load.stubs[0].Ask(study_service_pb2.AskRequest(parent=light, count=100))).trials
            for trial in trials:
                started = time.perf_counter()
                await load.stubs[0].Tell(tell(trial))
                found.append(time.perf_counter() - started)
                await asyncio.sleep(0.002)  # one job that tells at its own pace, not a flood
        return found

    asking, enough = asyncio.Event(), asyncio.Event()
    workers = [
        asyncio.create_task(work(study, load.stubs[1 + i % (len(load.stubs) - 1)], asking, enough))
        for i, study in enumerate(heavy)
    ]
    # Past their initial designs, so that each ask is one for the model.
    asking.set()
    while asked < HEAVY_STUDIES * 20:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    asking.clear()
    ratios, halves, quiets, busies = [], [], [], []
    for _ in range(rounds):
        await _idle(address)
        quiet = await tells()
        asking.set()
        await asyncio.sleep(1.0)
        before, started = asked, time.perf_counter()
        busy = await tells()
        heavy_rate = (asked - before) / (time.perf_counter() - started)
        asking.clear()
        ratios.append(p(0.99, busy) / p(0.99, quiet))
        halves.append(p(0.5, busy) / p(0.5, quiet))
        quiets.append(p(0.99, quiet))
        busies.append(p(0.99, busy))
    enough.set()
    asking.set()
    await asyncio.gather(*workers)
    print(
        f"\nTells of one study while {HEAVY_STUDIES} others ask the GP ({heavy_rate:.1f} asks/s); load {os.getloadavg()[0]:.1f}"
    )
    print(f"  p99 quiet           {statistics.median(quiets) * 1e3:8.2f} ms")
    print(f"  p99 beside asks     {statistics.median(busies) * 1e3:8.2f} ms")
    print(f"  ratio of p50        {statistics.median(halves):8.2f}")
    print(
        f"  ratio of p99        {statistics.median(ratios):8.2f}   (goal: at most 2)   rounds {[round(r, 2) for r in ratios]}"
    )


async def _idle(address: Address) -> None:
    """Waits, at most two minutes, until the compute processes have had nothing to do for three seconds."""
    made, since, end = -1.0, time.monotonic(), time.monotonic() + 120
    while time.monotonic() < min(since + 3, end):
        now = address.counter('asktell_ask_phase_duration_seconds_count{phase="acquisition"}')
        if now != made:
            made, since = now, time.monotonic()
        await asyncio.sleep(0.5)


async def fill(database: Path, studies: int, trials: int, algorithm: str) -> None:
    """Writes so many studies of so many finished trials each, straight through the storage."""
    from benchmarks.service import study_spec

    spec, _ = read_spec(study_spec(algorithm), "bench", [], "")
    draw = random.Random(1)
    now = datetime(2026, 1, 1, tzinfo=UTC)
    storage = SqlStorage(str(database), observer=_Unobserved())
    await storage.start()

    def study(tx: Transaction, index: int) -> None:
        made = tx.insert_study(
            Study(
                id=0,
                project="bench",
                name=f"full{index:05}",
                spec=spec,
                state=StudyState.ACTIVE,
                create_time=now,
                update_time=now,
            )
        )
        tx.insert_trials(made.id, [_finished(i + 1, draw, now) for i in range(trials)])
        counts = {TrialState.SUCCEEDED: trials}
        tx.update_study(
            replace(made, revision=trials + 1, next_number=trials + 1, counts=counts, best_number=1, best_value=0.0)
        )

    pending: list[asyncio.Future[None]] = []
    for index in range(studies):
        pending.append(storage.submit(lambda tx, i=index: study(tx, i)))  # type: ignore[misc]
        if len(pending) == 256:
            await asyncio.gather(*pending)
            pending = []
    await asyncio.gather(*pending)
    await storage.stop()


def _finished(number: int, draw: random.Random, now: datetime) -> Trial:
    point = {f"x{i}": draw.uniform(1e-3, 1.0) for i in range(7)}
    return Trial(
        number=number,
        state=TrialState.SUCCEEDED,
        suggestion=Suggestion({**point, "act": draw.choice(("relu", "gelu", "tanh"))}, SuggestionSource.MODEL),
        create_time=now,
        start_time=now,
        end_time=now,
        measurement=Measurement({"loss": draw.random()}),
        revision=number + 1,
        finish_revision=number + 1,
    )


async def restart(folder: Path, serving: Callable[..., object], connect: Callable[[str], Load], rounds: int) -> None:
    """From starting the process to the first answered ask, with 1,000 studies of 200 trials in the database."""
    await fill(folder / "bench.db", 1000, 200, "gp")
    seconds = []
    for i in range(rounds):
        started = time.perf_counter()
        with serving(folder, "--log-level", "warning") as address:  # type: ignore[attr-defined]
            ready = time.perf_counter() - started
            load = connect(address.grpc)
            request = study_service_pb2.AskRequest(parent=f"projects/bench/studies/full{i:05}")
            await load.stubs[0].Ask(request, wait_for_ready=True)
            seconds.append((ready, time.perf_counter() - started))
            await load.close()
    bare = statistics.median(_bare_start() for _ in range(rounds))
    print(
        f"\nRestart with 1,000 studies of 200 trials, to the first answered ask of the GP; load {os.getloadavg()[0]:.1f}"
    )
    print(f"  python -c 'import torch' {bare:7.2f} s")
    print(f"  ready               {statistics.median(r for r, _ in seconds):8.2f} s")
    print(f"  first ask answered  {statistics.median(a for _, a in seconds):8.2f} s   (goal: under 3)")


def _bare_start() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - started


async def many_studies(
    folder: Path, serving: Callable[..., object], connect: Callable[[str], Load], studies: int, trials: int
) -> None:
    """Memory, GetTrial and ListTrials(100) with many studies, against a database that holds one."""
    empty, full = folder / "empty", folder / "full"
    for place, number in ((empty, 1), (full, studies)):
        place.mkdir()
        started = time.perf_counter()
        await fill(place / "bench.db", number, trials, "random")
        if place is full:
            print(f"\n{studies:,} studies of {trials} trials (written in {time.perf_counter() - started:.0f} s)")
    with serving(empty, "--log-level", "warning") as one, serving(full, "--log-level", "warning") as many:  # type: ignore[attr-defined]
        loads = connect(one.grpc), connect(many.grpc)
        found: dict[str, list[list[float]]] = {"GetTrial": [[], []], "ListTrials": [[], []]}
        draw = random.Random(2)
        for _ in range(400):
            for which, load in enumerate(loads):
                study = f"projects/bench/studies/full{draw.randrange((1, studies)[which]):05}"
                stub = load.stubs[0]
                started = time.perf_counter()
                await stub.GetTrial(
                    study_service_pb2.GetTrialRequest(name=f"{study}/trials/{draw.randrange(trials) + 1}")
                )
                found["GetTrial"][which].append(time.perf_counter() - started)
                started = time.perf_counter()
                await stub.ListTrials(study_service_pb2.ListTrialsRequest(parent=study, page_size=100))
                found["ListTrials"][which].append(time.perf_counter() - started)
        for method, (few, lots) in found.items():
            ratio = p(0.5, lots) / p(0.5, few)
            print(
                f"  {method:12} p50 {p(0.5, few) * 1e3:6.2f} ms -> {p(0.5, lots) * 1e3:6.2f} ms   ratio {ratio:.2f}   (goal: at most 2)"
            )
        await _ask_everywhere(loads[1], studies)
        memory = _memory(many)
        print(f"  memory after an ask of each study: {memory / MIB:.0f} MiB   (goal: under 1500)")
        for load in loads:
            await load.close()


async def _ask_everywhere(load: Load, studies: int) -> None:
    left = iter(range(studies))

    async def loop(stub: object) -> None:
        for index in left:
            await stub.Ask(study_service_pb2.AskRequest(parent=f"projects/bench/studies/full{index:05}"))  # type: ignore[attr-defined]

    await asyncio.gather(*(loop(stub) for stub in load.stubs))


def _memory(address: Address) -> int:
    port = int(address.grpc.rpartition(":")[2])
    serving = {
        c.pid for c in psutil.net_connections() if c.laddr and c.laddr.port == port and c.status == psutil.CONN_LISTEN
    }
    processes = [psutil.Process(pid) for pid in serving if pid]
    return sum(each.memory_info().rss for one in processes for each in (one, *one.children(recursive=True)))
