"""What stands around every call of our service: who calls and whether they may; errors become status here and only here; latency is
counted, calls are logged, and where callers are known, writes and refusals are recorded.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import grpc.aio
import structlog
from google.protobuf.descriptor import ServiceDescriptor

from asktell_server.domain.access import Principal
from asktell_server.domain.errors import (
    AskTellError,
    PermissionDenied,
    QuotaExceeded,
    StorageUnavailable,
    Unauthenticated,
)
from asktell_server.observe.audit import AuditLog
from asktell_server.observe.metrics import Metrics
from asktell_server.rpc.access import NEEDS, Gate
from asktell_server.rpc.reading import Unreadable
from asktell_server.rpc.status import Status, internal_status, to_status

_MAX_LOGGED = 300

if TYPE_CHECKING:  # generic only in the stubs
    Context = grpc.aio.ServicerContext[Any, Any]

S = TypeVar("S")


class Boundary:
    """Guards the methods of a servicer. (A gRPC interceptor would do the same, at the price of another coroutine per call.)"""

    def __init__(self, metrics: Metrics, gate: Gate | None = None, audit: AuditLog | None = None) -> None:
        """Without a `gate` everybody may do everything."""
        self._metrics = metrics
        self._gate = gate
        self._audit = audit
        self._log = structlog.get_logger().bind()

    def guarded(self, servicer: S, service: ServiceDescriptor) -> S:
        """The servicer with a guard around each method of `service`."""
        if self._gate is not None:
            self._gate.check_complete(service)
        guards = {
            method.name: (self._guard_stream if method.server_streaming else self._guard_unary)(
                method.name, getattr(servicer, method.name)
            )
            for method in service.methods
        }
        return cast("S", SimpleNamespace(**guards))

    def _guard_unary(self, name: str, method: Callable[[Any, Any], Awaitable[Any]]) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> Any:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            caller: Principal | None = None
            try:
                if self._gate is not None:
                    caller = await self._gate.identify(context)
                if isinstance(request, Unreadable):
                    raise request.error
                if self._gate is not None and caller is not None:
                    self._gate.permit(caller, name, request)
                answer = await method(request, context)
                self._record(name, code, request, caller, context)
                return answer
            except asyncio.CancelledError:
                code = _given_up(context)
                self._record(name, code, request, caller, context)
                raise
            except Exception as error:
                status = self._status(name, error, request)
                code = status[0]
                self._record(name, code, request, caller, context)
            finally:
                self._finished(name, code, started, request)
            # gRPC's error and this frame keep each other until garbage is collected. They would keep the request too, which may be
            # large; and, while the first error is handled, all of that one's frames.
            del request
            return await context.abort(*status)

        return call

    def _guard_stream(
        self, name: str, method: Callable[[Any, Any], AsyncIterator[Any]]
    ) -> Callable[[Any, Context], Any]:
        async def call(request: Any, context: Context) -> AsyncIterator[Any]:
            started = time.perf_counter()
            code = grpc.StatusCode.OK
            caller: Principal | None = None
            try:
                if self._gate is not None:
                    caller = await self._gate.identify(context)
                if isinstance(request, Unreadable):
                    raise request.error
                if self._gate is not None and caller is not None:
                    self._gate.permit(caller, name, request)
                async for response in method(request, context):
                    if self._gate is not None:
                        # No message goes to a token that a call of its own would be refused with.
                        self._gate.permit(await self._gate.identify(context), name, request)
                    yield response
            except (asyncio.CancelledError, GeneratorExit):
                code = _given_up(context)
                self._record(name, code, request, caller, context)
                raise
            except Exception as error:
                status = self._status(name, error, request)
                code = status[0]
                self._record(name, code, request, caller, context)
            else:
                return
            finally:
                self._finished(name, code, started, request)
            del request  # as above
            await context.abort(*status)

        return call

    def refusal(self, name: str, error: Exception) -> grpc.RpcMethodHandler[Any, Any]:
        """Stands for the method `name` in a call that ends with `error`. It reads no request."""

        async def call(_: AsyncIterator[Any], context: Context) -> None:
            started = time.perf_counter()
            code, message, trailers = self._status(name, error, None)
            self._record(name, code, None, None, context)
            self._finished(name, code, started, None)
            await context.abort(code, message, trailers)

        return grpc.stream_unary_rpc_method_handler(call)

    def _status(self, name: str, error: Exception, request: Any) -> Status:
        if isinstance(error, AskTellError):
            status = to_status(error)
            if isinstance(error, (Unauthenticated, PermissionDenied)):
                self._metrics.denied(error.reason)
            if isinstance(error, QuotaExceeded):
                self._metrics.refused("quota", error.metadata["limit"])
            # Strangers could fill the log; the metric and the audit log have them.
            tell = self._log.debug if isinstance(error, Unauthenticated) else self._log.info
            tell(
                "call refused",
                method=name,
                **_ids(request),
                code=status[0].name,
                reason=error.reason,
                message=error.message if isinstance(error, StorageUnavailable) else status[1],
            )
            return status
        log_id = uuid.uuid4().hex
        self._log.error("call failed", method=name, **_ids(request), log_id=log_id, exc_info=error)
        return internal_status(log_id)

    def _finished(self, name: str, code: grpc.StatusCode, started: float, request: Any) -> None:
        seconds = time.perf_counter() - started
        self._metrics.rpc_finished(name, code.name, seconds)
        if code is grpc.StatusCode.OK and self._log.is_enabled_for(logging.DEBUG):
            self._log.debug("call", method=name, **_ids(request), ms=round(seconds * 1000, 3))

    def _record(
        self, name: str, code: grpc.StatusCode, request: Any, caller: Principal | None, context: Context
    ) -> None:
        refused = code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        if self._audit is None or not (refused or NEEDS[name].changes):
            return
        who = caller.name if caller is not None else ""
        self._audit.record(caller=who, method=name, **_ids(request), code=code.name, peer=context.peer())


def _given_up(context: Context) -> grpc.StatusCode:
    """Why nobody waits for the answer any more."""
    left = context.time_remaining()
    return grpc.StatusCode.CANCELLED if left is None or left > 0 else grpc.StatusCode.DEADLINE_EXCEEDED


def _ids(request: Any) -> dict[str, str]:
    """What a log needs to say which call it was: the resource and, if there is one, the request_id; cut, as nobody has checked them."""
    owner = getattr(request, "study", None) or getattr(request, "trial", None)
    resource = getattr(request, "name", "") or getattr(request, "parent", "") or getattr(owner, "name", "")
    new = getattr(request, "study_id", "")
    if new:
        resource = f"{resource}/studies/{new}"
    ids = {"resource": resource[:_MAX_LOGGED]}
    request_id = getattr(request, "request_id", "")
    if request_id:
        ids["request_id"] = request_id[:_MAX_LOGGED]
    return ids
