"""Many works, one transaction: the thread through which one server writes to PostgreSQL.

As on SQLite (`group_commit`), all works that wait run in one transaction and are answered after one commit. Besides the disk,
the batch shares the lock on each study and the round trips: statements are sent together, and only what is read has to be
waited for.

    take what is queued ─> BEGIN ─> run each work, flush ─> COMMIT ─> answer in order ─> tell other servers
                                        │ one raised
                                        ├─ after a study was expected otherwise than it is: ROLLBACK, and once more, reading
                                        ├─ after writing nothing: its error is its answer, the rest go on
                                        ├─ its study is held by another server: it is put off, with all later works on
                                        │  this study, and comes first in the next batch
                                        └─ after writing, or the database did: ROLLBACK, then each work in a transaction
                                           of its own, again if it lost a race (a name taken, a deadlock)

Where nothing has to be read (studies and trials are as this server left them, a request_id is new), brief works run in the event
loop, which also sends them and takes the answers: the thread and the loop would only wait for each other. If anything is otherwise,
that transaction fails as a whole and the thread runs its works again, reading. While the thread is at work brief works wait for it, unless
it has put some off.

Works on one study thus keep their order. A transaction that holds a lock never waits for another study's, so servers
do not block each other in circles. One that waits does so for LOCK_TIMEOUT_MS before others get their turn.

A connection lost before COMMIT was sent is opened again and the batch is run again, once. After that nobody knows whether
it was committed: the callers hear StorageUnavailable and ask again under the same request_id. Nothing waits for a database
that is away: each batch tries to connect and, if that fails, fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import select
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors

from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable
from asktell_server.storage.base import CommitObserver
from asktell_server.storage.postgresql import listening
from asktell_server.storage.postgresql.connecting import Connection, Identity, Target, identity, one_line
from asktell_server.storage.postgresql.knowledge import Knowledge
from asktell_server.storage.postgresql.transaction import (
    Busy,
    NotAtHand,
    WritingTransaction,
    is_of_postgresql,
    translated,
)
from asktell_server.storage.postgresql.wire import Exchange, Statement
from asktell_server.storage.statements import Statements
from asktell_server.storage.writer import BRIEF_S, BatchWriter, Job

_log = logging.getLogger(__name__)

ATTEMPTS = 5
PUT_OFF_AT_MOST_S = 30.0
_LOST_RACES = (psycopg.IntegrityError, errors.SerializationFailure, errors.DeadlockDetected)


class _Spoilt(Exception):
    """The transaction must not be committed, and the works are better run one by one."""


class _Lost(Exception):
    """The connection is gone; `unknown` if the transaction may have been committed."""

    def __init__(self, cause: BaseException, *, unknown: bool) -> None:
        super().__init__(str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__)
        self.unknown = unknown


@dataclass(frozen=True)
class _Sent:
    """A batch that the event loop has sent with its commit."""

    batch: Sequence[Job]
    transaction: WritingTransaction
    exchange: Exchange
    socket: int
    started: float


class PostgresWriter(BatchWriter):
    """Runs works in transactions of one connection at a time, made to `target` when there is none."""

    def __init__(
        self,
        target: Target,
        statements: Statements,
        *,
        origin: str,
        listener: listening.Listener | None,
        observer: CommitObserver,
        went_back: Callable[[], None] | None,
        max_batch: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """`origin`: the name under which this server tells others of its commits; `listener` knows whether there are any. `went_back`:
        see Storage.listen.
        """
        super().__init__(max_batch=max_batch, loop=loop)
        self._target = target
        self._statements = statements
        self._origin = origin
        self._listener = listener
        self._observer = observer
        self._went_back = went_back
        self._knowledge = Knowledge()
        self._identity: Identity | None = None
        self._connection: Connection | None = None
        self._transaction: WritingTransaction | None = None
        self._put_off: dict[Job, float] = {}
        self._sent: _Sent | None = None
        self._watched = 0
        self._failure: BaseException | None = None
        """Why the transaction that the event loop has sent came to nothing, for the thread to end it."""
        self.start()

    async def stop(self) -> None:
        """Finishes what was submitted, ends the thread and closes the connection."""
        await super().stop()
        self._disconnect()

    def _hand_over(self) -> None:
        if self._sent is not None or not self._submitted:
            return
        if self._in_thread:
            if not self._put_off and all(job.brief for job in self._submitted):
                return  # not for long
        elif self._send_brief():
            return
        super()._hand_over()

    # The connection is the thread's while works are in the thread, else the event loop's.

    def _send_brief(self) -> bool:
        """Runs the brief works that come first and sends them with their commit; whether it did, or else left everything as it was."""
        transaction, connection = self._transaction, self._connection
        if transaction is None or connection is None or connection.closed or not self._submitted[0].brief:
            return False
        started = time.perf_counter()
        batch: list[Job] = []
        try:
            socket = transaction.socket
            transaction.begin(set(), together=True, expecting=True, at_once=True)
            for job in self._submitted[: self._max_batch]:
                if not job.brief or (batch and time.perf_counter() - started > BRIEF_S):
                    break
                job.result = job.error = None
                if not self._attempt(job, transaction) or transaction.rests_on_a_guess():
                    transaction.forget()
                    return False
                batch.append(job)
            exchange = transaction.begin_commit(self._notices(transaction.changed()))
        # Nothing is sent; the thread runs them one by one, or finds the connection gone.
        except (_Spoilt, psycopg.Error):
            transaction.forget()
            return False
        # A mistake in what makes statements of what works wrote (works' own errors are theirs, see `_attempt`). Nothing is sent here
        # either: what fails once libpq was given a statement is the exchange's error.
        except Exception:
            _log.exception("the event loop could not send works; the thread runs them")
            transaction.forget()
            return False
        del self._submitted[: len(batch)]
        self._sent = _Sent(batch, transaction, exchange, socket, started)
        self._advance()
        return True

    def _advance(self) -> None:
        """Goes on with what was sent, now that the connection is ready for it."""
        sent = self._sent
        if sent is None:  # the other one of two events of one turn
            return
        failure: BaseException | None
        try:
            events = sent.exchange.advance()
            self._watch(sent.socket, events)
            if events:
                return
            is_committed, failure = sent.transaction.outcome(sent.exchange)
        except Exception as error:
            _log.exception("the storage's writer failed")
            self._watch(sent.socket, 0)
            is_committed, failure = False, error
        self._sent = None
        if is_committed:
            self._conclude(sent, failure)
            self._hand_over()
        else:
            self._failure = failure or _Spoilt()
            self._give(sent.batch)

    def _watch(self, socket: int, events: int) -> None:
        """Has `_advance` called when the socket is ready for one of the events."""
        changed, self._watched = self._watched ^ events, events
        for event, add, remove in (
            (select.POLLIN, self._loop.add_reader, self._loop.remove_reader),
            (select.POLLOUT, self._loop.add_writer, self._loop.remove_writer),
        ):
            if changed & events & event:
                add(socket, self._advance)
            elif changed & event:
                with contextlib.suppress(OSError):  # libpq has closed it
                    remove(socket)

    def _conclude(self, sent: _Sent, untold: BaseException | None) -> None:
        try:
            if untold is not None:
                self._untold(untold)
            sent.transaction.committed()
            self._observer.committed(time.perf_counter() - sent.started, len(sent.batch))
        except Exception:
            # It is durable and must be answered so. What is known of the studies may be half of it: they are read again.
            _log.exception("what should follow a commit failed")
            self._knowledge.doubt()
        self._resolve(sent.batch)

    # All below runs in the writer's thread; `_attempt`, `_notices` and `_untold` in the event loop as well.

    def _process(self, batch: Sequence[Job]) -> Sequence[Job]:
        try:
            return self._bounded(self._tried(batch))
        except BaseException:
            self._disconnect()  # a transaction may be open, and what it wrote must not be committed with the next
            raise

    def _tried(self, batch: Sequence[Job]) -> list[Job]:
        """Runs the batch and answers; returns what is put off."""
        for last in (False, True):
            try:
                self._end_failed()
                return self._together(batch)
            except _Spoilt:
                break
            except StorageUnavailable as error:
                self._fail(batch, error)
                return []
            except _Lost as lost:
                self._disconnect()
                if last or lost.unknown:
                    self._fail(batch, StorageUnavailable(f"the database was lost: {lost}"))
                    return []
        return self._one_by_one(batch)

    def _end_failed(self) -> None:
        """Ends the transaction that the event loop has sent, if it failed. Raises _Lost."""
        failure, self._failure = self._failure, None
        transaction = self._transaction
        if failure is None or transaction is None:
            return
        transaction.was_mistaken()
        cause = failure if isinstance(failure, psycopg.Error) else None
        is_known = isinstance(failure, _Spoilt) or (cause is not None and is_of_postgresql(cause))
        if transaction.is_commit_sent and not is_known:
            raise _Lost(failure, unknown=True)
        self._roll_back(cause, sent=transaction.is_commit_sent)

    def _fail(self, batch: Sequence[Job], error: StorageUnavailable) -> None:
        _log.error("a commit of %d works failed: %s", len(batch), error)
        for job in batch:
            job.error = StorageUnavailable(error.message, error.public)
            self._put_off.pop(job, None)
        self._answer(batch)

    def _bounded(self, off: list[Job]) -> list[Job]:
        """Those works put off that go on trying; the others are answered."""
        now = time.monotonic()
        since = {job: self._put_off.get(job, now) for job in off}
        given_up = [job for job in off if now - since[job] > PUT_OFF_AT_MOST_S]
        for job in given_up:
            job.error = ConcurrentUpdate("another server keeps the study locked; try again")
        self._answer(given_up)
        self._put_off = {job: begun for job, begun in since.items() if job not in given_up}
        return list(self._put_off)

    def _together(self, batch: Sequence[Job]) -> list[Job]:
        """Runs the batch in one transaction and answers; returns what is put off. Raises _Spoilt, _Lost, StorageUnavailable."""
        started = time.perf_counter()
        busy: set[object] = set()
        done: list[Job] = []
        off: list[Job] = []
        waiting = list(batch)
        expecting = True
        while waiting:
            transaction = self._connected()
            failure: BaseException | None = None
            is_committed = False
            done = []
            for job in waiting:
                job.result = job.error = None
            off_before = len(off)
            blocked: Job | None = None
            try:
                transaction.begin(busy, together=True, expecting=expecting)
                for job in waiting:
                    blocked = job
                    (done if self._attempt(job, transaction) else off).append(job)
                blocked = None
                # After the commit and not in it: PostgreSQL lets only one transaction that notifies commit at a time.
                is_committed, failure = transaction.commit(self._notices(transaction.changed()))
            except Exception as error:
                failure = error
            if is_committed:
                if failure is not None:
                    self._untold(failure)
                break
            failure = failure or _Spoilt()
            cause = failure if isinstance(failure, psycopg.Error) else failure.__cause__
            was_mistaken = transaction.was_mistaken()
            self._roll_back(cause, sent=transaction.is_commit_sent)
            if was_mistaken:
                expecting = False
                off = off[:off_before]
                continue
            if not isinstance(cause, errors.LockNotAvailable) or blocked is None:
                if not isinstance(failure, _Spoilt) and not isinstance(cause, psycopg.Error):
                    _log.error("a commit of %d works failed", len(batch), exc_info=failure)
                raise _Spoilt
            # Another server has held its study for long: the others go on without it.
            busy.add(transaction.waits_for)
            off = [*off[:off_before], blocked]
            waiting = [job for job in waiting if job is not blocked]
        else:
            return off
        transaction.committed()
        self._observer.committed(time.perf_counter() - started, len(done))
        self._answer(done)
        return off

    def _attempt(self, job: Job, transaction: WritingTransaction) -> bool:
        """Runs a work; False if it is to be put off. Raises _Spoilt, or what the database raised."""
        written = transaction.changes
        try:
            job.result = job.work(transaction)
        except (Busy, NotAtHand):
            if transaction.changes != written:
                raise _Spoilt from None
            return False
        except BaseException as error:
            if isinstance(error, psycopg.Error) or isinstance(error.__cause__, psycopg.Error):
                raise
            if transaction.changes != written:
                raise _Spoilt from None
            job.error = _for_future(error)
        return True

    def _one_by_one(self, batch: Sequence[Job]) -> list[Job]:
        """Runs each work in a transaction of its own and answers it; returns what is put off."""
        busy: set[object] = set()
        off = []
        for job in batch:
            if self._alone(job, busy):
                self._answer([job])
            else:
                off.append(job)
        return off

    def _alone(self, job: Job, busy: set[object]) -> bool:
        """Runs a work until it has an outcome; False if it is to be put off."""
        for attempt in range(ATTEMPTS):
            job.result = job.error = None
            started = time.perf_counter()
            transaction: WritingTransaction | None = None
            try:
                transaction = self._connected()
                transaction.begin(busy)
                job.result = job.work(transaction)
                is_committed, failure = transaction.commit(self._notices(transaction.changed()))
                if not is_committed:
                    raise failure or StorageUnavailable("the database refused to commit")
            except BaseException as error:
                cause = error if isinstance(error, psycopg.Error) else error.__cause__
                try:
                    self._roll_back(cause, sent=transaction is not None and transaction.is_commit_sent)
                except _Lost as lost:
                    self._disconnect()
                    job.error = StorageUnavailable(f"the database was lost: {lost}")
                    if lost.unknown or attempt:
                        return True
                    continue
                if isinstance(error, Busy):
                    return False
                if isinstance(cause, errors.LockNotAvailable) and transaction is not None:
                    busy.add(transaction.waits_for)
                    return False
                job.error = _for_future(translated(error) if isinstance(error, psycopg.Error) else error)
                if not isinstance(cause, _LOST_RACES):
                    return True
                if not isinstance(error, ConcurrentUpdate):
                    job.error = ConcurrentUpdate(f"another writer interfered: {one_line(cause)}")
                time.sleep(random.uniform(0, 0.005 * 2**attempt))
            else:
                transaction.committed()
                self._observer.committed(time.perf_counter() - started, 1)
                if failure is not None:
                    self._untold(failure)
                return True
        return True

    def _notices(self, changed: Mapping[int, int]) -> list[Statement]:
        """What tells the other servers, if there are any, which studies changed."""
        if self._identity is None or (self._listener is not None and self._listener.is_alone):
            return []
        channel = listening.channel(self._identity.tables)
        return [
            ("SELECT pg_notify(%(channel)s, %(payload)s)", {"channel": channel, "payload": payload})
            for payload in listening.payloads(self._origin, changed)
        ]

    def _untold(self, error: BaseException) -> None:
        """The commit stands, but other servers may have to find out by themselves."""
        _log.warning("other servers were not told of a commit: %s", error)
        self._disconnect()

    # The connection

    def _connected(self) -> WritingTransaction:
        if self._connection is None or self._transaction is None or self._connection.closed:
            self._disconnect()
            self._connection = self._target.connect()
            self._recognise(self._connection)
            self._transaction = WritingTransaction(self._connection, self._statements, self._knowledge)
        return self._transaction

    def _recognise(self, connection: Connection) -> None:
        """Finds out whether the database is the one that was known, and forgets what was known of another."""
        before, self._identity = self._identity, identity(connection)
        self._knowledge.doubt()
        if before not in (None, self._identity):
            self._knowledge = Knowledge()
            if self._went_back is not None:
                self._loop.call_soon_threadsafe(self._went_back)

    def _disconnect(self) -> None:
        connection, self._connection, self._transaction = self._connection, None, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def _roll_back(self, cause: BaseException | None, *, sent: bool) -> None:
        """Ends the transaction. Raises _Lost if the connection, or what it is connected to, is of no more use."""
        if self._transaction is not None:
            self._transaction.forget()
        connection = self._connection
        if connection is None:
            return
        # A primary that has become a standby keeps its connections; a pooler may have taken prepared statements away.
        if connection.closed or isinstance(cause, (errors.ReadOnlySqlTransaction, errors.InvalidSqlStatementName)):
            raise _Lost(cause or ConnectionError(), unknown=sent and connection.closed)
        try:
            connection.rollback()
        except psycopg.Error as error:
            raise _Lost(error, unknown=sent) from error


def _for_future(error: BaseException) -> BaseException:
    # A future refuses StopIteration, which would mean something else to the waiting coroutine.
    return RuntimeError(f"work raised {error!r}") if isinstance(error, StopIteration) else error
