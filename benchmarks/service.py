"""Throughput and latency of the service, as ratios against a bare echo server, a bare commit and each other, in one run.

    make bench                            everything, about four minutes
    python benchmarks/service.py --quick  a short look

Servers run in processes of their own; the load comes from this process. Peers take turns within each round, so that a slow
moment of the machine hits both; what is printed is the median over rounds, and for ratios the median of each round's ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import grpc
import grpc.aio

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2
from asktell_server.testing.postgresql import PostgresServer

if __package__ is None or not __package__:  # run as a file
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks.load import many_studies, restart, tells_beside_heavy_asks

ECHO = "/bench.Echo/Call"
CLIENTS = 8
OF_LOAD = ("tells", "restart", "studies")
# About what an Ask's reply weighs.
PAYLOAD = b"x" * 200


@contextmanager
def echo_server() -> Iterator[str]:
    """Address of a bare echo server."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("echo_server.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.communicate(timeout=30)


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    grpc: str
    http: str

    def counter(self, sample: str) -> float:
        """The value of one sample of its /metrics, such as `name{label="value"}`; 0 if there is none."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as response:
            for line in response.read().decode().splitlines():
                if line.startswith(sample + " "):
                    return float(line.rpartition(" ")[2])
        return 0.0


@contextmanager
def asktell_server(folder: Path, *flags: str, database: str = "") -> Iterator[Address]:
    """A server on `database`, or else a SQLite file in `folder`, at full durability."""
    ready = folder / "ready.json"
    ready.unlink(missing_ok=True)
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "asktell_server", "--database", database or str(folder / "bench.db")),
                *("--listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"),
                *("--ready-file", str(ready), "--stop-with-parent", *flags),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.05)
        yield Address(**json.loads(ready.read_text()))
    finally:
        process.communicate(timeout=60)


def study_spec(algorithm: str, dimensions: int = 8) -> study_pb2.StudySpec:
    """A mixed space: floats (half of them log) and one categorical."""
    parameters = [
        search_space_pb2.Parameter(
            name=f"x{i}", float=search_space_pb2.FloatParameter(min=1e-3, max=1.0, log=i % 2 == 0)
        )
        for i in range(dimensions - 1)
    ]
    choices = [search_space_pb2.ParameterValue(string_value=name) for name in ("relu", "gelu", "tanh")]
    parameters.append(
        search_space_pb2.Parameter(name="act", categorical=search_space_pb2.CategoricalParameter(choices=choices))
    )
    spec = study_pb2.StudySpec(
        parameters=parameters,
        objectives=[study_pb2.Objective(metric="loss", direction=study_pb2.Objective.MINIMIZE)],
        seed=1,
    )
    getattr(spec.algorithm, algorithm).SetInParent()
    return spec


def loss(trial: trial_pb2.Trial) -> float:
    """Something smooth to minimise."""
    numbers = [v.float_value for v in trial.parameters.values() if v.HasField("float_value")]
    return sum((number - 0.3) ** 2 for number in numbers) + (trial.parameters["act"].string_value == "relu")


def tell_request(trial: trial_pb2.Trial) -> study_service_pb2.TellRequest:
    """The trial's result."""
    return study_service_pb2.TellRequest(
        name=trial.name, measurement=trial_pb2.Measurement(metrics={"loss": loss(trial)})
    )


async def rate(call: Callable[[], Awaitable[int]], seconds: float) -> float:
    """Calls per second that `CLIENTS` loops of `call` reach together; `call` returns how many calls it made."""
    end = time.perf_counter() + seconds
    done = 0

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() < end:
            made = await call()  # before the sum is read: others add to it meanwhile
            done += made

    started = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(CLIENTS)))
    return done / (time.perf_counter() - started)


async def latencies(call: Callable[[], Awaitable[object]], count: int) -> list[float]:
    """Seconds of each of `count` calls, one after the other."""
    found = []
    for _ in range(count):
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
    return found


def bare_commits(folder: Path, count: int) -> list[float]:
    """Seconds of each of `count` one-row SQLite transactions in WAL mode with synchronous=FULL."""
    connection = sqlite3.connect(folder / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (a INTEGER PRIMARY KEY, b TEXT)")
    found = []
    for _ in range(count):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO t (b) VALUES (?)", ("x" * 200,))
        connection.execute("COMMIT")
        found.append(time.perf_counter() - started)
    connection.close()
    return found


class Load:
    """Channels and calls to both servers: one channel per client."""

    def __init__(self, echo: str, asktell: str) -> None:
        # A local subchannel pool keeps the channels from sharing one connection.
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._echo_channels = [grpc.aio.insecure_channel(echo, options=own) for _ in range(CLIENTS)]
        self._channels = [grpc.aio.insecure_channel(asktell, options=own) for _ in range(CLIENTS)]
        self._echo: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = [
            channel.unary_unary(ECHO) for channel in self._echo_channels
        ]
        self.stubs: list[study_service_pb2_grpc.StudyServiceAsyncStub] = [
            study_service_pb2_grpc.StudyServiceStub(channel) for channel in self._channels
        ]
        self._turn = 0

    async def close(self) -> None:
        """Closes all channels."""
        for channel in (*self._echo_channels, *self._channels):
            await channel.close()

    def _next(self) -> int:
        self._turn = (self._turn + 1) % CLIENTS
        return self._turn

    async def echo(self) -> int:
        """One echo."""
        await self._echo[self._next()](PAYLOAD)
        return 1

    async def echo_first(self) -> None:
        """One echo on the first channel."""
        await self._echo[0](PAYLOAD)

    async def ask_tell(self, study: str) -> int:
        """One ask and its tell."""
        stub = self.stubs[self._next()]
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        await stub.Tell(tell_request(trial))
        return 2

    async def create(self, name: str, algorithm: str) -> str:
        """Creates a study; returns its name."""
        request = study_service_pb2.CreateStudyRequest(
            parent="projects/bench", study_id=name, study=study_pb2.Study(spec=study_spec(algorithm))
        )
        return (await self.stubs[0].CreateStudy(request)).name


async def throughput(load: Load, rounds: int, seconds: float, *, where: str, goal: float) -> None:
    """ask+tell with `random` against echo, with 8 concurrent clients."""
    study = await load.create("throughput", "random")
    await rate(load.echo, 0.5)
    await rate(lambda: load.ask_tell(study), 0.5)
    echoes, asks, ratios = [], [], []
    for _ in range(rounds):
        echo = await rate(load.echo, seconds)
        ours = await rate(lambda: load.ask_tell(study), seconds)
        echoes.append(echo)
        asks.append(ours)
        ratios.append(ours / echo)
    print(f"\nThroughput, {CLIENTS} concurrent clients, random, {where} at full durability")
    print(f"  echo                {statistics.median(echoes):8.0f} RPC/s")
    print(f"  ask + tell          {statistics.median(asks):8.0f} RPC/s")
    print(f"  ratio               {statistics.median(ratios):8.2f}   (goal: at least {goal:.2f})")


async def held_latency(load: Load, address: Address, folder: Path, count: int) -> None:
    """An ask that finds a held suggestion, against one echo plus one bare commit."""
    study = await load.create("held", "gp")
    stub = load.stubs[0]
    for _ in range(20):  # past the initial design
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        await stub.Tell(tell_request(trial))
    hits = 'asktell_look_ahead_total{outcome="hit"}'
    held, echoes, commits = [], [], []
    for _ in range(count):
        await asyncio.sleep(2.0)  # a training step: time in which the next suggestion is made
        before = address.counter(hits)
        await load.echo_first()
        started = time.perf_counter()
        trial = (await stub.Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
        seconds = time.perf_counter() - started
        if address.counter(hits) > before:
            held.append(seconds)
        echoes += await latencies(load.echo_first, 5)
        commits += bare_commits(folder, 5)
        await stub.Tell(tell_request(trial))
    floor = statistics.median(echoes) + statistics.median(commits)
    print(f"\nLatency of an ask that finds a held suggestion, one client ({len(held)} of {count} asks found one)")
    print(f"  echo round trip     {statistics.median(echoes) * 1e3:8.2f} ms")
    print(f"  bare commit         {statistics.median(commits) * 1e3:8.2f} ms")
    if held:
        print(f"  held ask            {statistics.median(held) * 1e3:8.2f} ms")
        print(f"  ratio               {statistics.median(held) / floor:8.2f}   (goal: under 3)")


async def commit_rate(load: Load, folder: Path, rounds: int, seconds: float) -> None:
    """Acknowledged writes per second against bare commits per second."""
    study = await load.create("commits", "random")
    ratios, ours = [], []
    for _ in range(rounds):
        bare = 1 / statistics.median(bare_commits(folder, 200))
        writes = await rate(lambda: load.ask_tell(study), seconds)
        ours.append(writes)
        ratios.append(writes / bare)
    print("\nDurable writes, 8 concurrent clients (a write is acknowledged after its commit)")
    print(f"  acknowledged writes {statistics.median(ours):8.0f} /s")
    print(f"  bare commits, one after the other, are {1 / statistics.median(ratios):.2f} times as many")


async def latency_by_history(load: Load, algorithms: dict[str, list[int]], asks: int) -> None:
    """Time from a tell's reply to the answered next ask, by number of finished trials."""
    print("\nFresh ask right after a tell, median ms by number of finished trials")
    for algorithm, sizes in algorithms.items():
        study = await load.create(f"history-{algorithm}", algorithm)
        cells = []
        finished = 0
        for size in sizes:
            await import_random(load, study, size - finished)
            found = []
            for _ in range(asks):
                started = time.perf_counter()
                trial = (await load.stubs[0].Ask(study_service_pb2.AskRequest(parent=study))).trials[0]
                found.append(time.perf_counter() - started)
                await load.stubs[0].Tell(tell_request(trial))
            finished = size + asks
            cells.append(f"n={size}: {statistics.median(found) * 1e3:.1f}")
        print(f"  {algorithm:10} {'   '.join(cells)}")


async def import_random(load: Load, study: str, count: int) -> None:
    """Brings in finished trials at points of a helper study with random search."""
    name = f"source-{study.rsplit('/', 1)[1]}-{count}"
    source = await load.create(name, "random")
    left = count
    while left > 0:
        batch = min(left, 500)
        asked = await load.stubs[0].Ask(study_service_pb2.AskRequest(parent=source, count=batch))
        trials = [
            trial_pb2.Trial(
                parameters=trial.parameters,
                state=trial_pb2.Trial.SUCCEEDED,
                measurement=trial_pb2.Measurement(metrics={"loss": loss(trial)}),
            )
            for trial in asked.trials
        ]
        await load.stubs[0].CreateTrials(study_service_pb2.CreateTrialsRequest(parent=study, trials=trials))
        left -= batch


async def main() -> None:
    """Runs every measurement and prints its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short rounds")
    choices = ["throughput", "postgres", "held", "commits", "history", *OF_LOAD]
    parser.add_argument("--only", choices=choices, help="one measurement")
    parser.add_argument("--studies", type=int, default=10_000, help="of the measurement `studies`")
    parser.add_argument("--trials", type=int, default=100, help="of each of them; --quick divides the studies by ten")
    options = parser.parse_args()
    rounds, seconds = (2, 1.0) if options.quick else (7, 3.0)
    print(f"Python {platform.python_version()}, grpcio {grpc.__version__}, SQLite {sqlite3.sqlite_version}")
    with tempfile.TemporaryDirectory(prefix="asktell-bench-") as name:
        folder = Path(name)
        with echo_server() as echo, asktell_server(folder, "--log-level", "warning") as address:
            load = Load(echo, address.grpc)
            if options.only in (None, "throughput"):
                await throughput(load, rounds, seconds, where="SQLite", goal=0.5)
            if options.only in (None, "commits"):
                await commit_rate(load, folder, rounds, seconds)
            if options.only in (None, "held"):
                await held_latency(load, address, folder, 5 if options.quick else 30)
            if options.only in (None, "history"):
                cheap = [10, 100, 1000] if options.quick else [10, 100, 1000, 10_000]
                model = [20, 50] if options.quick else [20, 50, 100, 200, 500]
                ours = [20, 50, 100] if options.quick else [20, 50, 100, 200, 500, 10_000]
                sizes = {"random": cheap, "grid": cheap, "sobol": cheap, "skopt": model, "gp": ours}
                await latency_by_history(load, sizes, 3 if options.quick else 7)
            if options.only in (None, "tells"):
                await tells_beside_heavy_asks(
                    load, address, tell_request, 2 if options.quick else 5, 500 if options.quick else 2000
                )
            await load.close()
        if options.only in (None, "throughput", "postgres"):
            with (
                echo_server() as echo,
                PostgresServer() as postgres,
                asktell_server(folder, "--log-level", "warning", database=postgres.new_database()) as address,
            ):
                load = Load(echo, address.grpc)
                await throughput(load, rounds, seconds, where="PostgreSQL", goal=1 / 3)
                await load.close()
    with tempfile.TemporaryDirectory(prefix="asktell-bench-") as name, echo_server() as echo:
        if options.only in (None, "restart"):
            await restart(Path(name), asktell_server, partial(Load, echo), 1 if options.quick else 3)
    with tempfile.TemporaryDirectory(prefix="asktell-bench-") as name, echo_server() as echo:
        if options.only in (None, "studies"):
            studies = options.studies // 10 if options.quick else options.studies
            await many_studies(Path(name), asktell_server, partial(Load, echo), studies, options.trials)


if __name__ == "__main__":
    asyncio.run(main())
