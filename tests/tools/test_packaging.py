"""What is shipped: the wheel, the generated code, and the promise about old releases of gRPC."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ..support import ROOT, ServerProcess

FLOOR = ROOT / ".venv-floor" / "bin" / "python"

# What a training job does, for an environment that has nothing but gRPC and protobuf.
ONE_STUDY = """
import sys
from importlib.metadata import version
import asktell
client = asktell.connect(sys.argv[1])
study = client.create_study("on-the-floor", {"x": asktell.Float(0.0, 1.0)}, minimize="loss", seed=1)
for _ in range(3):
    trial = study.ask()
    trial.report(1, loss=trial.params["x"])
    trial.tell(loss=trial.params["x"])
best = min(trial.measurement.metrics["loss"] for trial in study.trials())
assert study.best_trial.measurement.metrics["loss"] == best
print(asktell.__file__, version("grpcio"), version("protobuf"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with what is in the virtual environment."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    [made] = folder.glob("*.whl")
    return made


def test_a_wheel_adds_two_import_names(wheel: Path) -> None:
    """Whoever installs the package gets `asktell` and `asktell_server` and no other name."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name.split("/")[0] for name in archive.namelist()}

    assert {name for name in names if not name.endswith(".dist-info")} == {"asktell", "asktell_server"}


def test_a_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    """Migrations, type markers and all other files of both packages are in the wheel."""
    wanted = {
        path.relative_to(package.parent).as_posix()
        for package in (ROOT / "client" / "asktell", ROOT / "server" / "asktell_server")
        for path in package.rglob("*")
        if path.is_file()
        if not any(part == "__pycache__" or part.startswith(".") for part in path.relative_to(package).parts)
    }

    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    assert held == wanted
    assert {"asktell/py.typed", "asktell_server/py.typed"} <= held
    assert any(name.startswith("asktell_server/storage/migrations/versions/r0001") for name in held)


def test_the_plain_wheel_needs_only_grpc_and_protobuf(wheel: Path) -> None:
    """`pip install asktell` without extras stays light."""
    with zipfile.ZipFile(wheel) as archive:
        [metadata] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        lines = archive.read(metadata).decode().splitlines()

    needed = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    assert [need.split("<")[0].split(">")[0] for need in needed if "extra ==" not in need] == ["grpcio", "protobuf"]


def test_the_client_runs_on_the_oldest_releases_it_allows(wheel: Path, server: ServerProcess, tmp_path: Path) -> None:
    """A whole study through the client on exactly the lowest grpcio and protobuf of pyproject.toml, without any extra."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONWARNINGS": "error"}

    ran = subprocess.run(
        [FLOOR, "-c", ONE_STUDY, server.target],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
        cwd=tmp_path,
    )

    assert ran.returncode == 0, ran.stderr
    file, grpcio, protobuf = ran.stdout.split()
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert Path(file).is_relative_to(tmp_path)
    assert f'"grpcio>={grpcio.removesuffix(".0")},' in pyproject
    assert f'"protobuf>={protobuf},' in pyproject


def test_the_generated_code_is_current() -> None:
    """client/asktell/v1 is what the generator makes of proto/ today."""
    checked = subprocess.run([ROOT / "scripts" / "proto", "--check"], capture_output=True, text=True, timeout=120)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_npm_lock_file_names_no_registry() -> None:
    """The lock file pins each package by version and hash, and leaves it to the machine where packages come from."""
    lock = json.loads((ROOT / "tests" / "tools" / "package-lock.json").read_text())

    entries = {name: entry for name, entry in lock["packages"].items() if name}
    assert all("integrity" in entry and "resolved" not in entry for entry in entries.values())
    assert {"node_modules/@bufbuild/buf", "node_modules/@grpc/grpc-js"} <= set(entries)
