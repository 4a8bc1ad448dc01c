"""Tokens of an identity provider: one on loopback that publishes its keys, and everything that may be wrong with a token."""

from __future__ import annotations

import asyncio
import base64
import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.access import Grant, Role
from asktell_server.domain.errors import IdentityProviderUnavailable, TokenExpired, Unauthenticated
from asktell_server.service import oidc
from asktell_server.service.bindings import BadConfig
from asktell_server.service.oidc import OidcConfig, OidcTokens

from ..support import serving, stub
from .conftest import bearer

ISSUER = "https://login.example.com"


class Provider:
    """An identity provider with one key at a time."""

    def __init__(self) -> None:
        self.fetches = 0
        self.open = threading.Event()
        self.open.set()
        self.body: bytes | None = None
        self.elsewhere: str | None = None
        self.rotate("first")
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.fetches += 1
                provider.open.wait(60)
                body = provider.body if provider.body is not None else json.dumps({"keys": provider.jwks}).encode()
                if provider.elsewhere is not None:
                    self.send_response(302)
                    self.send_header("location", provider.elsewhere)
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where the keys are."""
        return f"http://127.0.0.1:{self.server.server_port}/keys"

    def rotate(self, kid: str) -> None:
        """Another key in place of the one of now."""
        self.key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.kid = kid
        self.jwk = {
            **json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self.key.public_key())),
            "kid": kid,
            "use": "sig",
            "alg": "RS256",
        }
        self.jwks: list[Any] = [self.jwk]

    def token(self, *, key: Any = None, algorithm: str = "RS256", kid: str | None = None, **claims: object) -> str:
        """A token of anna, valid for a minute unless told otherwise; a claim of None is left out."""
        usual = {"iss": ISSUER, "aud": "asktell", "sub": "anna", "exp": time.time() + 60, "groups": ["vision"]}
        content = {name: value for name, value in {**usual, **claims}.items() if value is not None}
        return jwt.encode(content, key or self.key, algorithm, headers={"kid": kid or self.kid})


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that serves its keys."""
    made = Provider()
    yield made
    made.server.shutdown()
    made.server.server_close()


def written(folder: Path, jwks: str, more: str = "") -> Path:
    """A configuration file."""
    path = folder / "oidc.toml"
    path.write_text(
        f'issuer = "{ISSUER}"\naudience = "asktell"\njwks = "{jwks}"\n{more}\n'
        '[[bindings]]\nclaim = "groups"\nvalue = "vision"\nrole = "owner"\nprojects = ["vision"]\n'
        '[[bindings]]\nclaim = ["realm", "roles"]\nvalue = "ops"\nrole = "admin"\nprojects = ["*"]\n'
    )
    return path


@pytest.fixture
def tokens(provider: Provider, tmp_path: Path) -> OidcTokens:
    """What the server makes of the configuration."""
    return OidcTokens(OidcConfig.read(written(tmp_path, provider.url)))


async def test_claims_become_roles(provider: Provider, tokens: OidcTokens) -> None:
    """A value in a list, and one at a path, each bring what they are bound to; another value brings nothing."""
    anna = await tokens.authenticate(provider.token())
    ops = await tokens.authenticate(provider.token(sub="otto", groups=None, realm={"roles": "ops"}))
    nobody = await tokens.authenticate(provider.token(groups=["visionaries"]))

    assert (anna.name, anna.grants) == ("oidc:anna", (Grant(Role.OWNER, "vision"),))
    assert (ops.name, ops.grants) == ("oidc:otto", (Grant(Role.ADMIN, None),))
    assert nobody.grants == ()
    assert nobody.projects == frozenset()


async def test_what_is_wrong_with_a_token_is_refused(provider: Provider, tokens: OidcTokens) -> None:
    """Another issuer, audience, key or algorithm; a shared secret; no signature; claims that are missing; not yet valid."""
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = provider.jwk["n"].encode()
    unsigned = jwt.encode({"iss": ISSUER, "aud": "asktell", "sub": "anna"}, None, "none", headers={"kid": "first"})
    head, _, signature = provider.token().split(".")
    richer = base64.urlsafe_b64encode(
        json.dumps({**jwt.decode(provider.token(), options={"verify_signature": False}), "sub": "root"}).encode()
    )
    wrong = [
        provider.token(iss="https://elsewhere.example.com"),
        provider.token(aud="another"),
        provider.token(key=stranger),
        provider.token(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        provider.token(key=public * 2, algorithm="HS256"),
        provider.token(kid="unknown"),
        provider.token(exp=None),
        provider.token(sub=None),
        provider.token(sub=7),
        provider.token(sub="a" * 257),
        provider.token(sub="two\nlines"),
        provider.token(sub="\ud800"),
        provider.token(algorithm="PS256"),
        provider.token(nbf=time.time() + 3600),
        provider.token(exp=10**400),
        unsigned,
        f"{head}.{richer.decode().rstrip('=')}.{signature}",
        "a.b.c",
        "..",
    ]

    for token in wrong:
        with pytest.raises(Unauthenticated):
            await tokens.authenticate(token)


async def test_a_time_may_be_a_text_of_digits(tokens: OidcTokens, provider: Provider) -> None:
    """Some providers write it so, and PyJWT reads it."""
    assert (await tokens.authenticate(provider.token(exp=str(int(time.time()) + 60)))).name == "oidc:anna"


async def test_an_expired_token_says_so_after_the_leeway(provider: Provider, tokens: OidcTokens) -> None:
    """Clocks may differ by half a minute; what is remembered of a token ends with it."""
    await tokens.authenticate(provider.token(exp=time.time() - 5))
    nearly = provider.token(exp=time.time() - 29)
    await tokens.authenticate(nearly)
    await asyncio.sleep(1.1)
    with pytest.raises(TokenExpired):
        await tokens.authenticate(nearly)
    with pytest.raises(TokenExpired):
        await tokens.authenticate(provider.token(exp=time.time() - 60))


async def test_new_keys_are_found_and_floods_are_not_passed_on(
    provider: Provider, tokens: OidcTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotated key is fetched once; many tokens with made-up keys lead to one fetch in a while; keys outlive the provider."""
    await tokens.authenticate(provider.token())
    for k in range(50):
        with pytest.raises(Unauthenticated):
            await tokens.authenticate(provider.token(kid=f"made-up-{k}"))
    assert provider.fetches == 1

    provider.rotate("second")
    monkeypatch.setattr(oidc, "REFETCH_S", 0.0)
    await tokens.authenticate(provider.token())
    assert provider.fetches == 2

    provider.server.shutdown()
    provider.server.server_close()
    await tokens.authenticate(provider.token())


async def test_a_withdrawn_key_is_good_for_nothing(
    provider: Provider, tokens: OidcTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are looked at again after a while, though no token names a new one."""
    token = provider.token()
    await tokens.authenticate(token)
    provider.rotate("second")
    await tokens.authenticate(token)  # not yet looked at
    monkeypatch.setattr(oidc, "REFETCH_S", 0.0)
    monkeypatch.setattr(oidc, "FRESH_S", 0.0)
    tokens._remembered.clear()

    with pytest.raises(Unauthenticated):
        await tokens.authenticate(token)


async def test_a_provider_that_hangs_stops_nobody_whose_key_is_known(
    provider: Provider, tokens: OidcTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one who asked for newer keys goes on after a moment, the others at once, all with the keys of before."""
    token = provider.token()
    await tokens.authenticate(token)
    monkeypatch.setattr(oidc, "REFETCH_S", 3600.0)
    monkeypatch.setattr(oidc, "FRESH_S", 0.0)
    monkeypatch.setattr(oidc, "PATIENCE_S", 0.05)
    tokens._keys._tried = float("-inf")
    provider.open.clear()
    try:
        names = [(await tokens.authenticate(provider.token(jti=str(k)))).name for k in range(3)]
        assert tokens._keys._refreshing is not None
        assert not tokens._keys._refreshing.done()
    finally:
        provider.open.set()
    await tokens._keys._refreshing

    assert names == ["oidc:anna"] * 3
    assert provider.fetches == 2


async def test_what_is_no_public_key_for_signatures_verifies_none(provider: Provider, tmp_path: Path) -> None:
    """A published secret, a key for encryption, one without an id and what is no key at all are passed over."""
    secret = base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")
    provider.jwks = [
        {"kty": "oct", "k": secret, "kid": "shared", "alg": "HS256"},
        {"kty": "oct", "k": secret, "kid": "unsaid"},
        {**provider.jwk, "kid": "encrypts", "use": "enc"},
        {key: value for key, value in provider.jwk.items() if key != "kid"},
        {**provider.jwk, "kid": "broken", "n": "!"},
        {**provider.jwk, "kid": "none", "alg": "none"},
        "key",
        provider.jwk,
    ]
    tokens = OidcTokens(OidcConfig.read(written(tmp_path, provider.url)))

    assert (await tokens.authenticate(provider.token())).name == "oidc:anna"
    for wrong in (
        *(provider.token(key=b"s" * 32, algorithm="HS256", kid=kid) for kid in ("shared", "unsaid")),
        *(provider.token(kid=kid) for kid in ("shared", "unsaid", "encrypts", "broken", "none")),
    ):
        with pytest.raises(Unauthenticated):
            await tokens.authenticate(wrong)


async def test_a_key_that_does_not_say_its_algorithm_is_for_those_allowed(provider: Provider, tmp_path: Path) -> None:
    """As some providers publish them; what is not allowed stays so."""
    del provider.jwk["alg"]
    more = 'algorithms = ["PS256", "ES256"]'
    tokens = OidcTokens(OidcConfig.read(written(tmp_path, provider.url, more)))

    assert (await tokens.authenticate(provider.token(algorithm="PS256"))).name == "oidc:anna"
    for wrong in (provider.token(), provider.token(key=ec.generate_private_key(ec.SECP256R1()), algorithm="ES256")):
        with pytest.raises(Unauthenticated):
            await tokens.authenticate(wrong)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"keys": 3}', b'{"keys": []}', b"[" * 100_000, b"\xff", b"x" * 1_000_001]
)
async def test_junk_for_keys_is_no_key(provider: Provider, tokens: OidcTokens, body: bytes) -> None:
    """The caller is refused as for any key that is not known or cannot be had, and the server lives."""
    provider.body = body

    with pytest.raises((Unauthenticated, IdentityProviderUnavailable)):
        await tokens.authenticate(provider.token())


async def test_keys_do_not_come_from_an_unencrypted_elsewhere(provider: Provider, tokens: OidcTokens) -> None:
    """A redirect to plain HTTP on another machine is not followed."""
    provider.elsewhere = "http://keys.example.com/keys"

    with capture_logs() as said, pytest.raises(IdentityProviderUnavailable):
        await tokens.authenticate(provider.token())

    assert "not https" in said[0]["error"]


async def test_a_token_is_not_refused_for_good_while_the_provider_is_away(
    provider: Provider, tokens: OidcTokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever calls is told to try again, and is let in soon after the keys can be had; a key that the provider does not know is
    refused then.
    """
    monkeypatch.setattr(oidc, "RETRY_S", 0.0)
    provider.body = b"<html>Service Unavailable</html>"
    with pytest.raises(IdentityProviderUnavailable):
        await tokens.authenticate(provider.token())
    monkeypatch.setattr(oidc, "_FETCH_TIMEOUT_S", 0.05)
    provider.open.clear()
    with pytest.raises(IdentityProviderUnavailable):  # it hangs
        await tokens.authenticate(provider.token())

    provider.body = None
    provider.open.set()
    assert tokens._keys._refreshing is not None
    await tokens._keys._refreshing
    monkeypatch.setattr(oidc, "_FETCH_TIMEOUT_S", 10.0)

    assert (await tokens.authenticate(provider.token())).name == "oidc:anna"
    with pytest.raises(Unauthenticated):
        await tokens.authenticate(provider.token(kid="made-up"))


async def test_keys_from_a_file(provider: Provider, tmp_path: Path) -> None:
    """A provider that the server cannot reach will do."""
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"keys": [provider.jwk]}))
    tokens = OidcTokens(OidcConfig.read(written(tmp_path, str(keys))))

    assert (await tokens.authenticate(provider.token())).name == "oidc:anna"


def test_a_wrong_file_is_refused_with_everything_that_is_wrong(tmp_path: Path) -> None:
    """All complaints at once, each with its place."""
    path = tmp_path / "oidc.toml"
    path.write_text(
        'issuer = 3\njwks = "http://keys.example.com"\nalgorithms = ["HS256"]\nleeway_s = -1\ncolour = "red"\n'
        '[[bindings]]\nclaim = ""\nrole = "king"\nprojects = ["a/b"]\nvalue = 1\n'
    )

    with pytest.raises(BadConfig) as refused:
        OidcConfig.read(path)

    for part in (
        "issuer",
        "audience",
        "https",
        "algorithms",
        "leeway_s",
        "colour",
        "claim",
        "role",
        "projects",
        "value",
    ):
        assert part in str(refused.value)


def test_a_server_takes_both_kinds_of_token(provider: Provider, tmp_path: Path) -> None:
    """Over a real channel: a token of the provider sees its own project and no other."""
    with serving(tmp_path, "--oidc", str(written(tmp_path, provider.url))) as server, stub(server.target) as service:
        metadata = bearer(provider.token())
        service.ListStudies(pb.ListStudiesRequest(parent="projects/vision"), metadata=metadata)
        with pytest.raises(grpc.RpcError) as refused:
            service.ListStudies(pb.ListStudiesRequest(parent="projects/other"), metadata=metadata)
        with pytest.raises(grpc.RpcError) as unknown:
            service.ListStudies(pb.ListStudiesRequest(parent="projects/vision"))

    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert unknown.value.code() is grpc.StatusCode.UNAUTHENTICATED
