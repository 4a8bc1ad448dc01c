"""The examinations of `asktell doctor`, each a function that yields findings.

They go from the outside in: the file, its log and its disk; then SQLite's own view; then the schema, and whether each value is of its
column's type; then the `rows`. An examination that needs an earlier one to have passed is left out if it has not. Of PostgreSQL, which
sees to its files and types itself, only schema and rows are looked at.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Column, Table, Text

from asktell_server.admin import files
from asktell_server.admin.findings import ERROR, MAX_SHOWN, RESTORE, RESTORE_POSTGRESQL, WARNING, Finding, first_few
from asktell_server.admin.rows import Moment, examine_rows
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.domain.space import shown
from asktell_server.storage import sqlite, wal
from asktell_server.storage.migrate import VERSIONED_SCHEMA, known_revisions, newest_revision
from asktell_server.storage.schema import metadata

LITTLE_ROOM, HARDLY_ROOM = 200 * 2**20, 20 * 2**20
LARGE_LOG = 256 * 2**20


def examine(path: Path, now: datetime, stale_days: float) -> list[Finding]:
    """Everything that is wrong with the database at `path`, which no link is part of."""
    found: list[Finding] = []
    try:
        for look in (_file, _disk, _log):
            found += look(path)
            # Opening a database with a damaged log might throw away what can still be seen of the damage.
            if any(finding.check in ("file", "log") and finding.severity == ERROR for finding in found):
                return found
        served = is_served(path)
        with closing(files.connect(path)) as connection:
            connection.execute("BEGIN")
            for step in (_length, _integrity, _sqlite_schema, _types):
                found += step(connection)
                if any(finding.severity == ERROR or finding.check == "schema" for finding in found):
                    return found
            found += examine_rows(connection.execute, Moment(now, timedelta(days=stale_days), served))
    except (*sqlite.FAILURES, OSError, StorageUnavailable) as error:
        found.append(Finding("integrity", ERROR, f"it cannot be read: {error}", RESTORE))
    return found


def examine_postgresql(url: str, now: datetime, stale_days: float) -> list[Finding]:
    """What is wrong with the schema and the rows of a PostgreSQL database; of its files it takes care itself."""
    from asktell_server.storage.postgresql.beside import reading_postgresql

    found: list[Finding] = []
    try:
        with reading_postgresql(url) as database:
            columns: dict[str, set[str]] = {}
            for table, column in database.each(
                f"SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = ({VERSIONED_SCHEMA})"  # noqa: S608 - our own query
            ):
                columns.setdefault(table, set()).add(column)
            versions = (
                {row[0] for row in database.each("SELECT version_num FROM alembic_version")}
                if "alembic_version" in columns
                else set()
            )
            found += _schema(versions, lambda table: columns.get(table, set()))
            if not found:
                found += examine_rows(database.each, Moment(now, timedelta(days=stale_days), database.served))
    except StorageUnavailable as error:
        found.append(
            Finding("database", ERROR, error.message, "see to PostgreSQL, or give the URL that the server has")
        )
    return [replace(finding, mend=finding.mend.replace(RESTORE, RESTORE_POSTGRESQL)) for finding in found]


def is_served(path: Path) -> bool:
    """Whether a server has the database open."""
    try:
        with path.with_name(path.name + ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# The file ------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Iterator[Finding]:
    try:
        sqlite.require_file(str(path))
        with path.open("rb") as file:
            head = file.read(16)
    except (OSError, StorageUnavailable) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        yield Finding("file", ERROR, f"cannot open {path}: {reason}", "give the path that the server has in --db")
        return
    try:
        sqlite.require_one_name(str(path))
    except StorageUnavailable as error:
        yield Finding("file", WARNING, str(error), "no server opens it before it has one name")
    # A new database lives in its log until the first checkpoint.
    in_its_log = head == b"" and files.log_of(path).exists()
    if head != files.HEAD and not in_its_log:
        yield Finding("file", ERROR, "it is not a SQLite database", RESTORE)


def _disk(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path.parent).free
    if free < LITTLE_ROOM:
        severity = ERROR if free < HARDLY_ROOM else WARNING
        yield Finding(
            *("disk", severity, f"only {free / 2**20:.0f} MiB are free where the database is"),
            "make room: without it nothing can be written, and every call that writes answers UNAVAILABLE",
        )


def _log(path: Path) -> Iterator[Finding]:
    log = files.log_of(path)
    lost = wal.lost_commits(log)
    if lost:
        yield Finding(
            *("log", ERROR, f"{log} is damaged: at least {lost} commits behind the damage cannot be read"),
            f"copy the database and its log away; then {RESTORE}, or, to go on without what is lost, "
            "`asktell doctor --discard-damaged-log`",
        )
    size = log.stat().st_size if log.exists() else 0
    if size > LARGE_LOG:
        yield Finding(
            *("log", WARNING, f"the log has {size / 2**20:.0f} MiB: something keeps it from being written back"),
            "look for a program that reads the database without end (a backup that hangs); restarting the server helps as well",
        )


def _length(connection: sqlite3.Connection) -> Iterator[Finding]:
    log = files.log_of(Path(connection.execute("PRAGMA database_list").fetchone()[2]))
    if log.exists() and log.stat().st_size:
        return  # what the file lacks may be there
    short = files.cut_short(connection)
    if short is not None:
        yield Finding("integrity", ERROR, short, RESTORE)


def _integrity(connection: sqlite3.Connection) -> Iterator[Finding]:
    wrong = [str(row[0]) for row in connection.execute(f"PRAGMA integrity_check({MAX_SHOWN})")]
    if wrong != ["ok"]:
        yield Finding("integrity", ERROR, f"SQLite finds: {'; '.join(wrong)}", RESTORE)
        return
    orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    if orphans:
        tables = Counter(row[0] for row in orphans)
        listed = ", ".join(f"{count} in {table}" for table, count in tables.items())
        yield Finding("foreign keys", ERROR, f"rows whose study or trial is missing: {listed}", RESTORE)


def _sqlite_schema(connection: sqlite3.Connection) -> Iterator[Finding]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    versions = (
        {str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version")}
        if "alembic_version" in tables
        else set()
    )
    yield from _schema(versions, lambda table: {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')})


def _types(connection: sqlite3.Connection) -> Iterator[Finding]:
    """SQLite keeps in a column whatever is written there; text that is no UTF-8 comes as bytes (`files.connect`)."""
    yield from first_few(finding for table in metadata.sorted_tables for finding in _types_in(connection, table))


def _types_in(connection: sqlite3.Connection, table: Table) -> Iterator[Finding]:
    columns = list(table.c)
    listed = ", ".join(column.name for column in columns)
    well: set[tuple[type, ...]] = set()  # nearly all rows have the same types
    for row in connection.execute(f"SELECT {listed} FROM {table.name}"):  # noqa: S608 - our own names
        types = tuple(map(type, row))
        if types in well:
            continue
        wrong = [(column, value) for column, value in zip(columns, row, strict=True) if not _belongs(value, column)]
        if not wrong:
            well.add(types)
            continue
        key = ", ".join(f"{column.name} {shown(row[columns.index(column)])}" for column in table.primary_key)
        for column, value in wrong:
            message = f"{column.name} of the row with {key} in {table.name} is {shown(value)}, not {_kind(column)[1]}"
            yield Finding("types", ERROR, message, RESTORE)


def _belongs(value: object, column: Column[Any]) -> bool:
    if value is None:
        return bool(column.nullable)
    return isinstance(value, _kind(column)[0])


def _kind(column: Column[Any]) -> tuple[type, str]:
    return (str, "text") if isinstance(column.type, Text) else (int, "a whole number")


def _schema(versions: set[str], columns_of: Callable[[str], set[str]]) -> Iterator[Finding]:
    if not versions:
        yield Finding("schema", ERROR, "it is not a database of AskTell", "give the path that the server has in --db")
    elif versions - known_revisions():
        yield Finding(
            "schema",
            ERROR,
            f"a newer release made it (schema {', '.join(versions)})",
            "use that release or a newer one",
        )
    elif len(versions) > 1:
        yield Finding("schema", ERROR, f"it is said to be of several schemas, {', '.join(sorted(versions))}", RESTORE)
    elif versions != {newest_revision()}:
        yield Finding(
            "schema", WARNING, f"its schema is {', '.join(versions)}, not {newest_revision()}", "`asktell migrate`"
        )
    else:
        for name, table in metadata.tables.items():
            missing = sorted({column.name for column in table.c} - columns_of(name))
            if missing:
                yield Finding("schema", ERROR, f"table {name} lacks {', '.join(missing)}", RESTORE)
