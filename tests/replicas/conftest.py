"""Several real servers on one PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asktell.v1 import study_service_pb2_grpc
from asktell_server.testing.postgresql import PostgresServer

from ..support import ServerProcess, stub

Stub = study_service_pb2_grpc.StudyServiceStub


@contextmanager
def three_servers(folder: Path, database: str) -> Iterator[list[ServerProcess]]:
    """Three servers on one database, started at once."""
    with ExitStack() as stack:
        folders = [folder / name for name in ("a", "b", "c")]
        for each in folders:
            each.mkdir()
        servers = [ServerProcess(each, "--workers", "1", database=database) for each in folders]
        for server in servers:
            stack.callback(server.kill)
        with ThreadPoolExecutor(3) as pool:
            yield list(pool.map(ServerProcess.start, servers))


@pytest.fixture(scope="module")
def replicas(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    """Three servers on one database, for all tests of a module that do not harm them; use study names of your own."""
    with three_servers(tmp_path_factory.mktemp("replicas"), postgres.new_database()) as started:
        yield started


@pytest.fixture(scope="module")
def stubs(replicas: list[ServerProcess]) -> Iterator[list[Stub]]:
    """The bare gRPC stub of each."""
    with ExitStack() as stack:
        yield [stack.enter_context(stub(replica.target)) for replica in replicas]
