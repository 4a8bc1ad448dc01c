"""Which Storage a database URL means."""

from __future__ import annotations

from asktell_server.storage.base import CommitObserver, Storage
from asktell_server.storage.sql import SqlStorage


def is_postgresql(url: str) -> bool:
    """Whether a URL means PostgreSQL, also as SQLAlchemy writes it ("postgresql+psycopg://")."""
    scheme, separator, _ = url.partition("://")
    return bool(separator) and scheme.partition("+")[0] in ("postgresql", "postgres")


def open_storage(url: str, *, observer: CommitObserver) -> Storage:
    """The storage at `url`, not started: a path, ":memory:", "sqlite:///path" or "postgresql://...".

    Raises StorageUnavailable for a URL that means none.
    """
    if is_postgresql(url):
        # Imported only where it is used: SQLite needs none of it.
        from asktell_server.storage.postgresql.storage import PostgresStorage

        return PostgresStorage(url, observer=observer)
    return SqlStorage(url, observer=observer)
