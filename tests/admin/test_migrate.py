"""`asktell migrate`, as an operator runs it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import psycopg

from asktell_server.testing.postgresql import PostgresServer

from .commands import asktell

RELEASED = Path(__file__).parents[1] / "storage" / "released"


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


def test_a_postgresql_database(postgres: PostgresServer) -> None:
    """The same by URL, from the environment too, and what cannot be reached is refused without showing the password."""
    url = postgres.new_database()
    done = asktell("migrate", "--database", url)
    again = subprocess.run(
        [sys.executable, "-m", "asktell.cli.entry", "migrate"],
        env={**os.environ, "ASKTELL_DATABASE": url},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    refused = asktell("migrate", "--database", postgres.url("nowhere", password="s3cret"))

    assert (done.returncode, done.stdout) == (0, "the schema is up to date\n"), done.stderr
    assert (again.returncode, again.stdout) == (0, "the schema is up to date\n"), again.stderr
    assert refused.returncode == 1
    assert '"nowhere" does not exist' in refused.stderr
    assert "s3cret" not in refused.stderr
    with psycopg.connect(url) as connection:
        tables = {name for (name,) in connection.execute("SELECT tablename FROM pg_tables")}
    assert {"studies", "trials", "measurements", "requests", "alembic_version"} <= tables


def test_a_schema_that_comes_first_later_changes_nothing(postgres: PostgresServer) -> None:
    """Where one with the user's name was made after the tables: what an upgrade adds goes beside them, and doctor finds them."""
    url = postgres.new_database()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute((RELEASED / "r0001.postgresql.sql").read_bytes())
        connection.execute("RESET search_path")
        connection.execute("TRUNCATE studies, requests CASCADE")  # made for the codec, not to fit together
        connection.execute("CREATE SCHEMA AUTHORIZATION CURRENT_USER")
        assert connection.execute("SELECT current_schema() <> 'public'").fetchone() == (True,)

        old = asktell("doctor", "--database", url)
        done = asktell("migrate", "--database", url)
        new = asktell("doctor", "--database", url)

        schemas = connection.execute(
            "SELECT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|information)'"
        ).fetchall()
    assert (old.returncode, done.returncode) == (1, 0), old.stdout + done.stderr
    assert "`asktell migrate`" in old.stdout
    assert set(schemas) == {("public",)}
    assert new.returncode == 0, new.stdout


def test_tokens_in_postgresql(postgres_url: str) -> None:
    """A token can be made, listed and revoked in a new database, beside servers or without; but no command about them makes one."""
    too_early = asktell("token", "list", "--database", postgres_url)
    with psycopg.connect(postgres_url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert asktell("migrate", "--database", postgres_url).returncode == 0
    made = asktell("token", "create", "ci", "--role", "worker", "--project", "p", "--database", postgres_url)
    listed = asktell("token", "list", "--database", postgres_url)
    token_id = listed.stdout.split()[0]
    revoked = asktell("token", "revoke", token_id, "--database", postgres_url)
    twice = asktell("token", "revoke", token_id, "--database", postgres_url)

    assert too_early.returncode == 1
    assert "is not a database of AskTell; `asktell migrate`" in too_early.stderr
    assert tables == []
    assert made.returncode == 0, made.stderr
    assert "active" in listed.stdout
    assert revoked.returncode == 0, revoked.stderr
    assert twice.returncode == 1
