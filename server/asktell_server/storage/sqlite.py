"""SQLite as the store needs it: connections, their settings, and the lock that keeps a second server out.

A file is in WAL mode, so that readers and the writer do not wait for each other, and every commit is on the disk when
it returns (`synchronous=FULL`). Writes of one server go through one connection; a second server on the same file would
break what the first one has cached, and is refused by an advisory lock on `<path>.lock`. The lock ends with the process,
however it ends. New files are for their owner alone: databases, locks, and what SQLite keeps beside them.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from asktell_server.domain.errors import StorageUnavailable

MEMORY = ":memory:"
# How long to wait for a program that has the file open beside the server, such as a backup. The connection for writing waits
# for no lock: who uses it decides whether to wait.
BUSY_TIMEOUT_S = 5.0
WRITER_CACHE_KIB = 64 * 1024
# What a log keeps of the disk after a burst of writes.
LOG_KIB = 64 * 1024
OLDEST_SQLITE = (3, 35)  # knows RETURNING


def path_of(url: str) -> str:
    """The path that `url` means. Raises StorageUnavailable for another database than SQLite."""
    if "://" not in url:
        return url
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StorageUnavailable("the database URL cannot be read; write sqlite:///path") from error
    if parsed.get_backend_name() != "sqlite":
        raise StorageUnavailable(
            f"studies are kept in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}; write sqlite:///path or postgresql://..."
        )
    return parsed.database or MEMORY


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes can be read and written by its owner alone, whatever the umask."""
    return os.open(path, flags, mode=0o600)


def lock_file(path: str) -> IO[bytes]:
    """Takes the exclusive right to serve the database at `path`, held until the result is closed.

    Raises StorageUnavailable if another server holds it or the place cannot be written. The lock file stays for good:
    removing it would let two servers hold locks on two files of one name.
    """
    lock_path = Path(f"{Path(path).resolve()}.lock")
    try:
        file = open(lock_path, "ab", opener=private)  # noqa: SIM115 - held until it is closed
    except OSError as error:
        raise StorageUnavailable(f"cannot write {lock_path}: {error.strerror}; choose another path") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise StorageUnavailable(
            f"another server has the database {path} open (it holds {lock_path}); stop it or choose another path"
        ) from error
    return file


def connect_writer(path: str) -> sqlite3.Connection:
    """The connection for writing, in autocommit mode. A file that is missing is made.

    Raises StorageUnavailable if the file is no usable database.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageUnavailable(f"Python's SQLite is {sqlite3.sqlite_version}; 3.35 or newer is needed")
    connection = None
    try:
        if path != MEMORY:
            with suppress(OSError):  # it exists, or SQLite says what is wrong; log and index take its mode
                open(path, "xb", opener=private).close()
        connection = _connect(path)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if path != MEMORY and mode != "wal":
            raise sqlite3.NotSupportedError("its file system allows no write-ahead log; choose a path on a local disk")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_KIB * 1024}")
        connection.execute("PRAGMA busy_timeout=0")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        raise StorageUnavailable(f"cannot open the database {path}: {error}") from error
    return connection


def connect_reader(path: str) -> sqlite3.Connection:
    """A connection that cannot write, in autocommit mode."""
    connection = _connect(path)
    connection.execute("PRAGMA query_only=ON")
    return connection


def _connect(path: str) -> sqlite3.Connection:
    # Each connection serves one thread at a time, but not always the same.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA foreign_keys=ON")
    return connection
