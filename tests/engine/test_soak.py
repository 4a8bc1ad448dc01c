"""Long runs on a real server, each with a short form: compute processes that keep dying, studies that keep coming."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..rpc.calls import Stub, ask_one, enqueue, finished, new_study, number, tell
from ..support import ServerProcess, serving, spec, stub

Source = trial_pb2.Suggestion
CLIENTS = 4
MIB = 1024 * 1024


def compute_processes(server: ServerProcess) -> list[int]:
    """Process ids of the server's compute processes."""
    found = []
    for children in Path(f"/proc/{server.pid}/task").glob("*/children"):
        with suppress(OSError):  # the thread, or a process, ended meanwhile
            for pid in children.read_text().split():
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                    found.append(int(pid))
    return found


@contextmanager
def killing(server: ServerProcess, every_s: float) -> Iterator[list[int]]:
    """Kills all compute processes again and again; yields the list of those killed."""
    killed: list[int] = []
    end = threading.Event()

    def run() -> None:
        while not end.wait(every_s):
            for pid in compute_processes(server):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield killed
    finally:
        end.set()
        thread.join()


def modelled(service: Stub, study_id: str) -> str:
    """A study whose suggestions come from a model."""
    made = spec("skopt")
    made.algorithm.skopt.CopyFrom(
        study_pb2.SkoptOptimizer(base_estimator=study_pb2.SkoptOptimizer.ET, initial_points=2)
    )
    study = new_study(service, study_id, made)
    enqueue(service, study, [finished(i / 5, x0=i / 5, x1=0.5) for i in range(5)])
    return study


def work(target: str, study: str, end: threading.Event) -> list[trial_pb2.Trial]:
    """One client: asks and tells until the end; whatever is refused fails the test."""
    trials = []
    with stub(target) as service:
        while not end.is_set():
            trial = service.Ask(pb.AskRequest(parent=study), timeout=60).trials[0]
            tell(service, trial.name, trial.parameters["x0"].float_value)
            trials.append(trial)
    return trials


def every_ask_is_answered(folder: Path, *, every_s: float, kills: int) -> None:
    """Works on two studies while the compute processes die."""
    with serving(folder, "--workers", "2") as server, stub(server.target) as service:
        studies = [modelled(service, f"dying-{i}") for i in range(2)]
        assert ask_one(service, studies[0]).suggestion.source == Source.MODEL
        restarts = server.metric("asktell_worker_restarts_total")
        end = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as threads:
            clients = [threads.submit(work, server.target, studies[i % 2], end) for i in range(CLIENTS)]
            try:
                with killing(server, every_s) as killed:
                    while len(killed) < kills and not any(client.done() for client in clients):
                        end.wait(0.05)
            finally:
                end.set()
            answered = [client.result() for client in clients]
        after = ask_one(service, studies[0])

        assert all(answered)
        for parity in range(2):
            given = [number(trial) for trials in answered[parity::2] for trial in trials]
            assert len(given) == len(set(given))
        sources = {trial.suggestion.source for trials in answered for trial in trials}
        assert Source.FALLBACK in sources
        assert sources <= {Source.FALLBACK, Source.MODEL}
        assert server.metric("asktell_worker_restarts_total") > restarts
        assert after.suggestion.source == Source.MODEL


@pytest.mark.timeout(120)
def test_every_ask_is_answered_while_compute_processes_die(tmp_path: Path) -> None:
    """A handful of kills under load: nothing is refused, no number is given twice, and the model comes back."""
    every_ask_is_answered(tmp_path, every_s=0.5, kills=5)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_every_ask_is_answered_while_compute_processes_die_every_second(tmp_path: Path) -> None:
    """The same, for some minutes."""
    every_ask_is_answered(tmp_path, every_s=1.0, kills=150)


def resident(server: ServerProcess) -> int:
    """Resident memory of the server process, in bytes."""
    pages = int(Path(f"/proc/{server.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth(server: ServerProcess, service: Stub, studies: int, trials: int) -> int:
    """How many bytes the server grew by from the first half of the studies to the second; each is asked and has a history."""
    sizes = []
    history = [finished(i / trials, x0=i / trials, x1=0.5) for i in range(trials)]
    for i in range(studies):
        study = new_study(service, f"many-{i}", spec("sobol"))
        enqueue(service, study, history)
        ask_one(service, study)
        if i + 1 in (studies // 2, studies):
            sizes.append(resident(server))
    return sizes[1] - sizes[0]


def test_memory_does_not_grow_with_the_number_of_studies(tmp_path: Path) -> None:
    """Beyond the live studies, further ones take the place of others: 60 with 400 trials each would need twice that much more."""
    with serving(tmp_path, "--live-studies", "5") as server, stub(server.target) as service:
        grown = growth(server, service, studies=60, trials=400)

        assert server.metric("asktell_live_studies") == 5
        assert grown < 8 * MIB


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_hundreds_of_studies(tmp_path: Path) -> None:
    """500 studies of 1000 trials, 50 of them live: the second half adds next to nothing."""
    with serving(tmp_path, "--live-studies", "50") as server, stub(server.target) as service:
        grown = growth(server, service, studies=500, trials=1000)

        assert server.metric("asktell_live_studies") == 50
        assert grown < 40 * MIB
