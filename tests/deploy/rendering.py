"""The Kustomize folders as objects, rendered by kubectl or, on machines without it, by reading the three keys that they use.

The reader understands `resources` that are files or other such folders, `labels` that go on an object's own metadata, and
`patches` that delete all objects of a kind, and refuses everything else, so that it never renders something other than what
a cluster would get.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
TLS = DEPLOY / "kubernetes" / "overlays" / "tls"
POSTGRESQL = DEPLOY / "kubernetes" / "overlays" / "postgresql"
POSTGRESQL_TLS = DEPLOY / "kubernetes" / "overlays" / "postgresql-tls"


def render_with_kubectl(folder: Path) -> list[Object]:
    """What `kubectl kustomize` prints for `folder`. Raises CalledProcessError if it refuses."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return _documents(done.stdout)


def render_by_hand(folder: Path) -> list[Object]:
    """The same without kubectl. Raises ValueError for a kustomization that uses more than the base does."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = kustomization.keys() - {"apiVersion", "kind", "resources", "labels", "patches"}
    if unknown:
        raise ValueError(f"not understood without kubectl: {sorted(unknown)}")
    if any(entry.keys() != {"pairs"} for entry in kustomization["labels"]):
        raise ValueError("not understood without kubectl: labels that go further than an object's own metadata")

    patches = kustomization.get("patches", [])
    if any(
        patch.keys() != {"target", "patch"}
        or patch["target"].keys() != {"kind"}
        or yaml.safe_load(patch["patch"]).get("$patch") != "delete"
        for patch in patches
    ):
        raise ValueError("not understood without kubectl: patches that do more than delete a kind of object")

    objects: list[Object] = []
    for name in kustomization["resources"]:
        path = folder / name
        objects += render_by_hand(path) if path.is_dir() else _documents(path.read_text())
    objects = [one for one in objects if one["kind"] not in {patch["target"]["kind"] for patch in patches}]
    for one in objects:
        for entry in kustomization["labels"]:
            one["metadata"].setdefault("labels", {}).update(entry["pairs"])
    return objects


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Objects by kind and name."""
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def _documents(text: str) -> list[Object]:
    return list(yaml.safe_load_all(text))
