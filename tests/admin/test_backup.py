"""`asktell backup` and `asktell restore`: whole copies of a database in use, put back whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asktell_server.admin.__main__ import commands
from asktell_server.admin.partial import partial

from ..rpc.calls import ask_one, every_trial, number, study_of, tell
from ..support import serving, stub
from .commands import asktell, fill, filled

STUDY = "projects/default/studies/kept"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database in order; not to be written."""
    return filled(tmp_path_factory.mktemp("whole"))


def trials_in(path: Path) -> int:
    """Trials in a database."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM trials").fetchone()[0])


def partials(folder: Path) -> list[Path]:
    """What is unfinished, or was left unfinished, in a folder."""
    return list(folder.glob(".*.asktell-partial"))


def mode(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def test_a_backup_under_load_is_one_moment(tmp_path: Path) -> None:
    """While clients write, a backup is made again and again; each is whole, and served again holds all that was told before it."""
    told: list[int] = []
    end = threading.Event()
    with serving(tmp_path) as server:
        fill(server)

        def work() -> None:
            with stub(server.target) as service:
                while not end.is_set():
                    trial = ask_one(service, STUDY)
                    tell(service, trial.name, 0.5)
                    told.append(number(trial))

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for i in range(2):
                while len(told) < 20 * (i + 1):
                    time.sleep(0.01)
                before = list(told)
                done = asktell("backup", tmp_path / f"copy{i}.db", "--db", server.database)
                assert done.returncode == 0, done.stderr
                assert "2 studies" in done.stdout
        finally:
            end.set()
            thread.join()
    assert {path.name for path in tmp_path.glob("copy*")} == {"copy0.db", "copy1.db"}

    with serving(tmp_path, database=str(tmp_path / "copy1.db")) as again, stub(again.target) as service:
        kept = {number(trial) for trial in every_trial(service, STUDY)}
        assert set(before) <= kept
        assert study_of(service, STUDY).trial_counts.succeeded >= len(before)


def test_a_restored_database_is_the_one_of_the_backup(tmp_path: Path) -> None:
    """What came after the backup is gone, what was there before is served; the replaced database is kept."""
    path, copy = filled(tmp_path), tmp_path / "copy.db"
    assert asktell("backup", copy, "--db", path).returncode == 0
    with serving(tmp_path, database=str(path)) as server, stub(server.target) as service:
        later = ask_one(service, STUDY)
        server.kill()

    refused = asktell("restore", copy, "--db", path)
    done = asktell("restore", copy, "--db", path, "--force")

    assert refused.returncode == 1
    assert "--force" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert trials_in(path) == trials_in(copy) == number(later)  # one fewer in this study, and one of the other
    assert trials_in(path.with_name("studies.db.replaced")) == trials_in(copy) + 1
    with serving(tmp_path, database=str(path)) as server, stub(server.target) as service:
        assert number(ask_one(service, STUDY)) == number(later)
    assert asktell("doctor", "--db", path).returncode == 0


def test_no_restore_overwrites_what_an_earlier_one_replaced(tmp_path: Path) -> None:
    """Each gets a name of its own, which the command says; a damaged log is kept beside its own database."""
    path, copy = filled(tmp_path), tmp_path / "copy.db"
    assert asktell("backup", copy, "--db", path).returncode == 0
    with serving(tmp_path, database=str(path)) as server, stub(server.target) as service:
        for _ in range(5):
            ask_one(service, STUDY)
        server.kill()
    log, kept = Path(f"{path}-wal"), path.with_name("studies.db.replaced")
    content = bytearray(log.read_bytes())
    content[40] ^= 1  # in the first frame
    log.write_bytes(content)
    path.chmod(0o640)

    first = asktell("restore", copy, "--db", path, "--force")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM requests")
        connection.commit()
    second, third = (asktell("restore", copy, "--db", path, "--force") for _ in range(2))

    assert (first.returncode, second.returncode, third.returncode) == (0, 0, 0), first.stderr + second.stderr
    assert f"kept as {kept}\n" in first.stdout
    assert f"kept as {kept}-2\n" in second.stdout
    assert f"kept as {kept}-3\n" in third.stdout
    assert "tokens of the replaced database cannot be read" in first.stderr
    assert second.stderr == third.stderr == ""
    assert Path(f"{kept}-wal").read_bytes() == content
    assert not Path(f"{kept}-2-wal").exists()
    assert asktell("doctor", "--db", f"{kept}-2").returncode == 0
    assert trials_in(Path(f"{kept}-2")) == trials_in(Path(f"{kept}-3")) == trials_in(copy)
    assert mode(path) == 0o640  # that of the one it replaced


def test_what_was_revoked_since_the_backup_stays_revoked(tmp_path: Path) -> None:
    """The restored database has the backup's tokens, but for what is revoked in the replaced one: that is said, and kept."""
    path, copy = filled(tmp_path), tmp_path / "copy.db"

    def token(*arguments: str) -> str:
        done = asktell("token", *arguments, "--db", path)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    made = [token("create", name, "--role", "viewer", "--project", "p") for name in ("kept", "before", "since")]
    kept, before, since = (text.split("_")[1] for text in made)
    token("revoke", before)
    assert asktell("backup", copy, "--db", path).returncode == 0
    token("revoke", since)
    later = token("create", "later", "--role", "viewer", "--project", "p").split("_")[1]
    token("revoke", later)
    listed = {line["id"]: line for line in map(json.loads, token("list", "--json").splitlines())}

    done = asktell("restore", copy, "--db", path, "--force")

    assert done.returncode == 0, done.stderr
    assert "1 tokens of the backup" in done.stderr
    assert since in done.stderr
    assert not any(other in done.stderr for other in (kept, before, later))
    restored = {line["id"]: line for line in map(json.loads, token("list", "--json").splitlines())}
    assert restored == {token_id: listed[token_id] for token_id in (kept, before, since)}
    assert restored[since]["state"] == "revoked"


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    """Database, log, index, lock, backup and what is restored, whatever the umask; an existing file's mode is left alone."""
    copy, restored, open_ = tmp_path / "copy.db", tmp_path / "restored.db", tmp_path / "open.db"
    open_.touch(0o644)
    before = os.umask(0)
    try:
        with serving(tmp_path) as server:
            fill(server)
            assert asktell("backup", copy, "--db", server.database).returncode == 0
            made = {path.name: mode(path) for path in tmp_path.glob("studies.db*")}
        assert asktell("restore", copy, "--db", restored).returncode == 0
        assert asktell("migrate", "--db", tmp_path / "migrated.db").returncode == 0
        assert asktell("migrate", "--db", open_).returncode == 0
    finally:
        os.umask(before)

    assert made == dict.fromkeys(("studies.db", "studies.db-wal", "studies.db-shm", "studies.db.lock"), 0o600)
    assert mode(copy) == mode(restored) == mode(tmp_path / "migrated.db") == 0o600
    assert mode(open_) == 0o644


def test_a_backup_of_an_earlier_release_is_restored(tmp_path: Path) -> None:
    """It has fewer tables; doctor then says what to do, and after it nothing is wrong."""
    copy, path = filled(tmp_path), tmp_path / "restored.db"
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("DROP TABLE tokens")
        connection.execute("UPDATE alembic_version SET version_num = 'r0001'")
        connection.commit()

    restored = asktell("restore", copy, "--db", path)
    before = asktell("doctor", "--db", path)
    migrated = asktell("migrate", "--db", path)

    assert restored.returncode == 0, restored.stderr
    assert before.returncode == 1
    assert "`asktell migrate`" in before.stdout
    assert migrated.returncode == 0, migrated.stderr
    assert asktell("doctor", "--db", path).returncode == 0


def test_a_restore_beside_a_server_is_refused(tmp_path: Path) -> None:
    """The server's database stays as it is."""
    with serving(tmp_path) as server:
        fill(server)
        assert asktell("backup", tmp_path / "copy.db", "--db", server.database).returncode == 0

        done = asktell("restore", tmp_path / "copy.db", "--db", server.database, "--force")

        assert done.returncode == 1
        assert "another server has the database" in done.stderr
        with stub(server.target) as service:
            ask_one(service, STUDY)


def test_what_is_no_whole_database_is_not_restored(tmp_path: Path) -> None:
    """Text, another program's database, a half file: the reason is said and nothing is there afterwards."""
    path = filled(tmp_path)
    text, other, half = tmp_path / "text", tmp_path / "other.db", tmp_path / "half.db"
    text.write_text("hello")
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE t (x)")
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    for bad, why in ((text, "cannot be restored"), (other, "not a database of AskTell"), (half, "cannot be restored")):
        done = asktell("restore", bad, "--db", tmp_path / "new.db")
        assert done.returncode == 1, bad
        assert why in done.stderr
        assert not (tmp_path / "new.db").exists()


def test_a_backup_is_refused_where_it_would_do_harm(tmp_path: Path) -> None:
    """Over a file that is there, over the database or its log, of a database that is not there: nothing is written."""
    path = filled(tmp_path)
    there = tmp_path / "there"
    there.write_text("mine")

    for arguments in (
        (there, "--db", path),
        (path, "--force", "--db", path),
        (f"{path}-wal", "--force", "--db", path),
        (tmp_path / "x", "--db", tmp_path / "none"),
    ):
        done = asktell("backup", *arguments)
        assert done.returncode == 1, arguments
        assert done.stderr.startswith("Error: ")
    assert there.read_text() == "mine"
    assert not (tmp_path / "x").exists()
    assert not Path(f"{path}-wal").exists()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgres://user:s3cret@127.0.0.1:1/studies.db", "pg_dump"),
        ("postgresql://user:s3cret@127.0.0.1:1,127.0.0.1:2/studies.db", "pg_dump"),
        ("mysql://user:s3cret@host/studies.db", "not in 'mysql'"),
        ("mysql://user:s3cret@host:port/studies.db", "cannot be read"),
    ],
)
@pytest.mark.parametrize("command", ["backup", "restore", "doctor"])
def test_a_url_of_another_database_is_not_taken_for_a_file(command: str, url: str, why: str, tmp_path: Path) -> None:
    """However it is written: a line says what to do instead, and no file of the database's name is looked for or made."""
    there = tmp_path / "there"
    there.touch()
    target = {"backup": ["copy.db"], "restore": [str(there), "--force"], "doctor": []}[command]

    done = CliRunner().invoke(commands, [command, *target, "--db", url])

    examines = command == "doctor" and why == "pg_dump"  # it tries, but there is no such host
    assert done.exit_code == (2 if command == "doctor" else 1)
    assert ("cannot connect" if examines else why) in done.output
    assert "s3cret" not in done.output
    assert not Path("studies.db").exists()


def test_a_file_may_be_given_as_a_url(tmp_path: Path) -> None:
    """As `asktell serve` takes it: every command means the same file."""
    url = f"sqlite:///{tmp_path}/studies.db"

    migrated = asktell("migrate", "--db", url)
    made = asktell("token", "create", "ci", "--role", "viewer", "--project", "p", "--db", url)
    listed = asktell("token", "list", "--db", tmp_path / "studies.db")
    copied = asktell("backup", tmp_path / "copy.db", "--db", url)

    assert (migrated.returncode, made.returncode, copied.returncode) == (0, 0, 0), made.stderr + copied.stderr
    assert "viewer in p" in listed.stdout


def test_a_damaged_database_is_not_backed_up_as_if_whole(tmp_path: Path) -> None:
    """The copy is refused, and no file is left."""
    path = filled(tmp_path)
    content = bytearray(path.read_bytes())
    for at in range(4096 * 3, len(content), 4096):
        content[at : at + 200] = bytes(200)
    path.write_bytes(content)

    done = asktell("backup", tmp_path / "copy.db", "--db", path)

    assert done.returncode == 1
    assert "no backup was made" in done.stderr
    assert not list(tmp_path.glob("copy*"))


@pytest.mark.parametrize("command", ["backup", "restore"])
def test_a_kill_leaves_no_half_file(command: str, tmp_path: Path) -> None:
    """SIGKILL at any moment: under the final name there is nothing, or what was there before, or the whole."""
    path = filled(tmp_path)
    with closing(sqlite3.connect(path)) as connection:  # large enough to take a moment
        connection.execute("UPDATE studies SET description = ?", ("x" * 20_000_000,))
        connection.commit()
    whole = tmp_path / "whole.db"
    shutil.copy(path, whole)
    target = tmp_path / "target.db"
    arguments = [target, "--db", path, "--force"] if command == "backup" else [whole, "--db", target, "--force"]

    for delay_s in (0.0, 0.01, 0.03, 0.06, 0.1):
        process = subprocess.Popen([sys.executable, "-m", "asktell.cli.entry", command, *map(str, arguments)])
        while not partials(tmp_path) and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        if target.exists():
            with closing(sqlite3.connect(target)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert trials_in(target) == trials_in(path)

    assert asktell(command, *arguments).returncode == 0
    assert not [left for left in partials(tmp_path) if list(left.iterdir())]
    assert trials_in(target) == trials_in(path)


def run(*arguments: object) -> Result:
    """A command without a process of its own."""
    return CliRunner().invoke(commands, list(map(str, arguments)))


def test_files_that_look_like_partial_ones_are_left_alone(tmp_path: Path) -> None:
    """Databases, backups and whole folders may be called as the tool calls what it has not finished."""
    path = filled(tmp_path).rename(tmp_path / "copy.db.partial")
    backup, restored = tmp_path / "new.db.partial", tmp_path / "new.db"
    folder, link = tmp_path / ".mine.asktell-partial", tmp_path / ".link.asktell-partial"
    folder.mkdir()
    (folder / "notes").write_text("mine")
    link.symlink_to(folder)
    shutil.copy(path, backup)
    mine = sorted(tmp_path.iterdir())

    copied = run("backup", tmp_path / "copy.db", "--db", path)
    put_back = run("restore", backup, "--db", restored)

    assert (copied.exit_code, put_back.exit_code) == (0, 0), copied.output + put_back.output
    assert set(mine) < set(tmp_path.iterdir())
    assert trials_in(path) == trials_in(backup) == trials_in(restored) == trials_in(tmp_path / "copy.db")
    assert (folder / "notes").read_text() == "mine"


def test_what_a_killed_process_left_is_cleared_away_but_not_what_another_works_on(tmp_path: Path) -> None:
    """A lock tells the two apart."""
    path = filled(tmp_path)
    left = tmp_path / ".left.asktell-partial"
    left.mkdir()
    (left / "copy").touch()
    (left / "copy-journal").touch()

    with partial(tmp_path / "other.db") as worked_on:
        done = run("backup", tmp_path / "copy.db", "--db", path)
        assert worked_on.exists()

    assert done.exit_code == 0, done.output
    assert not partials(tmp_path)


def test_links_lead_to_one_database(tmp_path: Path) -> None:
    """A restore through a link replaces the file and keeps it, not the link; a backup may be read and written through links too."""
    path = filled(tmp_path)
    (tmp_path / "links").mkdir()
    link, copy, copied = (tmp_path / "links" / name for name in ("studies.db", "copy.db", "copied.db"))
    link.symlink_to(path)
    copy.symlink_to(tmp_path / "copy.db")
    copied.symlink_to(tmp_path / "copy.db")

    made = run("backup", copy, "--db", link)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM trials WHERE number = 8")
        connection.commit()
    restored = run("restore", copied, "--db", link, "--force")

    assert (made.exit_code, restored.exit_code) == (0, 0), made.output + restored.output
    assert all(name.is_symlink() for name in (link, copy, copied))
    assert trials_in(path) == trials_in(tmp_path / "copy.db") == trials_in(Path(f"{path}.replaced")) + 1
    assert not Path(f"{path}.replaced").is_symlink()
    assert mode(tmp_path / "copy.db") == 0o600


def test_a_restore_that_was_killed_is_taken_back_by_the_next(tmp_path: Path) -> None:
    """Between two of its steps the old database has two names: nothing opens it then, and the next restore keeps it whole, with its log."""
    path, copy = filled(tmp_path), tmp_path / "copy.db"
    assert run("backup", copy, "--db", path).exit_code == 0
    kept = Path(f"{path}.replaced")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for _ in range(5):
            connection.execute("UPDATE studies SET description = description || 'x'")
        content = bytearray(Path(f"{path}-wal").read_bytes())
    content[40] ^= 1  # in the first frame
    os.link(path, kept)
    Path(f"{kept}-wal").write_bytes(content)

    refused = run("migrate", "--db", path)
    looked = run("doctor", "--db", path)
    done = run("restore", copy, "--db", path, "--force")

    assert refused.exit_code == 1
    assert "restore again" in refused.output
    assert looked.exit_code == 1
    assert done.exit_code == 0, done.output
    assert f"kept as {kept}\n" in done.output
    assert path.stat().st_nlink == kept.stat().st_nlink == 1
    assert Path(f"{kept}-wal").read_bytes() == content
    assert run("doctor", "--db", path).exit_code == 0


def test_a_database_is_not_restored_from_itself_or_by_one_of_several_names(tmp_path: Path) -> None:
    """A line says why, and nothing is changed."""
    path, copy, other = filled(tmp_path), tmp_path / "copy.db", tmp_path / "other.db"
    assert run("backup", copy, "--db", path).exit_code == 0
    itself = run("restore", path, "--db", path, "--force")
    os.link(path, other)
    before = sorted(tmp_path.iterdir())

    named_twice = run("restore", copy, "--db", path, "--force")
    by_either = [run("backup", tmp_path / "second.db", "--db", name) for name in (path, other)]

    assert itself.exit_code == 1
    assert "is the database itself" in itself.output
    for refused in (named_twice, *by_either):
        assert refused.exit_code == 1
        assert "has 2 names" in refused.output
    assert sorted(tmp_path.iterdir()) == before


def test_no_backup_is_put_beside_a_log_that_is_not_its_own(tmp_path: Path) -> None:
    """SQLite would read that log into it."""
    path, target = filled(tmp_path), tmp_path / "copy.db"
    Path(f"{target}-wal").write_text("of another")

    done = run("backup", target, "--db", path)

    assert done.exit_code == 1
    assert "has a log beside it" in done.output
    assert not target.exists()


@pytest.mark.parametrize("missing", [1, 60, 4000, 4096])
def test_a_backup_that_was_cut_short_is_not_restored(missing: int, whole: Path, tmp_path: Path) -> None:
    """Nor is it by less than a page, which SQLite takes for zeros; doctor sees it too. Nothing is made."""
    cut, path = tmp_path / "cut.db", tmp_path / "new.db"
    cut.write_bytes(whole.read_bytes()[:-missing])

    done, doctor = run("restore", cut, "--db", path), run("doctor", "--db", cut)

    assert done.exit_code == 1
    assert "cannot be restored" in done.stderr
    assert doctor.exit_code == 2
    assert "integrity" in doctor.output
    assert not path.exists()


def test_no_backup_takes_the_place_of_a_database_that_is_served(tmp_path: Path) -> None:
    """Not beside its server, whose log may be empty, nor after it: what was told there is kept. Another backup may be replaced."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    path, other, copy = filled(tmp_path / "one"), filled(tmp_path / "two"), tmp_path / "copy.db"
    with serving(tmp_path / "two", database=str(other)) as server, stub(server.target) as service:
        beside = asktell("backup", other, "--db", path, "--force")
        trial = ask_one(service, STUDY)
        tell(service, trial.name, 0.5)
        assert server.stop() == 0
    after = asktell("backup", other, "--db", path, "--force")
    first, second = (asktell("backup", copy, "--db", path, "--force") for _ in range(2))

    assert (beside.returncode, after.returncode) == (1, 1)
    assert "another server has the database" in beside.stderr
    assert "it is a database, not a backup" in after.stderr
    assert trials_in(other) == trials_in(path) + 1
    assert asktell("doctor", "--db", other).returncode == 0
    assert (first.returncode, second.returncode) == (0, 0), second.stderr


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """Whatever is asked of one."""
    path, pipe = filled(tmp_path), tmp_path / "pipe"
    os.mkfifo(pipe)

    for arguments in (
        ("backup", tmp_path / "copy.db", "--db", pipe),
        ("backup", pipe, "--db", path, "--force"),
        ("restore", pipe, "--db", tmp_path / "new.db"),
        ("restore", path, "--db", pipe, "--force"),
        ("migrate", "--db", pipe),
        ("token", "list", "--db", pipe),
        ("doctor", "--db", pipe),
        ("doctor", "--db", pipe, "--discard-damaged-log"),
    ):
        done = run(*arguments)
        assert done.exit_code == (2 if "doctor" in arguments else 1), arguments
        assert "is no file" in done.output


def test_damage_in_what_is_replaced_does_not_get_into_what_is_restored(tmp_path: Path) -> None:
    """A time of revocation that is none revokes all the same, as of now."""
    path, copy = filled(tmp_path), tmp_path / "copy.db"
    made = run("token", "create", "ci", "--role", "viewer", "--project", "p", "--db", path).stdout.strip().split("_")[1]
    assert run("backup", copy, "--db", path).exit_code == 0
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE tokens SET revoke_time = 'x'")
        connection.commit()

    done = run("restore", copy, "--db", path, "--force")

    assert done.exit_code == 0, done.output
    assert made in done.stderr
    assert "revoked" in run("token", "list", "--db", path).output
    assert run("doctor", "--db", path).exit_code == 0
