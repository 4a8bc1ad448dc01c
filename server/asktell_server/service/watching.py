"""The use case WatchStudy: everything that changed after a revision, then every further change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from asktell.names import StudyName
from asktell_server.domain.errors import Draining, InvalidArgument, RevisionInFuture, StudyNotFound, Violation
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial
from asktell_server.engine.admission import Queue
from asktell_server.observe.metrics import Metrics
from asktell_server.service.commits import Bell
from asktell_server.service.studies import require
from asktell_server.storage.base import Snapshot, Storage

PROGRESS_S = 10.0
_TRIALS_PER_MESSAGE = 200


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

    def __init__(self, storage: Storage, bell: Bell, metrics: Metrics, watches: Queue) -> None:
        self._watches = watches
        self._storage = storage
        self._bell = bell
        self._metrics = metrics

    async def watch(self, name: StudyName, after_revision: int) -> AsyncIterator[Seen]:
        """Yields changes until the consumer stops. Raises StudyNotFound, also when the study is deleted; RevisionInFuture."""
        violations = after_violations(after_revision)
        if violations:
            raise InvalidArgument(violations)
        study = require(await self._storage.read(lambda tx: tx.study(name.project, name.study)), name)
        if after_revision > study.revision:
            raise RevisionInFuture(
                f"study {name} is at revision {study.revision}, before {after_revision}; it may have been made anew: "
                "begin again with 0",
                {"revision": str(study.revision)},
            )
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
                study, trials = await self._changes(name, study.id, seen)
                if study.revision > seen:
                    for start in range(_TRIALS_PER_MESSAGE, len(trials) + 1, _TRIALS_PER_MESSAGE):
                        if start < len(trials):
                            yield Seen(seen, study, trials[start - _TRIALS_PER_MESSAGE : start])
                    rest = (len(trials) - 1) // _TRIALS_PER_MESSAGE * _TRIALS_PER_MESSAGE if trials else 0
                    seen = study.revision
                    yield Seen(seen, study, trials[rest:])
                try:
                    async with asyncio.timeout(PROGRESS_S):
                        await changed.wait()
                except TimeoutError:
                    yield Seen(seen)
        finally:
            self._bell.leave(study.id, changed)
            self._metrics.watching(-1)

    async def _changes(self, name: StudyName, study_id: int, seen: int) -> tuple[Study, list[Trial]]:
        def work(tx: Snapshot) -> tuple[Study, list[Trial]] | None:
            study = tx.study_by_id(study_id)
            if study is None:
                return None
            return study, tx.changed_trials(study_id, seen) if study.revision > seen else []

        found = await self._storage.read(work)
        if found is None:
            raise StudyNotFound(str(name))
        return found
