"""From what a caller presents to who calls: bearer tokens of our own, and those of an identity provider (`oidc.py`).

Our tokens read `asktell_ID_SECRET`. The secret has 256 random bits, so that a plain SHA-256 of it can be stored: there is nothing
to guess that a slow hash would protect, and a call must not cost one. The id finds the row; digests are compared in constant time.

What a token was good for is remembered for `REMEMBERED_S`, so that not each call reads the database; a revocation takes effect
within that time on every replica.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from asktell_server.domain.access import Grant, Principal, Token
from asktell_server.domain.errors import TokenExpired, Unauthenticated
from asktell_server.storage.base import Storage

REMEMBERED_S = 5.0
REMEMBERED = 10_000
MAX_TOKEN = 8192
_OURS = re.compile(r"asktell_([a-z0-9]{12})_([A-Za-z0-9_\-]{43})")
PREFIX = "asktell_"
_ID_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"


class Authenticator(Protocol):
    """Tells who presents a token."""

    def takes(self, token: str) -> bool:
        """Whether the token has the form of those that this one knows."""

    async def authenticate(self, token: str) -> Principal:
        """Whom the token stands for. Raises Unauthenticated, StorageUnavailable."""


def issue(
    name: str, grants: tuple[Grant, ...], now: datetime, expire_time: datetime | None = None
) -> tuple[str, Token]:
    """A new token: the text that its owner keeps, and what the database keeps."""
    token_id = "".join(secrets.choice(_ID_LETTERS) for _ in range(12))
    secret = secrets.token_urlsafe(32)
    return f"{PREFIX}{token_id}_{secret}", Token(token_id, _digest(secret), name, grants, now, expire_time)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class StoredTokens:
    """Tokens that `asktell token create` made."""

    def __init__(self, storage: Storage, clock: Callable[[], datetime]) -> None:
        self._storage, self._clock = storage, clock
        self._remembered: OrderedDict[str, tuple[float, Token | None]] = OrderedDict()

    def takes(self, token: str) -> bool:
        """Whether the token begins as ours do."""
        return token.startswith(PREFIX)

    async def authenticate(self, token: str) -> Principal:
        """Whom the token stands for. Raises Unauthenticated, TokenExpired, StorageUnavailable."""
        match = _OURS.fullmatch(token)
        stored = await self._stored(match[1]) if match else None
        # One answer for all that is wrong, until the secret is right.
        if match is None or stored is None or not hmac.compare_digest(_digest(match[2]), stored.digest):
            raise Unauthenticated("the token is not known")
        if stored.revoke_time is not None:
            raise Unauthenticated("the token was revoked")
        if stored.is_expired(self._clock()):
            raise TokenExpired
        return stored.principal

    async def _stored(self, token_id: str) -> Token | None:
        now = time.monotonic()
        known = self._remembered.get(token_id)
        if known is not None and now - known[0] < REMEMBERED_S:
            return known[1]
        found = await self._storage.read(lambda tx: tx.token(token_id))
        self._remembered[token_id] = (now, found)
        self._remembered.move_to_end(token_id)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return found


async def authenticate(header: str, authenticators: Sequence[Authenticator]) -> Principal:
    """Whom the value of an `authorization` header stands for. Raises Unauthenticated, StorageUnavailable."""
    if not header:
        raise Unauthenticated("send a token: authorization: Bearer TOKEN")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_TOKEN:
        raise Unauthenticated("the authorization header must read: Bearer TOKEN")
    for authenticator in authenticators:
        if authenticator.takes(token):
            return await authenticator.authenticate(token)
    raise Unauthenticated("the token is not known")
