"""Every method of the descriptor, with every role and from outside: what is not allowed says so and tells nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from asktell.v1 import study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.access import Role
from asktell_server.rpc.access import NEEDS

from ..support import ServerProcess, serving, spec, stub
from .conftest import audit, bearer, issue

SERVICE = study_service_pb2.DESCRIPTOR.services_by_name["StudyService"]
METHODS = [method.name for method in SERVICE.methods]


def request_of(method: str, study: str, trial: int = 1) -> Message:
    """A valid request of the method about a study or its trial."""
    name = f"{study}/trials/{trial}"
    project = study.partition("/studies/")[0]
    study_id = study.rpartition("/")[2]
    mask = field_mask_pb2.FieldMask(paths=["labels"])
    made: dict[str, Message] = {
        "CreateStudy": pb.CreateStudyRequest(parent=project, study_id=study_id, study=study_pb2.Study(spec=spec())),
        "GetStudy": pb.GetStudyRequest(name=study),
        "ListStudies": pb.ListStudiesRequest(parent=project),
        "UpdateStudy": pb.UpdateStudyRequest(
            study=study_pb2.Study(name=study, labels={"by": "somebody"}), update_mask=mask
        ),
        "StopStudy": pb.StopStudyRequest(name=study),
        "ResumeStudy": pb.ResumeStudyRequest(name=study),
        "DeleteStudy": pb.DeleteStudyRequest(name=study),
        "WatchStudy": pb.WatchStudyRequest(name=study),
        "ExplainStudy": pb.ExplainStudyRequest(name=study),
        "Ask": pb.AskRequest(parent=study),
        "Tell": pb.TellRequest(name=name, measurement=trial_pb2.Measurement(metrics={"loss": 1.0})),
        "Report": pb.ReportRequest(name=name, measurement=trial_pb2.Measurement(metrics={"loss": 1.0}, step=1)),
        "Heartbeat": pb.HeartbeatRequest(name=name),
        "CreateTrials": pb.CreateTrialsRequest(parent=study, trials=[trial_pb2.Trial()]),
        "GetTrial": pb.GetTrialRequest(name=name),
        "ListTrials": pb.ListTrialsRequest(parent=study),
        "ListBestTrials": pb.ListBestTrialsRequest(parent=study),
        "UpdateTrial": pb.UpdateTrialRequest(
            trial=trial_pb2.Trial(name=name, labels={"by": "somebody"}), update_mask=mask
        ),
    }
    return made[method]


def call(service: Any, method: str, request: Message, token: str | None) -> grpc.RpcError | None:
    """The error that the call ends in, or None. Of a stream the first message is read."""
    metadata = bearer(token) if token is not None else []
    try:
        answer = getattr(service, method)(request, metadata=metadata, timeout=60)
        if method == "WatchStudy":
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        return error
    return None


def told(error: grpc.RpcError | None) -> tuple[object, ...]:
    """All that a caller learns from an error."""
    assert error is not None
    return error.code(), error.details(), tuple(error.trailing_metadata())


@pytest.fixture(scope="module")
def service(guarded: ServerProcess) -> Iterator[study_service_pb2_grpc.StudyServiceStub]:
    """The bare stub."""
    with stub(guarded.target) as made:
        yield made


@pytest.fixture(scope="module")
def secret(service: Any, admin: str) -> str:
    """A study with a trial in the project of somebody else."""
    for name in ("hidden", "visible"):
        parent = f"projects/{name}"
        study = pb.CreateStudyRequest(parent=parent, study_id="s", study=study_pb2.Study(spec=spec()))
        service.CreateStudy(study, metadata=bearer(admin))
        service.Ask(pb.AskRequest(parent=f"{parent}/studies/s"), metadata=bearer(admin))
    return "projects/hidden/studies/s"


@pytest.fixture(scope="module")
def outsider(guarded: ServerProcess) -> str:
    """A token with the highest role, in another project."""
    return issue(guarded.database, "admin", "visible", name="outsider")


def test_the_table_names_every_method() -> None:
    """Each method of the service has a need, whose field is in its request."""
    assert set(NEEDS) == set(METHODS)
    for method in SERVICE.methods:
        descriptor: Descriptor | None = method.input_type
        for part in NEEDS[method.name].field.split("."):
            assert descriptor is not None
            field = descriptor.fields_by_name[part]
            descriptor = field.message_type
        assert field.type == field.TYPE_STRING


@pytest.mark.parametrize("method", METHODS)
def test_without_a_token_nothing_is_answered(service: Any, secret: str, method: str) -> None:
    """No token, a token that nobody made, and a header of another form are UNAUTHENTICATED."""
    unknown = "asktell_aaaaaaaaaaaa_" + "A" * 43
    errors = [call(service, method, request_of(method, secret), token) for token in (None, unknown, "x.y.z", "")]

    assert [error.code() for error in errors if error is not None] == [grpc.StatusCode.UNAUTHENTICATED] * 4


@pytest.mark.parametrize("method", METHODS)
def test_a_token_of_another_project_learns_nothing(
    service: Any, secret: str, outsider: str, admin: str, method: str
) -> None:
    """A study that exists, one that does not, and one in a project that does not exist give one answer, and nothing changes."""
    before = service.GetStudy(pb.GetStudyRequest(name=secret), metadata=bearer(admin))

    there = call(service, method, request_of(method, secret), outsider)
    absent = call(service, method, request_of(method, "projects/hidden/studies/absent", 7), outsider)
    nowhere = call(service, method, request_of(method, "projects/nowhere/studies/absent", 7), outsider)

    assert there is not None
    assert there.code() is grpc.StatusCode.PERMISSION_DENIED
    assert told(there) == told(absent)
    assert "hidden" in str(there.details())
    assert nowhere is not None
    assert str(nowhere.details()) == str(there.details()).replace("hidden", "nowhere")
    assert service.GetStudy(pb.GetStudyRequest(name=secret), metadata=bearer(admin)) == before


@pytest.mark.parametrize("role", list(Role), ids=lambda role: role.name.lower())
def test_a_role_may_do_what_the_table_says(guarded: ServerProcess, service: Any, admin: str, role: Role) -> None:
    """In one's own project each method passes or is refused exactly by role."""
    project = f"of-{role.name.lower()}"
    token = issue(guarded.database, role.name.lower(), project)
    for method in sorted(METHODS, key=lambda name: name == "DeleteStudy"):
        study = f"projects/{project}/studies/{method.lower()}"
        if method != "CreateStudy":
            service.CreateStudy(request_of("CreateStudy", study), metadata=bearer(admin))
            service.Ask(pb.AskRequest(parent=study), metadata=bearer(admin))
        error = call(service, method, request_of(method, study), token)
        code = None if error is None else error.code()

        if role < NEEDS[method].role:
            assert code is grpc.StatusCode.PERMISSION_DENIED, method
        else:
            # What passes the gate may still be refused for what it is: nothing to explain, an empty trial.
            assert code in (None, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT), (
                method,
                error,
            )


def test_a_list_of_all_projects_has_those_of_the_caller(guarded: ServerProcess, service: Any, secret: str) -> None:
    """`projects/-` shows the studies of the projects that the caller has a role in, page by page."""
    token = issue(guarded.database, "viewer", "visible", "list-a", "list-b", "empty")
    maker = issue(guarded.database, "owner", "list-a", "list-b")
    for project in ("list-a", "list-b"):
        for k in range(3):
            made = request_of("CreateStudy", f"projects/{project}/studies/s{k}")
            service.CreateStudy(made, metadata=bearer(maker))

    seen, page_token = [], ""
    while True:
        request = pb.ListStudiesRequest(parent="projects/-", page_size=2, page_token=page_token)
        page = service.ListStudies(request, metadata=bearer(token))
        seen += [study.name for study in page.studies]
        page_token = page.next_page_token
        if not page_token:
            break

    expected = [f"projects/{project}/studies/s{k}" for project in ("list-a", "list-b") for k in range(3)]
    assert seen == [*expected, "projects/visible/studies/s"]


@pytest.mark.parametrize(
    "name", ["", "projects/", "projects/hidden/studies/s/", "projects/hidden/studies/s/trials/1", "hidden"]
)
def test_a_name_that_cannot_be_read_is_bad_input(service: Any, secret: str, outsider: str, name: str) -> None:
    """It passes no gate: the method refuses it."""
    error = call(service, "GetStudy", pb.GetStudyRequest(name=name), outsider)

    assert error is not None
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_writes_and_refusals_are_recorded(guarded: ServerProcess, service: Any, secret: str, outsider: str) -> None:
    """The audit file names the caller, the method, the resource and the outcome; reads and values are not in it."""
    token = issue(guarded.database, "owner", "audited", name="anna")
    study = "projects/audited/studies/s"
    service.CreateStudy(request_of("CreateStudy", study), metadata=bearer(token))
    service.Ask(pb.AskRequest(parent=study, request_id="first"), metadata=bearer(token))
    service.GetStudy(pb.GetStudyRequest(name=study), metadata=bearer(token))
    call(service, "GetStudy", request_of("GetStudy", secret), token)

    caller = f"token:anna:{token.split('_')[1]}"
    lines = [line for line in audit(guarded) if line.get("caller") == caller]
    found = [(line["method"], line["resource"], line.get("request_id"), line["code"]) for line in lines]
    assert found == [
        ("CreateStudy", study, None, "OK"),
        ("Ask", study, "first", "OK"),
        ("GetStudy", secret, None, "PERMISSION_DENIED"),
    ]
    assert token.split("_", 2)[2] not in (guarded.folder / "audit.jsonl").read_text() + guarded.log.read_text()
    assert guarded.metric("asktell_denied_total", reason="PERMISSION_DENIED") > 0


def test_an_audit_log_that_cannot_be_written_changes_no_answer(tmp_path: Path) -> None:
    """A write that was committed is acknowledged, a refusal is a refusal, and the metric counts the lines that are missing."""
    with serving(tmp_path, "--auth", "--audit-log", "/dev/full") as server, stub(server.target) as service:
        token = issue(server.database, "owner", "p")
        study = service.CreateStudy(request_of("CreateStudy", "projects/p/studies/s"), metadata=bearer(token))
        refused = call(service, "GetStudy", request_of("GetStudy", "projects/other/studies/s"), token)

        assert study.name == "projects/p/studies/s"
        assert refused is not None
        assert refused.code() is grpc.StatusCode.PERMISSION_DENIED
        assert server.metric("asktell_audit_lines_lost_total") == 2


def test_strangers_do_not_fill_the_log(service: Any, guarded: ServerProcess, secret: str) -> None:
    """They are counted, and some are in the audit file; the log has those of whom something is known."""
    before = guarded.metric("asktell_denied_total", reason="UNAUTHENTICATED")
    logged = guarded.log.read_text().count("UNAUTHENTICATED")

    for _ in range(50):
        call(service, "GetStudy", request_of("GetStudy", secret), "nobody's")

    assert guarded.metric("asktell_denied_total", reason="UNAUTHENTICATED") == before + 50
    assert guarded.log.read_text().count("UNAUTHENTICATED") == logged
    assert any("caller" not in line and line["code"] == "UNAUTHENTICATED" for line in audit(guarded))


def test_health_needs_no_token(guarded: ServerProcess) -> None:
    """Probes have no secrets."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(guarded.target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)

    assert answer.status == health_pb2.HealthCheckResponse.SERVING
