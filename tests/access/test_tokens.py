"""Tokens from their making to their end, by the real command beside a running server."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from asktell.v1 import study_service_pb2 as pb

from ..support import ServerProcess, stub
from .conftest import asktell, bearer, issue

WAIT_S = 60.0


@pytest.fixture
def service(guarded: ServerProcess) -> Iterator[Any]:
    """The bare stub."""
    with stub(guarded.target) as made:
        yield made


def code(service: Any, token: str) -> grpc.StatusCode | None:
    """How a list of all studies ends."""
    try:
        service.ListStudies(pb.ListStudiesRequest(parent="projects/-"), metadata=bearer(token), timeout=30)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return None


def eventually(service: Any, token: str, wanted: grpc.StatusCode) -> None:
    """Waits until calls with the token end so."""
    deadline = time.monotonic() + WAIT_S
    while code(service, token) is not wanted:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_revoked_token_is_soon_good_for_nothing(guarded: ServerProcess, service: Any) -> None:
    """It worked, is revoked while the server runs, and works no more; another one goes on."""
    kept, gone = (issue(guarded.database, "viewer", "p", name=name) for name in ("kept", "gone"))
    assert (code(service, kept), code(service, gone)) == (None, None)

    done = asktell("token", "revoke", gone.split("_")[1], "--db", guarded.database)
    assert done.returncode == 0, done.stderr
    again = asktell("token", "revoke", gone.split("_")[1], "--db", guarded.database)

    eventually(service, gone, grpc.StatusCode.UNAUTHENTICATED)
    assert code(service, kept) is None
    assert again.returncode == 1


def watching(service: Any, admin: str, token: str, project: str) -> Any:
    """A new study in the project, watched with the token; its first message has been read."""
    from .test_roles import request_of

    study = f"projects/{project}/studies/s"
    service.CreateStudy(request_of("CreateStudy", study), metadata=bearer(admin))
    stream = service.WatchStudy(pb.WatchStudyRequest(name=study), metadata=bearer(token), timeout=WAIT_S)
    next(stream)
    return stream


def ended(stream: Any) -> str:
    """How the next message of a stream is refused."""
    with pytest.raises(grpc.RpcError) as refused:
        next(stream)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return str(refused.value.details())


def test_a_stream_ends_with_its_token(guarded: ServerProcess, service: Any, admin: str) -> None:
    """Whoever watches with a token that is revoked sees no further change, as soon as a call with it is refused."""
    token = issue(guarded.database, "viewer", "watched")
    stream = watching(service, admin, token, "watched")

    asktell("token", "revoke", token.split("_")[1], "--db", guarded.database)
    eventually(service, token, grpc.StatusCode.UNAUTHENTICATED)
    service.Ask(pb.AskRequest(parent="projects/watched/studies/s"), metadata=bearer(admin))

    assert "revoked" in ended(stream)


def test_a_stream_ends_when_its_token_expires(guarded: ServerProcess, service: Any, admin: str) -> None:
    """No message is sent after that time, however busy the stream was."""
    token, end = issue(guarded.database, "viewer", "expiring"), time.time() + 4
    with sqlite3.connect(guarded.database, timeout=30) as connection:
        changed = "UPDATE tokens SET expire_time = ? WHERE id = ?"
        connection.execute(changed, [int(end * 1e6), token.split("_")[1]])
    stream = watching(service, admin, token, "expiring")

    time.sleep(max(0.0, end - time.time()))  # a token expires by the clock, and the server's is the real one
    service.Ask(pb.AskRequest(parent="projects/expiring/studies/s"), metadata=bearer(admin))

    assert "expired" in ended(stream)


def test_an_expired_token_says_so(guarded: ServerProcess, service: Any) -> None:
    """The reason tells a program that it is time for a new one."""
    token = issue(guarded.database, "viewer", "p", expires_in="1m")
    with sqlite3.connect(guarded.database, timeout=30) as connection:
        connection.execute("UPDATE tokens SET expire_time = 1 WHERE id = ?", [token.split("_")[1]])

    with pytest.raises(grpc.RpcError) as refused:
        service.ListStudies(pb.ListStudiesRequest(parent="projects/-"), metadata=bearer(token))

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "expired" in str(refused.value.details())


def test_the_right_id_with_a_wrong_secret_is_as_unknown_as_any(guarded: ServerProcess, service: Any) -> None:
    """Expired, revoked or alive: without the secret nothing is told about an id."""
    token = issue(guarded.database, "viewer", "p")
    guesses = [token[:-1] + ("A" if token[-1] != "A" else "B"), "asktell_zzzzzzzzzzzz_" + "A" * 43]

    errors = []
    for guess in guesses:
        with pytest.raises(grpc.RpcError) as refused:
            service.ListStudies(pb.ListStudiesRequest(parent="projects/-"), metadata=bearer(guess))
        errors.append((refused.value.code(), refused.value.details()))

    assert errors[0] == errors[1]


def test_the_list_shows_everything_but_secrets(tmp_path: Path) -> None:
    """A new database will do; the table holds digests."""
    database = str(tmp_path / "new.db")
    assert asktell("migrate", "--db", database).returncode == 0
    token = issue(database, "worker", "a", "b", name="ci", expires_in="90d")

    listed = asktell("token", "list", "--json", "--db", database)
    shown = asktell("token", "list", "--db", database)

    found = json.loads(listed.stdout)
    assert (found["name"], found["state"]) == ("ci", "active")
    assert found["grants"] == [{"role": "worker", "project": "a"}, {"role": "worker", "project": "b"}]
    secret = token.split("_", 2)[2]
    assert secret not in listed.stdout + shown.stdout
    assert secret.encode() not in Path(database).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--role", "king", "--project", "p"], "king"),
        (["--role", "viewer"], "--project"),
        (["--role", "viewer", "--project", "a/b"], "a/b"),
        (["--role", "viewer", "--project", "p", "--expires-in", "soon"], "90d"),
        (["--role", "viewer", "--project", "p", "--expires-in", "999999999d"], "100 years"),
    ],
)
def test_a_wrong_token_is_not_made(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    """The complaint says what is wrong, and no database appears."""
    database = tmp_path / "none.db"

    done = asktell("token", "create", "ci", *arguments, "--db", str(database))

    assert done.returncode == 2
    assert complaint in done.stderr
    assert not database.exists()


@pytest.mark.parametrize(
    "arguments",
    [("create", "ci", "--role", "viewer", "--project", "p"), ("list",), ("revoke", "x")],
    ids=lambda a: a[0],
)
def test_a_mistyped_path_makes_no_database(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """It is refused, with what makes one; after that the same command works."""
    database = tmp_path / "typo.db"

    refused = asktell("token", *arguments, "--db", str(database))
    left = list(tmp_path.iterdir())
    migrated = asktell("migrate", "--db", str(database))
    done = asktell("token", *arguments, "--db", str(database))

    assert refused.returncode == 1
    assert "`asktell migrate`" in refused.stderr
    assert left == []
    assert migrated.returncode == 0
    assert done.returncode == (1 if arguments[0] == "revoke" else 0), done.stderr
