"""Several servers on one PostgreSQL database: whose change a study has seen, who waits for whom, and who tells whom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import psycopg
import pytest

from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable, StudyAlreadyExists
from asktell_server.domain.objectives import Measurement
from asktell_server.storage.base import ForeignCommit, Transaction
from asktell_server.storage.postgresql import listening, writer
from asktell_server.storage.postgresql.connecting import tables
from asktell_server.storage.postgresql.knowledge import Knowledge
from asktell_server.storage.postgresql.storage import PostgresStorage
from asktell_server.storage.postgresql.transaction import WritingTransaction
from asktell_server.testing.samples import a_study, a_trial, add_study, ask

from .helpers import Commits, opened_postgres

PATIENCE_S = 60.0


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_numbers_are_unique_over_servers(postgres_url: str, brief: bool) -> None:
    """Submitters at three storages get the numbers of two studies without repeats or gaps, in order for each of them."""
    async with AsyncExitStack() as stack:
        storages = [await stack.enter_async_context(opened_postgres(postgres_url)) for _ in range(3)]
        for name in ("one", "two"):
            await add_study(storages[0], a_study(name))

        async def submitter(storage: PostgresStorage, name: str) -> list[int]:
            return [await storage.submit(ask("default", name), brief=brief) for _ in range(10)]

        given = await asyncio.gather(
            *(submitter(storage, name) for _ in range(3) for storage in storages for name in ("one", "two"))
        )

    for mine in (given[::2], given[1::2]):
        assert sorted(number for numbers in mine for number in numbers) == list(range(1, 91))
        assert all(numbers == sorted(numbers) for numbers in mine)


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_servers_do_not_wait_for_each_other_in_circles(postgres_url: str, brief: bool) -> None:
    """Batches that want the same studies in opposite orders all get through without a deadlock."""
    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        names = [f"s{i}" for i in range(5)]
        for name in names:
            await add_study(one, a_study(name))
        outcomes = await asyncio.gather(
            *(
                storage.submit(ask("default", name), brief=brief)
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


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_a_study_that_another_server_holds_stops_no_other_study(
    postgres_url: str, brief: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Works on it are put off and keep their order; others go on; at last they are refused, or done once it is free."""
    async with opened_postgres(postgres_url) as storage:
        held = await add_study(storage, a_study("held"))
        await add_study(storage, a_study("free"))
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM studies WHERE id = %s FOR UPDATE", (held.id,))
            waiting = [storage.submit(ask("default", "held"), brief=brief) for _ in range(3)]
            free = [await storage.submit(ask("default", "free"), brief=brief) for _ in range(5)]
            assert not any(future.done() for future in waiting)
        given = await asyncio.gather(*waiting)

        monkeypatch.setattr(writer, "PUT_OFF_AT_MOST_S", 0.2)
        with psycopg.connect(postgres_url) as other:
            other.execute("SELECT * FROM studies WHERE id = %s FOR UPDATE", (held.id,))
            with pytest.raises(ConcurrentUpdate, match="locked"):
                await storage.submit(ask("default", "held"), brief=brief)
        after = await storage.submit(ask("default", "held"), brief=brief)

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


@pytest.mark.parametrize("brief", [False, True], ids=["thread", "at once"])
async def test_a_study_that_others_change_is_not_expected_to_stay(
    postgres_url: str, brief: bool, monkeypatch: pytest.MonkeyPatch
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
        given = [
            await storage.submit(ask("default", "digits"), brief=brief)
            for _ in range(30)
            for storage in (one, two, one)
        ]

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
    monkeypatch.setattr("asktell_server.storage.postgresql.knowledge.REMEMBERED", 2)
    knowledge = Knowledge()
    studies = [replace(a_study(), id=i, name=f"s{i}") for i in (1, 2, 3)]

    for study in studies:
        knowledge.committed({study.id: study.revision}, {}, {study.id: study}, {})

    assert knowledge.expected(1) is None
    assert knowledge.expected_by_name("default", "s1") is None
    assert knowledge.expected(3) == studies[2]
    knowledge.doubt()
    assert knowledge.expected(3) is None


def test_what_a_database_lost_is_forgotten() -> None:
    """After a failover that lost commits a study comes back at an earlier revision: what those left of its trials is not there."""
    knowledge = Knowledge()
    study = replace(a_study(), id=1, revision=9)
    last = Measurement({"loss": 0.5}, step=3)
    knowledge.committed({1: 9}, {(1, 1): a_trial(1, revision=9)}, {1: study}, {(1, 1): last})
    assert knowledge.trial(1, 1) is not None
    assert knowledge.last_measurement(1, 1) == (last,)

    knowledge.doubt()
    knowledge.locked(replace(study, revision=7))

    assert knowledge.trial(1, 1) is None
    assert knowledge.last_measurement(1, 1) is None


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

    async def writes(storage: PostgresStorage, *, is_alone: bool) -> list[str]:
        """What is told of a commit, without the names of who tells it, once the storage has found out whether it is alone."""
        listener = storage._listener
        assert listener is not None
        deadline = time.monotonic() + PATIENCE_S
        while listener.is_alone != is_alone and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f"LISTEN {listening.channel(tables(connection))}")
            await storage.write(ask("default", "digits"))
            # What is told is sent before the write is answered.
            told = await asyncio.to_thread(lambda: list(connection.notifies(timeout=0.5)))
        return [studies for notify in told if (studies := notify.payload.partition(" ")[2])]

    one, two = (PostgresStorage(postgres_url, observer=Commits()) for _ in range(2))
    one.listen(lambda _: None)
    two.listen(lambda _: None)
    await one.start()
    stored = await add_study(one, a_study())
    alone = await writes(one, is_alone=True)
    await two.start()
    together = await writes(one, is_alone=False)
    await two.stop()
    alone_again = await writes(one, is_alone=True)
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
