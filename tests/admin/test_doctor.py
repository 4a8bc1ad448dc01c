"""`asktell doctor`: every finding that it can report, on damage that was planted; and nothing on a database that is well."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tracemalloc
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from asktell_server.admin.__main__ import commands
from asktell_server.admin.examine import examine
from asktell_server.storage.sqlite import lock_file
from asktell_server.storage.wal import lost_commits
from asktell_server.testing.postgresql import PostgresServer

from ..rpc.calls import ask_one
from ..support import serving, stub
from .commands import asktell, fill, filled

KEPT = "projects/default/studies/kept"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in order; not to be written."""
    return filled(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to harm."""
    copy = tmp_path / "studies.db"
    shutil.copy(whole, copy)
    return copy


def examined(path: Path) -> tuple[int, list[dict[str, str]]]:
    """The exit status and the findings."""
    done = asktell("doctor", "--db", path, "--json")
    return read(done.returncode, done.stdout)


def read(status: int, output: str) -> tuple[int, list[dict[str, str]]]:
    """What doctor says with --json."""
    report: dict[str, Any] = json.loads(output)
    assert report["status"] == status
    return status, report["findings"]


def change(path: Path, *statements: str) -> None:
    """Harms the rows."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_database_that_is_well_has_no_finding(path: Path) -> None:
    """Status 0, and the text says so."""
    done = asktell("doctor", "--db", path)

    assert (done.returncode, done.stdout) == (0, f"{path}: nothing is wrong\n"), done.stderr


def test_a_database_in_use_is_examined(tmp_path: Path) -> None:
    """Beside a server, and after it was killed: nothing is found, and the server goes on."""
    with serving(tmp_path) as server, stub(server.target) as service:
        fill(server)
        beside = examined(Path(server.database))
        ask_one(service, KEPT)
        server.kill()
        after = examined(Path(server.database))

    assert beside == after == (0, [])


@pytest.mark.parametrize(
    ("days", "status"), [("nan", 2), ("inf", 2), ("1e308", 2), ("36501", 2), ("-1", 2), ("36500", 0), ("0.5", 0)]
)
def test_days_that_no_date_is_ago_are_refused(path: Path, days: str, status: int) -> None:
    """A wrong `--stale-days` ends in a message that names it."""
    done = CliRunner().invoke(commands, ["doctor", "--db", str(path), "--stale-days", days])

    assert done.exit_code == status
    assert ("Invalid value for '--stale-days'" in done.stderr) == (status == 2)


ROWS = [
    ("UPDATE studies SET succeeded_count = succeeded_count + 1", "counts", "counts 8 trials SUCCEEDED, there are 7"),
    ("UPDATE studies SET next_number = 3 WHERE name = 'kept'", "numbers", "the next number is 3, but trial 8 exists"),
    ("DELETE FROM trials WHERE number = 2", "numbers", "1 trials are missing: 2"),
    ("UPDATE studies SET revision = 2 WHERE name = 'kept'", "revisions", "is at revision"),
    (
        (
            "INSERT INTO requests (scope, request_id, fingerprint, response, time) "
            "SELECT 'Ask x', 'words', fingerprint, '{\"numbers\":[\"x\"]}', time FROM requests LIMIT 1"
        ),
        "requests",
        "request 'words' of 'Ask x': it is said to have answered",
    ),
    (
        (
            "INSERT INTO requests (scope, request_id, fingerprint, response, time) "
            "SELECT 'Ask x', 'large', fingerprint, '{\"numbers\":[99999999999999999999]}', time FROM requests LIMIT 1"
        ),
        "requests",
        "request 'large' of 'Ask x': it is said to have answered",
    ),
    ("UPDATE trials SET finish_revision = NULL WHERE number = 7", "revisions", "its result has revision None"),
    (
        "UPDATE trials SET finish_revision = (SELECT finish_revision FROM trials t WHERE t.number = 6) WHERE number = 7",
        "revisions",
        "trials 6 and 7 got their results at one revision",
    ),
    ("UPDATE studies SET best_number = 7, best_value = '0.8' WHERE name = 'kept'", "best", "but 1 is better"),
    ("UPDATE studies SET successes_at_best = 30 WHERE name = 'kept'", "best", "30 trials are said to have succeeded"),
    ("UPDATE studies SET project = 'not an id'", "names", "'not an id' is no id of a project"),
    ("UPDATE studies SET name = '' WHERE name = 'kept'", "names", "'' is no id of a study"),
    ("UPDATE studies SET labels = '[]' WHERE name = 'kept'", "labels", "its labels are [], not names with values"),
    ("UPDATE studies SET labels = '{\"\":\"x\"}' WHERE name = 'kept'", "labels", "its labels[''] the key must"),
    ("UPDATE trials SET labels = '[1]' WHERE number = 7", "labels", "trial 7: the labels are [1]"),
    *(
        (
            f"INSERT INTO tokens (id, digest, name, grants, create_time) VALUES ('broken', 'd', 'n', '{grants}', 0)",
            "tokens",
            f"token broken {wrong}",
        )
        for grants, wrong in (
            ("[", "cannot be read"),
            ('[["KING", null]]', "cannot be read: KeyError"),
            ('[["VIEWER", 5]]', "cannot be read: TypeError"),
            ("[]", "holds no role"),
            ('[["VIEWER", "a/b"]]', "holds roles in what is no project: ['a/b']"),
        )
    ),
    ("UPDATE trials SET attempt = 2, retry_of = 1 WHERE number = 8", "retries", "trial 8 does not repeat trial 1"),
    ("UPDATE trials SET state = 'LOST' WHERE number = 7", "trial", "trial 7 cannot be read: KeyError"),
    ("UPDATE trials SET parameters = '{' WHERE number = 7", "trial", "trial 7 cannot be read"),
    ("UPDATE trials SET parameters = '[]' WHERE number = 7", "trial", "trial 7 has no parameters but []"),
    ("UPDATE trials SET parameters = '{}' WHERE number = 7", "trial", "trial 7: parameters['x0'] is missing"),
    ("UPDATE trials SET parameters = replace(parameters, '0.', '9.') WHERE number = 7", "trial", "trial 7: parameters"),
    ("UPDATE trials SET measurement = NULL WHERE number = 7", "trial", "trial 7: measurement is missing"),
    ("UPDATE trials SET create_time = 9223372036854775807 WHERE number = 7", "trial", "cannot be read: OverflowError"),
    (f"UPDATE trials SET parameters = '{'[' * 100_000}' WHERE number = 7", "trial", "cannot be read: RecursionError"),
    (
        'UPDATE trials SET predictions = \'{"loss":["x",1]}\' WHERE number = 7',
        "trial",
        "trial 7 cannot be read: TypeError",
    ),
    (
        "UPDATE trials SET state = 'FAILED', measurement = '{\"metrics\":{\"loss\":NaN}}' WHERE number = 7",
        "trial",
        "trial 7: metrics['loss'] must be a finite number",
    ),
    (
        'UPDATE trials SET measurement = \'{"metrics":{"loss":"x"}}\' WHERE number = 7',
        "trial",
        "trial 7 cannot be read",
    ),
    (
        "UPDATE studies SET next_number = 9223372036854775807",
        "numbers",
        "9223372036854775798 trials are missing: 9, 10",
    ),
    (
        "UPDATE studies SET spec = replace(spec, '\"max\":1.0', '\"max\":-1.0')",
        "study",
        "parameters[0].float.max must be",
    ),
    ("UPDATE studies SET spec = '{}' WHERE name = 'kept'", "study", "cannot be read: KeyError"),
    ("UPDATE studies SET best_value = '\"x\"' WHERE name = 'kept'", "best", "the best trial is said to be 1 (x)"),
    ("UPDATE studies SET spec = '{\"version\":99}' WHERE name = 'kept'", "study", "has version 99"),
    ("UPDATE measurements SET measurement = '[]' WHERE number = 6", "measurement", "trial 6, step 1"),
    ("UPDATE measurements SET step = 5 WHERE number = 6", "measurement", "is not what its row says"),
    ("UPDATE requests SET response = 'x'", "requests", "request 'told 0.9'"),
    ("UPDATE requests SET response = '[]'", "requests", "is said to have answered []"),
    ("UPDATE requests SET scope = 'Ask x'", "requests", "of 'Ask x': it is said to have answered {}"),
    (
        "UPDATE trials SET lease_expire_time = NULL WHERE lease_expire_time > 0",
        "leases",
        "without the lease of its study",
    ),
    (
        "UPDATE trials SET lease_expire_time = lease_expire_time + 86400000000 WHERE lease_expire_time > 0",
        "leases",
        "leases last 1:00:00",
    ),
    (
        "UPDATE trials SET start_time = start_time - 8 * 86400000000 WHERE number = 8",
        "stale",
        "trial 8 of w runs since",
    ),
    ("DELETE FROM studies WHERE name = 'kept'", "foreign keys", "rows whose study or trial is missing"),
    ("UPDATE alembic_version SET version_num = 'r9999'", "schema", "a newer release made it"),
    ("DELETE FROM alembic_version", "schema", "not a database of AskTell"),
    ("ALTER TABLE trials DROP COLUMN notes", "schema", "table trials lacks notes"),
]


# SQLite keeps in a column what PostgreSQL would refuse.
TYPES = [
    (
        "UPDATE trials SET revision = 'x' WHERE number = 7",
        "revision of the row with study_id 1, number 7 in trials is 'x'",
    ),
    (
        "UPDATE trials SET attempt = 'x'",
        "attempt of the row with study_id 1, number 1 in trials is 'x', not a whole number",
    ),
    ("UPDATE trials SET attempt = 'x'", "and 4 more"),
    ("UPDATE studies SET revision = x'00' WHERE name = 'kept'", "revision of the row with id 1 in studies is b'\\x00'"),
    ("UPDATE studies SET next_number = 1e300", "next_number of the row with id 1 in studies is 1e+300"),
    ("UPDATE measurements SET revision = 'x' WHERE number = 6", "number 6, step 1 in measurements is 'x'"),
    ("UPDATE trials SET notes = x'ff'", "notes of the row with study_id 1, number 1 in trials is b'\\xff', not text"),
    (
        "UPDATE trials SET worker = CAST(x'ff' AS TEXT)",
        "worker of the row with study_id 1, number 1 in trials is b'\\xff'",
    ),
    ("UPDATE requests SET time = 'x'", "time of the row with scope 'Tell "),
    (
        "UPDATE studies SET state = CAST(x'41ff' AS TEXT), name = CAST(x'ff' || rowid AS TEXT)",
        "state of the row with id 1",
    ),
]
ALL_ROWS = [*ROWS, *((statement, "types", message) for statement, message in TYPES)]


@pytest.mark.parametrize(("statement", "check", "message"), ALL_ROWS, ids=[message[:40] for _, _, message in ALL_ROWS])
def test_rows_that_do_not_fit_together_are_found(statement: str, check: str, message: str, path: Path) -> None:
    """Each finding names the place, how bad it is and what to do; the exit status is that of the worst."""
    change(path, statement)

    done = CliRunner().invoke(
        commands, ["doctor", "--db", str(path), "--json"]
    )  # the command, without a process for each case
    status, findings = read(done.exit_code, done.stdout)

    found = [finding for finding in findings if finding["check"] == check and message in finding["message"]]
    assert found, findings
    assert all(finding["mend"] for finding in findings)
    assert status == max({"warning": 1, "error": 2}[finding["level"]] for finding in findings)


def examined_postgresql(url: str) -> tuple[int, list[dict[str, str]]]:
    """As `examined`, without a process."""
    done = CliRunner().invoke(commands, ["doctor", "--db", url, "--json"])
    return read(done.exit_code, done.stdout)


@pytest.fixture(scope="module")
def whole_postgresql(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same on PostgreSQL; examined beside its server and after it, nothing was found."""
    url = postgres.new_database()
    with serving(tmp_path_factory.mktemp("postgresql"), database=url) as server:
        fill(server)
        beside = examined_postgresql(url)
        assert server.stop() == 0
    assert beside == examined_postgresql(url) == (0, [])
    return url


# Types and foreign keys are PostgreSQL's own business.
ON_POSTGRESQL = [row for row in ROWS if row[1] != "foreign keys"]


@pytest.mark.parametrize(
    ("statement", "check", "message"), ON_POSTGRESQL, ids=[message[:40] for _, _, message in ON_POSTGRESQL]
)
def test_rows_on_postgresql_are_examined_too(
    statement: str, check: str, message: str, whole_postgresql: str, postgres: PostgresServer
) -> None:
    """With the same findings."""
    url = postgres.new_database(like=whole_postgresql)
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no foreign keys
        connection.execute(statement)

    status, findings = examined_postgresql(url)

    assert [finding for finding in findings if finding["check"] == check and message in finding["message"]], findings
    assert status == max({"warning": 1, "error": 2}[finding["level"]] for finding in findings)


def test_what_doctor_advises_on_postgresql_can_be_done(whole_postgresql: str, postgres: PostgresServer) -> None:
    """No restore of files. A token that cannot be read is neither found nor in the way once it is revoked. Two schemas end in a line."""
    url = postgres.new_database(like=whole_postgresql)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("INSERT INTO tokens VALUES ('t1', 'x', 'n', '[[\"KING\", null]]', 1, NULL, NULL)")
        bad_token = examined_postgresql(url)
        revoked = asktell("token", "revoke", "t1", "--db", url)
        after, listed = examined_postgresql(url), asktell("token", "list", "--db", url)
        connection.execute("UPDATE studies SET succeeded_count = succeeded_count + 1")
        counts = examined_postgresql(url)
        connection.execute("INSERT INTO alembic_version VALUES ('r0001')")
        versions, migrated = examined_postgresql(url), asktell("migrate", "--db", url)

    assert "asktell token revoke t1" in bad_token[1][0]["mend"]
    assert (revoked.returncode, after, listed.returncode) == (0, (0, []), 0), listed.stderr
    assert all("pg_restore" in finding["mend"] for finding in counts[1] + versions[1])
    assert "of several schemas" in versions[1][0]["message"]
    assert migrated.returncode == 1
    assert "Traceback" not in migrated.stderr
    assert "cannot be brought up to date" in migrated.stderr


def test_what_is_no_database_on_postgresql_is_found(postgres: PostgresServer) -> None:
    """An empty one, and one that is not there: status 2, no password in what is said, and nothing is made."""
    url = postgres.new_database()

    empty, again = examined_postgresql(url), examined_postgresql(url)
    missing = CliRunner().invoke(commands, ["doctor", "--db", postgres.url("nowhere", password="s3cret")])
    log = CliRunner().invoke(commands, ["doctor", "--db", url, "--discard-damaged-log"])

    assert empty == again
    assert (empty[0], empty[1][0]["message"]) == (2, "it is not a database of AskTell")
    assert missing.exit_code == 2
    assert '"nowhere" does not exist' in missing.output
    assert "s3cret" not in missing.output
    assert log.exit_code == 2
    assert "--discard-damaged-log is for SQLite" in log.output


def test_a_damaged_page_is_found(path: Path) -> None:
    """SQLite's own examination is passed on."""
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content), 4096):
        content[at : at + 200] = bytes(200)
    path.write_bytes(content)

    status, findings = examined(path)

    assert status == 2
    assert findings[0]["check"] == "integrity"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_database_where_nothing_can_be_written_is_examined_and_copied(path: Path, tmp_path: Path) -> None:
    """A stopped one on a read-only mount, such as a snapshot of a disk, though SQLite would write beside it."""
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    shutil.copy(path, snapshot)
    if subprocess.run(["mount", "--bind", snapshot, snapshot], check=False).returncode:
        pytest.skip("mounts are not allowed here")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", snapshot], check=True)
        found = examined(snapshot / path.name)
        made = asktell("backup", tmp_path / "copy.db", "--db", snapshot / path.name)
    finally:
        subprocess.run(["umount", "-l", snapshot], check=True)

    assert found == (0, [])
    assert made.returncode == 0, made.stderr


def test_what_is_no_database_is_found(tmp_path: Path) -> None:
    """A file of another kind, and none."""
    (tmp_path / "text").write_text("hello, this is no database")

    for name, message in (("text", "not a SQLite database"), ("none", "cannot open")):
        status, findings = examined(tmp_path / name)
        assert status == 2
        assert message in findings[0]["message"]


def torn_in_the_middle(folder: Path) -> Path:
    """A database whose server was killed, and whose log then lost a bit in the middle."""
    with serving(folder) as server:
        fill(server)
        server.kill()
        log = Path(server.database + "-wal")
        content = bytearray(log.read_bytes())
        content[len(content) // 2] ^= 1
        log.write_bytes(content)
        return Path(server.database)


def test_a_log_that_is_damaged_before_its_end_is_never_served(tmp_path: Path) -> None:
    """Doctor, server, backup: each says that commits are lost, and none touches the log; the operator may go on without them."""
    path = torn_in_the_middle(tmp_path)
    before = Path(f"{path}-wal").read_bytes()

    status, findings = examined(path)
    served, copied = (
        asktell("serve", "--db", path, "--listen", "127.0.0.1:0"),
        asktell("backup", tmp_path / "b", "--db", path),
    )

    assert status == 2
    assert findings[0]["check"] == "log"
    assert "--discard-damaged-log" in findings[0]["mend"]
    for refused in (served, copied):
        assert refused.returncode == 1
        assert "is damaged" in refused.stderr
    assert Path(f"{path}-wal").read_bytes() == before

    accepted = asktell("doctor", "--db", path, "--discard-damaged-log")
    assert accepted.returncode == 0, accepted.stdout
    with serving(tmp_path, database=str(path)):
        pass


def test_where_no_database_is_none_is_made(tmp_path: Path) -> None:
    """A path with a mistake in it is said to be empty, also to who would discard a log."""
    done = asktell("doctor", "--db", tmp_path / "none.db", "--discard-damaged-log")

    assert done.returncode == 2
    assert "cannot open" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("at", [0, 5, 9, 13, 17, 26])
def test_a_damaged_header_of_the_log_is_damage(at: int, tmp_path: Path) -> None:
    """SQLite would take the log for empty, whichever field is wrong: the server, and doctor, say what would be lost."""
    with serving(tmp_path) as server:
        fill(server)
        server.kill()
        path = Path(server.database)
    log = Path(f"{path}-wal")
    content = bytearray(log.read_bytes())
    assert lost_commits(log) == 0
    content[at] ^= 0xFF
    log.write_bytes(content)

    served = asktell("serve", "--db", path, "--listen", "127.0.0.1:0")

    assert lost_commits(log) > 5
    assert served.returncode == 1
    assert "is damaged" in served.stderr
    assert log.read_bytes() == content
    assert examined(path)[1][0]["check"] == "log"


def test_a_torn_end_of_the_log_is_no_damage(tmp_path: Path) -> None:
    """What a power failure leaves of the last, unacknowledged transaction is not reported, and all before it is there."""
    with serving(tmp_path) as server:
        fill(server)
        server.kill()
        log = Path(server.database + "-wal")
        whole = log.read_bytes()
        for kept in (len(whole) - 1, len(whole) - 5000):
            log.write_bytes(whole[:kept] + os.urandom(3000))
            assert lost_commits(log) == 0
            assert examined(Path(server.database))[0] == 0
            log.write_bytes(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a small file system")
def test_a_disk_without_room_is_found(path: Path, tmp_path: Path) -> None:
    """The examination warns before the disk is full."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copy(path, small / "studies.db")
        status, findings = examined(small / "studies.db")
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)

    assert (status, findings[0]["check"]) == (2, "disk")


def test_what_a_database_holds_does_not_steer_the_terminal(path: Path) -> None:
    """Characters that are not to be printed are shown as what they are."""
    change(path, "UPDATE studies SET project = 'a' || char(27) || '[2J' || char(10) || 'b'")

    done = CliRunner().invoke(commands, ["doctor", "--db", str(path)])

    assert done.exit_code == 2
    assert "\x1b" not in done.output
    assert r"a\x1b[2J\nb" in done.output


def broken(path: Path) -> None:
    """Damages the schema's text, so that SQLite's message quotes what is no text."""
    path.write_bytes(path.read_bytes().replace(b"AUTOINCREMENT", b"\xd7UTOINCREMENT"))


def test_a_damaged_schema_ends_every_command_in_a_line(path: Path, tmp_path: Path) -> None:
    """A finding, or an error; no traceback, and no file is made."""
    broken(path)
    before = sorted(tmp_path.iterdir())

    status, findings = examined(path)
    served = asktell("serve", "--db", path, "--listen", "127.0.0.1:0")
    others = [
        CliRunner().invoke(commands, list(map(str, arguments)))
        for arguments in (
            ("backup", tmp_path / "copy.db", "--db", path),
            ("restore", path, "--db", tmp_path / "new.db"),
            ("migrate", "--db", path),
            ("token", "list", "--db", path),
        )
    ]

    assert (status, findings[0]["check"]) == (2, "integrity")
    assert "cannot be read" in findings[0]["message"]
    assert served.returncode == 1
    assert served.stderr.startswith("Error: cannot open the database")
    for done in others:
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit), done.exception
        assert done.output.startswith("Error: ")
    assert set(tmp_path.iterdir()) == {*before, path.with_name("studies.db.lock")}


@pytest.mark.parametrize(
    ("statement", "arguments"),
    [
        ("UPDATE studies SET spec = '{}' WHERE name = 'kept'", ("serve", "--listen", "127.0.0.1:0")),
        (
            "INSERT INTO tokens (id, digest, name, grants, create_time) VALUES ('i', 'd', 'n', '[', 0)",
            ("token", "list"),
        ),
    ],
)
def test_rows_that_cannot_be_read_end_a_command_in_a_line(
    statement: str, arguments: tuple[str, ...], path: Path
) -> None:
    """Which says who can tell more."""
    change(path, statement)

    done = asktell(*arguments, "--db", path)

    assert done.returncode == 1
    assert "asktell doctor" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_damaged_ends_in_findings(seed: int, path: Path) -> None:
    """Bytes changed anywhere, and files cut off: nothing is found, or errors with what to do, in a moment."""
    random = Random(seed)
    content = bytearray(path.read_bytes())
    for _ in range(random.choice([1, 3, 20, 200])):
        content[random.randrange(len(content))] = random.randrange(256)
    path.write_bytes(content[: random.randrange(len(content))] if seed % 5 == 0 else content)

    done = CliRunner().invoke(commands, ["doctor", "--db", str(path), "--json"])

    assert isinstance(done.exception, SystemExit | None), done.exception
    status, findings = read(done.exit_code, done.stdout)
    assert status == (2 if findings else 0)


def test_what_doctor_cannot_do_is_an_error_too(path: Path) -> None:
    """Status 1 is for warnings: a log that a server still writes to, a database in memory, a URL with a slip."""
    with closing(sqlite3.connect(path)), lock_file(str(path)):
        served = CliRunner().invoke(commands, ["doctor", "--db", str(path), "--discard-damaged-log", "--json"])
    memory, slip = (CliRunner().invoke(commands, ["doctor", "--db", url]) for url in (":memory:", "sqlite://a.db"))

    status, findings = read(served.exit_code, served.stdout)
    assert (status, findings[0]["check"]) == (2, "log")
    assert "another server" in findings[0]["message"]
    assert memory.exit_code == slip.exit_code == 2
    assert "sqlite:///a.db" in slip.output
    assert not Path("a.db").exists()


def test_a_long_history_is_not_held_in_memory(path: Path) -> None:
    """The examination takes hardly more for a hundred times the trials, each with a long note."""

    def peak() -> int:
        tracemalloc.start()
        try:
            examine(path, datetime.now(UTC), 7)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few = peak()
    change(
        path,
        "WITH RECURSIVE n (i) AS (SELECT 9 UNION ALL SELECT i + 1 FROM n WHERE i < 900) INSERT INTO trials "
        "SELECT study_id, i, 'FAILED', '', revision, revision, create_time, NULL, end_time, NULL, '', 1, NULL, parameters, source, "
        "predictions, detail, NULL, labels, hex(zeroblob(10000)) FROM n, trials WHERE study_id = 1 AND number = 7",
        "UPDATE studies SET next_number = 901, failed_count = failed_count + 892 WHERE id = 1",
    )

    assert not examine(path, datetime.now(UTC), 7)
    assert peak() < few + 2_000_000
