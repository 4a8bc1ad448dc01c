"""`asktell doctor`: what is wrong with a database, and how to mend it. Reads only, beside a running server too.

Exit status: 0 nothing found, 1 warnings, 2 errors. The examinations are in `examine`.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import click

from asktell_server.admin import files, options
from asktell_server.admin.examine import examine, examine_postgresql
from asktell_server.admin.findings import ERROR, RESTORE, Finding
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.settings import FiniteFloat
from asktell_server.storage import sqlite
from asktell_server.storage.opening import is_postgresql


@click.command()
@options.database
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of text.")
@click.option(
    "--stale-days",
    type=FiniteFloat(0, 36_500),
    default=7.0,
    help="Report RUNNING trials without a lease that are older, at most a century.",
)
@click.option(
    "--discard-damaged-log",
    is_flag=True,
    help="Go on with what can be read although the log is damaged. What lies behind the damage is lost for good. Needs the server stopped.",
)
def doctor(database: str, as_json: bool, stale_days: float, discard_damaged_log: bool) -> None:
    """Say what is wrong with a database and how to mend it. Exit status: 0 nothing, 1 warnings, 2 errors."""
    if is_postgresql(database):
        if discard_damaged_log:
            raise click.UsageError("--discard-damaged-log is for SQLite files; PostgreSQL takes care of its own log")
        _report("the database", examine_postgresql(database, datetime.now(UTC), stale_days), as_json=as_json)
    try:
        path = files.sqlite_path(database)
    except click.ClickException as error:
        wrong = Finding("database", ERROR, error.message, "give what the server has in --db")
        _report("the database", [wrong], as_json=as_json)
    try:
        if discard_damaged_log and path.exists():
            _discard_damaged_log(path)
    except (StorageUnavailable, OSError, *sqlite.FAILURES) as error:
        wrong = Finding("log", ERROR, f"it cannot be discarded: {error}", RESTORE)
        _report(str(path), [wrong], as_json=as_json)
    _report(str(path), examine(path, datetime.now(UTC), stale_days), as_json=as_json)


def _discard_damaged_log(path: Path) -> None:
    sqlite.require_file(str(path))
    sqlite.require_one_name(str(path))
    with sqlite.lock_file(str(path)), closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _report(name: str, findings: Sequence[Finding], *, as_json: bool) -> NoReturn:
    status = max((finding.severity for finding in findings), default=0)
    if as_json:
        click.echo(
            json.dumps(
                {"database": name, "status": status, "findings": [found.to_json() for found in findings]}, indent=2
            )
        )
    else:
        for finding in findings:
            click.echo(_text(finding))
        click.echo(f"{name}: {('nothing is wrong', 'warnings', 'errors')[status]}")
    sys.exit(status)


def _text(finding: Finding) -> str:
    mend = f"\n    mend: {_printable(finding.mend)}" if finding.mend else ""
    return f"{finding.level}: {finding.check}: {_printable(finding.message)}{mend}"


def _printable(text: str) -> str:
    """What is quoted of a database may be anything, and must not steer a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
