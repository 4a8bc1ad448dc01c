"""Short works on a PostgreSQL database by a command that serves nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import psycopg

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.base import Transaction
from asktell_server.storage.postgresql.connecting import Target, one_line
from asktell_server.storage.postgresql.storage import compiled, upgraded
from asktell_server.storage.postgresql.transaction import PlainTransaction

T = TypeVar("T")


def write_postgresql(url: str, work: Callable[[Transaction], T]) -> T:
    """Runs `work`, which must touch nothing but tokens, in a transaction; durable when this returns.

    The schema is brought up to date first. Raises StorageUnavailable.
    """
    target = Target(url)
    upgraded(target)
    connection = target.connect()
    try:
        with connection.transaction():
            return work(PlainTransaction(connection, compiled()))
    except psycopg.Error as error:
        raise StorageUnavailable(f"cannot change the database {target.location}: {one_line(error)}") from error
    finally:
        connection.close()
