"""The Python client and the command line as callers of a server that knows its callers."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

import asktell as client_library
from asktell import Float
from asktell.cli.app import root

from ..support import ServerProcess
from .conftest import asktell, issue


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


async def test_a_watch_goes_on_with_the_token_that_took_the_place_of_its_own(
    guarded: ServerProcess, tmp_path: Path
) -> None:
    """As projected tokens are replaced every hour; without a new one the watch ends in what is wrong."""
    first, second = (issue(guarded.database, "owner", "watchers", name=name) for name in ("first", "second"))
    file = tmp_path / "token"
    file.write_text(first)
    options = {"project": "watchers", "token_file": file, "timeout": 60}
    with client_library.connect(guarded.target, **options) as client:
        async with await client_library.aio.connect(guarded.target, **options) as aclient:
            study = client.create_study("watched", {"x": Float(0, 1)}, maximize="accuracy", algorithm="random")
            changes = study.watch()
            achanges = (await aclient.get_study("watched")).watch()
            seen = [next(changes), await anext(achanges)]

            for old, new in ((first, second), (second, None)):
                file.write_text(new or old)
                asktell("token", "revoke", old.split("_")[1], "--db", guarded.database)
                await asyncio.sleep(5.1)  # a stream is looked at again no more often than this, and so is a token
                trial = client_library.connect(
                    guarded.target, project="watchers", token=new or third(guarded), timeout=60
                )
                with trial:
                    trial.get_study("watched").ask()
                if new is not None:
                    seen += [next(changes), await anext(achanges)]
                else:
                    with pytest.raises(client_library.Unauthenticated):
                        next(changes)
                    with pytest.raises(client_library.Unauthenticated):
                        await anext(achanges)

    assert [len(change.trials) for change in seen] == [0, 0, 1, 1]


def third(guarded: ServerProcess) -> str:
    """A token that no watch knows."""
    return issue(guarded.database, "worker", "watchers", name="third")


def test_the_command_line_gets_as_far_as_its_token(guarded: ServerProcess, admin: str) -> None:
    """From the environment, as in a shell; without one it is told in words."""
    arguments = ["--target", guarded.target, "study", "list"]
    admitted = CliRunner().invoke(root, arguments, env={"ASKTELL_TOKEN": admin}, prog_name="asktell")
    refused = CliRunner().invoke(root, arguments, prog_name="asktell")

    assert admitted.exit_code == 0, admitted.stderr
    assert refused.exit_code == 1
    assert "token" in refused.stderr
    assert "Traceback" not in refused.output
