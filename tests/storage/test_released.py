"""Databases of every released schema are upgraded without the loss of a bit, and served."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.script import ScriptDirectory

from asktell_server.domain.study import Study
from asktell_server.domain.trial import TrialState
from asktell_server.storage import codec
from asktell_server.storage.base import Snapshot, Storage
from asktell_server.storage.migrate import alembic_config
from asktell_server.storage.opening import open_storage
from asktell_server.testing.postgresql import PostgresServer
from asktell_server.testing.samples import TEXT, a_trial, ask, full_trial

from .helpers import Commits
from .released.__main__ import FOLDER, samples
from .test_codec import VERSION_1

REVISIONS = sorted(revision.revision for revision in ScriptDirectory.from_config(alembic_config()).walk_revisions())
DATABASES = ("sqlite", "postgresql")
Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def restored(tmp_path: Path, postgres: PostgresServer) -> Callable[[str, str], str]:
    """Makes a database of a kind from the dump of a revision; gives its URL."""

    def restore(revision: str, kind: str) -> str:
        text = (FOLDER / f"{revision}.{kind}.sql").read_text(encoding="utf-8")
        if kind == "sqlite":
            with sqlite3.connect(tmp_path / "old.db") as connection:
                connection.executescript(text)
            connection.close()
            return str(tmp_path / "old.db")
        url = postgres.new_database()
        with psycopg.connect(url) as other:
            other.execute(text.encode())
        return url

    return restore


def rows(url: str) -> Rows:
    """Every row of every table, but for the schema's own revision."""
    found: Rows = {}
    connection: Any
    if url.startswith("postgresql"):
        connection = psycopg.connect(url)
        listing = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    else:
        connection = sqlite3.connect(url)
        listing = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in connection.execute(listing).fetchall():
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        found[table] = sorted((dict(zip(names, row, strict=True)) for row in cursor.fetchall()), key=repr)
    connection.close()
    del found["alembic_version"]
    return found


def _as_written(study: Study, version: int) -> Study:
    """What is left of a study in a specification of an earlier version, which did not know everything."""
    if version >= 3:
        return study
    return replace(study, spec=replace(study.spec, stopping=replace(study.spec.stopping, max_failed_trials=0)))


async def _opened(url: str) -> Storage:
    storage = open_storage(url, observer=Commits())
    await storage.start()
    return storage


def test_every_released_schema_is_kept() -> None:
    """Each revision has its dumps: a new one comes with its own (python -m tests.storage.released)."""
    assert sorted(path.name for path in FOLDER.glob("*.sql")) == sorted(
        f"{revision}.{kind}.sql" for revision in REVISIONS for kind in DATABASES
    )


@pytest.mark.parametrize("kind", DATABASES)
@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_old_database_is_upgraded(restored: Callable[[str, str], str], revision: str, kind: str) -> None:
    """Every row of every table keeps every value, and what is read is what was written then; new trials go on from there."""
    url = restored(revision, kind)
    before = rows(url)
    storage = await _opened(url)
    after = rows(url)

    def read(tx: Snapshot) -> list[tuple[Any, ...]]:
        found = tx.studies(None, [], None, 100)
        return [
            (
                study,
                tx.trials(study.id, limit=100, full=True),
                tx.request(f"Ask {study.name}", TEXT),
            )
            for study in found
        ]

    stored = await storage.read(read)
    counted = await storage.write(ask("p", "full-0"))
    await storage.stop()

    for table, old in before.items():
        assert [{name: row[name] for name in old[0]} for row in after[table]] == old
    versions = {row["name"]: json.loads(row["spec"])["version"] for row in before["studies"]}
    expected = {study.name: _as_written(study, versions[study.name]) for study in samples()}
    expected["plain"] = replace(expected["plain"], spec=codec.spec_from_text(VERSION_1))
    assert len(stored) == len(expected)
    for study, trials, request in stored:
        assert repr(study) == repr(replace(expected[study.name], id=study.id))
        assert repr(trials) == repr(
            [full_trial(1), *(a_trial(number, state) for number, state in enumerate(TrialState, start=2))]
        )
        assert request is not None
        assert request.response == {"numbers": [1, 2], "text": TEXT, "none": None}
    assert counted == 12


@pytest.mark.parametrize("kind", DATABASES)
async def test_an_id_from_before_is_not_given_again(restored: Callable[[str, str], str], kind: str) -> None:
    """After an upgrade a new study has an id of its own."""
    url = restored(REVISIONS[0], kind)
    storage = await _opened(url)
    stored = await storage.write(lambda tx: tx.insert_study(replace(samples()[-1], name="new")))
    ids = [study.id for study in await storage.read(lambda tx: tx.studies(None, [], None, 100))]
    await storage.stop()

    assert len(set(ids)) == len(samples()) + 1
    assert stored.id == max(ids)
