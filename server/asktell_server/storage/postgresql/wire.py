"""Statements sent to PostgreSQL in one piece.

psycopg's own pipeline sends each statement by itself and looks each time whether anything has come back. For the few small
statements of a transaction this takes the writer's thread, which shares the interpreter's lock with the event loop, several times as
long as all else. Here libpq is given all of them, prepared, and then one Sync.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.pq.abc import PGconn, PGresult

from asktell_server.storage.postgresql.connecting import Connection

Statement = tuple[str, Mapping[str, Any]]

_PARAMETER = re.compile(r"%\((\w+)\)s")
# By the types' ids in PostgreSQL: bigint, smallint, integer; text, varchar.
_READ: Mapping[int, Callable[[bytes], int | str]] = {20: int, 21: int, 23: int, 25: bytes.decode, 1043: bytes.decode}


class _Prepared:
    """A statement that the connection knows by `name`, once it `is_there`; `parameters` are those of its values, in order."""

    def __init__(self, name: bytes, text: str) -> None:
        self.name = name
        self.parameters = _PARAMETER.findall(text)
        count = iter(range(1, len(self.parameters) + 1))
        self.text = _PARAMETER.sub(lambda _: f"${next(count)}", text).replace("%%", "%").encode()
        self.is_there = False


class Exchange:
    """Statements that were given to libpq, and what has come back: the `results` of those that were done, in order, and the `error`
    that kept the rest from it. `is_done`: the Sync was answered, and all before it was done.
    """

    def __init__(self, libpq: PGconn, statements: Sequence[tuple[_Prepared, Sequence[bytes | None]]]) -> None:
        self.results: list[PGresult] = []
        self.error: psycopg.Error | None = None
        self.is_done = False
        self._libpq = libpq
        self._expected: list[_Prepared | None] = []  # what each answer prepares, or None if it is a statement's
        self._next = 0
        self._failed: PGresult | None = None
        self._lost: psycopg.Error | None = None
        try:
            libpq.enter_pipeline_mode()
            for prepared, parameters in statements:
                if not prepared.is_there and prepared not in self._expected:
                    libpq.send_prepare(prepared.name, prepared.text)
                    self._expected.append(prepared)
                libpq.send_query_prepared(prepared.name, parameters)
                self._expected.append(None)
            libpq.pipeline_sync()
        except psycopg.Error as error:
            self.error = error
        except Exception as error:  # some of it may be on its way
            self.error = psycopg.InternalError(f"statements could not be sent: {error!r}")

    def advance(self) -> int:
        """Sends and takes what can be without waiting. For what to wait (as in `select.poll`) before the next call; 0 at the end."""
        if self.error is not None:
            return 0
        try:
            unsent = self._libpq.flush()
            self._receive()
            while not self._take():
                # Up to the very end of what is there: after an error of the socket some event loops (uvloop) never call again.
                if not _ready(self._libpq.socket, select.POLLIN, 0):
                    return select.POLLIN | (select.POLLOUT if unsent else 0)
                self._receive()
            self.is_done = self._failed is None
            self._libpq.exit_pipeline_mode()
        except psycopg.Error as error:
            self.error = error
        if self._failed is not None:
            # If PostgreSQL said why it ends the connection, that says more.
            self.error = errors.error_from_result(self._failed)
        return 0

    def _receive(self) -> None:
        if self._lost is None:
            try:
                self._libpq.consume_input()
            except psycopg.Error as error:
                self._lost = error  # but there may be answers that came before

    def _take(self) -> bool:
        """Takes the answers that are there; whether they are all. Raises psycopg.Error if the connection is lost."""
        while self._lost is not None or not self._libpq.is_busy():
            result = self._libpq.get_result()
            if result is None:  # there may be more of the next statement
                if self._libpq.status != pq.ConnStatus.OK:
                    raise self._lost or psycopg.OperationalError("the connection is lost")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return True
            else:
                self._took(result)
        return False

    def _took(self, result: PGresult) -> None:
        # One more than was sent: what is done at the Sync itself has failed.
        prepared = self._expected[self._next] if self._next < len(self._expected) else None
        self._next += 1
        if self._failed is None and result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            if prepared is None:
                self.results.append(result)
            else:
                prepared.is_there = True
        else:
            self._failed = self._failed or result


class Wire:
    """Runs statements on a connection that nobody else uses meanwhile."""

    def __init__(self, connection: Connection) -> None:
        # psycopg, once it has prepared a statement of its own, drops all of the connection's at a rollback, ours as well.
        connection.prepare_threshold = None
        self._libpq = connection.pgconn
        self._known: dict[str, _Prepared] = {}

    @property
    def socket(self) -> int:
        """The number of the connection's socket."""
        return self._libpq.socket

    def check(self) -> None:
        """Raises psycopg.OperationalError if the database has closed the connection."""
        while self._wait(select.POLLIN, 0):
            self._libpq.consume_input()

    def begin(self, statements: Sequence[Statement]) -> Exchange:
        """Begins to send the statements; `Exchange.advance` goes on with it. Raises psycopg.DataError, and has sent nothing."""
        bound = [(self._prepared(text), values) for text, values in statements]
        return Exchange(
            self._libpq, [(each, [_written(values[name]) for name in each.parameters]) for each, values in bound]
        )

    def finish(self, exchange: Exchange) -> Exchange:
        """Waits for its end."""
        while events := exchange.advance():
            self._wait(events)
        return exchange

    def run(self, statements: Sequence[Statement]) -> tuple[list[PGresult], psycopg.Error | None]:
        """Sends the statements and waits; results and error as of the exchange. Raises psycopg.DataError, and has sent nothing."""
        exchange = self.finish(self.begin(statements))
        return exchange.results, exchange.error

    def _prepared(self, text: str) -> _Prepared:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = _Prepared(f"asktell{len(self._known)}".encode(), text)
        return known

    def _wait(self, events: int, timeout_ms: int | None = None) -> int:
        return _ready(self._libpq.socket, events, timeout_ms)


def _ready(socket: int, events: int, timeout_ms: int | None) -> int:
    """For which of the events the socket is ready, once it is for any."""
    poll = select.poll()
    poll.register(socket, events)
    ready = poll.poll(timeout_ms)
    return ready[0][1] if ready else 0


def rows(result: PGresult) -> list[tuple[Any, ...]]:
    """The rows of a result whose columns are integers and texts."""
    columns = [(i, _READ[result.ftype(i)]) for i in range(result.nfields)]
    return [
        tuple(None if (value := result.get_value(row, i)) is None else read(value) for i, read in columns)
        for row in range(result.ntuples)
    ]


def _written(value: str | int | None) -> bytes | None:
    if value is None:
        return None
    if isinstance(value, int):
        return b"%d" % value
    if "\0" in value:  # libpq would end the text there
        raise psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
    return value.encode()
