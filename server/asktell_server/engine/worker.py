"""What runs in a compute process: a loop that keeps optimizers warm and answers one job at a time.

The parent decides what a worker remembers: it sends each study's spec, sources and observations once, then only what is
new, and names the studies to forget. The worker has no state of its own that the parent could not send again.
"""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

from asktell_server.domain.errors import NoModel, SearchSpaceExhausted
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.domain.space import Point
from asktell_server.domain.study import StudySpec
from asktell_server.optimizers.base import Observation, Optimizer, Proposal, SourceStudy
from asktell_server.optimizers.gp.device import DeviceNews, FitDevice
from asktell_server.optimizers.registry import create_optimizer


@dataclass(frozen=True)
class Job:
    """One suggestion to compute. `spec` and `sources` are sent when the worker does not have the study (or is to begin anew)."""

    study_id: int
    spec: StudySpec | None
    new_observations: Sequence[Observation]
    pending: Sequence[Point]
    number: int
    forget: Sequence[int] = ()
    sources: Sequence[SourceStudy] = ()


@dataclass(frozen=True)
class WarmUp:
    """Load what the study's first suggestion will need."""

    study_id: int
    spec: StudySpec


@dataclass(frozen=True)
class Explain:
    """An explanation to compute. `aside`: `new_observations` is all of a history that the worker is beyond by now; what it has
    of the study stays as it is.
    """

    study_id: int
    spec: StudySpec | None
    new_observations: Sequence[Observation]
    request: ExplainRequest
    forget: Sequence[int] = ()
    sources: Sequence[SourceStudy] = ()
    aside: bool = False


@dataclass(frozen=True)
class Answer:
    """A proposal or an explanation, or why there is none; `no_model` is the text of a NoModel. `news`: of the process's device."""

    proposal: Proposal | None = None
    explanation: Explanation | None = None
    exhausted: bool = False
    no_model: str = ""
    error: str = ""
    news: tuple[DeviceNews, ...] = ()


def run(connection: Connection, fit_device: str) -> None:
    """Answers jobs until the other end is closed. `fit_device`: see FitDevice; nothing of it is touched before a fit needs it."""
    # Ctrl-C and a supervisor's SIGTERM reach the whole group; the parent decides when this process stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    optimizers: dict[int, Optimizer] = {}
    device = FitDevice(fit_device)
    while True:
        try:
            job = connection.recv()
            answer = _answer(optimizers, job, device)
            connection.send(replace(answer, news=device.news()))
            _prepare(optimizers.get(job.study_id), connection)
        except (EOFError, OSError):  # closed, or the parent died while this process was busy
            return


def _prepare(optimizer: Optimizer | None, connection: Connection) -> None:
    """Lets the optimizer that was used last work ahead, piece by piece, until there is a job again."""
    try:
        while optimizer is not None and not connection.poll() and optimizer.prepare():
            pass
    except Exception:
        # The next ask meets the same error, and reports it.
        return


def _answer(optimizers: dict[int, Optimizer], job: Job | WarmUp | Explain, device: FitDevice) -> Answer:
    try:
        if isinstance(job, WarmUp):
            create_optimizer(job.spec).warm_up()
            return Answer()
        for study_id in job.forget:
            optimizers.pop(study_id, None)
        if job.spec is None:
            optimizer = optimizers[job.study_id]
        else:
            optimizer = create_optimizer(job.spec, job.sources, device)
        if not (isinstance(job, Explain) and job.aside):
            optimizers[job.study_id] = optimizer
        optimizer.tell(job.new_observations)
        if isinstance(job, Explain):
            return Answer(explanation=optimizer.explain(job.request))
        started = time.perf_counter()
        proposal = optimizer.ask(job.number, job.pending)
        if not proposal.phases_s:
            proposal.phases_s["acquisition"] = time.perf_counter() - started
        return Answer(proposal)
    except SearchSpaceExhausted:
        return Answer(exhausted=True)
    except NoModel as error:
        return Answer(no_model=error.message)
    except Exception:  # whatever an optimizer raises must reach the parent, not end the process
        return Answer(error=traceback.format_exc())
