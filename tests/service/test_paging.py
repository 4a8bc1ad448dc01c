"""Page tokens: opaque, bound to their query."""

from __future__ import annotations

import base64
import json

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.errors import InvalidArgument
from asktell_server.service import paging

from ..inprocess import InProcess
from ..rpc.refusals import read
from ..support import spec

# What positions are made of: ids of projects and studies, and numbers.
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}", fullmatch=True)
positions = st.lists(st.one_of(ids, st.integers(0, 2**63 - 1)), min_size=1, max_size=4)


@given(positions)
def test_a_token_leads_back_to_its_position(position: list[str | int]) -> None:
    """Whatever the key, the token of a query gives its position back."""
    token = paging.token(position, "query", 1)

    assert token.isascii()
    assert paging.position(token, [type(item) for item in position], "query", 1) == position


def test_no_token_is_the_first_page() -> None:
    """The empty token is that of the first page."""
    assert paging.position("", (int,), "query") is None


def test_a_token_is_for_its_query() -> None:
    """The token of another query is refused."""
    token = paging.token([1], "query", "a")

    with pytest.raises(InvalidArgument, match="another query"):
        paging.position(token, (int,), "query", "b")


@given(st.one_of(st.text(min_size=1), st.binary(min_size=1).map(lambda raw: raw.hex())))
def test_garbage_is_refused(text: str) -> None:
    """Any text that is no token is an invalid argument, never another error."""
    with pytest.raises(InvalidArgument):
        paging.position(text, (int,), "query")


@pytest.mark.parametrize(("asked", "size"), [(0, 100), (1, 1), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)])
def test_page_size(asked: int, size: int) -> None:
    """0 takes the default; too much is cut."""
    assert paging.page_size(asked) == size


NOT_KEYS = ["", "\ud800", "a\x00", "\x00", "é", "a" * 129, ".a", "a/b", 2**63, True, 1.5, None, ["a"]]


@pytest.mark.parametrize("key", NOT_KEYS, ids=ascii)
def test_a_position_that_no_page_ends_with_is_refused(key: object) -> None:
    """Whatever stands where an id or a number belongs, in a token that is otherwise well made."""
    for kind, valid in ((str, "s"), (int, 1)):
        text = json.dumps([[valid, key], json.loads(base64.urlsafe_b64decode(paging.token([valid], "query")))[1]])
        forged = base64.urlsafe_b64encode(text.encode()).decode()

        with pytest.raises(InvalidArgument, match="page_token: is not one that this server gave out"):
            paging.position(forged, (kind, kind), "query")


@pytest.mark.parametrize("parent", ["projects/p", "projects/-"])
async def test_a_forged_token_is_the_callers_fault_on_every_database(running: InProcess, parent: str) -> None:
    """Text that one of the databases cannot even be asked for is named, like any other token that nobody gave out."""
    for i in range(3):
        request = pb.CreateStudyRequest(parent="projects/p", study_id=f"s{i}", study=study_pb2.Study(spec=spec()))
        await running.service.CreateStudy(request)
    page = await running.service.ListStudies(pb.ListStudiesRequest(parent=parent, page_size=1))
    _, query = json.loads(base64.urlsafe_b64decode(page.next_page_token))

    for position in (["p", "\ud800"], ["\ud800", "s0"], ["p", "s\x00"], ["\x00", "s0"]):
        forged = base64.urlsafe_b64encode(json.dumps([position, query]).encode()).decode()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.service.ListStudies(pb.ListStudiesRequest(parent=parent, page_size=1, page_token=forged))
        refusal = read(caught.value)
        assert (refusal.code, refusal.named) == (grpc.StatusCode.INVALID_ARGUMENT, {"page_token"})
