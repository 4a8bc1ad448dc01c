"""Compute processes, each with a queue: a study is pinned to one, so that its model stays warm there.

Jobs are suggestions, of which those that somebody waits for go first, and explanations, which go last. Among equals projects
take turns, and within a project its studies: who asks for much waits for itself.

Processes are spawned, never forked: a fork beside gRPC's threads deadlocks. One thread per process owns the pipe to it. A
process that dies, or is busy longer than `job_limit_s`, is replaced, and its job fails with WorkerLost.
"""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import IntEnum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import structlog

from asktell_server.domain.errors import NoModel, SearchSpaceExhausted
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.engine import worker
from asktell_server.engine.fair_queue import FairQueue
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import Observation, Proposal, SourceStudy
from asktell_server.optimizers.gp.device import AUTO, DeviceNews

log = structlog.get_logger()

# One thread per process: several processes with a thread pool each would fight for the cores.
_THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
_environment_lock = threading.Lock()


class WorkerLost(Exception):
    """The compute process died or overran while it worked on the job; the message says which."""


class OptimizerFailed(Exception):
    """The optimizer raised; the message is its traceback."""


@dataclass(frozen=True)
class PoolConfig:
    """Compute processes.

    `workers`: how many, at least 1. `job_limit_s`: a process busy longer than this with one suggestion is killed.
    `studies_per_worker`: models kept warm in one process; the one asked for least recently goes first. `fit_device`: where large
    fits run, "auto", "cpu", "cuda" or "cuda:N" (FitDevice says more).
    """

    workers: int = 1
    job_limit_s: float = 120.0
    studies_per_worker: int = 64
    fit_device: str = AUTO


class _Lane(IntEnum):
    """Somebody waits for a trial, will ask for one, may ask for one, wants to know: in this order jobs are begun."""

    URGENT = 0
    AHEAD = 1
    WARM_UP = 2
    EXPLAIN = 3


@dataclass(frozen=True, eq=False)
class _Ticket:
    study_id: int
    spec: StudySpec
    observations: Sequence[Observation]
    pending: Sequence[Point]
    number: int  # 0 asks for no suggestion: for an explanation or, without a request, for a warm-up
    future: Future[Any]
    submitted: float
    sources: Sequence[SourceStudy] = ()
    request: ExplainRequest | None = None
    project: str = ""
    era: int = 0


class _Queue:
    """What one process is still to do, by lane; a ticket that is cancelled leaves at once."""

    def __init__(self) -> None:
        self._lanes: dict[_Lane, FairQueue[int, _Ticket]] = {lane: FairQueue() for lane in _Lane}
        self._changed = threading.Condition()
        self._closed = False

    def put(self, ticket: _Ticket, lane: _Lane) -> None:
        with self._changed:
            if not self._closed:
                self._lanes[lane].put(ticket.project, ticket.study_id, ticket)
                self._changed.notify()
                return
        _fail(ticket)

    def is_empty(self, lane: _Lane) -> bool:
        with self._changed:
            return not self._lanes[lane]

    def discard(self, ticket: _Ticket) -> None:
        with self._changed:
            for lane in self._lanes.values():
                lane.discard(ticket.project, ticket.study_id, ticket)

    def hurry(self, study_id: int) -> None:
        with self._changed:
            ahead = self._lanes[_Lane.AHEAD]
            for ticket in ahead.of_study(study_id):
                ahead.discard(ticket.project, study_id, ticket)
                self._lanes[_Lane.URGENT].put(ticket.project, study_id, ticket)

    def get(self) -> _Ticket | None:
        """The next ticket; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                for lane in self._lanes.values():
                    if lane:
                        return lane.next()
                self._changed.wait()
            return None

    def close(self) -> None:
        """Fails what is left and all that will come."""
        with self._changed:
            self._closed = True
            left = [ticket for lane in self._lanes.values() for ticket in lane]
            self._changed.notify()
        for ticket in left:
            _fail(ticket)


def _fail(ticket: _Ticket) -> None:
    if ticket.future.set_running_or_notify_cancel():
        ticket.future.set_exception(WorkerLost("the server is stopping"))


@dataclass(frozen=True)
class Explaining:
    """An explanation in the making. `withdraw` takes it out of the queue and says so, or says that it has begun."""

    future: asyncio.Future[Explanation]
    withdraw: Callable[[], bool]


class WorkerPool:
    """Computes suggestions in processes of their own. Started lazily: no study with a model, no process."""

    def __init__(self, config: PoolConfig, metrics: Metrics) -> None:
        self._metrics = metrics
        self._era = 0
        self._workers = [_Worker(i, config, metrics) for i in range(config.workers)]

    def submit(
        self,
        study_id: int,
        spec: StudySpec,
        observations: Sequence[Observation],
        pending: Sequence[Point],
        number: int,
        *,
        urgent: bool,
        sources: Sequence[SourceStudy] = (),
        project: str = "",
    ) -> asyncio.Future[Proposal | None]:
        """Queues the suggestion for trial `number`. The future raises WorkerLost, OptimizerFailed or SearchSpaceExhausted.

        `observations` is the study's whole history, `sources` the studies it learns from; the pool sends what the worker has
        not seen.
        """
        lane = _Lane.URGENT if urgent else _Lane.AHEAD
        return _awaitable(self._put(study_id, spec, observations, pending, number, lane, sources, project=project))

    def explain(
        self,
        study_id: int,
        spec: StudySpec,
        observations: Sequence[Observation],
        request: ExplainRequest,
        sources: Sequence[SourceStudy] = (),
        project: str = "",
    ) -> Explaining:
        """Queues an explanation behind all else. Its future raises WorkerLost, OptimizerFailed or NoModel."""
        future = self._put(study_id, spec, observations, (), 0, _Lane.EXPLAIN, sources, request, project)
        return Explaining(_awaitable(future), future.cancel)

    def begin_anew(self) -> None:
        """From now on histories may not go on from what the processes have seen: each is sent from its beginning."""
        self._era += 1

    def hurry(self, study_id: int) -> None:
        """Makes what was queued ahead for a study urgent: somebody waits for it now."""
        self._worker(study_id).queue.hurry(study_id)

    def warm_up(self, study_id: int, spec: StudySpec, project: str = "") -> None:
        """Lets the study's worker load what it will need, unless it has better to do. Returns at once."""
        if self._worker(study_id).queue.is_empty(_Lane.WARM_UP):
            _awaitable(self._put(study_id, spec, (), (), 0, _Lane.WARM_UP, project=project))

    def warm_up_all(self, spec: StudySpec) -> None:
        """Starts every compute process, and lets it load what studies with this spec will need. Returns at once."""
        for study_id in range(len(self._workers)):
            self.warm_up(study_id, spec)

    def _worker(self, study_id: int) -> _Worker:
        return self._workers[study_id % len(self._workers)]

    def _put(
        self,
        study_id: int,
        spec: StudySpec,
        observations: Sequence[Observation],
        pending: Sequence[Point],
        number: int,
        lane: _Lane,
        sources: Sequence[SourceStudy] = (),
        request: ExplainRequest | None = None,
        project: str = "",
    ) -> Future[Any]:
        future: Future[Any] = Future()
        now = time.perf_counter()
        ticket = _Ticket(
            study_id, spec, observations, pending, number, future, now, sources, request, project, self._era
        )
        self._worker(study_id).put(ticket, lane)
        return future

    def process_ids(self) -> list[int]:
        """Ids of the running processes."""
        return [pid for w in self._workers if (pid := w.pid) is not None]

    async def stop(self) -> None:
        """Ends the processes; what they were working on, or were to work on, fails with WorkerLost."""
        await asyncio.gather(*(asyncio.to_thread(w.stop) for w in self._workers))


def _awaitable(future: Future[Any]) -> asyncio.Future[Any]:
    wrapped = asyncio.wrap_future(future)
    wrapped.add_done_callback(_retrieve)
    return wrapped


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Marks an error as seen: nobody may be waiting for work done ahead."""
    if not future.cancelled():
        future.exception()


class _Worker:
    """One process, the thread that talks to it, and what the process remembers."""

    def __init__(self, index: int, config: PoolConfig, metrics: Metrics) -> None:
        self._index = index
        self._config = config
        self._metrics = metrics
        self.queue = _Queue()
        self._thread: threading.Thread | None = None
        self._process: BaseProcess | None = None
        self._connection: Connection | None = None
        # study id -> number of observations it has, latest use last; all of one era
        self._told: OrderedDict[int, int] = OrderedDict()
        self._era = 0
        self._stopping = False

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.is_alive() else None

    def put(self, ticket: _Ticket, lane: _Lane) -> None:
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._serve, name=f"compute-{self._index}", daemon=True)
            self._thread.start()
            # The process ignores SIGTERM, by which multiprocessing would end it at exit, and then wait for ever.
            atexit.register(self._kill)
        ticket.future.add_done_callback(lambda future: self.queue.discard(ticket) if future.cancelled() else None)
        self.queue.put(ticket, lane)

    def stop(self) -> None:
        self._stopping = True
        self.queue.close()
        while self._thread is not None and self._thread.is_alive():
            self._kill()  # again and again: the thread may be about to start it
            self._thread.join(timeout=0.05)
        atexit.unregister(self._kill)

    def _kill(self) -> None:
        process = self._process
        if process is not None:
            process.kill()

    def _serve(self) -> None:
        while (ticket := self.queue.get()) is not None:
            if not ticket.future.set_running_or_notify_cancel():
                continue
            try:
                answer = self._compute(ticket)
            except Exception as error:
                ticket.future.set_exception(error)
            else:
                ticket.future.set_result(answer)
        self._end_process()

    def _compute(self, ticket: _Ticket) -> Proposal | Explanation | None:
        try:
            connection = self._ensure_process()
        except OSError as error:  # out of memory, processes or files
            raise WorkerLost(f"no compute process can be started: {error}") from error
        if ticket.number:
            self._metrics.ask_phase("queue", time.perf_counter() - ticket.submitted)
        job = self._job(ticket)
        try:
            connection.send(job)
            if not connection.poll(self._config.job_limit_s):
                raise WorkerLost(f"no answer within {self._config.job_limit_s} s")
            answer: worker.Answer = connection.recv()
        except (EOFError, OSError) as error:
            self._end_process()
            raise WorkerLost("the compute process died") from error
        except WorkerLost:
            self._end_process()
            raise
        for news in answer.news:
            self._report(news)
        if answer.exhausted:
            raise SearchSpaceExhausted("study", "every point of the search space is taken")
        if answer.no_model:
            raise NoModel("study", answer.no_model)
        if answer.error:
            # What it had added before the error is unknown: begin the study anew next time.
            self._told.pop(ticket.study_id, None)
            raise OptimizerFailed(answer.error)
        if answer.proposal is not None:
            for phase, seconds in answer.proposal.phases_s.items():
                self._metrics.ask_phase(phase, seconds)
        return answer.proposal or answer.explanation

    def _report(self, news: DeviceNews) -> None:
        if news.problem:
            log.warning("large fits stay on the CPU", worker=self._index, fit_device=news.device, problem=news.problem)
        else:
            log.info("large fits run on a GPU", worker=self._index, fit_device=news.device)

    def _job(self, ticket: _Ticket) -> worker.Job | worker.WarmUp | worker.Explain:
        request = ticket.request
        if not ticket.number and request is None:
            return worker.WarmUp(ticket.study_id, ticket.spec)
        forget = []
        if ticket.era != self._era:
            forget, self._era = list(self._told), ticket.era
            self._told.clear()
        if request is not None and self._told.get(ticket.study_id, 0) > len(ticket.observations):
            # What came meanwhile has overtaken it, as all work does: the model at work is not to be given up for it.
            return worker.Explain(
                ticket.study_id, ticket.spec, ticket.observations, request, sources=ticket.sources, aside=True
            )
        have = self._told.pop(ticket.study_id, None)
        while len(self._told) >= self._config.studies_per_worker:
            forget.append(self._told.popitem(last=False)[0])
        if have is not None and have > len(ticket.observations):
            have = None  # a job that was queued before a later one ran
        self._told[ticket.study_id] = len(ticket.observations)
        spec = ticket.spec if have is None else None
        sources = ticket.sources if have is None else ()
        new = ticket.observations[have or 0 :]
        if request is not None:
            return worker.Explain(ticket.study_id, spec, new, request, forget, sources)
        return worker.Job(ticket.study_id, spec, new, ticket.pending, ticket.number, forget, sources)

    def _ensure_process(self) -> Connection:
        if self._process is not None and self._connection is not None and self._process.is_alive():
            return self._connection
        if self._stopping:
            raise WorkerLost("the server is stopping")
        if self._process is not None:
            self._end_process()
            self._metrics.worker_restarted()
            log.warning("compute process restarted", worker=self._index)
        self._told.clear()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker.run,
            args=(theirs, self._config.fit_device),
            name=f"asktell-compute-{self._index}",
            daemon=True,
        )
        with _environment_lock:
            before = {name: os.environ.get(name) for name in _THREAD_LIMITS}
            os.environ.update(dict.fromkeys(_THREAD_LIMITS, "1"))
            try:
                process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
        theirs.close()
        self._process, self._connection = process, ours
        return ours

    def _end_process(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None and self._process.is_alive():
            self._process.kill()  # it holds nothing that is not in the database
            self._process.join(timeout=5)
