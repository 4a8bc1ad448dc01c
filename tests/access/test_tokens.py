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


def test_a_stream_ends_with_its_token(guarded: ServerProcess, service: Any, admin: str) -> None:
    """Whoever watches with a token that is revoked sees no further change after the next message."""
    from .test_roles import request_of

    study = "projects/watched/studies/s"
    service.CreateStudy(request_of("CreateStudy", study), metadata=bearer(admin))
    token = issue(guarded.database, "viewer", "watched")
    stream = service.WatchStudy(pb.WatchStudyRequest(name=study), metadata=bearer(token), timeout=WAIT_S)
    next(stream)

    asktell("token", "revoke", token.split("_")[1], "--db", guarded.database)
    eventually(service, token, grpc.StatusCode.UNAUTHENTICATED)
    time.sleep(5.1)  # a stream is looked at again no more often than this
    service.Ask(pb.AskRequest(parent=study), metadata=bearer(admin))

    with pytest.raises(grpc.RpcError) as ended:
        for _ in stream:
            pass
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


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
