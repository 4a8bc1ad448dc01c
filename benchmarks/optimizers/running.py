"""One run: a peer, a problem, a seed, and q trials that run at once.

Trials in parallel are simulated: q of them are outstanding at any time, the oldest ends first, and its result is told
before the next is asked for. So every peer faces the same delay of q - 1 results, whatever machine it runs on. The
noise of the k-th trial is the same for every peer.
"""

from __future__ import annotations

import collections
import datetime
import functools
import multiprocessing.util
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import space as spaces
from .catalogue import PEERS, ROOT
from .child import Child, PeerFailed
from .problems import PROBLEMS
from .problems.base import Outcome, Problem, Scale, scale
from .protocol import StudyBrief
from .results import Run
from .scoring import Progress
from .space import Point


@dataclass(frozen=True)
class Task:
    """A run to be made. `label` is added to the peer's name in the results, to keep variants of one peer apart."""

    peer: str
    problem: str
    seed: int
    q: int
    budget: int
    label: str = ""

    @property
    def shown(self) -> str:
        """The peer's name in the results."""
        return f"{self.peer}@{self.label}" if self.label else self.peer


@functools.cache
def commit() -> str:
    """Our commit, with a plus if the tree differs from it."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "server", "client") else "")


@functools.cache
def machine() -> str:
    """The processor, the number of cores, the system and Python."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return (
        f"{name}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


def _measure(child: Child, task: Task, problem: Problem) -> Run:
    instance = problem.instance(task.seed)
    settings = PEERS[task.peer].settings
    brief = StudyBrief(
        problem=problem.name,
        space=instance.space,
        objectives=problem.objectives,
        constraints=problem.constraints,
        noisy=problem.noisy,
        seed=task.seed,
        budget=task.budget,
        parallel=task.q,
        settings=settings,
    )
    measure: Scale | None = scale(problem, instance, task.seed)
    started = time.perf_counter()
    versions = child.start(brief)
    worst = problem.worst if measure is None else measure.worst
    progress = Progress(problem, worst)
    waiting: collections.deque[tuple[int, Point]] = collections.deque()
    asks: list[float] = []
    tells: list[float] = []
    values: list[tuple[float, ...]] = []
    asked = 0
    while len(values) < task.budget:
        while asked < task.budget and len(waiting) < task.q:
            answer, seconds = child.call(op="ask")
            asks.append(seconds)
            waiting.append((answer["id"], spaces.active(instance.space, answer["point"])))
            asked += 1
        number, point = waiting.popleft()
        outcome: Outcome = instance.evaluate(point, np.random.default_rng([5, task.seed, number]))
        _, seconds = child.call(op="tell", id=number, values=list(outcome.values), slack=list(outcome.slack))
        tells.append(seconds)
        values.append(outcome.values)
        progress.add(outcome, lambda point=point: instance.truth(point))  # type: ignore[misc]
    finished, _ = child.call(op="finish")
    return Run(
        peer=task.shown,
        problem=task.problem,
        seed=task.seed,
        q=task.q,
        budget=task.budget,
        tags=problem.tags,
        curve=tuple(progress.curve),
        values=tuple(values),
        front=progress.front(),
        optimum=progress.signed(instance.optimum),
        median=None if measure is None else measure.median,
        worst=worst,
        floor=problem.floor,
        asks_s=tuple(round(s, 6) for s in asks),
        tells_s=tuple(round(s, 6) for s in tells),
        memory_mb=finished["memory_mb"],
        wall_s=round(time.perf_counter() - started, 3),
        versions=versions,
        extra=finished["extra"],
        commit=commit(),
        machine=machine(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


class Runner:
    """Makes runs one after the other, keeping a peer's process for as long as the same peer is wanted and does not
    fail.
    """

    def __init__(self) -> None:
        self._child: tuple[str, Child] | None = None

    def _for(self, peer: str) -> Child:
        if self._child is not None and self._child[0] != peer:
            self.close()
        if self._child is None:
            self._child = peer, Child(PEERS[peer])
        return self._child[1]

    def run(self, task: Task) -> Run:
        """The run, or a line that says why there is none."""
        problem = PROBLEMS[task.problem]
        started = time.perf_counter()
        try:
            return _measure(self._for(task.peer), task, problem)
        except (PeerFailed, ValueError) as error:
            self.close()
            return Run(
                peer=task.shown,
                problem=task.problem,
                seed=task.seed,
                q=task.q,
                budget=task.budget,
                tags=problem.tags,
                wall_s=round(time.perf_counter() - started, 3),
                commit=commit(),
                machine=machine(),
                date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                error=str(error)[-4000:],
            )

    def close(self) -> None:
        """Ends the process that is kept."""
        if self._child is not None:
            self._child[1].close()
            self._child = None


_runner: Runner | None = None


def run_in_pool(task: Task) -> Run:
    """The run, made in a worker process of a pool, which keeps its peer's process between calls."""
    global _runner
    if _runner is None:
        _runner = Runner()
        multiprocessing.util.Finalize(None, _runner.close, exitpriority=10)
    return _runner.run(task)
