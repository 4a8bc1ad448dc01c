"""Brief works on PostgreSQL: they run in the event loop where nothing has to be read, and otherwise as all others."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import select
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self
from urllib.parse import urlsplit

import psycopg
import pytest
import uvloop

from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study
from asktell_server.storage.base import ForeignCommit, StoredRequest, Transaction
from asktell_server.storage.postgresql.storage import PostgresStorage
from asktell_server.storage.postgresql.wire import Exchange
from asktell_server.testing.samples import a_study, a_trial, add_study, ask, numbers

from .helpers import Commits, opened_postgres

PATIENCE_S = 60.0


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test on Python's own event loop and on that of the server, which tells of a lost connection in another way."""

    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    def on_a_loop(run: Callable[[Coroutine[Any, Any, None]], None], **arguments: Any) -> None:
        run(test(**arguments))

    parameters = [inspect.Parameter("run", inspect.Parameter.KEYWORD_ONLY)]
    parameters += [
        each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in inspect.signature(test).parameters.values()
    ]
    on_a_loop.__name__, on_a_loop.__doc__ = test.__name__, test.__doc__
    # From these pytest learns which fixtures and which parameters the test has.
    marks = [*vars(on_a_loop)["pytestmark"], *vars(test).get("pytestmark", [])]
    vars(on_a_loop).update(__signature__=inspect.Signature(parameters), pytestmark=marks)
    return on_a_loop


@pytest.fixture(params=[True, False], ids=["alone", "not alone"])
def alone(request: pytest.FixtureRequest) -> bool:
    """Whether there is nobody to tell of a commit, so that a batch is one transaction without BEGIN and COMMIT."""
    return bool(request.param)


NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Pooler:
    """Stands between a server and PostgreSQL, and may lose answers; it says itself that it did, as PgBouncer does."""

    def __init__(self, url: str) -> None:
        self._to = urlsplit(url)
        self.is_losing = False
        self.url = ""
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = self._to._replace(netloc=f"{self._to.username}@127.0.0.1:{port}").geturl()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.gather(*self._tasks)  # which end with the connections

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        database, to_database = await asyncio.open_connection(self._to.hostname, self._to.port)
        self._tasks.append(asyncio.ensure_future(self._pass_on(client, to_database)))
        self._tasks.append(asyncio.ensure_future(self._pass_on(database, to_client, loses=True)))

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, loses: bool = False
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                if loses and self.is_losing:
                    self.is_losing = False
                    said = b"SFATAL\0VFATAL\0C08P01\0Mserver conn crashed?\0\0"
                    target.write(b"E" + (len(said) + 4).to_bytes(4, "big") + said)
                    break
                target.write(data)
        target.close()
        with contextlib.suppress(ConnectionError):
            await target.wait_closed()


def seen_from(threads: list[str], work: Callable[[Transaction], int]) -> Callable[[Transaction], int]:
    """The work; each time that it is run it notes in which thread."""

    def noting(tx: Transaction) -> int:
        threads.append("loop" if threading.current_thread() is threading.main_thread() else "writer")
        return work(tx)

    return noting


def ask_once(request_id: str) -> Callable[[Transaction], int]:
    """A work that creates the next trial, or finds that it did."""

    def work(tx: Transaction) -> int:
        study = tx.lock_study("default", "digits")
        assert study is not None
        stored = tx.request("Ask", request_id)
        if stored is not None:
            number = stored.response["number"]
            assert isinstance(number, int)
            return number
        number = ask("default", "digits")(tx)
        tx.insert_request(study.id, "Ask", request_id, StoredRequest("", {"number": number}), NOW)
        return number

    return work


@on_both_loops
async def test_where_works_run(postgres_url: str, alone: bool) -> None:
    """In the event loop once the study is known, if they are brief; in the thread if not, or if they read."""
    threads: list[str] = []

    def read(tx: Transaction) -> int:
        tx.lock_study("default", "digits")
        return len(tx.trials(stored.id, limit=10))

    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        for work, brief in [
            (ask("default", "digits"), False),
            (ask("default", "digits"), True),
            (read, True),
            (ask("default", "digits"), True),
        ]:
            await storage.submit(seen_from(threads, work), brief=brief)
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))

    # The one that reads is begun in the loop, and run in the thread then.
    assert threads == ["writer", "loop", "loop", "writer", "loop"]
    assert numbers(kept) == [1, 2, 3]


@on_both_loops
async def test_brief_works_share_commits_and_keep_their_order_among_others(postgres_url: str, alone: bool) -> None:
    """Works of both kinds on one study are done in the order in which they were submitted."""
    commits = Commits()
    done: list[int] = []
    async with opened_postgres(postgres_url, commits, alone=alone) as storage:
        await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        before = len(commits.works)
        futures = [
            storage.submit(ask("default", "digits"), done.append, brief=i % 10 not in (3, 4)) for i in range(200)
        ]
        given = await asyncio.gather(*futures)

    assert given == list(range(2, 202))
    assert done == given
    assert sum(commits.works[before:]) == 200
    assert len(commits.works) - before < 100


@on_both_loops
async def test_what_is_refused_is_answered_and_writes_nothing(postgres_url: str, alone: bool) -> None:
    """A brief work that raises before it wrote leaves its neighbours be; one that raises after it wrote is undone."""

    def refuse(tx: Transaction) -> int:
        tx.lock_study("default", "digits")
        raise KeyError("on purpose")

    def fail_late(tx: Transaction) -> int:
        ask("default", "digits")(tx)
        raise ValueError("after it wrote")

    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        for failing, error in ((refuse, KeyError), (fail_late, ValueError)):
            works = [ask("default", "digits"), failing, ask("default", "digits")]
            before, failed, after = await asyncio.gather(
                *(storage.submit(work, brief=True) for work in works), return_exceptions=True
            )
            assert isinstance(failed, error)
            assert isinstance(before, int)
            assert after == before + 1
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))
        study = await storage.read(lambda tx: tx.study_by_id(stored.id))

    assert numbers(kept) == [1, 2, 3, 4, 5]
    assert study is not None
    assert study.next_number == 6


@on_both_loops
async def test_a_request_id_acts_once(postgres_url: str, alone: bool) -> None:
    """It is taken to be new without a look; where it is not, in the same batch, later, or after a restart, the first outcome stands."""
    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        together = await asyncio.gather(*(storage.submit(ask_once("a"), brief=True) for _ in range(3)))
        other = await storage.submit(ask_once("b"), brief=True)
        again = await storage.submit(ask_once("a"), brief=True)
    async with opened_postgres(postgres_url, alone=alone) as storage:
        await storage.write(ask("default", "digits"))  # from here on the study is known
        restarted = await storage.submit(ask_once("a"), brief=True)
        kept = await storage.read(lambda tx: tx.trials(stored.id, limit=10))

    assert (together, other, again, restarted) == ([2, 2, 2], 3, 2, 2)
    assert numbers(kept) == [1, 2, 3, 4]


@on_both_loops
async def test_no_answer_rests_on_a_guess(postgres_url: str, alone: bool) -> None:
    """A work that would refuse a new request_id, so that nothing is sent that could show it to be an old one, finds the old one."""

    def only_repeats(tx: Transaction) -> int:
        tx.lock_study("default", "digits")
        stored = tx.request("Ask", "a")
        if stored is None:
            raise KeyError("the study takes no more")
        return int(str(stored.response["number"]))

    async with opened_postgres(postgres_url, alone=alone) as storage:
        await add_study(storage, a_study())
        number = await storage.submit(ask_once("a"), brief=True)
        await storage.write(ask("default", "digits"))

        assert await storage.submit(only_repeats, brief=True) == number


@on_both_loops
async def test_what_does_not_fit_the_socket_is_sent_bit_by_bit(
    postgres_url: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows of 8 MB each the event loop sends what the connection takes, and waits for it to take more."""
    text = "x" * 8_000_000
    waited_for: set[int] = set()
    advance = Exchange.advance

    def noting(self: Exchange) -> int:
        events = advance(self)
        waited_for.add(events)
        return events

    def noted(tx: Transaction) -> int:
        study = tx.lock_study("default", "digits")
        assert study is not None
        number, revision = study.next_number, study.revision + 1
        tx.insert_trials(study.id, [replace(a_trial(number, revision=revision), notes=text)])
        tx.update_study(replace(study, next_number=number + 1, revision=revision))
        return number

    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        monkeypatch.setattr(Exchange, "advance", noting)
        given = await asyncio.gather(*(storage.submit(noted, brief=True) for _ in range(3)))
        kept = await storage.read(lambda tx: tx.trials(stored.id, after_number=1, limit=10))

    assert given == [2, 3, 4]
    assert [trial.notes == text for trial in kept] == [True] * 3
    assert waited_for == {0, select.POLLIN, select.POLLIN | select.POLLOUT}


@on_both_loops
async def test_stopping_finishes_what_was_submitted(postgres_url: str) -> None:
    """Also what the event loop has sent, and what waits behind it."""
    storage = PostgresStorage(postgres_url, observer=Commits())
    await storage.start()
    await add_study(storage, a_study())
    await storage.write(ask("default", "digits"))
    futures = [storage.submit(ask("default", "digits"), brief=True) for _ in range(10)]
    await asyncio.sleep(0)
    futures += [storage.submit(ask("default", "digits"), brief=True) for _ in range(10)]
    await storage.stop()

    assert [future.result() for future in futures] == list(range(2, 22))


@on_both_loops
async def test_other_servers_hear_of_brief_works(postgres_url: str) -> None:
    """A commit from the event loop is told like any other, after it."""
    heard: list[ForeignCommit] = []
    one, two = (PostgresStorage(postgres_url, observer=Commits()) for _ in range(2))
    one.listen(lambda _: None)
    two.listen(heard.extend)
    await one.start()
    await two.start()
    stored = await add_study(one, a_study())
    deadline = time.monotonic() + PATIENCE_S
    last = 0
    while ForeignCommit(stored.id, last) not in heard and time.monotonic() < deadline:
        last = await one.submit(ask("default", "digits"), brief=True) + 1
        await asyncio.sleep(0.05)
    await one.stop()
    await two.stop()

    assert ForeignCommit(stored.id, last) in heard


@on_both_loops
async def test_what_the_loop_takes_for_granted_is_checked(postgres_url: str, alone: bool) -> None:
    """A study that another program changed, of which nobody told: the works are run again on what is there, in the thread."""
    threads: list[str] = []
    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        with psycopg.connect(postgres_url) as other:
            other.execute("UPDATE studies SET next_number = 7, revision = revision + 1 WHERE id = %s", (stored.id,))
        given = await asyncio.gather(
            *(storage.submit(seen_from(threads, ask("default", "digits")), brief=True) for _ in range(3))
        )

    assert given == [7, 8, 9]
    assert threads == ["loop"] * 3 + ["writer"] * 3


def locked(tx: Transaction) -> Study:
    """The study of these tests."""
    study = tx.lock_study("default", "digits")
    assert study is not None
    return study


def touch(tx: Transaction, study: Study, number: int) -> int:
    """Changes a trial and the study, in nothing but their revision, which is returned."""
    trial = tx.trial(study.id, number, full=False)
    assert trial is not None
    revision = study.revision + 1
    tx.update_trial(study.id, replace(trial, revision=revision))
    tx.update_study(replace(study, revision=revision))
    return revision


def report(number: int, step: int) -> Callable[[Transaction], int]:
    """A work that adds a measurement to a trial; returns the highest step that was there before, 0 if none was."""

    def work(tx: Transaction) -> int:
        study = locked(tx)
        last = tx.last_measurement(study.id, number)
        revision = touch(tx, study, number)
        tx.insert_measurement(study.id, number, Measurement({"loss": 1.0 / step}, step=step), revision)
        return 0 if last is None or last.step is None else last.step

    return work


@on_both_loops
async def test_reports_of_a_known_trial_read_nothing(postgres_url: str, alone: bool) -> None:
    """The highest step of a trial that this server made, or to which it reported, is known; steps may come in any order."""
    threads: list[str] = []
    highest = []
    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        number = await storage.write(ask("default", "digits"))
        for step in (1, 7, 3, 8):
            highest.append(await storage.submit(seen_from(threads, report(number, step)), brief=True))
        with pytest.raises(ConcurrentUpdate):
            await storage.submit(report(number, 7), brief=True)
        after = await storage.submit(report(number, 9), brief=True)
        kept = await storage.read(lambda tx: tx.trial(stored.id, number))

    assert highest == [0, 1, 7, 7]
    assert threads == ["loop"] * 4
    assert after == 8
    assert kept is not None
    assert [measurement.step for measurement in kept.intermediate] == [1, 3, 7, 8, 9]


def renew(number: int, _: int) -> Callable[[Transaction], int]:
    """A work that changes a trial and does not look at its measurements."""
    return lambda tx: touch(tx, locked(tx), number)


@on_both_loops
@pytest.mark.parametrize("then", [report, renew, lambda *_: ask("default", "digits")], ids=["report", "renew", "ask"])
async def test_a_report_to_another_server_is_seen(postgres_url: str, then: Callable[[int, int], Any]) -> None:
    """What is known of a trial's steps is forgotten once another server has changed the study, whatever comes next here."""
    async with opened_postgres(postgres_url) as one, opened_postgres(postgres_url) as two:
        await add_study(one, a_study())
        number = await one.write(ask("default", "digits"))
        await one.submit(report(number, 1), brief=True)
        await two.submit(report(number, 50), brief=True)
        await one.submit(then(number, 2), brief=True)
        highest = await one.submit(report(number, 3), brief=True)

    assert highest == 50


@on_both_loops
async def test_a_bug_beneath_the_loop_fails_the_batch_and_no_more(
    postgres_url: str, alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever, nothing half done is committed later, and the next works go through."""

    def broken(_: Exchange) -> int:
        raise KeyError("a bug")

    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        monkeypatch.setattr(Exchange, "advance", broken)
        outcomes = await asyncio.wait_for(
            asyncio.gather(
                *(storage.submit(ask("default", "digits"), brief=True) for _ in range(3)), return_exceptions=True
            ),
            PATIENCE_S,
        )
        monkeypatch.undo()
        number = await storage.submit(ask("default", "digits"), brief=True)
        kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=10)))

    assert all(isinstance(outcome, Exception) for outcome in outcomes)
    assert kept[-1] == number
    assert kept == list(range(1, number + 1))


@on_both_loops
@pytest.mark.parametrize("size", [10, 300_000])
async def test_a_connection_that_ends_in_the_middle_hangs_nobody(postgres_url: str, alone: bool, size: int) -> None:
    """PostgreSQL ends it while a batch waits for a lock, with much of the batch unread: the works are run again, or in doubt at worst."""

    def noted(tx: Transaction) -> int:
        study = tx.lock_study("default", "digits")
        assert study is not None
        number, revision = study.next_number, study.revision + 1
        tx.insert_trials(study.id, [replace(a_trial(number, revision=revision), notes="x" * size)])
        tx.update_study(replace(study, next_number=number + 1, revision=revision))
        return number

    async with opened_postgres(postgres_url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        with psycopg.connect(postgres_url) as holder, psycopg.connect(postgres_url, autocommit=True) as other:
            holder.execute("SELECT 1 FROM studies FOR UPDATE")
            futures = [storage.submit(noted, brief=True) for _ in range(100)]
            ended, deadline = None, time.monotonic() + PATIENCE_S
            while ended is None and time.monotonic() < deadline:
                await asyncio.sleep(0.002)
                ended = other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE datname = current_database() AND wait_event_type = 'Lock'"
                ).fetchone()
            holder.rollback()
        outcomes = await asyncio.wait_for(asyncio.gather(*futures, return_exceptions=True), PATIENCE_S)
        number = await asyncio.wait_for(storage.submit(ask("default", "digits"), brief=True), PATIENCE_S)
        kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=1000)))

    given = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert all(isinstance(outcome, int | StorageUnavailable) for outcome in outcomes)
    assert set(given) <= set(kept)
    assert len(set(given)) == len(given)
    assert kept == list(range(1, number + 1))


@on_both_loops
async def test_an_answer_for_each_work_and_no_second_one(postgres_url: str) -> None:
    """A bug in the middle of works that are run one by one: those after it are refused, and others go on as if nothing had been."""

    class Failing(Commits):
        def committed(self, seconds: float, works: int) -> None:
            super().committed(seconds, works)
            if len(self.works) == 5:
                raise KeyError("a bug")

    def taken(tx: Transaction) -> int:
        return tx.insert_study(a_study()).id

    storage = PostgresStorage(postgres_url, observer=Failing())
    await storage.start()
    await add_study(storage, a_study())
    await storage.write(ask("default", "digits"))
    works = [
        ask("default", "digits"),
        taken,
        *[ask("default", "digits")] * 6,
    ]  # the name is taken: they are run one by one
    outcomes = await asyncio.wait_for(
        asyncio.gather(*(storage.submit(work) for work in works), return_exceptions=True), PATIENCE_S
    )
    after = await asyncio.wait_for(storage.submit(ask("default", "digits"), brief=True), PATIENCE_S)
    await asyncio.wait_for(storage.stop(), PATIENCE_S)

    assert any(isinstance(outcome, int) for outcome in outcomes)
    assert any(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
    assert after > max(outcome for outcome in outcomes if isinstance(outcome, int))


@on_both_loops
async def test_what_a_pooler_says_proves_nothing(postgres_url: str, alone: bool) -> None:
    """It lost the answers, not the commit: the works are in doubt, and not run again."""
    async with Pooler(postgres_url) as pooler, opened_postgres(pooler.url, alone=alone) as storage:
        stored = await add_study(storage, a_study())
        await storage.write(ask("default", "digits"))
        pooler.is_losing = True
        outcomes = await asyncio.gather(
            *(storage.submit(ask("default", "digits"), brief=True) for _ in range(3)), return_exceptions=True
        )
        number = await storage.submit(ask("default", "digits"), brief=True)
        kept = numbers(await storage.read(lambda tx: tx.trials(stored.id, limit=10)))

    assert all(isinstance(outcome, StorageUnavailable) for outcome in outcomes)
    assert (number, kept) == (5, [1, 2, 3, 4, 5])
