"""What a writer need not ask the database: studies, and on SQLite running trials, that nobody else can change.

Every work begins with its study and most end by changing it. Where one connection does all the writing (SQLite), what it has
seen cannot change behind its back; where there are more (PostgreSQL), what it has locked cannot until the commit. So
studies are kept, and of several changes within one commit only the last is written.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from types import ModuleType

from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.storage.statements import Statements
from asktell_server.storage.transaction import Cursor, SqlTransaction

CAPACITY = 1000
RUNNING_KEPT = 2000
"""Running trials that are kept: most of them are told soon."""
_IMMUTABLE = ("suggestion", "create_time", "attempt", "retry_of", "intermediate")


def as_updated(known: Trial, trial: Trial) -> Trial:
    """The trial `known` as it is in the database after `update_trial` with `trial`, without intermediate measurements if it had none."""
    return replace(trial, **{name: getattr(known, name) for name in _IMMUTABLE})


class KeepingTransaction(SqlTransaction):
    """A transaction that keeps studies: `_kept` makes it keep one. `flush` before each commit, `forget` after each rollback."""

    def __init__(self, cursor: Cursor, statements: Statements, driver: ModuleType) -> None:
        super().__init__(cursor, statements, driver)
        self._studies: OrderedDict[int, Study] = OrderedDict()
        self._ids: dict[tuple[str, str], int] = {}
        self._changed: set[int] = set()
        self._kept_changes = 0

    def flush(self) -> None:
        """Writes what was kept."""
        for study_id in self._changed:
            super().update_study(self._studies[study_id])
        self._changed.clear()

    def forget(self) -> None:
        """Forgets everything: it may never have been."""
        self._studies.clear()
        self._ids.clear()
        self._changed.clear()

    def studies(
        self, project: str | None, states: Collection[StudyState], after: tuple[str, str] | None, limit: int
    ) -> list[Study]:
        """Studies by (project, name) after the pair `after`."""
        self.flush()
        return super().studies(project, states, after, limit)

    def trial_counts(self) -> Mapping[TrialState, int]:
        """Number of trials in each state over all studies."""
        self.flush()
        return super().trial_counts()

    def delete_study(self, study_id: int) -> None:
        """Removes a study with all that belongs to it."""
        study = self._studies.pop(study_id, None)
        if study is not None:
            del self._ids[study.project, study.name]
            self._changed.discard(study_id)
        super().delete_study(study_id)

    def _kept(self, study: Study | None) -> Study | None:
        if study is not None:
            self._studies[study.id] = study
            self._ids[study.project, study.name] = study.id
        return study

    def _keep_change(self, study: Study) -> None:
        """Keeps what is to be written of a study that is kept."""
        self._studies[study.id] = study
        self._changed.add(study.id)
        self._kept_changes += 1


class CachingTransaction(KeepingTransaction):
    """The transaction of the only writer of a SQLite database."""

    def __init__(self, connection: sqlite3.Connection, statements: Statements) -> None:
        super().__init__(connection.cursor(), statements, sqlite3)
        self._connection = connection
        self._running: OrderedDict[tuple[int, int], Trial] = OrderedDict()

    @property
    def changes(self) -> int:
        """Grows with every change, written or kept."""
        return self._connection.total_changes + self._kept_changes

    def forget(self) -> None:
        """Forgets everything: it may never have been."""
        super().forget()
        self._running.clear()

    def flush(self) -> None:
        """Writes what was kept, and keeps no more studies and trials than it should."""
        super().flush()
        while len(self._running) > RUNNING_KEPT:
            self._running.popitem(last=False)
        while len(self._studies) > CAPACITY:
            _, study = self._studies.popitem(last=False)
            del self._ids[study.project, study.name]

    def study(self, project: str, name: str) -> Study | None:
        """The study, or None."""
        study_id = self._ids.get((project, name))
        if study_id is None:
            return self._kept(super().study(project, name))
        self._studies.move_to_end(study_id)
        return self._studies[study_id]

    def study_by_id(self, study_id: int) -> Study | None:
        """The study with this internal id, or None."""
        return self._studies.get(study_id) or self._kept(super().study_by_id(study_id))

    def lock_study(self, project: str, name: str) -> Study | None:
        """The study; a lone writer has no one to keep it from."""
        return self.study(project, name)

    def lock_study_by_id(self, study_id: int) -> Study | None:
        """As `lock_study`, by internal id."""
        return self.study_by_id(study_id)

    def update_study(self, study: Study) -> None:
        """Keeps what is to be written. Raises LookupError if there is no such study."""
        if self.study_by_id(study.id) is None:
            raise LookupError(f"there is no study with id {study.id}")
        self._keep_change(study)

    def delete_study(self, study_id: int) -> None:
        """Removes a study with all that belongs to it."""
        super().delete_study(study_id)
        for key in [key for key in self._running if key[0] == study_id]:
            del self._running[key]

    def trial(self, study_id: int, number: int, *, full: bool = True) -> Trial | None:
        """The trial, with its intermediate measurements by step if `full`, or None."""
        known = None if full else self._running.get((study_id, number))
        return known or super().trial(study_id, number, full=full)

    def insert_trials(self, study_id: int, trials: Sequence[Trial]) -> None:
        """Adds trials with their intermediate measurements."""
        super().insert_trials(study_id, trials)
        for trial in trials:
            if trial.state is TrialState.RUNNING:
                self._running[study_id, trial.number] = replace(trial, intermediate=())

    def update_trial(self, study_id: int, trial: Trial) -> None:
        """Writes what can change. Raises LookupError if there is no such trial."""
        super().update_trial(study_id, trial)
        known = self._running.pop((study_id, trial.number), None)
        if known is not None and trial.state is TrialState.RUNNING:
            self._running[study_id, trial.number] = as_updated(known, trial)
