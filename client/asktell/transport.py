"""The seam between the client and the wire: `Transport`, `AsyncTransport`, and what they are over gRPC.

A transport carries one attempt of one call. It neither retries nor interprets: deadlines, retries, errors and
conversion to Python live above it. Duties of an implementation:

- `unary` may be called from any thread at any time (asyncio: from any task of one loop); it returns the response or
  raises `CallFailed`, after `timeout_s` at the latest;
- `stream` yields responses as they come and raises `CallFailed` at the end of a broken stream; closing the iterator
  cancels the call;
- after `close`, calls in flight fail with CANCELLED, and no others do.

Over gRPC each call about a study carries the study's name as the header `x-asktell-study`, so that a proxy can send all calls about it to
the same of several servers, whose model of it is then warm. Nothing but speed depends on that.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Generator
from typing import Any, Protocol, cast

import grpc
import grpc.aio
from google.protobuf.message import Message

from asktell._fork import renew_after_fork
from asktell._status import CallFailed
from asktell.access import Access, is_loopback
from asktell.errors import ForkedAfterUse
from asktell.names import study_in
from asktell.v1.study_service_pb2_grpc import StudyServiceStub

STUDY_HEADER = "x-asktell-study"
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PLAIN = Access()
"""No TLS and no token."""


class Transport(Protocol):
    """Carries calls to a `StudyService`; see the head of this module for its duties."""

    def unary(self, method: str, request: Message, timeout_s: float) -> Message:
        """One attempt of the unary call `method`, such as "Ask"."""
        ...

    def stream(self, method: str, request: Message) -> Generator[Message, None, None]:
        """One attempt of a server-streaming call, without a deadline."""
        ...

    def close(self) -> None:
        """Ends the connection. May be called twice."""
        ...


class AsyncTransport(Protocol):
    """`Transport` for asyncio."""

    async def unary(self, method: str, request: Message, timeout_s: float) -> Message:
        """One attempt of the unary call `method`, such as "Ask"."""
        ...

    def stream(self, method: str, request: Message) -> AsyncGenerator[Message, None]:
        """One attempt of a server-streaming call, without a deadline."""
        ...

    async def close(self) -> None:
        """Ends the connection. May be called twice."""
        ...


def headers(request: Any, access: Access = PLAIN) -> tuple[tuple[str, str], ...]:
    """The caller's token, if there is one, and the study that a request is about, if it is about one."""
    fields = request.DESCRIPTOR.fields_by_name
    if "study_id" in fields:  # CreateStudy
        name = f"{request.parent}/studies/{request.study_id}"
    elif "parent" in fields:
        name = request.parent
    elif "name" in fields:
        name = request.name
    else:
        name = (request.study if "study" in fields else request.trial).name
    study = study_in(name)
    mine = access.metadata()
    return mine if study is None else (*mine, (STUDY_HEADER, study))


def channel_options(target: str) -> list[tuple[str, int]]:
    """The channel's settings, each on purpose."""
    options = [
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        # A peer that vanished without a word is noticed within 40 s while a call is in flight. An idle channel is
        # left in peace: servers take pings without calls for an attack.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A restarted server is found within about a second; gRPC's own default backs off for up to 2 minutes.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 2_000),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Retries are made above the transport, where the budget is known; never twice.
        ("grpc.enable_retries", 0),
        # Each client has connections of its own: what one closes or loses does not touch another.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if is_loopback(target):
        options.append(
            ("grpc.enable_http_proxy", 0)
        )  # a proxy from the environment cannot reach this machine's loopback
    return options


def channel_credentials(access: Access) -> grpc.ChannelCredentials | None:
    """What a secure channel is made with; None for one without TLS."""
    if access.tls is None:
        return None
    pem = access.tls.pem
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def _is_outdated(access: Access) -> bool:
    """Whether a channel made before now shows a certificate, or trusts authorities, that were replaced."""
    return access.tls is not None and access.tls.changed()


class GrpcTransport:
    """A `Transport` over a gRPC channel."""

    def __init__(self, target: str, access: Access = PLAIN) -> None:
        """`target`: "host:port", "unix:path" or another gRPC target. Nothing is connected before the first call."""
        self._target = target
        self._access = access
        self._channel: grpc.Channel | None = None
        self._stub: StudyServiceStub | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._retired: list[grpc.Channel] = []  # may still have calls in flight; gRPC disconnects what is idle
        self._inherited: list[object] = []
        renew_after_fork(self)

    def unary(self, method: str, request: Message, timeout_s: float) -> Message:
        """One attempt of the unary call `method`."""
        try:
            call = getattr(self._open(), method)
            return cast(Message, call(request, timeout=timeout_s, metadata=headers(request, self._access)))
        except grpc.RpcError as error:
            raise _failed(error, self._access, closed=self._closed) from None
        except ValueError:
            if not self._closed:
                raise
            raise _closed() from None  # the channel was closed between _open and the call

    def stream(self, method: str, request: Message) -> Generator[Message, None, None]:
        """One attempt of a server-streaming call."""
        call = getattr(self._open(), method)(request, metadata=headers(request, self._access))
        try:
            yield from call
        except grpc.RpcError as error:
            raise _failed(error, self._access, closed=self._closed) from None
        finally:
            call.cancel()

    def close(self) -> None:
        """Ends the connection."""
        self._closed = True
        with self._lock:
            channels = [*self._retired, *([] if self._channel is None else [self._channel])]
        for channel in channels:
            channel.close()

    def after_fork(self) -> None:
        """The parent's channel is of no use here, and destroying it would wait for threads that are not here."""
        self._inherited.append((self._channel, self._stub, self._retired))
        self._channel = self._stub = None
        self._retired = []
        self._lock = threading.Lock()

    def _open(self) -> StudyServiceStub:
        with self._lock:
            if self._closed:
                raise _closed()
            if self._channel is not None and _is_outdated(self._access):
                self._retired.append(self._channel)
                self._channel = self._stub = None
            if self._stub is None:
                _check_fork()
                options, credentials = channel_options(self._target), channel_credentials(self._access)
                self._channel = (
                    grpc.insecure_channel(self._target, options=options)
                    if credentials is None
                    else grpc.secure_channel(self._target, credentials, options=options)
                )
                self._stub = StudyServiceStub(self._channel)
            return self._stub


class GrpcAsyncTransport:
    """An `AsyncTransport` over a gRPC channel, bound to the event loop of its first call."""

    def __init__(self, target: str, access: Access = PLAIN) -> None:
        """`target`: "host:port", "unix:path" or another gRPC target. Nothing is connected before the first call."""
        self._target = target
        self._access = access
        self._channel: grpc.aio.Channel | None = None
        self._retired: list[grpc.aio.Channel] = []
        self._stub: Any = None
        self._closed = False

    async def unary(self, method: str, request: Message, timeout_s: float) -> Message:
        """One attempt of the unary call `method`."""
        try:
            call = getattr(self._open(), method)
            return cast(Message, await call(request, timeout=timeout_s, metadata=headers(request, self._access)))
        except grpc.aio.AioRpcError as error:
            raise _failed(error, self._access, closed=self._closed) from None
        except asyncio.CancelledError:
            raise self._cancelled() from None

    async def stream(self, method: str, request: Message) -> AsyncGenerator[Message, None]:
        """One attempt of a server-streaming call."""
        call = getattr(self._open(), method)(request, metadata=headers(request, self._access))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise _failed(error, self._access, closed=self._closed) from None
        except asyncio.CancelledError:
            raise self._cancelled() from None
        finally:
            call.cancel()

    async def close(self) -> None:
        """Ends the connection."""
        self._closed = True
        for channel in (*self._retired, *([] if self._channel is None else [self._channel])):
            await channel.close()

    def _cancelled(self) -> BaseException:
        """What a cancellation means: gRPC also cancels calls when the channel is closed, though nobody cancelled us."""
        task = asyncio.current_task()
        ours = task is not None and task.cancelling() > 0
        return _closed() if self._closed and not ours else asyncio.CancelledError()

    def _open(self) -> Any:
        if self._closed:
            raise _closed()
        if self._channel is not None and _is_outdated(self._access):
            self._retired.append(self._channel)
            self._channel = self._stub = None
        if self._stub is None:
            _check_fork()
            options, credentials = channel_options(self._target), channel_credentials(self._access)
            self._channel = (
                grpc.aio.insecure_channel(self._target, options=options)
                if credentials is None
                else grpc.aio.secure_channel(self._target, credentials, options=options)
            )
            self._stub = StudyServiceStub(self._channel)
        return self._stub


class _GrpcUse:
    """Which process used gRPC first: this one or, across forks, one of its ancestors."""

    pid: int | None = None


def _check_fork() -> None:
    """Refuses at once what gRPC would let hang for ever: a call in a child forked after gRPC was used.

    With GRPC_ENABLE_FORK_SUPPORT gRPC survives a fork, but then a fork in the middle of a call hangs the child even
    if that never calls (data loaders fork so), which is why the client does not switch it on by itself.
    """
    supported = os.environ.get("GRPC_ENABLE_FORK_SUPPORT", "0").lower() in ("1", "true", "yes", "on")
    if _GrpcUse.pid is None:
        _GrpcUse.pid = os.getpid()
    if _GrpcUse.pid != os.getpid() and not supported:
        raise ForkedAfterUse(
            "this process was forked from one that had used gRPC, which does not survive that; start workers with "
            "multiprocessing.get_context('spawn'), or connect only after the fork, or set GRPC_ENABLE_FORK_SUPPORT=1 "
            "before Python starts"
        )


def _closed() -> CallFailed:
    return CallFailed("CANCELLED", "the client is closed")


def _failed(error: Any, access: Access, *, closed: bool) -> CallFailed:
    """What a grpc.RpcError says; its sync and asyncio forms offer the same methods."""
    trailers = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == "grpc-status-details-bin"), b"")
    message = error.details() or ""
    if error.code() is grpc.StatusCode.CANCELLED and not details and not closed:
        # So gRPC answers, in the server's name, calls that reach a server while it closes its connections.
        return CallFailed("UNAVAILABLE", "the server stopped before it took the call")
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        message = access.explained(message)
    return CallFailed(error.code().name, message, details)
