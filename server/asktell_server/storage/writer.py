"""The queue in front of a thread that writes: works go in from the event loop, outcomes come back to it in order.

What the thread does with the works that wait is the database's affair: `group_commit` for SQLite, `postgresql.writer`.
Works that are submitted in one turn of the event loop reach the thread together.

Two threads that take turns at each statement would spend more time on handing over the interpreter's lock than on the statements.
So brief works (an ask, a tell) are better run in the event loop, for about BRIEF_S in a row, where nothing has to be waited for;
how, is the database's affair as well.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.base import Transaction

_log = logging.getLogger(__name__)

Work = Callable[[Transaction], Any]

# After so long no further brief work is begun in the same turn of the event loop.
BRIEF_S = 0.002


@dataclass(eq=False, slots=True)
class Job:
    """A submitted work; `error` or else `result` is its outcome once it has run."""

    work: Work
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    brief: bool = False
    result: Any = None
    error: BaseException | None = None
    is_answered: bool = False

    def failed(self, message: str, cause: Exception) -> None:
        """Its outcome is that the database could not do it."""
        self.error = StorageUnavailable(f"{message}: {cause}")
        self.error.__cause__ = cause


class BatchWriter(ABC):
    """Hands what waits, at most `max_batch` works, to `_process` in a thread of its own, again and again.

    All public methods are called from the event loop's thread; the others run in the writer's.
    """

    def __init__(self, *, max_batch: int, loop: asyncio.AbstractEventLoop) -> None:
        self._max_batch = max_batch
        self._loop = loop
        self._submitted: list[Job] = []
        self._unanswered = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._in_thread = 0  # of the unanswered ones
        self._taken: list[Job] = []  # from the queue, by the thread
        self._queue: queue.SimpleQueue[Sequence[Job] | None] = queue.SimpleQueue()
        self._open = True
        self._thread = threading.Thread(target=self._run, name="asktell-writer", daemon=True)

    def start(self) -> None:
        """Begins to take works."""
        self._thread.start()

    def submit(
        self, work: Work, then: Callable[[Any], None] | None = None, *, brief: bool = False
    ) -> asyncio.Future[Any]:
        """Queues `work`; the future gets its outcome after the commit. Cancelling the future does not stop the work, nor `then`."""
        if not self._open:
            raise StorageUnavailable("the storage is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        if not self._submitted:
            self._loop.call_soon(self._hand_over)
        self._submitted.append(Job(work, then, future, brief))
        self._unanswered += 1
        self._idle.clear()
        return future

    async def stop(self) -> None:
        """Finishes what was submitted and ends the thread. May be called again."""
        self._open = False
        await self._idle.wait()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        """Puts what was submitted under way; called when something was, and may be at any time."""
        jobs, self._submitted = self._submitted, []
        self._give(jobs)

    def _give(self, jobs: Sequence[Job]) -> None:
        """Queues works for the thread."""
        if jobs:
            self._in_thread += len(jobs)
            self._queue.put(jobs)

    def _given_back(self, batch: Sequence[Job]) -> None:
        """The thread is done with the works."""
        self._in_thread -= len(batch)
        self._resolve(batch)
        self._hand_over()

    def _resolve(self, batch: Sequence[Job]) -> None:
        """Passes the outcomes on."""
        for job in batch:
            _resolve(job)
        self._unanswered -= len(batch)
        if not self._unanswered:
            self._idle.set()

    # All below runs in the writer's thread.

    @abstractmethod
    def _process(self, batch: Sequence[Job]) -> Sequence[Job]:
        """Runs the works and calls `_answer` for each once its outcome is durable; returns those to come first next time."""

    def _run(self) -> None:
        left: Sequence[Job] = ()
        while batch := self._take(left):
            try:
                left = self._process(batch)
                if left and not self._loop.is_closed():
                    self._loop.call_soon_threadsafe(self._hand_over)
            except Exception as error:
                # Not the database's fault and not a work's, but nobody may wait for ever.
                _log.exception("the storage's writer failed")
                left = ()
                unanswered = [job for job in batch if not job.is_answered]
                for job in unanswered:
                    job.failed("the storage's writer failed", error)
                self._answer(unanswered)

    def _take(self, left: Sequence[Job]) -> list[Job]:
        """What is left, then what else is queued; waits for a job if there is neither; nothing when there will be no more."""
        while not (left or self._taken) or not self._queue.empty():
            jobs = self._queue.get()
            if jobs is None:
                if left or self._taken:
                    self._queue.put(None)
                break
            self._taken += jobs
        room = max(0, self._max_batch - len(left))
        batch = [*left, *self._taken[:room]]
        del self._taken[:room]
        return batch

    def _answer(self, batch: Sequence[Job]) -> None:
        """Resolves the futures in order, with one call into the event loop."""
        for job in batch:
            job.is_answered = True
        if batch and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._given_back, batch)


def _resolve(job: Job) -> None:
    if job.error is None and job.then is not None:
        try:
            job.then(job.result)
        except Exception:
            # The data is stored and others wait for their answers: nothing to do but to say so.
            _log.exception("what should follow a commit failed")
    if job.future.done():  # cancelled by who waited, or answered before a bug in the writer
        return
    if job.error is not None:
        job.future.set_exception(job.error)
    else:
        job.future.set_result(job.result)
