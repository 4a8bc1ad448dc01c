"""What operators and other people's tools see: reflection, and metrics as promtool and a real Prometheus read them."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client.parser import text_string_to_metric_families

from asktell.v1 import study_service_pb2, study_service_pb2_grpc, trial_pb2
from asktell_server.observe.metrics import BATCH_BUCKETS, LATENCY_BUCKETS_S, PHASES
from asktell_server.service.limits import Limits

from ..support import ServerProcess, create_study, serving, spec, stub
from ..tools.find import tool

SERVICE = "asktell.v1.StudyService"
METHODS = {method.name for method in study_service_pb2.DESCRIPTOR.services_by_name["StudyService"].methods}
PATIENCE_S = 30.0

CLOSED_LABELS = {
    "queue": {"waiting_asks", "waiting_explanations", "waiting_writes", "waiting_reads", "watches"},
    "scope": {"study", "project", "server", *(f.name for f in fields(Limits))},
    "method": METHODS,
    "code": {code.name for code in grpc.StatusCode},
    "state": set(trial_pb2.Trial.State.keys()),
    "source": set(trial_pb2.Suggestion.Source.keys()),
    "phase": set(PHASES),
    "outcome": {"hit", "joined", "miss"},
    "cause": {
        "deadline",
        "overtaken",
        "worker_lost",
        "numerical",
        "simpler_model",
        "no_free_point",
        "waiting_asks",
        "waiting_explanations",
        "waiting_writes",
        "waiting_reads",
        "watches",
        "quota",
    },
    "le": {str(float(bound)) for bound in (*LATENCY_BUCKETS_S, *BATCH_BUCKETS)} | {"+Inf"},
}

Stub = study_service_pb2_grpc.StudyServiceStub


def run_one_study(service: Stub, study_id: str, worker: str, algorithm: str = "random") -> None:
    """Traffic of every kind: three trials that end in three ways, reports, a watch, lists and some refusals."""
    name = create_study(service, study_id, spec(algorithm)).name
    asked = service.Ask(study_service_pb2.AskRequest(parent=name, count=3, worker=worker)).trials
    measurement = trial_pb2.Measurement(metrics={"loss": 0.5}, step=1)
    service.Report(study_service_pb2.ReportRequest(name=asked[0].name, measurement=measurement))
    service.Tell(study_service_pb2.TellRequest(name=asked[0].name, measurement=measurement))
    service.Tell(study_service_pb2.TellRequest(name=asked[1].name, failed=study_service_pb2.TellRequest.Failed()))
    service.Tell(study_service_pb2.TellRequest(name=asked[2].name, pruned=study_service_pb2.TellRequest.Pruned()))
    service.ListBestTrials(study_service_pb2.ListBestTrialsRequest(parent=name))
    changes = service.WatchStudy(study_service_pb2.WatchStudyRequest(name=name))
    next(iter(changes))
    changes.cancel()
    for refused in (
        lambda: service.GetStudy(study_service_pb2.GetStudyRequest(name=f"{name}-unknown")),
        lambda: service.Tell(study_service_pb2.TellRequest(name=asked[0].name)),
        lambda: service.Tell(study_service_pb2.TellRequest(name="not a name")),
    ):
        with pytest.raises(grpc.RpcError):
            refused()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of this module's own that has seen traffic of every kind."""
    with serving(tmp_path_factory.mktemp("busy")) as server, stub(server.target) as service:
        run_one_study(service, "first", "worker")
        run_one_study(service, "modelled", "worker", "skopt")
        yield server


def open_labels(metrics: str) -> set[tuple[str, str]]:
    """The labels of /metrics that are not of the closed sets that contract and gRPC define."""
    return {
        label
        for family in text_string_to_metric_families(metrics)
        for sample in family.samples
        for label in sample.labels.items()
        if label[1] not in CLOSED_LABELS.get(label[0], ())
    }


def test_reflection_describes_the_whole_service(server: ServerProcess) -> None:
    """A client that knows only the address finds the service, its methods and their messages."""
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)

        services = database.get_services()
        described = DescriptorPool(database).FindServiceByName(SERVICE)

    assert {SERVICE, "grpc.health.v1.Health"} <= set(services)
    assert {method.name for method in described.methods} == METHODS
    assert described.methods_by_name["Ask"].input_type.fields_by_name["count"].number == 2


def test_a_command_line_client_lists_the_methods(server: ServerProcess) -> None:
    """`buf curl`, a stranger to this project, lists all methods by reflection."""
    command = [tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--list-methods"]

    listed = subprocess.run([*command, f"http://{server.target}"], capture_output=True, text=True, timeout=60)

    assert listed.returncode == 0, listed.stderr
    assert {f"{SERVICE}/{method}" for method in METHODS} <= set(listed.stdout.split())


def test_a_command_line_client_calls_a_method(server: ServerProcess) -> None:
    """`buf curl` creates a study from JSON, knowing nothing but the address."""
    request = {
        "parent": "projects/default",
        "study_id": "by-hand",
        "study": {
            "spec": {
                "parameters": [{"name": "x", "float": {"min": 0, "max": 1}}],
                "objectives": [{"metric": "loss", "direction": "MINIMIZE"}],
            }
        },
    }
    command = [tool("buf"), "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(request)]
    address = f"http://{server.target}/{SERVICE}/CreateStudy"

    called = subprocess.run([*command, address], capture_output=True, text=True, timeout=60)

    assert called.returncode == 0, called.stderr
    assert json.loads(called.stdout)["name"] == "projects/default/studies/by-hand"


def test_promtool_accepts_the_metrics(busy: ServerProcess) -> None:
    """Prometheus' own linter finds nothing to say about names, types and help texts after traffic of every kind."""
    metrics = busy.metrics()

    checked = subprocess.run([tool("promtool"), "check", "metrics"], input=metrics, capture_output=True, text=True)

    assert "asktell_tells_total" in metrics
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_labels_do_not_grow_with_studies_and_workers(busy: ServerProcess) -> None:
    """After thirty studies, each with its own worker, every label has a value of a closed set, so series stay bounded."""
    with stub(busy.target) as service:
        for i in range(30):
            run_one_study(service, f"bounded-{i}", f"bounded-worker-{i}")
    metrics = busy.metrics()

    assert open_labels(metrics) == {("version", version("asktell"))}
    assert "bounded-" not in metrics


def test_labels_do_not_grow_with_invented_methods(busy: ServerProcess) -> None:
    """Whoever calls methods that do not exist cannot fill the server's memory with series."""
    with grpc.insecure_channel(busy.target) as channel:
        for i in range(20):
            invented: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Invented{i}")
            with pytest.raises(grpc.RpcError) as refused:
                invented(b"")
            assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED

    assert "Invented" not in busy.metrics()


@contextmanager
def prometheus(folder: Path, scraped: str) -> Iterator[str]:
    """A real Prometheus on a free loopback port that scrapes an address twice a second; yields its URL."""
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 400ms}\n"
        "scrape_configs:\n"
        "  - job_name: asktell\n"
        f"    static_configs: [{{targets: ['{scraped}']}}]\n"
    )
    log = folder / "prometheus.log"
    command = [
        *(tool("prometheus"), f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"),
        "--web.listen-address=127.0.0.1:0",
    ]
    with log.open("wb") as sink, subprocess.Popen(command, stdout=sink, stderr=sink, cwd=folder) as process:
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not (listening := re.search(r'msg="Listening on" address=(127\.0\.0\.1:\d+)', log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://{listening[1]}"
        finally:
            process.kill()


def query(prometheus_url: str, expression: str) -> list[dict[str, Any]]:
    """The result of an instant query; empty as long as Prometheus is not ready."""
    address = f"{prometheus_url}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            result: list[dict[str, Any]] = json.load(response)["data"]["result"]
            return result
    except urllib.error.HTTPError as error:
        error.close()
        return []


def test_a_real_prometheus_scrapes_the_server(busy: ServerProcess, tmp_path: Path) -> None:
    """Prometheus finds its target up and answers a query with the number of results that the server took."""
    told = {
        sample.labels["state"]: sample.value
        for family in text_string_to_metric_families(busy.metrics())
        for sample in family.samples
        if sample.name == "asktell_tells_total"
    }
    with prometheus(tmp_path, busy.http.removeprefix("http://")) as url:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := query(url, "asktell_tells_total")) and time.monotonic() < deadline:
            time.sleep(0.1)
        up = query(url, "up")

    assert told["SUCCEEDED"] >= 2
    assert {result["metric"]["state"]: float(result["value"][1]) for result in found} == told
    assert [result["value"][1] for result in up] == ["1"]
