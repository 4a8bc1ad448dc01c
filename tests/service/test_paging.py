"""Page tokens: opaque, bound to their query."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.errors import InvalidArgument
from asktell_server.service import paging

# What positions are made of: ids of projects and studies, and numbers.
ids = st.text(string.ascii_letters + string.digits + "_.-", max_size=128)
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
