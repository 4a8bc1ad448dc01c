"""The Storage on PostgreSQL: one thread that writes, some that read, one that listens to other servers."""

from __future__ import annotations

import asyncio
import queue
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

import psycopg
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import SQLAlchemyError

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.base import READERS, CommitObserver, Heard, Snapshot, Transaction
from asktell_server.storage.postgresql.connecting import Connection, Target, one_line
from asktell_server.storage.postgresql.listening import Listener, serving
from asktell_server.storage.postgresql.transaction import PlainTransaction
from asktell_server.storage.postgresql.writer import PostgresWriter
from asktell_server.storage.statements import Statements
from asktell_server.storage.version import NEWEST

T = TypeVar("T")

PATIENCE_S = 10.0
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


def upgraded(target: Target) -> bool:
    """Brings the schema of a database up to date; whether a server served it before. Raises StorageUnavailable."""
    connection = target.connect()
    try:
        # Another server may take its time over the same.
        connection.execute("SET lock_timeout = 0")
        others_serve = serving(connection) > 0
        if not _is_newest(connection):
            from asktell_server.storage.migrate import upgrade_postgresql  # slow to load, and seldom needed

            upgrade_postgresql(connection)
    except (psycopg.Error, SQLAlchemyError) as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise StorageUnavailable(f"cannot prepare the database {target.location}: {reason}") from None
    finally:
        connection.close()
    return others_serve


def _is_newest(connection: Connection) -> bool:
    try:
        return connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(NEWEST,)]
    except psycopg.errors.UndefinedTable:
        return False


def compiled() -> Statements:
    """The statements for PostgreSQL."""
    return Statements(PGDialect_psycopg(paramstyle="pyformat"))  # type: ignore[no-untyped-call]


class PostgresStorage:
    """Durable studies and trials in the PostgreSQL database at `url`, which other servers may serve too.

    `observer` is told of each commit. `max_batch`: works that share a commit at most. `readers`: reads that run at the
    same time. Belongs to the event loop that starts it.
    """

    def __init__(self, url: str, *, observer: CommitObserver, max_batch: int = 256, readers: int = READERS) -> None:
        self._target = Target(url)
        self._observer = observer
        self._max_batch = max_batch
        self._max_readers = readers
        self._statements = compiled()
        self._heard: Heard | None = None
        self._went_back: Callable[[], None] | None = None
        self._others_serve = False
        self._changing = asyncio.Lock()
        self._writer: PostgresWriter | None = None
        self._listener: Listener | None = None
        self._readers: queue.LifoQueue[Connection | None] = queue.LifoQueue()
        self._reader_threads: ThreadPoolExecutor | None = None

    @property
    def location(self) -> str:
        """The URL without its password."""
        return self._target.location

    def listen(self, heard: Heard, went_back: Callable[[], None] | None = None) -> None:
        """Before `start`: `heard` is to be called in the event loop, soon after another server changed studies, `went_back` where the
        database may have lost commits.
        """
        self._heard, self._went_back = heard, went_back

    def others_serve(self) -> bool:
        """Whether another server served the database when this storage was started."""
        return self._others_serve

    async def start(self) -> None:
        """Opens the database and brings its schema up to date. Raises StorageUnavailable."""
        async with self._changing:
            self._others_serve = await asyncio.to_thread(upgraded, self._target)
            origin = secrets.token_hex(8)
            loop = asyncio.get_running_loop()
            if self._heard is not None:
                self._listener = Listener(self._target, origin, self._heard, loop)
            self._writer = PostgresWriter(
                self._target,
                self._statements,
                origin=origin,
                listener=self._listener,
                observer=self._observer,
                went_back=self._went_back,
                max_batch=self._max_batch,
                loop=loop,
            )
            for _ in range(self._max_readers):
                self._readers.put(None)
            self._reader_threads = ThreadPoolExecutor(self._max_readers, thread_name_prefix="asktell-reader")

    async def stop(self) -> None:
        """Finishes what was submitted and closes the database; what one that hangs has not finished after PATIENCE_S fails."""
        async with self._changing:
            cut = asyncio.get_running_loop().call_later(PATIENCE_S, self._target.cut)
            reader_threads, self._reader_threads = self._reader_threads, None
            if self._listener is not None:
                await self._listener.stop()
                self._listener = None
            if self._writer is not None:
                await self._writer.stop()
                self._writer = None
            if reader_threads is not None:
                await asyncio.to_thread(reader_threads.shutdown)
            cut.cancel()
            while not self._readers.empty():
                connection = self._readers.get()
                if connection is not None:
                    connection.close()

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
        """Runs `work` on a consistent view; again, once, if the connection is lost meanwhile."""
        if self._reader_threads is None:
            raise StorageUnavailable("the storage is closed")
        return asyncio.get_running_loop().run_in_executor(self._reader_threads, self._read, work)

    def _read(self, work: Callable[[Snapshot], T]) -> T:
        connection = self._readers.get()
        try:
            if connection is not None:
                try:
                    return self._read_on(connection, work)
                except (StorageUnavailable, psycopg.Error):
                    if not connection.closed:
                        raise
            connection = self._target.connect()
            return self._read_on(connection, work)
        except (psycopg.OperationalError, psycopg.InternalError, psycopg.InterfaceError) as error:
            raise StorageUnavailable(f"the database failed: {one_line(error)}") from error
        finally:
            self._readers.put(connection if connection is not None and not connection.closed else None)

    def _read_on(self, connection: Connection, work: Callable[[Snapshot], T]) -> T:
        try:
            with connection.pipeline():
                connection.execute(_BEGIN)
                result = work(PlainTransaction(connection, self._statements))
                connection.execute("COMMIT")
            return result
        finally:
            if not connection.closed:
                connection.rollback()
