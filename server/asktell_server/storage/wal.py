"""Whether SQLite's write-ahead log is whole.

SQLite reads the log up to the first frame whose checksum is wrong and takes that for the end: after a power failure the last
transaction may be there in part, and since its commit was never acknowledged nothing is lost. But damage *before* the end looks the
same to it: commits that were on the disk and acknowledged would be gone without a word. The difference can be seen: behind the
damage there are frames that continue one another's checksums, and among them more than one commit; the rest of an unfinished
transaction has one at most. (A log that was cut off leaves no trace; no power failure does that to synced data.) Behind a damaged
header SQLite reads nothing at all; it is synced before the first frame is written, so a wrong one is damage, too.

The format: https://sqlite.org/fileformat2.html, section 4. A header of 32 bytes, then frames of 24 bytes and a page; each
checksum goes on from that of the frame before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import BinaryIO

from asktell_server.domain.errors import StorageUnavailable

_HEADER, _FRAME = 32, 24
_MAGIC = 0x377F0682  # with the lowest bit set: checksums over big-endian words
_MASK = 0xFFFFFFFF
_PAGES = tuple(2**n for n in range(9, 17))

Sums = tuple[int, int]


def require_whole(database: str) -> None:
    """Raises StorageUnavailable if commits are lost in the log of `database` (from `sqlite.path_of`), or it cannot be read."""
    try:
        lost = lost_commits(Path(f"{database}-wal"))
    except OSError as error:
        raise StorageUnavailable(f"cannot read the log {database}-wal: {error.strerror}") from error
    if lost:
        raise StorageUnavailable(
            f"the log {database}-wal is damaged: at least {lost} commits behind the damage cannot be read; "
            "`asktell doctor` says what can be done"
        )


def lost_commits(path: Path) -> int:
    """How many commits lie behind damage in the log at `path`, at least; 0 if it is whole or there is none.

    A server may write to it meanwhile.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return 0
    with file:
        while True:
            header = file.read(_HEADER)
            lost = _lost_commits(file, header)
            file.seek(0)
            # A log that was begun anew in between, from its header on, was a mixture of two.
            if not lost or file.read(_HEADER) == header:
                return lost
            file.seek(0)


def _lost_commits(file: BinaryIO, header: bytes) -> int:
    if len(header) < _HEADER:
        return 0
    magic, _, page, _ = struct.unpack(">4I", header[:16])
    order = ">" if magic & 1 else "<"
    sums = _stored(header[24:])
    if magic & ~1 == _MAGIC and page in _PAGES and _sums(header[:24], order, (0, 0)) == sums:
        return _behind_damage(_frames(file, page), order, header[16:24], sums, broken=False)
    for page, order in product(_PAGES, "><"):
        file.seek(_HEADER)
        frames = _frames(file, page)
        first, second = next(frames, b""), next(frames, b"")
        if second and _continues(second, order, _stored(first[16:])):
            file.seek(_HEADER)
            return _behind_damage(_frames(file, page), order, first[8:16], sums, broken=True)
    return 0


def _behind_damage(frames: Iterable[bytes], order: str, salt: bytes, sums: Sums, *, broken: bool) -> int:
    """How many commits lie behind damage in `frames`, or behind what comes before them if that is `broken`."""
    commits, worst = 0, 0
    for frame in frames:
        if frame[8:16] == salt and _continues(frame, order, sums):
            commits += broken and frame[4:8] != bytes(4)
            worst = max(worst, commits)
        else:
            broken, commits = True, 0
        sums = _stored(frame[16:])
    return worst if worst > 1 else 0


def _frames(file: BinaryIO, page: int) -> Iterator[bytes]:
    while len(frame := file.read(_FRAME + page)) == _FRAME + page:
        yield frame


def _continues(frame: bytes, order: str, before: Sums) -> bool:
    """Whether the checksum of a frame is right: over the first 8 bytes of its header, and its page."""
    return _sums(frame[:8] + frame[_FRAME:], order, before) == _stored(frame[16:])


def _stored(content: bytes) -> Sums:
    first, second = struct.unpack(">2I", content[:8])
    return first, second


def _sums(content: bytes, order: str, before: Sums) -> Sums:
    first, second = before
    for x, y in struct.iter_unpack(f"{order}2I", content):
        first = (first + x + second) & _MASK
        second = (second + y + first) & _MASK
    return first, second
