"""The Storage on SQLite.

Statements and transactions (`statements`, `transaction`, `codec`) are the same for every database. What differs is who
runs them: here works share commits in one writer thread (`group_commit`) and reads run beside it on connections of
their own. `postgresql.storage` is the same for PostgreSQL; `opening` tells which database a URL means.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar, cast

from sqlalchemy.dialects import sqlite as sqlite_dialect

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite, wal
from asktell_server.storage.base import READERS, CommitObserver, Heard, Snapshot, Transaction
from asktell_server.storage.group_commit import GroupCommitWriter
from asktell_server.storage.statements import Statements
from asktell_server.storage.transaction import SqlTransaction
from asktell_server.storage.version import is_newest
from asktell_server.storage.write_cache import CachingTransaction

T = TypeVar("T")


class SqlStorage:
    """Durable studies and trials in the database at `url`: a path, ":memory:" or "sqlite:///path".

    `observer` is told of each commit. `max_batch`: works that share a commit at most. `readers`: reads that run at the
    same time. Belongs to the event loop that starts it. A database in memory is gone at `stop`, and its reads queue
    with the writes.
    """

    def __init__(self, url: str, *, observer: CommitObserver, max_batch: int = 256, readers: int = READERS) -> None:
        self._path = sqlite.path_of(url)
        self._observer = observer
        self._max_batch = max_batch
        self._max_readers = readers
        # Compiled once for both kinds of connection; parameters are bound by name.
        self._statements = Statements(sqlite_dialect.dialect(paramstyle="named"))
        self._changing = asyncio.Lock()
        self._lock: IO[bytes] | None = None
        self._connections: list[sqlite3.Connection] = []
        self._writer: GroupCommitWriter | None = None
        self._readers: queue.LifoQueue[tuple[sqlite3.Connection, Snapshot]] = queue.LifoQueue()
        self._reader_threads: ThreadPoolExecutor | None = None

    @property
    def location(self) -> str:
        """The path, or ":memory:"."""
        return self._path

    def listen(self, heard: Heard, went_back: Callable[[], None] | None = None) -> None:
        """Does nothing: one server has a SQLite database to itself."""

    def others_serve(self) -> bool:
        """Never."""
        return False

    async def start(self) -> None:
        """Opens the database and brings its schema up to date. Raises StorageUnavailable."""
        async with self._changing:
            connection = await asyncio.to_thread(self._open)
            self._writer = GroupCommitWriter(
                connection,
                CachingTransaction(connection, self._statements),
                reconnect=None if self._path == sqlite.MEMORY else self._reconnect,
                observer=self._observer,
                max_batch=self._max_batch,
                loop=asyncio.get_running_loop(),
            )
            if self._readers.qsize():
                self._reader_threads = ThreadPoolExecutor(self._max_readers, thread_name_prefix="asktell-reader")

    async def stop(self) -> None:
        """Finishes what was submitted and closes the database."""
        async with self._changing:
            reader_threads, self._reader_threads = self._reader_threads, None
            if self._writer is not None:
                await self._writer.stop()
                self._writer = None
            if reader_threads is not None:
                await asyncio.to_thread(reader_threads.shutdown)
            await asyncio.to_thread(self._close)

    def submit(
        self, work: Callable[[Transaction], T], then: Callable[[T], None] | None = None, *, brief: bool = False
    ) -> asyncio.Future[T]:
        """Queues `work`; the future is done after the commit is durable. Raises StorageUnavailable when closed."""
        if self._writer is None:
            raise StorageUnavailable("the storage is closed")
        return cast("asyncio.Future[T]", self._writer.submit(work, then, brief=brief))

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction; returns after the commit is durable. Raises StorageUnavailable, or what it raises."""
        return await self.submit(work)

    def read(self, work: Callable[[Snapshot], T]) -> asyncio.Future[T]:
        """Runs `work` on a consistent view. Raises StorageUnavailable when closed."""
        if self._reader_threads is None:
            return self.submit(work)
        return asyncio.get_running_loop().run_in_executor(self._reader_threads, self._read, work)

    def _transaction(self, connection: sqlite3.Connection) -> SqlTransaction:
        return SqlTransaction(connection.cursor(), self._statements, sqlite3)

    def _open(self) -> sqlite3.Connection:
        """Opens all connections; the result is the one for writing."""
        try:
            if self._path != sqlite.MEMORY:
                self._lock = sqlite.lock_file(self._path)
                wal.require_whole(self._path)
            writer = sqlite.connect_writer(self._path)
            self._connections.append(writer)
            if not is_newest(writer):
                from asktell_server.storage.migrate import upgrade_sqlite

                upgrade_sqlite(writer)
            if self._path != sqlite.MEMORY:
                for _ in range(self._max_readers):
                    reader = sqlite.connect_reader(self._path)
                    self._connections.append(reader)
                    self._readers.put((reader, self._transaction(reader)))
        except (*sqlite.FAILURES, OSError) as error:
            self._close()
            raise StorageUnavailable(f"cannot open the database {self._path}: {error}") from error
        except BaseException:
            self._close()
            raise
        return writer

    def _reconnect(self) -> tuple[sqlite3.Connection, CachingTransaction]:
        """Another connection in the place of the one for writing. Raises StorageUnavailable."""
        writer = sqlite.connect_writer(self._path)
        self._connections[0], old = writer, self._connections[0]
        with contextlib.suppress(sqlite3.Error):
            old.close()
        return writer, CachingTransaction(writer, self._statements)

    def _close(self) -> None:
        self._readers = queue.LifoQueue()
        # The writer's connection goes last: SQLite then moves the log into the database.
        while self._connections:
            self._connections.pop().close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _read(self, work: Callable[[Snapshot], T]) -> T:
        connection, snapshot = self._readers.get()
        try:
            connection.execute("BEGIN")
            return work(snapshot)
        except sqlite3.ProgrammingError:  # a mistake of ours
            raise
        except sqlite3.DatabaseError as error:
            raise StorageUnavailable(f"the database cannot be read: {error}") from error
        finally:
            with contextlib.suppress(sqlite3.OperationalError):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            self._readers.put((connection, snapshot))
