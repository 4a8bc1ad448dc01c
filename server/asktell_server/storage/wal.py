"""Whether SQLite's write-ahead log is whole.

SQLite reads the log up to the first frame whose checksum is wrong and takes that for the end: after a power failure the last
transaction may be there in part, and since its commit was never acknowledged nothing is lost. But damage *before* the end looks the
same to it: commits that were on the disk and acknowledged would be gone without a word. The difference can be seen: behind the
damage there are frames that continue one another's checksums, and among them more than one commit; the rest of an unfinished
transaction has one at most. (A log that was cut off leaves no trace; no power failure does that to synced data.)

The format: https://sqlite.org/fileformat2.html, section 4. A header of 32 bytes, then frames of 24 bytes and a page; each
checksum goes on from that of the frame before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_HEADER, _FRAME = 32, 24
_MAGIC = 0x377F0682  # with the lowest bit set: checksums over big-endian words
_MASK = 0xFFFFFFFF

Sums = tuple[int, int]


def lost_commits(path: Path) -> int:
    """How many commits lie behind damage in the log at `path`, at least; 0 if it is whole or there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            return 0
        magic, _, page, _ = struct.unpack(">4I", header[:16])
        if magic & ~1 != _MAGIC or page < 512 or page & (page - 1):
            return 0
        order = ">" if magic & 1 else "<"
        broken, commits, worst = False, 0, 0
        sums: Sums = struct.unpack(">2I", header[24:32])
        for frame in _frames(file, page):
            stored: Sums = struct.unpack(">2I", frame[16:24])
            if frame[8:16] == header[16:24] and _sums(frame, order, sums) == stored:
                commits += broken and frame[4:8] != bytes(4)
                worst = max(worst, commits)
            else:
                broken, commits = True, 0
            sums = stored
        return worst if worst > 1 else 0


def _frames(file: BinaryIO, page: int) -> Iterator[bytes]:
    while len(frame := file.read(_FRAME + page)) == _FRAME + page:
        yield frame


def _sums(frame: bytes, order: str, before: Sums) -> Sums:
    """The checksum of a frame: over the first 8 bytes of its header, and its page."""
    first, second = before
    for x, y in struct.iter_unpack(f"{order}2I", frame[:8] + frame[_FRAME:]):
        first = (first + x + second) & _MASK
        second = (second + y + first) & _MASK
    return first, second
