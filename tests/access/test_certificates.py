"""Client certificates as callers of a server with mutual TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc
import pytest
from click.testing import CliRunner

import asktell as asktell_client
from asktell.v1 import study_service_pb2_grpc
from asktell_server.cli import main
from asktell_server.domain.access import Grant, Role
from asktell_server.observe import logs
from asktell_server.service.bindings import BadConfig
from asktell_server.service.certificates import CertificateRoles

from ..certificates import Authority, Pair
from ..support import ServerProcess, serving
from .conftest import audit, bearer, issue
from .test_roles import call, request_of

ROLES = """
[[bindings]]
dns = "trainer.vision.svc"
role = "worker"
projects = ["vision"]

[[bindings]]
uri = "spiffe://cluster/ns/vision/sa/owner"
role = "owner"
projects = ["vision"]

[[bindings]]
email = "ops@example.com"
role = "admin"
projects = ["*"]

[[bindings]]
common_name = "reader"
role = "viewer"
projects = ["vision"]
"""
STUDY, ELSEWHERE = "projects/vision/studies/s", "projects/speech/studies/s"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority of server and clients."""
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[ServerProcess]:
    """A server that knows clients by certificate, and by token."""
    folder = tmp_path_factory.mktemp("certified")
    roles = folder / "roles.toml"
    roles.write_text(ROLES)
    pair = authority.issue("server")
    flags = ["--tls-cert", pair.cert, "--tls-key", pair.key, "--tls-client-ca", authority.cert]
    flags += ["--tls-client-roles", roles, "--audit-log", folder / "audit.jsonl"]
    with serving(folder, *map(str, flags)) as running:
        yield running


@contextmanager
def connected(server: ServerProcess, authority: Authority, pair: Pair) -> Iterator[Any]:
    """The bare stub of a client with a certificate."""
    credentials = grpc.ssl_channel_credentials(
        authority.cert.read_bytes(), pair.key.read_bytes(), pair.cert.read_bytes()
    )
    with grpc.secure_channel(server.target, credentials) as channel:
        yield study_service_pb2_grpc.StudyServiceStub(channel)


def code(service: Any, method: str, study: str, token: str | None = None) -> grpc.StatusCode | None:
    """How a call ends."""
    error = call(service, method, request_of(method, study), token)
    return None if error is None else error.code()


DENIED, UNKNOWN = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED


def test_a_certificate_gets_as_far_as_what_is_bound_to_its_names(server: ServerProcess, authority: Authority) -> None:
    """Each kind of name counts as its own kind only; roles and projects are those of tokens; the audit log names the caller."""
    ops = authority.issue("ops", hosts=("ops@example.com",))
    owner = authority.issue("owner", hosts=("spiffe://cluster/ns/vision/sa/owner",))
    trainer = authority.issue("trainer", hosts=("other.svc", "trainer.vision.svc"))
    with (
        connected(server, authority, ops) as of_ops,
        connected(server, authority, owner) as of_owner,
        connected(server, authority, trainer) as of_trainer,
        connected(server, authority, authority.issue("reader")) as of_reader,
    ):
        assert [code(of_owner, "CreateStudy", name) for name in (STUDY, ELSEWHERE)] == [None, DENIED]
        assert code(of_ops, "CreateStudy", ELSEWHERE) is None
        assert [code(of_trainer, "Ask", name) for name in (STUDY, ELSEWHERE)] == [None, DENIED]
        assert code(of_trainer, "StopStudy", STUDY) is DENIED
        assert [code(of_reader, method, STUDY) for method in ("WatchStudy", "Ask")] == [None, DENIED]
    callers = {(line.get("caller"), line["method"], line["code"]) for line in audit(server)}
    assert ("certificate:trainer.vision.svc", "Ask", "OK") in callers
    assert ("certificate:spiffe://cluster/ns/vision/sa/owner", "CreateStudy", "PERMISSION_DENIED") in callers


@pytest.mark.parametrize(
    "hosts",
    [
        ("localhost",),
        ("vision.svc", "a.trainer.vision.svc", "trainer.vision.svc.example.com", "*.vision.svc"),
        ("spiffe://cluster/ns/vision/sa/owner/x", "https://ops@example.com", "dns://trainer.vision.svc"),
        ("ops@example.com.org", "trainer.vision.svc@example.com"),
        ("reader",),
    ],
)
def test_a_certificate_with_other_names_is_nobodys(
    server: ServerProcess, authority: Authority, hosts: Sequence[str]
) -> None:
    """Names that are longer, shorter, wild, or of another kind let nobody in, though the authority is the right one."""
    with connected(server, authority, authority.issue("somebody", hosts=tuple(hosts))) as service:
        assert code(service, "ListStudies", STUDY) is UNKNOWN


def test_a_token_counts_before_the_certificate(server: ServerProcess, authority: Authority) -> None:
    """Who sends one is known by it alone: a wrong one is refused, whatever the certificate says."""
    token = issue(server.database, "owner", "speech", name="speaker")
    trainer = authority.issue("trainer-with-token", hosts=("trainer.vision.svc",))
    with connected(server, authority, trainer) as service:
        assert code(service, "ListStudies", ELSEWHERE, token) is None
        assert code(service, "ListStudies", STUDY, token) is DENIED
        assert code(service, "ListStudies", STUDY, "wrong") is UNKNOWN
        assert code(service, "ListStudies", STUDY) is None
        with pytest.raises(grpc.RpcError) as refused:
            service.ListStudies(request_of("ListStudies", STUDY), metadata=[*bearer(token), *bearer(token)])
        assert refused.value.code() is UNKNOWN


def test_several_bindings_add_up(tmp_path: Path) -> None:
    """The first names the caller."""
    path = tmp_path / "roles.toml"
    path.write_text(ROLES)
    roles = CertificateRoles.read(path)

    both = roles.principal({"common_name": ["reader"], "dns": ["trainer.vision.svc"], "uri": [], "email": []})

    assert both is not None
    assert both.name == "certificate:trainer.vision.svc"
    assert set(both.grants) == {Grant(Role.WORKER, "vision"), Grant(Role.VIEWER, "vision")}
    assert roles.principal({"common_name": ["trainer.vision.svc"], "dns": ["reader"]}) is None


def test_a_wrong_file_is_refused_with_everything_that_is_wrong(tmp_path: Path) -> None:
    """All complaints at once, each with its place."""
    path = tmp_path / "roles.toml"
    path.write_text(
        'colour = "red"\n[[bindings]]\ndns = "a"\nuri = "b"\nrole = "king"\nprojects = []\n'
        '[[bindings]]\nemail = 3\nrole = "owner"\nprojects = ["a/b"]\nhost = "x"\n'
    )

    with pytest.raises(BadConfig) as refused:
        CertificateRoles.read(path)

    for part in ("colour", "bindings[0] must have one of", "bindings[0].role", "bindings[0].projects"):
        assert part in str(refused.value)
    for part in ("bindings[1].host", "bindings[1].email", "bindings[1].projects"):
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--tls-client-roles", "ROLES"], "--tls-client-roles needs --tls-client-ca"),
        (["--audit-log", "AUDIT"], "--audit-log needs --auth"),
        (["--auth", "--audit-log", "/no/such/folder/audit"], "cannot write /no/such/folder/audit"),
        (["--oidc", "ROLES"], "issuer must be a text"),
    ],
)
def test_settings_that_would_be_without_effect_are_refused(
    tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    """Nobody believes in a protection that is not there; nothing is opened."""
    (tmp_path / "roles.toml").write_text(ROLES)
    places = {"ROLES": str(tmp_path / "roles.toml"), "AUDIT": str(tmp_path / "audit.jsonl")}
    database = tmp_path / "studies.db"

    with patch.object(logs, "setup"):  # this process's logs are left alone
        done = CliRunner().invoke(
            main, [*(places.get(word, word) for word in arguments), "--db", str(database), "--http-listen", "none"]
        )

    assert done.exit_code == 2
    assert complaint in " ".join(done.stderr.replace("│", " ").split())
    assert not database.exists()
    assert not (tmp_path / "audit.jsonl").exists()


async def test_a_client_whose_certificate_is_replaced_goes_on_with_the_new_one(
    server: ServerProcess, authority: Authority, tmp_path: Path
) -> None:
    """From the next call on, without being made anew, once certificate and key are a pair; what is in flight stays as it was."""
    reader, owner = (
        authority.issue("reader"),
        authority.issue("owner-2", hosts=("spiffe://cluster/ns/vision/sa/owner",)),
    )
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    mine.replace_with(owner)
    tls = asktell_client.Tls(authority.cert, mine.cert, mine.key)
    options = {"project": "vision", "tls": tls, "timeout": 60}
    with asktell_client.connect(server.target, **options) as client:
        async with await asktell_client.aio.connect(server.target, **options) as aclient:
            study = client.create_study("replaced", {"x": asktell_client.Float(0, 1)}, maximize="a", algorithm="random")
            changes = study.watch()
            next(changes)
            astudy = await aclient.get_study("replaced")
            study.ask()

            mine.cert.write_bytes(reader.cert.read_bytes())
            study.ask()  # not a pair yet: as before
            await astudy.ask()
            mine.key.write_bytes(reader.key.read_bytes())
            with pytest.raises(asktell_client.PermissionDenied):
                study.ask()
            with pytest.raises(asktell_client.PermissionDenied):
                await astudy.ask()
            mine.replace_with(owner)
            study.ask()
            await astudy.ask()

            trials = 0
            while trials < 5:  # of the watch that began before all this
                trials += len(next(changes).trials)
    assert trials == 5


def test_a_client_follows_a_replaced_authority(authority: Authority, tmp_path: Path) -> None:
    """A server whose certificate is of a new authority is trusted as soon as the client's file says so."""
    other, trusted = Authority(tmp_path, "other"), tmp_path / "ca.pem"
    pair, trusted_bytes = authority.issue("changing"), authority.cert.read_bytes()
    mine = Pair(tmp_path / "tls.crt", tmp_path / "tls.key")
    mine.replace_with(pair)
    trusted.write_bytes(trusted_bytes)
    space: asktell_client.Space = {"x": asktell_client.Float(0, 1)}
    with serving(tmp_path, "--tls-cert", str(mine.cert), "--tls-key", str(mine.key)) as server:
        with asktell_client.connect(server.target, tls=asktell_client.Tls(trusted), timeout=60) as client:
            client.create_study("before", space, maximize="a", algorithm="random")
            mine.replace_with(other.issue("changed"))
            server.stop()
            server.start()
            with pytest.raises(asktell_client.TlsFailed):
                client.get_study("before")
            trusted.write_bytes(trusted_bytes + other.cert.read_bytes())
            assert client.get_study("before").name.endswith("before")
