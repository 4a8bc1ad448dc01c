"""SQLite files as the commands handle them: opened to be read, checked, and put in their place whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import click

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite, wal
from asktell_server.storage.migrate import known_revisions
from asktell_server.storage.opening import is_postgresql
from asktell_server.storage.schema import metadata

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
    if database == ":memory:":
        raise click.ClickException("a database in memory has no file")
    return Path(database)


def log_of(path: Path) -> Path:
    """The write-ahead log beside a database."""
    return path.with_name(path.name + "-wal")


def connect(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    """A connection that only reads, beside a running server too. `immutable`: nobody writes the file and there is no log.

    Raises sqlite3.Error.
    """
    quoted = path.resolve().as_uri()
    mode = "immutable=1" if immutable else "mode=ro"
    connection = sqlite3.connect(f"{quoted}?{mode}", uri=True, isolation_level=None, timeout=30)
    connection.execute("PRAGMA query_only=ON")
    return connection


def problem_with(connection: sqlite3.Connection) -> str | None:
    """Why the file is no whole database of this release or an earlier one; None if it is."""
    try:
        found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
        if found != ["ok"]:
            return f"it is damaged: {'; '.join(found)}"
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or not tables >= FIRST_TABLES:
            return "it is not a database of AskTell"
        versions = {version for (version,) in connection.execute("SELECT version_num FROM alembic_version")}
        unknown = versions - known_revisions()
        if unknown or not versions:
            return f"a newer release made it (schema {', '.join(sorted(unknown)) or 'unknown'})"
    except sqlite3.Error as error:
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


def require_whole_log(path: Path) -> None:
    """Raises StorageUnavailable if commits are lost in the database's log."""
    lost = wal.lost_commits(log_of(path))
    if lost:
        raise StorageUnavailable(
            f"the log {log_of(path)} is damaged: {lost} commits behind the damage cannot be read; see `asktell doctor`"
        )


def make_empty(path: Path) -> None:
    """Makes an empty file in the place of what is there, for its owner alone."""
    path.unlink(missing_ok=True)
    open(path, "xb", opener=sqlite.private).close()


def sync(path: Path) -> None:
    """Sees to it that a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(partial: Path, target: Path) -> None:
    """Gives a finished file its name, durably: afterwards there is the new file, before the old one or none, never half of one."""
    sync(partial)
    partial.replace(target)
    sync(target.parent.resolve())
