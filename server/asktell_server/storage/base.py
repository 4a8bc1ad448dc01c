"""What a storage is: durable studies and trials behind transactions, and the duties of whoever implements it.

Work is a function of a transaction. `write` runs it and returns its result *after* the commit is on disk; if it raises, nothing
of what it wrote stays and the error is passed on. Work must be safe to run again from the start (it may be, when another
writer interferes), so it keeps its effects inside the transaction, and must not block on anything else. It runs in a thread of the
storage, or, if it was submitted as brief, perhaps in the event loop.

Isolation: `lock_study` holds the study's row until the commit, so works on one study run one after the other, on any number of
servers. A work locks its study before it reads or writes anything else of it. Works on one study that were submitted to one
storage are committed, and their futures done, in the order of submission; on SQLite this holds across studies too.
Reads see every commit that was acknowledged before they began.

Several servers may share a database where it allows that (PostgreSQL). What a server keeps of a study in memory can then be behind:
`listen` tells soon of what others did, `others_revision` tells for certain, within a transaction.

Revisions are the caller's duty: each write to a study locks it, raises `revision` by one and stamps the rows that it touches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from asktell_server.domain.access import Token
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Trial, TrialState

T = TypeVar("T")

READERS = 4
"""Reads that a storage runs at the same time, unless it is told otherwise."""


@dataclass(frozen=True)
class StoredRequest:
    """What a request_id did: the fingerprint of the request's body, and what is needed to rebuild the response."""

    fingerprint: str
    response: Mapping[str, object]


class Snapshot(Protocol):
    """A consistent view of the database."""

    def study(self, project: str, name: str) -> Study | None:
        """The study, or None."""

    def study_by_id(self, study_id: int) -> Study | None:
        """The study with this internal id, or None."""

    def studies(
        self, project: str | None, states: Collection[StudyState], after: tuple[str, str] | None, limit: int
    ) -> list[Study]:
        """Studies by (project, name) after the pair `after`; of every project if None; in any state if `states` is empty."""

    def count_studies(self, project: str | None, most: int) -> int:
        """Number of studies of a project, or in all if None; counted up to `most`."""

    def trial(self, study_id: int, number: int, *, full: bool = True) -> Trial | None:
        """The trial, with its intermediate measurements by step if `full`, or None."""

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
        """Trials by number after `after_number`, of those that changed after a revision; in any state if `states` is empty; with
        intermediate measurements if `full`.
        """

    def trials_by_number(self, study_id: int, numbers: Collection[int], *, full: bool = True) -> list[Trial]:
        """The trials with these numbers, by number, with their intermediate measurements if `full`; unknown numbers are left out."""

    def changed_trials(self, study_id: int, after_revision: int) -> list[Trial]:
        """Trials that changed after a revision, by number; of their intermediate measurements only those added after it."""

    def count_changes(self, study_id: int, after_revision: int, most: int) -> int:
        """Number of trials and of intermediate measurements that changed after a revision, each counted up to `most`."""

    def weigh_changes(self, study_id: int, after_revision: int) -> int:
        """About how many bytes the trials that changed after a revision have in the database, without measurements. Reads them all."""

    def measurements(
        self, study_id: int, number: int, *, after_step: int, after_revision: int, until_revision: int, limit: int
    ) -> list[Measurement]:
        """Intermediate measurements of a trial by step, after a step, that were added after one revision and until another."""

    def history(self, study_id: int, after_revision: int) -> list[Trial]:
        """Trials that changed after a revision, by number, without intermediate measurements."""

    def last_measurement(self, study_id: int, number: int) -> Measurement | None:
        """The intermediate measurement with the highest step, or None."""

    def measurement_at(self, study_id: int, number: int, step: int) -> Measurement | None:
        """The intermediate measurement at a step, or None."""

    def count_measurements(self, study_id: int, number: int) -> int:
        """Number of intermediate measurements of a trial."""

    def expired_leases(self, now: datetime, limit: int, skip: int = 0) -> list[tuple[int, int]]:
        """(study id, trial number) of RUNNING trials whose lease ran out before `now`, longest first, without the first `skip`."""

    def count_given_up(self, study_id: int, max_retries: int, but: int) -> int:
        """Number of trials that were given up (`Trial.is_given_up`), without counting trial number `but`. Reads all that are EXPIRED."""

    def retries(self, study_id: int, after_number: int) -> dict[int, int]:
        """Which trial each repeats, of those with a higher number than `after_number` that wait or were lost."""

    def request(self, scope: str, request_id: str) -> StoredRequest | None:
        """What the request_id did in this scope, or None."""

    def trial_counts(self) -> Mapping[TrialState, int]:
        """Number of trials in each state over all studies."""

    def token(self, token_id: str) -> Token | None:
        """The bearer token, or None."""

    def tokens(self) -> list[Token]:
        """All bearer tokens by time of creation, those revoked or expired too."""


class Transaction(Snapshot, Protocol):
    """A consistent view that can be changed."""

    def lock_study(self, project: str, name: str) -> Study | None:
        """The study, kept from other writers until the commit, or None."""

    def lock_study_by_id(self, study_id: int) -> Study | None:
        """As `lock_study`, by internal id."""

    def others_revision(self, study_id: int) -> int:
        """A revision of the locked study after which every change was made by this storage; 0 if all were."""

    def insert_study(self, study: Study) -> Study:
        """Adds a study; its `id` is ignored, the result carries the real one. The caller has seen that the name is free;
        if another writer took it meanwhile, the work is run again.
        """

    def update_study(self, study: Study) -> None:
        """Writes everything of a study that can change: all but id, project, name, spec and create_time."""

    def delete_study(self, study_id: int) -> None:
        """Removes a study with its trials, measurements and requests."""

    def insert_trials(self, study_id: int, trials: Sequence[Trial]) -> None:
        """Adds trials with their intermediate measurements, stamped with each trial's revision."""

    def update_trial(self, study_id: int, trial: Trial) -> None:
        """Writes everything of a trial that can change: all but number, suggestion, create_time, attempt, retry_of and the
        intermediate measurements.
        """

    def insert_measurement(self, study_id: int, number: int, measurement: Measurement, revision: int) -> None:
        """Adds an intermediate measurement; its step is set and new."""

    def insert_request(
        self, study_id: int | None, scope: str, request_id: str, stored: StoredRequest, time: datetime
    ) -> None:
        """Remembers what a request_id did; `study_id` says with which study it is deleted."""

    def purge_requests(self, before: datetime, limit: int) -> int:
        """Forgets up to `limit` requests from before a time; returns how many."""

    def insert_token(self, token: Token) -> None:
        """Adds a bearer token with a new id."""

    def revoke_token(self, token_id: str, time: datetime) -> bool:
        """Makes a token good for nothing from now on; False if there is none with this id that was not revoked before."""


@dataclass(frozen=True)
class ForeignCommit:
    """Another server changed a study: it is now at `revision`, or gone if that is 0."""

    study_id: int
    revision: int


Heard = Callable[[Sequence[ForeignCommit]], None]


class Storage(Protocol):
    """Durable studies and trials."""

    @property
    def location(self) -> str:
        """Where the database is, for people: without passwords."""

    def listen(self, heard: Heard, went_back: Callable[[], None] | None = None) -> None:
        """Before `start`: `heard` is to be called in the event loop, soon after another server changed studies.

        Calls may come late, twice, or be lost with a connection; every few seconds, and when some may have been lost, one comes
        with nothing in it, which means that anything may have changed.

        `went_back` is called where the database may have lost commits, since another machine took over or it was restored: before the
        first of the writes there is answered.
        """

    def others_serve(self) -> bool:
        """Whether another server served the database when this storage was started."""

    async def start(self) -> None:
        """Opens the database and brings its schema up to date. Raises StorageUnavailable."""

    async def stop(self) -> None:
        """Finishes what was submitted and closes the database."""

    def submit(
        self, work: Callable[[Transaction], T], then: Callable[[T], None] | None = None, *, brief: bool = False
    ) -> asyncio.Future[T]:
        """Queues `work` to be run in a transaction. The future is done after the commit is durable, or raises StorageUnavailable
        or what `work` raises; futures are done in the order of the commits. Cancelling it does not stop the work. After
        StorageUnavailable the work may have been committed all the same, if the database was lost at that moment.

        `then` is called with the result in the event loop, after the commit and before the future is done, even if the future was
        cancelled. It must not raise. `brief`: the work reads and writes a few rows, so that it may run in the event loop.
        """

    async def write(self, work: Callable[[Transaction], T]) -> T:
        """Runs `work` in a transaction; returns after the commit is durable. Raises StorageUnavailable, or what `work` raises."""

    def read(self, work: Callable[[Snapshot], T]) -> asyncio.Future[T]:
        """Runs `work` on a consistent view. Raises StorageUnavailable when closed.

        Cancelling the future does not stop work that has begun.
        """


class CommitObserver(Protocol):
    """Is told of each commit, from the storage's thread or the event loop's."""

    def committed(self, seconds: float, works: int) -> None:
        """A commit of so many works took `seconds`, from the first statement to the disk."""
