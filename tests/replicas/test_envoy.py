"""A real Envoy in front of three servers, with the configuration of deploy/envoy."""

from __future__ import annotations

import copy
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

import asktell
from asktell import Float

from ..support import ROOT, ServerProcess
from ..tools.find import tool
from .conftest import three_servers

CONFIGURATION = ROOT / "deploy" / "envoy" / "envoy.yaml"
STUDIES = 30
PATIENCE_S = 60.0


def healthy(admin: int) -> int:
    """How many servers Envoy takes for healthy, by the port of its administration; 0 while that does not answer."""
    url = f"http://127.0.0.1:{admin}/stats?filter=cluster.asktell.membership_healthy"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as response:
            return int(response.read().split()[-1])
    except OSError:
        return 0


@contextmanager
def envoy(folder: Path, targets: list[str]) -> Iterator[str]:
    """The address of an Envoy that has found all `targets` healthy: the shipped configuration with other addresses."""
    configuration = yaml.safe_load(CONFIGURATION.read_text())
    [listener], [cluster] = (configuration["static_resources"][key] for key in ("listeners", "clusters"))
    with socket.socket() as probe, socket.socket() as other:
        probe.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        port, admin = probe.getsockname()[1], other.getsockname()[1]
    configuration["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}}
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": port}
    # Else its workers hear of a server's health up to a second after its administration.
    cluster["common_lb_config"] = {"update_merge_window": "0s"}
    [group] = cluster["load_assignment"]["endpoints"]
    [endpoint] = group["lb_endpoints"]
    group["lb_endpoints"] = []
    for target in targets:
        host, _, number = target.rpartition(":")
        each = copy.deepcopy(endpoint)
        each["endpoint"]["address"]["socket_address"] = {"address": host, "port_value": int(number)}
        group["lb_endpoints"].append(each)
    path = folder / "envoy.yaml"
    path.write_text(yaml.safe_dump(configuration))
    log = folder / "envoy.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [tool("envoy"), "-c", str(path), "--use-dynamic-base-id", "--concurrency", "1"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            # A server whose first health check comes late would take studies over later.
            if healthy(admin) == len(targets):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]  # noqa: PT018
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture
def servers(postgres_url: str, tmp_path: Path) -> Iterator[list[ServerProcess]]:
    """Three servers that the test may kill."""
    with three_servers(tmp_path, postgres_url) as started:
        yield started


def live_studies(servers: list[ServerProcess]) -> list[int]:
    """How many studies each has in memory."""
    return [int(server.metric("asktell_live_studies")) for server in servers]


def test_a_study_stays_with_one_server(servers: list[ServerProcess], tmp_path: Path) -> None:
    """All calls about a study reach one server. When that is killed all calls go on, and only its studies move."""
    with envoy(tmp_path, [server.target for server in servers]) as address, asktell.connect(address) as client:
        studies = [
            client.create_study(f"s{i}", {"x": Float(0, 1)}, minimize="loss", algorithm="random")
            for i in range(STUDIES)
        ]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(3):
                list(pool.map(lambda study: study.ask().tell(loss=1.0), studies))
            before = live_studies(servers)
            servers[2].kill()
            for _ in range(3):
                list(pool.map(lambda study: study.ask().tell(loss=1.0), studies))
        after = live_studies(servers[:2])
        finished = [len(list(study.trials())) for study in studies]

    assert sum(before) == STUDIES
    assert all(before)
    assert sum(after) == STUDIES
    assert all(now >= earlier for now, earlier in zip(after, before, strict=False))
    assert finished == [6] * STUDIES


def test_the_configuration_is_valid() -> None:
    """Envoy accepts the configuration as it is shipped."""
    done = subprocess.run(
        [tool("envoy"), "--mode", "validate", "-c", str(CONFIGURATION)], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
