"""A file that is written whole or not at all: made where nobody else looks, and given its name in one step.

It is made in a folder of its own beside its target, under a name drawn by chance: what is in there is nobody else's. Whoever made the
folder holds a lock on it. Where nobody does, a process was killed, and the next one that works beside it clears the folder away; on a
file system without locks the folders of killed processes stay.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asktell_server.storage import sqlite

_ENDING = ".asktell-partial"
_NAME = "copy"


@contextmanager
def partial(target: Path) -> Iterator[Path]:
    """An empty file in the file system of `target`, for its owner alone; gone at the end, unless `put_in_place` took it.

    Raises OSError.
    """
    for left in target.parent.glob(f".*{_ENDING}"):
        _clear_if_left(left)
    folder = Path(tempfile.mkdtemp(prefix=".", suffix=_ENDING, dir=target.parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # no locks in this file system: nobody clears the folder away, then
            fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / _NAME
        open(path, "xb", opener=sqlite.private).close()
        yield path
    finally:
        _clear(folder)
        os.close(lock)


def put_in_place(path: Path, target: Path) -> None:
    """Gives a finished file its name, durably: afterwards there is the new file, before the old one or none, never half of one."""
    sync(path)
    path.replace(target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Sees to it that a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _clear_if_left(folder: Path) -> None:
    with suppress(OSError):  # a lock that is held, or cannot be had
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (folder / _NAME).exists():  # else it may be so new that its lock is about to be taken
                _clear(folder)
        finally:
            os.close(lock)


def _clear(folder: Path) -> None:
    """Removes what `partial` and SQLite make there, and the folder, if that was all."""
    with suppress(OSError):  # what cannot be removed stays: an error of the copy itself must not be hidden behind it
        for end in ("-journal", "-wal", "-shm", ""):
            (folder / f"{_NAME}{end}").unlink(missing_ok=True)
        folder.rmdir()
