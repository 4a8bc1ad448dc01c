"""Invariant 6: Ask always answers within its deadline, or says RESOURCE_EXHAUSTED with a retry delay when the server is full."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..rpc.calls import Stub, ask_one, enqueue, finished, new_study, until
from ..rpc.refusals import refused
from ..support import ServerProcess, serving, spec, stub

Source = trial_pb2.Suggestion


def _workers(server: ServerProcess) -> list[int]:
    """Process ids of the server's compute processes."""
    found = []
    for children in Path(f"/proc/{server.pid}/task").glob("*/children"):
        for pid in children.read_text().split():
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(int(pid))
    return found


def _ended(pid: int) -> bool:
    """Whether a process has ended, be it that nobody has asked for its status yet."""
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


def _modelled(service: Stub, study_id: str) -> str:
    """A study whose next suggestion needs a model, with its compute process warm."""
    made = spec("skopt")
    made.algorithm.skopt.CopyFrom(
        study_pb2.SkoptOptimizer(base_estimator=study_pb2.SkoptOptimizer.ET, initial_points=2)
    )
    study = new_study(service, study_id, made)
    enqueue(service, study, [finished(i / 5, x0=i / 5, x1=0.5) for i in range(5)])
    assert ask_one(service, study).suggestion.source == Source.MODEL
    return study


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server whose compute process may be harmed: every suggestion is made when it is asked for, one ask may wait."""
    flags = ("--no-look-ahead", "--max-waiting-asks", "1", "--workers", "1", "--ask-timeout-s", "60")
    with serving(tmp_path_factory.mktemp("harmed"), *flags) as running:
        yield running


@pytest.fixture(scope="module")
def mine(own: ServerProcess) -> Iterator[Stub]:
    """The stub of that server."""
    with stub(own.target) as made:
        yield made


def _ask(service: Stub, study: str, timeout_s: float) -> trial_pb2.Trial:
    return service.Ask(pb.AskRequest(parent=study), timeout=timeout_s).trials[0]


def test_a_compute_process_killed_between_asks(own: ServerProcess, mine: Stub) -> None:
    """It is replaced, and the next suggestion is the model's again."""
    study = _modelled(mine, "killed-between")
    restarts = own.metric("asktell_worker_restarts_total")
    (before,) = _workers(own)

    os.kill(before, signal.SIGKILL)
    until(lambda: _ended(before), "the end of the compute process")
    trial = _ask(mine, study, 60)

    assert trial.suggestion.source == Source.MODEL
    assert own.metric("asktell_worker_restarts_total") == restarts + 1
    assert _workers(own) != [before]


def test_a_compute_process_killed_during_an_ask(own: ServerProcess, mine: Stub) -> None:
    """The ask is answered from the quasi-random design, says so, and is counted; the next one gets the model again."""
    study = _modelled(mine, "killed-during")
    lost = own.metric("asktell_fallbacks_total", cause="worker_lost")
    fallbacks = own.metric("asktell_suggestions_total", source="FALLBACK")
    (worker,) = _workers(own)

    os.kill(worker, signal.SIGSTOP)
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(_ask, mine, study, 60)
        until(lambda: own.metric("asktell_queue_depth") == 1, "the ask to wait for the model")
        os.kill(worker, signal.SIGKILL)
        trial = waiting.result()
    after = _ask(mine, study, 60)

    assert trial.suggestion.source == Source.FALLBACK
    assert "died" in trial.suggestion.detail
    assert own.metric("asktell_fallbacks_total", cause="worker_lost") == lost + 1
    assert own.metric("asktell_suggestions_total", source="FALLBACK") == fallbacks + 1
    assert after.suggestion.source == Source.MODEL


def test_a_deadline_that_the_model_misses(own: ServerProcess, mine: Stub) -> None:
    """An ask whose model hangs is answered before its deadline, from the quasi-random design, and is counted."""
    study = _modelled(mine, "deadline")
    missed = own.metric("asktell_fallbacks_total", cause="deadline")
    (worker,) = _workers(own)

    os.kill(worker, signal.SIGSTOP)
    try:
        trials = [_ask(mine, study, 2.0) for _ in range(2)]
    finally:
        os.kill(worker, signal.SIGCONT)

    assert [trial.suggestion.source for trial in trials] == [Source.FALLBACK] * 2
    assert trials[0].parameters != trials[1].parameters
    assert own.metric("asktell_fallbacks_total", cause="deadline") == missed + 2
    assert _ask(mine, study, 60).suggestion.source == Source.MODEL


def test_a_batch_whose_model_hangs(own: ServerProcess, mine: Stub) -> None:
    """A batch is answered before its deadline, too: in full, from the quasi-random design."""
    study = _modelled(mine, "deadline-batch")
    (worker,) = _workers(own)

    os.kill(worker, signal.SIGSTOP)
    try:
        trials = mine.Ask(pb.AskRequest(parent=study, count=5), timeout=3.0).trials
    finally:
        os.kill(worker, signal.SIGCONT)

    assert [trial.suggestion.source for trial in trials] == [Source.FALLBACK] * 5
    assert len({str(trial.parameters["x0"]) for trial in trials}) == 5


def test_a_full_server(own: ServerProcess, mine: Stub) -> None:
    """Beyond the number of asks that may wait, an ask is refused with a delay; asks that need no model still pass."""
    study = _modelled(mine, "full")
    other = new_study(mine, "full-random")
    (worker,) = _workers(own)

    os.kill(worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as threads:
            waiting = threads.submit(_ask, mine, study, 60)
            until(lambda: own.metric("asktell_queue_depth") == 1, "the ask to wait for the model")
            refusal = refused(lambda: _ask(mine, study, 60))
            passed = _ask(mine, other, 60)
            os.kill(worker, signal.SIGCONT)
            answered = waiting.result()
    finally:
        os.kill(worker, signal.SIGCONT)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
    assert refusal.retry_delay_s is not None
    assert 0 < refusal.retry_delay_s <= 30
    assert passed.suggestion.source == Source.SAMPLER
    assert answered.suggestion.source == Source.MODEL
    assert _ask(mine, study, 60).suggestion.source == Source.MODEL


def test_a_full_server_behind_a_batch(own: ServerProcess, mine: Stub) -> None:
    """An ask that would wait for its turn behind a batch counts as one that waits, too."""
    study = _modelled(mine, "full-batch")
    (worker,) = _workers(own)

    os.kill(worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as threads:
            batch = threads.submit(lambda: mine.Ask(pb.AskRequest(parent=study, count=3), timeout=60))
            until(lambda: own.metric("asktell_queue_depth") == 1, "the batch to wait for the model")
            refusal = refused(lambda: _ask(mine, study, 60))
            os.kill(worker, signal.SIGCONT)
            answered = batch.result()
    finally:
        os.kill(worker, signal.SIGCONT)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
    assert [trial.suggestion.source for trial in answered.trials] == [Source.MODEL] * 3


def test_deadlines_that_can_hardly_be_met(mine: Stub) -> None:
    """An ask whose time is all but over is answered or ends with DEADLINE_EXCEEDED, and the server goes on."""
    study = new_study(mine, "no-time")
    codes = set()

    for _ in range(50):
        try:
            _ask(mine, study, 1e-6)
            codes.add(grpc.StatusCode.OK)
        except grpc.RpcError as error:
            codes.add(error.code())  # type: ignore[attr-defined]

    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED}
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert _ask(mine, study, 60)
