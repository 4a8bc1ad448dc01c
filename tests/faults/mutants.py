"""Bugs for the checker to find: each breaks one promise of the server, in its own process, beneath its own front door.

`plant(name)` replaces a piece of the server before it starts. Nothing of this is reachable from the product.
"""

# mypy: disable-error-code="assignment,method-assign,type-var,union-attr"
from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from asktell_server.domain.study import Study
from asktell_server.domain.trial import TrialState
from asktell_server.service import asking, housekeeping, requests, studies, trials, watching
from asktell_server.storage import codec, sql, transaction, write_cache
from asktell_server.storage.postgresql import knowledge
from asktell_server.storage.postgresql import transaction as postgresql


def _every(n: int) -> Callable[[], bool]:
    """True at every nth call."""
    count = itertools.count(1)
    return lambda: next(count) % n == 0


class _Dropped(Exception):
    """Carries the result of a work that is rolled back."""

    def __init__(self, result: object) -> None:
        super().__init__()
        self.result = result


def acknowledges_before_the_commit() -> None:
    """Every 40th write is answered, and then lost."""
    original, now = sql.SqlStorage.submit, _every(40)

    def submit(self: sql.SqlStorage, work: Any, then: Any = None, *, brief: bool = False) -> asyncio.Future[Any]:
        if not now():
            return original(self, work, then, brief=brief)

        def dropped(tx: Any) -> None:
            raise _Dropped(work(tx))

        made: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def answer(lost: asyncio.Future[Any]) -> None:
            error = lost.exception()
            if isinstance(error, _Dropped):
                made.set_result(error.result)
            else:
                made.set_exception(error or RuntimeError)

        original(self, dropped).add_done_callback(answer)
        return made

    sql.SqlStorage.submit = submit


def gives_a_number_twice() -> None:
    """Every 15th ask gets the trials of the one before it."""
    original, now = asking.Asking.ask, _every(15)
    last: dict[str, Any] = {}

    async def ask(self: asking.Asking, name: Any, *arguments: Any) -> Any:
        if now() and str(name) in last:
            return last[str(name)]
        last[str(name)] = await original(self, name, *arguments)
        return last[str(name)]

    asking.Asking.ask = ask


def exceeds_the_budget() -> None:
    """Asks at the same time are given one more than there is room for."""
    original = Study.room

    def room(self: Study) -> int | None:
        left = original(self)
        return left + 1 if left is not None and self.count(TrialState.RUNNING) else left

    Study.room = room


def forgets_request_ids() -> None:
    """A repeat acts again."""
    requests.remember = lambda *_: None
    for module in (asking, trials):
        module.requests = requests  # type: ignore[attr-defined]


def revives_expired_trials() -> None:
    """A report makes an EXPIRED trial RUNNING again."""
    original = trials.Trials._renew

    def renew(tx: Any, study: Any, trial: Any, now: Any, revision: int) -> Any:
        return original(tx, study, replace(trial, state=TrialState.RUNNING), now, revision)

    trials.Trials._renew = staticmethod(renew)


def loses_measurements() -> None:
    """Every 10th measurement is acknowledged and not written."""
    original, now = transaction.SqlTransaction.insert_measurement, _every(10)

    def insert(self: Any, *arguments: Any) -> None:
        if not now():
            original(self, *arguments)

    transaction.SqlTransaction.insert_measurement = insert


def skips_in_watches() -> None:
    """Every 10th message of a watch leaves out its first trial."""
    original, now = watching._read, _every(10)

    def read(*arguments: Any) -> Any:
        found = original(*arguments)
        if found is None or not now():
            return found
        study, trials, at = found
        return study, trials[1:], at

    watching._read = read


def never_ends_a_lease() -> None:
    """Lost trials run for ever."""

    async def expire(_: Any) -> int:
        return 0

    housekeeping.Housekeeping.expire = expire


def retries_for_ever() -> None:
    """The limit of retries is not looked at."""
    original = housekeeping.Housekeeping._expire

    class Generous:
        def __init__(self, tx: Any) -> None:
            self._tx = tx

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tx, name)

        def lock_study_by_id(self, study_id: int) -> Any:
            study = self._tx.lock_study_by_id(study_id)
            policy = replace(study.spec.trial_policy, max_retries=1000)
            return replace(study, spec=replace(study.spec, trial_policy=policy))

    housekeeping.Housekeeping._expire = lambda self, tx, study_id, number: original(
        self, Generous(tx), study_id, number
    )


def drops_late_tells() -> None:
    """The result of an EXPIRED trial is acknowledged and thrown away."""
    original = transaction.SqlTransaction.update_trial

    def update(self: Any, study_id: int, trial: Any) -> None:
        before = self.trial(study_id, trial.number, full=False)
        if not (before is not None and before.state is TrialState.EXPIRED and trial.state.has_result):
            original(self, study_id, trial)

    transaction.SqlTransaction.update_trial = update


def imports_half() -> None:
    """Of several trials that are brought the last is not written."""
    original = transaction.SqlTransaction.insert_trials

    def insert(self: Any, study_id: int, made: Any) -> None:
        original(self, study_id, made[:-1] if len(made) > 3 else made)

    transaction.SqlTransaction.insert_trials = insert


def gives_when_stopped() -> None:
    """An ask does not look whether the study is ACTIVE."""
    original = write_cache.CachingTransaction.lock_study

    def lock(self: Any, project: str, name: str) -> Any:
        study = original(self, project, name)
        stopped = study is not None and study.state.value == "STOPPED"
        return replace(study, state=type(study.state).ACTIVE) if stopped else study

    original_work = asking.Asking._work

    def work(self: Any, tx: Any, *arguments: Any) -> Any:
        write_cache.CachingTransaction.lock_study = lock
        try:
            return original_work(self, tx, *arguments)
        finally:
            write_cache.CachingTransaction.lock_study = original

    original_reserve = asking.Asking._reserve

    async def reserve(self: Any, image: Any, *arguments: Any) -> Any:
        study = image.study
        image.study = replace(study, state=type(study.state).ACTIVE)
        return await original_reserve(self, image, *arguments)

    asking.Asking._work = work
    asking.Asking._reserve = reserve


def suggests_outside_of_the_space() -> None:
    """Every 20th suggestion has a depth of 17."""
    original, now = transaction.SqlTransaction.insert_trials, _every(20)

    def insert(self: Any, study_id: int, made: Any) -> None:
        if now():
            suggestion = made[0].suggestion
            point = {**suggestion.point, "depth": 17}
            made = [replace(made[0], suggestion=replace(suggestion, point=point)), *made[1:]]
        original(self, study_id, made)

    transaction.SqlTransaction.insert_trials = insert


def retries_twice() -> None:
    """Two workers get the parameters of a lost trial."""
    original = transaction.SqlTransaction.insert_trials
    original_update = write_cache.CachingTransaction.update_study
    extra: dict[int, int] = {}

    def insert(self: Any, study_id: int, made: Any) -> None:
        original(self, study_id, made)
        if made[0].retry_of is not None:
            original(self, study_id, [replace(made[0], number=made[0].number + 1)])
            extra[study_id] = 1

    def update(self: Any, study: Any) -> None:
        if extra.pop(study.id, 0):
            counts = {**study.counts, TrialState.WAITING: study.counts[TrialState.WAITING] + 1}
            study = replace(study, next_number=study.next_number + 1, counts=counts)
        original_update(self, study)

    transaction.SqlTransaction.insert_trials = insert
    write_cache.CachingTransaction.update_study = update


def starts_from_an_older_state() -> None:
    """After a start the last revisions of each study never were."""
    original = sql.SqlStorage._open

    def opened(self: Any) -> Any:
        connection = original(self)
        connection.execute("UPDATE studies SET revision = revision - 30 WHERE revision > 30")
        return connection

    sql.SqlStorage._open = opened


def resumes_nothing() -> None:
    """A resume is acknowledged, and the study stays as it is."""

    async def resume(self: studies.Studies, name: Any) -> Study:
        return await self.get(name)

    studies.Studies.resume = resume


def never_completes() -> None:
    """A study goes on when its criterion is met."""
    Study.completed_if_done = lambda self, *_: self


def takes_stale_etags() -> None:
    """An update is taken whatever its etag."""
    studies.Studies._check_etag = staticmethod(lambda *_: None)


def reads_another_trial() -> None:
    """Who reads a trial is shown the first of its study."""
    original = trials.Trials.get

    async def get(self: trials.Trials, name: Any, *arguments: Any) -> Any:
        return await original(self, replace(name, number=1), *arguments)

    trials.Trials.get = get


def forgets_labels() -> None:
    """Trials that are brought lose their labels."""
    original = trials.Trials.create

    async def create(self: trials.Trials, name: Any, new: Any, *arguments: Any) -> Any:
        return await original(self, name, [replace(trial, labels={}) for trial in new], *arguments)

    trials.Trials.create = create


def never_says_stop() -> None:
    """Workers of a stopped study are told to go on."""
    trials._advice = lambda _, trial: trials.Advice(lease_expire_time=trial.lease_expire_time)


def heartbeats_without_a_lease() -> None:
    """A heartbeat is acknowledged and does not say until when."""
    original = trials.Trials.heartbeat

    async def heartbeat(self: trials.Trials, name: Any) -> Any:
        return replace(await original(self, name), lease_expire_time=None)

    trials.Trials.heartbeat = heartbeat


def gives_solved_points_again() -> None:
    """The retry of a lost trial stays in the queue when the trial gets its result after all."""
    trials.Trials._superseded = staticmethod(lambda *_: [])


def reads_without_the_last_measurement() -> None:
    """Every third read of a trial leaves out its last measurement."""
    original, now = trials.Trials.get, _every(3)

    async def get(self: trials.Trials, *arguments: Any) -> Any:
        trial = await original(self, *arguments)
        return replace(trial, intermediate=trial.intermediate[:-1]) if now() else trial

    trials.Trials.get = get


def skips_between_pages() -> None:
    """A page of trials after the first one begins one trial too late."""
    original = trials.Trials.page

    async def page(self: trials.Trials, *arguments: Any, full: bool) -> Any:
        found, token = await original(self, *arguments, full=full)
        begins = not found or found[0].number == 1
        return (found if begins else found[1:]), token

    trials.Trials.page = page


def gives_without_a_lease() -> None:
    """Every fifth ask gives trials that never expire."""
    original, now = asking._lease, _every(5)
    asking._lease = lambda study, time: None if now() else original(study, time)


def forgets_labels_of_studies() -> None:
    """Updates of a study leave its labels as they are."""
    original = studies.Studies.update

    async def update(self: studies.Studies, name: Any, paths: Any, *arguments: Any) -> Any:
        return await original(self, name, [path for path in paths if path != "labels"], *arguments)

    studies.Studies.update = update


def rolls_back_and_says_committed() -> None:
    """Every 20th transaction of the writer to PostgreSQL comes to nothing, and its works are told that it stands."""
    original, now = postgresql.WritingTransaction.begin_commit, _every(20)

    def begin_commit(self: Any, then: Any = ()) -> Any:
        if now():
            if self._unsent is None:
                self._connection.rollback()
            else:
                self._unsent = []
            self._expectations.clear()
            self._changed.clear()
        return original(self, then)

    postgresql.WritingTransaction.begin_commit = begin_commit


def expects_and_does_not_look() -> None:
    """That a study is as this server left it is taken for granted, although others may have changed it."""
    knowledge.CALM = 1

    def expect(self: Any, study: Study) -> Study:
        self._kept(study)
        if self._at_once:
            self._expectations[study.id] = study.revision
        return study

    def expected_changes(self: Any) -> Any:
        for study_id in self._expectations:
            if study_id in self._changed:
                study = self._studies[study_id]
                yield self._statements.update_study, {"id": study_id, **codec.study_changes(study)}

    postgresql.WritingTransaction._expect = expect
    postgresql.WritingTransaction._expected_changes = expected_changes


def does_not_lock() -> None:
    """Two servers change one study at the same time."""
    original = postgresql.WritingTransaction._locked

    def locked(self: Any, key: Any, wait: str, do_not_wait: str, values: Any) -> Any:
        return original(self, key, wait.partition(" FOR ")[0], do_not_wait.partition(" FOR ")[0], values)

    postgresql.WritingTransaction._locked = locked
    knowledge.Knowledge.expected = lambda *_: None


def remembers_trials_for_ever() -> None:
    """A trial is believed to be as this server left it, whatever others did since."""
    original = knowledge.Knowledge.trial

    def trial(self: Any, study_id: int, number: int) -> Any:
        return self._trials.get((study_id, number)) or original(self, study_id, number)

    knowledge.Knowledge.trial = trial


ON_POSTGRESQL: Mapping[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        rolls_back_and_says_committed,
        expects_and_does_not_look,
        does_not_lock,
        remembers_trials_for_ever,
    )
}
MUTANTS: Mapping[str, Callable[[], None]] = {
    mutant.__name__: mutant
    for mutant in (
        acknowledges_before_the_commit,
        gives_a_number_twice,
        exceeds_the_budget,
        forgets_request_ids,
        revives_expired_trials,
        loses_measurements,
        skips_in_watches,
        never_ends_a_lease,
        retries_for_ever,
        drops_late_tells,
        imports_half,
        gives_when_stopped,
        suggests_outside_of_the_space,
        retries_twice,
        starts_from_an_older_state,
        resumes_nothing,
        never_completes,
        takes_stale_etags,
        reads_another_trial,
        forgets_labels,
        never_says_stop,
        heartbeats_without_a_lease,
        gives_solved_points_again,
        reads_without_the_last_measurement,
        skips_between_pages,
        gives_without_a_lease,
        forgets_labels_of_studies,
    )
}


def plant(name: str) -> None:
    """Plants a bug in this process."""
    {**MUTANTS, **ON_POSTGRESQL}[name]()
