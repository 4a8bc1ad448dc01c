"""Page tokens: opaque, bound to the query that made them, positions by key rather than by offset (AIP-158).

They are not signed: whoever makes one up for a query sees no more than the query shows anyway. But it must be one that this server
could have given out, so that nothing else gets to the database.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Sequence

from asktell.names import is_id
from asktell_server.domain.errors import InvalidArgument, Violation
from asktell_server.domain.space import INT64_MAX
from asktell_server.service.requests import fingerprint

DEFAULT_SIZE = 100
MAX_SIZE = 1000
_MAX_TOKEN = 1024


def size_violations(asked: int) -> list[Violation]:
    """What is wrong with a page size: it is negative."""
    return [Violation("page_size", f"must be at least 0, not {asked}")] if asked < 0 else []


def page_size(asked: int) -> int:
    """The size to use. Raises InvalidArgument for a negative one; too large is coerced."""
    violations = size_violations(asked)
    if violations:
        raise InvalidArgument(violations)
    return min(asked or DEFAULT_SIZE, MAX_SIZE)


def token(position: Sequence[str | int], *query: object) -> str:
    """The token of the page after `position`, valid for the same query only."""
    text = json.dumps([list(position), fingerprint(*query)[:16]])
    return base64.urlsafe_b64encode(text.encode()).decode()


def page_violations(asked: int, page_token: str) -> list[Violation]:
    """What is wrong with a page size and a token, whatever the query."""
    found = size_violations(asked)
    if page_token and _decoded(page_token) is None:
        found.append(_NOT_OURS)
    return found


def position(page_token: str, kinds: Sequence[type], *query: object) -> list[str | int] | None:
    """The position in a token, with elements of these types; None for the first page. Raises InvalidArgument."""
    if not page_token:
        return None
    decoded = _decoded(page_token)
    if decoded is None or [type(item) for item in decoded[0]] != list(kinds):
        raise InvalidArgument([_NOT_OURS])
    found, made_for = decoded
    if made_for != fingerprint(*query)[:16]:
        raise InvalidArgument(
            [Violation("page_token", "belongs to another query: all but page_size must stay the same")]
        )
    return found


_NOT_OURS = Violation("page_token", "is not one that this server gave out")


def _decoded(page_token: str) -> tuple[list[str | int], object] | None:
    """The position in a token and the query that it was made for; None if the token has not the form of one."""
    if len(page_token) > _MAX_TOKEN:
        return None
    try:
        found, made_for = json.loads(base64.urlsafe_b64decode(page_token.encode("ascii")))
    except (ValueError, TypeError, UnicodeError, binascii.Error):
        return None
    if not isinstance(found, list) or not all(map(_may_be_a_key, found)):
        return None
    return found, made_for


def _may_be_a_key(item: object) -> bool:
    """Whether positions may be made of it: ids of projects and studies, and numbers that a database can compare."""
    return is_id(item) if isinstance(item, str) else isinstance(item, int) and abs(item) <= INT64_MAX
