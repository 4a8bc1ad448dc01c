"""SQLite, in a file and in memory, and PostgreSQL keep the contract of storages."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from asktell_server.storage.base import Storage
from asktell_server.testing.storage_contract import StorageContract

from .helpers import opened, opened_postgres


class TestSqliteFile(StorageContract):
    """A database file."""

    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[Storage]:
        """A storage on a new file."""
        async with opened(tmp_path / "studies.db") as storage:
            yield storage


class TestSqliteFileSmallBatches(StorageContract):
    """A database file where at most three works share a commit."""

    @pytest.fixture
    async def storage(self, tmp_path: Path) -> AsyncIterator[Storage]:
        """A storage on a new file."""
        async with opened(tmp_path / "studies.db", max_batch=3) as storage:
            yield storage


class TestSqliteMemory(StorageContract):
    """A database in memory."""

    @pytest.fixture
    async def storage(self) -> AsyncIterator[Storage]:
        """A storage in memory."""
        async with opened(":memory:") as storage:
            yield storage


class TestPostgres(StorageContract):
    """A PostgreSQL database."""

    @pytest.fixture
    async def storage(self, postgres_url: str) -> AsyncIterator[Storage]:
        """A storage on a new database."""
        async with opened_postgres(postgres_url) as storage:
            yield storage


class TestPostgresSmallBatches(StorageContract):
    """A PostgreSQL database where at most three works share a transaction."""

    @pytest.fixture
    async def storage(self, postgres_url: str) -> AsyncIterator[Storage]:
        """A storage on a new database."""
        async with opened_postgres(postgres_url, max_batch=3) as storage:
            yield storage
