"""Opening a database: settings, the lock, what is refused and how it is said, and the schema's history."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections import defaultdict
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage import migrate, version
from asktell_server.storage.beside import write_beside
from asktell_server.storage.schema import metadata
from asktell_server.storage.sql import SqlStorage
from asktell_server.testing.samples import NOW, a_study, add_study, ask, full_trial

from .helpers import Commits, opened


async def refusal(path: object) -> str:
    """The message with which a storage at `path` refuses to start."""
    with pytest.raises(StorageUnavailable) as caught:
        async with opened(path):
            pass
    return str(caught.value)


async def test_reopening_finds_everything(tmp_path: Path) -> None:
    """What one storage wrote, the next one reads, and goes on from there; by path or by URL."""
    path = tmp_path / "studies.db"
    async with opened(path) as storage:
        stored = await add_study(storage, a_study(), full_trial(100))
        await storage.write(ask("default", "digits"))

    async with opened(f"sqlite:///{path}") as storage:
        number = await storage.write(ask("default", "digits"))
        trial = await storage.read(lambda tx: tx.trial(stored.id, 100))

    assert number == 2
    assert repr(trial) == repr(full_trial(100))


async def test_one_storage_can_be_started_again(tmp_path: Path) -> None:
    """After stop a storage can be started once more."""
    storage = SqlStorage(str(tmp_path / "studies.db"), observer=Commits())
    for _ in range(2):
        await storage.start()
        await storage.write(lambda tx: tx.trial_counts())
        await storage.stop()

    await storage.start()
    counts = await storage.read(lambda tx: tx.trial_counts())
    await storage.stop()

    assert sum(counts.values()) == 0


async def test_commits_are_durable(tmp_path: Path) -> None:
    """The writer's connection syncs each commit to a write-ahead log, enforces foreign keys, and waits for nobody in the event loop."""
    async with opened(tmp_path / "studies.db") as storage:
        writer = storage._connections[0]
        settings = {
            name: writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }

    assert settings == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 0}


async def test_a_second_server_is_refused(tmp_path: Path) -> None:
    """The message names the file, also when it is reached by a link; the first server goes on; after it the way is free."""
    path = tmp_path / "studies.db"
    link = tmp_path / "link.db"
    async with opened(path) as storage:
        link.symlink_to(path)
        message, by_link = await refusal(path), await refusal(link)
        await add_study(storage, a_study())
    async with opened(path) as storage:
        found = await storage.read(lambda tx: tx.study("default", "digits"))

    assert str(path) in message
    assert "another server" in message
    assert by_link == message
    assert found is not None


async def test_a_file_with_several_names_is_refused(tmp_path: Path) -> None:
    """Its log goes by one of them, so that a server under another would miss commits: no name opens it, until it has one again."""
    path, other = tmp_path / "studies.db", tmp_path / "other.db"
    async with opened(path):
        pass
    os.link(path, other)
    first, second = await refusal(path), await refusal(other)
    other.unlink()
    async with opened(path):
        pass

    assert f"{path} has 2 names" in first
    assert f"{other} has 2 names" in second


async def test_a_database_made_through_a_link_is_where_the_link_leads(tmp_path: Path) -> None:
    """With log and lock beside it, for its owner alone, and with nothing beside the link."""
    link, real = tmp_path / "links" / "studies.db", tmp_path / "real" / "studies.db"
    for folder in (link.parent, real.parent):
        folder.mkdir()
    link.symlink_to("../real/studies.db")
    before = os.umask(0)
    try:
        async with opened(link) as storage:
            location = storage.location
            await add_study(storage, a_study())
            made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in real.parent.iterdir()}
    finally:
        os.umask(before)

    assert location == str(real)
    assert made == dict.fromkeys(("studies.db", "studies.db-wal", "studies.db-shm", "studies.db.lock"), 0o600)
    assert list(link.parent.iterdir()) == [link]


async def test_a_damaged_log_is_found_through_links(tmp_path: Path) -> None:
    """Of the file or of a folder on the way to it: what can still be seen of the damage stays."""
    path, log = tmp_path / "real" / "studies.db", tmp_path / "real" / "studies.db-wal"
    path.parent.mkdir()
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "link.db").symlink_to("folder/studies.db")
    async with opened(path) as storage:
        await add_study(storage, a_study())
        for _ in range(5):
            await storage.write(ask("default", "digits"))
        content = bytearray(log.read_bytes())
        left = path.read_bytes()
    content[len(content) // 2] ^= 1
    path.write_bytes(left)  # as a killed server leaves them
    log.write_bytes(content)

    for way in (path, tmp_path / "folder" / "studies.db", tmp_path / "link.db"):
        assert f"the log {log} is damaged" in await refusal(way)
        with pytest.raises(StorageUnavailable, match="is damaged"):
            write_beside(str(way), lambda tx: tx.revoke_token("x", NOW))
    assert log.read_bytes() == content


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("sqlite://studies.db", "sqlite:///studies.db"),
        ("sqlite://folder/studies.db", "sqlite:////folder/studies.db"),
        ("sqlite:///studies.db?mode=memory", "sqlite:///studies.db"),
        ("sqlite://", ":memory:"),
        ("sqlite:///", ":memory:"),
        ("", ":memory:"),
    ],
)
async def test_no_url_means_memory_by_a_slip(
    url: str, right: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What names no file, or more than a file, is refused, and the message shows the right form."""
    monkeypatch.chdir(tmp_path)

    assert right in await refusal(url)
    assert not list(tmp_path.iterdir())


async def test_memory_has_a_name(tmp_path: Path) -> None:
    """As a path and as a URL."""
    for name in (":memory:", "sqlite:///:memory:"):
        async with opened(name) as storage:
            assert storage.location == ":memory:"


async def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe is not waited for; the end of a loop of links is looked for once."""
    os.mkfifo(tmp_path / "pipe.db")
    (tmp_path / "loop.db").symlink_to("loop.db")

    assert "is no file" in await refusal(tmp_path / "pipe.db")
    assert "loop.db" in await refusal(tmp_path / "loop.db")


async def test_a_damaged_schema_is_refused(tmp_path: Path) -> None:
    """Also where SQLite's message quotes bytes that are no text, and where an earlier release's tables are damaged."""
    path = tmp_path / "studies.db"
    async with opened(path):
        pass
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"AUTOINCREMENT", b"\xd7UTOINCREMENT"))
    quoted = await refusal(path)
    path.write_bytes(whole)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = x'ff'")
    strange = await refusal(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r0001'")  # whose next would make what is there
    connection.close()

    assert "cannot open the database" in quoted
    assert "newer release" in strange
    assert "cannot be brought up to date" in await refusal(path)


async def test_a_database_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    """A schema revision that this release does not know is refused by name, and the database is not locked after."""
    path = tmp_path / "studies.db"
    async with opened(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")
    first, again = await refusal(path), await refusal(path)
    connection.close()

    assert "newer release" in first
    assert "r9999" in first
    assert again == first


async def test_a_database_of_another_program_is_refused(tmp_path: Path) -> None:
    """A table that is in the way is named and left as it is."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE trials (x)")
    message = await refusal(path)
    tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    connection.close()

    assert "another program (trials)" in message
    assert tables == [("trials",)]


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """A text file, a folder, a missing folder and another kind of database each get a message that says so."""
    text = tmp_path / "text.db"
    text.write_text("not a database, and longer than the header of one" * 100)

    assert "not a database" in await refusal(text)
    assert text.read_text().startswith("not a database")
    assert str(tmp_path) in await refusal(tmp_path)
    assert "No such file or directory" in await refusal(tmp_path / "missing" / "studies.db")
    assert "'mysql'" in await refusal("mysql://user:secret@host/name")
    assert "secret" not in await refusal("mysql://user:secret@host/name")
    assert "sqlite:///path" in await refusal("://")


async def test_schema_and_history_agree(tmp_path: Path) -> None:
    """The migrations lead to the tables that the statements are written for."""
    path = tmp_path / "studies.db"
    async with opened(path):
        pass
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
        (table,) = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'studies'").one()
        (index,) = connection.exec_driver_sql(
            "SELECT sql FROM sqlite_master WHERE name = 'ix_trials_lease_expire_time'"
        ).one()
    engine.dispose()

    assert differences == []
    # What the comparison does not see.
    assert "AUTOINCREMENT" in table
    assert "WHERE state = 'RUNNING' AND lease_expire_time IS NOT NULL" in index


async def test_frequent_queries_use_an_index(tmp_path: Path) -> None:
    """No query that a server runs again and again reads a whole table."""
    async with opened(tmp_path / "studies.db") as storage:
        statements, connection = storage._statements, storage._connections[1]

        def plan(statement: str) -> str:
            parameters: dict[str, int] = defaultdict(lambda: 1)
            return " | ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

        plans = {
            "study": plan(statements.study),
            "changed trials": plan(statements.changed_trials),
            "changed measurements": plan(statements.changed_measurements),
            "leases": plan(statements.expired_leases),
            "waiting": plan(statements.list_trials(1)),
            "page": plan(statements.list_trials(0)),
            "changed page": plan(statements.list_trials(0, changed=True)),
            "weight of changes": plan(statements.weigh_changed_trials),
            "last": plan(statements.last_measurement),
            "by number": plan(statements.trials_by_number(2)),
            "all studies": plan(statements.list_studies(in_project=False, after=True, states=0)),
            "purge": plan(statements.purge_requests),
            "given up": plan(statements.count_given_up),
            "retries": plan(statements.retries),
            "delete": plan("DELETE FROM requests WHERE study_id = :study_id"),
        }

    assert {name: text for name, text in plans.items() if "SCAN" in text or "SEARCH" not in text} == {}
    assert "ix_trials_study_id_revision" in plans["changed trials"]
    assert "ix_trials_lease_expire_time" in plans["leases"]
    assert "ix_trials_study_id_state_number (study_id=? AND state=? AND number>?)" in plans["waiting"]
    assert "ix_requests_time" in plans["purge"]


def test_the_version_that_is_known_without_alembic_is_that_of_the_migrations(tmp_path: Path) -> None:
    """And a current database is known for one, an empty one not."""
    connection = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    before = version.is_newest(connection)
    migrate.upgrade_sqlite(connection)
    after = version.is_newest(connection)
    connection.close()

    assert migrate.newest_revision() == version.NEWEST
    assert (before, after) == (False, True)
