"""A real server for the command line's tests, and a way to run commands against it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from click.testing import CliRunner, Result

from asktell.cli.app import root

_START_S = 60.0


@pytest.fixture(scope="session")
def server_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server on a database in memory."""
    folder = tmp_path_factory.mktemp("server")
    ready, log = folder / "ready.json", folder / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "asktell_server", "--db", ":memory:", "--listen", "127.0.0.1:0"),
                *("--http-listen", "none", "--ready-file", str(ready), "--stop-with-parent"),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    assert server.stdin is not None
    deadline = time.monotonic() + _START_S
    while not ready.exists() and server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        assert ready.exists(), log.read_text()
        yield json.loads(ready.read_text())["grpc"]
    finally:
        server.stdin.close()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


class Run(Protocol):
    """Runs a command and checks its exit status."""

    def __call__(self, *arguments: str | Path, exit_code: int = 0) -> Result:
        """The command's result; `stdout` and `stderr` apart."""
        ...


class RunJson(Protocol):
    """Runs a command with --json."""

    def __call__(self, *arguments: str | Path) -> Any:
        """What it printed, parsed."""
        ...


@pytest.fixture
def environment(server_target: str) -> dict[str, str]:
    """The environment of a command: the server, and a project that no other test uses."""
    return {"ASKTELL_TARGET": server_target, "ASKTELL_PROJECT": f"p{uuid.uuid4().hex}"}


@pytest.fixture
def run(environment: dict[str, str]) -> Run:
    """Runs a command in this process, as when its output goes into a pipe."""

    def invoke(*arguments: str | Path, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(root, [str(a) for a in arguments], env=environment, prog_name="asktell")
        assert result.exit_code == exit_code, (result.output, result.exc_info)
        return result

    return invoke


@pytest.fixture
def run_json(run: Run) -> RunJson:
    """Runs a command with --json and parses what it prints."""
    return lambda *arguments: json.loads(run(*arguments, "--json").stdout)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study with a parameter of each type, a condition and choices of several kinds."""
    path = tmp_path / "digits.yaml"
    path.write_text(
        """\
name: digits
parameters:
  lr: {type: float, min: 1e-5, max: 0.1, log: true}
  layers: {type: int, min: 1, max: 4}
  batch: {type: discrete, values: [32, 64, 128]}
  optimizer: {type: categorical, choices: [adam, sgd]}
  momentum: {type: float, min: 0, max: 0.99, when: {optimizer: sgd}}
  flag: {type: categorical, choices: [true, "1", 2, 2.5, "", 'with "quotes"']}
objectives: {maximize: accuracy}
algorithm: random
seed: 1
"""
    )
    return path
