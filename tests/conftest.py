"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from asktell.v1 import study_service_pb2_grpc
from asktell_server.testing.postgresql import PostgresServer

from .support import ServerProcess, serving, stub

# A slow machine is no failure.
settings.register_profile("asktell", deadline=None)
settings.load_profile("asktell")

# A shell has its background jobs, and all that they start, ignore a Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """One real server on a SQLite file for all tests that do not harm it; use study names of your own."""
    with serving(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def service(server: ServerProcess) -> Iterator[study_service_pb2_grpc.StudyServiceStub]:
    """The bare gRPC stub of that server."""
    with stub(server.target) as made:
        yield made


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL server for all tests that do not harm it."""
    # Nothing here survives a power failure, and nothing here has to.
    with PostgresServer("fsync=off", "max_connections=200") as running:
        yield running


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """A database of the test's own."""
    return postgres.new_database()
