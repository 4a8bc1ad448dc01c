"""The variant for PostgreSQL: valid, as safe as the base, and fit for several servers on one database."""

from __future__ import annotations

import re
import subprocess
import sys

import kubernetes_validate
import pytest

from .pod_security import violations
from .rendering import (
    BASE,
    DEPLOY,
    POSTGRESQL,
    POSTGRESQL_TLS,
    TLS,
    Object,
    by_name,
    render_by_hand,
    render_with_kubectl,
)
from .test_kubernetes import NEWEST, OLDEST, PROBES, needs_kubectl

Objects = dict[tuple[str, str], Object]


@pytest.fixture
def objects() -> Objects:
    """The rendered variant."""
    return by_name(render_by_hand(POSTGRESQL))


@pytest.fixture
def pod(objects: Objects) -> Object:
    """The spec of the Deployment's pod."""
    spec: Object = objects["Deployment", "asktell"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Object) -> Object:
    """The pod's one container."""
    [only] = pod["containers"]
    assert isinstance(only, dict)
    return only


def test_it_holds_a_deployment_in_place_of_the_stateful_set(objects: Objects) -> None:
    """The rest of the base stays, and no more than one pod may be taken away at a time."""
    assert set(objects) == {
        ("Service", "asktell"),
        ("Service", "asktell-headless"),
        ("Deployment", "asktell"),
        ("PodDisruptionBudget", "asktell"),
        ("PodMonitor", "asktell"),
    }
    assert objects["PodDisruptionBudget", "asktell"]["spec"]["maxUnavailable"] == 1
    assert objects["Deployment", "asktell"]["spec"]["replicas"] >= 2


@needs_kubectl
def test_both_ways_of_rendering_agree(objects: Objects) -> None:
    """What the other tests read without kubectl is what kubectl renders."""
    assert objects == by_name(render_with_kubectl(POSTGRESQL))


@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_objects_are_valid(objects: Objects, minor: int) -> None:
    """Each built-in object satisfies the strict schema of the oldest and the newest release."""
    built_in = [one for (kind, _), one in objects.items() if kind != "PodMonitor"]

    assert [kubernetes_validate.validate(one, f"1.{minor}.0", strict=True) for one in built_in] == [f"1.{minor}"] * 4


def test_every_selector_finds_the_pods(objects: Objects) -> None:
    """Services, Deployment, budget and monitor select by labels that the pod template carries."""
    spec = objects["Deployment", "asktell"]["spec"]
    labels = spec["template"]["metadata"]["labels"].items()
    selectors = [one["spec"]["selector"] for one in objects.values()]
    [spread] = spec["template"]["spec"]["topologySpreadConstraints"]

    assert all(selector.get("matchLabels", selector).items() <= labels for selector in selectors)
    assert spread["labelSelector"]["matchLabels"].items() <= labels


def test_the_database_comes_from_a_secret(container: Object) -> None:
    """The URL with its password stands in no manifest, and the README says how the Secret is made."""
    [entry] = [entry for entry in container["env"] if entry["name"] == "ASKTELL_DATABASE"]
    reference = entry["valueFrom"]["secretKeyRef"]

    assert "value" not in entry
    assert (
        f"create secret generic {reference['name']} --from-literal={reference['key']}="
        in (DEPLOY / "README.md").read_text()
    )


def test_the_pod_differs_from_the_base_only_where_it_must(pod: Object, container: Object) -> None:
    """Image, ports, probes, resources and security are those of the base; there is no volume but for /tmp."""
    base = by_name(render_by_hand(BASE))["StatefulSet", "asktell"]["spec"]["template"]["spec"]
    [original] = base["containers"]
    same = original.keys() - {"env", "volumeMounts"}

    assert {key: container[key] for key in same} == {key: original[key] for key in same}
    assert violations(pod) == []
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]
    assert [volume.keys() for volume in pod["volumes"]] == [{"name", "emptyDir"}]


def test_the_server_may_finish_its_drain(pod: Object, container: Object) -> None:
    """Kubernetes waits longer than the server takes to drain."""
    environment = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    drain_s = float(environment["ASKTELL_DRAIN_DELAY_S"]) + float(environment["ASKTELL_DRAIN_GRACE_S"])

    assert pod["terminationGracePeriodSeconds"] >= drain_s + 10


def test_the_server_knows_every_variable(container: Object) -> None:
    """Each variable that the manifest sets is one that the server's own help documents."""
    done = subprocess.run(
        [sys.executable, "-m", "asktell_server", "--help"], capture_output=True, text=True, timeout=60, check=True
    )

    assert {entry["name"] for entry in container["env"]} <= set(re.findall(r"ASKTELL_[A-Z_]+", done.stdout))


@needs_kubectl
def test_tls_is_the_same_on_either_database(objects: Objects, pod: Object) -> None:
    """With TLS and tokens there are the same objects; Services, probes, settings, and the mounted Secret that the pod's group may read
    are those of the TLS variant on SQLite, and everything else is as it was.
    """
    secured = by_name(render_with_kubectl(POSTGRESQL_TLS))
    sqlite = by_name(render_with_kubectl(TLS))
    after = secured["Deployment", "asktell"]["spec"]["template"]["spec"]
    peer = sqlite["StatefulSet", "asktell"]["spec"]["template"]["spec"]
    [container], [like], [plain] = after["containers"], peer["containers"], pod["containers"]

    def settings(one: Object) -> dict[str, Object]:
        return {entry["name"]: entry for entry in one["env"]}

    assert secured.keys() == objects.keys()
    assert violations(after) == []
    for service in ("asktell", "asktell-headless"):
        assert secured["Service", service] == sqlite["Service", service]
    assert {name: container[name] for name in PROBES} == {name: like[name] for name in PROBES}
    secret = {"ASKTELL_TLS_CERT", "ASKTELL_TLS_KEY", "ASKTELL_AUTH"}
    assert {name: settings(container)[name] for name in secret} == {name: settings(like)[name] for name in secret}
    assert {n: e for n, e in settings(plain).items() if n != "ASKTELL_INSECURE"} == {
        n: e for n, e in settings(container).items() if n not in secret
    }
    assert [v for v in after["volumes"] if v["name"] == "tls"] == [v for v in peer["volumes"] if v["name"] == "tls"]
    assert after["securityContext"] == {**pod["securityContext"], "fsGroup": after["securityContext"]["runAsGroup"]}


@needs_kubectl
@pytest.mark.parametrize("minor", [OLDEST, NEWEST])
def test_with_tls_it_is_valid(minor: int) -> None:
    """Each built-in object of the variant with TLS satisfies the strict schema."""
    built_in = [one for one in render_with_kubectl(POSTGRESQL_TLS) if one["kind"] != "PodMonitor"]

    assert [kubernetes_validate.validate(one, f"1.{minor}.0", strict=True) for one in built_in] == [f"1.{minor}"] * 4
