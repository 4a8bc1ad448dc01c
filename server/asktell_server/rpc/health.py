"""The health service of gRPC (grpc.health.v1), whose watches end with the server.

Those of the package grpcio-health-checking do not: an open one holds up the end of the process for as long as calls may take.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asktell_server.domain.errors import Draining
from asktell_server.rpc.status import to_status


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated without types
    """What the server says of itself, by name."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._closed = False

    def set(self, service: str, status: int) -> None:
        """Tells whoever asks or watches."""
        self._statuses[service] = status
        self._wake()

    def close(self) -> None:
        """Ends the watches, each once it has sent what was set last."""
        self._closed = True
        self._wake()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        """The status; NOT_FOUND for a name that has none."""
        status = self._statuses.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: Any) -> None:
        """The status, and each later one."""
        told = None
        while True:
            changed, closed = self._changed, self._closed
            status = self._statuses.get(request.service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if closed:
                await context.abort(*to_status(Draining("the server is stopping")))
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
