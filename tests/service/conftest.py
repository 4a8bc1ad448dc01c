"""A server in the test's own process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ..inprocess import InProcess, in_process


@pytest.fixture
async def running() -> AsyncIterator[InProcess]:
    """A fresh server on a database in memory, on a clock that the test sets."""
    async with in_process() as started:
        yield started
