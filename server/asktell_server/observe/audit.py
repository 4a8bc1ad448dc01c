"""Who changed what, or was not let in: one JSON object per line, apart from the log, whatever its level.

    {"time": "2026-01-31T12:00:00.000000+00:00", "caller": "token:ci:k3v9xq2mwd7h", "method": "Tell",
     "resource": "projects/p/studies/s/trials/3", "request_id": "…", "code": "OK", "peer": "ipv4:127.0.0.1:49152"}

Never what was sent: no parameters, no results, no tokens. A line is written when the call has ended, so a line of a write that is
in the database may be missing after a crash; the study's revision tells.

A line that cannot be written, because the disk is full say, changes no answer: what was committed is acknowledged. The log and a
metric say that lines are missing. Strangers, whose calls are refused before anybody knows who they are, get `STRANGERS_PER_S`
lines and no more, lest they fill the disk; the next of their lines says how many were left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import structlog

log = structlog.get_logger()

STRANGERS_PER_S = 10


class AuditLog:
    """Appends to the file at `path`, opened anew when it was moved away, so that it can be rotated; or to standard error if None.

    `lost` is called for each line that could not be written. `clock`: monotonic seconds.
    """

    def __init__(
        self, path: Path | None, lost: Callable[[], None] = lambda: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._lost = lost
        self._clock = clock
        self._file: FileIO | None = None
        self._inode = -1
        self._failing = False
        self._second, self._strangers, self._left_out = 0, 0, 0

    def record(self, **fields: str) -> None:
        """Writes one line; empty fields are left out. Does not raise."""
        content: dict[str, object] = {key: value for key, value in fields.items() if value}
        if "caller" not in content:
            if self._too_many_strangers():
                return
            if self._left_out:
                content["left_out"], self._left_out = self._left_out, 0
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="microseconds"), **content})
        try:
            # After a failure half a line may be there: it is ended first.
            self._write(f"\n{line}\n" if self._failing else f"{line}\n")
            self._failing = False
        except OSError as error:
            self._lost()
            self.close()
            if not self._failing:
                self._failing = True
                log.error("the audit log cannot be written: lines are missing", file=str(self._path), error=str(error))

    def close(self) -> None:
        """Closes the file."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):  # nothing is buffered
                file.close()

    def _too_many_strangers(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._strangers = second, 0
        self._strangers += 1
        if self._strangers <= STRANGERS_PER_S:
            return False
        self._left_out += 1
        return True

    def _write(self, text: str) -> None:
        if self._path is None:
            sys.stderr.write(text)
            return
        if self._file is None or self._moved(self._path):
            self.close()
            self._file = self._path.open("ab", buffering=0)
            self._inode = os.fstat(self._file.fileno()).st_ino
        content = text.encode()
        if self._file.write(content) != len(content):
            raise OSError("half a line was written")

    def _moved(self, path: Path) -> bool:
        try:
            return path.stat().st_ino != self._inode
        except FileNotFoundError:
            return True
