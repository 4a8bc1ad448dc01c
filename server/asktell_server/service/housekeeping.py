"""Background work on all studies. Leases that run out: the trial becomes EXPIRED and its parameters WAITING again, up to the retry limit.

A lease cannot run out while its worker had no chance to renew it. So every lease has its full length once more when this server
was started and no other served the database at that time, and when it could not do its housekeeping for LONGEST_GAP_S: it was
paused, or the database was away. Several servers on one database all do this work; each lease is looked at again under the study's lock, so
that it runs out once. A server that is merely started beside others extends nothing, or leases would never end where
servers come and go. Times are those of the servers' clocks: by how much these differ, leases may be shorter or longer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from asktell_server.domain.errors import Unavailable
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Transition, Trial, TrialState, may
from asktell_server.observe.metrics import Metrics
from asktell_server.service import requests
from asktell_server.service.commits import Change, Clock, Commits
from asktell_server.service.failures import given_up, solved, superseded_by
from asktell_server.storage.base import Snapshot, Storage, Transaction

log = structlog.get_logger()

INTERVAL_S = 1.0
LONGEST_GAP_S = 5.0
_BATCH = 500
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_PURGE_EVERY = timedelta(minutes=10)
_PURGE_BATCH, _PURGE_BATCHES = 1000, 20


class Housekeeping:
    """Expires leases, forgets old requests, and refreshes the count of trials; one background task."""

    def __init__(self, storage: Storage, commits: Commits, clock: Clock, metrics: Metrics) -> None:
        self._storage = storage
        self._commits = commits
        self._clock = clock
        self._metrics = metrics
        self._renewable_since = _LONG_AGO if storage.others_serve() else clock()
        self._purged = clock()
        # Study id -> until when none of its leases runs out, where leases have their length once more.
        self._extended_until: dict[int, datetime] = {}

    async def run(self) -> None:
        """Runs until cancelled."""
        passed = time.monotonic()
        while True:
            try:
                if time.monotonic() - passed > LONGEST_GAP_S:
                    await self._done(self._extend())
                await self._done(self.expire())
                await self._done(self.count())
                if self._clock() - self._purged > _PURGE_EVERY:
                    await self._done(self.purge())
                # While it worked here it served calls, too.
                passed = time.monotonic()
            except Unavailable as error:
                log.warning("housekeeping put off", reason=error.message)
            await asyncio.sleep(INTERVAL_S)

    async def _extend(self) -> None:
        await self._storage.read(lambda tx: tx.expired_leases(self._clock(), 1))  # the database is back
        self._renewable_since = self._clock()
        self._extended_until.clear()

    async def _done(self, duty: Awaitable[object]) -> None:
        """Does one duty; its failure must not keep the others from being done. Raises Unavailable."""
        try:
            await duty
        except Unavailable:
            raise
        except Exception as error:
            log.error("housekeeping failed", exc_info=error)

    async def expire(self) -> int:
        """Expires every lease that has run out; returns how many."""
        now = self._clock()
        self._extended_until = {study: until for study, until in self._extended_until.items() if until > now}
        expired = spared = 0
        while True:
            due = await self._storage.read(partial(_due, now=now, skip=spared))
            # Together, so that they share commits.
            outcomes = await asyncio.gather(
                *(
                    self._commits.run_own(partial(self._expire, study_id=study_id, number=number))
                    for study_id, number in due
                    if study_id not in self._extended_until
                ),
                return_exceptions=True,
            )
            ended = outcomes.count(True)
            for _ in range(ended):
                self._metrics.lease_expired()
            expired += ended
            for failure in outcomes:
                if isinstance(failure, Unavailable):
                    raise failure
                if isinstance(failure, BaseException):  # a row that cannot be read, say
                    log.error("a lease could not be ended", exc_info=failure)
            if len(due) < _BATCH:
                return expired
            # Those that have their length once more must not hide the others.
            spared += len(due) - ended

    async def count(self) -> None:
        """Refreshes the metric of trials by state."""
        counts = await self._storage.read(lambda tx: tx.trial_counts())
        self._metrics.trials({state.value: counts.get(state, 0) for state in TrialState})

    async def purge(self) -> None:
        """Forgets requests that are older than their lifetime: all of them, or as many as hold up the leases for a moment only."""
        before = self._clock() - requests.LIFETIME
        for _ in range(_PURGE_BATCHES):
            if not await self._storage.write(lambda tx: tx.purge_requests(before, _PURGE_BATCH)):
                self._purged = self._clock()
                break

    def _expire(self, tx: Transaction, study_id: int, number: int) -> Change[bool]:
        now = self._clock()
        study = tx.lock_study_by_id(study_id)
        trial = tx.trial(study_id, number, full=False) if study is not None else None
        if study is None or trial is None or not self._is_due(study, trial, now):
            return Change(result=False)
        revision = study.revision + 1
        lost_for = f"no heartbeat from {trial.worker or 'its worker'} for {study.spec.trial_policy.lease}"
        repeated = solved(tx, study.id, trial)
        expired = replace(
            trial,
            state=TrialState.EXPIRED,
            state_reason=lost_for if repeated is None else superseded_by(repeated),
            lease_expire_time=None,
            revision=revision,
            end_time=now,
        )
        changed = [expired]
        counts = dict(study.counts)
        counts[TrialState.RUNNING] -= 1
        counts[TrialState.EXPIRED] = counts.get(TrialState.EXPIRED, 0) + 1
        next_number = study.next_number
        is_over = repeated is not None or study.state is StudyState.COMPLETED
        if not is_over and trial.attempt <= study.spec.trial_policy.max_retries:
            retry = Trial(
                number=next_number,
                state=TrialState.WAITING,
                suggestion=trial.suggestion,
                create_time=now,
                attempt=trial.attempt + 1,
                retry_of=trial.number,
                notes=trial.notes,
                labels=trial.labels,
                revision=revision,
            )
            tx.insert_trials(study.id, [retry])
            changed.append(retry)
            counts[TrialState.WAITING] = counts.get(TrialState.WAITING, 0) + 1
            next_number += 1
            lost = 0
        else:
            lost = given_up(tx, study) + expired.is_given_up(study.spec.trial_policy.max_retries)
        study = replace(study, revision=revision, counts=counts, next_number=next_number, update_time=now)
        study = study.completed_if_done(lost)
        tx.update_trial(study.id, expired)
        tx.update_study(study)
        log.info("lease expired", study=study.name, trial=number, worker=trial.worker, retries=len(changed) - 1)
        return Change(result=True, study=study, trials=changed)

    def _is_due(self, study: Study, trial: Trial, now: datetime) -> bool:
        lease, until = study.spec.trial_policy.lease, trial.lease_expire_time
        if lease is None or until is None or not may(trial.state, Transition.EXPIRE, TrialState.EXPIRED):
            return False
        extended = self._renewable_since + lease
        if now < extended:
            self._extended_until[study.id] = extended
        return now >= max(until, extended)


def _due(tx: Snapshot, now: datetime, skip: int) -> list[tuple[int, int]]:
    return tx.expired_leases(now, _BATCH, skip)
