"""A server in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..inprocess import InProcess, in_process


@pytest.fixture(params=["sqlite", "postgresql"])
async def running(request: pytest.FixtureRequest) -> AsyncIterator[InProcess]:
    """A fresh server on a new database of each kind, on a clock that the test sets."""
    database = ":memory:" if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    async with in_process(database) as started:
        yield started
