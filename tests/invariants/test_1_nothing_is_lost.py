"""Invariant 1: no acknowledged Tell, Report or CreateTrials is ever lost; no trial number is ever given twice."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
import pytest

from asktell.v1 import study_service_pb2_grpc, trial_pb2

from ..rpc.calls import Stub, ask_one, enqueue, every_trial, finished, new_study, number, report, study_of, tell
from ..support import ServerProcess, serving
from ..tools.find import tool

R = TypeVar("R")
State = trial_pb2.Trial
# A client that comes back soon after the server does.
RECONNECT = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]


class _Client:
    """Works on a study without pause, and remembers what was acknowledged."""

    def __init__(self, index: int, target: str, study: str, end: threading.Event) -> None:
        self.index = index
        self.target = target
        self.study = study
        self.end = end
        self.asked: list[int] = []
        self.told: dict[str, float] = {}
        self.reported: Counter[str] = Counter()
        self.imported: dict[str, float] = {}

    def run(self) -> _Client:
        with grpc.insecure_channel(self.target, options=RECONNECT) as channel:
            service = study_service_pb2_grpc.StudyServiceStub(channel)
            for i in itertools.count():
                if self.end.is_set():
                    return self
                self._round(service, self.index + i / 1_000_000)
        raise AssertionError("unreachable")

    def _round(self, service: Stub, value: float) -> None:
        trial = self._acknowledged(lambda: ask_one(service, self.study, worker=f"w{self.index}"))
        if trial is None:
            return
        self.asked.append(number(trial))
        for step in range(2):
            if self._acknowledged(lambda s=step: report(service, trial.name, value, s)) is not None:  # type: ignore[misc]
                self.reported[trial.name] += 1
        if self._acknowledged(lambda: tell(service, trial.name, value)) is not None:
            self.told[trial.name] = value
        made = self._acknowledged(lambda: enqueue(service, self.study, [finished(value, x0=0.5, x1=0.5)]))
        if made is not None:
            self.imported[made[0].name] = value

    @staticmethod
    def _acknowledged(call: Callable[[], R]) -> R | None:
        """What the call returns, or None if the server was lost; whether it took effect is then unknown."""
        try:
            return call()
        except grpc.RpcError as error:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNKNOWN), error  # type: ignore[attr-defined]
            time.sleep(0.02)
            return None


def _kill_in_mid_load(server: ServerProcess, kills: int, load_s: float) -> list[_Client]:
    """Lets clients work while the server is killed again and again; returns the clients and what they were told."""
    with grpc.insecure_channel(server.target) as channel:
        study = new_study(study_service_pb2_grpc.StudyServiceStub(channel), "killed")
    end = threading.Event()
    clients = [_Client(i, server.target, study, end) for i in range(6)]
    with ThreadPoolExecutor(len(clients)) as threads:
        running = [threads.submit(client.run) for client in clients]
        try:
            for _ in range(kills):
                time.sleep(load_s)
                server.kill()
                server.start()
            time.sleep(load_s)
        finally:
            end.set()
        for each in running:
            each.result()
    return clients


def _check(server: ServerProcess, clients: list[_Client]) -> None:
    with grpc.insecure_channel(server.target) as channel:
        service = study_service_pb2_grpc.StudyServiceStub(channel)
        study = study_of(service, clients[0].study)
        trials = {trial.name: trial for trial in every_trial(service, study.name)}

    given = [n for client in clients for n in client.asked]
    imported = [int(name.rpartition("/")[2]) for client in clients for name in client.imported]
    assert max(Counter(given + imported).values()) == 1
    assert sorted(number(trial) for trial in trials.values()) == list(range(1, len(trials) + 1))
    for client in clients:
        assert client.told
        assert client.imported
        for name, value in {**client.told, **client.imported}.items():
            assert trials[name].state == State.SUCCEEDED
            assert trials[name].measurement.metrics["loss"] == value
        for name, reports in client.reported.items():
            assert len(trials[name].intermediate_measurements) >= reports
        for n in client.asked:
            assert trials[f"{study.name}/trials/{n}"].worker == f"w{client.index}"
    counts = study.trial_counts
    states = Counter(trial.state for trial in trials.values())
    assert (counts.running, counts.succeeded) == (states[State.RUNNING], states[State.SUCCEEDED])
    assert study.revision == max(trial.revision for trial in trials.values())


def test_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """Clients work at full load while the server is killed twice: everything acknowledged is there, no number was given twice."""
    with serving(tmp_path) as server:
        clients = _kill_in_mid_load(server, kills=2, load_s=1.0)

        _check(server, clients)


@pytest.mark.parametrize(("call", "error", "when"), [("fdatasync", "EIO", "30+10"), ("pwrite64", "ENOSPC", "100+17")])
def test_what_was_acknowledged_survives_a_disk_that_fails_now_and_then(
    tmp_path: Path, call: str, error: str, when: str
) -> None:
    """Every so many-th flush or write of the server fails, as the kernel would say it, and it is killed: refused calls are
    UNAVAILABLE, others go on, and what was acknowledged is there.
    """
    calls = tmp_path / "calls.txt"
    failing = (tool("strace"), "--follow-forks", "--seccomp-bpf", "--output", str(calls), "--trace", call)
    server = ServerProcess(tmp_path, under=(*failing, "--inject", f"{call}:error={error}:when={when}"))
    try:
        server.start()
        clients = _kill_in_mid_load(server, kills=0, load_s=2.0)
        server.kill()
        server.under = ()
        server.start()

        assert calls.read_text().count("(INJECTED)") > 2
        _check(server, clients)
    finally:
        server.kill()


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_what_was_acknowledged_survives_kill_9_again_and_again(tmp_path: Path) -> None:
    """The same, killed twenty times."""
    with serving(tmp_path) as server:
        clients = _kill_in_mid_load(server, kills=20, load_s=2.0)

        _check(server, clients)
