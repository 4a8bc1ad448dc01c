"""What a power failure may leave of a write-ahead log: anything behind the last commit that was synced.

A killed process leaves all that it wrote, so the suite plays the power failure itself: it tears what lies behind the last
commit in the file, and puts rubbish behind it.
"""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from random import Random

_HEADER, _FRAME_HEADER = 32, 24


def commits(log: bytes) -> list[int]:
    """The ends of the commits in the log: of the frames that carry its salt and the mark of a commit."""
    if len(log) < _HEADER:
        return []
    page = struct.unpack(">I", log[8:12])[0]
    salt = log[16:24]
    ends = []
    at = _HEADER
    while at + _FRAME_HEADER + page <= len(log) and log[at + 8 : at + 16] == salt:
        committed = struct.unpack(">I", log[at + 4 : at + 8])[0] != 0
        at += _FRAME_HEADER + page
        if committed:
            ends.append(at)
    return ends


def tear(path: Path, rng: Random) -> None:
    """Leaves of what lies behind the last commit as much as `rng` says, with rubbish behind it."""
    if not path.exists():
        return
    log = path.read_bytes()
    ends = commits(log)
    if not ends:
        return
    kept = rng.randint(ends[-1], len(log))
    # (On a full disk there is no room for rubbish.)
    with contextlib.suppress(OSError), path.open("r+b", buffering=0) as file:
        file.truncate(kept)
        file.seek(kept)
        file.write(rng.randbytes(rng.choice([0, 7, 100, 4096, 9000])))
