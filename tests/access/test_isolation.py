"""By every way but a method's front: sources, pages, request ids, conflicts and bad fields tell nothing of another project either."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.message import Message

from asktell.v1 import study_pb2, study_service_pb2_grpc, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.app import AccessConfig, App, ServerConfig
from asktell_server.domain.access import Role, grants
from asktell_server.engine.host import HostConfig
from asktell_server.engine.pool import PoolConfig
from asktell_server.service.authentication import issue as issue_token
from asktell_server.service.paging import token as page_token

from ..support import ServerProcess, spec, stub
from .conftest import bearer, issue
from .test_roles import METHODS, call, request_of, told

HIDDEN, ABSENT = "projects/theirs/studies/hidden", "projects/theirs/studies/absent"
OWN = "projects/ours/studies/own"


@pytest.fixture(scope="module")
def service(guarded: ServerProcess) -> Iterator[Any]:
    """The bare stub."""
    with stub(guarded.target) as made:
        yield made


@pytest.fixture(scope="module")
def theirs(service: Any, guarded: ServerProcess, admin: str) -> str:
    """The token of the project in which HIDDEN is, with five trials; the one of `ours` exists too, with OWN."""
    for study in (HIDDEN, OWN):
        service.CreateStudy(request_of("CreateStudy", study), metadata=bearer(admin))
        service.Ask(pb.AskRequest(parent=study, count=5), metadata=bearer(admin))
    return issue(guarded.database, "owner", "theirs", name="theirs")


@pytest.fixture(scope="module")
def ours(guarded: ServerProcess, theirs: str) -> str:
    """A token of another project, with the highest role there."""
    return issue(guarded.database, "admin", "ours", name="ours")


def learning_from(source: str, parent: str = "projects/ours") -> pb.CreateStudyRequest:
    """A new study of ours that names an earlier one."""
    made = spec("gp")
    made.algorithm.gp.transfer_sources.add(study=source)
    return pb.CreateStudyRequest(parent=parent, study_id="learner", study=study_pb2.Study(spec=made))


@pytest.mark.parametrize("parent", ["projects/ours", "projects/", "projects/ours/studies/x", ""])
def test_a_source_of_another_project_is_refused_unseen(service: Any, ours: str, parent: str) -> None:
    """Whether it exists or not: it is of another project, and no more is said; with a parent that cannot be read too."""
    there = told(call(service, "CreateStudy", learning_from(HIDDEN, parent), ours))
    absent = told(call(service, "CreateStudy", learning_from(ABSENT, parent), ours))

    assert there[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert str(there[1]).replace("hidden", "absent") == absent[1]
    assert [(key, value.replace(b"hidden", b"absent")) for key, value in there[2]] == list(absent[2])


def test_pages_of_others_lead_nowhere(service: Any, ours: str, theirs: str) -> None:
    """Their tokens, and tokens made up by hand to point into their project, show none of theirs."""
    first = service.ListTrials(pb.ListTrialsRequest(parent=HIDDEN, page_size=2), metadata=bearer(theirs))
    forged = [page_token([project, "0"], "ListStudies", None, []) for project in ("theirs", "0")]

    refused = [
        call(service, "ListTrials", pb.ListTrialsRequest(parent=study, page_token=first.next_page_token), ours)
        for study in (HIDDEN, OWN)
    ]
    seen = [
        study.name
        for token in forged
        for study in service.ListStudies(
            pb.ListStudiesRequest(parent="projects/-", page_token=token), metadata=bearer(ours)
        ).studies
    ]

    assert first.next_page_token
    assert [error.code() for error in refused if error is not None] == [
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    ]
    assert OWN in seen
    assert not [name for name in seen if not name.startswith("projects/ours/")]


def test_request_ids_of_others_are_free(service: Any, ours: str, theirs: str) -> None:
    """An id that they used with another body is as new as any, and a repeat of their call does not return theirs."""
    asked = pb.AskRequest(parent=HIDDEN, request_id="shared")
    service.Ask(asked, metadata=bearer(theirs))
    created = pb.CreateStudyRequest(
        parent="projects/theirs", study_id="by-id", study=study_pb2.Study(spec=spec()), request_id="shared"
    )
    service.CreateStudy(created, metadata=bearer(theirs))

    own = service.Ask(pb.AskRequest(parent=OWN, count=3, request_id="shared"), metadata=bearer(ours))
    again = call(service, "Ask", asked, ours)
    created_again = call(service, "CreateStudy", created, ours)

    assert len(own.trials) == 3
    assert again is not None
    assert created_again is not None
    assert {again.code(), created_again.code()} == {grpc.StatusCode.PERMISSION_DENIED}


def spoilt(method: str, study: str) -> list[Message]:
    """Requests of the method that would be refused, or succeed without effect, for reasons that depend on the study."""
    made: dict[str, list[Message]] = {
        "CreateStudy": [
            pb.CreateStudyRequest(
                parent="projects/theirs", study_id=study.rpartition("/")[2], study=study_pb2.Study(spec=spec(seed=seed)),
                conflict_policy=policy,
            )
            for seed in (1, 2) for policy in (pb.CreateStudyRequest.FAIL, pb.CreateStudyRequest.USE_EXISTING)
        ],
        "DeleteStudy": [pb.DeleteStudyRequest(name=study, allow_missing=True), pb.DeleteStudyRequest(name=study, etag="x")],
        "WatchStudy": [pb.WatchStudyRequest(name=study, after_revision=revision) for revision in (-1, 2, 999)],
        "ListTrials": [pb.ListTrialsRequest(parent=study, page_size=-1), pb.ListTrialsRequest(parent=study, page_token="x")],
        "Ask": [pb.AskRequest(parent=study, count=-1)],
        "Tell": [pb.TellRequest(name=f"{study}/trials/1"), pb.TellRequest(name=f"{study}/trials/999")],
        "UpdateStudy": [
            pb.UpdateStudyRequest(
                study=study_pb2.Study(name=study, etag="x"), update_mask=field_mask_pb2.FieldMask(paths=["spec"])
            )
        ],
        "CreateTrials": [pb.CreateTrialsRequest(parent=study, trials=[trial_pb2.Trial()] * 2000)],
        "ExplainStudy": [pb.ExplainStudyRequest(name=study, points=-1, slices=["x0", "none"])],
    }  # fmt: skip
    return made.get(method, [])


@pytest.mark.parametrize("method", [method for method in METHODS if spoilt(method, HIDDEN)])
def test_wrong_fields_are_not_looked_at(service: Any, ours: str, theirs: str, method: str) -> None:
    """What is wrong with a request about a study of others, or right, is not told: one answer for all."""
    answers = {
        told(call(service, method, request, ours))
        for study in (HIDDEN, ABSENT)
        for request in (*spoilt(method, study), request_of(method, study))
    }

    assert len(answers) == 1
    [(code, *_)] = answers
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_an_etag_counts_no_studies_of_others(service: Any, ours: str, theirs: str) -> None:
    """It is made of the study's own creation and revision, not of a number that every new study of anybody raises."""

    def made(study_id: str) -> study_pb2.Study:
        request = request_of("CreateStudy", f"projects/ours/studies/{study_id}")
        found: study_pb2.Study = service.CreateStudy(request, metadata=bearer(ours))
        return found

    first = made("first")
    for k in range(3):
        service.CreateStudy(request_of("CreateStudy", f"projects/theirs/studies/more-{k}"), metadata=bearer(theirs))
    second = made("second")

    for study in (first, second):
        time = study.create_time
        assert study.etag == f"{time.seconds * 1_000_000 + time.nanos // 1000:x}-{study.revision}"


@pytest.mark.parametrize(
    "metadata",
    [
        lambda ours, theirs: [*bearer(ours), *bearer(theirs)],
        lambda ours, theirs: [*bearer(theirs), *bearer(ours)],
        lambda ours, theirs: [("authorization", f"Bearer {ours}, Bearer {theirs}")],
        lambda ours, theirs: [("authorization", f"Bearer {ours} {theirs}")],
        lambda ours, theirs: [("authorization", theirs)],
        lambda ours, theirs: [("authorization", f"Basic {theirs}")],
        lambda ours, theirs: [("authorization-bin", f"Bearer {theirs}".encode())],
        lambda ours, theirs: [("x-forwarded-authorization", f"Bearer {theirs}")],
        lambda ours, theirs: [*bearer(ours), ("authorization-bin", f"Bearer {theirs}".encode())],
        lambda ours, theirs: [*bearer(ours), ("x-authenticated-user", "admin")],
    ],
)
def test_no_header_but_the_one_counts(service: Any, ours: str, theirs: str, metadata: Any) -> None:
    """Two tokens are none; another scheme, another header, a binary one bring nothing."""
    with pytest.raises(grpc.RpcError) as refused:
        service.GetStudy(pb.GetStudyRequest(name=HIDDEN), metadata=metadata(ours, theirs), timeout=60)

    assert refused.value.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


async def test_a_refusal_never_touches_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that a refusal says or takes its time over can depend on what is stored."""
    config = ServerConfig(
        database=str(tmp_path / "studies.db"), listen="127.0.0.1:0", http_listen=None, drain_grace_s=0.0,
        access=AccessConfig(required=True, audit=tmp_path / "audit.jsonl"), host=HostConfig(pool=PoolConfig(workers=1)),
    )  # fmt: skip
    app = App(config)
    await app.start()
    try:
        text, made = issue_token("ours", grants(Role.ADMIN, ["ours"]), datetime.now(UTC))
        await app.storage.write(lambda tx: tx.insert_token(made))
        assert app._background is not None
        app._background.cancel()
        async with grpc.aio.insecure_channel(app.grpc_address) as channel:
            service: Any = study_service_pb2_grpc.StudyServiceStub(channel)
            await service.CreateStudy(request_of("CreateStudy", OWN), metadata=bearer(text))  # the token is known now

            def touched(*_: object) -> None:
                raise AssertionError("the database was touched")

            for way in ("read", "write", "submit"):
                monkeypatch.setattr(app.storage, way, touched)
            codes = set()
            for method in METHODS:
                answer = getattr(service, method)(request_of(method, HIDDEN), metadata=bearer(text))
                with pytest.raises(grpc.aio.AioRpcError) as refused:
                    await (answer.read() if method == "WatchStudy" else answer)
                codes.add(refused.value.code())
            with pytest.raises(grpc.aio.AioRpcError) as admitted:
                await service.GetStudy(request_of("GetStudy", OWN), metadata=bearer(text))
            monkeypatch.undo()
    finally:
        await app.stop()

    assert codes == {grpc.StatusCode.PERMISSION_DENIED}
    assert admitted.value.code() is grpc.StatusCode.INTERNAL  # what is admitted does touch it
