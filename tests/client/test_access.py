"""What a client sends with its calls and to whom: tokens, TLS against a faulty or foreign server, and what is refused first."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

import asktell
from asktell import Tls
from asktell._status import CallFailed, to_error
from asktell.access import Access, is_loopback, resolve_access
from asktell.cli.app import root
from asktell.transport import channel_options
from asktell.v1.study_service_pb2_grpc import add_StudyServiceServicer_to_server

from ..certificates import Authority, Pair, private_pem
from .conftest import SPACE
from .fake import FakeServer, FakeService, Fault
from .test_connect import impostor
from .test_light import FLOOR, ROOT

SECRET = "Top-Secret_1.2~3+4/5="


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's decides a test."""
    for name in ("TLS", "TLS_CA", "TLS_CERT", "TLS_KEY", "TOKEN", "TOKEN_FILE", "INSECURE", "TARGET"):
        monkeypatch.delenv(f"ASKTELL_{name}", raising=False)


@dataclass
class Listener(grpc.ServerInterceptor):
    """Remembers what each call brought as its authorization."""

    heard: list[tuple[str, str | None]] = field(default_factory=list)

    def intercept_service(self, continuation: Callable[..., Any], details: grpc.HandlerCallDetails) -> Any:
        """Remembers, and lets pass."""
        self.heard.append((details.method.rsplit("/")[-1], dict(details.invocation_metadata).get("authorization")))
        return continuation(details)


@dataclass
class Listening:
    """A fake server that can be listened to."""

    target: str
    service: FakeService
    heard: list[tuple[str, str | None]]


@contextmanager
def serving(credentials: grpc.ServerCredentials | None = None) -> Iterator[Listening]:
    """A fake server on 127.0.0.1, with TLS if there are credentials."""
    listener, service = Listener(), FakeService()
    server = grpc.server(futures.ThreadPoolExecutor(8), interceptors=[listener])
    add_StudyServiceServicer_to_server(service, server)
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("127.0.0.1:0", credentials)
    )
    server.start()
    try:
        yield Listening(f"127.0.0.1:{port}", service, listener.heard)
    finally:
        server.stop(0).wait()


def tls_serving(pair: Pair, client_ca: Path | None = None) -> AbstractContextManager[Listening]:
    """A fake server with a certificate, which wants one of its clients if there is a CA for them."""
    return serving(
        grpc.ssl_server_credentials(
            [(pair.key.read_bytes(), pair.cert.read_bytes())],
            root_certificates=None if client_ca is None else client_ca.read_bytes(),
            require_client_auth=client_ca is not None,
        )
    )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that clients trust by its file."""
    return Authority(tmp_path, "authority")


@pytest.mark.parametrize(
    ("target", "stays"),
    [
        ("localhost:50051", True),
        ("localhost", True),
        ("127.0.0.1:1", True),
        ("127.8.9.10:1", True),
        ("[::1]:1", True),
        ("unix:/run/asktell.sock", True),
        ("unix-abstract:asktell", True),
        ("dns:///localhost:1", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        ("ipv4:127.0.0.1:1,10.0.0.1:1", False),
        ("asktell:50051", False),
        ("10.0.0.1:1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("localhost.example:1", False),
        ("127.0.0.1.example:1", False),
        ("dns://8.8.8.8/localhost:1", False),
        ("xds:///localhost", False),
        ("", False),
    ],
)
def test_which_targets_stay_on_this_machine(target: str, stays: bool) -> None:
    """Only addresses that cannot be another machine's count as loopback, and for them no proxy is asked."""
    assert is_loopback(target) is stays
    assert (("grpc.enable_http_proxy", 0) in channel_options(target)) is stays


def test_a_token_goes_with_every_call_stream_and_retry() -> None:
    """Each attempt carries it, the repeated one too."""
    with serving() as server, asktell.connect(server.target, token=SECRET, timeout=30) as client:
        server.service.faults["CreateStudy"].append(Fault(code="UNAVAILABLE"))
        study = client.create_study("digits", SPACE, maximize="accuracy")
        next(study.watch())

    assert [method for method, _ in server.heard] == ["CreateStudy", "CreateStudy", "WatchStudy"]
    assert {authorization for _, authorization in server.heard} == {f"Bearer {SECRET}"}


async def test_the_asyncio_client_sends_it_too() -> None:
    """Calls and streams."""
    with serving() as server:
        async with await asktell.aio.connect(server.target, token=SECRET, timeout=30) as client:
            study = await client.create_study("digits", SPACE, maximize="accuracy")
            async for _ in study.watch():
                break

    assert server.heard == [("CreateStudy", f"Bearer {SECRET}"), ("WatchStudy", f"Bearer {SECRET}")]


def test_without_a_token_nothing_is_sent() -> None:
    """No header rather than an empty one."""
    with serving() as server, asktell.connect(server.target, timeout=30) as client:
        client.create_study("digits", SPACE, maximize="accuracy")

    assert server.heard == [("CreateStudy", None)]


def test_a_tokens_file_is_read_anew(tmp_path: Path) -> None:
    """A token that was rotated is used from the next call on; the client is never made again."""
    file = tmp_path / "token"
    file.write_text("first\n")
    with serving() as server, asktell.connect(server.target, token_file=file, timeout=30) as client:
        client.create_study("digits", SPACE, maximize="accuracy")
        file.write_text("second\n")
        client.get_study("digits")
        file.unlink()
        with pytest.raises(asktell.CredentialsError, match=r"cannot read the token in .*token: No such file"):
            client.get_study("digits")

    assert [authorization for _, authorization in server.heard] == ["Bearer first", "Bearer second"]


def test_the_environment_names_token_and_tls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Authority
) -> None:
    """A training job needs no code for them."""
    (tmp_path / "token").write_text(SECRET)
    with tls_serving(authority.issue("server")) as server:
        monkeypatch.setenv("ASKTELL_TARGET", server.target)
        monkeypatch.setenv("ASKTELL_TLS_CA", str(authority.cert))
        monkeypatch.setenv("ASKTELL_TOKEN_FILE", str(tmp_path / "token"))
        with asktell.connect(timeout=30) as client:
            client.create_study("digits", SPACE, maximize="accuracy")

    assert server.heard == [("CreateStudy", f"Bearer {SECRET}")]


@pytest.mark.parametrize(
    ("variables", "tls"),
    [
        ({}, False),
        ({"TLS": "1"}, True),
        ({"TLS": "true"}, True),
        ({"TLS_CA": "ca"}, True),
        ({"TLS": "0", "TLS_CA": "ca"}, False),
        ({"TLS_CERT": "cert", "TLS_KEY": "key"}, False),
        ({"TLS": "1", "TLS_CERT": "cert", "TLS_KEY": "key"}, True),
    ],
)
def test_when_the_environment_means_tls(
    monkeypatch: pytest.MonkeyPatch, authority: Authority, variables: dict[str, str], tls: bool
) -> None:
    """ASKTELL_TLS decides, else a CA; a certificate alone may be that of a server in the same shell."""
    pair = authority.issue("client")
    files = {"ca": str(authority.cert), "cert": str(pair.cert), "key": str(pair.key)}
    for name, value in variables.items():
        monkeypatch.setenv(f"ASKTELL_{name}", files.get(value, value))

    access = resolve_access("asktell:50051")

    assert (access.tls is not None) is tls
    assert resolve_access("asktell:50051", tls=False).tls is None
    assert resolve_access("asktell:50051", tls=True).tls is not None


def test_a_token_does_not_leave_the_machine_unencrypted(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    """Without TLS it goes to the loopback only, unless it is said that it may go further."""
    with pytest.raises(
        asktell.CredentialsError, match=r"would go to asktell:50051 unencrypted.*tls=True.*insecure=True"
    ):
        asktell.connect("asktell:50051", token=SECRET)
    with pytest.raises(asktell.CredentialsError, match="unencrypted"):
        asktell.connect("asktell:50051", token=SECRET, tls=False)

    assert resolve_access("asktell:50051", token=SECRET, insecure=True).metadata()
    assert resolve_access("asktell:50051", token=SECRET, tls=Tls(authority.cert)).metadata()
    assert resolve_access("localhost:50051", token=SECRET).metadata()
    assert not resolve_access("asktell:50051").metadata()
    monkeypatch.setenv("ASKTELL_INSECURE", "1")
    assert resolve_access("asktell:50051", token=SECRET).metadata()


SERVER = """
    import json, os, sys
    ready = sys.argv[sys.argv.index("--ready-file") + 1]
    open(ready + ".new", "w").write(json.dumps({"grpc": "127.0.0.1:9", "http": None}))
    open(os.environ["HEARD"], "w").write(json.dumps([name for name in os.environ if name.startswith("ASKTELL_")]))
    os.rename(ready + ".new", ready)
    sys.stdin.read()
"""


def test_a_local_server_gets_no_token_and_no_tls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority
) -> None:
    """Variables that are meant for a server elsewhere reach neither the server in this process's care nor its client."""
    impostor(tmp_path, monkeypatch, SERVER)
    monkeypatch.setenv("HEARD", str(tmp_path / "heard"))
    pair = authority.issue("client")
    for name, value in {"TLS_CA": authority.cert, "TLS_CERT": pair.cert, "TLS_KEY": pair.key, "TOKEN": SECRET}.items():
        monkeypatch.setenv(f"ASKTELL_{name}", str(value))
    monkeypatch.setenv("ASKTELL_AUTH", "1")
    monkeypatch.setenv("ASKTELL_CONFIG", str(tmp_path / "server.toml"))
    monkeypatch.setenv("ASKTELL_WORKERS", "1")

    with asktell.connect(f"local:{tmp_path}/study.db", timeout=60) as client:
        access = client.transport._access

    assert access == Access()
    assert json.loads((tmp_path / "heard").read_text()) == ["ASKTELL_WORKERS"]


def unusable(folder: Path, authority: Authority) -> Iterator[tuple[dict[str, object], str]]:
    """Arguments of `connect` that cannot be used, and what is said about them."""
    one, other = authority.issue("one"), authority.issue("other")
    empty, junk = folder / "empty", folder / "junk"
    empty.write_text("\n")
    junk.write_text("junk")
    locked = folder / "locked.key"
    locked.write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1()), b"passphrase"))
    yield {"tls": Tls(cert=one.cert, key=locked)}, f"{one.cert} and {locked} are not a certificate and its private key"
    yield {"token": ""}, "the token is empty"
    yield {"token": f"{SECRET} and more"}, "the token is not a bearer token"
    yield {"token": SECRET, "token_file": junk}, "token and token_file are both given"
    yield {"token_file": empty}, f"{empty} is empty"
    yield {"token_file": folder / "none"}, f"cannot read the token in {folder}/none: No such file or directory"
    yield (
        {"tls": Tls(ca=folder / "none")},
        f"cannot read the CA's certificates in {folder}/none: No such file or directory",
    )
    yield {"tls": Tls(ca=junk)}, f"{junk} holds no certificate in PEM"
    yield {"tls": Tls(ca=empty)}, f"{empty} holds no certificate in PEM"
    yield {"tls": Tls(cert=one.cert)}, "needs cert and key (ASKTELL_TLS_CERT, ASKTELL_TLS_KEY): no key"
    yield {"tls": Tls(key=one.key)}, "no cert"
    yield {"tls": Tls(cert=one.cert, key=other.key)}, "are not a certificate and its private key"
    yield {"tls": Tls(cert=junk, key=one.key)}, "are not a certificate and its private key"


def test_what_cannot_be_used_is_said_at_once(tmp_path: Path, authority: Authority) -> None:
    """`connect` names the file or argument, and nothing of a token."""
    for arguments, said in unusable(tmp_path, authority):
        with pytest.raises(asktell.CredentialsError) as caught:
            asktell.connect("localhost:1", **arguments)

        assert said in str(caught.value)
        assert SECRET not in str(caught.value)


def test_wrong_variables_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tokens, a switch that is neither on nor off, a URL for a target."""
    monkeypatch.setenv("ASKTELL_TLS", "perhaps")
    with pytest.raises(asktell.CredentialsError, match="ASKTELL_TLS is 'perhaps'; set it to 1 or 0"):
        asktell.connect()
    monkeypatch.setenv("ASKTELL_TOKEN", SECRET)
    monkeypatch.setenv("ASKTELL_TOKEN_FILE", "file")
    with pytest.raises(asktell.CredentialsError, match="ASKTELL_TOKEN and ASKTELL_TOKEN_FILE are both set"):
        asktell.connect()
    with pytest.raises(asktell.CredentialsError, match="not a target: write host:port, and tls=True"):
        asktell.connect("https://asktell:50051")


@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "PERMISSION_DENIED"])
def test_a_refused_caller_does_not_try_again(code: str) -> None:
    """Both have a class, and the server is asked once."""
    expected = {"UNAUTHENTICATED": asktell.Unauthenticated, "PERMISSION_DENIED": asktell.PermissionDenied}[code]
    with serving() as server, asktell.connect(server.target, token=SECRET, timeout=30) as client:
        server.service.faults["GetStudy"] += [Fault(code=code, message="no", reason=code)] * 3
        with pytest.raises(expected) as caught:
            client.get_study("digits")

    assert type(caught.value) is expected
    assert caught.value.reason == code
    assert len(server.heard) == 1


def test_an_expired_token_has_a_class_of_its_own() -> None:
    """It is told from one that was never good."""
    with serving() as server, asktell.connect(server.target, token=SECRET, timeout=30) as client:
        server.service.faults["GetStudy"].append(Fault(code="UNAUTHENTICATED", message="no", reason="TOKEN_EXPIRED"))
        with pytest.raises(asktell.TokenExpired):
            client.get_study("digits")


def test_a_token_is_in_no_text(authority: Authority) -> None:
    """Neither the client nor anything that it holds shows it, nor the client's key."""
    pair = authority.issue("client")
    tls = Tls(authority.cert, pair.cert, pair.key)
    with asktell.connect("localhost:1", token=SECRET, tls=tls, timeout=0.2) as client:
        with pytest.raises(asktell.Unavailable) as caught:
            client.get_study("digits")
        access = client.transport._access

    texts = [*map(repr, (client, client.transport, access, vars(client), vars(client.transport), caught.value))]
    texts += [str(caught.value), *caught.value.__notes__]
    assert [text for text in texts if SECRET in text or "PRIVATE" in text] == []
    assert SECRET in repr(access.metadata())


def test_the_wrong_authority_is_said_and_not_tried_again(tmp_path: Path, authority: Authority) -> None:
    """A certificate that the client does not trust ends the call at once with what to do."""
    other = Authority(tmp_path, "other")
    with tls_serving(authority.issue("server")) as server:
        for tls in (Tls(other.cert), True):
            with asktell.connect(server.target, tls=tls, timeout=60) as client:
                with pytest.raises(
                    asktell.TlsFailed, match=r"not of an authority that this client trusts.*ASKTELL_TLS_CA"
                ):
                    client.get_study("digits")

    assert server.heard == []


def test_an_expired_certificate_is_said(authority: Authority) -> None:
    """Of all that is wrong with a certificate, its age."""
    with tls_serving(authority.issue("server", valid=timedelta(days=-1))) as server:
        with asktell.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
            with pytest.raises(asktell.TlsFailed, match="the server's certificate has expired"):
                client.get_study("digits")


def test_a_certificate_for_another_host_is_said(authority: Authority) -> None:
    """The name in the certificate has to be the target's."""
    with tls_serving(authority.issue("server", hosts=("other.example",))) as server:
        with asktell.connect(server.target, tls=Tls(authority.cert), timeout=60) as client:
            with pytest.raises(asktell.TlsFailed, match="for another host name"):
                client.get_study("digits")


def test_tls_with_a_server_that_has_none_is_said(server: FakeServer) -> None:
    """The client says so at once; the server never sees the call."""
    with asktell.connect(server.target, tls=True, timeout=60) as client:
        with pytest.raises(asktell.TlsFailed, match="does not speak TLS here"):
            client.get_study("digits")


async def test_asyncio_says_it_too(tmp_path: Path, authority: Authority) -> None:
    """Both transports read gRPC's texts."""
    other = Authority(tmp_path, "other")
    with tls_serving(authority.issue("server")) as server:
        async with await asktell.aio.connect(server.target, tls=Tls(other.cert), timeout=60) as client:
            with pytest.raises(asktell.TlsFailed, match="not of an authority that this client trusts"):
                await client.get_study("digits")


FAILING = """
    import asktell, sys
    target, ca, wrong_ca = sys.argv[1:]
    for tls in (asktell.Tls(ca), asktell.Tls(wrong_ca)):
        try:
            asktell.connect(target, tls=tls, timeout=60).get_study("digits")
        except asktell.TlsFailed as error:
            print(error.message.partition(" (")[0])
"""


def test_the_oldest_grpc_is_understood_as_well(tmp_path: Path, authority: Authority) -> None:
    """Its texts about handshakes are others."""
    assert FLOOR.exists(), "there is no .venv-floor: run scripts/setup"
    other = Authority(tmp_path, "other")
    with tls_serving(authority.issue("server", hosts=("other.example",))) as server:
        done = subprocess.run(
            [FLOOR, "-c", textwrap.dedent(FAILING), server.target, authority.cert, other.cert],
            env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert done.stdout.splitlines() == [
        "the server's certificate is for another host name than the target's",
        "the server's certificate is not of an authority that this client trusts: name the right one with Tls(ca=...) or ASKTELL_TLS_CA",
    ], done.stderr


def test_a_proxys_trouble_with_tls_is_not_ours() -> None:
    """What a proxy says of its own connection to the server is tried again like any outage."""
    text = "upstream connect error; TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED"

    assert type(to_error(CallFailed("UNAVAILABLE", text))) is asktell.Unavailable


def test_the_command_line_sends_a_token(tmp_path: Path) -> None:
    """From an option or a file, over the loopback; not to another machine without TLS."""
    (tmp_path / "token").write_text(SECRET)
    with serving() as server:
        for options in (["--token", SECRET], ["--token-file", str(tmp_path / "token")]):
            arguments = ["--target", server.target, *options, "study", "show", "none"]
            assert CliRunner().invoke(root, arguments, prog_name="asktell").exit_code == 1
        elsewhere = CliRunner().invoke(root, ["--target", "asktell:1", "--token", SECRET, "study", "list"])

    assert {authorization for _, authorization in server.heard} == {f"Bearer {SECRET}"}
    assert len(server.heard) == 2
    assert elsewhere.exit_code == 1
    assert elsewhere.stderr.startswith("asktell: a token would go to asktell:1 unencrypted")
    assert SECRET not in elsewhere.output


def hung_up(target: str, tls: Tls | None) -> str:
    """What is said about a server that ends connections before they begin.

    Which of several signs of it gRPC sees depends on timing, and not all of them tell it from a server that is not there: so
    a call may have to be repeated.
    """
    for _ in itertools.repeat(None, 20):
        with asktell.connect(target, tls=tls, timeout=0.5) as client:
            with pytest.raises(asktell.Unavailable) as caught:
                client.get_study("digits")
        if "; so does" in str(caught.value):
            break
    return str(caught.value)


def test_a_server_that_wants_more_is_guessed(tmp_path: Path, authority: Authority) -> None:
    """A server that wants TLS, or a certificate, only hangs up; the client says what may be the matter."""
    stranger = Authority(tmp_path, "strangers").issue("stranger")
    with tls_serving(authority.issue("server"), authority.cert) as server:
        plain = hung_up(server.target, None)
        nameless = hung_up(server.target, Tls(authority.cert))
        strange = hung_up(server.target, Tls(authority.cert, stranger.cert, stranger.key))

    assert "so does a server that wants TLS: tls=True or ASKTELL_TLS=1" in plain
    assert "so does a server that wants a client's certificate: Tls(cert=..., key=...)" in nameless
    assert "so does a server that does not accept this client's certificate" in strange
