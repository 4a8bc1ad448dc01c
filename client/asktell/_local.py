"""The server of a "local:" target: the same server as everywhere, as a child process in this process's care.

It listens on a free port of the loopback interface and drains and exits when this process closes its stdin, dies
included. Clients of one file share one server; each "local::memory:" gets a server of its own.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from asktell._fork import renew_after_fork
from asktell._targets import LOCAL_PREFIX
from asktell.errors import LocalServerError

MEMORY = ":memory:"
_START_S = 60.0
_POLL_S = 0.02
_DRAIN_S = 10.0
_TERMINATE_S = 5.0
_LOG_LINES = 15


def server_environment() -> dict[str, str]:
    """The environment of a server of this process's own: without what tells a client, or another server, about TLS and tokens, and
    without another server's file of settings.
    """
    others = ("ASKTELL_TLS", "ASKTELL_TOKEN", "ASKTELL_AUTH", "ASKTELL_OIDC", "ASKTELL_AUDIT_LOG", "ASKTELL_CONFIG")
    return {name: value for name, value in os.environ.items() if not name.startswith(others)}


class LocalServer:
    """A server process and the number of clients that use it."""

    def __init__(self, database: str) -> None:
        """Starts a server on a database file and waits until it serves. Raises LocalServerError."""
        if importlib.util.find_spec("asktell_server") is None:
            raise LocalServerError("a local: target needs the server: pip install 'asktell[server]'")
        self.users = 1
        self._database = database
        self._folder = Path(tempfile.mkdtemp(prefix="asktell-"))
        self._ready = self._folder / "ready.json"
        self._log = self._folder / "server.log"
        with self._log.open("wb") as log:
            command = [sys.executable, "-P", "-m", "asktell_server", "--db", database, "--listen", "127.0.0.1:0"]
            command += ["--http-listen", "none", "--ready-file", str(self._ready), "--stop-with-parent"]
            self._process: subprocess.Popen[bytes] | None = subprocess.Popen(  # noqa: S603 - our own interpreter
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=server_environment(),
                start_new_session=True,  # a Ctrl-C is for this process, which then still has something to tell
            )
        try:
            self.target = self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        renew_after_fork(self)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> str:
        deadline = time.monotonic() + _START_S
        while not self._ready.exists():
            if process.poll() is not None:
                raise LocalServerError(self._story(f"exited with status {process.returncode}"))
            if time.monotonic() > deadline:
                raise LocalServerError(self._story(f"did not serve within {_START_S:.0f} s"))
            time.sleep(_POLL_S)
        target: str = json.loads(self._ready.read_text())["grpc"]
        return target

    def _story(self, what: str) -> str:
        lines = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n  ".join([f"the local server on {self._database} {what}; its last words:", *(lines or ["(none)"])])

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def obituary(self) -> LocalServerError | None:
        """How the process ended, if it did so by itself."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return None
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return LocalServerError(self._story(f"{how}; connect again to start another. Its log is {self._log}"))

    def stop(self) -> None:
        """Lets the server drain and exit, and makes it if it will not. May be called twice."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        for wait_s, force in ((_DRAIN_S, process.terminate), (_TERMINATE_S, process.kill)):
            try:
                process.wait(wait_s)
                break
            except subprocess.TimeoutExpired:
                force()
        process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def after_fork(self) -> None:
        """The server is the parent's; an inherited end of its stdin would keep it from seeing the parent go."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            process.returncode = 0  # not this process's child: nothing to wait for


class _Servers:
    """The servers of this process, by database file."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, LocalServer] = {}
        renew_after_fork(self)
        atexit.register(self.stop_all)

    def after_fork(self) -> None:
        self._lock = threading.Lock()
        self._running = {}

    def acquire(self, target: str) -> LocalServer:
        path = target.removeprefix(LOCAL_PREFIX) or MEMORY
        with self._lock:
            if path == MEMORY:
                own = LocalServer(MEMORY)
                self._running[f"{MEMORY}{id(own)}"] = own
                return own
            path = str(Path(path).expanduser().resolve())
            server = self._running.get(path)
            if server is None or not server.alive:
                self._running[path] = server = LocalServer(path)
            else:
                server.users += 1
            return server

    def release(self, server: LocalServer) -> None:
        with self._lock:
            server.users -= 1
            if server.users == 0:
                self._running = {key: other for key, other in self._running.items() if other is not server}
                server.stop()

    def stop_all(self) -> None:
        with self._lock:
            for server in self._running.values():
                server.stop()
            self._running = {}


_servers = _Servers()


def acquire_local(target: str) -> LocalServer:
    """The server of a "local:" target, started if this process has none yet; give it back with `release_local`."""
    return _servers.acquire(target)


def release_local(server: LocalServer) -> None:
    """One client less uses the server; the last one stops it."""
    _servers.release(server)
