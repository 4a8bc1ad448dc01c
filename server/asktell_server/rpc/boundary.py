"""The interceptor around every call of our service: errors become status here and only here; latency is counted, calls are logged."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import grpc
import grpc.aio
import structlog

from asktell_server.domain.errors import AskTellError
from asktell_server.observe.metrics import Metrics
from asktell_server.rpc.status import Status, internal_status, to_status

log = structlog.get_logger()

_MAX_LOGGED = 300

if TYPE_CHECKING:  # generic only in the stubs
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps the handlers of one service."""

    def __init__(self, service: str, metrics: Metrics) -> None:
        self._prefix = f"/{service}/"
        self._metrics = metrics
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """The wrapped handler of the method."""
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(self._prefix):
            return handler
        name = method.removeprefix(self._prefix)
        wrapped = self._wrap_stream(name, handler) if handler.response_streaming else self._wrap_unary(name, handler)
        self._wrapped[method] = wrapped
        return wrapped

    def _wrap_unary(self, name: str, handler: Handler) -> Handler:
        inner = cast("Callable[[Any, Any], Awaitable[Any]]", handler.unary_unary)

        async def call(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                return await inner(request, context)
            except asyncio.CancelledError:
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, message, trailers = self._status(name, error, request)
                await context.abort(code, message, trailers)
            finally:
                self._finished(name, code, started, request)

        return grpc.unary_unary_rpc_method_handler(
            call, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _wrap_stream(self, name: str, handler: Handler) -> Handler:
        inner = cast("Callable[[Any, Any], AsyncIterator[Any]]", handler.unary_stream)

        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            try:
                async for response in inner(request, context):
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                code, message, trailers = self._status(name, error, request)
                await context.abort(code, message, trailers)
            finally:
                self._finished(name, code, started, request)

        return grpc.unary_stream_rpc_method_handler(
            call, request_deserializer=handler.request_deserializer, response_serializer=handler.response_serializer
        )

    def _status(self, name: str, error: Exception, request: Any) -> Status:
        if isinstance(error, AskTellError):
            status = to_status(error)
            log.info("call refused", method=name, **_ids(request), code=status[0].name, reason=status[1])
            return status
        log_id = uuid.uuid4().hex
        log.error("call failed", method=name, **_ids(request), log_id=log_id, exc_info=error)
        return internal_status(log_id)

    def _finished(self, name: str, code: grpc.StatusCode, started: float, request: Any) -> None:
        seconds = time.perf_counter() - started
        self._metrics.rpc_finished(name, code.name, seconds)
        if code is grpc.StatusCode.OK:
            log.debug("call", method=name, **_ids(request), ms=round(seconds * 1000, 3))


def _ids(request: Any) -> dict[str, str]:
    """What a log needs to say which call it was: the resource and, if there is one, the request_id; cut, as nobody has checked them."""
    owner = getattr(request, "study", None) or getattr(request, "trial", None)
    resource = getattr(request, "name", "") or getattr(request, "parent", "") or getattr(owner, "name", "")
    ids = {"resource": resource[:_MAX_LOGGED]}
    request_id = getattr(request, "request_id", "")
    if request_id:
        ids["request_id"] = request_id[:_MAX_LOGGED]
    return ids
