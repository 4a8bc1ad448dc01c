"""The Python client and the command line as callers of a server that knows its callers."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import asktell as client_library
from asktell import Float
from asktell.cli.app import root

from ..support import ServerProcess
from .conftest import issue


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's decides a test."""
    for name in ("TLS", "TLS_CA", "TOKEN", "TOKEN_FILE"):
        monkeypatch.delenv(f"ASKTELL_{name}", raising=False)


def test_a_client_gets_as_far_as_its_token(guarded: ServerProcess, tmp_path: Path) -> None:
    """It works in its project and is refused by name elsewhere, without a token, and with one that was replaced by junk."""
    owner = issue(guarded.database, "owner", "vision", name="owner")
    file = tmp_path / "token"
    file.write_text(owner)

    with client_library.connect(guarded.target, project="vision", token_file=file, timeout=60) as client:
        study = client.create_study("by-client", {"x": Float(0, 1)}, maximize="accuracy", algorithm="random")
        study.optimize(lambda trial: float(trial.params["x"]), n_trials=2)
        assert next(study.watch()).study.name == study.name
        with pytest.raises(client_library.PermissionDenied) as denied:
            client.get_study("speech/by-client")
        file.write_text("ask_nobody_knows")
        with pytest.raises(client_library.Unauthenticated):
            study.ask()
        file.write_text(owner)
        study.ask().tell(accuracy=1.0)
    with client_library.connect(guarded.target, project="vision", timeout=60) as nobody:
        with pytest.raises(client_library.Unauthenticated) as unknown:
            nobody.get_study("by-client")

    assert (denied.value.reason, unknown.value.reason) == ("PERMISSION_DENIED", "UNAUTHENTICATED")
    assert owner not in str(denied.value)


def test_the_command_line_gets_as_far_as_its_token(guarded: ServerProcess, admin: str) -> None:
    """From the environment, as in a shell; without one it is told in words."""
    arguments = ["--target", guarded.target, "study", "list"]
    admitted = CliRunner().invoke(root, arguments, env={"ASKTELL_TOKEN": admin}, prog_name="asktell")
    refused = CliRunner().invoke(root, arguments, prog_name="asktell")

    assert admitted.exit_code == 0, admitted.stderr
    assert refused.exit_code == 1
    assert "token" in refused.stderr
    assert "Traceback" not in refused.output
