"""Use cases on trials that exist, or that the caller brings: tell, report, heartbeat, create, get, list, best, update."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from asktell.names import StudyName, TrialName
from asktell_server.domain.errors import (
    ConcurrentUpdate,
    InvalidArgument,
    MeasurementConflict,
    ResultConflict,
    TrialNotFound,
    TrialNotRunning,
    Violation,
)
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import (
    MAX_REASON,
    MAX_TEXT,
    Study,
    StudySpec,
    StudyState,
    label_violations,
    text_violations,
)
from asktell_server.domain.trial import (
    Transition,
    Trial,
    TrialState,
    allowed_from,
    may,
)
from asktell_server.observe.metrics import Metrics
from asktell_server.service import paging, requests
from asktell_server.service.commits import Change, Clock, Commits
from asktell_server.service.failures import given_up, superseded_by
from asktell_server.service.fronts import Fronts
from asktell_server.service.limits import Limits
from asktell_server.service.new_trials import NewTrial, count_violations, numbered, prepared
from asktell_server.service.reading import Budget, answered_again, filled, fitting, in_pieces
from asktell_server.service.reads import Reads
from asktell_server.service.studies import mask_violations, require
from asktell_server.storage.base import Snapshot, Storage, Transaction

UPDATABLE = ("labels", "notes")


@dataclass(frozen=True)
class Result:
    """How a trial ended. `measurement` is required for SUCCEEDED, optional for PRUNED, None otherwise."""

    state: TrialState
    measurement: Measurement | None = None
    reason: str = ""


@dataclass(frozen=True)
class Advice:
    """Whether to stop a trial: `cause` is "", "STUDY_STOPPED", "STUDY_COMPLETED" or "TRIAL_EXPIRED"."""

    cause: str = ""
    detail: str = ""
    lease_expire_time: datetime | None = None


def tell_violations(result: Result, spec: StudySpec | None = None) -> list[Violation]:
    """What is wrong with a result in a study with this spec, if it is known; paths are those of TellRequest."""
    found = [v.under(result.state.value.lower()) for v in text_violations("reason", result.reason, MAX_REASON)]
    if result.measurement is not None:
        succeeded = result.state is TrialState.SUCCEEDED
        if succeeded and spec is not None:
            wrong = result.measurement.final_violations(spec.objectives, spec.constraints)
        else:
            wrong = result.measurement.violations()
        found += [v.under("measurement" if succeeded else "pruned.measurement") for v in wrong]
    return found


def report_violations(measurement: Measurement) -> list[Violation]:
    """What is wrong with an intermediate measurement; paths are those of ReportRequest."""
    found = list(measurement.violations())
    if measurement.step is None:
        found.append(Violation("step", "is required: it identifies the measurement"))
    return [v.under("measurement") for v in found]


def update_violations(paths: Collection[str], labels: Mapping[str, str], notes: str) -> list[Violation]:
    """What is wrong with an update of a trial; paths are those of UpdateTrialRequest."""
    found = mask_violations(paths, UPDATABLE)
    if "notes" in paths:
        found += [v.under("trial") for v in text_violations("notes", notes, MAX_TEXT)]
    if "labels" in paths:
        found += [v.under("trial") for v in label_violations(labels)]
    return found


class Trials:
    """Use cases on trials."""

    def __init__(
        self, storage: Storage, reads: Reads, commits: Commits, clock: Clock, metrics: Metrics, limits: Limits
    ) -> None:
        self._storage = storage
        self._reads = reads
        self._limits = limits
        self._commits = commits
        self._clock = clock
        self._metrics = metrics
        self._fronts = Fronts()

    async def tell(self, name: TrialName, result: Result, request_id: str) -> tuple[Trial, StudyState]:
        """Ends a trial. The same result again succeeds and changes nothing."""
        body = requests.fingerprint(str(name), result) if request_id else ""
        scope = f"Tell {name.parent}"

        def work(tx: Transaction) -> Change[tuple[Trial, Study, bool]]:
            study, trial = self._lock(tx, name)
            violations = [*tell_violations(result, study.spec), *requests.id_violations(request_id)]
            if violations:
                raise InvalidArgument(violations)
            if requests.recall(tx, scope, request_id, body) is not None:
                return Change((trial, study, False))
            measurement = result.measurement
            if measurement is None and result.state is TrialState.PRUNED:
                measurement = tx.last_measurement(study.id, trial.number)
            if trial.state.has_result:
                if (trial.state, trial.measurement) != (result.state, measurement):
                    raise ResultConflict(
                        str(name),
                        f"trial {name} ended before as {trial.state.value} with another result; the first one stands",
                        {"state": trial.state.value},
                    )
                requests.remember(tx, study.id, scope, request_id, body, {}, self._clock())
                return Change((trial, study, False))
            if not may(trial.state, Transition.TELL, result.state):
                raise self._not_running(name, trial, allowed_from(Transition.TELL))
            now = self._clock()
            revision = study.revision + 1
            told = replace(
                trial,
                state=result.state,
                state_reason=result.reason,
                measurement=measurement,
                lease_expire_time=None,
                revision=revision,
                finish_revision=revision,
                end_time=now,
            )
            superseded = self._superseded(tx, study, trial, now, revision) if trial.state is TrialState.EXPIRED else []
            for _, after in superseded:
                tx.update_trial(study.id, after)
            # What was lost and is told as FAILED after all counts once.
            lost = given_up(tx, study, but=trial.number) if told.state is TrialState.FAILED else 0
            counts = dict(study.counts)
            for before, after in [(trial, told), *superseded]:
                counts[before.state] -= 1
                counts[after.state] = counts.get(after.state, 0) + 1
            study = replace(study, revision=revision, counts=counts, update_time=now)
            study = _with_results(study, [told], lost)
            tx.update_trial(study.id, told)
            tx.update_study(study)
            requests.remember(tx, study.id, scope, request_id, body, {}, now)
            return Change((told, study, True), study, [told, *(after for _, after in superseded)])

        trial, study, new = await self._commits.run(name.parent, work, brief=result.state is not TrialState.FAILED)
        if new:
            self._metrics.told(result.state.value)
        return trial, study.state

    async def report(self, name: TrialName, measurement: Measurement) -> Advice:
        """Records an intermediate measurement, renews the lease, and says whether to stop."""
        violations = report_violations(measurement)
        if violations:
            raise InvalidArgument(violations)
        step = measurement.step or 0

        def work(tx: Transaction) -> Change[Advice]:
            study, trial = self._lock(tx, name)
            last = tx.last_measurement(study.id, trial.number)
            known = self._known(tx, study, trial, step, last)
            if known is not None and known != measurement:
                raise MeasurementConflict(
                    str(name),
                    f"step {step} of trial {name} was reported before with another measurement; the first one stands",
                    {"step": str(step)},
                )
            if trial.state not in (TrialState.RUNNING, TrialState.EXPIRED):
                if known is not None:
                    return Change(_advice(study, trial))
                raise self._not_running(name, trial, [TrialState.RUNNING, TrialState.EXPIRED])
            now = self._clock()
            revision = study.revision + 1
            if known is None:
                self._limits.check_measurements(self._measured(tx, study, trial, step, last), name)
                tx.insert_measurement(study.id, trial.number, measurement, revision)
            return self._renew(tx, study, trial, now, revision)

        advice = await self._commits.run(name.parent, work, brief=True)
        self._metrics.reported()
        return advice

    async def heartbeat(self, name: TrialName) -> Advice:
        """Renews the lease and says whether to stop."""

        def look(tx: Snapshot) -> tuple[Study, Trial]:
            study = require(tx.study(name.project, name.study), name.parent)
            return study, _require_trial(tx.trial(study.id, name.number, full=False), name)

        study, trial = await self._storage.read(look)
        if study.spec.trial_policy.lease is None and trial.state is TrialState.RUNNING:
            return _advice(study, trial)

        def work(tx: Transaction) -> Change[Advice]:
            study, trial = self._lock(tx, name)
            if trial.state is not TrialState.RUNNING:
                raise self._not_running(name, trial, [TrialState.RUNNING])
            return self._renew(tx, study, trial, self._clock(), study.revision + 1)

        return await self._commits.run(name.parent, work, brief=True)

    def measurements_violations(self, count: int) -> list[Violation]:
        """Why a new trial has too many intermediate measurements to be read; the path is relative to the trial."""
        return self._limits.measurements_violations(count)

    async def create(
        self, name: StudyName, new: Sequence[NewTrial], request_id: str, violations: Sequence[Violation] = ()
    ) -> list[Trial]:
        """Adds points to try and finished trials, all or none; returns them without their intermediate measurements.

        `violations` are what the front door found in the request.
        """
        wrong = [*violations, *requests.id_violations(request_id)]
        miscounted = count_violations(len(new))
        if miscounted:
            raise InvalidArgument([*wrong, *miscounted])
        body = await requests.fingerprint_of_many(new) if request_id else ""
        scope = f"CreateTrials {name}"

        def recalled(tx: Snapshot, study: Study) -> list[Trial] | None:
            stored = requests.recall(tx, scope, request_id, body)
            if stored is None:
                return None
            first, count = stored.response["first"], stored.response["count"]
            assert isinstance(first, int)
            assert isinstance(count, int)
            return answered_again(tx, study.id, range(first, first + count))

        def look(tx: Snapshot) -> tuple[Study, list[Trial] | None]:
            study = require(tx.study(name.project, name.study), name)
            return study, None if wrong else recalled(tx, study)

        seen, repeat = await self._reads.run(name.project, name.study, look)
        if repeat is not None:
            return repeat
        ready = await prepared(seen.spec, new, self._limits, wrong)

        def work(tx: Transaction) -> Change[list[Trial]]:
            study = require(tx.lock_study(name.project, name.study), name)
            if study.id != seen.id:
                raise ConcurrentUpdate(
                    f"study {name} was deleted and made anew while its new trials were read; try again"
                )
            repeat = recalled(tx, study)
            if repeat is not None:
                return Change(repeat)
            waiting = sum(trial.state is TrialState.WAITING for trial in ready)
            self._limits.check_new_trials(study, name, waiting=waiting, finished=len(ready) - waiting)
            now = self._clock()
            trials = numbered(ready, study, now)
            counts = dict(study.counts)
            for trial in trials:
                counts[trial.state] = counts.get(trial.state, 0) + 1
            changed = replace(
                study,
                revision=study.revision + 1,
                next_number=study.next_number + len(trials),
                counts=counts,
                update_time=now,
            )
            results = [trial for trial in trials if trial.state.has_result]
            changed = _with_results(changed, results, given_up(tx, study))
            tx.insert_trials(study.id, trials)
            tx.update_study(changed)
            response = {"first": study.next_number, "count": len(trials)}
            requests.remember(tx, study.id, scope, request_id, body, response, now)
            return Change(_brief(trials), changed, trials)

        return await self._commits.run(name, work)

    async def get(self, name: TrialName, after_step: int | None = None) -> Trial:
        """The trial with its measurements after a step, as many as fit a reply."""

        def work(tx: Snapshot) -> Trial:
            study = require(tx.study(name.project, name.study), name.parent)
            trial = _require_trial(tx.trial(study.id, name.number, full=False), name)
            return filled(tx, study.id, trial, Budget(), after_step=-1 if after_step is None else after_step)

        return await self._reads.run(name.project, name.study, work)

    async def page(
        self, name: StudyName, states: Collection[TrialState], page_size: int, page_token: str, *, full: bool
    ) -> tuple[list[Trial], str]:
        """Trials by number, as many as fit a reply, if `full` with their measurements, and the token of the next page."""
        size = paging.page_size(page_size)
        query = ("ListTrials", str(name), sorted(state.name for state in states), full)
        at = paging.position(page_token, (int,), *query)

        def work(tx: Snapshot) -> tuple[list[Trial], bool]:
            study = require(tx.study(name.project, name.study), name)
            after = int(at[0]) if at else 0
            found = in_pieces(tx, study.id, states=states, after_number=after, limit=size + 1)
            return fitting(found, size, partial(filled, tx, study.id)) if full else fitting(found, size)

        page, more = await self._reads.run(name.project, name.study, work)
        return page, paging.token((page[-1].number,), *query) if more else ""

    async def best(self, name: StudyName, page_size: int, page_token: str) -> tuple[list[Trial], str]:
        """The best feasible trial, or the Pareto front of the feasible ones by number, and the token of the next page."""
        size = paging.page_size(page_size)
        query = ("ListBestTrials", str(name))
        at = paging.position(page_token, (int,), *query)

        def work(tx: Snapshot) -> tuple[list[Trial], bool]:
            study = require(tx.study(name.project, name.study), name)
            if len(study.spec.objectives) == 1:
                numbers: Sequence[int] = [] if study.best_number is None else [study.best_number]
            else:
                numbers = self._fronts.of(tx, study)
            after = int(at[0]) if at else 0
            brief = (tx.trial(study.id, number, full=False) for number in numbers if number > after)
            found = (trial for trial in brief if trial is not None)
            return fitting(found, size, partial(filled, tx, study.id))

        page, more = await self._reads.run(name.project, name.study, work)
        return page, paging.token((page[-1].number,), *query) if more else ""

    async def update(self, name: TrialName, paths: Collection[str], labels: Mapping[str, str], notes: str) -> Trial:
        """Changes what `paths` name: labels, notes. Returns the trial with as many measurements as fit a reply."""
        violations = update_violations(paths, labels, notes)
        if violations:
            raise InvalidArgument(violations)

        def work(tx: Transaction) -> Change[Trial]:
            study = require(tx.lock_study(name.project, name.study), name.parent)
            trial = _require_trial(tx.trial(study.id, name.number, full=False), name)
            revision = study.revision + 1
            trial = replace(
                trial,
                revision=revision,
                labels=dict(labels) if "labels" in paths else trial.labels,
                notes=notes if "notes" in paths else trial.notes,
            )
            study = replace(study, revision=revision, update_time=self._clock())
            tx.update_trial(study.id, trial)
            tx.update_study(study)
            return Change(filled(tx, study.id, trial, Budget()), study, [trial])

        return await self._commits.run(name.parent, work)

    @staticmethod
    def _known(tx: Transaction, study: Study, trial: Trial, step: int, last: Measurement | None) -> Measurement | None:
        """What was reported at a step, if anything; `last` is what was at the highest, and all there is to read where steps grow."""
        if last is None or last.step is None or step > last.step:
            return None
        return last if step == last.step else tx.measurement_at(study.id, trial.number, step)

    def _measured(self, tx: Transaction, study: Study, trial: Trial, step: int, last: Measurement | None) -> int:
        """How many measurements the trial has; 0 where their steps alone say that there is room."""
        highest = max(step, last.step or 0) if last is not None else step
        if highest < self._limits.measurements_per_trial:  # steps are unique and at least 0
            return 0
        return tx.count_measurements(study.id, trial.number)

    @staticmethod
    def _lock(tx: Transaction, name: TrialName) -> tuple[Study, Trial]:
        study = require(tx.lock_study(name.project, name.study), name.parent)
        return study, _require_trial(tx.trial(study.id, name.number, full=False), name)

    @staticmethod
    def _renew(tx: Transaction, study: Study, trial: Trial, now: datetime, revision: int) -> Change[Advice]:
        lease = study.spec.trial_policy.lease
        renewed = now + lease if lease is not None and trial.state is TrialState.RUNNING else None
        trial = replace(trial, lease_expire_time=renewed, revision=revision)
        study = replace(study, revision=revision, update_time=now)
        tx.update_trial(study.id, trial)
        tx.update_study(study)
        return Change(_advice(study, trial), study, [trial])

    @staticmethod
    def _not_running(name: TrialName, trial: Trial, allowed: Sequence[TrialState]) -> TrialNotRunning:
        names = ", ".join(state.value for state in allowed)
        return TrialNotRunning(
            str(name),
            f"trial {name} is {trial.state.value}; this call needs {names}",
            {"state": trial.state.value, "allowedStates": names},
        )

    @staticmethod
    def _superseded(
        tx: Transaction, study: Study, trial: Trial, now: datetime, revision: int
    ) -> list[tuple[Trial, Trial]]:
        """The last retry of an expired trial that got its result after all, as it was and as it is now: withdrawn if it waits, and no loss
        if it was lost for good.
        """
        # A retry is made after what it repeats, and at most one of each.
        repeated_by = {before: number for number, before in tx.retries(study.id, trial.number).items()}
        last = trial.number
        while last in repeated_by:
            last = repeated_by[last]
        retry = tx.trial(study.id, last, full=False)
        if retry is None or retry.number == trial.number:
            return []
        reason = superseded_by(trial)
        if retry.state is TrialState.WAITING:
            withdrawn = replace(retry, state=TrialState.EXPIRED, state_reason=reason, revision=revision, end_time=now)
            return [(retry, withdrawn)]
        if retry.is_given_up(study.spec.trial_policy.max_retries):
            return [(retry, replace(retry, state_reason=reason, revision=revision))]
        return []


def _brief(trials: Sequence[Trial]) -> list[Trial]:
    return [replace(trial, intermediate=()) for trial in trials]


def _require_trial(trial: Trial | None, name: TrialName) -> Trial:
    if trial is None:
        raise TrialNotFound(str(name))
    return trial


def _advice(study: Study, trial: Trial) -> Advice:
    lease = trial.lease_expire_time
    if trial.state is TrialState.EXPIRED:
        return Advice("TRIAL_EXPIRED", "the lease ran out and the parameters go to another worker", lease)
    if study.state is StudyState.STOPPED:
        return Advice("STUDY_STOPPED", study.state_reason, lease)
    if study.state is StudyState.COMPLETED:
        return Advice("STUDY_COMPLETED", study.state_reason, lease)
    return Advice(lease_expire_time=lease)


def _with_results(study: Study, finished: Sequence[Trial], given_up: int = 0) -> Study:
    """The study with its best trial and its state brought up to date; its counts already include `finished`."""
    succeeded = [trial for trial in finished if trial.state is TrialState.SUCCEEDED]
    for i, trial in enumerate(succeeded, 1):
        if trial.measurement is not None:
            study = study.with_result(trial.number, trial.measurement, later=len(succeeded) - i)
    return study.completed_if_done(given_up)
