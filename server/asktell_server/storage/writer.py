"""The queue in front of a thread that writes: works go in from the event loop, outcomes come back to it in order.

What the thread does with the works that wait is the database's affair: `group_commit` for SQLite, `postgresql.writer`.
Works that are submitted in one turn of the event loop reach the thread together.
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


@dataclass(eq=False, slots=True)
class Job:
    """A submitted work; `error` or else `result` is its outcome once it has run."""

    work: Work
    then: Callable[[Any], None] | None
    future: asyncio.Future[Any]
    brief: bool = False
    result: Any = None
    error: BaseException | None = None

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
        return future

    async def stop(self) -> None:
        """Finishes what was submitted and ends the thread. May be called again."""
        self._open = False
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _hand_over(self) -> None:
        jobs, self._submitted = self._submitted, []
        if jobs:
            self._queue.put(jobs)

    # All below runs in the writer's thread.

    @abstractmethod
    def _process(self, batch: Sequence[Job]) -> Sequence[Job]:
        """Runs the works and calls `_answer` for each once its outcome is durable; returns those to come first next time."""

    def _run(self) -> None:
        left: Sequence[Job] = ()
        while batch := self._take(left):
            try:
                left = self._process(batch)
            except Exception as error:
                # Not the database's fault and not a work's, but nobody may wait for ever.
                _log.exception("the storage's writer failed")
                left = ()
                for job in batch:
                    job.failed("the storage's writer failed", error)
                self._answer(batch)

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
        if batch and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(resolve, batch)


def resolve(batch: Sequence[Job]) -> None:
    """Passes the outcomes on, in the event loop."""
    for job in batch:
        if job.error is None and job.then is not None:
            try:
                job.then(job.result)
            except Exception:
                # The data is stored and others wait for their answers: nothing to do but to say so.
                _log.exception("what should follow a commit failed")
        if job.future.done():  # cancelled by who waited, or answered before a bug in the writer
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.result)
