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
from typing import BinaryIO, NamedTuple

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

    A server may write to it meanwhile. What it writes over while it is read can look like damage, but not twice the same.
    """
    found = _damage(path)
    while found is not None:
        again = _damage(path)
        if again is not None and again.place == found.place:
            return again.commits
        found = again
    return 0


class _Damage(NamedTuple):
    """Commits behind damage, and where it is: the number and the content of the frame, -1 and that of the header."""

    commits: int
    place: tuple[int, bytes]


def _damage(path: Path) -> _Damage | None:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        header = file.read(_HEADER)
        if len(header) < _HEADER:
            return None
        magic, _, page, _ = struct.unpack(">4I", header[:16])
        order = ">" if magic & 1 else "<"
        sums = _stored(header[24:])
        if magic & ~1 == _MAGIC and page in _PAGES and _sums(header[:24], order, (0, 0)) == sums:
            return _worst(_frames(file, page), order, header[16:24], sums, None)
        for page, order in product(_PAGES, "><"):
            file.seek(_HEADER)
            frames = _frames(file, page)
            first, second = next(frames, b""), next(frames, b"")
            if second and _continues(second, order, _stored(first[16:])):
                file.seek(_HEADER)
                return _worst(_frames(file, page), order, first[8:16], sums, (-1, header))
    return None


def _worst(
    frames: Iterable[bytes], order: str, salt: bytes, sums: Sums, place: tuple[int, bytes] | None
) -> _Damage | None:
    """The damage in `frames`, or before them at `place`, behind which most commits lie; None if no more than one does."""
    commits = 0
    worst = None
    for i, frame in enumerate(frames):
        if frame[8:16] == salt and _continues(frame, order, sums):
            commits += place is not None and frame[4:8] != bytes(4)
            if place is not None and commits > (1 if worst is None else worst.commits):
                worst = _Damage(commits, place)
        else:
            place, commits = (i, frame), 0
        sums = _stored(frame[16:])
    return worst


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
