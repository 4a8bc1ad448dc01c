"""Works on a PostgreSQL database by commands that serve nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import psycopg

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.base import Transaction
from asktell_server.storage.postgresql.connecting import Target, one_line
from asktell_server.storage.postgresql.listening import serving
from asktell_server.storage.postgresql.storage import compiled, upgraded
from asktell_server.storage.postgresql.transaction import PlainTransaction

T = TypeVar("T")


def write_postgresql(url: str, work: Callable[[Transaction], T]) -> T:
    """Runs `work`, which must touch nothing but tokens, in a transaction; durable when this returns.

    A schema that is there is brought up to date first. Raises StorageUnavailable, also where there is none: a mistyped URL must
    not put tables beside another program's.
    """
    target = Target(url)
    connection = target.connect()
    try:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            raise StorageUnavailable(
                f"{target.location} is not a database of AskTell; `asktell migrate` or `asktell serve` makes it one"
            )
        upgraded(target)
        with connection.transaction():
            return work(PlainTransaction(connection, compiled()))
    except psycopg.Error as error:
        raise StorageUnavailable(f"cannot change the database {target.location}: {one_line(error)}") from error
    finally:
        connection.close()


@dataclass(frozen=True)
class Reading:
    """A database as it is at one moment: `each` runs a query without parameters, and gives its rows one by one.

    `served`: a server is at work on it.
    """

    each: Callable[[str], Iterator[Any]]
    served: bool


@contextmanager
def reading_postgresql(url: str) -> Iterator[Reading]:
    """Reads only, and changes nothing, its schema included; takes its time. Raises StorageUnavailable."""
    target = Target(url)
    connection = target.connect()

    names = count()

    def each(query: str) -> Iterator[Any]:
        with connection.cursor(f"each{next(names)}") as cursor:  # with a name, it is one on the server's side
            yield from cursor.execute(query)

    try:
        served = serving(connection) > 0
        connection.execute("SET idle_in_transaction_session_timeout = 0")
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield Reading(each, served)
    except psycopg.Error as error:
        raise StorageUnavailable(f"cannot read the database {target.location}: {one_line(error)}") from error
    finally:
        connection.close()
