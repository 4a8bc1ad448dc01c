"""Writes the dumps of the newest schema, with every kind of row in them. Those of earlier releases are never written again."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psycopg
from alembic.script import ScriptDirectory

from asktell_server.domain.access import Role, Token, grants
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import TrialState
from asktell_server.storage.base import StoredRequest, Transaction
from asktell_server.storage.migrate import alembic_config
from asktell_server.storage.opening import open_storage
from asktell_server.testing.postgresql import PostgresServer
from asktell_server.testing.samples import ALGORITHMS, NOW, TEXT, a_study, a_trial, full_spec, full_trial

from ..helpers import Commits
from ..test_codec import VERSION_1

FOLDER = Path(__file__).parent


def samples() -> list[Study]:
    """A study with each algorithm, every field of it used, and a plain one."""
    full = [
        replace(
            a_study(f"full-{i}", "p", StudyState.STOPPED),
            spec=full_spec(algorithm),
            state_reason=TEXT,
            description=TEXT,
            labels={"z": "1", "a": TEXT},
            revision=9,
            next_number=12,
            counts={TrialState.RUNNING: 2, TrialState.EXPIRED: 2**40},
            best_number=1,
            best_value=-0.0,
            successes_at_best=3,
        )
        for i, algorithm in enumerate(ALGORITHMS)
    ]
    return [*full, a_study("plain")]


def fill(tx: Transaction) -> None:
    """Every kind of row."""
    request = StoredRequest("fingerprint", {"numbers": [1, 2], "text": TEXT, "none": None})
    for study in samples():
        stored = tx.insert_study(study)
        states = [a_trial(number, state) for number, state in enumerate(TrialState, start=2)]
        tx.insert_trials(stored.id, [full_trial(1), *states])
        tx.insert_request(stored.id, f"Ask {study.name}", TEXT, request, NOW)
    tx.insert_request(None, "CreateStudy projects/p", "free", request, NOW)
    if hasattr(tx, "insert_token"):
        tx.insert_token(Token("a", "1f", TEXT, grants(Role.WORKER, ["p", "*"]), NOW, NOW + timedelta(1), NOW))


async def made(url: str) -> None:
    """Fills a new database."""
    storage = open_storage(url, observer=Commits())
    await storage.start()
    await storage.write(fill)
    await storage.stop()


def main() -> None:
    """Writes REVISION.sqlite.sql and REVISION.postgresql.sql."""
    (revision,) = ScriptDirectory.from_config(alembic_config()).get_heads()
    old_spec = ("UPDATE studies SET spec = ? WHERE name = 'plain'", (VERSION_1,))
    with tempfile.TemporaryDirectory() as folder, PostgresServer() as postgres:
        path, url = str(Path(folder) / "made.db"), postgres.new_database()
        asyncio.run(made(path))
        asyncio.run(made(url))
        with sqlite3.connect(path) as connection:
            connection.execute(*old_spec)
            connection.commit()
            text = "\n".join(connection.iterdump()) + "\n"
        (FOLDER / f"{revision}.sqlite.sql").write_text(text, encoding="utf-8")
        with psycopg.connect(url) as other:
            other.execute(old_spec[0].replace("?", "%s"), old_spec[1])
        (FOLDER / f"{revision}.postgresql.sql").write_text(postgres.dump(url), encoding="utf-8")
    print(f"wrote {revision}", file=sys.stderr)


if __name__ == "__main__":
    main()
