"""What runs in a compute process: a loop that keeps optimizers warm and answers one job at a time.

The parent decides what a worker remembers: it sends each study's spec and observations once, then only what is new, and names
the studies to forget. The worker has no state of its own that the parent could not send again.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.optimizers.base import Observation, Optimizer, Proposal
from asktell_server.optimizers.registry import create_optimizer


@dataclass(frozen=True)
class Job:
    """One suggestion to compute. `spec` is sent when the worker does not have the study (or is to begin anew)."""

    study_id: int
    spec: StudySpec | None
    new_observations: Sequence[Observation]
    pending: Sequence[Point]
    number: int
    forget: Sequence[int] = ()


@dataclass(frozen=True)
class WarmUp:
    """Load what the study's first suggestion will need."""

    study_id: int
    spec: StudySpec


@dataclass(frozen=True)
class Answer:
    """A proposal, or why there is none."""

    proposal: Proposal | None = None
    exhausted: bool = False
    error: str = ""


def run(connection: Connection) -> None:
    """Answers jobs until the other end is closed."""
    # Ctrl-C and a supervisor's SIGTERM reach the whole group; the parent decides when this process stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    optimizers: dict[int, Optimizer] = {}
    while True:
        try:
            connection.send(_answer(optimizers, connection.recv()))
        except (EOFError, OSError):  # closed, or the parent died while this process was busy
            return


def _answer(optimizers: dict[int, Optimizer], job: Job | WarmUp) -> Answer:
    try:
        if isinstance(job, WarmUp):
            create_optimizer(job.spec).warm_up()
            return Answer()
        for study_id in job.forget:
            optimizers.pop(study_id, None)
        if job.spec is not None:
            optimizers[job.study_id] = create_optimizer(job.spec)
        optimizer = optimizers[job.study_id]
        optimizer.tell(job.new_observations)
        started = time.perf_counter()
        proposal = optimizer.ask(job.number, job.pending)
        if not proposal.phases_s:
            proposal.phases_s["acquisition"] = time.perf_counter() - started
        return Answer(proposal)
    except SearchSpaceExhausted:
        return Answer(exhausted=True)
    except Exception:  # whatever an optimizer raises must reach the parent, not end the process
        return Answer(error=traceback.format_exc())
