"""The Transaction of `storage.base` on PostgreSQL: locks on studies, and writes that are sent without waiting for them.

A study that a work locks stays locked until the transaction ends. Only the first lock of a transaction waits; later ones,
taken while others are held, do not, so that two servers never wait for each other: the work raises `Busy` and is put off.

A study that nobody else seems to change is expected to be as this server left it: its lock is sent along with all the rest and fails,
and the transaction with it, if it is not. So most transactions need a single round trip. And if nothing at all has to be read, the works
can run where nothing may be waited for, in the event loop (`at_once`).

A statement that only writes costs no round trip: it is kept until something is read or committed, and sent along (`wire`).
Its errors come up then, at some other work or at the commit. What a work needs to know at once (does the row exist?) is known from
the lock: nobody else can have removed it. Whatever is sent ends with a Sync, so that PostgreSQL sees when a
transaction idles: only then does it end one whose server was paused with a study locked.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg import errors

from asktell_server.domain.access import Token
from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.storage import codec
from asktell_server.storage.base import StoredRequest
from asktell_server.storage.postgresql.connecting import Connection, one_line
from asktell_server.storage.postgresql.knowledge import Knowledge
from asktell_server.storage.postgresql.wire import Exchange, Statement, Wire, rows
from asktell_server.storage.statements import Statements
from asktell_server.storage.transaction import SqlTransaction
from asktell_server.storage.write_cache import KeepingTransaction, as_updated

_BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
_COMMIT = "COMMIT"


class Busy(BaseException):
    """Another server holds the study: the work is to be put off. Not an Exception, so that no work takes it for its own."""


class NotAtHand(BaseException):
    """A work needs something that would have to be read, where nothing may be waited for. Not an Exception, as `Busy`."""


class _OnConnection(SqlTransaction):
    """Executes on a connection of psycopg."""

    _connection: Connection

    def _run(self, statement: str, values: Mapping[str, Any]) -> None:
        try:
            # A cursor each: in pipeline mode one cursor would mix the results of several statements.
            self._cursor = self._connection.cursor()
            self._cursor.execute(statement, values)
        except psycopg.Error as error:
            raise translated(error) from error

    def _all(self, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
        self._run(statement, values)
        try:
            return self._cursor.fetchall()
        except psycopg.Error as error:
            raise translated(error) from error


_NOT_OURS = (
    errors.InsufficientPrivilege,
    errors.UndefinedTable,
    errors.UndefinedColumn,
    errors.UndefinedFunction,
    errors.InvalidSchemaName,
)


def translated(error: psycopg.Error) -> Exception:
    """What an error of the database means to whoever works on it; itself if it is a mistake of ours."""
    if isinstance(error, _NOT_OURS):
        return StorageUnavailable(
            f"the database is not as it should be: {one_line(error)}; give the server's role its rights, or its tables back",
            "the database cannot be used as it is; the server's log says why",
        )
    if isinstance(error, psycopg.IntegrityError):
        return ConcurrentUpdate(f"another writer interfered: {one_line(error)}")
    if isinstance(error, psycopg.ProgrammingError | psycopg.DataError):
        return error
    return StorageUnavailable(f"the database failed: {one_line(error)}")


def is_of_postgresql(error: psycopg.Error) -> bool:
    """Whether PostgreSQL itself says it. An error of the connection (class 08) may be what a pooler says that has lost it, with answers."""
    return error.sqlstate is not None and not error.sqlstate.startswith("08")


class PlainTransaction(_OnConnection):
    """A transaction on one connection in which each statement is waited for; who begins and commits it decides what it may do."""

    def __init__(self, connection: Connection, statements: Statements) -> None:
        super().__init__(connection.cursor(), statements, psycopg)
        self._connection = connection


class WritingTransaction(_OnConnection, KeepingTransaction):
    """Transactions of the writer's connection, one after the other: `begin` before each, then `flush`, or `forget` on failure."""

    def __init__(self, connection: Connection, statements: Statements, knowledge: Knowledge) -> None:
        super().__init__(connection.cursor(), statements, psycopg)
        self._connection = connection
        self._wire = Wire(connection)
        self._knowledge = knowledge
        self._written = 0
        self._busy: set[object] = set()
        self._trials: dict[tuple[int, int], Trial] = {}
        self._changed_trials: set[tuple[int, int]] = set()
        self._lasts: dict[tuple[int, int], Measurement | None] = {}
        """Of trials of locked studies, the measurement at the highest step, as far as it is known."""
        self._revisions: dict[int, int] = {}
        self._unsent: list[Statement] | None = None
        self._expecting = False
        self._at_once = False
        self._expectations: dict[int, int] = {}
        """Of studies that are expected to be as this server left them, the revisions."""
        self._new_requests: set[tuple[str, str]] = set()
        self.waits_for: object = None
        """The id or (project, name) of the study that the last lock waited for."""
        self.is_commit_sent = False
        self._before_commit = 0
        self._is_implicit = False

    @property
    def changes(self) -> int:
        """Grows with every change, sent or kept."""
        return self._written + self._kept_changes

    def begin(
        self, busy: set[object], *, together: bool = False, expecting: bool = False, at_once: bool = False
    ) -> None:
        """A new transaction.

        `busy` collects ids and names of studies that others hold: whoever wants them is put off at once. `together`: what is
        written is sent together, up to the commit. `expecting`: studies that nobody else seems to change are taken to be as this
        server left them; what is sent fails if they are not. `at_once`: nothing is read, what would have to be raises NotAtHand; a
        request_id is taken to be new, and what is sent fails if it is not.
        """
        self.forget()
        self._busy = busy
        self._unsent = [] if together else None
        self._expecting = expecting
        self._at_once = at_once
        self._written = self._kept_changes = 0
        self.is_commit_sent = False
        if not at_once:
            self._run(_BEGIN, {})

    def forget(self) -> None:
        """Forgets everything of this transaction."""
        super().forget()
        self._trials.clear()
        self._changed_trials.clear()
        self._lasts.clear()
        self._revisions.clear()
        self._unsent = None
        self._expectations.clear()
        self._new_requests.clear()

    def rests_on_a_guess(self) -> bool:
        """Whether a request_id was taken to be new by a work that did not go on to store it, so that nothing will show that it was not."""
        return bool(self._new_requests)

    def was_mistaken(self) -> bool:
        """Whether this transaction, which failed, took anything for granted. It will not again."""
        for study_id in self._expectations:
            self._knowledge.mistaken(study_id)
        return bool(self._expectations)

    def commit(self, then: Sequence[Statement] = ()) -> tuple[bool, psycopg.Error | None]:
        """Writes what was kept and commits; whether it did, and what went wrong there or in what is sent along for `then`."""
        return self.outcome(self._wire.finish(self.begin_commit(then)))

    def begin_commit(self, then: Sequence[Statement] = ()) -> Exchange:
        """Begins what `commit` does; once the exchange is at its end, `outcome` says what became of it."""
        if self._at_once:
            sent = [*self._expected_changes(), *(self._unsent or ())]
            # What is sent in one piece is one transaction by itself; but what comes `then` must not be in it.
            self._is_implicit = not then
            if then:
                sent.insert(0, (_BEGIN, {}))
        else:
            self.flush()
            sent = list(self._unsent or ())
            self._is_implicit = False
        self._before_commit = len(sent)
        if not self._is_implicit:
            sent.append((_COMMIT, {}))
        self._wire.check()
        self.is_commit_sent = True
        return self._wire.begin([*sent, *then])

    def outcome(self, exchange: Exchange) -> tuple[bool, psycopg.Error | None]:
        """As `commit`."""
        results, error = exchange.results, exchange.error
        if len(results) < self._before_commit and error is not None and is_of_postgresql(error):
            self.is_commit_sent = False  # PostgreSQL refused something before it, and skipped the rest
        if self._is_implicit:
            return exchange.is_done, error
        # To a COMMIT of a failed transaction PostgreSQL answers ROLLBACK.
        answer = results[self._before_commit].command_status if len(results) > self._before_commit else None
        return answer == b"COMMIT", error

    def _expected_changes(self) -> Iterator[Statement]:
        """What locks each expected study, the first by waiting for it, and writes what was kept of it."""
        statements = self._statements
        for i, (study_id, revision) in enumerate(self._expectations.items()):
            is_changed = study_id in self._changed
            changes = {"id": study_id, **codec.study_changes(self._studies[study_id])} if is_changed else {}
            if is_changed and not i:
                yield statements.update_study_as_expected, {**changes, "expected": revision}
                continue
            lock = statements.try_lock_study_as_expected if i else statements.lock_study_as_expected
            yield lock, {"id": study_id, "revision": revision}
            if is_changed:
                yield statements.update_study, changes

    @property
    def socket(self) -> int:
        """The number of the connection's socket."""
        return self._wire.socket

    def _run(self, statement: str, values: Mapping[str, Any]) -> None:
        if self._unsent is None:
            super()._run(statement, values)
        else:
            self._unsent.append((statement, values))

    def _all(self, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
        if self._at_once:
            raise NotAtHand
        if self._unsent is None:
            return super()._all(statement, values)
        results, error = self._wire.run([*self._unsent, (statement, values)])
        self._unsent.clear()
        if error is not None:
            raise translated(error) from error
        return rows(results[-1])

    def changed(self) -> dict[int, int]:
        """The revisions of the studies that this transaction changed, by id; 0 of a deleted one."""
        return dict(self._revisions)

    def committed(self) -> None:
        """Remembers what this transaction changed, which is durable now."""
        trials = {key: self._trials[key] for key in self._changed_trials}
        self._knowledge.committed(self._revisions, trials, self._studies, self._lasts)

    def others_revision(self, study_id: int) -> int:
        """A revision of the locked study after which every change was made by this server."""
        return self._knowledge.others_revision(study_id)

    # Studies

    def study(self, project: str, name: str) -> Study | None:
        """The study, or None."""
        study_id = self._ids.get((project, name))
        return super().study(project, name) if study_id is None else self._studies[study_id]

    def study_by_id(self, study_id: int) -> Study | None:
        """The study with this internal id, or None."""
        return self._studies.get(study_id) or super().study_by_id(study_id)

    def lock_study(self, project: str, name: str) -> Study | None:
        """The study, kept from other writers until the commit, or None. Raises Busy."""
        study_id = self._ids.get((project, name))
        if study_id is not None:
            return self._studies[study_id]
        if self._expecting and (expected := self._knowledge.expected_by_name(project, name)) is not None:
            return self._expect(expected)
        key = {"project": project, "name": name}
        found = self._locked((project, name), self._statements.lock_study, self._statements.try_lock_study, key)
        if found is None and self._holding and (there := super().study(project, name)) is not None:
            self._put_off(there)
        return found

    def lock_study_by_id(self, study_id: int) -> Study | None:
        """As `lock_study`, by internal id."""
        if study_id in self._studies:
            return self._studies[study_id]
        if self._expecting and (expected := self._knowledge.expected(study_id)) is not None:
            return self._expect(expected)
        key = {"id": study_id}
        found = self._locked(study_id, self._statements.lock_study_by_id, self._statements.try_lock_study_by_id, key)
        if found is None and self._holding and (there := super().study_by_id(study_id)) is not None:
            self._put_off(there)
        return found

    @property
    def _holding(self) -> bool:
        """Whether others may wait for this transaction, so that it must not wait for them."""
        return bool(self._studies or self._written)

    def _locked(self, key: object, wait: str, do_not_wait: str, values: Mapping[str, Any]) -> Study | None:
        if key in self._busy:
            raise Busy
        self.waits_for = key
        study = self._study(do_not_wait if self._holding else wait, values)
        if study is not None:
            self._knowledge.locked(study)
        return self._kept(study)

    def _expect(self, study: Study) -> Study:
        """Locks a study as it is believed to be, without waiting for the answer."""
        statements = self._statements
        lock = statements.try_lock_study_as_expected if self._holding else statements.lock_study_as_expected
        if not self._at_once:
            self._run(lock, {"id": study.id, "revision": study.revision})
        self._expectations[study.id] = study.revision
        self._kept(study)
        return study

    def _put_off(self, study: Study) -> None:
        self._busy |= {study.id, (study.project, study.name)}
        raise Busy

    def insert_study(self, study: Study) -> Study:
        """Adds a study; the result carries its id."""
        self._written += 1
        stored = super().insert_study(study)
        self._kept(stored)
        self._revisions[stored.id] = stored.revision
        return stored

    def update_study(self, study: Study) -> None:
        """Keeps what is to be written. Raises LookupError if there is no such study."""
        if self.lock_study_by_id(study.id) is None:
            raise LookupError(f"there is no study with id {study.id}")
        self._keep_change(study)
        self._revisions[study.id] = study.revision

    def delete_study(self, study_id: int) -> None:
        """Removes a study with all that belongs to it."""
        super().delete_study(study_id)
        self._changed_trials = {key for key in self._changed_trials if key[0] != study_id}
        self._trials = {key: trial for key, trial in self._trials.items() if key[0] != study_id}
        self._lasts = {key: last for key, last in self._lasts.items() if key[0] != study_id}
        self._revisions[study_id] = 0
        self._written += 1

    # Trials and the rest

    def _require_one(self, otherwise: str) -> None:
        """Nothing: the rows that are changed are known to be there, and the count is not known before the commit."""

    def trial(self, study_id: int, number: int, *, full: bool = True) -> Trial | None:
        """The trial, or None."""
        if full or study_id not in self._studies:
            return super().trial(study_id, number, full=full)
        key = (study_id, number)
        found = (
            self._trials.get(key)
            or self._knowledge.trial(study_id, number)
            or super().trial(study_id, number, full=False)
        )
        if found is not None:
            self._trials[key] = found
        return found

    def trials(
        self,
        study_id: int,
        *,
        states: Collection[TrialState] = (),
        after_number: int = 0,
        after_revision: int = 0,
        limit: int,
        full: bool = False,
    ) -> list[Trial]:
        """Trials by number after `after_number`, of those that changed after a revision."""
        found = super().trials(
            study_id, states=states, after_number=after_number, after_revision=after_revision, limit=limit, full=full
        )
        if study_id in self._studies and not full:
            self._trials.update(((study_id, trial.number), trial) for trial in found)
        return found

    def insert_trials(self, study_id: int, trials: Sequence[Trial]) -> None:
        """Adds trials with their intermediate measurements."""
        self._written += 1
        super().insert_trials(study_id, trials)
        for trial in trials:
            self._note(study_id, replace(trial, intermediate=()))
            if study_id in self._studies and not trial.intermediate:
                self._lasts[study_id, trial.number] = None

    def update_trial(self, study_id: int, trial: Trial) -> None:
        """Writes what can change. Raises LookupError if there is no such trial."""
        known = self.trial(study_id, trial.number, full=False)
        if known is None:
            raise LookupError(f"there is no trial {trial.number} in the study with id {study_id}")
        self._written += 1
        super().update_trial(study_id, trial)
        self._note(study_id, as_updated(known, trial))

    def _note(self, study_id: int, trial: Trial) -> None:
        if study_id in self._studies:
            self._trials[study_id, trial.number] = trial
            self._changed_trials.add((study_id, trial.number))

    def insert_measurement(self, study_id: int, number: int, measurement: Measurement, revision: int) -> None:
        """Adds an intermediate measurement; its step is set and new."""
        self._written += 1
        super().insert_measurement(study_id, number, measurement, revision)
        if (known := self._known_last(study_id, number)) is not None:
            last = known[0]
            is_highest = last is None or (last.step or 0) < (measurement.step or 0)
            self._lasts[study_id, number] = measurement if is_highest else last

    def last_measurement(self, study_id: int, number: int) -> Measurement | None:
        """The intermediate measurement with the highest step, or None."""
        known = self._known_last(study_id, number)
        last = super().last_measurement(study_id, number) if known is None else known[0]
        if study_id in self._studies:
            self._lasts[study_id, number] = last
        return last

    def _known_last(self, study_id: int, number: int) -> tuple[Measurement | None] | None:
        """What `last_measurement` would read, if that is known."""
        key = (study_id, number)
        if key in self._lasts:
            return (self._lasts[key],)
        return self._knowledge.last_measurement(study_id, number) if study_id in self._studies else None

    def request(self, scope: str, request_id: str) -> StoredRequest | None:
        """What the request_id did in this scope, or None."""
        if self._at_once:
            self._new_requests.add((scope, request_id))
            return None
        return super().request(scope, request_id)

    def insert_request(
        self, study_id: int | None, scope: str, request_id: str, stored: StoredRequest, time: datetime
    ) -> None:
        """Remembers what a request_id did."""
        self._written += 1
        self._new_requests.discard((scope, request_id))
        super().insert_request(study_id, scope, request_id, stored, time)

    def purge_requests(self, before: datetime, limit: int) -> int:
        """Forgets up to `limit` requests from before a time; returns how many."""
        self._written += 1
        return super().purge_requests(before, limit)

    def insert_token(self, token: Token) -> None:
        """Adds a bearer token."""
        self._written += 1
        super().insert_token(token)

    def revoke_token(self, token_id: str, time: datetime) -> bool:
        """Makes a token good for nothing; whether that changed anything."""
        self._written += 1
        return super().revoke_token(token_id, time)
