"""`asktell backup` and `asktell restore`: a database copied while it is in use, and put back.

A copy is made under a temporary name (`TARGET.partial`), checked, made durable, and then given its name in one step: a process that
is killed on the way leaves no half file under the name that counts, and the next run overwrites the temporary one.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import click

from asktell_server.admin import files, options
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import sqlite


@click.command()
@click.argument("target", type=click.Path(dir_okay=False, path_type=Path))
@options.database
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
def backup(target: Path, database: str, force: bool) -> None:
    """Copy a database to the file TARGET, consistent and checked, while a server may be using it."""
    source = files.sqlite_path(database)
    if not source.exists():
        raise click.ClickException(f"there is no database {source}")
    if target.exists() and not force:
        raise click.ClickException(f"{target} exists; choose another name or say --force")
    if target.resolve() in {
        source.resolve().with_name(source.resolve().name + end) for end in ("", "-wal", "-shm", ".lock")
    }:
        raise click.ClickException("a backup cannot take the place of the database itself, of its log or of its lock")
    partial = target.with_name(target.name + ".partial")
    try:
        files.require_whole_log(source)
        rows = _copied(source, partial)
        files.put_in_place(partial, target)
    except (OSError, sqlite3.Error, StorageUnavailable) as error:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"no backup was made: {error}") from error
    click.echo(f"{target}: {files.described(rows)}")


def _copied(source: Path, partial: Path) -> dict[str, int]:
    """Copies the database as it is at one moment into `partial` and reads the copy; returns its rows by table."""
    partial.unlink(missing_ok=True)
    with closing(files.connect(source)) as there, closing(sqlite3.connect(partial, isolation_level=None)) as here:
        there.execute("BEGIN")  # from the first row that is read, everything is as it was then
        rows = files.counts(there)
        there.backup(here)
        here.execute("PRAGMA journal_mode=DELETE")  # one file, without a log
    with closing(files.connect(partial, immutable=True)) as copy:
        wrong = files.problem_with(copy)
        if wrong:
            raise StorageUnavailable(f"the copy of {source} is no good: {wrong}; see `asktell doctor`")
        copied = files.counts(copy)
    if copied != rows:
        raise StorageUnavailable(f"the copy holds {copied}, the database {rows}")
    return rows


@click.command()
@click.argument("backup", metavar="BACKUP", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@options.database
@click.option("--force", is_flag=True, help="Replace the database that is there; it is kept as PATH.replaced.")
def restore(backup: Path, database: str, force: bool) -> None:
    """Put the file BACKUP in the place of a database that no server has open.

    Clients that watch a study find it at an earlier revision and begin again; results told since the backup are gone.
    """
    path = files.sqlite_path(database)
    log = files.log_of(backup)
    if log.exists() and log.stat().st_size:
        raise click.ClickException(f"{backup} has a log beside it ({log.name}): it is in use, not a backup")
    try:
        with closing(files.connect(backup, immutable=True)) as connection:
            wrong = files.problem_with(connection)
            rows = {} if wrong else files.counts(connection)
    except sqlite3.Error as error:
        wrong, rows = f"it cannot be read: {error}", {}
    if wrong:
        raise click.ClickException(f"{backup} cannot be restored: {wrong}")
    if path.exists() and not force:
        raise click.ClickException(f"{path} exists; --force replaces it, and keeps it as {path.name}.replaced")
    partial = path.with_name(path.name + ".partial")
    try:
        with sqlite.lock_file(str(path)):
            shutil.copyfile(backup, partial)
            with closing(files.connect(partial, immutable=True)) as copy:
                if files.counts(copy) != rows or files.problem_with(copy):
                    raise StorageUnavailable(f"the copy of {backup} is no good")
            _set_aside(path)
            files.put_in_place(partial, path)
    except (OSError, sqlite3.Error, StorageUnavailable) as error:
        partial.unlink(missing_ok=True)
        raise click.ClickException(f"nothing was restored: {error}") from error
    click.echo(f"{path}: {files.described(rows)}")


def _set_aside(path: Path) -> None:
    """Keeps the old database under another name too, and takes its log away: it would be taken for the new one's."""
    log, kept = files.log_of(path), path.with_name(path.name + ".replaced")
    if path.exists():
        with suppress(StorageUnavailable, sqlite3.Error):  # what is damaged is kept as it is, log and all
            files.require_whole_log(path)
            with closing(sqlite3.connect(path, isolation_level=None)) as old:
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        # A log of what was replaced before would be taken for that of this one.
        files.log_of(kept).unlink(missing_ok=True)
        kept.unlink(missing_ok=True)
        os.link(path, kept)
    if log.exists():
        log.replace(files.log_of(kept))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    files.sync(path.parent.resolve())
