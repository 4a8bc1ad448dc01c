"""The connection to a server, for asyncio. What it says and retries is shared with `asktell.client`."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

from google.protobuf.message import Message

from asktell import _calls
from asktell._calls import Call, add_measurements, cut_trials, rest_of_trial
from asktell._retry import DEFAULT_BUDGET_S, Attempts
from asktell._status import CallFailed, to_error
from asktell._targets import LOCAL_PREFIX, resolve_study, resolve_target
from asktell.access import StrPath, Tls, resolve_access
from asktell.aio._heartbeat import AsyncHeartbeats
from asktell.aio.study import AsyncStudy
from asktell.errors import AskTellError, Unavailable
from asktell.names import DEFAULT_PROJECT, ProjectName
from asktell.records import StudyState
from asktell.space import Space
from asktell.spec import Seconds, StudyOptions, to_budget
from asktell.transport import AsyncTransport, GrpcAsyncTransport

R = TypeVar("R", bound=Message)


async def connect(
    target: str | None = None,
    *,
    project: str = DEFAULT_PROJECT,
    timeout: Seconds = DEFAULT_BUDGET_S,
    tls: Tls | bool | None = None,
    token: str | None = None,
    token_file: StrPath | None = None,
    insecure: bool | None = None,
) -> AsyncClient:
    """`asktell.connect` for asyncio: an asynchronous context manager, bound to the running event loop."""
    timeout = to_budget(timeout)  # before a local server is started
    target = resolve_target(target)
    if not target.startswith(LOCAL_PREFIX):
        access = resolve_access(target, tls, token, token_file, insecure=insecure)
        return AsyncClient(GrpcAsyncTransport(target, access), target=target, project=project, timeout=timeout)
    from asktell import _local  # what starts processes is not needed by those who do not

    server = await asyncio.to_thread(_local.acquire_local, target)
    return AsyncClient(
        GrpcAsyncTransport(server.target),
        target=server.target,
        project=project,
        timeout=timeout,
        on_close=lambda: _local.release_local(server),
        obituary=server.obituary,
    )


class AsyncClient:
    """A connection to a server, for the tasks of one event loop."""

    def __init__(
        self,
        transport: AsyncTransport,
        *,
        target: str = "",
        project: str = DEFAULT_PROJECT,
        timeout: Seconds = DEFAULT_BUDGET_S,
        on_close: Callable[[], object] | None = None,
        obituary: Callable[[], AskTellError | None] | None = None,
    ) -> None:
        """Most callers want `connect`; this takes an `AsyncTransport` of one's own, what `close` is to call at the
        end, in a thread, and what says how the server ended, if it has.
        """
        self._transport = transport
        self._target = target
        self._project = ProjectName.parse(f"projects/{project}").project
        self._timeout_s = to_budget(timeout)
        self._on_close = on_close
        self._obituary = obituary
        self._closed = False
        self.heartbeats = AsyncHeartbeats()
        """Renews the leases of the trials asked for through this client."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends heartbeats and the connection, and the local server if no other client uses it. May be called twice."""
        if self._closed:
            return
        self._closed = True
        await self.heartbeats.close()
        await self._transport.close()
        if self._on_close is not None:
            await asyncio.to_thread(self._on_close)

    async def create_study(self, name: str, space: Space, **options: Unpack[StudyOptions]) -> AsyncStudy:
        """`asktell.Client.create_study`."""
        return AsyncStudy(self, await self.run(_calls.create_study(resolve_study(name, self._project), space, options)))

    async def get_study(self, name: str) -> AsyncStudy:
        """`asktell.Client.get_study`."""
        return AsyncStudy(self, await self.run(_calls.get_study(str(resolve_study(name, self._project)))))

    async def list_studies(
        self, states: Iterable[StudyState | str] | None = None, *, project: str | None = None
    ) -> AsyncIterator[AsyncStudy]:
        """`asktell.Client.list_studies`."""
        parent, wanted, token = f"projects/{project or self._project}", list(states or ()), ""
        while True:
            page = await self.run(_calls.list_studies(parent, wanted, token))
            for proto in page.studies:
                yield AsyncStudy(self, proto)
            token = page.next_page_token
            if not token:
                return

    async def delete_study(self, name: str, *, missing_ok: bool = False) -> None:
        """`asktell.Client.delete_study`."""
        await self.run(_calls.delete_study(str(resolve_study(name, self._project)), missing_ok=missing_ok))

    async def run(self, call: Call[R], timeout_s: float | None = None) -> R:
        """Sends a call until it is answered or its budget is spent (None: the client's). Raises an AskTellError.

        Trials whose measurements did not fit the reply are completed by further calls.
        """
        reply = await self._sent(call, timeout_s)
        for trial in cut_trials(reply):
            while trial.has_more_measurements:
                add_measurements(trial, await self._sent(rest_of_trial(trial), timeout_s))
        return reply

    async def _sent(self, call: Call[R], timeout_s: float | None) -> R:
        attempts = self.attempts(call.method, patient=call.patient, timeout_s=timeout_s)
        while True:
            try:
                left_s = attempts.timeout_s(time.monotonic())
                return cast(R, await self._transport.unary(call.method, call.request, left_s))
            except CallFailed as failure:
                error = self.to_error(failure)
            pause_s = attempts.pause_s(error, time.monotonic())
            if pause_s is None:
                raise error
            await asyncio.sleep(pause_s)

    def to_error(self, failure: CallFailed) -> AskTellError:
        """What a failed attempt means; that a local server has ended is final."""
        error = to_error(failure)
        ended = self._obituary() if self._obituary is not None and isinstance(error, Unavailable) else None
        return ended or error

    def attempts(self, method: str, *, patient: bool = False, timeout_s: float | None = None) -> Attempts:
        """The attempts of a logical call that begins now."""
        budget_s = self._timeout_s if timeout_s is None else timeout_s
        return Attempts(method, budget_s, patient=patient, now_s=time.monotonic(), uniform=random.uniform)

    @property
    def target(self) -> str:
        """Where the server is, for other processes of this machine too; of a "local:" server its address."""
        return self._target

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def transport(self) -> AsyncTransport:
        """What carries the calls."""
        return self._transport


_defaults: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, AsyncClient] = weakref.WeakKeyDictionary()


async def _default() -> AsyncClient:
    """The client behind the module's functions: one per event loop, made when it is first needed."""
    loop = asyncio.get_running_loop()
    client = _defaults.get(loop)
    if client is None or client.closed:
        client = _defaults[loop] = await connect()
    return client


async def create_study(
    name: str, space: Space, *, client: AsyncClient | None = None, **options: Unpack[StudyOptions]
) -> AsyncStudy:
    """`asktell.create_study` for asyncio, with `client` or this event loop's client of the target in ASKTELL_TARGET."""
    return await (client or await _default()).create_study(name, space, **options)


async def get_study(name: str, *, client: AsyncClient | None = None) -> AsyncStudy:
    """`asktell.get_study` for asyncio, with `client` or this event loop's client of the target in ASKTELL_TARGET."""
    return await (client or await _default()).get_study(name)
