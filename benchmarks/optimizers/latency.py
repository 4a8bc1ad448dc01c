"""How long a client waits for the next suggestion as a study grows, through the real server: the one of
benchmarks/service.py, on its 8-dimensional mixed space.

    fresh ask     from sending a tell to holding the next suggestion, nothing made ahead: the client asks at once
    held ask      an ask after a pause in which the suggestion was made ahead, beside asks of `random`

Finished trials are imported. Optuna's GPSampler is given as many trials and timed in its own process, without server or disk, in turns with
ours, so that a slow moment of the machine hits both.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from asktell.v1 import study_service_pb2

from ..service import Address, Load, asktell_server, import_random, tell_request
from . import space as spaces
from .catalogue import PEERS
from .child import Child, PeerFailed
from .protocol import StudyBrief
from .space import Space, choice, real

SPACE: Space = (
    *(real(f"x{i}", 1e-3, 1.0, log=i % 2 == 0) for i in range(7)),
    choice("act", ["relu", "gelu", "tanh"]),
)
SIZES = (100, 200, 500, 10_000)
PEER_SIZES = (100, 200, 500)


def _value(point: spaces.Point) -> float:
    """The loss of benchmarks/service.py, of a point."""
    numbers = [value for value in point.values() if isinstance(value, float)]
    return sum((number - 0.3) ** 2 for number in numbers) + (point["act"] == "relu")


def _optuna(size: int) -> Child:
    child = Child(PEERS["optuna-gp"])
    settings = PEERS["optuna-gp"].settings
    child.start(
        StudyBrief("latency", SPACE, ("loss",), (), noisy=False, seed=1, budget=size, parallel=1, settings=settings)
    )
    rng = np.random.default_rng(size)
    for _ in range(size):
        point = spaces.sample(SPACE, rng)
        child.call(op="add", point=point, values=[_value(point)], slack=[])
    return child


def _optuna_round(child: Child, trial: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    _, tell = child.call(op="tell", id=trial["id"], values=[_value(trial["point"])], slack=[])
    answer, ask = child.call(op="ask")
    return tell + ask, answer


async def _fresh(load: Load, algorithm: str, rounds: int, rows: list[dict[str, Any]]) -> None:
    study = await load.create(f"fresh-{algorithm}", algorithm)
    stub = load.stubs[0]
    finished = 0
    for size in SIZES:
        await import_random(load, study, size - finished)
        other: Child | None = None
        answer: dict[str, Any] = {}
        if size in PEER_SIZES:
            try:
                other = _optuna(size)
                answer, _ = other.call(op="ask")
            except PeerFailed as error:
                print(f"optuna-gp is not measured: {error}")
                other = None
        mine, theirs = [], []
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        for _ in range(rounds):
            started = time.perf_counter()
            await stub.Tell(tell_request(trial))
            trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
            mine.append(time.perf_counter() - started)
            await asyncio.sleep(0.5)
            if other is not None:
                seconds, answer = _optuna_round(other, answer)
                theirs.append(seconds)
        await stub.Tell(tell_request(trial))
        finished = size + rounds + 1
        rows.append(_row(f"{algorithm}: tell and fresh ask", size, mine))
        if other is not None:
            rows.append(_row("optuna-gp: tell and ask, in process", size, theirs))
            other.close()


async def _held(load: Load, address: Address, algorithm: str, rounds: int, rows: list[dict[str, Any]]) -> None:
    study, plain = (
        await load.create(f"held-{algorithm}", algorithm),
        await load.create(f"held-random-{algorithm}", "random"),
    )
    stub = load.stubs[0]
    await import_random(load, study, 100)
    hits = 'asktell_look_ahead_total{outcome="hit"}'
    held, random = [], []
    for _ in range(rounds):
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        await stub.Tell(tell_request(trial))
        await asyncio.sleep(3.0)
        before = address.counter(hits)
        # One ask of `random` warms the connection, the next is timed.
        for timed in (False, True):
            started = time.perf_counter()
            other = (await stub.Ask(study_service_pb2.AskRequest(parent=plain))).trials[0]
            if timed:
                random.append(time.perf_counter() - started)
            await stub.Tell(tell_request(other))
        started = time.perf_counter()
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        seconds = time.perf_counter() - started
        if address.counter(hits) > before:
            held.append(seconds)
        await stub.Tell(tell_request(trial))
    rows.append(_row(f"{algorithm}: held ask", 100, held))
    rows.append(_row("random: ask", 100, random))


def _row(what: str, n: int, seconds: list[float]) -> dict[str, Any]:
    median = statistics.median(seconds) * 1e3 if seconds else float("nan")
    print(f"  {what:40} n = {n:6}  median {median:9.2f} ms  ({len(seconds)} measured)", flush=True)
    return {"what": what, "n": n, "median_ms": median, "count": len(seconds)}


async def _measure(algorithm: str, rounds: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="asktell-bench-") as name:
        with asktell_server(Path(name), "--log-level", "warning", "--workers", "1") as address:
            load = Load(address.grpc, address.grpc)
            await _held(load, address, algorithm, rounds, rows)
            await _fresh(load, algorithm, rounds, rows)
            await load.close()
    return rows


def measure(algorithm: str, rounds: int, path: Path) -> None:
    """Measures all, prints the figures and leaves them in a file for the report."""
    rows = asyncio.run(_measure(algorithm, rounds))
    note = f"median of {rounds}, Optuna's sampler and ours in turns."
    path.write_text(json.dumps({"note": note, "rows": rows}))
