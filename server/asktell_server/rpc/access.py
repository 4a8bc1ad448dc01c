"""What each method needs: a role, in the project that the request names. The one place where access is decided.

The decision rests on the caller's roles and the name in the request, never on what the database holds: to a caller without a role in
a project, studies that exist and studies that do not are the same refusal. A method that the table does not name is nobody's.
A name that cannot be read belongs to no project; the method itself refuses it, by the same rules of `asktell.names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import grpc.aio
from google.protobuf.descriptor import ServiceDescriptor

from asktell.names import InvalidName, ProjectName, StudyName, TrialName
from asktell_server.domain.access import Principal, Role
from asktell_server.domain.errors import PermissionDenied
from asktell_server.service.authentication import Authenticator, authenticate
from asktell_server.service.certificates import CertificateRoles

if TYPE_CHECKING:  # generic only in the stubs
    Context = grpc.aio.ServicerContext[Any, Any]
Metadata = Iterable[tuple[str, str | bytes]] | None

ALL_PROJECTS = "projects/-"
HEADER = "authorization"


@dataclass(frozen=True)
class Need:
    """At least `role` in the project of the resource of kind `name` that `field` holds. `changes`: the method writes."""

    role: Role
    name: type[ProjectName | StudyName | TrialName]
    field: str
    changes: bool = True


NEEDS = {
    "CreateStudy": Need(Role.OWNER, ProjectName, "parent"),
    "GetStudy": Need(Role.VIEWER, StudyName, "name", changes=False),
    "ListStudies": Need(Role.VIEWER, ProjectName, "parent", changes=False),
    "UpdateStudy": Need(Role.OWNER, StudyName, "study.name"),
    "StopStudy": Need(Role.OWNER, StudyName, "name"),
    "ResumeStudy": Need(Role.OWNER, StudyName, "name"),
    "DeleteStudy": Need(Role.OWNER, StudyName, "name"),
    "WatchStudy": Need(Role.VIEWER, StudyName, "name", changes=False),
    "ExplainStudy": Need(Role.VIEWER, StudyName, "name", changes=False),
    "Ask": Need(Role.WORKER, StudyName, "parent"),
    "Tell": Need(Role.WORKER, TrialName, "name"),
    "Report": Need(Role.WORKER, TrialName, "name"),
    "Heartbeat": Need(Role.WORKER, TrialName, "name"),
    "CreateTrials": Need(Role.WORKER, StudyName, "parent"),
    "GetTrial": Need(Role.VIEWER, TrialName, "name", changes=False),
    "ListTrials": Need(Role.VIEWER, StudyName, "parent", changes=False),
    "ListBestTrials": Need(Role.VIEWER, StudyName, "parent", changes=False),
    "UpdateTrial": Need(Role.WORKER, TrialName, "trial.name"),
}

_caller: ContextVar[Principal | None] = ContextVar("caller", default=None)


def visible_projects() -> frozenset[str] | None:
    """The projects that the caller of the method at hand may see; None means all."""
    caller = _caller.get()
    return None if caller is None else caller.projects


def _headers(metadata: Metadata) -> list[str | bytes]:
    return [value for key, value in metadata or () if key == HEADER]


# What gRPC calls the names in a client's certificate, by ours.
_PEER = {"dns": "peer_dns", "uri": "peer_uri", "email": "peer_email", "common_name": "x509_common_name"}


class Gate:
    """Lets calls pass, or raises. With `certificates` a caller without a token is known by the certificate that it shows."""

    def __init__(self, authenticators: Sequence[Authenticator], certificates: CertificateRoles | None = None) -> None:
        self._authenticators = authenticators
        self._certificates = certificates

    def check_complete(self, service: ServiceDescriptor) -> None:
        """Raises LookupError if the table and the service do not name the same methods."""
        odd = {method.name for method in service.methods} ^ set(NEEDS)
        if odd:
            raise LookupError(f"methods without an entry in the table, or the reverse: {', '.join(sorted(odd))}")

    async def identify(self, context: Context) -> Principal:
        """Who calls. Raises Unauthenticated, StorageUnavailable."""
        headers = _headers(context.invocation_metadata())
        caller = self._by_certificate(context) if not headers else None
        if caller is None:
            caller = await self._by_token(headers)
        _caller.set(caller)
        return caller

    async def turn_away(self, metadata: Metadata) -> None:
        """Raises what `identify` will raise, if the headers alone say so. Nothing is known yet of the connection and its certificate."""
        headers = _headers(metadata)
        if headers or self._certificates is None:
            await self._by_token(headers)

    async def _by_token(self, headers: Sequence[str | bytes]) -> Principal:
        header = headers[0] if len(headers) == 1 else ""
        return await authenticate(header if isinstance(header, str) else "", self._authenticators)

    def _by_certificate(self, context: Context) -> Principal | None:
        if self._certificates is None:
            return None
        shown = context.auth_context()
        return self._certificates.principal(
            {kind: [name.decode("utf-8", "replace") for name in shown.get(key, ())] for kind, key in _PEER.items()}
        )

    def permit(self, caller: Principal, method: str, request: Any) -> None:
        """Raises PermissionDenied."""
        need = NEEDS.get(method)
        if need is None:
            raise PermissionDenied(f"{method} is open to nobody")
        text: str = reduce(getattr, need.field.split("."), request)
        if method == "ListStudies" and text == ALL_PROJECTS:
            return  # and sees those in its own projects
        try:
            project = need.name.parse(text).project
        except InvalidName:
            return
        role = caller.role_in(project)
        if role is None:
            raise PermissionDenied(f"{caller.name} has no role in projects/{project}, or there is no such project")
        if role < need.role:
            raise PermissionDenied(
                f"{method} needs the role {need.role.name.lower()} in projects/{project}; "
                f"{caller.name} is {role.name.lower()} there"
            )
