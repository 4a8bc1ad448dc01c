"""PostgreSQL as the storage: opening, what is refused, several servers at once, and what happens when the database goes away."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import cast

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable, StudyAlreadyExists
from asktell_server.storage.base import ForeignCommit, Snapshot, Transaction
from asktell_server.storage.opening import open_storage
from asktell_server.storage.postgresql import connecting, listening, writer
from asktell_server.storage.postgresql.storage import PostgresStorage
from asktell_server.storage.postgresql.transaction import Knowledge, WritingTransaction
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
            ]:
                values = dict.fromkeys(["study_id", "after", "now", "count", "before", "after_number"], 1)
                values |= dict.fromkeys(["project", "name", "state0"], "WAITING")
                plan = connection.execute(f"EXPLAIN {statement}", values).fetchall()
                plans[name] = "\n".join(row[0] for row in plan)

    assert {name: plan for name, plan in plans.items() if "Index" not in plan or "Seq Scan" in plan} == {}
    assert "ix_trials_lease_expire_time" in plans["leases"]


# Several servers


async def test_numbers_are_unique_over_servers(postgres_url: str) -> None:
    """Submitters at three storages get the numbers of two studies without repeats or gaps, in order for each of them."""
    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(opened_postgres(postgres_url)) for _ in range(3)]
        for name in ("one", "two"):
            await add_study(storages[0], a_study(name))

        async def submitter(storage: PostgresStorage, name: str) -> list[int]:
            return [await storage.write(ask("default", name)) for _ in range(10)]

        given = await asyncio.gather(
            *(submitter(storage, name) for _ in range(3) for storage in storages for name in ("one", "two"))
        )

    for mine in (given[::2], given[1::2]):
        assert sorted(number for numbers in mine for number in numbers) == list(range(1, 91))
        assert all(numbers == sorted(numbers) for numbers in mine)


async def test_servers_do_not_wait_for_each_other_in_circles(postgres_url: str) -> None:
    """Batches that want the same studies in opposite orders all get through without a deadlock."""
    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        names = [f"s{i}" for i in range(5)]
        for name in names:
            await add_study(one, a_study(name))
        outcomes = await asyncio.gather(
            *(
                storage.submit(ask("default", name))
                for _ in range(20)
                for storage, order in ((one, names), (two, names[::-1]))
                for name in order
            )
        )
    with psycopg.connect(postgres_url) as connection:
        deadlocks = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()

    assert len(outcomes) == 200
    assert deadlocks == (0,)


async def test_a_name_is_created_once_over_servers(postgres_url: str) -> None:
    """Of creations of one name at several storages one wins, the others are run again and see it."""

    def create(tx: Transaction) -> int:
        if tx.lock_study("default", "digits") is not None:
            raise StudyAlreadyExists("digits")
        return tx.insert_study(a_study()).id

    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(opened_postgres(postgres_url)) for _ in range(4)]
        outcomes = await asyncio.gather(*(s.write(create) for s in storages), return_exceptions=True)

    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StudyAlreadyExists"] * 3 + ["int"]


async def test_a_study_that_another_server_holds_stops_no_other_study(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Works on it are put off and keep their order; others go on; at last they are refused, or done once it is free."""
    async with opened_postgres(postgres_url) as storage:
        held = await add_study(storage, a_study("held"))
        await add_study(storage, a_study("free"))
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM studies WHERE id = %s FOR UPDATE", (held.id,))
            waiting = [storage.submit(ask("default", "held")) for _ in range(3)]
            free = [await storage.write(ask("default", "free")) for _ in range(5)]
            assert not any(future.done() for future in waiting)
        given = await asyncio.gather(*waiting)

        monkeypatch.setattr(writer, "PUT_OFF_AT_MOST_S", 0.2)
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM studies WHERE id = %s FOR UPDATE", (held.id,))
            with pytest.raises(ConcurrentUpdate, match="locked"):
                await storage.write(ask("default", "held"))
        after = await storage.write(ask("default", "held"))

    assert free == [1, 2, 3, 4, 5]
    assert given == [1, 2, 3]
    assert after == 4


async def test_who_changed_a_study_last_is_known(postgres_url: str) -> None:
    """`others_revision` is 0 or old while a storage is alone, and the locked revision right after another one wrote."""

    def seen(tx: Transaction) -> tuple[int, int]:
        study = tx.lock_study("default", "digits")
        assert study is not None
        return study.revision, tx.others_revision(study.id)

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        await add_study(one, a_study())
        await one.write(ask("default", "digits"))
        alone = await one.write(seen)
        first_sight = await two.write(seen)
        await two.write(ask("default", "digits"))
        after_two = await one.write(seen)
        await one.write(ask("default", "digits"))
        own_again = await one.write(seen)

    assert alone == (2, 0)
    assert first_sight == (2, 2)
    assert after_two == (3, 3)
    assert own_again == (4, 3)


async def test_a_study_that_others_changed_unheard_of_is_read_again(postgres_url: str) -> None:
    """A storage that has had studies to itself does not go on from what it remembers of them, whatever others did to them meanwhile:
    changed, deleted, made anew or held; works on other studies in the same batch are done as well.
    """

    def revision(name: str) -> Callable[[Transaction], int | None]:
        def work(tx: Transaction) -> int | None:
            study = tx.lock_study("default", name)
            return None if study is None else study.revision

        return work

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        names = ["left", "changed", "deleted", "renewed", "held"]
        ids = {name: (await add_study(one, a_study(name))).id for name in names}
        for name in names * 3:
            await one.write(ask("default", name))
        await two.write(ask("default", "changed"))
        await two.write(lambda tx: tx.delete_study(ids["deleted"]))
        await two.write(lambda tx: tx.delete_study(ids["renewed"]))
        await add_study(two, a_study("renewed"))

        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM studies WHERE id = %s FOR UPDATE", (ids["held"],))
            found = {name: one.submit(revision(name)) for name in names}
            given = one.submit(ask("default", "changed"))
            await asyncio.wait([future for name, future in found.items() if name != "held"])
            assert not found["held"].done()

        assert {name: await future for name, future in found.items()} == {
            "left": 4,
            "changed": 5,
            "deleted": None,
            "renewed": 1,
            "held": 4,
        }
        assert await given == 5


async def test_a_study_that_others_change_is_not_expected_to_stay(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storages that take turns at a study read it under the lock: only the first time is a transaction sent in vain."""
    mistakes = []

    class Counting(WritingTransaction):
        def was_mistaken(self) -> bool:
            mistakes.append(super().was_mistaken())
            return mistakes[-1]

    monkeypatch.setattr(writer, "WritingTransaction", Counting)
    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        await add_study(one, a_study())
        given = [await storage.write(ask("default", "digits")) for _ in range(30) for storage in (one, two, one)]

    assert given == list(range(1, 91))
    assert mistakes == [True]


async def test_a_rollback_spoils_nothing_that_comes_after(postgres_url: str) -> None:
    """After works that ran one by one, since a name was taken, a wrong expectation costs a repetition and no more."""

    def taken(tx: Transaction) -> int:
        return tx.insert_study(a_study()).id

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as other:
        await add_study(one, a_study())
        works = [taken, *[ask("default", "digits")] * 7]
        refused, *first = await asyncio.gather(*(one.submit(work) for work in works), return_exceptions=True)
        theirs = await other.write(ask("default", "digits"))
        then = [await one.write(ask("default", "digits")) for _ in range(3)]

    assert isinstance(refused, ConcurrentUpdate)
    assert first == [1, 2, 3, 4, 5, 6, 7]
    assert theirs == 8
    assert then == [9, 10, 11]


async def test_a_name_that_passes_to_another_study(postgres_url: str) -> None:
    """Others delete a study and create it anew; here the new one is known by its id only. Works on either do as they should."""

    def touch(study_id: int) -> Callable[[Transaction], bool]:
        def work(tx: Transaction) -> bool:
            study = tx.lock_study_by_id(study_id)
            if study is not None:
                tx.update_study(replace(study, revision=study.revision + 1))
            return study is not None

        return work

    def half_done(tx: Transaction) -> None:
        study = tx.lock_study_by_id(new.id)
        assert study is not None
        tx.insert_trials(new.id, [replace(a_trial(study.next_number), revision=study.revision + 1)])
        tx.request("scope", "id")
        raise ValueError("after it wrote")

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as other:
        old = await add_study(one, a_study())
        await other.write(lambda tx: tx.delete_study(old.id))
        new = await add_study(other, a_study())
        found = [await one.write(touch(new.id)) for _ in range(20)]
        found_old = await one.write(touch(old.id))
        await other.write(touch(new.id))
        again = await asyncio.gather(*(one.submit(touch(new.id)) for _ in range(2)))
        third = await add_study(one, replace(a_study(), name="third"))
        with pytest.raises(ValueError, match="after it wrote"):
            await one.write(half_done)
        await one.write(touch(third.id))
        number = await one.write(ask("default", "digits"))

    assert all(found)
    assert not found_old
    assert all(again)
    assert number == 1


async def test_a_bug_in_the_writer_commits_nothing_later(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the writer fails of, a transaction that it leaves open is not continued by the next batch."""

    def broken(_: WritingTransaction) -> bool:
        raise KeyError("a bug")

    def half_done(tx: Transaction) -> None:
        study = tx.lock_study("default", "digits")
        assert study is not None
        tx.insert_trials(study.id, [replace(a_trial(study.next_number), revision=study.revision + 1)])
        tx.request("scope", "id")
        raise ValueError("after it wrote")

    async with opened_postgres(postgres_url) as storage:
        await add_study(storage, a_study())
        await add_study(storage, replace(a_study(), name="other"))
        monkeypatch.setattr(WritingTransaction, "was_mistaken", broken)
        with pytest.raises(StorageUnavailable):
            await storage.write(half_done)
        monkeypatch.undo()
        await storage.write(ask("default", "other"))
        number = await storage.write(ask("default", "digits"))

    assert number == 1


def test_a_study_that_is_forgotten_is_not_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changed it last is known from a lock that reads only, so it must be read once its own revision is forgotten."""
    monkeypatch.setattr("asktell_server.storage.postgresql.transaction.REMEMBERED", 2)
    knowledge = Knowledge()
    studies = [replace(a_study(), id=i, name=f"s{i}") for i in (1, 2, 3)]

    for study in studies:
        knowledge.committed({study.id: study.revision}, {}, {study.id: study})

    assert knowledge.expected(1) is None
    assert knowledge.expected_by_name("default", "s1") is None
    assert knowledge.expected(3) == studies[2]
    knowledge.doubt()
    assert knowledge.expected(3) is None


async def test_a_failed_work_is_nobodys_change(postgres_url: str) -> None:
    """What was rolled back here and then written by another storage at the same revision counts as the other's."""

    def fail(tx: Transaction) -> None:
        ask("default", "digits")(tx)
        raise KeyError("on purpose")

    def seen(tx: Transaction) -> int:
        study = tx.lock_study("default", "digits")
        assert study is not None
        return tx.others_revision(study.id)

    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        await add_study(one, a_study())
        with pytest.raises(KeyError):
            await one.write(fail)
        await two.write(ask("default", "digits"))

        assert await one.write(seen) == 2


async def test_commits_are_heard_by_the_others(postgres_url: str) -> None:
    """Creation, change and deletion of a study reach another storage with its revision; the one that wrote hears nothing."""
    heard: list[ForeignCommit] = []
    own: list[ForeignCommit] = []
    one = PostgresStorage(postgres_url, observer=Commits())
    two = PostgresStorage(postgres_url, observer=Commits())
    one.listen(own.extend)
    two.listen(heard.extend)
    await one.start()
    await two.start()
    await asyncio.sleep(0.5)  # until both listen

    stored = await add_study(one, a_study())
    await one.write(ask("default", "digits"))
    await one.write(lambda tx: tx.delete_study(stored.id))
    deadline = time.monotonic() + PATIENCE_S
    while ForeignCommit(stored.id, 0) not in heard and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    await one.stop()
    await two.stop()

    assert heard == [ForeignCommit(stored.id, revision) for revision in (1, 2, 0)]
    assert own == []


async def test_who_is_alone_tells_nobody_until_others_come(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits are told from soon after a second storage comes until soon after it goes."""
    monkeypatch.setattr(listening, "POLL_S", 0.1)
    told: list[str] = []

    def hear() -> None:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"LISTEN {listening.CHANNEL}")
            told.extend(notify.payload for notify in connection.notifies(timeout=1.0))

    async def writes(storage: PostgresStorage) -> list[str]:
        """What is told meanwhile, without the names of who tells it."""
        told.clear()
        hearing = asyncio.create_task(asyncio.to_thread(hear))
        await asyncio.sleep(0.5)
        await storage.write(ask("default", "digits"))
        await hearing
        return [studies for payload in told if (studies := payload.partition(" ")[2])]

    one, two = (PostgresStorage(postgres_url, observer=Commits()) for _ in range(2))
    one.listen(lambda _: None)
    two.listen(lambda _: None)
    await one.start()
    stored = await add_study(one, a_study())
    alone = await writes(one)
    await two.start()
    together = await writes(one)
    await two.stop()
    alone_again = await writes(one)
    await one.stop()

    assert alone == []
    assert together == [f"{stored.id}:3"]
    assert alone_again == []


async def test_many_changes_are_told_in_payloads_that_fit() -> None:
    """However many studies a commit changed, no payload reaches the 8000 bytes that PostgreSQL allows."""
    changed = {2**62 + i: 2**62 for i in range(1000)}

    told = list(listening.payloads("0123456789abcdef", changed))

    assert all(len(payload) < 8000 for payload in told)
    assert {c.study_id: c.revision for payload in told for c in listening.commits(payload)[1]} == changed
    assert listening.commits("somebody else's") == ("", [])


async def test_whether_others_serve_is_known_at_the_start(postgres_url: str) -> None:
    """The first storage that serves finds nobody, the second the first, and after both are gone nobody again."""
    found = []
    for _ in range(2):
        one = PostgresStorage(postgres_url, observer=Commits())
        two = PostgresStorage(postgres_url, observer=Commits())
        for storage in (one, two):
            storage.listen(lambda _: None)
            await storage.start()
            await asyncio.sleep(0.5)
            found.append(storage.others_serve())
        await one.stop()
        await two.stop()
        with psycopg.connect(postgres_url) as connection:
            while listening.serving(connection):
                await asyncio.sleep(0.02)

    assert found == [False, True, False, True]


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


async def test_connections_that_were_cut_are_made_anew(postgres_url: str) -> None:
    """Writes and reads go on after every idle connection was ended, without an error."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study())
        await storage.read(lambda tx: tx.study_by_id(stored.id))
        with psycopg.connect(postgres_url) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )

        number = await storage.write(ask("default", "digits"))
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


async def test_a_batch_whose_connection_is_cut_before_its_commit_is_run_again(postgres_url: str) -> None:
    """PostgreSQL ends the connection while the lock is waited for: the commit, sent along, has not happened, and all run again."""
    async with opened_postgres(postgres_url) as storage:
        await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as other:
            holder.execute("SELECT 1 FROM studies FOR UPDATE")
            asked = [storage.submit(ask("default", "digits")) for _ in range(3)]
            ended = None
            while ended is None:
                await asyncio.sleep(0.005)
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


async def test_the_database_restarts_under_load(own_postgres: PostgresServer) -> None:
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
                    acknowledged.append(await storage.write(ask("default", "digits")))
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


async def test_a_lost_race_is_answered_after_some_attempts(postgres_url: str) -> None:
    """A work that breaks a rule of the database each time is refused, its neighbours in the batch are done."""
    async with opened_postgres(postgres_url) as storage:
        stored = await add_study(storage, a_study(), a_trial(1000))

        def clash(tx: Transaction) -> None:
            tx.lock_study_by_id(stored.id)
            tx.insert_trials(stored.id, [replace(a_trial(1000), notes="second")])

        good = ask("default", "digits")
        outcomes = await asyncio.gather(
            *(storage.submit(work) for work in (good, clash, good, good)), return_exceptions=True
        )

    assert [outcome for outcome in outcomes if isinstance(outcome, int)] == [1, 2, 3]
    assert isinstance(outcomes[1], ConcurrentUpdate)
