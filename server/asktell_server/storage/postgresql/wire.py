"""Statements sent to PostgreSQL in one piece.

psycopg's own pipeline sends each statement by itself and looks each time whether anything has come back. For the few small
statements of a transaction this takes the writer's thread, which shares the interpreter's lock with the event loop, several times as
long as all else. Here libpq is given all of them, prepared, and then one Sync.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import psycopg
from psycopg import errors, pq
from psycopg.pq.abc import PGresult

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


class Wire:
    """Runs statements on a connection that nobody else uses meanwhile."""

    def __init__(self, connection: Connection) -> None:
        # psycopg, once it has prepared a statement of its own, drops all of the connection's at a rollback, ours as well.
        connection.prepare_threshold = None
        self._libpq = connection.pgconn
        self._known: dict[str, _Prepared] = {}

    def check(self) -> None:
        """Raises psycopg.OperationalError if the database has closed the connection."""
        while self._wait(select.POLLIN, 0):
            self._libpq.consume_input()

    def run(self, statements: Sequence[Statement]) -> tuple[list[PGresult], psycopg.Error | None]:
        """The results of the statements that were done, in order, and the error that kept the rest from it."""
        sent = [(self._prepared(text), values) for text, values in statements]
        bound = [(each, [_written(values[name]) for name in each.parameters]) for each, values in sent]
        results: list[PGresult] = []
        expected: list[_Prepared | None] = []  # what each answer prepares, or None if it is a statement's
        failed: PGresult | None = None
        try:
            self._libpq.enter_pipeline_mode()
            for each, parameters in bound:
                if not each.is_there and each not in expected:
                    self._libpq.send_prepare(each.name, each.text)
                    expected.append(each)
                self._libpq.send_query_prepared(each.name, parameters)
                expected.append(None)
            self._libpq.pipeline_sync()
            self._flush()
            left = iter(expected)
            for result in self._answers():
                # One more than was sent: what is done at the Sync itself has failed.
                prepared = next(left, None)
                if failed is None and result.status in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
                    if prepared is None:
                        results.append(result)
                    else:
                        prepared.is_there = True
                else:
                    failed = failed or result
            self._libpq.exit_pipeline_mode()
        except psycopg.Error as error:
            # If PostgreSQL said why it ends the connection, that says more.
            return results, error if failed is None else errors.error_from_result(failed)
        return results, None if failed is None else errors.error_from_result(failed)

    def _prepared(self, text: str) -> _Prepared:
        known = self._known.get(text)
        if known is None:
            known = self._known[text] = _Prepared(f"asktell{len(self._known)}".encode(), text)
        return known

    def _flush(self) -> None:
        while self._libpq.flush():
            if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                self._libpq.consume_input()

    def _answers(self) -> Iterator[PGresult]:
        """What comes back before the answer to the Sync."""
        lost: psycopg.Error | None = None
        while True:
            while lost is None and self._libpq.is_busy():
                self._wait(select.POLLIN)
                try:
                    self._libpq.consume_input()
                except psycopg.Error as error:
                    lost = error  # but there may be answers that came before
            result = self._libpq.get_result()
            if result is None:  # there may be more of the next statement
                if self._libpq.status != pq.ConnStatus.OK:
                    raise lost or psycopg.OperationalError("the connection is lost")
            elif result.status == pq.ExecStatus.PIPELINE_SYNC:
                return
            else:
                yield result

    def _wait(self, events: int, timeout_ms: int | None = None) -> int:
        poll = select.poll()
        poll.register(self._libpq.socket, events)
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
