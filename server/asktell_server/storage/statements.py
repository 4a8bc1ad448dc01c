"""Every statement that the store runs, written in SQLAlchemy Core and compiled once to the text of one dialect.

A statement is a string with named parameters, run on a DBAPI cursor with a mapping. SQLAlchemy's own execution costs a
multiple of what SQLite needs for such short statements; and the columns need no conversion (see `schema`), so that
nothing is lost by leaving it out.
"""

from __future__ import annotations

from functools import lru_cache

from sqlalchemy import (
    BigInteger,
    ClauseElement,
    ColumnElement,
    Dialect,
    Integer,
    Select,
    Table,
    and_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal_column,
    select,
    tuple_,
    update,
)

from asktell_server.domain.trial import SUPERSEDED, TrialState
from asktell_server.storage.codec import STUDY_COLUMNS, TOKEN_COLUMNS, TRIAL_COLUMNS
from asktell_server.storage.schema import IS_RUNNING, count_column, measurements, requests, studies, tokens, trials

# As literals: a number would become a parameter with a name of SQLAlchemy's own. Without an OFFSET it adds one for SQLite.
_ZERO, _ONE = literal_column("0", Integer), literal_column("1", Integer)
_IMMUTABLE = frozenset({"id", "study_id", "number", "project", "name", "spec", "create_time"}) | {
    "attempt",
    "retry_of",
    "parameters",
    "source",
    "predictions",
    "detail",
}


def _is(column: ColumnElement[int] | ColumnElement[str], name: str | None = None) -> ColumnElement[bool]:
    return column == bindparam(name or column.key)


def _in(column: ColumnElement[int] | ColumnElement[str], prefix: str, count: int) -> ColumnElement[bool]:
    return column.in_([bindparam(f"{prefix}{i}") for i in range(count)])


def _all(table: Table) -> dict[str, ColumnElement[object]]:
    return {column.name: bindparam(column.name) for column in table.c}


def _mutable(table: Table) -> dict[str, ColumnElement[object]]:
    return {name: value for name, value in _all(table).items() if name not in _IMMUTABLE}


class Statements:
    """The statements as text for one dialect. Attribute and method names say what a statement does."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        # `lru_cache` on the bound methods: one compilation for each shape that occurs.
        self.list_studies = lru_cache(maxsize=64)(self._list_studies)
        self.list_trials = lru_cache(maxsize=64)(self._list_trials)
        self.trials_by_number = lru_cache(maxsize=16)(self._trials_by_number)
        self.measurements_by_number = lru_cache(maxsize=16)(self._measurements_by_number)

        by_name = select(*STUDY_COLUMNS).where(_is(studies.c.project), _is(studies.c.name))
        by_id = select(*STUDY_COLUMNS).where(_is(studies.c.id))
        self.study = self._text(by_name)
        self.study_by_id = self._text(by_id)
        # SQLite has no FOR UPDATE and needs none (its transaction is the only writer): the dialect leaves it out.
        self.lock_study = self._text(by_name.with_for_update())
        self.lock_study_by_id = self._text(by_id.with_for_update())
        # The same without waiting: no row is found either when there is none or when another transaction holds it.
        self.try_lock_study = self._text(by_name.with_for_update(skip_locked=True))
        self.try_lock_study_by_id = self._text(by_id.with_for_update(skip_locked=True))
        # For who expects to find the study at a revision: if it is not, this divides by zero, which ends the transaction.
        expected = select(studies.c.id).where(_is(studies.c.id), _is(studies.c.revision))
        self.lock_study_as_expected = self._text(self._one_over(expected.with_for_update()))
        self.try_lock_study_as_expected = self._text(self._one_over(expected.with_for_update(skip_locked=True)))
        new_study = {name: value for name, value in _all(studies).items() if name != "id"}
        self.insert_study = self._text(insert(studies).values(new_study).returning(studies.c.id))
        self.update_study = self._text(update(studies).where(_is(studies.c.id)).values(_mutable(studies)))
        # The same with a lock as in `lock_study_as_expected`, for the revision `expected`.
        changed = (
            update(studies).where(_is(studies.c.id), _is(studies.c.revision, "expected")).values(_mutable(studies))
        )
        self.update_study_as_expected = self._text(
            select(_ONE // func.count()).select_from(changed.returning(studies.c.id).cte("changed"))
        )
        self.delete_study = self._text(delete(studies).where(_is(studies.c.id)))
        self.trial_counts = self._text(
            select(
                *(
                    cast(func.coalesce(func.sum(studies.c[count_column(state)]), _ZERO), BigInteger)
                    for state in TrialState
                )
            )
        )

        some = select(studies.c.id).limit(bindparam("most")).offset(_ZERO)
        self.count_studies = self._text(select(func.count()).select_from(some.subquery()))
        of_project = some.where(_is(studies.c.project))
        self.count_studies_of_project = self._text(select(func.count()).select_from(of_project.subquery()))

        of_study = _is(trials.c.study_id)
        self.trial = self._text(select(*TRIAL_COLUMNS).where(of_study, _is(trials.c.number)))
        self.changed_trials = self._text(
            select(*TRIAL_COLUMNS).where(of_study, trials.c.revision > bindparam("after")).order_by(trials.c.number)
        )
        self.expired_leases = self._text(
            select(trials.c.study_id, trials.c.number)
            .where(IS_RUNNING, trials.c.lease_expire_time < bindparam("now"))
            .order_by(trials.c.lease_expire_time, trials.c.study_id, trials.c.number)
            .limit(bindparam("count"))
            .offset(bindparam("skip"))
        )
        self.count_given_up = self._text(
            select(func.count()).where(
                of_study,
                trials.c.state == literal_column("'EXPIRED'"),
                trials.c.state_reason.not_like(literal_column(f"'{SUPERSEDED}%'")),
                trials.c.attempt > bindparam("max_retries"),
                trials.c.number != bindparam("but"),
            )
        )
        self.retries = self._text(
            select(trials.c.number, trials.c.retry_of).where(
                of_study,
                trials.c.state.in_([literal_column("'EXPIRED'"), literal_column("'WAITING'")]),
                trials.c.number > bindparam("after_number"),
                trials.c.retry_of.is_not(None),
            )
        )
        self.insert_trial = self._text(insert(trials).values(_all(trials)))
        self.update_trial = self._text(update(trials).where(of_study, _is(trials.c.number)).values(_mutable(trials)))

        of_trial = and_(_is(measurements.c.study_id), _is(measurements.c.number))
        step = measurements.c.step
        one = select(measurements.c.measurement).where(of_trial)
        self.measurements = self._text(one.order_by(step))
        self.last_measurement = self._text(one.order_by(step.desc()).limit(_ONE).offset(_ZERO))
        self.measurement_at = self._text(one.where(_is(step)))
        self.changed_measurements = self._text(
            select(measurements.c.number, measurements.c.measurement)
            .where(_is(measurements.c.study_id), measurements.c.revision > bindparam("after"))
            .order_by(measurements.c.number, step)
        )
        self.measurements_after = self._text(
            one.where(
                step > bindparam("after_step"),
                measurements.c.revision > bindparam("after"),
                measurements.c.revision <= bindparam("until"),
            )
            .order_by(step)
            .limit(bindparam("count"))
            .offset(_ZERO)
        )
        self.count_changed_trials = self._count_changes(trials)
        self.count_changed_measurements = self._count_changes(measurements)
        # What may be long in a trial.
        weight = func.length(trials.c.parameters) + func.length(trials.c.notes)
        self.weigh_changed_trials = self._text(
            select(cast(func.coalesce(func.sum(weight), _ZERO), BigInteger)).where(
                of_study, trials.c.revision > bindparam("after")
            )
        )
        self.count_measurements = self._text(select(func.count()).select_from(measurements).where(of_trial))
        self.insert_measurement = self._text(insert(measurements).values(_all(measurements)))

        key = tuple_(requests.c.scope, requests.c.request_id)
        self.request = self._text(
            select(requests.c.fingerprint, requests.c.response).where(_is(requests.c.scope), _is(requests.c.request_id))
        )
        self.insert_request = self._text(insert(requests).values(_all(requests)))
        oldest = (
            select(requests.c.scope, requests.c.request_id)
            .where(requests.c.time < bindparam("before"))
            .order_by(requests.c.time)
            .limit(bindparam("count"))
            .offset(_ZERO)
        )
        self.purge_requests = self._text(delete(requests).where(key.in_(oldest)).returning(requests.c.time))

        self.token = self._text(select(*TOKEN_COLUMNS).where(_is(tokens.c.id)))
        self.tokens = self._text(select(*TOKEN_COLUMNS).order_by(tokens.c.create_time, tokens.c.id))
        self.insert_token = self._text(insert(tokens).values(_all(tokens)))
        self.revoke_token = self._text(
            update(tokens)
            .where(_is(tokens.c.id), tokens.c.revoke_time.is_(None))
            .values({"revoke_time": bindparam("revoke_time")})
            .returning(tokens.c.id)
        )

    @staticmethod
    def _one_over(rows: Select[tuple[int]]) -> Select[int]:
        return select(_ONE // func.count()).select_from(rows.subquery())

    def _text(self, statement: ClauseElement) -> str:
        return str(statement.compile(dialect=self._dialect))

    def _count_changes(self, table: Table) -> str:
        """Number of rows of `study_id` with a revision after `after`, up to `most`."""
        changed = select(table.c.revision).where(_is(table.c.study_id), table.c.revision > bindparam("after"))
        return self._text(select(func.count()).select_from(changed.limit(bindparam("most")).offset(_ZERO).subquery()))

    def _list_studies(self, in_project: bool, after: bool, states: int) -> str:
        """Studies by (project, name), up to `count`; `project`, `after_project` + `after_name`, `state0`... if asked."""
        found: Select[tuple[object, ...]] = select(*STUDY_COLUMNS)
        if in_project:
            found = found.where(_is(studies.c.project))
        if after:
            pair = tuple_(bindparam("after_project"), bindparam("after_name"))
            found = found.where(tuple_(studies.c.project, studies.c.name) > pair)
        if states:
            found = found.where(_in(studies.c.state, "state", states))
        return self._text(found.order_by(studies.c.project, studies.c.name).limit(bindparam("count")).offset(_ZERO))

    def _list_trials(self, states: int, *, changed: bool = False) -> str:
        """Trials of `study_id` by number after `after_number`, up to `count`; in one of `state0`..., with a revision after `after`,
        if asked.
        """
        found = select(*TRIAL_COLUMNS).where(_is(trials.c.study_id), trials.c.number > bindparam("after_number"))
        if changed:
            found = found.where(trials.c.revision > bindparam("after"))
        if states:
            found = found.where(_in(trials.c.state, "state", states))
        return self._text(found.order_by(trials.c.number).limit(bindparam("count")).offset(_ZERO))

    def _trials_by_number(self, count: int) -> str:
        """Trials of `study_id` with one of `number0`..., by number."""
        return self._text(
            select(*TRIAL_COLUMNS)
            .where(_is(trials.c.study_id), _in(trials.c.number, "number", count))
            .order_by(trials.c.number)
        )

    def _measurements_by_number(self, count: int) -> str:
        """(number, measurement) of `study_id` and one of `number0`..., by number and step."""
        return self._text(
            select(measurements.c.number, measurements.c.measurement)
            .where(_is(measurements.c.study_id), _in(measurements.c.number, "number", count))
            .order_by(measurements.c.number, measurements.c.step)
        )
