"""Clients in other languages, made from proto/ alone, each run one whole study against a real server."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google.rpc
import grpc
import pytest

from asktell.v1 import study_pb2, study_service_pb2, study_service_pb2_grpc, trial_pb2

from ..certificates import Authority
from ..support import ROOT, ServerProcess, serving
from ..tools.find import TOOLS, tool

HERE = Path(__file__).parent
PROTO = ROOT / "proto"
GOOGLE = Path(google.rpc.__path__[0]).parents[1]  # holds google/rpc/*.proto
RUN_TIMEOUT_S = 90

Client = Callable[[str, str], subprocess.CompletedProcess[str]]


def run_node(target: str, study_id: str, tls_ca: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the Node.js client, over TLS if there is an authority for it to trust."""
    modules = TOOLS / "node_modules"
    assert (modules / "@grpc" / "grpc-js").exists(), "@grpc/grpc-js is missing: run scripts/tools"
    command: list[str | Path] = [tool("node"), HERE / "node" / "client.mjs", target, PROTO, GOOGLE, study_id]
    environment = {**os.environ, "NODE_PATH": str(modules), "TLS_CA": "" if tls_ca is None else str(tls_ca)}
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S, env=environment)


def built_cpp_client() -> Path:
    """The C++ client, built unless it was built before from the same sources."""
    for name in ("g++", "pkg-config", "protoc", "grpc_cpp_plugin"):
        tool(name)
    digest = hashlib.sha256()
    for source in sorted([*PROTO.rglob("*.proto"), *(HERE / "cpp").iterdir()]):
        digest.update(source.read_bytes())
    built = TOOLS / "cpp" / digest.hexdigest()[:16]
    if not built.exists():
        built.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(dir=built.parent))
        made = subprocess.run([HERE / "cpp" / "build", PROTO, GOOGLE, making], capture_output=True, text=True)
        assert made.returncode == 0, f"the C++ client cannot be built; run scripts/tools\n{made.stderr}"
        shutil.rmtree(built, ignore_errors=True)
        making.rename(built)
    return built / "client"


def run_cpp(target: str, study_id: str) -> subprocess.CompletedProcess[str]:
    """Runs the C++ client."""
    command: list[str | Path] = [built_cpp_client(), target, study_id]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_TIMEOUT_S)


def loss(trial: trial_pb2.Trial) -> float:
    """What the clients measure, computed here from what the server stored."""
    point = trial.parameters
    slope = point["slope"].float_value if point["act"].string_value == "leaky" else 0.25
    return (math.log10(point["lr"].float_value) + 3) ** 2 + point["width"].int_value / 64 + slope


def listed_trials(service: study_service_pb2_grpc.StudyServiceStub, study: str) -> list[trial_pb2.Trial]:
    """All trials of a study with their measurements."""
    request = study_service_pb2.ListTrialsRequest(parent=study, page_size=1000, view=study_service_pb2.FULL)
    return list(service.ListTrials(request).trials)


@pytest.mark.timeout(600)  # the first build of the C++ client
@pytest.mark.parametrize("run", [run_node, run_cpp], ids=["node", "cpp"])
def test_a_client_made_from_the_contract_alone_runs_a_whole_study(
    run: Client, server: ServerProcess, service: study_service_pb2_grpc.StudyServiceStub
) -> None:
    """A client in another language creates, asks, reports, tells, watches and lists, and the server agrees with what it saw."""
    study_id = f"foreign-{run.__name__}"

    finished = run(server.target, study_id)

    assert finished.returncode == 0, finished.stderr
    seen: dict[str, Any] = json.loads(finished.stdout)
    study = service.GetStudy(study_service_pb2.GetStudyRequest(name=f"projects/default/studies/{study_id}"))
    trials = listed_trials(service, study.name)
    states = {trial.name.rsplit("/", 1)[1]: trial_pb2.Trial.State.Name(trial.state) for trial in trials}
    assert seen["study"] == study.name
    assert seen["same_study"], "USE_EXISTING should have returned the study that exists"
    assert seen["same_trials"], "a repeated request id should have returned the same trials"
    assert study.state == study_pb2.Study.COMPLETED
    assert Counter(states.values()) == {"SUCCEEDED": 7, "FAILED": 1, "INFEASIBLE": 1, "PRUNED": 1}
    assert seen["listed"] == states
    assert seen["watched"] == states
    assert seen["sources"] == ["ENQUEUED"] + ["SAMPLER"] * 9


@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", [run_node, run_cpp], ids=["node", "cpp"])
def test_numbers_cross_the_languages_unchanged(
    run: Client, server: ServerProcess, service: study_service_pb2_grpc.StudyServiceStub
) -> None:
    """Each stored measurement is what the client's formula gives for the stored parameters, and the best trial is the least."""
    study_id = f"numbers-{run.__name__}"

    finished = run(server.target, study_id)

    assert finished.returncode == 0, finished.stderr
    [best] = json.loads(finished.stdout)["best"]
    trials = listed_trials(service, f"projects/default/studies/{study_id}")
    ended_well = [trial for trial in trials if trial.state == trial_pb2.Trial.SUCCEEDED]
    assert len(ended_well) == 7
    for trial in ended_well:
        assert trial.measurement.metrics["loss"] == pytest.approx(loss(trial))
    for trial in trials:
        [reported] = trial.intermediate_measurements
        assert reported.metrics["loss"] == pytest.approx(loss(trial) + 1)
        assert ("slope" in trial.parameters) == (trial.parameters["act"].string_value == "leaky")
    least = min(ended_well, key=lambda trial: trial.measurement.metrics["loss"])
    assert best == {"name": least.name, "loss": least.measurement.metrics["loss"]}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("run", [run_node, run_cpp], ids=["node", "cpp"])
def test_errors_can_be_read_in_other_languages(run: Client, server: ServerProcess) -> None:
    """Every refusal reaches a client in another language with its code, its reason and all violated fields."""
    finished = run(server.target, f"errors-{run.__name__}")

    assert finished.returncode == 0, finished.stderr
    refusals = json.loads(finished.stdout)["refusals"]
    codes = {code.value[0]: code.name for code in grpc.StatusCode}
    seen = [(r["call"], codes.get(r["code"], r["code"]), r["reason"]) for r in refusals]
    assert seen == [
        ("CreateStudy", "INVALID_ARGUMENT", "INVALID_ARGUMENT"),
        ("CreateStudy", "ALREADY_EXISTS", "STUDY_ALREADY_EXISTS"),
        ("Ask", "FAILED_PRECONDITION", "STUDY_COMPLETED"),
        ("Tell", "FAILED_PRECONDITION", "RESULT_CONFLICT"),
        ("GetTrial", "NOT_FOUND", "TRIAL_NOT_FOUND"),
    ]
    assert refusals[0]["fields"] == ["study.spec.parameters[0].float.min", "study.spec.objectives"]


def test_a_client_in_another_language_over_tls(tmp_path: Path) -> None:
    """What secures the connection is plain TLS: Node.js, which has an implementation of its own, runs a whole study over it."""
    authority = Authority(tmp_path, "authority")
    pair = authority.issue("server")

    flags = ("--tls-cert", str(pair.cert), "--tls-key", str(pair.key))
    with serving(tmp_path, *flags, database=":memory:") as running:
        finished = run_node(running.target, "foreign-tls", authority.cert)

    assert finished.returncode == 0, finished.stderr
    assert len(json.loads(finished.stdout)["listed"]) == 10
