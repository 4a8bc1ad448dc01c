"""The front door's own tests once more, with a server on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asktell_server.testing.postgresql import PostgresServer

from ..rpc.test_study_service import *  # noqa: F403
from ..rpc.test_watching import *  # noqa: F403
from ..support import ServerProcess, serving


@pytest.fixture(scope="module")
def server(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server on PostgreSQL in place of that on SQLite."""
    with serving(tmp_path_factory.mktemp("server"), database=postgres.new_database()) as running:
        yield running
