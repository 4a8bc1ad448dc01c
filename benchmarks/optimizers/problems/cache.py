"""What trained models scored, kept on disk between runs: training is what the real problems' time goes into."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from ..space import Point

_connection: tuple[int, sqlite3.Connection] | None = None


def folder() -> Path:
    """Where results and the cache lie: `.bench` in the repository, or ASKTELL_BENCH_DIR; ignored by git."""
    found = Path(os.environ.get("ASKTELL_BENCH_DIR") or Path(__file__).resolve().parents[3] / ".bench")
    found.mkdir(parents=True, exist_ok=True)
    return found


def _open() -> sqlite3.Connection:
    global _connection
    if _connection is None or _connection[0] != os.getpid():
        connection = sqlite3.connect(folder() / "evaluations.db", timeout=60, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS evaluation (key TEXT PRIMARY KEY, value REAL NOT NULL)")
        _connection = os.getpid(), connection
    return _connection[1]


def cached(problem: str, point: Point, split: int, compute: Callable[[], float]) -> float:
    """`compute()`, or what it gave the last time for the same problem, active point and split."""
    import sklearn

    described = json.dumps([problem, sorted(point.items()), split, sklearn.__version__])
    key = hashlib.sha256(described.encode()).hexdigest()
    row = _open().execute("SELECT value FROM evaluation WHERE key = ?", (key,)).fetchone()
    if row is not None:
        return float(row[0])
    value = compute()
    _open().execute("INSERT OR REPLACE INTO evaluation VALUES (?, ?)", (key, value))
    return value
