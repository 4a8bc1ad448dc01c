"""An observer that counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from asktell_server.storage.postgresql.storage import PostgresStorage
from asktell_server.storage.sql import SqlStorage


class Commits:
    """Remembers the number of works of each commit."""

    def __init__(self) -> None:
        self.works: list[int] = []

    def committed(self, seconds: float, works: int) -> None:
        """Takes note."""
        assert seconds > 0
        self.works.append(works)


@asynccontextmanager
async def opened(path: object, commits: Commits | None = None, max_batch: int = 256) -> AsyncIterator[SqlStorage]:
    """A started storage, stopped at the end."""
    storage = SqlStorage(str(path), observer=commits or Commits(), max_batch=max_batch)
    await storage.start()
    try:
        yield storage
    finally:
        await storage.stop()


@asynccontextmanager
async def opened_postgres(
    url: str, commits: Commits | None = None, max_batch: int = 256, *, alone: bool = False
) -> AsyncIterator[PostgresStorage]:
    """A started storage on PostgreSQL, stopped at the end. `alone`: that knows that nobody is to be told of its commits."""
    storage = PostgresStorage(url, observer=commits or Commits(), max_batch=max_batch)
    if alone:
        storage.listen(lambda _: None)
    await storage.start()
    while alone and not (storage._listener and storage._listener.is_alone):
        await asyncio.sleep(0.01)
    try:
        yield storage
    finally:
        await storage.stop()
