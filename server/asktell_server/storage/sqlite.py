"""SQLite as the store needs it: connections, their settings, and the lock that keeps a second server out.

A file is in WAL mode, so that readers and the writer do not wait for each other, and every commit is on the disk when
it returns (`synchronous=FULL`). Writes of one server go through one connection; a second server on the same file would
break what the first one has cached, and is refused by an advisory lock on `<path>.lock`. The lock ends with the process,
however it ends. New files are for their owner alone: databases, locks, and what SQLite keeps beside them.

Log, index and lock go by the name of the file, so a file has one name here: `path_of` follows links, once, and a file with
several names of its own (hard links) is refused.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import URL, make_url
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
# What sqlite3 raises where a file is damaged or no database: the last, when SQLite's message quotes what is no text.
FAILURES = (sqlite3.Error, UnicodeDecodeError)


def path_of(url: str) -> str:
    """The file that `url`, a URL or a path, means, by the name to which links lead; or MEMORY.

    Raises StorageUnavailable for another database than SQLite, and for what names no file.
    """
    path = _path_in(url) if "://" in url else url
    if path == MEMORY:
        return path
    if not path or "\0" in path:
        raise StorageUnavailable(f"no file can be called {path!r}; name one, or {MEMORY}, which keeps nothing")
    return os.path.realpath(path)


def _path_in(url: str) -> str:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise StorageUnavailable("the database URL cannot be read; write sqlite:///path") from error
    if parsed.get_backend_name() != "sqlite":
        raise StorageUnavailable(
            f"studies are kept in SQLite or PostgreSQL, not in {parsed.get_backend_name()!r}; write sqlite:///path or postgresql://..."
        )
    if parsed != URL.create(parsed.drivername, database=parsed.database):
        meant = "/".join(filter(None, (parsed.host, parsed.database)))
        raise StorageUnavailable(
            "the URL of a SQLite database has a path, after three slashes, and nothing else; "
            f"write sqlite:///{meant}, or sqlite:////{meant} from the root"
        )
    return parsed.database or ""


def require_file(path: str) -> None:
    """Raises StorageUnavailable if there is something else than a file at `path`; passes if there is nothing."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(_stat(path).st_mode):
            raise StorageUnavailable(f"{path} is no file")


def require_one_name(path: str) -> None:
    """Raises StorageUnavailable if the file at `path` has other names (hard links); passes if there is nothing."""
    with suppress(FileNotFoundError):
        names = _stat(path).st_nlink
        if names > 1:
            raise StorageUnavailable(
                f"the file {path} has {names} names (hard links), and its log goes by one of them: under another, commits are missed, "
                f"or lost; leave it one name (`find FOLDER -samefile {path}`), or, if a restore was killed, restore again"
            )


def _stat(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageUnavailable(f"cannot look at {path}: {error.strerror}") from error


def private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes can be read and written by its owner alone, whatever the umask."""
    return os.open(path, flags, mode=0o600)


def lock_file(path: str) -> IO[bytes]:
    """Takes the exclusive right to serve the database at `path` (from `path_of`), held until the result is closed.

    Raises StorageUnavailable if another server holds it or the place cannot be written. The lock file stays for good:
    removing it would let two servers hold locks on two files of one name.
    """
    lock_path = Path(f"{path}.lock")
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
    """The connection for writing to `path` (from `path_of`), in autocommit mode. A file that is missing is made.

    Raises StorageUnavailable if the file is no usable database.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise StorageUnavailable(f"Python's SQLite is {sqlite3.sqlite_version}; 3.35 or newer is needed")
    connection = None
    try:
        if path != MEMORY:
            with suppress(FileExistsError):
                open(path, "xb", opener=private).close()  # log and index take its mode
            require_file(path)
            require_one_name(path)
        connection = _connect(path)
        (mode,) = connection.execute("PRAGMA journal_mode=WAL").fetchone()
        if path != MEMORY and mode != "wal":
            raise sqlite3.NotSupportedError("its file system allows no write-ahead log; choose a path on a local disk")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        connection.execute(f"PRAGMA journal_size_limit={LOG_KIB * 1024}")
        connection.execute("PRAGMA busy_timeout=0")
    except (*FAILURES, OSError) as error:
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
