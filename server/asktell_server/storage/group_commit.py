"""Many works, one commit: the thread through which everything is written to SQLite.

SQLite lets one transaction write at a time and makes it durable with an fsync, which takes longer than all else. So
works queue up for one thread, which runs all that wait inside one transaction and commits once:

    take what is queued ─> BEGIN IMMEDIATE ─> run each work, flush ─> COMMIT (fsync) ─> answer all, in order
                                                   │ one raised
                                                   ├─ after writing nothing: its error is its answer, the rest go on
                                                   └─ after writing: ROLLBACK, then each work in a transaction of its own

While the disk is busy the queue fills, so batches grow with the load and a lone writer never waits for company. Nothing
is answered before the commit, errors neither: they may rest on what a neighbour wrote. If the commit fails, all of the
batch fail. A work that raises after a write is rare (use cases check first, then write), so its cost, a commit for each
of its neighbours, buys the plain happy path without savepoints.

Brief works are run in the event loop, in a transaction that stays open, and the thread only commits them; all else, whatever might
wait included, is left to the thread. One batch is under way at a time.

When the disk itself fails in a commit (an fsync, say), the connection is in doubt: what it believes to be in the file may not be
there, or what it gave up may. It is closed, and the next batch begins on a new one, which reads the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite
from asktell_server.storage.base import CommitObserver
from asktell_server.storage.write_cache import CachingTransaction
from asktell_server.storage.writer import BRIEF_S, BatchWriter, Job

_log = logging.getLogger(__name__)

_HARMLESS = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CONSTRAINT}


class _Spoilt(Exception):
    """A work raised after it had written: its transaction must not be committed."""


class GroupCommitWriter(BatchWriter):
    """Runs works one after the other on `connection`, which is in autocommit mode, waits for no lock, and is used by nobody else.

    `reconnect` closes the connection and opens another; None where that would lose the database, which is in memory.
    `max_batch`: works that share a commit at most. All methods are called from the event loop's thread.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        transaction: CachingTransaction,
        *,
        reconnect: Callable[[], tuple[sqlite3.Connection, CachingTransaction]] | None = None,
        observer: CommitObserver,
        max_batch: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(max_batch=max_batch, loop=loop)
        self._connection = connection
        self._transaction = transaction
        self._reconnect = reconnect
        self._in_doubt = False
        self._observer = observer
        self._under_way = False
        self._begun: list[Job] = []
        self._began = 0.0
        self.start()

    def _hand_over(self) -> None:
        """Puts the next batch under way, if none is."""
        if self._under_way or not self._submitted:
            return
        self._under_way = True
        batch = self._run_brief() or self._submitted[: self._max_batch]
        del self._submitted[: len(batch)]
        self._give(batch)

    def _run_brief(self) -> list[Job]:
        """Runs the brief works that come first, in a transaction that stays open; none if something stands in the way."""
        if not self._submitted[0].brief or self._in_doubt:
            return []
        self._began = time.perf_counter()
        until = self._began + BRIEF_S
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in self._submitted[: self._max_batch]:
                if not job.brief or (self._begun and time.perf_counter() > until):
                    break
                self._attempt(job)
                self._begun.append(job)
            self._transaction.flush()
        except Exception:
            # Nothing is lost or hidden: all of it is rolled back, and the thread runs them again from the start. It waits for locks,
            # and what fails there as well is the work's answer.
            self._roll_back()
            self._begun = []
        return self._begun

    def _given_back(self, batch: Sequence[Job]) -> None:
        self._under_way = False
        super()._given_back(batch)

    # All below runs in the writer's thread.

    def _process(self, batch: Sequence[Job]) -> Sequence[Job]:
        try:
            self._commit(batch)
        except _Spoilt:
            for job in batch:
                with contextlib.suppress(_Spoilt):  # its error is its answer
                    self._commit([job])
        self._answer(batch)
        return ()

    def _commit(self, batch: Sequence[Job]) -> None:
        """Runs the batch in one transaction. Raises _Spoilt, with nothing left of it, if a work raised after a write."""
        begun, self._begun = self._begun, []
        started = self._began if begun else time.perf_counter()
        try:
            if not begun:
                self._begin()
                for job in batch:
                    self._attempt(job)
                self._transaction.flush()
            self._connection.execute("COMMIT")
        except (sqlite3.Error, StorageUnavailable) as error:
            self._in_doubt = self._in_doubt or not _is_harmless(error)
            self._roll_back()
            _log.error("a commit of %d works failed: %s", len(batch), error)
            _fail(batch, "the database cannot be written", error)
        except _Spoilt:
            self._roll_back()
            raise
        except Exception as error:
            self._roll_back()
            _log.exception("a commit of %d works failed", len(batch))
            _fail(batch, "the batch could not be written", error)
        else:
            self._observer.committed(time.perf_counter() - started, len(batch))

    def _begin(self) -> None:
        """Begins a transaction; waits for another program that writes."""
        if self._in_doubt and self._reconnect is not None:
            self._connection, self._transaction = self._reconnect()
            self._in_doubt = False
        self._connection.execute(f"PRAGMA busy_timeout={round(1000 * sqlite.BUSY_TIMEOUT_S)}")
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        finally:
            self._connection.execute("PRAGMA busy_timeout=0")

    def _attempt(self, job: Job) -> None:
        """Runs a work. Raises _Spoilt if it raised after a write."""
        written = self._transaction.changes
        job.result = job.error = None
        try:
            job.result = job.work(self._transaction)
        except BaseException as error:
            # A future refuses StopIteration, which would mean something else to the waiting coroutine.
            job.error = RuntimeError(f"work raised {error!r}") if isinstance(error, StopIteration) else error
            # On some errors (a full disk, say) SQLite gives up the whole transaction by itself.
            if self._transaction.changes != written or not self._connection.in_transaction:
                raise _Spoilt from None

    def _roll_back(self) -> None:
        self._transaction.forget()
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            _log.error("a rollback failed: %s", error)
            self._in_doubt = True


def _is_harmless(error: Exception) -> bool:
    """Whether the connection is known to be as it was before the batch: the database was locked or full, or a rule was broken."""
    cause = error if isinstance(error, sqlite3.Error) else error.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in _HARMLESS


def _fail(batch: Sequence[Job], message: str, cause: Exception) -> None:
    for job in batch:
        job.failed(message, cause)
