"""A faulty server, a client of it and a study on it, fresh for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import asktell
from asktell import Categorical, Float, Int, Space

from .fake import FakeServer, FakeService, running

SPACE: Space = {"lr": Float(0.1, 1.0), "width": Int(16, 512), "act": Categorical(["relu", "gelu"])}


@pytest.fixture
def server() -> Iterator[FakeServer]:
    """The server."""
    with running() as server:
        yield server


@pytest.fixture
def fake(server: FakeServer) -> FakeService:
    """What the server does and has seen."""
    return server.service


@pytest.fixture
def client(server: FakeServer) -> Iterator[asktell.Client]:
    """A client of the server, with a budget that a failing test does not have to sit out."""
    with asktell.connect(server.target, timeout=10) as client:
        yield client


@pytest.fixture
def study(client: asktell.Client) -> asktell.Study:
    """A study that maximizes accuracy."""
    return client.create_study("digits", SPACE, maximize="accuracy")
