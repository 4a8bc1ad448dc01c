"""Reads for callers: they wait in a bounded queue, take turns, and leave the storage a reader for the server's own.

A storage reads for a few at a time, and a long trial keeps a reader for most of a second. What must not wait behind such reads goes to the
storage at once: heartbeats, asks that catch up, what is known of callers, housekeeping. All else that callers read goes through here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.engine.admission import Queue
from asktell_server.engine.fair_queue import FairQueue
from asktell_server.storage.base import READERS, Snapshot, Storage

T = TypeVar("T")

ALL = "-"
"""In the place of a project or study: the read is of all of them."""


class Reads:
    """Runs the reads of calls, at most `at_once` together."""

    def __init__(self, storage: Storage, waiting: Queue, at_once: int = READERS - 1) -> None:
        self._storage = storage
        self._waiting = waiting
        self._turns = _Turns(at_once)

    async def run(self, project: str, study: str, work: Callable[[Snapshot], T]) -> T:
        """Runs a call's `work` on a consistent view. Raises ServerBusy."""
        with self._waiting.entered(project, study):
            return await self.run_inside(project, study, work)

    async def run_inside(self, project: str, study: str, work: Callable[[Snapshot], T]) -> T:
        """As `run`, for a call that has a place in another queue."""
        await self._turns.begin(project, study)
        try:
            read = self._storage.read(work)
        except StorageUnavailable:
            self._turns.end()
            raise
        read.add_done_callback(self._ended)
        return await asyncio.shield(read)

    def _ended(self, read: asyncio.Future[T]) -> None:
        """The turn ends with the read, which goes on if the caller gives up; then nobody else asks what came of it."""
        self._turns.end()
        if not read.cancelled():
            read.exception()


class _Turns:
    """So many at once, the others in the order of a `FairQueue`."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: FairQueue[str, asyncio.Future[None]] = FairQueue()

    async def begin(self, project: str, study: str) -> None:
        """Returns when it is the caller's turn, for which there has to be an `end`."""
        if self._free:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.put(project, study, turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.discard(project, study, turn)
            else:  # it was this caller's turn at that very moment
                self.end()
            raise

    def end(self) -> None:
        """Ends a turn; the next one begins."""
        while self._waiting:
            turn = self._waiting.next()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
