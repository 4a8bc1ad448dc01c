"""The examinations of `asktell doctor`, each a function that yields findings.

They go from the outside in: the file, its log and its disk; then SQLite's own view; then the schema; then, if it can be read, whether
what the rows say fits together, study by study. An examination that needs an earlier one to have passed is left out if it has not.
Of PostgreSQL only schema and rows are looked at.
"""

from __future__ import annotations

import fcntl
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import sqlite as sqlite_dialect

from asktell.names import is_id
from asktell_server.admin import files
from asktell_server.domain.errors import AskTellError, StorageUnavailable, Violation
from asktell_server.domain.space import shown, shown_list
from asktell_server.domain.study import Study, label_violations
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.service.requests import LIFETIME
from asktell_server.storage import codec, wal
from asktell_server.storage.base import Snapshot
from asktell_server.storage.migrate import known_revisions, newest_revision
from asktell_server.storage.schema import metadata
from asktell_server.storage.statements import Statements
from asktell_server.storage.transaction import SqlTransaction

WARNING, ERROR = 1, 2
LITTLE_ROOM, HARDLY_ROOM = 200 * 2**20, 20 * 2**20
LARGE_LOG = 256 * 2**20
# Clocks differ, and housekeeping takes a moment.
SLACK = timedelta(minutes=1)
MAX_SHOWN = 5
# What reading a row, or holding it against others, may raise where it is damaged.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, AskTellError)
RESTORE = "stop the server and `asktell restore` the last backup that doctor finds whole"


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which examination found it, how bad it is (WARNING, ERROR), and what to do."""

    check: str
    severity: int
    message: str
    mend: str

    @property
    def level(self) -> str:
        """The severity as a word."""
        return "error" if self.severity == ERROR else "warning"

    def to_json(self) -> dict[str, str]:
        """The finding for programs."""
        return {"check": self.check, "level": self.level, "message": self.message, "mend": self.mend}


def examine(path: Path, now: datetime, stale_days: float) -> list[Finding]:
    """Everything that is wrong with the database at `path`."""
    found = list(_file(path))
    if found:
        return found
    found += [*_disk(path), *_log(path)]
    if any(finding.check == "log" and finding.severity == ERROR for finding in found):
        return found  # opening it might throw away what can still be seen of the damage
    served = is_served(path)
    try:
        with closing(files.connect(path)) as connection:
            connection.execute("BEGIN")
            for step in (_integrity, _sqlite_schema):
                found += step(connection)
                if any(finding.severity == ERROR for finding in found):
                    return found
            if any(finding.check == "schema" for finding in found):
                return found
            dialect = sqlite_dialect.dialect(paramstyle="named")
            tx = SqlTransaction(connection.cursor(), Statements(dialect), sqlite3)
            rows = _Rows(lambda query: connection.execute(query).fetchall(), tx)
            found += _rows(rows, _Moment(now, timedelta(days=stale_days), served))
    except sqlite3.Error as error:
        found.append(Finding("integrity", ERROR, f"it cannot be read: {error}", RESTORE))
    return found


def examine_postgresql(url: str, now: datetime, stale_days: float) -> list[Finding]:
    """What is wrong with the schema and the rows of a PostgreSQL database; of its files it takes care itself."""
    from asktell_server.storage.postgresql.beside import reading_postgresql

    found: list[Finding] = []
    try:
        with reading_postgresql(url) as database:
            columns: dict[str, set[str]] = {}
            for table, column in database.all(
                "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()"
            ):
                columns.setdefault(table, set()).add(column)
            versions = (
                {row[0] for row in database.all("SELECT version_num FROM alembic_version")}
                if "alembic_version" in columns
                else set()
            )
            found += _schema(versions, lambda table: columns.get(table, set()))
            if not found:
                moment = _Moment(now, timedelta(days=stale_days), database.served)
                found += _rows(_Rows(database.all, database.tx), moment)
    except StorageUnavailable as error:
        found.append(
            Finding("database", ERROR, error.message, "see to PostgreSQL, or give the URL that the server has")
        )
    return found


def is_served(path: Path) -> bool:
    """Whether a server has the database open."""
    try:
        with path.with_name(path.name + ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# The file ------------------------------------------------------------------------------------------------------------


def _file(path: Path) -> Iterator[Finding]:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        yield Finding(
            "file", ERROR, f"cannot open {path}: {error.strerror}", "give the path that the server has in --db"
        )
        return
    # A new database lives in its log until the first checkpoint.
    in_its_log = head == b"" and files.log_of(path).exists()
    if head != b"SQLite format 3\x00" and not in_its_log:
        yield Finding("file", ERROR, "it is not a SQLite database", RESTORE)


def _disk(path: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(path.resolve().parent).free
    if free < LITTLE_ROOM:
        severity = ERROR if free < HARDLY_ROOM else WARNING
        yield Finding(
            *("disk", severity, f"only {free / 2**20:.0f} MiB are free where the database is"),
            "make room: without it nothing can be written, and every call that writes answers UNAVAILABLE",
        )


def _log(path: Path) -> Iterator[Finding]:
    log = files.log_of(path)
    lost = wal.lost_commits(log)
    if lost:
        yield Finding(
            *("log", ERROR, f"{log} is damaged: at least {lost} commits behind the damage cannot be read"),
            f"copy the database and its log away; then {RESTORE}, or, to go on without what is lost, "
            "`asktell doctor --discard-damaged-log`",
        )
    size = log.stat().st_size if log.exists() else 0
    if size > LARGE_LOG:
        yield Finding(
            *("log", WARNING, f"the log has {size / 2**20:.0f} MiB: something keeps it from being written back"),
            "look for a program that reads the database without end (a backup that hangs); restarting the server helps as well",
        )


def _integrity(connection: sqlite3.Connection) -> Iterator[Finding]:
    wrong = [row[0] for row in connection.execute(f"PRAGMA integrity_check({MAX_SHOWN})")]
    if wrong != ["ok"]:
        yield Finding("integrity", ERROR, f"SQLite finds: {'; '.join(wrong)}", RESTORE)
        return
    orphans = connection.execute("PRAGMA foreign_key_check").fetchall()
    if orphans:
        tables = Counter(row[0] for row in orphans)
        listed = ", ".join(f"{count} in {table}" for table, count in tables.items())
        yield Finding("foreign keys", ERROR, f"rows whose study or trial is missing: {listed}", RESTORE)


def _sqlite_schema(connection: sqlite3.Connection) -> Iterator[Finding]:
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    versions = (
        {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}
        if "alembic_version" in tables
        else set()
    )
    yield from _schema(versions, lambda table: {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')})


def _schema(versions: set[str], columns_of: Callable[[str], set[str]]) -> Iterator[Finding]:
    if not versions:
        yield Finding("schema", ERROR, "it is not a database of AskTell", "give the path that the server has in --db")
    elif versions - known_revisions():
        yield Finding(
            "schema",
            ERROR,
            f"a newer release made it (schema {', '.join(versions)})",
            "use that release or a newer one",
        )
    elif versions != {newest_revision()}:
        yield Finding(
            "schema", WARNING, f"its schema is {', '.join(versions)}, not {newest_revision()}", "`asktell migrate`"
        )
    else:
        for name, table in metadata.tables.items():
            missing = sorted({column.name for column in table.c} - columns_of(name))
            if missing:
                yield Finding("schema", ERROR, f"table {name} lacks {', '.join(missing)}", RESTORE)


# The rows ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Moment:
    """When the examination is made, what is old, and whether a server is at work."""

    now: datetime
    stale: timedelta
    served: bool


class _Rows:
    """The rows of a database of either kind: as they are, and as the storage reads them."""

    def __init__(self, all_: Callable[[str], Sequence[Any]], tx: Snapshot) -> None:
        """`all_` runs a query without parameters."""
        self.all = all_
        self.tx = tx


def _rows(rows: _Rows, moment: _Moment) -> Iterator[Finding]:
    tx = rows.tx
    for study_id, project, name in rows.all("SELECT id, project, name FROM studies ORDER BY id"):
        where = f"projects/{project}/studies/{name}"
        try:
            study = tx.study_by_id(study_id)
        except UNREADABLE as error:
            yield Finding("study", ERROR, f"{where} cannot be read: {_shown(error)}", RESTORE)
            continue
        assert study is not None
        yield from _unreadable(rows, study_id, where)
        try:
            trials = tx.trials(study_id, limit=10**9)
        except UNREADABLE:
            continue  # each has been named
        for check in _CHECKS:
            try:
                wrong = list(check(study, trials, moment))
            except UNREADABLE as error:
                yield Finding("study", ERROR, f"{where}: what its rows hold makes no sense: {_shown(error)}", RESTORE)
                break
            for finding in wrong[:MAX_SHOWN]:
                yield Finding(finding.check, finding.severity, f"{where}: {finding.message}", finding.mend)
            if len(wrong) > MAX_SHOWN:
                yield Finding(
                    wrong[0].check, wrong[0].severity, f"{where}: and {len(wrong) - MAX_SHOWN} more", wrong[0].mend
                )
        yield from _measurements(rows, study, where)
    yield from _requests(rows, moment)
    yield from _tokens(rows)


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


def _unreadable(rows: _Rows, study_id: int, where: str) -> Iterator[Finding]:
    columns = ", ".join(column.name for column in codec.TRIAL_COLUMNS)
    for row in rows.all(f"SELECT {columns} FROM trials WHERE study_id = {study_id:d}"):  # noqa: S608 - our own names and a number
        try:
            codec.trial_from_row(row)
        except UNREADABLE as error:
            yield Finding("trial", ERROR, f"{where}: trial {row[0]} cannot be read: {_shown(error)}", RESTORE)


def _measurements(rows: _Rows, study: Study, where: str) -> Iterator[Finding]:
    columns = "number, step, revision, measurement"
    found_rows = rows.all(
        f"SELECT {columns} FROM measurements WHERE study_id = {study.id:d} ORDER BY number, step"  # noqa: S608 - our own names and a number
    )
    for number, step, revision, text in found_rows:
        try:
            found = codec.measurement_from_text(text)
        except UNREADABLE as error:
            yield Finding("measurement", ERROR, f"{where}: trial {number}, step {step}: {_shown(error)}", RESTORE)
            continue
        if found.step != step or revision > study.revision:
            yield Finding(
                "measurement", ERROR, f"{where}: trial {number}, step {step} is not what its row says", RESTORE
            )


def _requests(rows: _Rows, moment: _Moment) -> Iterator[Finding]:
    oldest = codec.time_to_us(moment.now - 2 * LIFETIME)
    ((count,),) = rows.all(f"SELECT count(*) FROM requests WHERE time < {oldest:d}")  # noqa: S608 - a number
    if count and moment.served:
        yield Finding(
            *(
                "requests",
                WARNING,
                f"{count} request ids are older than twice their lifetime: they are not being forgotten",
            ),
            "look for `housekeeping` in the server's log",
        )
    for scope, request_id, fingerprint, response in rows.all(
        "SELECT scope, request_id, fingerprint, response FROM requests"
    ):
        try:
            codec.request_from_row((fingerprint, response))
        except UNREADABLE as error:
            yield Finding("requests", ERROR, f"request {request_id!r} of {scope}: {_shown(error)}", RESTORE)


def _tokens(rows: _Rows) -> Iterator[Finding]:
    columns = ", ".join(column.name for column in codec.TOKEN_COLUMNS)
    for row in rows.all(f"SELECT {columns} FROM tokens ORDER BY id"):  # noqa: S608 - our own names
        mend = f"`asktell token revoke {row[0]}`, and make another"
        try:
            token = codec.token_from_row(row)
            wrong = [grant.project for grant in token.grants if grant.project is not None and not is_id(grant.project)]
        except UNREADABLE as error:
            yield Finding("tokens", ERROR, f"token {row[0]} cannot be read: {_shown(error)}", mend)
            continue
        if not token.grants:
            yield Finding("tokens", ERROR, f"token {row[0]} holds no role", mend)
        elif wrong:
            yield Finding(
                "tokens", ERROR, f"token {row[0]} holds roles in what is no project: {shown_list(wrong)}", mend
            )


def _names(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    for what, name in (("project", study.project), ("study", study.name)):
        if not is_id(name):
            yield Finding("names", ERROR, f"{shown(name)} is no id of a {what}: nobody can ask for it", RESTORE)
    for of, labels in (("its", study.labels), *((f"trial {trial.number}: the", trial.labels) for trial in trials)):
        held: object = labels
        if not isinstance(held, dict):
            yield Finding("labels", ERROR, f"{of} labels are {shown(held)}, not names with values", RESTORE)
            continue
        for violation in label_violations(held):
            yield Finding("labels", ERROR, f"{of} {violation.field} {violation.description}", RESTORE)


def _contents(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    for trial in trials:
        point: object = trial.point
        if not isinstance(point, dict):
            yield Finding("trial", ERROR, f"trial {trial.number} has no parameters but {point!r}"[:200], RESTORE)
            continue
        wrong = study.spec.space.checked(point)[1]
        if trial.state is TrialState.SUCCEEDED and trial.measurement is None:
            wrong.append(Violation("measurement", "is missing"))
        elif trial.state is TrialState.SUCCEEDED and trial.measurement is not None:
            wrong += trial.measurement.final_violations(study.spec.objectives, study.spec.constraints)
        if wrong:
            message = f"trial {trial.number}: {wrong[0].field} {wrong[0].description}"
            yield Finding("trial", ERROR, message, RESTORE)


def _counts(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    real = Counter(trial.state for trial in trials)
    for state in TrialState:
        if study.count(state) != real[state]:
            message = f"it counts {study.count(state)} trials {state.name}, there are {real[state]}"
            yield Finding("counts", ERROR, message, RESTORE)


def _numbers(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    numbers = [trial.number for trial in trials]
    if numbers and study.next_number <= max(numbers):
        message = f"the next number is {study.next_number}, but trial {max(numbers)} exists"
        yield Finding("numbers", ERROR, message, RESTORE)
    missing = sorted(set(range(1, study.next_number)) - set(numbers))
    if missing:
        shown = ", ".join(map(str, missing[:MAX_SHOWN]))
        yield Finding("numbers", ERROR, f"{len(missing)} trials are missing: {shown}", RESTORE)


def _revisions(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    told: dict[int, Trial] = {}
    for trial in trials:
        finished = trial.finish_revision
        if trial.revision > study.revision:
            message = f"trial {trial.number} is at revision {trial.revision}, the study at {study.revision}"
            yield Finding("revisions", ERROR, message, RESTORE)
        if trial.state.has_result != (finished is not None) or (finished or 0) > trial.revision:
            message = f"trial {trial.number} is {trial.state.name}, its result has revision {finished}"
            yield Finding("revisions", ERROR, message, RESTORE)
        # Trials that are imported together share theirs; a result that is told has one of its own.
        if finished is not None and trial.start_time is not None:
            if finished in told:
                message = (
                    f"trials {told[finished].number} and {trial.number} got their results at one revision, {finished}"
                )
                yield Finding("revisions", ERROR, message, RESTORE)
            told[finished] = trial


def _best(study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    if len(study.spec.objectives) > 1:
        return
    metric = study.spec.objective.metric
    finished = {trial.number: trial.finish_revision or 0 for trial in trials if trial.state is TrialState.SUCCEEDED}
    values = {
        trial.number: trial.measurement.metrics[metric]
        for trial in trials
        if trial.state is TrialState.SUCCEEDED
        and trial.measurement is not None
        and study.spec.is_feasible(trial.measurement)
    }
    kept = None if study.best_number is None else values.get(study.best_number)
    better = [number for number, value in values.items() if kept is None or study.spec.objective.is_better(value, kept)]
    if better or study.best_value != kept:
        message = f"the best trial is said to be {study.best_number} ({study.best_value})"
        yield Finding("best", ERROR, message + (f", but {better[0]} is better" if better else ""), RESTORE)
        return
    since = finished.get(study.best_number or 0)
    then = 0 if since is None else sum(revision <= since for revision in finished.values())
    if study.successes_at_best != then:
        message = f"{study.successes_at_best} trials are said to have succeeded when the best one came, it was {then}"
        yield Finding("best", ERROR, message, RESTORE)


def _retries(_study: Study, trials: Sequence[Trial], _: _Moment) -> Iterator[Finding]:
    by_number = {trial.number: trial for trial in trials}
    for trial in trials:
        if trial.retry_of is None:
            continue
        before = by_number.get(trial.retry_of)
        if (
            before is None
            or before.number >= trial.number
            or trial.attempt != before.attempt + 1
            or trial.point != before.point
        ):
            yield Finding("retries", ERROR, f"trial {trial.number} does not repeat trial {trial.retry_of}", RESTORE)


def _leases(study: Study, trials: Sequence[Trial], moment: _Moment) -> Iterator[Finding]:
    lease = study.spec.trial_policy.lease
    for trial in trials:
        if trial.state is not TrialState.RUNNING:
            continue
        until = trial.lease_expire_time
        if lease is None:
            if trial.start_time is not None and moment.now - trial.start_time > moment.stale:
                since = f"{trial.start_time:%Y-%m-%d %H:%M}"
                message = (
                    f"trial {trial.number} of {trial.worker or 'an unnamed worker'} runs since {since} without a lease"
                )
                yield Finding(
                    "stale", WARNING, message, "if its worker is gone, tell that it failed; new studies: set a lease"
                )
        elif until is None:
            yield Finding(
                "leases", ERROR, f"trial {trial.number} runs without the lease of its study", "tell that it failed"
            )
        elif until > moment.now + lease + SLACK:
            message = f"the lease of trial {trial.number} ends {until - moment.now} from now, leases last {lease}"
            yield Finding(
                "leases",
                WARNING,
                message,
                "a clock was ahead when it was given: see to the clock; it ends then, or when the trial is told",
            )
        elif moment.served and until < moment.now - SLACK - lease:
            message = f"the lease of trial {trial.number} has run out at {until:%Y-%m-%d %H:%M:%S} and nobody took note"
            yield Finding("leases", WARNING, message, "look for `housekeeping` in the server's log")


_CHECKS: Sequence[Callable[[Study, Sequence[Trial], _Moment], Iterator[Finding]]] = (
    _names,
    _contents,
    _counts,
    _numbers,
    _revisions,
    _best,
    _retries,
    _leases,
)
