"""The demo's child processes: the server, which is killed and started again on the same file and port, and the workers.

None outlives the demo: each runs in a session of its own, so that a Ctrl-C reaches the demo alone, which then ends them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from asktell._local import server_environment

START_S = 120.0
STOP_S = 15.0
GONE_S = 2.0
_POLL_S = 0.05
_LOG_LINES = 15


class ProcessFailed(Exception):
    """A child process ended when it should not have; the message has the end of its log."""

    def __init__(self, what: str, log: Path) -> None:
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        super().__init__("\n  ".join([f"{what}; the end of {log}:", *(lines or ["(nothing)"])]))


class Server:
    """`asktell serve` on a SQLite file and a port of its own choice, which it keeps when it is started again."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "studies.db"
        self.target = "127.0.0.1:0"
        self._log = folder / "server.log"
        self._ready = folder / "server.ready"
        self._process: subprocess.Popen[bytes] | None = None
        for old in folder.glob(f"{self.database.name}*"):  # with its write-ahead log
            old.unlink()
        self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server that runs or ran last."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it and waits until it serves. Raises ProcessFailed."""
        self._ready.unlink(missing_ok=True)
        command = [sys.executable, "-P", "-m", "asktell_server", "--db", str(self.database), "--listen", self.target]
        command += ["--http-listen", "none", "--ready-file", str(self._ready), "--stop-with-parent"]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=server_environment(), start_new_session=True
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.stop()
            raise
        self.target = json.loads(self._ready.read_text())["grpc"]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not self._ready.exists():
            if process.poll() is not None:
                raise ProcessFailed(f"the server exited with status {process.returncode}", self._log)
            if time.monotonic() > deadline:
                raise ProcessFailed(f"the server did not serve within {START_S:.0f} s", self._log)
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """Ends it with SIGKILL: no chance to finish or to write anything."""
        assert self._process is not None
        self._process.kill()
        self._close(self._process)

    def stop(self) -> None:
        """Lets it finish its calls and exit, and makes it if it will not. May be called twice."""
        process = self._process
        if process is None:
            return
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        self._close(process)
        self._ready.unlink(missing_ok=True)

    def _close(self, process: subprocess.Popen[bytes]) -> None:
        """Ends what is left of the server and of its compute processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        # The others are not our children, so they cannot be waited for, only looked for: until the group is empty. Not for ever: where
        # nobody takes leave of orphans (a container without an init) the ended ones stay in it.
        deadline = time.monotonic() + GONE_S
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # the latter of macOS, where only ended ones are left
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(_POLL_S)
        if process.stdin is not None:
            process.stdin.close()


class Workers:
    """Training jobs that work for one study. `acknowledged` has what the server confirmed to them."""

    def __init__(self, folder: Path, target: str, study: str, count: int) -> None:
        self._folder = folder
        self._command = [sys.executable, "-P", "-m", "asktell.demo.worker", target, study]
        self._study = study
        self._count = count
        self._processes: list[subprocess.Popen[str]] = []
        self._readers: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._acknowledged: dict[int, dict[str, float]] = {}

    def __enter__(self) -> Self:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        try:
            for index in range(self._count):
                with self._log(index).open("wb") as log:
                    process = subprocess.Popen(  # noqa: S603 - our own interpreter
                        self._command,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env=environment,
                        start_new_session=True,
                    )
                reader = threading.Thread(target=self._read, args=(process,), daemon=True)
                self._processes.append(process)
                self._readers.append(reader)
                reader.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end()

    @property
    def acknowledged(self) -> dict[int, dict[str, float]]:
        """Metrics by trial number, of each tell that returned to its worker."""
        with self._lock:
            return dict(self._acknowledged)

    def check(self) -> None:
        """Raises ProcessFailed when a worker broke."""
        for index, process in enumerate(self._processes):
            if process.poll():
                raise ProcessFailed(f"worker {index + 1} exited with status {process.returncode}", self._log(index))

    def join(self) -> None:
        """Waits until all have ended by themselves. Raises ProcessFailed when one broke."""
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join()
        self.check()

    def _log(self, index: int) -> Path:
        return self._folder / f"{self._study}-worker-{index + 1}.log"

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            metrics = json.loads(line)
            with self._lock:
                self._acknowledged[metrics.pop("trial")] = metrics

    def _end(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join()
        for process in self._processes:
            if process.stdout is not None:
                process.stdout.close()
