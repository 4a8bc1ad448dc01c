"""One study in memory: a cache of the database that can be thrown away at any time.

The image holds what suggestions depend on: the observations in order, the pending points (those of WAITING and RUNNING
trials, and of those that were lost with their last retry), and the trial numbers that are reserved by asks whose transaction
is not through yet. Three counters say how current a suggestion is:

- `next_number` is the trial that the next suggestion would be for, reservations included;
- `version` counts results, expiries and trials that came from elsewhere: the events, other than suggestions themselves, after
  which a suggestion might be another one;
- `generation` counts how often reservations became void.

Reservations let asks of one study share a commit: each builds on those before it. If one fails, or its number goes to another
point, `generation` rises and all that were built on it are void, suggestions held or in the making included; their
transactions find another next number in the database and are tried again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from asktell_server.domain.explanation import ExplainRequest
from asktell_server.domain.space import Point
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Suggestion, Trial, TrialState
from asktell_server.engine.pool import Explaining
from asktell_server.optimizers.base import Observation, Optimizer, Proposal, SourceStudy


@dataclass(frozen=True)
class Held:
    """A suggestion made ahead: for which trial, at which version of the history, on which generation of reservations."""

    number: int
    version: int
    generation: int
    suggestion: Suggestion


@dataclass(frozen=True)
class Reservation:
    """Suggestions for the trials `first`, `first` + 1, ..., not yet in the database.

    `is_end`: the space has no other point, whatever becomes of other reservations.
    """

    study_id: int
    generation: int
    first: int
    suggestions: tuple[Suggestion, ...]
    is_end: bool = False


@dataclass
class Computation:
    """A suggestion in the making in a compute process."""

    number: int
    version: int
    generation: int
    future: asyncio.Future[Proposal | None]
    waiters: int = 0


GIVEN_UP = 50


@dataclass
class SharedExplanation:
    """An explanation in the making, and how many wait for it."""

    making: Explaining
    waiters: int = 0


class HostedStudy:
    """The image of one study; see the head of this module."""

    def __init__(self, study: Study, optimizer: Optimizer, sources: Sequence[SourceStudy] = ()) -> None:
        self.study = study
        self.optimizer = optimizer
        self.sources = sources
        self.stale = True
        self.observations: list[Observation] = []
        self.unfinished: dict[int, Point] = {}
        self.given_up: set[int] = set()
        """Those of `unfinished` that were lost with their last retry."""
        self.reserved: dict[int, Point] = {}
        self.version = 0
        self.generation = 0
        self.held: Held | None = None
        self.computation: Computation | None = None
        self.explanations: dict[tuple[int, ExplainRequest], SharedExplanation] = {}
        """Those in the making, by number of observations and request."""
        self.turn = asyncio.Lock()
        self._applied_revision = 0
        self._seen_revision = 0

    @property
    def applied_revision(self) -> int:
        """The image holds everything up to this revision."""
        return self._applied_revision

    @property
    def known_revision(self) -> int:
        """The study has been at this revision, as far as this server knows."""
        return max(self._applied_revision, self._seen_revision)

    @property
    def next_number(self) -> int:
        """The trial that the next suggestion is for."""
        return self.study.next_number + len(self.reserved)

    @property
    def size(self) -> int:
        """How many trials the image holds."""
        return len(self.observations) + len(self.unfinished)

    def pending(self) -> list[Point]:
        """Points that are being evaluated or about to be, by trial number, with those that were given up.

        Of an infinite space the last `GIVEN_UP` of these are enough: it has room for others anyway, and each costs an ask time.
        """
        forgotten: list[int] = []
        if len(self.given_up) > GIVEN_UP and self.study.spec.space.cardinality is None:
            forgotten = sorted(self.given_up)[:-GIVEN_UP]
        unfinished = dict(self.unfinished)
        for number in forgotten:
            del unfinished[number]
        return [*unfinished.values(), *self.reserved.values()]

    def is_current(self, held: Held | Computation, since_version: int, max_lag: int) -> bool:
        """Whether a suggestion may answer an ask that came when the history was at `since_version`."""
        return (
            held.number == self.next_number
            and held.generation == self.generation
            and held.version >= since_version - max_lag
        )

    def reserve(self, suggestion: Suggestion, before: Reservation | None = None) -> Reservation:
        """Takes the next number for this suggestion, added to a reservation that `is_last`."""
        number = self.next_number
        self.reserved[number] = suggestion.point
        if before is not None:
            return replace(before, suggestions=(*before.suggestions, suggestion))
        return Reservation(self.study.id, self.generation, number, (suggestion,))

    def ended(self, reservation: Reservation | None) -> Reservation:
        """The reservation, empty for None, now that beside all that is reserved no point is free."""
        if reservation is None:
            return Reservation(self.study.id, self.generation, self.next_number, ())
        stands_alone = self.is_last(reservation) and len(self.reserved) == len(reservation.suggestions)
        return replace(reservation, is_end=stands_alone)

    def is_last(self, reservation: Reservation) -> bool:
        """Whether the reservation stands and the next number is the one that follows it."""
        following = reservation.first + len(reservation.suggestions)
        return reservation.generation == self.generation and self.next_number == following

    def release(self, reservation: Reservation) -> None:
        """Gives back numbers that were not used; voids what was built on them."""
        if reservation.generation == self.generation and any(
            reservation.first + i in self.reserved for i in range(len(reservation.suggestions))
        ):
            self._void()

    def drop_explanation(self, key: tuple[int, ExplainRequest], shared: SharedExplanation) -> None:
        """Nobody can join it any more."""
        if self.explanations.get(key) is shared:
            del self.explanations[key]

    def _void(self) -> None:
        self.generation += 1
        self.reserved.clear()
        self.held = None

    def applied(self, study: Study, trials: Iterable[Trial]) -> None:
        """Takes over a commit of this server. If one before it is missing, the image is stale until it catches up."""
        if study.revision <= self._applied_revision:
            return
        self._seen_revision = max(self._seen_revision, study.revision)
        if study.revision != self._applied_revision + 1:
            self.stale = True
            return
        self._take(study, trials)

    def overtaken(self, revision: int) -> None:
        """Takes note of a commit of another server: the image is stale until it catches up, unless it is there already."""
        if revision > self._applied_revision:
            self._seen_revision = max(self._seen_revision, revision)
            self.stale = True

    def caught_up(self, study: Study, trials: Iterable[Trial]) -> None:
        """Takes over everything that changed since `applied_revision`."""
        self.stale = self._seen_revision > study.revision  # a commit may have come while the database was read
        if study.revision > self._applied_revision:
            self._take(study, trials)

    def _take(self, study: Study, trials: Iterable[Trial]) -> None:
        finished = []
        overtaken = False
        for trial in trials:
            if trial.state in (TrialState.WAITING, TrialState.RUNNING):
                if trial.number in self.unfinished:
                    continue
                reserved = self.reserved.pop(trial.number, None)
                if reserved != trial.point:
                    self.version += 1  # pending, but not foreseen
                    overtaken = overtaken or reserved is not None
                self.unfinished[trial.number] = trial.point  # numbers only grow: the order is kept
            elif trial.state is TrialState.EXPIRED:
                # Perhaps its parameters kill every worker: they stay pending, so that they are not suggested again, until a
                # late result says more.
                if trial.is_given_up(study.spec.trial_policy.max_retries):
                    self.unfinished[trial.number] = trial.point
                    if trial.number not in self.given_up and len(self.given_up) >= GIVEN_UP:
                        self.version += 1  # another one may be forgotten
                    self.given_up.add(trial.number)
                    continue
                self.given_up.discard(trial.number)
                if self.unfinished.pop(trial.number, None) is not None:
                    self.version += 1
            elif trial.state.has_result:
                self.unfinished.pop(trial.number, None)
                self.given_up.discard(trial.number)
                # A result never changes, so a row stamped again later (new notes, say) is not a new observation.
                if (trial.finish_revision or 0) > self._applied_revision:
                    finished.append(trial)
        finished.sort(key=lambda trial: (trial.finish_revision or 0, trial.number))
        if finished:
            new = [Observation(t.number, t.point, t.state, t.measurement) for t in finished]
            self.observations += new
            self.optimizer.tell(new)
            self.version += len(new)
        if overtaken or any(number < study.next_number for number in self.reserved):
            self._void()  # somebody else took a reserved number
        self.study = study
        self._applied_revision = study.revision
