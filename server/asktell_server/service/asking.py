"""The use case Ask: waiting trials first, then suggestions, in one transaction.

Suggestions are computed before the transaction, for the numbers that the next trials should get. The transaction checks that
these are still the next numbers; if another writer was faster it changes nothing and the ask begins again. Where several servers
share a database it also checks that the image, from which the suggestions were made, had seen everything that other servers did to
the study; if not, it catches up first. So it does if others took waiting trials that it counted on, and there are too few suggestions
for `count`. An ask that loses this race again and again gives up on the model, since its quasi-random fallback takes no time in
which others could be faster; and then, or when its time is up, it takes fewer trials rather than none.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import datetime

from asktell.names import StudyName
from asktell_server.domain.errors import (
    ConcurrentUpdate,
    InvalidArgument,
    SearchSpaceExhausted,
    TrialLimitReached,
    Violation,
)
from asktell_server.domain.study import Study, StudyState, text_violations
from asktell_server.domain.trial import Suggestion, Trial, TrialState
from asktell_server.engine.host import EngineHost
from asktell_server.engine.hosted import HostedStudy, Reservation
from asktell_server.observe.metrics import Metrics
from asktell_server.service import requests
from asktell_server.service.commits import Change, Clock, Commits
from asktell_server.service.limits import Limits
from asktell_server.service.reading import answered_again, fitting, in_pieces
from asktell_server.service.studies import inactive_error, require
from asktell_server.storage.base import Snapshot, Storage, Transaction

MAX_COUNT = 1000
MAX_WORKER = 255
_ATTEMPTS = 20
_ATTEMPTS_WITH_MODEL = 5
# Trials that one ask may give out to count as brief work.
_BRIEF_COUNT = 16


@dataclass(frozen=True)
class AskConfig:
    """Asks.

    `timeout_s`: how long an ask whose caller set no deadline may wait for a model. `commit_margin_s`: time kept back for the
    transaction when the caller's deadline nears, at most a quarter of what is left.
    """

    timeout_s: float = 60.0
    commit_margin_s: float = 1.0


def ask_violations(count: int, worker: str, request_id: str) -> list[Violation]:
    """What is wrong with an ask, whatever the study."""
    found = [*text_violations("worker", worker, MAX_WORKER), *requests.id_violations(request_id)]
    if not 0 <= count <= MAX_COUNT:
        found.append(Violation("count", f"must be in [0, {MAX_COUNT}], not {count}"))
    return found


@dataclass(frozen=True)
class _Asked:
    """What the caller wants. `body` is the fingerprint of it, if there is a request_id."""

    name: StudyName
    count: int
    worker: str
    request_id: str
    body: str

    @property
    def scope(self) -> str:
        """Where the request_id is unique."""
        return f"Ask {self.name}"


@dataclass(frozen=True)
class _Offer:
    """Suggestions, and from what they were made: the study's image, which held everything up to `revision`.

    `may_fall_short`: fewer than needed will do.
    """

    study_id: int
    revision: int
    reservation: Reservation | None
    exhausted: SearchSpaceExhausted | None
    may_fall_short: bool

    def suggestions(self, first: int, needed: int) -> tuple[Suggestion, ...] | None:
        """Those for `needed` trials from number `first` on, or fewer where these will do; None if there are too few."""
        reservation = self.reservation
        if reservation is None or reservation.first != first:
            return () if self.may_fall_short else None
        enough = len(reservation.suggestions) >= needed or reservation.is_end or self.may_fall_short
        return reservation.suggestions[:needed] if enough else None


@dataclass(frozen=True)
class _Answer:
    """The trials given out; `is_repeat` if an earlier call with the request_id gave them out."""

    trials: list[Trial]
    is_repeat: bool = False


class _Overtaken(Exception):
    """The suggestions are not for the next numbers any more, or too few, or the image, from which they were made, `is_behind` what other
    servers did, or `is_ahead` of a database that has lost commits.
    """

    def __init__(self, *, is_behind: bool = False, is_ahead: bool = False) -> None:
        super().__init__()
        self.is_behind = is_behind
        self.is_ahead = is_ahead


class Asking:
    """The use case Ask."""

    def __init__(
        self,
        storage: Storage,
        commits: Commits,
        host: EngineHost,
        clock: Clock,
        metrics: Metrics,
        config: AskConfig,
        limits: Limits,
    ) -> None:
        self._storage = storage
        self._commits = commits
        self._host = host
        self._clock = clock
        self._metrics = metrics
        self._config = config
        self._limits = limits

    async def ask(
        self, name: StudyName, count: int, worker: str, request_id: str, time_left_s: float | None
    ) -> list[Trial]:
        """Up to `count` (0 means 1) trials, RUNNING. `time_left_s` is the time until the caller's deadline."""
        started = time.perf_counter()
        violations = ask_violations(count, worker, request_id)
        if violations:
            raise InvalidArgument(violations)
        body = requests.fingerprint(count or 1, worker) if request_id else ""
        asked = _Asked(name, count or 1, worker, request_id, body)
        left = self._config.timeout_s if time_left_s is None else time_left_s
        deadline = time.monotonic() + left - min(self._config.commit_margin_s, left / 4)
        answer = await self._answer(asked, deadline)
        if not answer.is_repeat:
            sources = Counter(trial.suggestion.source.value for trial in answer.trials)
            first = answer.trials[0].suggestion.source.value
            self._metrics.asked(sources, first, time.perf_counter() - started)
        return answer.trials

    async def _answer(self, asked: _Asked, deadline: float) -> _Answer:
        for attempt in range(_ATTEMPTS):
            image = await self._image(asked.name)
            if asked.request_id and not self._host.is_ready(image):
                # A repeat must not wait for a model, nor use up a suggestion.
                repeat = await self._storage.read(lambda tx, study_id=image.study.id: _recalled(tx, study_id, asked))  # type: ignore[misc]
                if repeat is not None:
                    return repeat
            until, late = deadline, "deadline"
            if attempt >= _ATTEMPTS_WITH_MODEL and time.monotonic() < deadline:
                until, late = time.monotonic(), "overtaken"
            study_id, revision = image.study.id, image.applied_revision
            reservation, exhausted = await self._reserve(image, asked.count, until, late)
            hurried = attempt >= _ATTEMPTS_WITH_MODEL or time.monotonic() >= deadline
            offer = _Offer(study_id, revision, reservation, exhausted, may_fall_short=hurried)
            committing = time.perf_counter()
            try:
                answer = await self._commits.run(
                    asked.name,
                    lambda tx, o=offer: self._work(tx, asked, o),  # type: ignore[misc]
                    brief=asked.count <= _BRIEF_COUNT,
                )
            except _Overtaken as overtaken:
                if overtaken.is_ahead:
                    self._host.went_back(study_id)
                # Another ask was faster, or the image is behind: the second time assume the latter.
                elif overtaken.is_behind or reservation is None or attempt:
                    image.stale = True
                continue
            finally:
                if reservation is not None:
                    self._host.release(reservation)
            self._metrics.ask_phase("commit", time.perf_counter() - committing)
            return answer
        raise ConcurrentUpdate(
            f"study {asked.name} is changed by others faster than trials can be given out; try again"
        )

    async def _image(self, name: StudyName) -> HostedStudy:
        image = self._host.by_name(name.project, name.study)
        if image is not None:
            return image
        study = require(await self._storage.read(lambda tx: tx.study(name.project, name.study)), name)
        return await self._host.image(study)

    async def _reserve(
        self, image: HostedStudy, count: int, deadline: float, late: str
    ) -> tuple[Reservation | None, SearchSpaceExhausted | None]:
        """Suggestions for what the waiting trials do not cover; none where the transaction will refuse anyway."""
        study = image.study
        needed = min(count - study.count(TrialState.WAITING), self._limits.room(study) - len(image.reserved))
        room = study.room()
        if room is not None:
            needed = min(needed, room - len(image.reserved))
        if study.state is not StudyState.ACTIVE or needed <= 0:
            return None, None
        try:
            return await self._host.reserve(image, needed, deadline, late), None
        except SearchSpaceExhausted as error:
            return None, error

    def _work(self, tx: Transaction, asked: _Asked, offer: _Offer) -> Change[_Answer]:
        name, count, worker, exhausted = asked.name, asked.count, asked.worker, offer.exhausted
        study = require(tx.lock_study(name.project, name.study), name)
        repeat = _recalled(tx, study.id, asked)
        if repeat is not None:
            return Change(repeat)
        if study.state is not StudyState.ACTIVE:
            raise inactive_error(study, name)
        now = self._clock()
        revision = study.revision + 1
        trials, more = self._waiting(tx, study, count, worker, now, revision)
        taken_from_queue = len(trials)
        room = study.room()
        needed = count - len(trials) if room is None else min(count - len(trials), room)
        if more:  # enough of them for one reply
            needed = 0
        if offer.study_id == study.id and offer.revision > study.revision:
            raise _Overtaken(is_ahead=True)
        if needed > 0 and (offer.study_id != study.id or offer.revision < tx.others_revision(study.id)):
            raise _Overtaken(is_behind=True)
        if needed > 0 and exhausted is None:
            if not trials:
                self._limits.check_new_trials(study, name, waiting=1, finished=0)
            needed = min(needed, self._limits.room(study))
        if needed > 0 and exhausted is None:
            suggestions = offer.suggestions(study.next_number, needed)
            if suggestions is None or not (trials or suggestions):
                raise _Overtaken
            trials += [
                Trial(
                    number=study.next_number + i,
                    state=TrialState.RUNNING,
                    suggestion=suggestion,
                    create_time=now,
                    start_time=now,
                    worker=worker,
                    lease_expire_time=_lease(study, now),
                    revision=revision,
                )
                for i, suggestion in enumerate(suggestions)
            ]
        if not trials:
            if exhausted is not None:
                raise SearchSpaceExhausted(
                    str(name),
                    f"every point of the search space of study {name} is taken",
                    {"cardinality": str(study.spec.space.cardinality)},
                )
            raise TrialLimitReached(
                str(name),
                f"study {name} has given out all {study.spec.stopping.max_trials} trials, "
                f"{study.count(TrialState.RUNNING)} of which are still running",
                {"max_trials": str(study.spec.stopping.max_trials)},
            )
        if len(trials) > 1:  # most asks are for one, which fits in any case
            trials, _ = fitting(trials, count)
            taken_from_queue = min(taken_from_queue, len(trials))
        new = trials[taken_from_queue:]
        if new:
            tx.insert_trials(study.id, new)
        for trial in trials[:taken_from_queue]:
            tx.update_trial(study.id, trial)
        counts = dict(study.counts)
        counts[TrialState.WAITING] = counts.get(TrialState.WAITING, 0) - taken_from_queue
        counts[TrialState.RUNNING] = counts.get(TrialState.RUNNING, 0) + len(trials)
        study = replace(
            study, revision=revision, next_number=study.next_number + len(new), counts=counts, update_time=now
        )
        tx.update_study(study)
        response = {"numbers": [trial.number for trial in trials]}
        requests.remember(tx, study.id, asked.scope, asked.request_id, asked.body, response, now)
        return Change(_Answer(trials), study, trials)

    @staticmethod
    def _waiting(
        tx: Transaction, study: Study, count: int, worker: str, now: datetime, revision: int
    ) -> tuple[list[Trial], bool]:
        """Up to `count` trials that wait, RUNNING now, and whether there are more than fit a reply."""
        if not study.count(TrialState.WAITING):
            return [], False
        waiting = in_pieces(tx, study.id, states=[TrialState.WAITING], limit=count)
        found, more = fitting(waiting, count)
        return [
            replace(
                trial,
                state=TrialState.RUNNING,
                worker=worker,
                start_time=now,
                lease_expire_time=_lease(study, now),
                revision=revision,
            )
            for trial in found
        ], more


def _lease(study: Study, now: datetime) -> datetime | None:
    lease = study.spec.trial_policy.lease
    return None if lease is None else now + lease


def _recalled(tx: Snapshot, study_id: int, asked: _Asked) -> _Answer | None:
    """What an earlier call with the same request_id gave out, or None."""
    stored = requests.recall(tx, asked.scope, asked.request_id, asked.body)
    if stored is None:
        return None
    numbers = stored.response["numbers"]
    assert isinstance(numbers, list)
    return _Answer(answered_again(tx, study_id, numbers), is_repeat=True)
