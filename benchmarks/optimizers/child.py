"""A peer's process, seen from the harness: started in its environment with one thread, asked, told, timed."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from typing import Any

from .catalogue import PACKAGE, ROOT, PeerEntry
from .protocol import StudyBrief

ANSWER_LIMIT_S = 900.0
# One thread each: what is compared are methods, not how many cores they take.
ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMEXPR_NUM_THREADS",
        "VECLIB_MAXIMUM_THREADS",
        "LOKY_MAX_CPU_COUNT",
    ),
    "1",
) | {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1", "JAX_PLATFORMS": "cpu"}


class PeerFailed(Exception):
    """The peer raised, died or did not answer in time; the message is its traceback."""


class Child:
    """One process of a peer. Serves studies until closed; useless after PeerFailed."""

    def __init__(self, peer: PeerEntry) -> None:
        python = peer.python()
        if not python.exists():
            raise PeerFailed(f"its environment is not there: run scripts/peers {peer.environment}")
        self._process = subprocess.Popen(
            [str(python), "-m", f"{PACKAGE}.{peer.adapter}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("ASKTELL_BENCH_VERBOSE") else None,
            cwd=ROOT,
            env=os.environ | ONE_THREAD,
        )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._buffer = b""

    def _read_line(self, limit_s: float) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit_s
        while b"\n" not in self._buffer:
            if not self._selector.select(max(0.0, deadline - time.monotonic())):
                raise PeerFailed(f"no answer in {limit_s:.0f} s")
            more = os.read(self._process.stdout.fileno(), 1 << 20)
            if not more:
                raise PeerFailed(f"the process ended with status {self._process.wait(10)}")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def call(self, **message: Any) -> tuple[dict[str, Any], float]:
        """The answer, and the seconds it took. Raises PeerFailed."""
        assert self._process.stdin is not None
        data = (json.dumps(message) + "\n").encode()
        started = time.perf_counter()
        try:
            self._process.stdin.write(data)
            self._process.stdin.flush()
            line = self._read_line(ANSWER_LIMIT_S)
        except OSError as error:
            raise PeerFailed(f"the process is gone: {error}") from error
        seconds = time.perf_counter() - started
        answer = json.loads(line)
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer, seconds

    def start(self, brief: StudyBrief) -> dict[str, str]:
        """Begins a study; returns the peer's versions."""
        answer, _ = self.call(op="start", study=brief.to_json())
        return dict(answer["versions"])

    def close(self) -> None:
        """Lets the process end, or ends it."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._selector.close()
        assert self._process.stdout is not None
        self._process.stdout.close()
