"""As many studies, or trials with their intermediate measurements, as fit a reply.

Clients of most languages take messages of 4 MiB unless told otherwise, and a trial may have 100,000 measurements. So a reply has a
budget in bytes; a trial whose measurements go beyond it is cut, and says so, and the rest is read from the last step on. Only a
repeated call, whose answer must hold what the first one did, is answered with up to what clients take.

A study and a trial may have a megabyte each, so that a page of them is not read at once either, but in pieces as long as the budget
lasts. Nothing here holds more than a budget and a piece of the database in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import INT64_MAX
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.storage.base import Snapshot

REPLY_BYTES = 2 * 1024 * 1024
LARGEST_REPLY_BYTES = 4 * 1024 * 1024
# Measurements that are read from the database at once.
_PAGE = 500
# Studies or trials that are: few at first, and many only where those few did not use up a reply.
_FIRST_PIECE = 16
_PIECE = 128
# What a trial may get once it was answered with, in the order in which it is left out.
_LATER: Sequence[Mapping[str, Any]] = ({"notes": "", "labels": {}}, {"state_reason": "", "measurement": None})


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


def pieces(limit: int) -> Iterator[int]:
    """How many rows to read one time after the other, for `limit` in all."""
    piece = _FIRST_PIECE
    while limit > 0:
        yield min(piece, limit)
        limit -= piece
        piece = _PIECE


def in_pieces(
    tx: Snapshot,
    study_id: int,
    *,
    states: Collection[TrialState] = (),
    after_number: int = 0,
    after_revision: int = 0,
    limit: int,
) -> Iterator[Trial]:
    """As `Snapshot.trials`, read as they are taken."""
    for count in pieces(limit):
        piece = tx.trials(
            study_id, states=states, after_number=after_number, after_revision=after_revision, limit=count
        )
        yield from piece
        if len(piece) < count:
            return
        after_number = piece[-1].number


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


def fitting(
    trials: Iterable[Trial], most: int, fill: Callable[[Trial, Budget], Trial] = lambda trial, _: trial
) -> tuple[list[Trial], bool]:
    """The first of the trials, `most` of them, that fit one reply, and whether there are more.

    `fill` adds their measurements, as far as the budget goes. The first trial comes in any case, cut if need be.
    """
    budget = Budget()
    found: list[Trial] = []
    for trial in trials:
        if len(found) == most or (not budget.spend(trial_bytes(trial)) and found):
            return found, True
        filled_up = fill(trial, budget)
        if filled_up.is_cut and found:
            return found, True
        found.append(filled_up)
    return found, False


def answered_again(tx: Snapshot, study_id: int, numbers: Sequence[int]) -> list[Trial]:
    """The trials that were a call's answer, as they are now, without their intermediate measurements.

    All of them, since a repeat must learn which they are. If they have outgrown what clients take, they come without what they
    may have got since: notes and labels, and if need be reasons and measurements.
    """
    found: list[Trial] = []
    left_out: Mapping[str, Any] = {}
    later = iter(_LATER)
    for start in range(0, len(numbers), _PIECE):
        piece = tx.trials_by_number(study_id, numbers[start : start + _PIECE], full=False)
        found += [replace(trial, **left_out) for trial in piece]
        while sum(map(trial_bytes, found)) > LARGEST_REPLY_BYTES and (more := next(later, None)):
            left_out = {**left_out, **more}
            found = [replace(trial, **left_out) for trial in found]
    return found
