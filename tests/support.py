"""A real server process on loopback, for tests: started, stopped, killed and started again on the same database."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, study_service_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0


class ServerProcess:
    """`python -m asktell_server` as a child, or another `command` of Python's. `flags` are added to its command line; `under` is
    the command of a program that runs it as a child of its own.
    """

    def __init__(
        self,
        folder: Path,
        *flags: str,
        database: str | None = None,
        command: Sequence[str] = ("-m", "asktell_server"),
        under: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.under = under
        self._command = command
        self.database = database if database is not None else str(folder / "studies.db")
        self.flags = flags
        self.log = folder / "server.log"
        self.target = ""
        self.http = ""
        self._ready = folder / "ready.json"
        self._process: subprocess.Popen[bytes] | None = None
        self._listen = "127.0.0.1:0"

    def start(self) -> ServerProcess:
        """Starts it and waits until it serves; after the first time on the same port."""
        self._ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(*self.under, sys.executable, *self._command, "--db", self.database, "--listen", self._listen),
                    *(
                        "--http-listen",
                        "127.0.0.1:0",
                        "--ready-file",
                        str(self._ready),
                        "--stop-with-parent",
                        *self.flags,
                    ),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        addresses = json.loads(self._ready.read_text())
        self.target = self._listen = addresses["grpc"]
        self.http = f"http://{addresses['http']}"
        return self

    @property
    def pid(self) -> int:
        """Process id of the server."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def terminate(self) -> None:
        """Sends SIGTERM and returns at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Waits for its end; returns the exit status."""
        assert self._process is not None
        try:
            return self._process.wait(STOP_TIMEOUT_S)
        finally:
            if self._process.stdin is not None:
                self._process.stdin.close()

    def stop(self) -> int:
        """Drains and stops it; returns the exit status."""
        self.terminate()
        return self.wait()

    def kill(self) -> None:
        """Ends it with SIGKILL. Does nothing if it is not running."""
        if self._process is not None:
            if self.under and self.is_running:
                for child in psutil.Process(self._process.pid).children():
                    child.kill()
            else:
                self._process.kill()
            self.wait()

    def metrics(self) -> str:
        """What /metrics says."""
        with urllib.request.urlopen(f"{self.http}/metrics", timeout=10) as response:
            return str(response.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The value of one sample of /metrics; 0 if there is none yet."""
        for family in text_string_to_metric_families(self.metrics()):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0


@contextmanager
def serving(folder: Path, *flags: str, database: str | None = None) -> Iterator[ServerProcess]:
    """A running server, gone at the end whatever happens."""
    server = ServerProcess(folder, *flags, database=database)
    try:
        yield server.start()
    finally:
        server.kill()


@contextmanager
def stub(target: str) -> Iterator[study_service_pb2_grpc.StudyServiceStub]:
    """The bare gRPC stub, with nothing of the client library."""
    with grpc.insecure_channel(target, options=[("grpc.max_send_message_length", 64 * 1024 * 1024)]) as channel:
        yield study_service_pb2_grpc.StudyServiceStub(channel)


def float_parameter(name: str, low: float = 0.0, high: float = 1.0) -> search_space_pb2.Parameter:
    """A linear float parameter."""
    return search_space_pb2.Parameter(name=name, float=search_space_pb2.FloatParameter(min=low, max=high))


def spec(algorithm: str = "random", *, metric: str = "loss", seed: int = 1, dimensions: int = 2) -> study_pb2.StudySpec:
    """A small valid spec: floats x0, x1, ... in [0, 1], one objective to minimise."""
    made = study_pb2.StudySpec(
        parameters=[float_parameter(f"x{i}") for i in range(dimensions)],
        objectives=[study_pb2.Objective(metric=metric, direction=study_pb2.Objective.MINIMIZE)],
        seed=seed,
    )
    getattr(made.algorithm, algorithm).SetInParent()
    return made


def create_study(
    service: study_service_pb2_grpc.StudyServiceStub, study_id: str, made: study_pb2.StudySpec | None = None
) -> study_pb2.Study:
    """Creates a study in the default project."""
    return service.CreateStudy(
        study_service_pb2.CreateStudyRequest(
            parent="projects/default", study_id=study_id, study=study_pb2.Study(spec=made or spec())
        )
    )
