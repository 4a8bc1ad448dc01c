"""A server that knows its callers, with a project that is somebody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..support import ServerProcess, serving

Issue = Callable[..., str]


def asktell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`asktell` run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asktell.cli.entry", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def issue(database: str, role: str, *projects: str, name: str = "somebody", expires_in: str | None = None) -> str:
    """A new token, by the real command."""
    wanted = [part for project in projects for part in ("--project", project)]
    until = ["--expires-in", expires_in] if expires_in else []
    made = asktell("token", "create", name, "--role", role, *wanted, *until, "--db", database)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def bearer(token: str) -> list[tuple[str, str]]:
    """The metadata of a call with a token."""
    return [("authorization", f"Bearer {token}")]


def audit(server: ServerProcess) -> list[dict[str, str]]:
    """What the audit file holds."""
    return [json.loads(line) for line in (server.folder / "audit.jsonl").read_text().splitlines()]


@pytest.fixture(scope="package")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with --auth; no test may harm it."""
    folder: Path = tmp_path_factory.mktemp("guarded")
    with serving(folder, "--auth", "--audit-log", str(folder / "audit.jsonl")) as running:
        yield running


@pytest.fixture(scope="package")
def admin(guarded: ServerProcess) -> str:
    """A token for everything."""
    return issue(guarded.database, "admin", "*", name="root")
