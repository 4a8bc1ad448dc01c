"""Calls that must be refused: what the refusal says, and the proof that it changed nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status  # type: ignore[import-untyped]

from asktell.v1 import study_service_pb2 as pb
from asktell.v1 import study_service_pb2_grpc, trial_pb2

Stub = study_service_pb2_grpc.StudyServiceStub
# What clients take by default; beyond it they may lose the whole status.
TRAILER_LIMIT = 8 * 1024


@dataclass
class Refusal:
    """A refused call: its code, its reason, and the violated fields in the order of the reply."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str]
    message: str
    fields: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    resource: str = ""
    subject: str = ""
    retry_delay_s: float | None = None
    trailer_bytes: int = 0

    @property
    def named(self) -> set[str]:
        """The violated fields."""
        return set(self.fields)


def read(error: grpc.RpcError) -> Refusal:
    """Takes an error apart; fails if it does not carry what every error of the service carries."""
    call: Any = error
    status = rpc_status.from_call(call)
    assert status is not None, f"{call.code()} carries no status: {call.details()}"
    details = {detail.TypeName(): detail for detail in status.details}
    info = error_details_pb2.ErrorInfo()
    assert details["google.rpc.ErrorInfo"].Unpack(info)
    assert info.domain == "asktell"
    refusal = Refusal(call.code(), info.reason, dict(info.metadata), status.message)
    if "google.rpc.BadRequest" in details:
        bad = error_details_pb2.BadRequest()
        details["google.rpc.BadRequest"].Unpack(bad)
        refusal.fields = [violation.field for violation in bad.field_violations]
        refusal.descriptions = [violation.description for violation in bad.field_violations]
    if "google.rpc.ResourceInfo" in details:
        resource = error_details_pb2.ResourceInfo()
        details["google.rpc.ResourceInfo"].Unpack(resource)
        refusal.resource = resource.resource_name
    if "google.rpc.PreconditionFailure" in details:
        failure = error_details_pb2.PreconditionFailure()
        details["google.rpc.PreconditionFailure"].Unpack(failure)
        refusal.subject = failure.violations[0].subject
    if "google.rpc.RetryInfo" in details:
        retry = error_details_pb2.RetryInfo()
        details["google.rpc.RetryInfo"].Unpack(retry)
        refusal.retry_delay_s = retry.retry_delay.ToNanoseconds() / 1e9
    # HTTP/2 counts a header as name + value + 32 (RFC 9113, 6.5.2); a binary one travels in base64, a message percent-encoded.
    refusal.trailer_bytes = sum(
        len(key) + 32 + (-(-len(value) // 3) * 4 if isinstance(value, bytes) else len(value))
        for key, value in call.trailing_metadata() or ()
    ) + sum(1 if 0x20 <= byte <= 0x7E and byte != 0x25 else 3 for byte in (call.details() or "").encode())
    assert refusal.trailer_bytes < TRAILER_LIMIT
    return refusal


def refused(call: Callable[[], object]) -> Refusal:
    """The refusal of a call; fails if it succeeds."""
    try:
        answer = call()
    except grpc.RpcError as error:
        return read(error)
    raise AssertionError(f"was not refused: {answer}")


def snapshot(service: Stub, project: str) -> list[bytes]:
    """Everything there is in a project: its studies with their revisions, and all their trials."""
    found: list[bytes] = []
    token = ""
    while True:
        studies = service.ListStudies(pb.ListStudiesRequest(parent=project, page_size=1000, page_token=token))
        for study in studies.studies:
            found.append(study.SerializeToString(deterministic=True))
            found += [trial.SerializeToString(deterministic=True) for trial in _trials(service, study.name)]
        token = studies.next_page_token
        if not token:
            return found


def _trials(service: Stub, study: str) -> Iterator[trial_pb2.Trial]:
    page = service.ListTrials(pb.ListTrialsRequest(parent=study, page_size=1000, view=pb.FULL))
    yield from page.trials
    while page.next_page_token:
        request = pb.ListTrialsRequest(parent=study, page_size=1000, view=pb.FULL, page_token=page.next_page_token)
        page = service.ListTrials(request)
        yield from page.trials


@contextmanager
def nothing_changes(service: Stub, project: str) -> Iterator[None]:
    """Fails if anything in the project is another at the end."""
    before = snapshot(service, project)
    assert before
    yield
    assert snapshot(service, project) == before
