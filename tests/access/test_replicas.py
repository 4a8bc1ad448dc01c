"""Two servers that know their callers on one PostgreSQL database."""

from __future__ import annotations

from pathlib import Path

import grpc

from asktell.v1 import study_service_pb2 as pb
from asktell_server.testing.postgresql import PostgresServer

from ..support import serving, stub
from .conftest import asktell, bearer, issue
from .test_roles import METHODS, call, request_of, told
from .test_tokens import code, eventually


def test_a_token_holds_and_ends_on_every_replica(postgres: PostgresServer, tmp_path: Path) -> None:
    """One of another project learns of a study by no method of either server; a revoked one is soon good for nothing on both."""
    database = postgres.new_database()
    folders = [tmp_path / name for name in ("a", "b")]
    for folder in folders:
        folder.mkdir()
    flags = ("--auth", "--workers", "1", "--audit-log")
    with (
        serving(folders[0], *flags, str(folders[0] / "audit.jsonl"), database=database) as first,
        serving(folders[1], *flags, str(folders[1] / "audit.jsonl"), database=database) as second,
        stub(first.target) as of_first,
        stub(second.target) as of_second,
    ):
        owner, outsider = issue(database, "owner", "p", name="owner"), issue(database, "admin", "q", name="outsider")
        of_first.CreateStudy(request_of("CreateStudy", "projects/p/studies/s"), metadata=bearer(owner))
        of_second.Ask(pb.AskRequest(parent="projects/p/studies/s"), metadata=bearer(owner))
        for method in METHODS:
            answers = {
                told(call(service, method, request_of(method, f"projects/p/studies/{study}"), outsider))
                for study in ("s", "absent")
                for service in (of_first, of_second)
            }
            assert len(answers) == 1
            assert {answer[0] for answer in answers} == {grpc.StatusCode.PERMISSION_DENIED}

        done = asktell("token", "revoke", owner.split("_")[1], "--database", database)

        assert done.returncode == 0, done.stderr
        for service in (of_first, of_second):
            eventually(service, owner, grpc.StatusCode.UNAUTHENTICATED)
            assert code(service, outsider) is None
