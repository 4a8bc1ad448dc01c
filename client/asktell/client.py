"""The connection to a server: `connect`, `Client`, and the default client behind `create_study` and `get_study`."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar, Unpack, cast

from google.protobuf.message import Message

from asktell import _calls
from asktell._calls import Call, add_measurements, cut_trials, rest_of_trial
from asktell._fork import renew_after_fork
from asktell._heartbeat import Heartbeats
from asktell._retry import DEFAULT_BUDGET_S, Attempts
from asktell._status import CallFailed, to_error
from asktell._targets import LOCAL_PREFIX, resolve_study, resolve_target
from asktell.access import StrPath, Tls, resolve_access
from asktell.errors import AskTellError, Unavailable
from asktell.names import DEFAULT_PROJECT, ProjectName
from asktell.records import StudyState
from asktell.space import Space
from asktell.spec import Seconds, StudyOptions, to_budget
from asktell.study import Study
from asktell.transport import GrpcTransport, Transport

R = TypeVar("R", bound=Message)


def connect(
    target: str | None = None,
    *,
    project: str = DEFAULT_PROJECT,
    timeout: Seconds = DEFAULT_BUDGET_S,
    tls: Tls | bool | None = None,
    token: str | None = None,
    token_file: StrPath | None = None,
    insecure: bool | None = None,
) -> Client:
    """A client of the server at `target`; a context manager, or call its `close`.

    target: "host:port", "unix:path", or "local:path.db", which runs a server on that file in the care of this process
        ("local:" or "local::memory:": on no file at all). None: the environment variable ASKTELL_TARGET, else
        localhost:50051. A remote server is not contacted before the first call.
    project: the project of studies that are given without one.
    timeout: deadline budget of each call, retries included; long enough to outlast a restart of the server.
    tls: True, or a `Tls` that names files; False: none. None: as ASKTELL_TLS, ASKTELL_TLS_CA, ASKTELL_TLS_CERT and
        ASKTELL_TLS_KEY say, which True also uses; see `asktell.access`.
    token, token_file: the bearer token that says who calls, or a file that holds it and is read anew for each call. Both
        None: ASKTELL_TOKEN or ASKTELL_TOKEN_FILE, if set.
    insecure: whether the token may go to another machine without TLS. None: as ASKTELL_INSECURE says.

    A server of a "local:" target needs none of the last four and gets none of them.

    Raises CredentialsError if files or token cannot be used or must not be sent so, LocalServerError if a local server
    cannot be started.
    """
    timeout = to_budget(timeout)  # before a local server is started
    target = resolve_target(target)
    if not target.startswith(LOCAL_PREFIX):
        access = resolve_access(target, tls, token, token_file, insecure=insecure)
        return Client(GrpcTransport(target, access), target=target, project=project, timeout=timeout)
    from asktell import _local  # what starts processes is not needed by those who do not

    server = _local.acquire_local(target)
    return Client(
        GrpcTransport(server.target),
        target=server.target,
        project=project,
        timeout=timeout,
        on_close=lambda: _local.release_local(server),
        obituary=server.obituary,
    )


class Client:
    """A connection to a server. May be used from any number of threads."""

    def __init__(
        self,
        transport: Transport,
        *,
        target: str = "",
        project: str = DEFAULT_PROJECT,
        timeout: Seconds = DEFAULT_BUDGET_S,
        on_close: Callable[[], object] | None = None,
        obituary: Callable[[], AskTellError | None] | None = None,
    ) -> None:
        """Most callers want `connect`; this takes a `Transport` of one's own, what `close` is to call at the
        end, and what says how the server ended, if it has.
        """
        self._transport = transport
        self._target = target
        self._project = ProjectName.parse(f"projects/{project}").project
        self._timeout_s = to_budget(timeout)
        self._on_close = on_close
        self._obituary = obituary
        self._closed = False
        self.heartbeats = Heartbeats()
        """Renews the leases of the trials asked for through this client."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends heartbeats and the connection, and the local server if no other client uses it. May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.heartbeats.close()
        self._transport.close()
        if self._on_close is not None:
            self._on_close()

    def create_study(self, name: str, space: Space, **options: Unpack[StudyOptions]) -> Study:
        """Creates a study, or takes up the existing one of that name if its specification is equal.

        name: "study", "project/study" or the full resource name.
        space: parameter by name.
        options: maximize=, minimize=, constraints=, algorithm=, seed=, lease=, max_retries=, max_trials=, target=,
            max_trials_without_improvement=, max_failed_trials=, labels=, description=, if_exists=; see `StudyOptions`.

        Raises InvalidArgument (all that is wrong at once), StudyAlreadyExists (if_exists="fail"), StudySpecMismatch
        (if_exists="use"), Unimplemented.
        """
        return Study(self, self.run(_calls.create_study(resolve_study(name, self._project), space, options)))

    def get_study(self, name: str) -> Study:
        """The study called "study", "project/study" or by its full resource name. Raises StudyNotFound."""
        return Study(self, self.run(_calls.get_study(str(resolve_study(name, self._project)))))

    def list_studies(
        self, states: Iterable[StudyState | str] | None = None, *, project: str | None = None
    ) -> Iterator[Study]:
        """The studies of a project (None: the client's; "-": all projects) by name, in one of the states if given."""
        parent, wanted, token = f"projects/{project or self._project}", list(states or ()), ""
        while True:
            page = self.run(_calls.list_studies(parent, wanted, token))
            for proto in page.studies:
                yield Study(self, proto)
            token = page.next_page_token
            if not token:
                return

    def delete_study(self, name: str, *, missing_ok: bool = False) -> None:
        """Deletes a study with all its trials, for good. Raises StudyNotFound unless `missing_ok`."""
        self.run(_calls.delete_study(str(resolve_study(name, self._project)), missing_ok=missing_ok))

    def run(self, call: Call[R], timeout_s: float | None = None) -> R:
        """Sends a call until it is answered or its budget is spent (None: the client's). Raises an AskTellError.

        Trials whose measurements did not fit the reply are completed by further calls.
        """
        reply = self._sent(call, timeout_s)
        for trial in cut_trials(reply):
            while trial.has_more_measurements:
                add_measurements(trial, self._sent(rest_of_trial(trial), timeout_s))
        return reply

    def _sent(self, call: Call[R], timeout_s: float | None) -> R:
        attempts = self.attempts(call.method, patient=call.patient, timeout_s=timeout_s)
        while True:
            try:
                left_s = attempts.timeout_s(time.monotonic())
                return cast(R, self._transport.unary(call.method, call.request, left_s))
            except CallFailed as failure:
                error = self.to_error(failure)
            pause_s = attempts.pause_s(error, time.monotonic())
            if pause_s is None:
                raise error
            time.sleep(pause_s)

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
    def transport(self) -> Transport:
        """What carries the calls."""
        return self._transport


class _Default:
    """The client behind the module's functions: one per process, made when it is first needed."""

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._client: Client | None = None

    def after_fork(self) -> None:
        self._renew()

    def get(self) -> Client:
        with self._lock:
            if self._client is None or self._client.closed:
                self._client = connect()
            return self._client


_default = _Default()


def create_study(name: str, space: Space, *, client: Client | None = None, **options: Unpack[StudyOptions]) -> Study:
    """`Client.create_study` of `client`, or of this process's client of the target in ASKTELL_TARGET."""
    return (client or _default.get()).create_study(name, space, **options)


def get_study(name: str, *, client: Client | None = None) -> Study:
    """`Client.get_study` of `client`, or of this process's client of the target in ASKTELL_TARGET."""
    return (client or _default.get()).get_study(name)
