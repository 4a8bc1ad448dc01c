"""A whole server inside the test's process, on a clock that the test sets: for everything that has to do with time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import grpc.aio

from asktell.v1 import study_service_pb2_grpc
from asktell_server.app import App, ServerConfig
from asktell_server.engine.admission import AdmissionConfig
from asktell_server.engine.host import HostConfig

Stub = study_service_pb2_grpc.StudyServiceStub


class SetClock:
    """A clock that stands still until it is advanced."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        """The time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Moves it on."""
        self.now += timedelta(seconds=seconds)


class InProcess:
    """A started server and a stub for it."""

    def __init__(self, app: App, service: Stub, clock: SetClock) -> None:
        self.app = app
        self.service = service
        self.clock = clock
        self._housekeeping = app._make_housekeeping()

    async def pass_time(self, seconds: float) -> int:
        """Advances the clock and does what is then due; returns how many leases ran out."""
        self.clock.advance(seconds)
        return await self._housekeeping.expire()

    async def forget(self) -> None:
        """Forgets old requests, as far as it does in one go."""
        await self._housekeeping.purge()


@asynccontextmanager
async def in_process(
    database: str = ":memory:", clock: SetClock | None = None, admission: AdmissionConfig | None = None
) -> AsyncIterator[InProcess]:
    """A server on loopback without HTTP port, stopped at the end. Time-driven work happens only in `pass_time`."""
    clock = clock or SetClock()
    config = ServerConfig(
        database=database,
        listen="127.0.0.1:0",
        http_listen=None,
        drain_grace_s=0.0,
        host=HostConfig(live_studies=50),
        admission=admission or AdmissionConfig(),
    )
    app = App(config, clock=clock)
    await app.start()
    try:
        assert app._background is not None
        app._background.cancel()
        async with grpc.aio.insecure_channel(app.grpc_address) as channel:
            # The stub of generated code serves both; only its async form types its calls as awaitable.
            yield InProcess(app, study_service_pb2_grpc.StudyServiceStub(channel), clock)
    finally:
        await app.stop()
