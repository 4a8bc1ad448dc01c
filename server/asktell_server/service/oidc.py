"""Tokens of an identity provider: OpenID Connect, that is signed JSON web tokens (RFC 7519), verified by PyJWT.

A token counts if it is signed by a key that the provider publishes, with one of the configured algorithms, by the configured
issuer for the configured audience, and not expired. Its claims are mapped to roles by a file:

    issuer = "https://login.example.com"
    audience = "asktell"
    jwks = "https://login.example.com/keys"      # or the path of a file
    # optional: algorithms = ["RS256", "ES256"], name_claim = "sub", leeway_s = 30

    [[bindings]]
    claim = "groups"                             # or a path: ["realm_access", "roles"]
    value = "vision-team"                        # equal to the claim, or one of the list that it is
    role = "owner"
    projects = ["vision"]                        # "*" is every project

Keys are fetched off the event loop, again when a token names one that is not known and when they are older than `FRESH_S`, so
that a key that the provider withdraws is soon good for nothing, and no more often than every `REFETCH_S`, or `RETRY_S` after a
failure. While the provider is away, the keys that are known go on counting, and a token with another is not refused for good.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import time
import urllib.parse
import urllib.request
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import structlog

from asktell_server.domain.access import Grant, Principal
from asktell_server.domain.errors import IdentityProviderUnavailable, TokenExpired, Unauthenticated
from asktell_server.service.authentication import REMEMBERED, REMEMBERED_S
from asktell_server.service.bindings import BadConfig, load, read_bindings

log = structlog.get_logger()

REFETCH_S = 10.0
RETRY_S = 1.0
FRESH_S = 300.0
PATIENCE_S = 1.0  # a call whose key is known waits no longer than this for newer ones
_FETCH_TIMEOUT_S = 10.0
_LARGEST_JWKS = 1_000_000
_LONGEST_NAME = 256
# Signatures by a key pair only: with a shared secret whoever can verify can sign, and "none" is no signature.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
_KINDS = frozenset({"RSA", "EC", "OKP"})
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Binding:
    """Who has `value` in the claim at `path` gets `grants`."""

    path: tuple[str, ...]
    value: str
    grants: tuple[Grant, ...]

    def applies(self, claims: Mapping[str, Any]) -> bool:
        """Whether the claim is the value, or a list that has it."""
        found: Any = claims
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found == self.value or (isinstance(found, list) and self.value in found)


@dataclass(frozen=True)
class OidcConfig:
    """What the file says; see the head of this module."""

    issuer: str
    audience: str
    jwks: str
    bindings: tuple[Binding, ...]
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    name_claim: str = "sub"
    leeway_s: float = 30.0

    @classmethod
    def read(cls, path: Path) -> OidcConfig:
        """From a TOML file. Raises BadConfig."""
        content = load(path)
        wrong = [f"{key} is not known" for key in sorted(set(content) - _KEYS)]
        for key in ("issuer", "audience", "jwks"):
            if not (isinstance(content.get(key), str) and content[key]):
                wrong.append(f"{key} must be a text")
        algorithms = content.get("algorithms", list(cls.algorithms))
        if not (isinstance(algorithms, list) and algorithms and all(a in ALGORITHMS for a in algorithms)):
            wrong.append(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        name_claim = content.get("name_claim", cls.name_claim)
        if not isinstance(name_claim, str):
            wrong.append("name_claim must be a text")
        leeway = content.get("leeway_s", cls.leeway_s)
        if isinstance(leeway, bool) or not isinstance(leeway, (int, float)) or not 0 <= leeway <= 600:
            wrong.append("leeway_s must be in [0, 600]")
        jwks = content.get("jwks", "")
        if isinstance(jwks, str) and "://" in jwks and not _is_safe(jwks):
            wrong.append("jwks must be an https URL or the path of a file")
        bindings = read_bindings(content, frozenset({"claim", "value"}), _binding, wrong)
        if wrong:
            raise BadConfig(f"{path}: " + "; ".join(wrong))
        return cls(
            content["issuer"],
            content["audience"],
            jwks,
            bindings,
            tuple(algorithms),
            name_claim,
            float(leeway),
        )


_KEYS = {"issuer", "audience", "jwks", "algorithms", "name_claim", "leeway_s", "bindings"}


def _binding(entry: dict[str, Any], at: str, wrong: list[str], held: tuple[Grant, ...]) -> Binding | None:
    before = len(wrong)
    claim, value = entry.get("claim"), entry.get("value")
    path = [claim] if isinstance(claim, str) else claim
    if not (isinstance(path, list) and path and all(isinstance(key, str) and key for key in path)):
        wrong.append(f"{at}.claim must be a name or a list of names")
    if not isinstance(value, str):
        wrong.append(f"{at}.value must be a text")
    if len(wrong) > before or not isinstance(path, list) or not isinstance(value, str):
        return None
    return Binding(tuple(path), value, held)


class KeySource:
    """The provider's public keys, by the id that tokens name. Belongs to one event loop."""

    def __init__(self, jwks: str) -> None:
        self._jwks = jwks
        self._keys: dict[str, Mapping[str, Any]] = {}
        self._made: dict[tuple[str, str], jwt.PyJWK] = {}
        self._tried = self._fetched = float("-inf")
        self._refreshing: asyncio.Task[None] | None = None
        self._is_away = False

    async def key(self, kid: str, algorithm: str) -> jwt.PyJWK:
        """The key, for an algorithm that is allowed.

        Raises Unauthenticated if the provider publishes none with this id, or for another algorithm; IdentityProviderUnavailable if
        it cannot be asked; PyJWTError if the key does not suit the algorithm.
        """
        now, known = time.monotonic(), kid in self._keys
        begun = False
        wait_s = RETRY_S if self._is_away else REFETCH_S
        if (not known or now - self._fetched >= FRESH_S) and now - self._tried >= wait_s:
            self._tried, begun = now, True
            self._refreshing = asyncio.create_task(self._refresh())
        if self._refreshing is not None and (begun or not known):
            await asyncio.wait([self._refreshing], timeout=PATIENCE_S if known else _FETCH_TIMEOUT_S)
        if kid not in self._keys:
            if self._is_away or (self._refreshing is not None and not self._refreshing.done()):
                raise IdentityProviderUnavailable("the identity provider's keys cannot be fetched just now; try again")
            raise Unauthenticated("the token is signed by a key that is not known")
        if self._keys[kid].get("alg", algorithm) != algorithm:
            raise Unauthenticated("the token is signed with another algorithm than its key is for")
        if (kid, algorithm) not in self._made:
            self._made[kid, algorithm] = jwt.PyJWK(dict(self._keys[kid]), algorithm)
        return self._made[kid, algorithm]

    async def _refresh(self) -> None:
        try:
            found = json.loads(await asyncio.to_thread(_fetch, self._jwks))["keys"]
            keys = {key["kid"]: key for key in found if _is_public_signing_key(key)}
        except (OSError, ValueError, LookupError, TypeError, RecursionError, http.client.HTTPException) as error:
            log.warning("the identity provider's keys cannot be had", jwks=self._jwks, error=str(error))
            self._is_away = True
            return
        self._is_away = False
        if not keys:
            log.warning("the identity provider publishes no public key for signatures", jwks=self._jwks)
        self._keys, self._made, self._fetched = keys, {}, time.monotonic()


def _is_public_signing_key(key: Any) -> bool:
    """Whether an entry of the provider's set can verify signatures: with a shared secret (`oct`) everybody who knows it could sign."""
    return (
        isinstance(key, dict)
        and isinstance(key.get("kid"), str)
        and key.get("kty") in _KINDS
        and key.get("use", "sig") == "sig"
    )


def _is_safe(address: str) -> bool:
    """Whether keys may come from there: by https, or from this machine."""
    url = urllib.parse.urlsplit(address)
    return url.scheme == "https" or (url.scheme == "http" and url.hostname in _LOOPBACK)


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not _is_safe(newurl):
            raise OSError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _fetch(jwks: str) -> bytes:
    if "://" not in jwks:
        return Path(jwks).read_bytes()
    with urllib.request.build_opener(_SafeRedirects).open(jwks, timeout=_FETCH_TIMEOUT_S) as response:
        content: bytes = response.read(_LARGEST_JWKS + 1)
    if len(content) > _LARGEST_JWKS:
        raise ValueError("the answer is too large for a set of keys")
    return content


class OidcTokens:
    """Tokens of one identity provider."""

    def __init__(self, config: OidcConfig) -> None:
        self._config = config
        self._keys = KeySource(config.jwks)
        # By digest, each with the time until which it counts: verifying a signature costs a hundred times a look here.
        self._remembered: OrderedDict[bytes, tuple[float, Principal]] = OrderedDict()

    def takes(self, token: str) -> bool:
        """Whether the token has the three parts of a signed JSON web token."""
        return token.count(".") == 2

    async def authenticate(self, token: str) -> Principal:
        """Whom the token stands for; remembered for `REMEMBERED_S`, or until it expires. Raises Unauthenticated, TokenExpired."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
        known = self._remembered.get(digest)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        principal, left_s = await self._verified(token)
        self._remembered[digest] = (time.monotonic() + min(REMEMBERED_S, left_s), principal)
        self._remembered.move_to_end(digest)
        if len(self._remembered) > REMEMBERED:
            self._remembered.popitem(last=False)
        return principal

    async def _verified(self, token: str) -> tuple[Principal, float]:
        """Whom the token stands for, and for how many seconds it still does."""
        config = self._config
        try:
            header = jwt.get_unverified_header(token)
            kid, algorithm = header.get("kid"), header.get("alg")
            if not isinstance(kid, str):
                raise Unauthenticated("the token does not name its key")
            if algorithm not in config.algorithms:
                raise Unauthenticated("the token is signed with an algorithm that is not allowed")
            key = await self._keys.key(kid, algorithm)
            claims = jwt.decode(
                token,
                key,
                algorithms=list(config.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
            # It may be a text of digits, or far too large.
            left_s = float(claims["exp"]) + config.leeway_s - time.time()
        except jwt.ExpiredSignatureError:
            raise TokenExpired from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
            raise Unauthenticated(f"the token is not valid: {error}") from None
        name = claims.get(config.name_claim)
        if not (isinstance(name, str) and 1 <= len(name) <= _LONGEST_NAME and name.isprintable()):
            raise Unauthenticated(
                f"the token has no claim {config.name_claim!r} of 1 to {_LONGEST_NAME} printable characters"
            )
        held = [grant for binding in config.bindings if binding.applies(claims) for grant in binding.grants]
        return Principal(f"oidc:{name}", tuple(held)), left_s
