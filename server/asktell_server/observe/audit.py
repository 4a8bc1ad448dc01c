"""Who changed what, or was not let in: one JSON object per line, apart from the log, whatever its level.

    {"time": "2026-01-31T12:00:00.000000+00:00", "caller": "token:ci", "method": "Tell", "resource": "projects/p/studies/s/trials/3",
     "request_id": "…", "code": "OK", "peer": "ipv4:127.0.0.1:49152"}

Never what was sent: no parameters, no results, no tokens. A line is written when the call has ended, so a line of a write that is
in the database may be missing after a crash; the study's revision tells.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO


class AuditLog:
    """Appends to the file at `path`, opened anew when it was moved away, so that it can be rotated; or to standard error if None."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: IO[str] | None = None
        self._inode = -1
        if path is not None:
            self._open(path)

    def record(self, **fields: str) -> None:
        """Writes one line; empty fields are left out."""
        line = json.dumps(
            {"time": datetime.now(UTC).isoformat(timespec="microseconds"), **{k: v for k, v in fields.items() if v}}
        )
        if self._path is None:
            sys.stderr.write(f"{line}\n")
            return
        try:
            moved = self._path.stat().st_ino != self._inode
        except OSError:
            moved = True
        if moved or self._file is None:
            self._open(self._path)
        assert self._file is not None
        self._file.write(f"{line}\n")

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()

    def _open(self, path: Path) -> None:
        self.close()
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._inode = path.stat().st_ino
