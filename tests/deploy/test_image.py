"""The Dockerfile as text: its targets, its user, and what Kubernetes relies on. Nothing is built here."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from .dockerfile import Stage, lineage, read
from .rendering import BASE, DEPLOY, REPOSITORY, Object, render_by_hand

ARGUMENTS, STAGES = read(DEPLOY / "Dockerfile")
TARGETS = ("client", "server")


def _setting(name: str, instruction: str) -> str:
    """What holds at the end of stage `name`: the last `instruction` of the stage or of those it builds on."""
    return next(texts[-1] for stage in lineage(STAGES, name) if (texts := stage.all(instruction)))


def _environment(stage: Stage) -> dict[str, str]:
    return dict(pair.split("=", 1) for text in stage.all("ENV") for pair in text.split())


def _copied_from_context() -> list[str]:
    copies = [text.split() for stage in STAGES.values() for text in stage.all("COPY")]
    return [source for words in copies if not words[0].startswith("--from") for source in words[:-1]]


@pytest.fixture
def pod() -> Object:
    """The pod spec of the Kustomize base."""
    [stateful_set] = [one for one in render_by_hand(BASE) if one["kind"] == "StatefulSet"]
    spec: Object = stateful_set["spec"]["template"]["spec"]
    return spec


def test_every_stage_starts_from_the_base_or_an_earlier_stage() -> None:
    """One argument changes the base of everything, and its default has a tag that is not latest."""
    starts = {stage.base for stage in STAGES.values()} - STAGES.keys()
    _, _, tag = ARGUMENTS["BASE"].partition(":")

    assert starts == {"${BASE}"}
    assert tag
    assert tag != "latest"


def test_there_is_a_target_for_the_client_and_the_server() -> None:
    """Both are there, the server last, so that it is what a build without --target makes."""
    assert set(TARGETS) <= STAGES.keys()
    assert list(STAGES)[-1] == "server"


@pytest.mark.parametrize("target", TARGETS)
def test_images_run_as_a_numbered_user_that_is_not_root(target: str, pod: Object) -> None:
    """The user is a number, as runAsNonRoot wants it, and the one that Kubernetes uses."""
    security = pod["securityContext"]

    assert _setting(target, "USER") == f"{security['runAsUser']}:{security['runAsGroup']}"


@pytest.mark.parametrize("target", TARGETS)
def test_images_hold_no_build_stage(target: str) -> None:
    """An image takes one folder from its build stage, the virtual environment, and builds on none."""
    built_on = {stage.name for stage in lineage(STAGES, target)}

    assert built_on == {target, "runtime"}
    assert STAGES[target].all("COPY") == [f"--from={target}-venv /venv /venv"]


@pytest.mark.parametrize(("target", "extra"), [("client", "cli"), ("server", "server")])
def test_images_install_one_extra(target: str, extra: str) -> None:
    """Each image installs the wheel with one extra, which exists; the client's does not ask for torch."""
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    [install] = STAGES[f"{target}-venv"].all("RUN")

    assert re.findall(r'install .*"\$1\[(\w+)\]"', install) == [extra]
    assert any("torch" in requirement for requirement in extras[extra]) == (target == "server")


def test_the_server_image_agrees_with_the_manifest(pod: Object) -> None:
    """What the image sets, the manifest sets alike; what it exposes, the container has as ports."""
    [container] = pod["containers"]
    manifest = {entry["name"]: entry["value"] for entry in container["env"]}
    image = _environment(STAGES["server"])

    assert image
    assert image.items() <= manifest.items()
    assert _setting("server", "EXPOSE").split() == [str(port["containerPort"]) for port in container["ports"]]


@pytest.mark.parametrize("target", TARGETS)
def test_signals_reach_the_process(target: str) -> None:
    """The entry point is a list, with no shell between Kubernetes and the process to swallow SIGTERM."""
    entry_point = json.loads(_setting(target, "ENTRYPOINT"))

    assert entry_point == {"client": ["asktell"], "server": ["python", "-m", "asktell_server"]}[target]


def test_the_build_context_holds_what_is_copied_and_no_more() -> None:
    """.dockerignore leaves everything out but what the Dockerfile copies, and that exists."""
    sources = _copied_from_context()
    rules = (REPOSITORY / ".dockerignore").read_text().splitlines()

    assert sources
    assert all((REPOSITORY / source).exists() for source in sources)
    assert "*" in rules
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(sources)


def test_what_the_wheel_needs_is_copied() -> None:
    """The packages and the readme that pyproject.toml names are in the build stage."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *(package.split("/")[0] for package in wheel["packages"]),
    }

    assert needed == set(_copied_from_context())
