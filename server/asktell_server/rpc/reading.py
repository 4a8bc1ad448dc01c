"""Bytes that are no message of the method's type are the caller's fault, and are answered so.

gRPC itself would answer UNKNOWN and log a traceback. So every method, ours or not, is registered through a `Registrar`: what
cannot be read arrives as `Unreadable`. Our methods meet it in the boundary, where errors become status; for the others (health,
reflection) it is refused here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from asktell_server.domain.errors import InvalidArgument, Violation
from asktell_server.rpc.status import to_status

Method = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Unreadable:
    """A request that could not be read. It has no fields; `error` says what is wrong."""

    detail: str

    @property
    def error(self) -> InvalidArgument:
        """What the caller is told."""
        return InvalidArgument([Violation("", f"the request is not a valid protobuf message: {self.detail}")])


class Registrar:
    """Stands for the server where methods are added to it. Methods of the service `ours` are prepared for Unreadable."""

    def __init__(self, server: grpc.aio.Server, ours: str) -> None:
        self._server = server
        self._ours = ours

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Does nothing: generated code registers the same methods by name, too."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Adds the methods of a service, each with a reader that does not raise."""
        reading = {name: _reading(handler, refuse=service != self._ours) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, reading),))
        self._server.add_registered_method_handlers(service, reading)


def _reading(handler: Any, *, refuse: bool) -> Any:
    """The handler with a reader that does not raise; it may be one of gRPC's own kinds of named tuple."""
    read = handler.request_deserializer

    def reader(data: bytes) -> Any:
        try:
            return read(data)
        except DecodeError as error:
            return Unreadable(str(error))

    refusing = {
        kind: wrapped(method)
        for kind, wrapped in (("unary_unary", _one), ("unary_stream", _one), ("stream_stream", _stream))
        if refuse and (method := getattr(handler, kind)) is not None
    }
    return handler._replace(request_deserializer=reader, **refusing)


async def _checked(request: Any, context: Any) -> Any:
    if isinstance(request, Unreadable):
        await context.abort(*to_status(request.error))
    return request


def _one(method: Method) -> Method:
    """A method of one request that answers by itself: unary, or health's stream, which writes to the context."""

    async def call(request: Any, context: Any) -> Any:
        return await method(await _checked(request, context), context)

    return call


def _stream(method: Method) -> Method:
    async def call(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        async def checked() -> AsyncIterator[Any]:
            async for request in requests:
                yield await _checked(request, context)

        async for response in method(checked(), context):
            yield response

    return call
