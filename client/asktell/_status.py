"""From the wire's error to the tree of `errors`: code, message and the bytes of `grpc-status-details-bin`.

The trailer holds a `google.rpc.Status` whose details are `Any`s (AIP-193). Their classes live in
googleapis-common-protos, which is not a dependency of a light client; so the few messages that are read here are
rebuilt, with their published field numbers, in a descriptor pool of their own. A private pool cannot clash with the
public classes when those are loaded too.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from asktell.errors import AskTellError, FieldViolation, TlsFailed, error_class

_DETAILS_PREFIX = "type.googleapis.com/google.rpc."

# message -> (field, number, type): "string", "bytes", "int32", "int64" or the name of a message; "*" means repeated.
# Source: google/rpc/{status,error_details}.proto, google/protobuf/{any,duration}.proto.
_MESSAGES: Mapping[str, tuple[tuple[str, int, str], ...]] = {
    "Any": (("type_url", 1, "string"), ("value", 2, "bytes")),
    "Duration": (("seconds", 1, "int64"), ("nanos", 2, "int32")),
    "Status": (("code", 1, "int32"), ("message", 2, "string"), ("details", 3, "*Any")),
    "ErrorInfo": (("reason", 1, "string"), ("domain", 2, "string"), ("metadata", 3, "*Entry")),
    "Entry": (("key", 1, "string"), ("value", 2, "string")),
    "RetryInfo": (("retry_delay", 1, "Duration"),),
    "BadRequest": (("field_violations", 1, "*FieldViolation"),),
    "FieldViolation": (("field", 1, "string"), ("description", 2, "string")),
}


class CallFailed(Exception):
    """How a transport says that a call failed: nothing is interpreted yet."""

    def __init__(self, code: str, message: str, details: bytes = b"") -> None:
        super().__init__(code, message)
        self.code = code
        """Canonical code, such as `UNAVAILABLE`."""
        self.message = message
        self.details = details
        """The trailer `grpc-status-details-bin`; empty when there is none."""


CANNOT_CONNECT = ("failed to connect to all addresses", "connections to all backends failing")
"""How gRPC's texts begin when this client could not connect; a proxy that could not says it otherwise."""

# What those texts go on with when a handshake failed, and what that means. The first that fits counts.
_HANDSHAKE: Mapping[str, str] = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS here: connect without it, or start the server with --tls-cert and --tls-key",
    "certificate has expired": "the server's certificate has expired",
    "certificate is not yet valid": "the server's certificate is not valid yet; or is this machine's clock slow?",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate is not of an authority that this client trusts: name the right one with "
    "Tls(ca=...) or ASKTELL_TLS_CA",
    "Hostname Verification Check failed": "the server's certificate is for another host name than the target's",
    "is not in peer certificate": "the server's certificate is for another host name than the target's",
    "SSL_ERROR_SSL": "client and server do not agree on TLS",
}


def to_error(failure: CallFailed) -> AskTellError:
    """The error that the failure means, as typed as what came over the wire allows."""
    if failure.code == "UNAVAILABLE" and failure.message.startswith(CANNOT_CONNECT):
        for sign, meaning in _HANDSHAKE.items():
            if sign in failure.message:
                return TlsFailed(f"{meaning} ({failure.message})", code=failure.code)
    reason = ""
    metadata: dict[str, str] = {}
    violations: list[FieldViolation] = []
    retry_delay: timedelta | None = None
    for kind, detail in _details(failure.details):
        if kind == "ErrorInfo":
            reason = detail.reason
            metadata = {entry.key: entry.value for entry in detail.metadata}
        elif kind == "BadRequest":
            violations += [FieldViolation(v.field, v.description) for v in detail.field_violations]
        elif kind == "RetryInfo":
            retry_delay = timedelta(seconds=detail.retry_delay.seconds, microseconds=detail.retry_delay.nanos // 1000)
    return error_class(failure.code, reason)(
        failure.message or failure.code,
        code=failure.code,
        reason=reason,
        metadata=metadata,
        violations=violations,
        retry_delay=retry_delay,
    )


def _details(raw: bytes) -> list[tuple[str, Any]]:
    """The details that are understood here, as (kind, message); a trailer that cannot be read counts as absent."""
    if not raw:
        return []
    classes = _classes()
    try:
        found = [(any_.type_url.removeprefix(_DETAILS_PREFIX), any_.value) for any_ in _parse("Status", raw).details]
        return [(kind, _parse(kind, value)) for kind, value in found if kind in classes]
    except DecodeError:
        return []


def _parse(kind: str, raw: bytes) -> Any:
    message = _classes()[kind]()
    message.ParseFromString(raw)
    return message


@functools.cache
def _classes() -> dict[str, Any]:
    package = "asktell.client.wire"
    file = descriptor_pb2.FileDescriptorProto(name="asktell/client/wire.proto", package=package, syntax="proto3")
    types = descriptor_pb2.FieldDescriptorProto
    scalars = {
        "string": types.TYPE_STRING,
        "bytes": types.TYPE_BYTES,
        "int32": types.TYPE_INT32,
        "int64": types.TYPE_INT64,
    }
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            field = message.field.add(
                name=field_name,
                number=number,
                label=types.LABEL_REPEATED if kind.startswith("*") else types.LABEL_OPTIONAL,
            )
            kind = kind.removeprefix("*")
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type = types.TYPE_MESSAGE
                field.type_name = f".{package}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}")) for name in _MESSAGES
    }
