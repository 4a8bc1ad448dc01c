"""The client is light: what importing it pulls in, and that it runs on the oldest grpcio and protobuf it admits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from .fake import FakeServer, Fault

ROOT = Path(__file__).parents[2]
FLOOR = ROOT / ".venv-floor" / "bin" / "python"
IMPORT = """
    import json, sys
    before = set(sys.modules)
    import asktell
    print(json.dumps(sorted(set(sys.modules) - before)))
"""
# What `import grpc` brings by itself: Cython's runtime, and those of its sister packages that are installed.
ADMITTED = {"asktell", "grpc", "grpc_health", "grpc_reflection", "grpc_tools", "typing_extensions", "cython_runtime"}

SCENARIO = """
    import asyncio, json, sys
    import asktell, google.protobuf, grpc
    from asktell import Categorical, Discrete, Float, Int, when

    target = sys.argv[1]
    space = {
        "lr": Float(1e-5, 1e-1, log=True),
        "batch": Discrete([16, 32]),
        "act": Categorical(["relu", "gelu"]),
        "width": Int(1, 9, when=when("act", "relu")),
    }

    def objective(trial):
        if trial.report(1, accuracy=0.5):
            raise asktell.TrialPruned
        return trial.params["lr"]

    with asktell.connect(target, timeout=20) as client:
        study = client.create_study("floor", space, maximize="accuracy", lease=0.3, algorithm="random")
        study.optimize(objective, n_trials=6, n_workers=2, progress=True)
        best = study.best_trial
        rows = study.to_dicts()
        change = next(study.watch())
        try:
            study.ask()
            refused = None
        except asktell.InvalidArgument as error:
            refused = [str(violation) for violation in error.violations]

    async def more():
        async with await asktell.aio.connect(target, timeout=20) as client:
            study = await client.get_study("floor")
            async def objective(trial):
                await trial.report(1, accuracy=0.5)
                return 0.25
            await study.optimize(objective, n_trials=9, n_workers=2)
            return len([trial async for trial in study.trials(["SUCCEEDED"])])

    print(json.dumps({
        "versions": [grpc.__version__, google.protobuf.__version__],
        "rows": len(rows),
        "batch": type(best.params["batch"]).__name__,
        "revision": change.revision == study.revision or change.revision > 0,
        "refused": refused,
        "succeeded": asyncio.run(more()),
    }))
"""


def run(python: str | Path, script: str, *args: str) -> object:
    """What a script prints as JSON, run with warnings as errors."""
    done = subprocess.run(
        [str(python), "-W", "error", "-c", textwrap.dedent(script), *args],
        env={**os.environ, "PYTHONPATH": str(ROOT / "client")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("python", [sys.executable, FLOOR], ids=["newest", "floor"])
def test_the_import_pulls_in_nothing_heavy(python: str | Path) -> None:
    """Nothing but grpcio, protobuf and the standard library, also where the rest is installed."""
    imported = run(python, IMPORT)

    assert isinstance(imported, list)
    roots = {name.split(".")[0] for name in imported if not name.startswith(("google", "_cython"))}
    assert roots - set(sys.stdlib_module_names) <= ADMITTED
    assert {".".join(name.split(".")[:2]) for name in imported if name.startswith("google.")} <= {
        "google.protobuf",
        "google._upb",
    }


@pytest.mark.parametrize("python", [sys.executable, FLOOR], ids=["newest", "floor"])
def test_a_scenario_on_the_oldest_and_the_newest_grpc(server: FakeServer, python: str | Path) -> None:
    """Create, optimize in threads and tasks, report, heartbeat, watch, list and an error with details."""
    server.service.faults["Ask"] += [
        *[Fault(fails=False)] * 3,
        Fault(after=True),
        *[Fault(fails=False)] * 3,
        Fault(code="INVALID_ARGUMENT", reason="INVALID_ARGUMENT", violations=[("count", "too large")]),
    ]

    said = run(python, SCENARIO, server.target)

    assert isinstance(said, dict)
    if python == FLOOR:
        assert said["versions"] == ["1.71.0", "5.29.3"]
    assert (said["rows"], said["batch"], said["revision"]) == (6, "int", True)
    assert said["refused"] == ["count: too large"]
    assert said["succeeded"] == 9
