"""The processes of a server under test, whatever they are: started, killed, paused, started again; a proxy before each.

A `Deployment` is what the suite knows of them. `SqliteDeployment` is one process on one file, `PostgresDeployment` three on a PostgreSQL
that is harmed as they are.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Protocol

import psycopg

from asktell_server.testing.postgresql import PostgresServer

from ..support import ServerProcess
from .proxy import Proxy
from .wal import tear

ROOM_MIB = 48
DATABASE_ROOM_MIB = 256


class Deployment(Protocol):
    """A running server. Members are named; each can be harmed by itself, and `heal` makes all of them well again."""

    @property
    def members(self) -> Sequence[str]:
        """Processes that can be killed, paused and started again."""

    @property
    def addresses(self) -> Sequence[str]:
        """Where clients find it: each serves every study."""

    @property
    def direct(self) -> str:
        """An address without a proxy before it, for the reading afterwards."""

    @property
    def proxies(self) -> Sequence[Proxy]:
        """The proxies before the addresses."""

    def kill(self, member: str, rng: Random) -> None:
        """Ends a member with SIGKILL; what a power failure may do besides to its files is drawn from `rng`."""

    def start(self, member: str) -> None:
        """Starts a member that was killed, and waits until it serves."""

    def stop(self, member: str) -> None:
        """Ends a member in an orderly way, and waits for it."""

    def pause(self, member: str) -> None:
        """SIGSTOP."""

    def resume(self, member: str) -> None:
        """SIGCONT."""

    def compute_processes(self) -> list[int]:
        """Process ids of what can be killed and comes back by itself."""

    def skew_clock(self, seconds: float) -> None:
        """Makes the clock of the servers wrong by so much."""

    def fill_disk(self) -> bool:
        """Leaves no room where the data is. False if that is impossible here."""

    def free_disk(self) -> None:
        """Makes room again."""

    def checkpoint(self) -> None:
        """Has the database write its log into its tables, beside the server."""

    def heal(self) -> None:
        """Everything runs, nothing is held back, the clock is right, there is room."""


class SqliteDeployment:
    """One server on a SQLite file in `folder`."""

    members = ("server",)

    def __init__(self, folder: Path, *flags: str, mutant: str = "-") -> None:
        self.folder = folder
        self._clock = folder / "clock"
        self._ballast = folder / "ballast"
        launcher = str(Path(__file__).with_name("server.py"))
        self.server = ServerProcess(
            folder, "--workers", "1", *flags, command=(launcher, str(self._clock), mutant)
        ).start()
        self._proxy = Proxy(lambda: self.server.target)

    @property
    def addresses(self) -> Sequence[str]:
        return [self._proxy.address]

    @property
    def direct(self) -> str:
        return self.server.target

    @property
    def proxies(self) -> Sequence[Proxy]:
        return [self._proxy]

    def kill(self, member: str, rng: Random) -> None:
        self.server.kill()
        tear(Path(self.server.database + "-wal"), rng)

    def start(self, member: str) -> None:
        self.server.start()

    def stop(self, member: str) -> None:
        self.server.stop()

    def pause(self, member: str) -> None:
        os.kill(self.server.pid, signal.SIGSTOP)

    def resume(self, member: str) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.server.pid, signal.SIGCONT)

    def compute_processes(self) -> list[int]:
        return compute_processes(self.server.pid)

    def skew_clock(self, seconds: float) -> None:
        self._clock.write_text(str(seconds))

    def fill_disk(self) -> bool:
        if _fill(self.folder, self._ballast):
            return True
        # Without a file system of its own: no file of the server may grow any more.
        log = Path(self.server.database + "-wal")
        size = log.stat().st_size if log.exists() else 0
        _, hard = resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (size, hard))
        return True

    def free_disk(self) -> None:
        self._ballast.unlink(missing_ok=True)
        with contextlib.suppress(ProcessLookupError):
            _, hard = resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (hard, hard))

    def checkpoint(self) -> None:
        script = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')"
        subprocess.run([sys.executable, "-c", script, self.server.database], check=False, capture_output=True)

    def heal(self) -> None:
        self.resume("server")
        self.free_disk()
        self.skew_clock(0.0)
        self._proxy.heal()
        if not self.server.is_running:
            self.server.start()

    def close(self) -> None:
        """Ends everything."""
        self.resume("server")
        self.server.kill()
        self._proxy.close()


class PostgresDeployment:
    """Three servers on a PostgreSQL of their own; its disk can be filled if `disk` is a file system of its own. Each server has a clock
    of its own: when one is wrong, another is as wrong the other way.
    """

    DATABASE = "database"
    members = ("a", "b", "c", DATABASE)

    def __init__(self, folder: Path, postgres: PostgresServer, disk: Path, mutant: str = "-") -> None:
        self._postgres = postgres
        self._disk, self._ballast = disk, disk / "ballast"
        self._url = postgres.new_database()
        launcher = str(Path(__file__).with_name("server.py"))
        self.servers: dict[str, ServerProcess] = {}
        self._clocks: list[Path] = []
        for name in self.members[:3]:
            place = folder / name
            place.mkdir()
            self._clocks.append(place / "clock")
            self.servers[name] = ServerProcess(
                place, "--workers", "1", database=self._url, command=(launcher, str(place / "clock"), mutant)
            )
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(ServerProcess.start, self.servers.values()))
        self._proxies = [Proxy(lambda each=each: each.target) for each in self.servers.values()]  # type: ignore[misc]

    @property
    def addresses(self) -> Sequence[str]:
        return [proxy.address for proxy in self._proxies]

    @property
    def direct(self) -> str:
        return self.servers["a"].target

    @property
    def proxies(self) -> Sequence[Proxy]:
        return self._proxies

    def kill(self, member: str, rng: Random) -> None:
        if member != self.DATABASE:
            self.servers[member].kill()
            return
        self._postgres.kill()

    def start(self, member: str) -> None:
        if member != self.DATABASE:
            self.servers[member].start()
        elif not self._postgres.processes():
            self._postgres.start()

    def stop(self, member: str) -> None:
        if member == self.DATABASE:
            self._postgres.stop()
        else:
            self.servers[member].stop()

    def pause(self, member: str) -> None:
        self._signal(member, signal.SIGSTOP)

    def resume(self, member: str) -> None:
        self._signal(member, signal.SIGCONT)

    def _signal(self, member: str, number: signal.Signals) -> None:
        if member == self.DATABASE:
            self._postgres.signal(number)
        elif self.servers[member].is_running:
            os.kill(self.servers[member].pid, number)

    def compute_processes(self) -> list[int]:
        return [pid for each in self.servers.values() if each.is_running for pid in compute_processes(each.pid)]

    def skew_clock(self, seconds: float) -> None:
        for clock, error in zip(self._clocks, (seconds, -seconds, 0.0), strict=True):
            clock.write_text(str(error))

    def fill_disk(self) -> bool:
        return _fill(self._disk, self._ballast)

    def free_disk(self) -> None:
        self._ballast.unlink(missing_ok=True)
        self.start(self.DATABASE)  # it gives up if it finds no room for its log

    def checkpoint(self) -> None:
        with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._url, autocommit=True) as connection:
            connection.execute("CHECKPOINT")

    def heal(self) -> None:
        self.skew_clock(0.0)
        for member in self.members:
            self.resume(member)
        for proxy in self._proxies:
            proxy.heal()
        self.free_disk()
        for server in self.servers.values():
            if not server.is_running:
                server.start()

    def close(self) -> None:
        """Ends everything but PostgreSQL, which runs."""
        for member in self.members:
            self.resume(member)
        for server in self.servers.values():
            server.kill()
        for proxy in self._proxies:
            proxy.close()


@contextmanager
def postgres_deployment(folder: Path, mutant: str = "-") -> Iterator[PostgresDeployment]:
    """Three running servers on PostgreSQL, gone at the end."""
    with small_disk(DATABASE_ROOM_MIB) as disk:
        place = disk / "database"
        place.mkdir()
        with PostgresServer("max_connections=200", "max_wal_size=64MB", "min_wal_size=32MB", folder=place) as postgres:
            deployment = PostgresDeployment(folder, postgres, disk, mutant)
            try:
                yield deployment
            finally:
                deployment.close()


def _fill(disk: Path, ballast: Path) -> bool:
    """Leaves no room on a file system of a test's own. False if it is none."""
    if not os.path.ismount(disk):
        return False
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(64 * 1024))
    return True


def compute_processes(pid: int) -> list[int]:
    """Process ids of a server's compute processes."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread, or a process, ended meanwhile
            for child in children.read_text().split():
                if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                    found.append(int(child))
    return found


@contextmanager
def sqlite_deployment(folder: Path, *flags: str, mutant: str = "-") -> Iterator[SqliteDeployment]:
    """A running server on SQLite, gone at the end."""
    deployment = SqliteDeployment(folder, *flags, mutant=mutant)
    try:
        yield deployment
    finally:
        deployment.close()


@contextmanager
def small_disk(room_mib: int = ROOM_MIB) -> Iterator[Path]:
    """A folder on a file system of its own where that is allowed; otherwise an ordinary one. Whoever may run a database gets there."""
    place = Path(tempfile.mkdtemp(prefix="asktell-disk-"))
    place.chmod(0o755)
    mounted = (
        os.geteuid() == 0
        and subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={room_mib}m", "tmpfs", str(place)], check=False, capture_output=True
        ).returncode
        == 0
    )
    try:
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)
        shutil.rmtree(place)
