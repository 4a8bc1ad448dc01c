"""What is acknowledged stays, and what failed leaves nothing: killed processes, full disks, failing commits."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from asktell_server.domain.errors import StorageUnavailable
from asktell_server.domain.trial import Trial
from asktell_server.storage import group_commit, sqlite
from asktell_server.storage.base import Snapshot, Transaction
from asktell_server.storage.sql import SqlStorage
from asktell_server.testing.samples import a_study, a_trial, add_study, ask, numbers

from .helpers import Commits, opened


def big_trial(number: int) -> Trial:
    """A trial of two megabytes."""
    return replace(a_trial(number), notes="x" * 2_000_000)


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond `size` bytes meanwhile: writes fail with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def limited_pages(storage: SqlStorage, spare: int) -> Iterator[None]:
    """The database can grow by no more than `spare` pages meanwhile: SQLITE_FULL."""
    writer = storage._connections[0]
    (pages,) = writer.execute("PRAGMA page_count").fetchone()
    writer.execute(f"PRAGMA max_page_count={pages + spare}")
    try:
        yield
    finally:
        writer.execute("PRAGMA max_page_count=1000000000")


@asynccontextmanager
async def held_up(storage: SqlStorage) -> AsyncIterator[None]:
    """The writer is busy with a work meanwhile, so that what is submitted queues up and shares a batch."""
    began, gate = threading.Event(), threading.Event()

    def wait(_: Transaction) -> None:
        began.set()
        assert gate.wait(10)

    waiting = asyncio.ensure_future(storage.write(wait))
    await asyncio.to_thread(began.wait, 10)
    try:
        yield
    finally:
        gate.set()
        await waiting


async def test_a_kill_loses_no_acknowledged_write(tmp_path: Path) -> None:
    """After kill -9 in the middle of a load every acknowledged trial is there, numbers have no gap, and so again."""
    path = tmp_path / "studies.db"
    async with opened(path) as storage:
        stored = await add_study(storage, a_study())
    acknowledged: set[int] = set()

    for _ in range(3):
        command = [sys.executable, str(Path(__file__).with_name("writing_child.py")), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(300)]
            child.kill()
            lines += child.stdout.readlines()
        fresh = {int(line) for line in lines if line.endswith(b"\n")}
        assert len(fresh) >= 300
        assert not fresh & acknowledged
        acknowledged |= fresh

        async with opened(path) as storage:
            kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=10**9)))
            study = await storage.read(lambda tx: tx.study_by_id(stored.id))
        assert study is not None
        assert acknowledged <= set(kept)
        assert kept == list(range(1, study.next_number))

    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_a_full_database_fails_only_what_does_not_fit(tmp_path: Path) -> None:
    """In one batch the work that needs too much space gets StorageUnavailable, its neighbours are committed."""
    async with opened(tmp_path / "studies.db") as storage:
        stored = await add_study(storage, a_study())

        def add_big_trial(tx: Transaction) -> int:
            tx.insert_trials(stored.id, [big_trial(1000)])
            return 1000

        with limited_pages(storage, spare=20):
            async with held_up(storage):
                works = [ask("default", "digits")] * 6
                works.insert(3, add_big_trial)
                tasks = [asyncio.ensure_future(storage.write(work)) for work in works]
                await asyncio.sleep(0)
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=100))
        after = await storage.write(ask("default", "digits"))

    refused = outcomes.pop(3)
    assert isinstance(refused, StorageUnavailable)
    assert "full" in refused.message
    assert outcomes == [1, 2, 3, 4, 5, 6]
    assert numbers(kept) == outcomes
    assert after == 7


async def test_a_failing_commit_fails_its_whole_batch(tmp_path: Path) -> None:
    """When COMMIT itself fails, all works of the batch get StorageUnavailable, nothing of them stays, and work goes on."""
    commits = Commits()
    async with opened(tmp_path / "studies.db", commits) as storage:
        stored = await add_study(storage, a_study())

        def orphan(tx: Transaction) -> None:
            # A violation that SQLite is told to look for only in COMMIT.
            storage._connections[0].execute("PRAGMA defer_foreign_keys=ON")
            tx.insert_trials(stored.id + 1, [a_trial(1)])

        async with held_up(storage):
            works = (ask("default", "digits"), orphan, lambda _: 1 // 0, ask("default", "digits"))
            tasks = [asyncio.ensure_future(storage.write(work)) for work in works]
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        kept = await storage.read(lambda tx: tx.study_by_id(stored.id))
        after = await storage.write(ask("default", "digits"))

    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 4
    assert kept == stored
    assert after == 1
    assert commits.works == [1, 1, 1]


async def test_a_disk_that_refuses_writes_fails_the_batch(tmp_path: Path) -> None:
    """When the operating system refuses to write the log, nothing is acknowledged, and later writes succeed."""
    async with opened(tmp_path / "studies.db") as storage:
        stored = await add_study(storage, a_study())
        size = (tmp_path / "studies.db-wal").stat().st_size

        with file_size_limit(size + 1000):
            outcomes = await asyncio.gather(
                *(storage.submit(ask("default", "digits"), brief=i < 3) for i in range(5)), return_exceptions=True
            )
        kept = await storage.read(lambda tx: tx.study_by_id(stored.id))
        given = [await storage.write(ask("default", "digits")) for _ in range(3)]

    assert [type(outcome) for outcome in outcomes] == [StorageUnavailable] * 5
    assert kept == stored
    assert given == [1, 2, 3]


async def test_another_program_that_holds_the_database_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer beside the server makes writes fail after the timeout but not reads, and does no harm when it ends."""
    monkeypatch.setattr(sqlite, "BUSY_TIMEOUT_S", 0.05)
    path = tmp_path / "studies.db"
    async with opened(path) as storage:
        stored = await add_study(storage, a_study())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")

        with pytest.raises(StorageUnavailable, match="locked"):
            await storage.write(ask("default", "digits"))
        seen = await storage.read(lambda tx: tx.study_by_id(stored.id))
        other.close()

        assert seen == stored
        assert await storage.write(ask("default", "digits")) == 1


async def test_the_event_loop_does_not_wait_for_another_program(tmp_path: Path) -> None:
    """While a program beside the server writes, a brief work waits and the event loop goes on; then the work is done."""
    path = tmp_path / "studies.db"
    async with opened(path) as storage:
        await add_study(storage, a_study())
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = storage.submit(ask("default", "digits"), brief=True)
        for _ in range(20):
            await asyncio.sleep(0.005)
        before = waiting.done()
        other.close()

        assert await asyncio.wait_for(waiting, 30) == 1
    assert not before


async def test_brief_works_leave_the_event_loop_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many brief works wait, each turn of the event loop runs them for a bounded time, and at least one."""
    monkeypatch.setattr(group_commit, "BRIEF_S", 0.0)
    commits = Commits()
    async with opened(tmp_path / "studies.db", commits) as storage:
        await add_study(storage, a_study())
        given = await asyncio.gather(*(storage.submit(ask("default", "digits"), brief=True) for _ in range(10)))

    assert given == list(range(1, 11))
    assert commits.works == [1] * 11


async def test_a_reader_sees_one_state_while_others_write(tmp_path: Path) -> None:
    """A read that began before a commit does not see it, not even half; the writer does not wait for the read."""
    began, written = threading.Event(), threading.Event()
    async with opened(tmp_path / "studies.db") as storage:
        stored = await add_study(storage, a_study())

        def look_twice(tx: Snapshot) -> tuple[int, int]:
            first = tx.study_by_id(stored.id)
            began.set()
            assert written.wait(10)
            assert first is not None
            return first.next_number, len(tx.trials(stored.id, limit=10))

        reading = asyncio.ensure_future(storage.read(look_twice))
        await asyncio.to_thread(began.wait, 10)
        number = await storage.write(ask("default", "digits"))
        written.set()

        assert number == 1
        assert await reading == (1, 0)


async def test_a_read_cannot_write(tmp_path: Path) -> None:
    """A read's connection refuses to change anything."""
    async with opened(tmp_path / "studies.db") as storage:
        stored = await add_study(storage, a_study())

        with pytest.raises(StorageUnavailable, match="readonly"):
            await storage.read(lambda tx: cast(Transaction, tx).delete_study(stored.id))

        assert await storage.read(lambda tx: tx.study_by_id(stored.id)) == stored


async def test_works_share_commits(tmp_path: Path) -> None:
    """What queues up while the writer is busy is committed at once, up to the largest batch."""
    commits = Commits()
    async with opened(tmp_path / "studies.db", commits, max_batch=8) as storage:
        await add_study(storage, a_study())
        async with held_up(storage):
            tasks = [asyncio.ensure_future(storage.write(ask("default", "digits"))) for _ in range(20)]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    assert commits.works == [1, 1, 8, 8, 4]


async def test_an_observer_that_fails_hangs_nobody(tmp_path: Path) -> None:
    """A bug outside of the works is reported to who waits, and the writer goes on."""

    class Broken(Commits):
        def committed(self, seconds: float, works: int) -> None:
            super().committed(seconds, works)
            if len(self.works) == 2:
                raise KeyError("broken")

    async with opened(tmp_path / "studies.db", Broken()) as storage:
        await add_study(storage, a_study())

        with pytest.raises(StorageUnavailable, match="broken"):
            await storage.write(ask("default", "digits"))

        assert await storage.write(ask("default", "digits")) == 2


async def test_a_connection_in_doubt_is_replaced(tmp_path: Path) -> None:
    """After COMMIT failed by an error of the disk nobody goes on with what the connection believes: another one reads the file, and
    finds the commit there or not; here it is there.
    """

    class Doubtful:
        """A connection whose first COMMIT reaches the disk and says that it did not."""

        def __init__(self, real: sqlite3.Connection) -> None:
            self.real = real
            self.failed = False

        def execute(self, statement: str) -> object:
            done = self.real.execute(statement)
            if statement == "COMMIT" and not self.failed:
                self.failed = True
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_FSYNC
                raise error
            return done

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    async with opened(tmp_path / "studies.db") as storage:
        stored = await add_study(storage, a_study())
        writer = storage._writer
        assert writer is not None
        doubtful = writer._connection = cast(sqlite3.Connection, Doubtful(writer._connection))

        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            await storage.write(ask("default", "digits"))
        after = await storage.write(ask("default", "digits"))
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))

        assert writer._connection is not doubtful
        assert after == 2
        assert numbers(kept) == [1, 2]


async def test_a_rollback_that_fails_does_not_block_what_follows(tmp_path: Path) -> None:
    """The connection is replaced, so that the open transaction goes with it."""

    class Stuck:
        """A connection that can neither commit nor roll back."""

        def __init__(self, real: sqlite3.Connection) -> None:
            self.real = real

        def execute(self, statement: str) -> object:
            if statement in ("COMMIT", "ROLLBACK"):
                raise sqlite3.OperationalError("disk I/O error")
            return self.real.execute(statement)

        def __getattr__(self, name: str) -> object:
            return getattr(self.real, name)

    async with opened(tmp_path / "studies.db") as storage:
        await add_study(storage, a_study())
        writer = storage._writer
        assert writer is not None
        writer._connection = cast(sqlite3.Connection, Stuck(writer._connection))

        with pytest.raises(StorageUnavailable, match="disk I/O error"):
            await storage.write(ask("default", "digits"))

        assert await storage.write(ask("default", "digits")) == 1


async def test_a_damaged_page_makes_reads_fail_and_no_more(tmp_path: Path) -> None:
    """Whoever reads a page that is not one hears that the database failed, however far the reading had come; other rows are read."""
    path = tmp_path / "studies.db"
    async with opened(path) as storage:
        stored = await add_study(storage, a_study(), *(replace(a_trial(n), notes="x" * 3000) for n in range(1, 400)))
    with path.open("r+b") as file:
        file.seek(0, 2)
        for page in range(file.tell() // 4096 // 2, file.tell() // 4096 * 3 // 4):
            file.seek(page * 4096)
            file.write(b"\xff" * 4096)

    async with opened(path) as storage:
        with pytest.raises(StorageUnavailable, match="malformed"):
            await storage.read(lambda tx: tx.trials(stored.id, limit=400, full=True))
        first = await storage.read(lambda tx: tx.trial(stored.id, 1))

    assert first is not None
