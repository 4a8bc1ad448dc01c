"""Whether a log is whole, while SQLite writes it. What damage looks like is tested with `asktell doctor`."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from asktell_server.storage import wal


def test_a_log_that_is_begun_anew_while_it_is_read_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite overwrites a log from its start once all of it is in the database: frames of the old one are then behind those of the new."""
    path = tmp_path / "studies.db"
    frames = wal._frames
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        for _ in range(10):
            connection.execute("INSERT INTO t VALUES (zeroblob(5000))")
        begun: list[bool] = []

        def interrupted(file: BinaryIO, page: int) -> Iterator[bytes]:
            if not begun:
                begun.append(True)
                connection.execute("PRAGMA wal_checkpoint(RESTART)")
                for _ in range(2):
                    connection.execute("INSERT INTO t VALUES (zeroblob(5000))")
            return frames(file, page)

        monkeypatch.setattr(wal, "_frames", interrupted)

        lost = wal.lost_commits(Path(f"{path}-wal"))

    assert begun
    assert lost == 0


def test_a_server_that_passes_the_reader_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame of the old log is read just before it is written over, those behind it just after: that looks like a break, once."""
    path = tmp_path / "studies.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:

        def commit(count: int) -> None:
            for _ in range(count):
                connection.execute("INSERT INTO t VALUES (zeroblob(5000))")

        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (x)")
        commit(30)
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
        commit(1)
        looks: list[int] = []

        def overtaken(file: BinaryIO, page: int) -> Iterator[bytes]:
            looks.append(0)
            size, at = wal._FRAME + page, wal._HEADER
            while len(frame := os.pread(file.fileno(), size, at)) == size:
                if len(looks) == 1 and frame[8:16] != salt:
                    commit(8 - looks[0])
                    looks[0] = 8
                yield frame
                at += size

        salt = Path(f"{path}-wal").read_bytes()[16:24]
        monkeypatch.setattr(wal, "_frames", overtaken)

        first = wal._damage(Path(f"{path}-wal"))
        looks.clear()
        lost = wal.lost_commits(Path(f"{path}-wal"))

    assert first is not None
    assert lost == 0
