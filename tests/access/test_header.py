"""What a header may look like, by random ones: a token opens as it was given out, and nothing else does or breaks anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.access import Role, Token, grants
from asktell_server.domain.errors import Unauthenticated
from asktell_server.service.authentication import MAX_TOKEN, StoredTokens, authenticate, issue
from asktell_server.service.oidc import OidcConfig, OidcTokens
from asktell_server.storage.base import Storage

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TEXT, KEPT = issue("somebody", grants(Role.VIEWER, ["p"]), NOW)
OIDC = OidcConfig("https://login.example.com", "asktell", "/no/such/file", ())


class OneToken:
    """A storage that holds KEPT and nothing else."""

    def token(self, token_id: str) -> Token | None:
        """It, by its id."""
        return KEPT if token_id == KEPT.id else None

    async def read(self, work: Callable[[Any], Any]) -> Any:
        """Runs work on it."""
        return work(self)


def caller(header: str) -> str:
    """Who the header is found to be of. Raises Unauthenticated."""

    async def found() -> str:
        stored = StoredTokens(cast("Storage", OneToken()), lambda: NOW)
        return (await authenticate(header, [stored, OidcTokens(OIDC)])).name

    return asyncio.run(found())


def test_a_new_token_is_as_documented() -> None:
    """A prefix by which scanners for secrets find it, an id, and 256 bits; no two are alike."""
    assert re.fullmatch(r"asktell_[a-z0-9]{12}_[A-Za-z0-9_-]{43}", TEXT)
    assert len({issue("x", (), NOW)[0] for _ in range(1000)}) == 1000
    assert TEXT.split("_", 2)[2] not in repr(KEPT)


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    """RFC 9110, section 11.1."""
    assert caller(f"{scheme} {TEXT}") == f"token:somebody:{KEPT.id}"


@given(st.integers(0, len(TEXT) - 1), st.characters(min_codepoint=32, max_codepoint=126))
def test_another_character_anywhere_is_another_token(at: int, character: str) -> None:
    """Whether in prefix, id or secret."""
    changed = TEXT[:at] + character + TEXT[at + 1 :]
    if changed == TEXT:
        return

    with pytest.raises(Unauthenticated):
        caller(f"Bearer {changed}")


@given(st.text(max_size=3), st.text(max_size=3))
def test_nothing_may_stand_around_it(before: str, after: str) -> None:
    """Neither spaces, line ends nor what looks like them."""
    if not before and not after:
        return

    with pytest.raises(Unauthenticated):
        caller(f"Bearer {before}{TEXT}{after}")


@given(
    st.one_of(
        st.text(max_size=200),
        st.text(max_size=200).map(lambda text: f"Bearer {text}"),
        st.lists(st.text(alphabet="abcABC019-_=+/.", max_size=40), min_size=3, max_size=3).map(
            lambda parts: f"Bearer {'.'.join(parts)}"
        ),
        st.binary(max_size=200).map(lambda content: f"Bearer {content.decode('latin-1')}"),
        st.text(alphabet="asktell_0", max_size=80).map(lambda text: f"Bearer asktell_{text}"),
        st.integers(MAX_TOKEN - 2, MAX_TOKEN + 2).map(lambda length: f"Bearer {'a' * length}"),
    )
)
def test_any_other_header_is_refused_and_nothing_else_happens(header: str) -> None:
    """No other exception, whatever it holds."""
    with pytest.raises(Unauthenticated):
        caller(header)
