"""The "restricted" Pod Security Standard, rule by rule, as Kubernetes documents it (baseline included).

https://kubernetes.io/docs/concepts/security/pod-security-standards/ has the rules, here those for Linux. Fields that
the standard allows only with certain values but that this project has no use for (SELinux and AppArmor options, sysctls,
procMount, Windows options) are simply not allowed here, which is stricter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VOLUME_TYPES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
_UNUSED_OPTIONS = ("seLinuxOptions", "appArmorProfile", "sysctls", "procMount", "windowsOptions")
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def violations(pod: dict[str, Any]) -> list[str]:
    """Every field by which the pod spec breaks the standard, as its path in the pod or in a container; empty: it may run."""
    return [*_of_pod(pod), *(broken for container in _containers(pod) for broken in _of_container(pod, container))]


def _containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"], *pod.get("ephemeralContainers", [])]


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field, False):
            yield field
    for volume in pod.get("volumes", []):
        if not volume.keys() - {"name"} <= _VOLUME_TYPES:
            yield f"volumes.{volume['name']}"
    security = pod.get("securityContext", {})
    if security.get("runAsNonRoot") is False:
        yield "securityContext.runAsNonRoot"
    if security.get("runAsUser") == 0:
        yield "securityContext.runAsUser"
    if security.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "securityContext.seccompProfile"
    for option in _UNUSED_OPTIONS:
        if option in security:
            yield f"securityContext.{option}"


def _of_container(pod: dict[str, Any], container: dict[str, Any]) -> Iterator[str]:
    security = container.get("securityContext", {})
    of_both = {**pod.get("securityContext", {}), **security}  # what a container says wins over its pod

    if of_both.get("runAsNonRoot") is not True:
        yield "securityContext.runAsNonRoot"
    if of_both.get("runAsUser") == 0:
        yield "securityContext.runAsUser"
    if of_both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "securityContext.seccompProfile"
    if security.get("allowPrivilegeEscalation") is not False:
        yield "securityContext.allowPrivilegeEscalation"
    if security.get("privileged", False):
        yield "securityContext.privileged"
    capabilities = security.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "securityContext.capabilities.drop"
    if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield "securityContext.capabilities.add"
    for option in _UNUSED_OPTIONS:
        if option in security:
            yield f"securityContext.{option}"
    if any(port.get("hostPort", 0) for port in container.get("ports", [])):
        yield "ports.hostPort"
    for handler in _handlers(container):
        if any("host" in action for action in handler.values() if isinstance(action, dict)):
            yield "probes.host"


def _handlers(container: dict[str, Any]) -> list[dict[str, Any]]:
    return [*(container.get(probe, {}) for probe in _PROBES), *container.get("lifecycle", {}).values()]
