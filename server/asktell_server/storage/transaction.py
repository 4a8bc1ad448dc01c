"""The Transaction of `base` on one DBAPI cursor, in whatever transaction its connection is in.

Knows no database by name: statements come compiled for one dialect, errors are told apart by the driver's DBAPI
exception classes. Who begins and commits decides what `lock_study` waits for: on SQLite the transaction is the only
writer from its first statement; on PostgreSQL the statement's FOR UPDATE takes the row.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import ModuleType
from typing import Any, Protocol

from asktell_server.domain.access import Token
from asktell_server.domain.errors import ConcurrentUpdate, StorageUnavailable
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.storage import codec
from asktell_server.storage.base import StoredRequest
from asktell_server.storage.codec import Row
from asktell_server.storage.statements import Statements

# Numbers that one statement asks for at most.
NUMBERS_AT_ONCE = 256


class Cursor(Protocol):
    """What is used of a DBAPI cursor."""

    @property
    def rowcount(self) -> int:
        """Number of rows that the last statement changed."""

    def execute(self, statement: str, values: Mapping[str, Any], /) -> object:
        """Runs a statement."""

    def fetchall(self) -> list[Any]:
        """The rows that it found, as tuples."""


class SqlTransaction:
    """A consistent view that can be changed; see `base.Transaction` for what each method does.

    Any method raises StorageUnavailable when the database fails, and ConcurrentUpdate when a row is there already (or
    its parent is not) though the caller looked: another writer was faster.
    """

    def __init__(self, cursor: Cursor, statements: Statements, driver: ModuleType) -> None:
        self._cursor = cursor
        self._statements = statements
        self._driver = driver

    def _run(self, statement: str, values: Mapping[str, Any]) -> None:
        try:
            self._cursor.execute(statement, values)
        except self._driver.IntegrityError as error:
            raise ConcurrentUpdate(f"another writer interfered: {error}") from error
        except (self._driver.ProgrammingError, self._driver.DataError):
            raise
        except self._driver.DatabaseError as error:
            raise StorageUnavailable(f"the database failed: {error}") from error

    def _all(self, statement: str, values: Mapping[str, Any]) -> Sequence[Any]:
        self._run(statement, values)
        try:
            return self._cursor.fetchall()
        except self._driver.DatabaseError as error:  # a page beyond the first rows may be damaged
            raise StorageUnavailable(f"the database failed: {error}") from error

    def _one(self, statement: str, values: Mapping[str, Any]) -> Any:
        rows = self._all(statement, values)
        return rows[0] if rows else None

    def _require_one(self, otherwise: str) -> None:
        """Raises LookupError unless the last statement changed one row."""
        if self._cursor.rowcount != 1:
            raise LookupError(otherwise)

    # Studies

    def _study(self, statement: str, values: Mapping[str, Any]) -> Study | None:
        row = self._one(statement, values)
        return None if row is None else codec.study_from_row(row)

    def study(self, project: str, name: str) -> Study | None:
        """The study, or None."""
        return self._study(self._statements.study, {"project": project, "name": name})

    def study_by_id(self, study_id: int) -> Study | None:
        """The study with this internal id, or None."""
        return self._study(self._statements.study_by_id, {"id": study_id})

    def lock_study(self, project: str, name: str) -> Study | None:
        """The study, kept from other writers until the commit, or None."""
        return self._study(self._statements.lock_study, {"project": project, "name": name})

    def lock_study_by_id(self, study_id: int) -> Study | None:
        """As `lock_study`, by internal id."""
        return self._study(self._statements.lock_study_by_id, {"id": study_id})

    def others_revision(self, study_id: int) -> int:
        """0: there is no other server."""
        del study_id
        return 0

    def studies(
        self, project: str | None, states: Collection[StudyState], after: tuple[str, str] | None, limit: int
    ) -> list[Study]:
        """Studies by (project, name) after the pair `after`."""
        statement = self._statements.list_studies(project is not None, after is not None, len(states))
        after_project, after_name = after or ("", "")
        values: Row = {"project": project, "after_project": after_project, "after_name": after_name, "count": limit}
        values |= {f"state{i}": state.name for i, state in enumerate(states)}
        return [codec.study_from_row(row) for row in self._all(statement, values)]

    def count_studies(self, project: str | None, most: int) -> int:
        """Number of studies of a project, or in all if None; counted up to `most`."""
        statement = self._statements.count_studies if project is None else self._statements.count_studies_of_project
        return int(self._one(statement, {"project": project, "most": most})[0])

    def trial_counts(self) -> Mapping[TrialState, int]:
        """Number of trials in each state over all studies."""
        return dict(zip(TrialState, self._one(self._statements.trial_counts, {}), strict=True))

    def insert_study(self, study: Study) -> Study:
        """Adds a study; the result carries its id."""
        (study_id,) = self._one(self._statements.insert_study, codec.study_row(study))
        return replace(study, id=study_id)

    def update_study(self, study: Study) -> None:
        """Writes what can change. Raises LookupError if there is no such study."""
        self._run(self._statements.update_study, {"id": study.id, **codec.study_changes(study)})
        self._require_one(f"there is no study with id {study.id}")

    def delete_study(self, study_id: int) -> None:
        """Removes a study with all that belongs to it."""
        self._run(self._statements.delete_study, {"id": study_id})

    # Trials

    def trial(self, study_id: int, number: int, *, full: bool = True) -> Trial | None:
        """The trial, with its intermediate measurements by step if `full`, or None."""
        key = {"study_id": study_id, "number": number}
        row = self._one(self._statements.trial, key)
        if row is None:
            return None
        steps = self._all(self._statements.measurements, key) if full else ()
        return codec.trial_from_row(row, tuple(codec.measurement_from_text(text) for (text,) in steps))

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
        values: Row = {"study_id": study_id, "after_number": after_number, "after": after_revision, "count": limit}
        values |= {f"state{i}": state.name for i, state in enumerate(states)}
        rows = self._all(self._statements.list_trials(len(states), changed=after_revision > 0), values)
        return self._with_measurements(study_id, rows) if full else [codec.trial_from_row(row) for row in rows]

    def trials_by_number(self, study_id: int, numbers: Collection[int], *, full: bool = True) -> list[Trial]:
        """The trials with these numbers, by number, with their intermediate measurements if `full`."""
        rows = self._rows_by_number(study_id, numbers)
        return self._with_measurements(study_id, rows) if full else [codec.trial_from_row(row) for row in rows]

    def changed_trials(self, study_id: int, after_revision: int) -> list[Trial]:
        """Trials that changed, or got a measurement, after a revision; with the measurements added after it."""
        values = {"study_id": study_id, "after": after_revision}
        rows = list(self._all(self._statements.changed_trials, values))
        added = _by_number(self._all(self._statements.changed_measurements, values))
        only_measured = added.keys() - {row[0] for row in rows}
        if only_measured:
            rows = sorted([*rows, *self._rows_by_number(study_id, only_measured)])
        return [codec.trial_from_row(row, tuple(added.get(row[0], ()))) for row in rows]

    def count_changes(self, study_id: int, after_revision: int, most: int) -> int:
        """Number of trials and of intermediate measurements that changed after a revision, each counted up to `most`."""
        values = {"study_id": study_id, "after": after_revision, "most": most}
        return sum(
            int(self._one(statement, values)[0])
            for statement in (self._statements.count_changed_trials, self._statements.count_changed_measurements)
        )

    def weigh_changes(self, study_id: int, after_revision: int) -> int:
        """About how many bytes the trials that changed after a revision have in the database."""
        return int(self._one(self._statements.weigh_changed_trials, {"study_id": study_id, "after": after_revision})[0])

    def history(self, study_id: int, after_revision: int) -> list[Trial]:
        """Trials that changed after a revision, by number, without intermediate measurements."""
        values = {"study_id": study_id, "after": after_revision}
        return [codec.trial_from_row(row) for row in self._all(self._statements.changed_trials, values)]

    def expired_leases(self, now: datetime, limit: int, skip: int = 0) -> list[tuple[int, int]]:
        """(study id, trial number) of RUNNING trials whose lease ran out before `now`, longest first, without the first `skip`."""
        values = {"now": codec.time_to_us(now), "count": limit, "skip": skip}
        return [(row[0], row[1]) for row in self._all(self._statements.expired_leases, values)]

    def count_given_up(self, study_id: int, max_retries: int, but: int) -> int:
        """Number of trials that were given up (`Trial.is_given_up`), without counting trial number `but`."""
        values = {"study_id": study_id, "max_retries": max_retries, "but": but}
        return int(self._one(self._statements.count_given_up, values)[0])

    def retries(self, study_id: int, after_number: int) -> dict[int, int]:
        """Which trial each repeats, of those with a higher number than `after_number` that wait or were lost."""
        return dict(self._all(self._statements.retries, {"study_id": study_id, "after_number": after_number}))

    def insert_trials(self, study_id: int, trials: Sequence[Trial]) -> None:
        """Adds trials with their intermediate measurements."""
        for trial in trials:
            self._run(self._statements.insert_trial, codec.trial_row(study_id, trial))
            for measurement in trial.intermediate:
                self.insert_measurement(study_id, trial.number, measurement, trial.revision)

    def update_trial(self, study_id: int, trial: Trial) -> None:
        """Writes what can change. Raises LookupError if there is no such trial."""
        self._run(self._statements.update_trial, codec.trial_changes(study_id, trial))
        self._require_one(f"there is no trial {trial.number} in the study with id {study_id}")

    def _rows_by_number(self, study_id: int, numbers: Collection[int]) -> list[Any]:
        return [
            row
            for values in _chunks(study_id, numbers)
            for row in self._all(self._statements.trials_by_number(len(values) - 1), values)
        ]

    def _with_measurements(self, study_id: int, rows: Sequence[Any]) -> list[Trial]:
        added: dict[int, list[Measurement]] = {}
        for values in _chunks(study_id, [row[0] for row in rows]):
            added |= _by_number(self._all(self._statements.measurements_by_number(len(values) - 1), values))
        return [codec.trial_from_row(row, tuple(added.get(row[0], ()))) for row in rows]

    # Measurements

    def last_measurement(self, study_id: int, number: int) -> Measurement | None:
        """The intermediate measurement with the highest step, or None."""
        return self._measurement(self._statements.last_measurement, {"study_id": study_id, "number": number})

    def measurement_at(self, study_id: int, number: int, step: int) -> Measurement | None:
        """The intermediate measurement at a step, or None."""
        key = {"study_id": study_id, "number": number, "step": step}
        return self._measurement(self._statements.measurement_at, key)

    def _measurement(self, statement: str, values: Mapping[str, Any]) -> Measurement | None:
        row = self._one(statement, values)
        return None if row is None else codec.measurement_from_text(row[0])

    def measurements(
        self, study_id: int, number: int, *, after_step: int, after_revision: int, until_revision: int, limit: int
    ) -> list[Measurement]:
        """Intermediate measurements of a trial by step, after a step, that were added after one revision and until another."""
        values = {
            "study_id": study_id,
            "number": number,
            "after_step": after_step,
            "after": after_revision,
            "until": until_revision,
            "count": limit,
        }
        rows = self._all(self._statements.measurements_after, values)
        return [codec.measurement_from_text(text) for (text,) in rows]

    def count_measurements(self, study_id: int, number: int) -> int:
        """Number of intermediate measurements of a trial."""
        return int(self._one(self._statements.count_measurements, {"study_id": study_id, "number": number})[0])

    def insert_measurement(self, study_id: int, number: int, measurement: Measurement, revision: int) -> None:
        """Adds an intermediate measurement; its step is set and new."""
        row = {
            "study_id": study_id,
            "number": number,
            "step": measurement.step,
            "revision": revision,
            "measurement": codec.measurement_to_text(measurement),
        }
        self._run(self._statements.insert_measurement, row)

    # Requests

    def request(self, scope: str, request_id: str) -> StoredRequest | None:
        """What the request_id did in this scope, or None."""
        row = self._one(self._statements.request, {"scope": scope, "request_id": request_id})
        return None if row is None else codec.request_from_row(row)

    def insert_request(
        self, study_id: int | None, scope: str, request_id: str, stored: StoredRequest, time: datetime
    ) -> None:
        """Remembers what a request_id did."""
        self._run(self._statements.insert_request, codec.request_row(study_id, scope, request_id, stored, time))

    def purge_requests(self, before: datetime, limit: int) -> int:
        """Forgets up to `limit` requests from before a time, the oldest first; returns how many."""
        return len(self._all(self._statements.purge_requests, {"before": codec.time_to_us(before), "count": limit}))

    # Tokens

    def token(self, token_id: str) -> Token | None:
        """The bearer token, or None."""
        row = self._one(self._statements.token, {"id": token_id})
        return None if row is None else codec.token_from_row(row)

    def tokens(self) -> list[Token]:
        """All bearer tokens by time of creation, without those that cannot be read and are revoked."""
        found = []
        for row in self._all(self._statements.tokens, {}):
            try:
                found.append(codec.token_from_row(row))
            except codec.UNREADABLE:
                if codec.is_active_token(row):
                    raise
        return found

    def insert_token(self, token: Token) -> None:
        """Adds a bearer token."""
        self._run(self._statements.insert_token, codec.token_row(token))

    def revoke_token(self, token_id: str, time: datetime) -> bool:
        """Makes a token good for nothing; whether that changed anything."""
        values = {"id": token_id, "revoke_time": codec.time_to_us(time)}
        return bool(self._all(self._statements.revoke_token, values))


def _chunks(study_id: int, numbers: Collection[int]) -> Iterator[dict[str, int]]:
    """Parameters for statements over `numbers`, in order; padded to powers of two, so that few statements serve all."""
    ordered = sorted(set(numbers))
    for start in range(0, len(ordered), NUMBERS_AT_ONCE):
        part = ordered[start : start + NUMBERS_AT_ONCE]
        size = 1 << (len(part) - 1).bit_length()
        part += [part[-1]] * (size - len(part))
        yield {"study_id": study_id, **{f"number{i}": number for i, number in enumerate(part)}}


def _by_number(rows: Sequence[Any]) -> dict[int, list[Measurement]]:
    grouped: dict[int, list[Measurement]] = {}
    for number, text in rows:
        grouped.setdefault(number, []).append(codec.measurement_from_text(text))
    return grouped
