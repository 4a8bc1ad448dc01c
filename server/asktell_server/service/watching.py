"""The use case WatchStudy: everything that changed after a revision, then every further change.

However long a history is, it is read and sent in pieces: what is in memory is bounded, and no reader of the database is held
while a client takes its time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from asktell.names import StudyName
from asktell_server.domain.errors import Draining, InvalidArgument, RevisionInFuture, StudyNotFound, Violation
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial
from asktell_server.engine.admission import Queue
from asktell_server.observe.metrics import Metrics
from asktell_server.service.commits import Bell
from asktell_server.service.reading import REPLY_BYTES, Budget, filled, in_pieces, measurement_bytes, trial_bytes
from asktell_server.service.reads import Reads
from asktell_server.service.studies import require
from asktell_server.storage.base import Snapshot

PROGRESS_S = 10.0
_TRIALS_PER_MESSAGE = 200
# More changes than so many are read piece by piece.
_FEW = 200


@dataclass(frozen=True)
class Seen:
    """All changes up to `revision` have been sent. `study` is None in a mere sign of life."""

    revision: int
    study: Study | None = None
    trials: Sequence[Trial] = ()


def after_violations(after_revision: int) -> list[Violation]:
    """What is wrong with the revision to begin after: it is negative."""
    if after_revision >= 0:
        return []
    return [Violation("after_revision", f"must be at least 0, not {after_revision}")]


class Watching:
    """The use case WatchStudy."""

    def __init__(self, reads: Reads, bell: Bell, metrics: Metrics, watches: Queue) -> None:
        self._watches = watches
        self._reads = reads
        self._bell = bell
        self._metrics = metrics

    async def watch(self, name: StudyName, after_revision: int) -> AsyncIterator[Seen]:
        """Yields changes until the consumer stops. Raises StudyNotFound, also when the study is deleted; RevisionInFuture, also when the
        database has lost commits whose changes were sent.
        """
        violations = after_violations(after_revision)
        if violations:
            raise InvalidArgument(violations)
        found = await self._reads.run(name.project, name.study, lambda tx: tx.study(name.project, name.study))
        study = require(found, name)
        _check_reached(name, study, after_revision)
        with self._watches.entered(name.project, name.study):
            async for seen in self._changes_of(name, study, after_revision):
                yield seen

    async def _changes_of(self, name: StudyName, study: Study, after_revision: int) -> AsyncIterator[Seen]:
        self._metrics.watching(1)
        changed = self._bell.listen(study.id)
        try:
            seen = after_revision
            while True:
                if self._bell.closed:
                    raise Draining("the server is stopping; watch again with the last revision seen")
                changed.clear()
                async for message in self._news(name, study.id, seen):
                    seen = message.revision
                    yield message
                try:
                    async with asyncio.timeout(PROGRESS_S):
                        await changed.wait()
                except TimeoutError:
                    yield Seen(seen)
        finally:
            self._bell.leave(study.id, changed)
            self._metrics.watching(-1)

    async def _news(self, name: StudyName, study_id: int, seen: int) -> AsyncIterator[Seen]:
        """All that changed after the revision `seen`, in messages of which only the last has a later revision."""
        until = 0
        at = _Position()
        while True:
            found = await self._reads.run_inside(
                name.project,
                name.study,
                partial(_read, study_id=study_id, seen=seen, until=until, at=at),
            )
            if found is None:
                raise StudyNotFound(str(name))
            study, trials, further = found
            _check_reached(name, study, max(seen, until))
            if study.revision == seen:
                return
            until = until or study.revision
            if further is None:
                yield Seen(until, study, trials)
                return
            if trials:
                yield Seen(seen, study, trials)
            at = further


def _check_reached(name: StudyName, study: Study, revision: int) -> None:
    if study.revision < revision:
        raise RevisionInFuture(
            f"study {name} is at revision {study.revision}, before {revision}; it may have been made anew, or the database "
            "restored: begin again with 0",
            {"revision": str(study.revision)},
        )


@dataclass(frozen=True)
class _Position:
    """How far the reading of changes has come: trials up to `number` are done, but for the measurements of it after `step`."""

    number: int = 0
    step: int | None = None


def _read(
    tx: Snapshot, study_id: int, seen: int, until: int, at: _Position
) -> tuple[Study, list[Trial], _Position | None] | None:
    """One message's worth of what changed after the revision `seen`, and from where to read on, None at the end.

    `until` is the study's revision when the reading began, 0 if it begins now. A trial may be sent as it is later; its
    measurements after `until` are left for the next time. A trial with many measurements is repeated with the next ones.
    """
    study = tx.study_by_id(study_id)
    if study is None:
        return None
    if study.revision <= seen:
        return study, [], None
    begins = not until
    until = until or study.revision
    few = begins and tx.count_changes(study_id, seen, _FEW) < _FEW
    if few and tx.weigh_changes(study_id, seen) <= REPLY_BYTES:
        changed = tx.changed_trials(study_id, seen)
        size = sum(trial_bytes(t) + sum(map(measurement_bytes, t.intermediate)) for t in changed)
        if size <= REPLY_BYTES:
            return study, changed, None
    budget, found = Budget(), []
    if at.step is not None:
        trial = tx.trial(study_id, at.number, full=False)
        assert trial is not None  # trials are never deleted but with their study
        filled_up = filled(tx, study_id, trial, budget, after_step=at.step, after_revision=seen, until_revision=until)
        found.append(filled_up)
        if filled_up.is_cut:
            return study, [replace(filled_up, is_cut=False)], _after(filled_up, at.step)
    rest = in_pieces(tx, study_id, after_number=at.number, after_revision=seen, limit=_TRIALS_PER_MESSAGE + 1)
    for i, trial in enumerate(rest):
        if i == _TRIALS_PER_MESSAGE or (found and not budget.spend(trial_bytes(trial))):
            return study, found, _Position(trial.number - 1)
        filled_up = filled(tx, study_id, trial, budget, after_revision=seen, until_revision=until)
        found.append(replace(filled_up, is_cut=False))
        if filled_up.is_cut:
            return study, found, _after(filled_up, -1)
    return study, found, None


def _after(trial: Trial, step: int) -> _Position:
    last = trial.intermediate[-1].step if trial.intermediate else step
    return _Position(trial.number, last)
