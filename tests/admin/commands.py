"""`asktell` as an operator runs it, and a database to run it on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from asktell.v1 import study_pb2

from ..rpc.calls import ask_one, enqueue, finished, new_study, report, tell
from ..support import ServerProcess, serving, spec, stub


def asktell(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command run to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asktell.cli.entry", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def fill(server: ServerProcess) -> None:
    """Makes two studies with trials in several states."""
    with stub(server.target) as service:
        study = new_study(service, "kept", spec())
        enqueue(service, study, [finished(i / 5, x0=i / 5, x1=0.5) for i in range(5)])
        for value in (0.9, 0.8):
            trial = ask_one(service, study)
            report(service, trial.name, 1.0, 1)
            tell(service, trial.name, value, request_id=f"told {value}")
        ask_one(service, study, worker="w")
        leased = study_pb2.StudySpec()
        leased.CopyFrom(spec("sobol"))
        leased.trial_policy.lease.seconds = 3600
        ask_one(service, new_study(service, "leased", leased))


def filled(folder: Path) -> Path:
    """A database that was filled and left in order."""
    with serving(folder) as server:
        fill(server)
        assert server.stop() == 0
        return Path(server.database)
