"""SQLite files as the commands handle them: found, opened to be read, and checked."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import click

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite
from asktell_server.storage.migrate import known_revisions
from asktell_server.storage.opening import is_postgresql
from asktell_server.storage.schema import metadata

# How a SQLite database begins.
HEAD = b"SQLite format 3\x00"
# What every schema has had; later ones added to it.
FIRST_TABLES = {"studies", "trials", "measurements", "requests"}


def sqlite_path(database: str) -> Path:
    """The file that `--db` names. Raises ClickException for a database that is none, or in memory."""
    if is_postgresql(database):
        raise click.ClickException(
            "this command is for SQLite files; of PostgreSQL take backups with pg_dump --format=custom (pg_restore brings them back)"
        )
    try:
        database = sqlite.path_of(database)
    except StorageUnavailable as error:
        raise click.ClickException(str(error)) from error
    if database == sqlite.MEMORY:
        raise click.ClickException("a database in memory has no file")
    return Path(database)


def log_of(path: Path) -> Path:
    """The write-ahead log beside a database."""
    return path.with_name(path.name + "-wal")


def has_been_served(path: Path) -> bool:
    """Whether a file is a database in the log mode that servers give it; a backup is in another."""
    with path.open("rb") as file:
        head = file.read(20)
    return head.startswith(HEAD) and head[18:] == b"\x02\x02"


def connect(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that only reads `path`, which no link is part of, beside a running server too. Text that is none comes as bytes.

    `immutable`: nobody writes the file and there is no log. Raises sqlite.FAILURES, and StorageUnavailable for what is no file.
    """
    sqlite.require_file(str(path))
    mode = "immutable=1" if immutable or _is_snapshot(path) else "mode=ro"
    connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True, isolation_level=None, timeout=30)
    connection.text_factory = _text
    connection.execute("PRAGMA query_only=ON")
    return connection


def _is_snapshot(path: Path) -> bool:
    """Whether there is no log and none can be made: then SQLite, which cannot make the index of a log either, needs neither."""
    return not log_of(path).exists() and bool(os.statvfs(path.parent).f_flag & os.ST_RDONLY)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def cut_short(connection: sqlite3.Connection) -> str | None:
    """How much is missing at the end of a database without a log; None if nothing. SQLite takes zeros for what a page lacks."""
    (page_size,), (pages,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "page_count"))
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    missing = page_size * pages - Path(path).stat().st_size
    return f"it is cut short: {missing} bytes are missing at its end" if missing > 0 else None


def problem_with(connection: sqlite3.Connection) -> str | None:
    """Why the file, which has no log, is no whole database of this release or an earlier one; None if it is."""
    try:
        short = cut_short(connection)
        if short is not None:
            return short
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
        if found != ["ok"]:
            return f"it is damaged: {'; '.join(found)}"
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or not tables >= FIRST_TABLES:
            return "it is not a database of AskTell"
        versions = {str(version) for (version,) in connection.execute("SELECT version_num FROM alembic_version")}
        unknown = versions - known_revisions()
        if unknown or not versions:
            return f"a newer release made it (schema {', '.join(sorted(unknown)) or 'unknown'})"
    except (*sqlite.FAILURES, OSError) as error:
        return f"it cannot be read: {error}"
    return None


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows by table, of those that are there."""
    there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return {
        table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # noqa: S608 - our own names
        for table in sorted(there & set(metadata.tables))
    }


def described(rows: dict[str, int]) -> str:
    """Rows by table, for people."""
    return f"{rows['studies']} studies, {rows['trials']} trials, {rows['measurements']} measurements"
