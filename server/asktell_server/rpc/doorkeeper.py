"""Strangers are turned away before their message is read.

gRPC reads the whole request before it calls a method, up to the largest that is allowed, of any number of calls at once: who is
not known could fill the memory. An interceptor sees the headers before that. It decides nothing that the boundary would decide
otherwise, and where only the certificate of the connection can tell who calls, it leaves the decision to the boundary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from asktell_server.rpc.access import NEEDS, Gate
from asktell_server.rpc.boundary import Boundary

if TYPE_CHECKING:  # generic only in the stubs
    Handler = grpc.RpcMethodHandler[Any, Any] | None


class Doorkeeper(grpc.aio.ServerInterceptor):
    """Looks at the headers of each call of `service`."""

    def __init__(self, service: str, gate: Gate, boundary: Boundary) -> None:
        self._service, self._gate, self._boundary = service, gate, boundary

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]], details: grpc.HandlerCallDetails
    ) -> Handler:
        """The method itself, or a refusal in its place."""
        service, _, method = details.method.removeprefix("/").partition("/")
        if service == self._service and method in NEEDS:
            try:
                await self._gate.turn_away(details.invocation_metadata)
            except Exception as error:  # status is made in one place, of mistakes too
                return self._boundary.refusal(method, error)
        return await continuation(details)
