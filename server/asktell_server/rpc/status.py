"""The one mapping from the domain's error tree to wire status: a gRPC code and a `google.rpc.Status` (AIP-193)."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from asktell_server.domain import errors
from asktell_server.domain.errors import AskTellError, Violation

DOMAIN = "asktell"
DETAILS_KEY = "grpc-status-details-bin"
# Details ride in HTTP/2 trailers, which clients limit to about 8 KiB in all, counted as base64 and, for the message, percent-encoded.
# These are bytes of UTF-8.
MAX_VIOLATIONS = 20
_ALL_VIOLATIONS = 4000
_MAX_FIELD = 120
_MAX_DESCRIPTION = 400
_MAX_MESSAGE = 320
_MAX_METADATA = 200

Status = tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]

CODES: dict[type[AskTellError], grpc.StatusCode] = {
    errors.InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Aborted: grpc.StatusCode.ABORTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ServerBusy: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.FeatureNotImplemented: grpc.StatusCode.UNIMPLEMENTED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.RevisionInFuture: grpc.StatusCode.OUT_OF_RANGE,
}


def code_of(error: AskTellError) -> grpc.StatusCode:
    """The gRPC code of an error: that of the nearest ancestor in the table."""
    for kind in type(error).__mro__:
        if kind in CODES:
            return CODES[kind]
    return grpc.StatusCode.INTERNAL


def to_status(error: AskTellError) -> Status:
    """Code, message and trailing metadata of an error."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(
            reason=error.reason,
            domain=DOMAIN,
            metadata={key: _cut(value, _MAX_METADATA) for key, value in error.metadata.items()},
        )
    ]
    if isinstance(error, (errors.InvalidArgument, errors.FeatureNotImplemented)):
        details.append(_bad_request(error.violations))
    elif isinstance(error, errors.NotFound):
        details.append(error_details_pb2.ResourceInfo(resource_type=error.kind, resource_name=error.name))
    elif isinstance(error, errors.PreconditionFailed):
        violation = error_details_pb2.PreconditionFailure.Violation(
            type=error.reason, subject=error.subject, description=_cut(error.message, _MAX_MESSAGE)
        )
        details.append(error_details_pb2.PreconditionFailure(violations=[violation]))
    elif isinstance(error, errors.ServerBusy):
        delay = Duration()
        delay.FromNanoseconds(round(error.retry_delay_s * 1e9))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    message = error.public if isinstance(error, errors.StorageUnavailable) else error.message
    return _packed(code_of(error), message, details)


def internal_status(log_id: str) -> Status:
    """What a caller sees of a bug: an id that finds it in the log."""
    info = error_details_pb2.ErrorInfo(reason="INTERNAL", domain=DOMAIN, metadata={"log_id": log_id})
    return _packed(grpc.StatusCode.INTERNAL, f"internal error; the server's log has it under {log_id}", [info])


def _bad_request(violations: Sequence[Violation]) -> error_details_pb2.BadRequest:
    each = _ALL_VIOLATIONS // max(1, min(len(violations), MAX_VIOLATIONS))
    shown = []
    for violation in violations[:MAX_VIOLATIONS]:
        field = _cut(violation.field, min(_MAX_FIELD, each // 2))
        description = _cut(violation.description, min(_MAX_DESCRIPTION, each - len(field.encode())))
        shown.append(error_details_pb2.BadRequest.FieldViolation(field=field, description=description))
    if len(violations) > MAX_VIOLATIONS:
        at_least = "at least " if len(violations) > errors.MOST_VIOLATIONS else ""
        more = f"and {at_least}{len(violations) - MAX_VIOLATIONS} more violations"
        shown.append(error_details_pb2.BadRequest.FieldViolation(field="", description=more))
    return error_details_pb2.BadRequest(field_violations=shown)


def _packed(code: grpc.StatusCode, message: str, details: Sequence[Message]) -> Status:
    message = _cut(message, _MAX_MESSAGE)
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return code, message, ((DETAILS_KEY, status.SerializeToString()),)


def _cut(text: str, length: int) -> str:
    """`text`, shortened to so many bytes of UTF-8."""
    encoded = text.encode()
    return text if len(encoded) <= length else encoded[: length - 3].decode(errors="ignore") + "..."
