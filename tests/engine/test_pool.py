"""Compute processes, real ones: what they are sent, how they end, and what their loss costs."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from asktell_server.domain.algorithms import RandomSearch, SkoptEstimator, SkoptOptimizer
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import SuggestionSource, TrialState
from asktell_server.engine import worker
from asktell_server.engine.host import EngineHost, HostConfig
from asktell_server.engine.hosted import HostedStudy
from asktell_server.engine.pool import (
    OptimizerFailed,
    PoolConfig,
    WorkerLost,
    WorkerPool,
    _Lane,
    _Queue,
    _Ticket,
    _Worker,
)
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import Observation, Proposal, SourceStudy
from asktell_server.optimizers.gp.device import CPU
from asktell_server.optimizers.registry import create_optimizer

from .doubles import Ledger, a_point, a_spec, settle

SPEC = a_spec(RandomSearch())
THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Pool:
    """A pool of one process and what it counted."""

    def __init__(self, config: PoolConfig) -> None:
        self.registry = CollectorRegistry()
        self.pool = WorkerPool(config, Metrics(self.registry, "test"))

    @property
    def worker(self) -> _Worker:
        """The process's keeper."""
        return self.pool._workers[0]

    @property
    def pid(self) -> int:
        """The process."""
        (pid,) = self.pool.process_ids()
        return pid

    @property
    def restarts(self) -> float:
        """How often it was replaced."""
        return self.registry.get_sample_value("asktell_worker_restarts_total") or 0.0

    def ask(
        self,
        number: int,
        *,
        study_id: int = 1,
        spec: StudySpec = SPEC,
        history: Sequence[Observation] = (),
        pending: Sequence[Point] = (),
        urgent: bool = True,
    ) -> asyncio.Future[Proposal | None]:
        """A job."""
        return self.pool.submit(study_id, spec, tuple(history), list(pending), number, urgent=urgent)

    async def begun(self, study_id: int) -> None:
        """Waits until the job of a study that the process did not have is on its way to the process."""
        await settle(lambda: study_id in self.worker._told)


@pytest.fixture(scope="module")
def shared() -> Iterator[Pool]:
    """One process for the tests of this module; those that kill it leave another one."""
    pool = Pool(PoolConfig(studies_per_worker=2))
    yield pool
    asyncio.run(pool.pool.stop())


def results(count: int) -> list[Observation]:
    """A history."""
    return [
        Observation(i, a_point(i * 97), TrialState.SUCCEEDED, Measurement({"loss": (i * 37 % 11) / 11}))
        for i in range(1, count + 1)
    ]


def is_gone(pid: int) -> bool:
    """Whether there is no such process, or only what is left for its parent to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


async def test_a_process_answers_what_the_same_optimizer_answers_here(shared: Pool) -> None:
    """Same spec, history, pending points and number: the same suggestion in any process."""
    expected = create_optimizer(SPEC).ask(7, [a_point(3)]).suggestion

    proposal = await shared.ask(7, pending=[a_point(3)])

    assert proposal is not None
    assert proposal.suggestion == expected


async def test_a_process_has_one_thread_for_numerics_and_the_server_keeps_its_setting(shared: Pool) -> None:
    """The limits are set for the child before anything is imported there, and nowhere else."""
    before = {name: os.environ.get(name) for name in THREAD_LIMITS}
    await shared.ask(1)

    environment = Path(f"/proc/{shared.pid}/environ").read_bytes().decode().split("\0")

    assert {f"{name}=1" for name in THREAD_LIMITS} <= set(environment)
    assert {name: os.environ.get(name) for name in THREAD_LIMITS} == before


async def test_ctrl_c_and_sigterm_do_not_end_a_process(shared: Pool) -> None:
    """They reach the whole group; the server decides when its processes end."""
    await shared.ask(1)
    pid = shared.pid

    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    await shared.ask(2)

    assert shared.pid == pid


async def test_a_process_is_sent_only_what_is_new_and_a_forgotten_study_from_the_start(
    shared: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With room for two studies the third pushes out the one asked for least recently, which comes back whole."""
    sent: list[worker.Job] = []
    make_job = shared.worker._job

    def spy(ticket: _Ticket) -> worker.Job | worker.WarmUp:
        job = make_job(ticket)
        assert isinstance(job, worker.Job)
        sent.append(job)
        return job

    monkeypatch.setattr(shared.worker, "_job", spy)
    history = results(3)

    first = await shared.ask(4, study_id=11, history=history[:2])
    for study_id in (12, 11, 13, 12):
        again = await shared.ask(4, study_id=study_id, history=history)

    assert [
        (job.study_id, job.spec is not None, len(job.new_observations), [f for f in job.forget if f > 10])
        for job in sent
    ] == [
        (11, True, 2, []),
        (12, True, 3, []),
        (11, False, 1, []),
        (13, True, 3, [12]),
        (12, True, 3, [11]),
    ]
    assert first is not None
    assert again is not None
    assert again.suggestion == first.suggestion


async def test_a_shorter_history_than_the_process_has_begins_the_study_anew(shared: Pool) -> None:
    """A job that was queued before a later one ran must not be answered with the later history."""
    taken = create_optimizer(SPEC).ask(5, []).suggestion.point
    later = [*results(2), Observation(3, taken, TrialState.FAILED)]
    with_it = await shared.ask(5, study_id=21, history=later)

    without_it = await shared.ask(5, study_id=21, history=later[:2])

    assert with_it is not None
    assert without_it is not None
    assert with_it.suggestion.point != taken
    assert without_it.suggestion.point == taken


async def test_an_optimizer_that_raises_fails_its_job_and_begins_anew(shared: Pool) -> None:
    """The error carries the traceback; the process lives on and the next job of the study is right."""
    await shared.ask(1, study_id=31)
    pid = shared.pid
    broken = replace(SPEC, algorithm=None)  # type: ignore[arg-type]

    with pytest.raises(OptimizerFailed, match="Traceback"):
        await shared.ask(1, study_id=32, spec=broken, history=results(2))
    after = await shared.ask(1, study_id=32, history=results(2))

    assert after is not None
    assert shared.pid == pid


async def test_a_process_that_is_killed_at_work_loses_its_job_and_is_replaced(shared: Pool) -> None:
    """The job fails with WorkerLost; the next one starts another process, which is counted."""
    await shared.ask(1)
    pid, restarts = shared.pid, shared.restarts
    os.kill(pid, signal.SIGSTOP)
    doomed = shared.ask(2, study_id=41)
    await shared.begun(41)

    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        await doomed
    after = await shared.ask(2, study_id=41)

    assert after is not None
    assert shared.pid != pid
    assert shared.restarts == restarts + 1


async def test_a_process_that_overruns_is_killed_and_replaced(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process looks like one that computes for ever."""
    await shared.ask(1)
    pid = shared.pid
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(shared.worker, "_config", PoolConfig(job_limit_s=0.05))

        with pytest.raises(WorkerLost, match=r"0\.05 s"):
            await shared.ask(2)
    after = await shared.ask(2)

    assert after is not None
    assert is_gone(pid)


async def test_a_process_that_cannot_be_started_is_a_lost_one(shared: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory, processes or files: asks fall back instead of failing, and later ones find a process again."""
    await shared.ask(1)
    os.kill(shared.pid, signal.SIGKILL)
    await settle(lambda: not shared.pool.process_ids())

    def refuse(self: BaseProcess) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    with monkeypatch.context() as patched:
        patched.setattr(BaseProcess, "start", refuse)
        with pytest.raises(WorkerLost, match="unavailable"):
            await shared.ask(2)
    after = await shared.ask(2)

    assert after is not None


async def test_a_queued_look_ahead_that_is_cancelled_leaves_the_queue(shared: Pool) -> None:
    """Its history is not kept until the process has time for it."""
    await shared.ask(1)
    pid = shared.pid
    os.kill(pid, signal.SIGSTOP)
    running = shared.ask(1, study_id=51)
    await shared.begun(51)
    queued = [shared.ask(i, study_id=52, urgent=False) for i in range(100)]
    waiting = len(list(shared.worker.queue._lanes[_Lane.AHEAD]))

    for future in queued:
        future.cancel()
    await settle()
    left = len(list(shared.worker.queue._lanes[_Lane.AHEAD]))
    os.kill(pid, signal.SIGCONT)
    await running

    assert waiting == 100
    assert left == 0
    assert 52 not in shared.worker._told


async def test_a_running_job_that_is_cancelled_does_no_harm(shared: Pool) -> None:
    """Its answer is thrown away, and the job after it gets its own."""
    await shared.ask(1)
    os.kill(shared.pid, signal.SIGSTOP)
    running = shared.ask(1, study_id=61)
    await shared.begun(61)
    after = shared.ask(9, study_id=61)

    running.cancel()
    os.kill(shared.pid, signal.SIGCONT)
    proposal = await after

    assert running.cancelled()
    assert proposal is not None
    assert proposal.suggestion == create_optimizer(SPEC).ask(9, []).suggestion


def a_ticket(order: int, study_id: int = 1) -> _Ticket:
    """A job that nobody computes."""
    return _Ticket(study_id, SPEC, (), (), order, Future(), 0.0)


def test_urgent_jobs_go_first_and_each_lane_in_order() -> None:
    """Whoever waits comes before whoever may come."""
    jobs = _Queue()
    for order, lane in enumerate([_Lane.WARM_UP, _Lane.AHEAD, _Lane.URGENT, _Lane.AHEAD, _Lane.URGENT]):
        jobs.put(a_ticket(order), lane)

    taken = [jobs.get() for _ in range(5)]

    assert [ticket.number for ticket in taken if ticket is not None] == [2, 4, 1, 3, 0]


def test_projects_take_turns_and_within_a_project_its_studies() -> None:
    """A project with many studies, or a study with many jobs, waits for itself, not others for it."""
    jobs = _Queue()
    many = [a_ticket(order, study_id=order % 3) for order in range(9)]
    for ticket in many:
        jobs.put(replace(ticket, project="many"), _Lane.URGENT)
    for order in (9, 10):
        jobs.put(replace(a_ticket(order, study_id=77), project="one"), _Lane.URGENT)

    taken = [jobs.get() for _ in range(11)]

    assert [ticket.number for ticket in taken if ticket is not None] == [0, 9, 1, 10, 2, 3, 4, 5, 6, 7, 8]


def test_a_look_ahead_that_somebody_waits_for_becomes_urgent() -> None:
    """Otherwise the first asks of other studies would keep overtaking it."""
    jobs = _Queue()
    for order, study_id in enumerate([1, 2, 3]):
        jobs.put(a_ticket(order, study_id), _Lane.AHEAD)
    jobs.put(a_ticket(3, 4), _Lane.URGENT)

    jobs.hurry(2)
    taken = [jobs.get() for _ in range(4)]

    assert [ticket.study_id for ticket in taken if ticket is not None] == [4, 2, 1, 3]


def test_a_closed_queue_fails_what_is_left_and_what_comes() -> None:
    """Nobody waits for ever for a server that stops."""
    jobs = _Queue()
    left, cancelled, late = a_ticket(0), a_ticket(1), a_ticket(2)
    jobs.put(left, _Lane.AHEAD)
    jobs.put(cancelled, _Lane.URGENT)
    cancelled.future.cancel()

    jobs.close()
    jobs.put(late, _Lane.URGENT)

    assert jobs.get() is None
    assert isinstance(left.future.exception(timeout=0), WorkerLost)
    assert isinstance(late.future.exception(timeout=0), WorkerLost)


async def test_warm_ups_do_not_pile_up_behind_a_busy_process(shared: Pool) -> None:
    """They are a hint: one at a time waits."""
    await shared.ask(1)
    os.kill(shared.pid, signal.SIGSTOP)
    running = shared.ask(1, study_id=71)
    await shared.begun(71)

    for study_id in range(100, 150):
        shared.pool.warm_up(study_id, SPEC)
    waiting = len(list(shared.worker.queue._lanes[_Lane.WARM_UP]))
    os.kill(shared.pid, signal.SIGCONT)
    await running

    assert waiting == 1


async def test_stopping_ends_processes_and_threads_and_fails_what_was_queued() -> None:
    """A stopped pool leaves nothing behind, and nobody waiting."""
    pool = Pool(PoolConfig(workers=1))
    await pool.ask(1)
    pid = pool.pid
    os.kill(pid, signal.SIGSTOP)
    running = pool.ask(1, study_id=2)
    await pool.begun(2)
    queued = pool.ask(2, study_id=2, urgent=False)

    await pool.pool.stop()
    late = pool.ask(3, study_id=2)
    outcomes = await asyncio.gather(running, queued, late, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [WorkerLost] * 3
    assert is_gone(pid)
    assert pool.worker._thread is not None
    assert not pool.worker._thread.is_alive()
    assert pool.pool.process_ids() == []


async def test_stopping_while_a_process_starts_leaves_none() -> None:
    """The process that is about to start when the stop comes does not outlive it."""
    pool = Pool(PoolConfig(workers=1))
    doomed = pool.ask(1)

    await pool.pool.stop()
    outcome = (await asyncio.gather(doomed, return_exceptions=True))[0]

    assert isinstance(outcome, WorkerLost)
    assert not any(child.name == "asktell-compute-0" and child.pid == pool.worker.pid for child in _children())
    assert pool.worker._thread is not None
    assert not pool.worker._thread.is_alive()


def _children() -> list[multiprocessing.process.BaseProcess]:
    return list(multiprocessing.active_children())


async def test_a_pool_that_was_never_used_has_no_process_and_stops() -> None:
    """No study with a model, no process."""
    pool = Pool(PoolConfig(workers=3))

    await pool.pool.stop()

    assert pool.pool.process_ids() == []
    assert [w._thread for w in pool.pool._workers] == [None] * 3


def spawned_worker() -> tuple[BaseProcess, Connection]:
    """A compute process without a pool."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=worker.run, args=(theirs, CPU), daemon=True)
    process.start()
    theirs.close()
    return process, ours


def test_a_process_ends_without_complaint_when_the_server_is_gone() -> None:
    """At rest it reads the end of the pipe; at work it finds nobody to answer."""
    resting, pipe = spawned_worker()
    working, other_pipe = spawned_worker()
    other_pipe.send(worker.Job(1, SPEC, (), (), 1))
    other_pipe.send(worker.Job(1, None, (), (), 2))

    pipe.close()
    other_pipe.close()
    resting.join(60)
    working.join(60)

    assert (resting.exitcode, working.exitcode) == (0, 0)


_EXIT_WITHOUT_STOP = """
import asyncio
from prometheus_client import CollectorRegistry
from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.space import FloatParameter, SearchSpace
from asktell_server.domain.algorithms import RandomSearch
from asktell_server.domain.study import StudySpec
from asktell_server.engine.pool import PoolConfig, WorkerPool
from asktell_server.observe.metrics import Metrics

async def main():
    pool = WorkerPool(PoolConfig(), Metrics(CollectorRegistry(), "test"))
    space = SearchSpace((FloatParameter("x", 0.0, 1.0),))
    await pool.submit(1, StudySpec(space, (Objective("y", Direction.MINIMIZE),), RandomSearch()), (), (), 1, urgent=True)
    print(*pool.process_ids())

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_a_server_that_ends_without_stopping_its_pool_does_not_hang(tmp_path: Path) -> None:
    """Multiprocessing would send SIGTERM at exit, which the process ignores, and wait for it."""
    script = tmp_path / "script.py"
    script.write_text(_EXIT_WITHOUT_STOP)

    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    assert is_gone(int(ended.stdout))


@asynccontextmanager
async def hosting(ledger: Ledger) -> AsyncIterator[tuple[EngineHost, HostedStudy, CollectorRegistry]]:
    """A host with real processes."""
    registry = CollectorRegistry()
    host = EngineHost(HostConfig(look_ahead=False), ledger.load, Metrics(registry, "test"))
    try:
        yield host, await host.image(ledger.study), registry
    finally:
        await host.stop()


async def test_a_process_killed_at_work_costs_one_fallback_and_the_model_returns() -> None:
    """The ask is answered from the design and says why; the next is the model's, the same that another server would give."""
    ledger = Ledger(a_spec(SkoptOptimizer(SkoptEstimator.RF, initial_points=5)))
    ledger.import_(0.5, 0.4, 0.3, 0.6, 0.7)
    async with hosting(ledger) as (host, image, registry):
        deadline = time.monotonic() + 120
        first = await host.reserve(image, 1, deadline)
        host.applied(*ledger.give_out(*first.suggestions))
        queue = host._pool._workers[0].queue
        await settle(lambda: queue.is_empty(_Lane.WARM_UP))
        await host._pool.submit(99, SPEC, (), (), 1, urgent=True)  # the warm-up is over when this is
        (pid,) = host.worker_process_ids()
        os.kill(pid, signal.SIGSTOP)
        asking = asyncio.create_task(host.reserve(image, 1, deadline))
        await settle(lambda: image.computation is not None and queue.is_empty(_Lane.URGENT))
        await settle(lambda: host._pool._workers[0]._told[ledger.study.id] == 5)
        os.kill(pid, signal.SIGKILL)
        second = await asking
        host.applied(*ledger.give_out(*second.suggestions))
        third = await host.reserve(image, 1, deadline)
        restarts = registry.get_sample_value("asktell_worker_restarts_total")
        fallbacks = registry.get_sample_value("asktell_fallbacks_total", {"cause": "worker_lost"})
    async with hosting(ledger) as (host, image, _):
        elsewhere = await host.reserve(image, 1, deadline)

    sources = [r.suggestions[0].source for r in (first, second, third)]
    assert sources == [SuggestionSource.MODEL, SuggestionSource.FALLBACK, SuggestionSource.MODEL]
    assert "died" in second.suggestions[0].detail
    assert (restarts, fallbacks) == (1, 1)
    assert elsewhere.suggestions == third.suggestions


def test_sources_travel_with_the_spec() -> None:
    """A process gets the studies to learn from once, and again when it is to begin the study anew."""
    unstarted = Pool(PoolConfig()).worker
    sources = (SourceStudy(SPEC, tuple(results(2))),)

    def job(history: int) -> worker.Job:
        ticket = _Ticket(1, SPEC, tuple(results(history)), (), history + 1, Future(), 0.0, sources)
        made = unstarted._job(ticket)
        assert isinstance(made, worker.Job)
        return made

    first, second, anew = job(3), job(4), job(2)

    assert (first.spec, first.sources, len(first.new_observations)) == (SPEC, sources, 3)
    assert (second.spec, second.sources, len(second.new_observations)) == (None, (), 1)
    assert (anew.spec, anew.sources, len(anew.new_observations)) == (SPEC, sources, 2)
