"""Which Storage a database URL means."""

from __future__ import annotations

from asktell_server.storage.base import CommitObserver, Storage
from asktell_server.storage.sql import SqlStorage


def open_storage(url: str, *, observer: CommitObserver) -> Storage:
    """The storage at `url`, not started: a path, ":memory:", "sqlite:///path" or "postgresql://...".

    Raises StorageUnavailable for a URL that means none.
    """
    scheme = url.partition("://")[0].partition("+")[0]
    if scheme in ("postgresql", "postgres") and "://" in url:
        # Imported only where it is used: SQLite needs none of it.
        from asktell_server.storage.postgresql.storage import PostgresStorage

        return PostgresStorage(url, observer=observer)
    return SqlStorage(url, observer=observer)
