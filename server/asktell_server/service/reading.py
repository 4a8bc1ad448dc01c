"""Trials with as many of their intermediate measurements as fit a reply.

Clients of most languages take messages of 4 MiB unless told otherwise, and a trial may have 100,000 measurements. So a reply has a
budget in bytes; a trial whose measurements go beyond it is cut, and says so, and the rest is read from the last step on. Nothing
here holds more than a budget and a page of the database in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import INT64_MAX
from asktell_server.domain.trial import Trial
from asktell_server.storage.base import Snapshot

REPLY_BYTES = 2 * 1024 * 1024
LARGEST_REPLY_BYTES = 4 * 1024 * 1024
# Rows that are read from the database at once.
_PAGE = 500


@dataclass
class Budget:
    """Bytes that are left of a reply."""

    left: int = REPLY_BYTES

    def spend(self, size: int) -> bool:
        """Takes `size` bytes; False, and nothing is taken, if there are not so many left."""
        if size > self.left:
            return False
        self.left -= size
        return True


def measurement_bytes(measurement: Measurement) -> int:
    """About what a measurement weighs in a reply; names of metrics are ASCII."""
    return 32 + sum(16 + len(name) for name in (*measurement.metrics, *measurement.standard_errors))


def trial_bytes(trial: Trial) -> int:
    """About what a trial weighs in a reply, without its intermediate measurements."""
    texts = [trial.notes, trial.state_reason, trial.worker, trial.suggestion.detail]
    texts += [text for pair in trial.labels.items() for text in pair]
    texts += [value for value in trial.point.values() if isinstance(value, str)]
    names = [*trial.point, *trial.suggestion.predictions, *trial.suggestion.predictions]
    fixed = 512 + sum(16 + len(name) for name in names) + sum(4 + len(text.encode()) for text in texts)
    return fixed + (0 if trial.measurement is None else measurement_bytes(trial.measurement))


def fitting_bare(trials: Sequence[Trial]) -> list[Trial]:
    """The first of the trials, without their intermediate measurements, that fit one reply; the first one in any case."""
    budget = Budget()
    count = 0
    while count < len(trials) and (budget.spend(trial_bytes(trials[count])) or not count):
        count += 1
    return list(trials[:count])


def filled(
    tx: Snapshot,
    study_id: int,
    trial: Trial,
    budget: Budget,
    *,
    after_step: int = -1,
    after_revision: int = 0,
    until_revision: int = INT64_MAX,
) -> Trial:
    """The trial with its intermediate measurements after a step, of these revisions, as far as the budget goes."""
    found: list[Measurement] = []
    while True:
        page = tx.measurements(
            study_id,
            trial.number,
            after_step=after_step,
            after_revision=after_revision,
            until_revision=until_revision,
            limit=_PAGE,
        )
        for measurement in page:
            if not budget.spend(measurement_bytes(measurement)):
                return replace(trial, intermediate=tuple(found), is_cut=True)
            found.append(measurement)
        if len(page) < _PAGE:
            return replace(trial, intermediate=tuple(found))
        after_step = page[-1].step or 0


def fitting(tx: Snapshot, study_id: int, trials: Iterable[Trial]) -> Iterator[Trial]:
    """The first of the trials, with all their measurements, that fit one reply; the first one in any case, cut if need be."""
    budget = Budget()
    for i, trial in enumerate(trials):
        if not budget.spend(trial_bytes(trial)) and i:
            return
        full = filled(tx, study_id, trial, budget)
        if full.is_cut and i:
            return
        yield full
