"""`asktell backup` and `asktell restore`: a database copied while it is in use, and put back.

A copy is made in a place of its own (`partial`), checked, made durable, and then given its name in one step: a process that is killed
on the way leaves no half file under the name that counts.
"""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import click

from asktell_server.admin import files, options
from asktell_server.admin.partial import partial, put_in_place, sync
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import codec, sqlite, wal

_FAILURES = (OSError, *sqlite.FAILURES, StorageUnavailable)


@click.command()
@click.argument("target", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path))
@options.database
@click.option("--force", is_flag=True, help="Overwrite TARGET.")
def backup(target: Path, database: str, force: bool) -> None:
    """Copy a database to the file TARGET, consistent and checked, while a server may be using it."""
    source = files.sqlite_path(database)
    if target in {source.with_name(source.name + end) for end in ("", "-wal", "-shm", "-journal", ".lock")}:
        raise click.ClickException("a backup cannot take the place of the database itself, of its log or of its lock")
    try:
        if not source.exists():
            raise click.ClickException(f"there is no database {source}")
        if target.exists() and not force:
            raise click.ClickException(f"{target} exists; choose another name or say --force")
        sqlite.require_file(str(target))
        sqlite.require_one_name(str(source))
        wal.require_whole(str(source))
        with _replaceable(target), partial(target) as copy:
            rows = _copied(source, copy)
            put_in_place(copy, target)
    except _FAILURES as error:
        raise click.ClickException(f"no backup was made: {error}") from error
    click.echo(f"{target}: {files.described(rows)}")


@contextmanager
def _replaceable(target: Path) -> Iterator[None]:
    """For the time in which `target` is overwritten: no server may open it. Raises StorageUnavailable if it is a database in use."""
    with ExitStack() as held:
        if target.with_name(target.name + ".lock").exists():  # no server works without
            held.enter_context(sqlite.lock_file(str(target)))
        _require_no_log(target)
        if target.exists() and files.has_been_served(target):
            raise StorageUnavailable(f"{target} has been served: it is a database, not a backup; choose another name")
        yield


def _require_no_log(file: Path) -> None:
    """Raises StorageUnavailable if SQLite would read a log into the database `file`: that was in use, and is no backup."""
    for log in (file.with_name(file.name + end) for end in ("-wal", "-journal")):
        if log.exists() and log.stat().st_size:
            raise StorageUnavailable(f"{file} has a log beside it ({log.name}): it is a database in use, not a backup")


def _copied(source: Path, copy: Path) -> dict[str, int]:
    """Copies the database as it is at one moment into `copy` and reads it; returns its rows by table."""
    with closing(files.connect(source)) as there, closing(sqlite3.connect(copy, isolation_level=None)) as here:
        there.execute("BEGIN")  # from the first row that is read, everything is as it was then
        rows = files.counts(there)
        there.backup(here)
        here.execute("PRAGMA journal_mode=DELETE")  # one file, without a log
    with closing(files.connect(copy, immutable=True)) as made:
        wrong = files.problem_with(made)
        if wrong:
            raise StorageUnavailable(f"the copy of {source} is no good: {wrong}; see `asktell doctor`")
        copied = files.counts(made)
    if copied != rows:
        raise StorageUnavailable(f"the copy holds {copied}, the database {rows}")
    return rows


@click.command()
@click.argument(
    "backup", metavar="BACKUP", type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path)
)
@options.database
@click.option(
    "--force",
    is_flag=True,
    help="Replace the database that is there; it is kept as PATH.replaced, or PATH.replaced-2 and so on.",
)
def restore(backup: Path, database: str, force: bool) -> None:
    """Put the file BACKUP in the place of a database that no server has open.

    Clients that watch a study find it at an earlier revision and begin again; results told since the backup are gone. Tokens that
    the replaced database has as revoked stay revoked.
    """
    path = files.sqlite_path(database)
    try:
        if path.exists() and path.samefile(backup):
            raise click.ClickException(f"{backup} is the database itself, not a backup of it")
        _require_no_log(backup)
        with closing(files.connect(backup, immutable=True)) as connection:
            wrong = files.problem_with(connection)
            rows = {} if wrong else files.counts(connection)
    except _FAILURES as error:
        wrong, rows = str(error), {}
    if wrong:
        raise click.ClickException(f"{backup} cannot be restored: {wrong}")
    if path.exists() and not force:
        raise click.ClickException(f"{path} exists; --force replaces it, and keeps it as {_free_name(path).name}")
    try:
        sqlite.require_file(str(path))
        with sqlite.lock_file(str(path)), partial(path) as copy:
            _undo_killed(path)
            sqlite.require_one_name(str(path))
            shutil.copyfile(backup, copy)
            revoked = _revoke_again(path, copy)
            with closing(files.connect(copy, immutable=True)) as made:
                if files.counts(made) != rows or files.problem_with(made):
                    raise StorageUnavailable(f"the copy of {backup} is no good")
            kept = _set_aside(path)
            if kept is not None:
                copy.chmod(stat.S_IMODE(kept.stat().st_mode))
            put_in_place(copy, path)
    except _FAILURES as error:
        raise click.ClickException(f"nothing was restored: {error}") from error
    click.echo(f"{path}: {files.described(rows)}")
    if kept is not None:
        click.echo(f"the replaced database is kept as {kept}")
    if revoked is None:
        click.echo(
            "warning: the tokens of the replaced database cannot be read: those revoked since the backup count again. See "
            f"`asktell token list --db {path}`, and revoke what must not: `asktell token revoke ID --db {path}`",
            err=True,
        )
    elif revoked:
        click.echo(
            f"warning: {len(revoked)} tokens of the backup were revoked in the replaced database and stay revoked: {', '.join(revoked)}",
            err=True,
        )


def _revoke_again(path: Path, copy: Path) -> list[str] | None:
    """Revokes in `copy` what is revoked in the database at `path`; the ids of what changed, or None if that cannot be read."""
    if not path.exists():
        return []
    try:
        wal.require_whole(str(path))
        with closing(files.connect(path)) as old:
            if not _has_tokens(old):
                return []
            revoked = old.execute(
                "SELECT revoke_time, id FROM tokens WHERE revoke_time IS NOT NULL ORDER BY id"
            ).fetchall()
    except (StorageUnavailable, *sqlite.FAILURES):
        return None
    now = codec.time_to_us(datetime.now(UTC))
    with closing(sqlite3.connect(copy, isolation_level=None)) as new:
        if not _has_tokens(new):
            return []
        new.execute("BEGIN")
        again = [
            str(token_id)
            for time, token_id in revoked
            if new.execute(
                "UPDATE tokens SET revoke_time = ? WHERE id = ? AND revoke_time IS NULL",
                (time if isinstance(time, int) and 0 <= time <= now else now, token_id),  # damage is not copied
            ).rowcount
        ]
        new.execute("COMMIT")
    return again


def _has_tokens(connection: sqlite3.Connection) -> bool:
    """Whether the schema is new enough to know tokens."""
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'tokens'").fetchone())


def _free_name(path: Path) -> Path:
    """What a replaced database is called: PATH.replaced, or the first of PATH.replaced-2 and so on that nothing is called yet."""
    names = (path.with_name(f"{path.name}.replaced{end}") for end in ("", *(f"-{n}" for n in range(2, 10_000))))
    for name in names:
        if not os.path.lexists(name) and not os.path.lexists(files.log_of(name)):
            return name
    raise StorageUnavailable(f"there are too many replaced databases beside {path}; move some away")


def _set_aside(path: Path) -> Path | None:
    """Keeps the old database under another name too, and takes its log away: it would be taken for the new one's.

    Returns the name; None if there was no database.
    """
    log, kept = files.log_of(path), _free_name(path)
    there = path.exists()
    if there:
        with suppress(StorageUnavailable, *sqlite.FAILURES):  # what is damaged is kept as it is, log and all
            wal.require_whole(str(path))
            with closing(sqlite3.connect(path, isolation_level=None)) as old:
                old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.link(path, kept)
    if log.exists():
        log.replace(files.log_of(kept))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    sync(path.parent)
    return kept if there else None


def _undo_killed(path: Path) -> None:
    """Takes back what a restore that was killed had set aside, when the old database still has its own name too."""
    if not path.exists():
        return
    beside = path.parent.glob(f"{glob.escape(path.name)}.replaced*")
    for kept in [name for name in beside if not name.is_symlink() and name.samefile(path)]:
        log, kept_log = files.log_of(path), files.log_of(kept)
        if kept_log.exists() and not (log.exists() and log.stat().st_size):
            kept_log.replace(log)
        kept.unlink()
