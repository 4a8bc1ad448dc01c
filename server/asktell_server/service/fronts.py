"""The Pareto fronts of studies with several objectives, kept and carried on.

A result never changes, so the front at a later revision is that of the front before and the results that came since. What is kept
of a study is its front; a history is read once, piece by piece, and then only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.optimizers import pareto
from asktell_server.storage.base import Snapshot

CAPACITY = 64
_PAGE = 1000


@dataclass(frozen=True)
class _Front:
    """The front at a revision: trial numbers, increasing, and their objectives, smaller is better."""

    revision: int
    numbers: tuple[int, ...]
    values: NDArray[np.float64]  # (numbers, objectives)

    def extended(self, revision: int, study: Study, trials: Sequence[Trial]) -> _Front:
        """The front with more trials, none of which is in it."""
        found = [
            (trial.number, [o.sign * trial.measurement.metrics[o.metric] for o in study.spec.objectives])
            for trial in trials
            if trial.state is TrialState.SUCCEEDED
            and trial.measurement is not None
            and study.spec.is_feasible(trial.measurement)
        ]
        numbers = np.array([*self.numbers, *(number for number, _ in found)], dtype=np.int64)
        values = np.concatenate([self.values, np.array([v for _, v in found]).reshape(-1, self.values.shape[1])])
        kept = pareto.front(values)
        kept = kept[np.argsort(numbers[kept])]
        return _Front(revision, tuple(numbers[kept].tolist()), values[kept])


class Fronts:
    """The fronts of the studies that were asked about last. May be used from several threads: at worst one is made twice."""

    def __init__(self) -> None:
        self._fronts: dict[int, _Front] = {}

    def of(self, tx: Snapshot, study: Study) -> Sequence[int]:
        """Trial numbers of the study's front, increasing. `study` is as `tx` sees it."""
        known = self._fronts.get(study.id)
        if known is None or known.revision > study.revision:
            front = self._read(tx, study)
        elif known.revision == study.revision:
            return known.numbers
        elif tx.count_changes(study.id, known.revision, _PAGE) < _PAGE:
            changed = tx.history(study.id, known.revision)
            new = [trial for trial in changed if (trial.finish_revision or 0) > known.revision]
            front = known.extended(study.revision, study, new)
        else:
            front = self._read(tx, study)
        if known is None or known.revision < study.revision:
            others = {study_id: kept for study_id, kept in self._fronts.items() if study_id != study.id}
            self._fronts = {**dict(list(others.items())[-(CAPACITY - 1) :]), study.id: front}
        return front.numbers

    @staticmethod
    def _read(tx: Snapshot, study: Study) -> _Front:
        front = _Front(study.revision, (), np.empty((0, len(study.spec.objectives))))
        after = 0
        while True:
            page = tx.trials(study.id, states=[TrialState.SUCCEEDED], after_number=after, limit=_PAGE)
            front = front.extended(study.revision, study, page)
            if len(page) < _PAGE:
                return front
            after = page[-1].number
