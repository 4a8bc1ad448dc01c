"""The Kustomize base: valid for the API of each release, and true to itself and to the server."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml

from asktell_server.app import LIVENESS, READINESS
from asktell_server.rpc.tls import reaches_beyond_loopback

from .pod_security import violations
from .rendering import BASE, DEPLOY, REPOSITORY, TLS, Object, by_name, render_by_hand, render_with_kubectl

OLDEST, NEWEST = 29, 37  # minor releases of Kubernetes; the newest whose schemas the library holds
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


@pytest.fixture
def objects() -> dict[tuple[str, str], Object]:
    """The rendered base by kind and name."""
    return by_name(render_by_hand(BASE))


@pytest.fixture
def stateful_set(objects: dict[tuple[str, str], Object]) -> Object:
    """The spec of the one StatefulSet."""
    spec: Object = objects["StatefulSet", "asktell"]["spec"]
    return spec


@pytest.fixture
def pod(stateful_set: Object) -> Object:
    """The spec of the pod that it makes."""
    spec: Object = stateful_set["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Object) -> Object:
    """The pod's one container."""
    [only] = pod["containers"]
    assert isinstance(only, dict)
    return only


def _environment(container: Object) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in container["env"]}


def _ports(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_the_base_holds_what_a_server_needs(objects: dict[tuple[str, str], Object]) -> None:
    """The base is one StatefulSet, a ClusterIP and a headless Service, and a PodMonitor."""
    assert set(objects) == {
        ("Service", "asktell"),
        ("Service", "asktell-headless"),
        ("StatefulSet", "asktell"),
        ("PodMonitor", "asktell"),
    }


@needs_kubectl
def test_both_ways_of_rendering_agree(objects: dict[tuple[str, str], Object]) -> None:
    """What the other tests read without kubectl is what kubectl renders."""
    assert objects == by_name(render_with_kubectl(BASE))


def test_rendering_by_hand_refuses_what_it_does_not_understand(tmp_path: Path) -> None:
    """A kustomization with a patch needs kubectl and is not rendered half."""
    (tmp_path / "kustomization.yaml").write_text(
        "resources: []\nlabels: []\npatches: [{target: {kind: Service}, patch: '{}'}]\n"
    )

    with pytest.raises(ValueError, match="patches"):
        render_by_hand(tmp_path)


@pytest.mark.parametrize("minor", range(OLDEST, NEWEST + 1))
def test_objects_are_valid_in_each_release(objects: dict[tuple[str, str], Object], minor: int) -> None:
    """Each built-in object satisfies the strict schema (no unknown field) of the release."""
    built_in = [one for (kind, _), one in objects.items() if kind != "PodMonitor"]

    assert [kubernetes_validate.validate(one, f"1.{minor}.0", strict=True) for one in built_in] == [f"1.{minor}"] * 3


def test_a_misspelt_field_is_found(objects: dict[tuple[str, str], Object]) -> None:
    """The schemas that the other test relies on do refuse a field that does not exist."""
    wrong = objects["StatefulSet", "asktell"]
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 45

    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, f"1.{NEWEST}.0", strict=True)


def test_the_pod_monitor_has_the_shape_of_its_resource(objects: dict[tuple[str, str], Object]) -> None:
    """The PodMonitor, whose schema no library here has, uses only fields known to exist, each of its type.

    The fields are those of monitoring.coreos.com/v1 as the Prometheus operator 0.93 defines them.
    """
    monitor = objects["PodMonitor", "asktell"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]

    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert monitor["spec"].keys() == {"selector", "podMetricsEndpoints"}
    assert monitor["spec"]["selector"].keys() == {"matchLabels"}
    assert endpoint.keys() == {"port", "path", "interval"}
    assert re.fullmatch(r"\d+(ms|s|m|h)", endpoint["interval"])


def test_the_pod_monitor_scrapes_the_metrics_port(objects: dict[tuple[str, str], Object], container: Object) -> None:
    """Prometheus reads /metrics at a port that the container has, which is the server's HTTP port."""
    [endpoint] = objects["PodMonitor", "asktell"]["spec"]["podMetricsEndpoints"]

    assert endpoint["path"] == "/metrics"
    assert _environment(container)["ASKTELL_HTTP_LISTEN"].endswith(f":{_ports(container)[endpoint['port']]}")


def test_every_selector_finds_the_pod(objects: dict[tuple[str, str], Object], stateful_set: Object) -> None:
    """Services, StatefulSet and PodMonitor select by labels that the pod template carries."""
    labels = stateful_set["template"]["metadata"]["labels"].items()
    selectors = [one["spec"]["selector"] for one in objects.values()]

    assert len(selectors) == 4
    assert all(selector.get("matchLabels", selector).items() <= labels for selector in selectors)
    assert all(selector.get("matchLabels", selector) for selector in selectors)


def test_services_lead_to_ports_of_the_container(objects: dict[tuple[str, str], Object], container: Object) -> None:
    """Every targetPort names a port of the container, under the same number."""
    ports = [port for (kind, _), one in objects.items() if kind == "Service" for port in one["spec"]["ports"]]

    assert {port["targetPort"]: port["port"] for port in ports} == _ports(container)
    assert all(port["appProtocol"] == "kubernetes.io/h2c" for port in ports if port["name"] == "grpc")


def test_the_container_ports_are_where_the_server_listens(container: Object) -> None:
    """The ports named grpc and http are those of the listen addresses, on all interfaces."""
    environment = _environment(container)

    assert environment["ASKTELL_LISTEN"] == f"0.0.0.0:{_ports(container)['grpc']}"
    assert environment["ASKTELL_HTTP_LISTEN"] == f"0.0.0.0:{_ports(container)['http']}"


def test_the_stateful_set_is_governed_by_the_headless_service(
    objects: dict[tuple[str, str], Object], stateful_set: Object
) -> None:
    """The governing Service has no address of its own and lists the pod only while it is ready."""
    service = objects["Service", stateful_set["serviceName"]]["spec"]

    assert service["clusterIP"] == "None"
    assert service["publishNotReadyAddresses"] is False


def test_probes_ask_the_health_service_on_the_grpc_port(container: Object) -> None:
    """All three probes are native gRPC probes of the names under which the server reports."""
    probes = {name: container[name]["grpc"] for name in PROBES}

    assert {probe["port"] for probe in probes.values()} == {_ports(container)["grpc"]}
    assert {name: probe["service"] for name, probe in probes.items()} == {
        "startupProbe": LIVENESS,
        "livenessProbe": LIVENESS,
        "readinessProbe": READINESS,
    }


def test_one_replica_owns_one_volume(stateful_set: Object) -> None:
    """SQLite has one writer: one replica, on a volume that only one node may mount."""
    [claim] = stateful_set["volumeClaimTemplates"]

    assert stateful_set["replicas"] == 1
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_the_database_lies_on_the_volume(stateful_set: Object, container: Object) -> None:
    """The directory of ASKTELL_DATABASE is where the claimed volume is mounted, writable."""
    [claim] = stateful_set["volumeClaimTemplates"]
    [mount] = [mount for mount in container["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]

    assert PurePosixPath(mount["mountPath"]) == PurePosixPath(_environment(container)["ASKTELL_DATABASE"]).parent
    assert not mount.get("readOnly", False)


def test_every_mount_has_a_volume(stateful_set: Object, pod: Object, container: Object) -> None:
    """Volumes and claims are exactly what the container mounts, and /tmp is among them."""
    volumes = {volume["name"] for volume in pod["volumes"]}
    claims = {claim["metadata"]["name"] for claim in stateful_set["volumeClaimTemplates"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}

    assert mounts.keys() == volumes | claims
    assert "/tmp" in mounts.values()


def test_the_server_may_finish_its_drain(pod: Object, container: Object) -> None:
    """Kubernetes waits longer than the server takes to drain, with time left to close the database."""
    environment = _environment(container)
    drain_s = float(environment.get("ASKTELL_DRAIN_DELAY_S", "0")) + float(environment["ASKTELL_DRAIN_GRACE_S"])

    assert pod["terminationGracePeriodSeconds"] >= drain_s + 10


def test_kubernetes_adds_no_setting_of_its_own(pod: Object) -> None:
    """Without service links no variable such as ASKTELL_PORT appears, made from the name of the Service."""
    assert pod["enableServiceLinks"] is False


def test_the_pod_gets_no_credentials(pod: Object) -> None:
    """The server never talks to Kubernetes, so its pod holds no token."""
    assert pod["automountServiceAccountToken"] is False


def test_the_pod_is_restricted(pod: Object) -> None:
    """The pod satisfies the restricted Pod Security Standard."""
    assert violations(pod) == []


def test_the_pod_is_stricter_than_restricted(pod: Object, container: Object) -> None:
    """Beyond the standard: a fixed user that owns the volume, and a read-only root file system."""
    security = pod["securityContext"]

    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == 65532
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("hostNetwork", True),
        ("hostPID", True),
        ("hostIPC", True),
        ("volumes", [{"name": "root", "hostPath": {"path": "/"}}]),
        ("securityContext", {"runAsNonRoot": True}),
        ("securityContext.runAsNonRoot", False),
        ("securityContext.runAsUser", 0),
        ("securityContext.seccompProfile.type", "Unconfined"),
        ("securityContext.sysctls", [{"name": "kernel.shm_rmid_forced", "value": "1"}]),
        ("containers.0.securityContext", {}),
        ("containers.0.securityContext.runAsUser", 0),
        ("containers.0.securityContext.runAsNonRoot", False),
        ("containers.0.securityContext.allowPrivilegeEscalation", True),
        ("containers.0.securityContext.privileged", True),
        ("containers.0.securityContext.capabilities.drop", ["KILL"]),
        ("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"]),
        ("containers.0.securityContext.procMount", "Unmasked"),
        ("containers.0.ports.0.hostPort", 50051),
        ("containers.0.livenessProbe", {"tcpSocket": {"port": 50051, "host": "10.0.0.1"}}),
    ],
)
def test_each_rule_of_the_standard_is_checked(pod: Object, path: str, value: Any) -> None:
    """The pod with one field changed for the worse is found to break the standard."""
    worse = copy.deepcopy(pod)
    *parents, last = path.split(".")
    at: Any = worse
    for key in parents:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[last] = value

    assert violations(worse)


def test_resources_are_bounded(container: Object) -> None:
    """The scheduler knows what the server needs, and its memory has a limit."""
    resources = container["resources"]

    assert {"cpu", "memory"} <= resources["requests"].keys()
    assert "memory" in resources["limits"]


def test_the_image_is_of_this_release(container: Object) -> None:
    """The image has a tag, which is the version of this distribution."""
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]

    assert container["image"] == f"asktell-server:{version}"


def test_the_server_knows_every_variable(container: Object) -> None:
    """Each variable that the manifest sets is one that the server's own help documents."""
    done = subprocess.run(
        [sys.executable, "-m", "asktell_server", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    known = set(re.findall(r"ASKTELL_[A-Z_]+", done.stdout))

    assert set(_environment(container)) <= known


def test_the_base_says_that_it_has_no_tls(container: Object) -> None:
    """Listening beyond loopback without TLS and tokens is refused unless it is said aloud, which the base does."""
    environment = _environment(container)

    assert reaches_beyond_loopback(environment["ASKTELL_LISTEN"])
    assert environment["ASKTELL_INSECURE"] == "true"


@needs_kubectl
def test_the_tls_overlay_is_the_base_with_tls(objects: dict[tuple[str, str], Object], pod: Object) -> None:
    """It has the same objects; its pod is as restricted, serves a mounted certificate to callers with a token, and is probed where
    there is no TLS.
    """
    rendered = by_name(render_with_kubectl(TLS))
    secured = rendered["StatefulSet", "asktell"]["spec"]["template"]["spec"]
    [plain], [container] = pod["containers"], secured["containers"]
    environment = _environment(container)
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in secured["volumes"]}

    assert rendered.keys() == objects.keys()
    assert violations(secured) == []
    assert "ASKTELL_INSECURE" not in environment
    assert environment.items() - _environment(plain).items() == {
        ("ASKTELL_TLS_CERT", "/etc/asktell/tls/tls.crt"),
        ("ASKTELL_TLS_KEY", "/etc/asktell/tls/tls.key"),
        ("ASKTELL_AUTH", "true"),
    }
    assert mounts["tls"] == {
        "name": "tls",
        "mountPath": "/etc/asktell/tls",
        "readOnly": True,
    }  # a subPath would never rotate
    assert volumes["tls"]["secret"] == {"secretName": "asktell-tls", "defaultMode": 0o440}
    assert mounts.keys() - {"data"} == volumes.keys()
    for name in PROBES:
        path = "/readyz" if name == "readinessProbe" else "/livez"
        expected = {**plain[name], "httpGet": {"path": path, "port": "http"}}
        del expected["grpc"]
        assert container[name] == expected
    ports = [port for (kind, _), one in rendered.items() if kind == "Service" for port in one["spec"]["ports"]]
    assert {port["appProtocol"] for port in ports if port["name"] == "grpc"} == {"https"}
    assert {port["targetPort"]: port["port"] for port in ports} == _ports(container)


@needs_kubectl
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_the_tls_overlay_is_valid(minor: int) -> None:
    """Each of its built-in objects satisfies the strict schema."""
    built_in = [one for one in render_with_kubectl(TLS) if one["kind"] != "PodMonitor"]

    assert [kubernetes_validate.validate(one, f"1.{minor}.0", strict=True) for one in built_in] == [f"1.{minor}"] * 3


@needs_kubectl
def test_the_overlay_in_the_readme_renders(tmp_path: Path) -> None:
    """The overlay that the README shows gives the base in a namespace, with another image and no PodMonitor."""
    [overlay] = re.findall(r"```yaml\n(.*?)```", (DEPLOY / "README.md").read_text(), re.DOTALL)
    shutil.copytree(BASE, tmp_path / "base")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "kustomization.yaml").write_text(overlay)
    rendered = by_name(render_with_kubectl(tmp_path / "mine"))

    assert {kind for kind, _ in rendered} == {"Service", "StatefulSet"}
    assert {one["metadata"]["namespace"] for one in rendered.values()} == {yaml.safe_load(overlay)["namespace"]}
    [image] = [one["image"] for one in rendered["StatefulSet", "asktell"]["spec"]["template"]["spec"]["containers"]]
    assert image == "registry.example.com/asktell-server:0.1.0"
