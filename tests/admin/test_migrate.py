"""`asktell migrate`, as an operator runs it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from .commands import asktell


def test_a_new_database_gets_the_newest_schema(tmp_path: Path) -> None:
    """After it the tables are there, and doing it again changes nothing."""
    path = tmp_path / "new.db"

    for _ in range(2):
        done = asktell("migrate", "--db", str(path))
        assert (done.returncode, done.stdout) == (0, "the schema is up to date\n"), done.stderr

    with sqlite3.connect(path) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"studies", "trials", "measurements", "requests", "alembic_version"} <= tables


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """The reason is one line and the file is as it was."""
    path = tmp_path / "notes.db"
    path.write_text("not a database, but long enough to look at " * 100)
    before = path.read_bytes()

    done = asktell("migrate", "--db", str(path))

    assert done.returncode == 1
    assert "cannot open the database" in done.stderr
    assert path.read_bytes() == before
