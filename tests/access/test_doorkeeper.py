"""Strangers are answered before they have sent anything: what they would send is not read."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

import grpc
import pytest

from asktell.v1 import study_service_pb2

from ..support import ServerProcess, stub
from .conftest import audit, bearer, issue

SERVICE = study_service_pb2.DESCRIPTOR.services_by_name["StudyService"]


def call_that_sends_nothing(
    server: ServerProcess, method: str, metadata: list[tuple[str, str]], wait_s: float
) -> grpc.StatusCode:
    """How a call ends whose request does not come."""
    done = Event()

    def requests() -> Iterator[bytes]:
        done.wait(60)
        yield from ()

    with grpc.insecure_channel(server.target) as channel:
        call = channel.stream_unary(f"/{SERVICE.full_name}/{method}")
        try:
            call(requests(), timeout=wait_s, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
        finally:
            done.set()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
@pytest.mark.parametrize("metadata", [[], bearer("asktell_aaaaaaaaaaaa_" + 43 * "a"), bearer("no.token.here")])
def test_a_stranger_is_refused_before_the_request_is_read(
    guarded: ServerProcess, method: str, metadata: list[tuple[str, str]]
) -> None:
    """Without a token, or with one that nobody has, the answer does not wait for the message."""
    assert call_that_sends_nothing(guarded, method, metadata, 30) is grpc.StatusCode.UNAUTHENTICATED


def test_a_caller_with_a_token_is_waited_for(guarded: ServerProcess) -> None:
    """Who is known is refused only when the request says what is wanted."""
    token = issue(guarded.database, "viewer", "p")

    assert call_that_sends_nothing(guarded, "GetStudy", bearer(token), 2) is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_stranger_is_recorded(guarded: ServerProcess) -> None:
    """A refusal counts in the metrics and stands in the audit log, with the method and where it came from."""
    name = "asktell_denied_total"
    before, lines = guarded.metric(name, reason="UNAUTHENTICATED"), len(audit(guarded))

    with stub(guarded.target) as service, pytest.raises(grpc.RpcError):
        service.GetStudy(study_service_pb2.GetStudyRequest(name="projects/p/studies/s"), timeout=30)

    assert guarded.metric(name, reason="UNAUTHENTICATED") == before + 1
    (line,) = audit(guarded)[lines:]
    assert (line["method"], line["code"]) == ("GetStudy", "UNAUTHENTICATED")
    assert not {"caller", "resource"} & set(line)
    assert line["peer"].startswith("ipv4:127.0.0.1:")
