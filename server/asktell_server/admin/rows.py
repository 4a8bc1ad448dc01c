"""What `asktell doctor` looks at in the rows: whether the server can read them, and whether what they say fits together.

Each row goes the way it goes in a server that answers with it: through the storage's `codec`, then onto the wire. A study is read once,
trial by trial in the order of their numbers, and only what later trials are held against is kept of it: histories may be long.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from asktell.names import StudyName, is_id
from asktell_server.admin.findings import ERROR, MAX_SHOWN, RESTORE, WARNING, Finding, first_few
from asktell_server.domain.access import Token
from asktell_server.domain.errors import AskTellError, Violation
from asktell_server.domain.space import shown, shown_list
from asktell_server.domain.study import Study, label_violations
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.rpc import convert
from asktell_server.service.requests import LIFETIME
from asktell_server.storage import codec

# Clocks differ, and housekeeping takes a moment.
SLACK = timedelta(minutes=1)
UNREADABLE = (*codec.UNREADABLE, AskTellError)

_STUDY, _TRIAL, _TOKEN = (
    ", ".join(column.name for column in columns)
    for columns in (codec.STUDY_COLUMNS, codec.TRIAL_COLUMNS, codec.TOKEN_COLUMNS)
)
# What methods keep of their answers.
_ANSWERS: Mapping[str, Mapping[str, type]] = {"Ask": {"numbers": list}, "CreateTrials": {"first": int, "count": int}}
Query = Callable[[str], Iterable[Any]]


@dataclass(frozen=True)
class Moment:
    """When the examination is made, what is old, and whether a server is at work."""

    now: datetime
    stale: timedelta
    served: bool


def examine_rows(each: Query, moment: Moment) -> Iterator[Finding]:
    """What is wrong with the rows. `each` runs a query without parameters and gives its rows one by one, of the types of the schema."""
    for row in each(f"SELECT {_STUDY} FROM studies ORDER BY id"):  # noqa: S608 - our own names
        for finding in first_few(_study(each, row, moment)):
            yield replace(finding, message=f"projects/{row[1]}/studies/{row[2]}: {finding.message}")
    yield from first_few(_requests(each, moment))
    yield from first_few(_tokens(each))


def _study(each: Query, row: Any, moment: Moment) -> Iterator[Finding]:
    try:
        study = codec.study_from_row(row)
        found = [*_names(study), *_labels("its", study.labels)]
        found += [
            Finding("study", ERROR, f"{violation.field} {violation.description}", RESTORE)
            for violation in study.spec.violations()
        ]
        if not found:
            convert.study_to_proto(study)
    except UNREADABLE as error:
        yield Finding("study", ERROR, f"it cannot be read: {_reason(error)}", RESTORE)
        return
    yield from found
    history, complete = _History(each, study, moment), True
    of_study = f"WHERE study_id = {study.id:d}"
    for trial_row in each(f"SELECT {_TRIAL} FROM trials {of_study} ORDER BY number"):  # noqa: S608 - our own names and a number
        try:
            found = history.see(codec.trial_from_row(trial_row))
        except UNREADABLE as error:
            complete = False
            found = [Finding("trial", ERROR, f"trial {trial_row[0]} cannot be read: {_reason(error)}", RESTORE)]
        yield from found
    if complete:
        yield from history.end()
    for number, step, revision, text in each(
        f"SELECT number, step, revision, measurement FROM measurements {of_study} ORDER BY number, step"  # noqa: S608 - a number
    ):
        try:
            measurement = codec.measurement_from_text(text)
            wrong = [f"{violation.field} {violation.description}" for violation in measurement.violations()]
            convert.measurement_to_proto(measurement)
        except UNREADABLE as error:
            wrong = [f"it cannot be read: {_reason(error)}"]
        else:
            if measurement.step != step or revision > study.revision:
                wrong.append("it is not what its row says")
        if wrong:
            yield Finding("measurement", ERROR, f"trial {number}, step {step}: {wrong[0]}", RESTORE)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _names(study: Study) -> Iterator[Finding]:
    for what, name in (("project", study.project), ("study", study.name)):
        if not is_id(name):
            yield Finding("names", ERROR, f"{shown(name)} is no id of a {what}: nobody can ask for it", RESTORE)


def _labels(whose: str, labels: object) -> Iterator[Finding]:
    if not isinstance(labels, dict):
        yield Finding("labels", ERROR, f"{whose} labels are {shown(labels)}, not names with values", RESTORE)
        return
    for violation in label_violations(labels):
        yield Finding("labels", ERROR, f"{whose} {violation.field} {violation.description}", RESTORE)


class _History:
    """The trials of one study, seen by number, held against one another and against what the study says of them."""

    def __init__(self, each: Query, study: Study, moment: Moment) -> None:
        self._each = each
        self._study = study
        self._moment = moment
        self._name = StudyName(study.project, study.name)
        self._counts: Counter[TrialState] = Counter()
        self._last = 0  # the highest number
        self._missing = 0
        self._first_missing: list[int] = []
        self._best: tuple[float, int] | None = None  # value and number of the best trial, if there is one objective
        self._kept: float | None = None  # the value of the trial that the study has as the best
        self._kept_since: int | None = None  # the revision of its result

    def see(self, trial: Trial) -> list[Finding]:
        """What is wrong with a trial. Raises UNREADABLE where the server would fail on it; then `end` would be wrong."""
        wrong = [*_labels(f"trial {trial.number}: the", trial.labels), *self._contents(trial)]
        if not wrong:
            convert.trial_to_proto(self._name, trial)
            self._compare(trial)
        wrong += [*self._revisions(trial), *self._retries(trial), *self._leases(trial)]
        self._counts[trial.state] += 1
        self._miss(trial.number)
        self._last = trial.number
        return wrong

    def end(self) -> Iterator[Finding]:
        """What is wrong with all of them, once each has been seen."""
        study = self._study
        for state in TrialState:
            if study.count(state) != self._counts[state]:
                message = f"it counts {study.count(state)} trials {state.name}, there are {self._counts[state]}"
                yield Finding("counts", ERROR, message, RESTORE)
        if study.next_number <= self._last:
            message = f"the next number is {study.next_number}, but trial {self._last} exists"
            yield Finding("numbers", ERROR, message, RESTORE)
        self._miss(study.next_number)
        if self._missing:
            listed = ", ".join(map(str, self._first_missing))
            yield Finding("numbers", ERROR, f"{self._missing} trials are missing: {listed}", RESTORE)
        # Trials that are imported together share the revision of their results; a result that is told has one of its own.
        for revision, first, last in self._each(
            f"SELECT finish_revision, min(number), max(number) FROM trials WHERE study_id = {study.id:d} "  # noqa: S608 - a number
            "AND finish_revision IS NOT NULL AND start_time IS NOT NULL GROUP BY finish_revision HAVING count(*) > 1"
        ):
            message = f"trials {first} and {last} got their results at one revision, {revision}"
            yield Finding("revisions", ERROR, message, RESTORE)
        if len(study.spec.objectives) == 1:
            yield from self._best_trial()

    def _miss(self, before: int) -> None:
        """Takes note of the numbers between the last one and another that no trial has."""
        missing = range(self._last + 1, before)
        self._missing += max(0, missing.stop - missing.start)
        self._first_missing += missing[: MAX_SHOWN - len(self._first_missing)]

    def _contents(self, trial: Trial) -> Iterator[Finding]:
        point: object = trial.point
        if not isinstance(point, dict):
            yield Finding("trial", ERROR, f"trial {trial.number} has no parameters but {shown(point)}", RESTORE)
            return
        spec, final = self._study.spec, trial.measurement
        wrong = spec.space.checked(point)[1]
        if trial.state is TrialState.SUCCEEDED and final is None:
            wrong.append(Violation("measurement", "is missing"))
        elif trial.state is TrialState.SUCCEEDED and final is not None:
            wrong += final.final_violations(spec.objectives, spec.constraints)
        elif final is not None:
            wrong += final.violations()
        if wrong:
            message = f"trial {trial.number}: {wrong[0].field} {wrong[0].description}"
            yield Finding("trial", ERROR, message, RESTORE)

    def _compare(self, trial: Trial) -> None:
        """Takes note of a trial that may be the best."""
        spec, final = self._study.spec, trial.measurement
        if len(spec.objectives) > 1 or trial.state is not TrialState.SUCCEEDED or final is None:
            return
        value = final.metrics[spec.objective.metric]
        feasible = spec.is_feasible(final)
        if feasible and (self._best is None or spec.objective.is_better(value, self._best[0])):
            self._best = (value, trial.number)
        if trial.number == self._study.best_number:
            self._kept = value if feasible else None
            self._kept_since = trial.finish_revision or 0

    def _best_trial(self) -> Iterator[Finding]:
        study, best, kept = self._study, self._best, self._kept
        better = best is not None and (kept is None or study.spec.objective.is_better(best[0], kept))
        if better or study.best_value != kept:
            message = f"the best trial is said to be {study.best_number} ({study.best_value})"
            if better and best is not None:
                message += f", but {best[1]} is better"
            yield Finding("best", ERROR, message, RESTORE)
            return
        then = at_most = 0
        if self._kept_since is not None:
            ((at_most, later),) = self._each(
                f"SELECT count(*), count(CASE WHEN finish_revision = {self._kept_since:d} AND number > {study.best_number or 0:d} "  # noqa: S608 - numbers
                f"THEN 1 END) FROM trials WHERE study_id = {study.id:d} AND state = 'SUCCEEDED' "
                f"AND finish_revision <= {self._kept_since:d}"
            )
            then = at_most - later
        # Of what was imported together all once counted.
        if not then <= study.successes_at_best <= at_most:
            message = (
                f"{study.successes_at_best} trials are said to have succeeded when the best one came, it was {then}"
            )
            yield Finding("best", ERROR, message, RESTORE)

    def _revisions(self, trial: Trial) -> Iterator[Finding]:
        finished = trial.finish_revision
        if trial.revision > self._study.revision:
            message = f"trial {trial.number} is at revision {trial.revision}, the study at {self._study.revision}"
            yield Finding("revisions", ERROR, message, RESTORE)
        if trial.state.has_result != (finished is not None) or (finished or 0) > trial.revision:
            message = f"trial {trial.number} is {trial.state.name}, its result has revision {finished}"
            yield Finding("revisions", ERROR, message, RESTORE)

    def _retries(self, trial: Trial) -> Iterator[Finding]:
        if trial.retry_of is None:
            return
        if trial.retry_of < trial.number:
            for row in self._each(
                f"SELECT {_TRIAL} FROM trials WHERE study_id = {self._study.id:d} AND number = {trial.retry_of:d}"  # noqa: S608 - our own names and numbers
            ):
                before = codec.trial_from_row(row)
                if trial.attempt == before.attempt + 1 and trial.point == before.point:
                    return
        yield Finding("retries", ERROR, f"trial {trial.number} does not repeat trial {trial.retry_of}", RESTORE)

    def _leases(self, trial: Trial) -> Iterator[Finding]:
        if trial.state is not TrialState.RUNNING:
            return
        lease, until, moment = self._study.spec.trial_policy.lease, trial.lease_expire_time, self._moment
        if lease is None:
            if trial.start_time is not None and moment.now - trial.start_time > moment.stale:
                since = f"{trial.start_time:%Y-%m-%d %H:%M}"
                whose = trial.worker or "an unnamed worker"
                message = f"trial {trial.number} of {whose} runs since {since} without a lease"
                mend = "if its worker is gone, tell that it failed; new studies: set a lease"
                yield Finding("stale", WARNING, message, mend)
        elif until is None:
            message = f"trial {trial.number} runs without the lease of its study"
            yield Finding("leases", ERROR, message, "tell that it failed")
        elif until - lease > moment.now + SLACK:
            message = f"the lease of trial {trial.number} ends {until - moment.now} from now, leases last {lease}"
            mend = "a clock was ahead when it was given: see to the clock; it ends then, or when the trial is told"
            yield Finding("leases", WARNING, message, mend)
        elif moment.served and until < moment.now - SLACK - lease:
            message = f"the lease of trial {trial.number} has run out at {until:%Y-%m-%d %H:%M:%S} and nobody took note"
            yield Finding("leases", WARNING, message, "look for `housekeeping` in the server's log")


def _requests(each: Query, moment: Moment) -> Iterator[Finding]:
    oldest = codec.time_to_us(moment.now - 2 * LIFETIME)
    ((count,),) = each(f"SELECT count(*) FROM requests WHERE time < {oldest:d}")  # noqa: S608 - a number
    if count and moment.served:
        message = f"{count} request ids are older than twice their lifetime: they are not being forgotten"
        yield Finding("requests", WARNING, message, "look for `housekeeping` in the server's log")
    for scope, request_id, fingerprint, text in each("SELECT scope, request_id, fingerprint, response FROM requests"):
        try:
            response: object = codec.request_from_row((fingerprint, text)).response
            wanted = _ANSWERS.get(scope.partition(" ")[0], {})
            well = isinstance(response, dict) and all(
                isinstance(response.get(name), kind) for name, kind in wanted.items()
            )
            numbers = response.get("numbers", []) if well and isinstance(response, dict) else []
            well = well and all(type(number) is int and 0 < number < 2**63 for number in numbers)
            wrong = "" if well else f"it is said to have answered {shown(response)}"
        except UNREADABLE as error:
            wrong = _reason(error)
        if wrong:
            yield Finding("requests", ERROR, f"request {shown(request_id)} of {shown(scope)}: {wrong}", RESTORE)


def _tokens(each: Query) -> Iterator[Finding]:
    for row in each(f"SELECT {_TOKEN} FROM tokens ORDER BY id"):  # noqa: S608 - our own names
        try:
            wrong = _wrong_with(codec.token_from_row(row))
        except UNREADABLE as error:
            wrong = f"cannot be read: {_reason(error)}"
        if wrong and codec.is_active_token(row):  # what is revoked does no harm
            mend = f"`asktell token revoke {row[0]}`, and make another"
            yield Finding("tokens", ERROR, f"token {row[0]} {wrong}", mend)


def _wrong_with(token: Token) -> str:
    if not token.grants:
        return "holds no role"
    wrong = [grant.project for grant in token.grants if grant.project is not None and not is_id(grant.project)]
    return f"holds roles in what is no project: {shown_list(wrong)}" if wrong else ""
