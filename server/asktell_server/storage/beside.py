"""Short works on a database beside the servers that have it open.

On PostgreSQL that is what every server does. On SQLite the server's lock keeps a second server out, because a server caches studies.
Tokens are cached by nobody who writes them, so a command may write them in a transaction of its own: the log mode of SQLite lets
it wait for the server's commits, and the server for its.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sqlalchemy.dialects import sqlite as sqlite_dialect

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite, wal
from asktell_server.storage.base import Transaction
from asktell_server.storage.migrate import upgrade_sqlite
from asktell_server.storage.opening import is_postgresql
from asktell_server.storage.statements import Statements
from asktell_server.storage.transaction import SqlTransaction
from asktell_server.storage.version import is_newest

T = TypeVar("T")


def write_beside(url: str, work: Callable[[Transaction], T]) -> T:
    """Runs `work`, which must touch nothing but tokens, in a transaction of its own; it is on the disk when this returns.

    A file with an old schema is upgraded first, if no server has it open. Raises StorageUnavailable, also for a file that is missing: a
    mistyped path must not make a database.
    """
    if is_postgresql(url):
        from asktell_server.storage.postgresql.beside import write_postgresql

        return write_postgresql(url, work)
    path = sqlite.path_of(url)
    if path == sqlite.MEMORY:
        raise StorageUnavailable("a database in memory is gone with its server; name a file")
    if not Path(path).exists():
        raise StorageUnavailable(f"there is no database {path}; `asktell migrate` or `asktell serve` makes one")
    wal.require_whole(path)
    try:
        connection = sqlite.connect_writer(path)
        try:
            if not is_newest(connection):
                with sqlite.lock_file(path):
                    upgrade_sqlite(connection)
            connection.execute("BEGIN IMMEDIATE")
            result = work(
                SqlTransaction(connection.cursor(), Statements(sqlite_dialect.dialect(paramstyle="named")), sqlite3)
            )
            connection.execute("COMMIT")
            return result
        finally:
            connection.close()
    except sqlite.FAILURES as error:
        raise StorageUnavailable(f"cannot change the database {path}: {error}") from error
