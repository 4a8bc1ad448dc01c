"""Several real servers on one PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from asktell.v1 import study_service_pb2_grpc

from ..support import ServerProcess, serving, stub

Stub = study_service_pb2_grpc.StudyServiceStub


@pytest.fixture
def replicas(postgres_url: str, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Three servers on one database."""
    with ExitStack() as stack:
        made = []
        for name in ("a", "b", "c"):
            (tmp_path / name).mkdir()
            flags = ("--workers", "1")
            made.append(stack.enter_context(serving(tmp_path / name, *flags, database=postgres_url)))
        yield made


@pytest.fixture
def stubs(replicas: list[ServerProcess]) -> Iterator[list[Stub]]:
    """The bare gRPC stub of each."""
    with ExitStack() as stack:
        yield [stack.enter_context(stub(replica.target)) for replica in replicas]
