"""Statements sent to PostgreSQL in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import errors

from asktell_server.storage.base import Transaction
from asktell_server.storage.postgresql.connecting import Connection, Target
from asktell_server.storage.postgresql.wire import Wire, rows
from asktell_server.testing.samples import a_study, a_trial, add_study, ask, numbers

from .helpers import opened_postgres

INSERT = "INSERT INTO t (id, note) VALUES (%(id)s, %(note)s)"
SELECT = "SELECT id, note FROM t WHERE id >= %(first)s ORDER BY id"


@pytest.fixture
def connection(postgres_url: str) -> Iterator[Connection]:
    """A connection to a database with an empty table."""
    with Target(postgres_url).connect() as connection:
        connection.execute("CREATE TABLE t (id bigint PRIMARY KEY, note text)")
        yield connection


def test_values_come_back(connection: Connection) -> None:
    """Integers of 64 bits, texts of any characters and NULL are read as they were written; a statement may come again and again."""
    wire = Wire(connection)
    written = [(-(2**63), None), (0, ""), (7, "50 % 'of' \"ü\" \\ \x01 \U0001f600"), (2**63 - 1, "x" * 300_000)]

    for _ in range(2):
        results, error = wire.run(
            [
                ("DELETE FROM t", {}),
                *((INSERT, {"id": id_, "note": note}) for id_, note in written),
                (SELECT, {"first": -(2**63)}),
            ]
        )

        assert error is None
        assert len(results) == 6
        assert rows(results[-1]) == written


def test_what_follows_an_error_is_not_done(connection: Connection) -> None:
    """The results before it and the error are told; the connection goes on, with the statements that it had begun to prepare."""
    wire = Wire(connection)
    first, second = {"id": 1, "note": "first"}, {"id": 2, "note": "second"}

    results, error = wire.run(
        [("BEGIN", {}), (INSERT, first), ("SELECT no_such_column FROM t", {}), (SELECT, {"first": 0})]
    )
    connection.rollback()
    again, broken = wire.run([(INSERT, first), (INSERT, first), (INSERT, second)])
    last, none = wire.run([(INSERT, second), (SELECT, {"first": 0})])

    assert [result.command_status for result in results] == [b"BEGIN", b"INSERT 0 1"]
    assert isinstance(error, errors.UndefinedColumn)
    assert len(again) == 1
    assert isinstance(broken, errors.UniqueViolation)
    assert none is None
    assert rows(last[-1]) == [(2, "second")]


def test_a_connection_that_was_closed_is_noticed_before_anything_is_sent(
    postgres_url: str, connection: Connection
) -> None:
    """Once the database has ended the session, `check` raises; what is sent all the same comes back as an error."""
    wire = Wire(connection)
    wire.check()
    with psycopg.connect(postgres_url) as other:
        other.execute("SELECT pg_terminate_backend(%s, 60000)", (connection.info.backend_pid,))

    with pytest.raises(psycopg.OperationalError):
        wire.check()
    results, error = wire.run([(SELECT, {"first": 0})])

    assert results == []
    assert isinstance(error, psycopg.Error)
    assert connection.closed


def test_what_fails_at_the_end_takes_nothing_back(connection: Connection) -> None:
    """A constraint that is checked when all has been sent: what was committed before is told as done, and the error with it."""
    connection.execute("CREATE TABLE u (id bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    wire = Wire(connection)
    late = ("INSERT INTO u (id) VALUES (%(id)s)", {"id": 1})

    results, error = wire.run([("BEGIN", {}), (INSERT, {"id": 1, "note": ""}), ("COMMIT", {}), late, late])

    assert [result.command_status for result in results[:3]] == [b"BEGIN", b"INSERT 0 1", b"COMMIT"]
    assert isinstance(error, errors.UniqueViolation)
    assert connection.execute("SELECT count(*) FROM t").fetchone() == (1,)
    assert connection.execute("SELECT count(*) FROM u").fetchone() == (0,)


def test_its_statements_outlive_a_rollback(connection: Connection) -> None:
    """Also when the connection was used for as many other statements as psycopg needs to prepare some of its own."""
    wire = Wire(connection)
    wire.run([(INSERT, {"id": 1, "note": ""})])
    for _ in range(10):
        connection.execute("SELECT id FROM t WHERE id = %s", (1,))
    connection.execute("BEGIN")
    connection.rollback()

    results, error = wire.run([(INSERT, {"id": 2, "note": ""})])

    assert error is None
    assert results[0].command_status == b"INSERT 0 1"


async def test_a_text_that_postgresql_cannot_hold_is_refused_whole(postgres_url: str) -> None:
    """A NUL, at which libpq would cut the text, is an error of its work; the others of the batch are done."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())

        def cut(tx: Transaction) -> None:
            study = tx.lock_study_by_id(stored.id)
            assert study is not None
            tx.insert_trials(study.id, [replace(a_trial(100), notes="before\0after")])

        works = [storage.submit(work) for work in (ask("default", "digits"), cut, ask("default", "digits"))]
        outcomes = await asyncio.gather(*works, return_exceptions=True)
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))

    assert [outcomes[0], outcomes[2]] == [1, 2]
    assert isinstance(outcomes[1], psycopg.DataError)
    assert numbers(kept) == [1, 2]
