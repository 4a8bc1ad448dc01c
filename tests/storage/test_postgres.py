"""PostgreSQL as the storage: opening, what is refused, reading, and what happens when the database goes away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable
from asktell_server.storage.base import Snapshot, Transaction
from asktell_server.storage.opening import open_storage
from asktell_server.storage.postgresql import connecting
from asktell_server.storage.postgresql.storage import PostgresStorage
from asktell_server.storage.schema import metadata
from asktell_server.testing.postgresql import PostgresServer
from asktell_server.testing.samples import a_study, a_trial, add_study, ask, full_trial, numbers

from .helpers import Commits, opened_postgres

PATIENCE_S = 60.0


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    with PostgresServer() as server:
        yield server


async def refusal(url: str) -> str:
    """The message with which a storage at `url` refuses to start."""
    with pytest.raises(StorageUnavailable) as caught:
        async with opened_postgres(url):
            pass
    return str(caught.value)


# Opening


async def test_reopening_finds_everything(postgres_url: str) -> None:
    """What one storage wrote, the next one reads, and goes on from there; also by SQLAlchemy's spelling of the URL."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study(), full_trial(100))
        await storage.write(ask("default", "digits"))

    async with opened_postgres(postgres_url.replace("postgresql:", "postgresql+psycopg:")) as storage:
        number = await storage.write(ask("default", "digits"))
        trial = await storage.read(lambda tx: tx.trial(stored.id, 100))

    assert number == 2
    assert repr(trial) == repr(full_trial(100))


async def test_servers_that_start_at_once_make_the_schema_once(postgres_url: str) -> None:
    """Of several storages on an empty database each finds its schema, and all agree on what is stored."""
    storages = [PostgresStorage(postgres_url, observer=Commits()) for _ in range(4)]

    await asyncio.gather(*(storage.start() for storage in storages))
    stored = await add_study(storages[0], a_study())
    found = [await storage.read(lambda tx: tx.study_by_id(stored.id)) for storage in storages]
    await asyncio.gather(*(storage.stop() for storage in storages))

    assert found == [stored] * 4


async def test_schema_and_history_agree(postgres_url: str) -> None:
    """The migrations lead to the tables that the statements are written for."""
    async with opened_postgres(postgres_url):
        pass
    engine = create_engine(postgres_url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection), metadata)
    engine.dispose()

    assert differences == []


async def test_a_database_of_a_newer_release_is_refused(postgres_url: str) -> None:
    """A schema revision that this release does not know is refused by name."""
    async with opened_postgres(postgres_url):
        pass
    with psycopg.connect(postgres_url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'r9999'")

    message = await refusal(postgres_url)

    assert "newer release" in message
    assert "r9999" in message


@pytest.mark.parametrize("table", ["trials", "alembic_version"])
async def test_a_database_of_another_program_is_refused(postgres_url: str, table: str) -> None:
    """A table that is in the way is named and left as it is, also the record of another program's migrations."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute(f"CREATE TABLE {table} (version_num varchar)")
        connection.execute(f"INSERT INTO {table} VALUES ('abc')")

    message = await refusal(postgres_url)

    with psycopg.connect(postgres_url) as connection:
        kept = connection.execute(f"SELECT * FROM {table}").fetchall()
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
    assert f"another program ({table})" in message
    assert kept == [("abc",)]
    assert tables == [(table,)]


async def test_what_cannot_be_used_is_refused_without_the_password(postgres: PostgresServer) -> None:
    """A wrong port, a missing database and a URL that cannot be read each get a message; none shows the password."""
    missing = postgres.url("missing", password="s3cret")
    messages = [
        await refusal(missing),
        await refusal(missing.replace(str(postgres.port), "1")),
        await refusal("postgresql://asktell:s3cret@127.0.0.1:port/x"),
        await refusal("postgresql://asktell:s3cret@host/x?s3cret=1"),
    ]

    assert "missing" in messages[0]
    assert "refused" in messages[1]
    assert '"port"' in messages[2]
    assert "cannot be read" in messages[3]
    assert not any("s3cret" in message for message in messages)
    assert (
        open_storage(missing, observer=Commits()).location == f"postgresql://asktell@127.0.0.1:{postgres.port}/missing"
    )


async def test_a_database_in_another_encoding_is_refused(postgres: PostgresServer) -> None:
    """Names and notes may hold any character, so the encoding has to be UTF8."""
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")

    assert "LATIN1" in await refusal(postgres.url("latin"))


async def test_commits_are_durable_whatever_the_default(postgres_url: str) -> None:
    """A database that is set to acknowledge before it writes is told otherwise by each connection."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        (name,) = connection.execute("SELECT current_database()").fetchone() or ("",)
        connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    connection = connecting.Target(postgres_url).connect()

    setting = connection.execute("SHOW synchronous_commit").fetchone()
    connection.close()

    assert setting == ("on",)


async def test_frequent_queries_use_an_index(postgres_url: str) -> None:
    """No query that a server runs again and again reads a whole table, once there are many rows."""
    async with opened_postgres(postgres_url) as storage:
        statements = storage._statements
        plans = {}
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute("SET enable_seqscan = off")
            for name, statement in [
                ("study", statements.study),
                ("changed", statements.changed_trials),
                ("leases", statements.expired_leases),
                ("waiting", statements.list_trials(1)),
                ("purge", statements.purge_requests),
                ("given up", statements.count_given_up),
                ("retries", statements.retries),
            ]:
                values = dict.fromkeys(
                    ["study_id", "after", "now", "count", "before", "after_number", "skip", "max_retries", "but"], 1
                )
                values |= dict.fromkeys(["project", "name", "state0"], "WAITING")
                plan = connection.execute(f"EXPLAIN {statement}", values).fetchall()
                plans[name] = "\n".join(row[0] for row in plan)

    assert {name: plan for name, plan in plans.items() if "Index" not in plan or "Seq Scan" in plan} == {}
    assert "ix_trials_lease_expire_time" in plans["leases"]


# Reads


async def test_a_reader_sees_one_state_while_others_write(postgres_url: str) -> None:
    """A read that began before a commit does not see it, not even half; the writer does not wait for the read."""
    began, written = threading.Event(), threading.Event()
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())

        def look_twice(tx: Snapshot) -> tuple[int, int]:
            first = tx.study_by_id(stored.id)
            began.set()
            assert written.wait(PATIENCE_S)
            assert first is not None
            return first.next_number, len(tx.trials(stored.id, limit=10))

        reading = asyncio.ensure_future(storage.read(look_twice))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        number = await storage.write(ask("default", "digits"))
        written.set()

        assert number == 1
        assert await reading == (1, 0)


async def test_a_read_cannot_write(postgres_url: str) -> None:
    """A read's transaction refuses to change anything."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())

        with pytest.raises(StorageUnavailable, match="read-only"):
            await storage.read(lambda tx: cast(Transaction, tx).delete_study(stored.id))

        assert await storage.read(lambda tx: tx.study_by_id(stored.id)) == stored


# Faults


async def test_works_share_commits(postgres_url: str) -> None:
    """What queues up while the writer is busy is committed at once, up to the largest batch."""
    commits = Commits()
    began, gate = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        began.set()
        assert gate.wait(PATIENCE_S)

    async with opened_postgres(postgres_url, commits, max_batch=8) as storage:
        await add_study(storage, a_study())
        waiting = asyncio.ensure_future(storage.write(wait))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        tasks = [asyncio.ensure_future(storage.write(ask("default", "digits"))) for _ in range(20)]
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(waiting, *tasks)

    assert commits.works == [1, 1, 8, 8, 4]


async def test_a_kill_loses_no_acknowledged_write(postgres_url: str) -> None:
    """After kill -9 of one of two writing processes every acknowledged trial is there, and numbers have no gap."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())
    command = [sys.executable, str(Path(__file__).with_name("writing_child.py")), postgres_url]

    with (
        subprocess.Popen(command, stdout=subprocess.PIPE) as one,
        subprocess.Popen(command, stdout=subprocess.PIPE) as two,
    ):
        assert one.stdout is not None
        assert two.stdout is not None
        lines = [one.stdout.readline() for _ in range(150)]
        one.kill()
        lines += one.stdout.readlines()
        lines += [two.stdout.readline() for _ in range(150)]
        two.kill()
        lines += two.stdout.readlines()
    acknowledged = [int(line) for line in lines if line.endswith(b"\n")]
    async with opened_postgres(postgres_url) as storage:
        kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=10**9)))
        study = await storage.read(lambda tx: tx.study_by_id(stored.id))

    assert study is not None
    assert len(acknowledged) >= 300
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(kept)
    assert kept == list(range(1, study.next_number))


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_connections_that_were_cut_are_made_anew(postgres_url: str, brief: bool) -> None:
    """Writes and reads go on after every idle connection was ended, without an error."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())
        await storage.read(lambda tx: tx.study_by_id(stored.id))
        with psycopg.connect(postgres_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        number = await storage.submit(ask("default", "digits"), brief=brief)
        study = await storage.read(lambda tx: tx.study_by_id(stored.id))

    assert number == 1
    assert study is not None
    assert study.next_number == 2


async def test_a_work_whose_connection_is_cut_is_run_again(postgres_url: str) -> None:
    """A connection that is lost in the middle of a work leaves nothing of it, and the work is run once more."""
    runs = 0
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())

        def cut(tx: Transaction) -> int:
            nonlocal runs
            runs += 1
            tx.trials(stored.id, limit=1)
            number = ask("default", "digits")(tx)
            if runs == 1:
                with psycopg.connect(postgres_url) as other:
                    other.execute(
                        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                        "WHERE datname = current_database() AND state = 'idle in transaction'"
                    )
                tx.trials(stored.id, limit=1)
            return number

        number = await storage.write(cut)
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))

    assert runs == 2
    assert number == 1
    assert numbers(kept) == [1]


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_a_batch_whose_connection_is_cut_before_its_commit_is_run_again(postgres_url: str, brief: bool) -> None:
    """PostgreSQL ends the connection while the lock is waited for: the commit, sent along, has not happened, and all run again."""
    async with opened_postgres(postgres_url) as storage:
        await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as other:
            holder.execute("SELECT 1 FROM studies FOR UPDATE")
            asked = [storage.submit(ask("default", "digits"), brief=brief) for _ in range(3)]
            ended, deadline = None, time.monotonic() + PATIENCE_S
            while ended is None and time.monotonic() < deadline:
                await asyncio.sleep(0.005)  # until it waits for the lock
                ended = other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).fetchone()
            holder.rollback()
        found = await asyncio.gather(*asked)

    assert found == [2, 3, 4]


async def test_a_server_that_is_paused_with_a_lock_is_cut_off(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL ends the session of a server that does nothing in the middle of a transaction: others go on, and
    when it comes back its work is run again on what they left, or refused because nobody knows what became of its commit.
    """
    settings = connecting._SETTINGS.replace(f"{connecting.IDLE_IN_TRANSACTION_S}s", "1s")
    assert settings != connecting._SETTINGS
    monkeypatch.setattr(connecting, "_SETTINGS", settings)
    began, resumed = threading.Event(), threading.Event()

    def paused(tx: Transaction) -> int:
        number = ask("default", "digits")(tx)
        began.set()
        assert resumed.wait(PATIENCE_S)
        return number

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        await add_study(one, a_study())
        pausing = asyncio.ensure_future(one.write(paused))
        await asyncio.to_thread(began.wait, PATIENCE_S)
        meanwhile = await two.write(ask("default", "digits"))
        resumed.set()
        try:
            afterwards = await pausing
        except StorageUnavailable:
            afterwards = await one.write(ask("default", "digits"))

    assert (meanwhile, afterwards) == (1, 2)


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_the_database_restarts_under_load(own_postgres: PostgresServer, brief: bool) -> None:
    """Across a crash of the database all that was acknowledged stays, callers hear StorageUnavailable, and the storage heals."""
    url = own_postgres.new_database()
    acknowledged: list[int] = []
    refused = 0
    down = asyncio.Event()
    async with opened_postgres(url) as storage:
        stored = await add_study(storage, a_study())

        async def submitter(until: int) -> None:
            nonlocal refused
            while len(acknowledged) < until:
                try:
                    acknowledged.append(await storage.submit(ask("default", "digits"), brief=brief))
                except StorageUnavailable:
                    refused += 1
                    down.set()
                    await asyncio.sleep(0.05)

        load = asyncio.gather(*(submitter(600) for _ in range(8)))
        while len(acknowledged) < 100:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(own_postgres.stop, "immediate")
        await asyncio.wait_for(down.wait(), PATIENCE_S)
        with pytest.raises(StorageUnavailable):
            await storage.read(lambda tx: tx.study_by_id(stored.id))
        await asyncio.to_thread(own_postgres.start)
        await asyncio.wait_for(load, 2 * PATIENCE_S)
        kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=10**9)))
        study = await storage.read(lambda tx: tx.study_by_id(stored.id))

    assert refused > 0
    assert study is not None
    assert len(set(acknowledged)) == len(acknowledged)
    assert set(acknowledged) <= set(kept)
    assert kept == list(range(1, study.next_number))


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_a_lost_race_is_answered_after_some_attempts(postgres_url: str, brief: bool) -> None:
    """A work that breaks a rule of the database each time is refused, its neighbours in the batch are done."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study(), a_trial(1000))

        def clash(tx: Transaction) -> None:
            tx.lock_study_by_id(stored.id)
            tx.insert_trials(stored.id, [replace(a_trial(1000), notes="second")])

        good = ask("default", "digits")
        outcomes = await asyncio.gather(
            *(storage.submit(work, brief=brief) for work in (good, clash, good, good)), return_exceptions=True
        )

    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [1, 2, 3]
    assert isinstance(outcomes[1], ConcurrentUpdate)
