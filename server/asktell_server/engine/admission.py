"""Admission: how much may wait, for what, and who is told to come back later.

There are five queues: asks and explanations that wait for a compute process, writes and reads that wait for the database, and open
watches, which wait for changes. Each is bounded three times: in all, for one project, and for one study, so that no study can
fill its project's share and no project everybody's. Who finds a queue full is refused at once (SERVER_BUSY, RESOURCE_EXHAUSTED)
and told when to come back: after the time that those inside have lately spent there, for by then the queue has turned over.

Used from the event loop only.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TypeVar

from asktell_server.domain.errors import ServerBusy
from asktell_server.observe.metrics import Metrics

K = TypeVar("K")

LEAST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
# Weight of the newest stay in the average.
_NEWEST = 0.1


@dataclass(frozen=True)
class QueueLimits:
    """How many may be in a queue: in all, of one project, of one study. Each at least 1."""

    total: int
    per_project: int
    per_study: int


@dataclass(frozen=True)
class AdmissionConfig:
    """The bounds of each queue.

    `--max-waiting-asks` sets the first of the three, `--max-waiting-asks-per-project` and `-per-study` the others; likewise for
    the other queues.
    """

    waiting_asks: QueueLimits = field(
        default=QueueLimits(2000, 1000, 500), metadata={"what": "asks that wait for a model"}
    )
    waiting_explanations: QueueLimits = field(
        default=QueueLimits(100, 50, 10), metadata={"what": "explanations that wait for a compute process"}
    )
    waiting_writes: QueueLimits = field(
        default=QueueLimits(8000, 4000, 2000), metadata={"what": "writes that wait for the database"}
    )
    waiting_reads: QueueLimits = field(
        default=QueueLimits(1000, 500, 250), metadata={"what": "reads that wait for the database"}
    )
    watches: QueueLimits = field(default=QueueLimits(4000, 2000, 500), metadata={"what": "open WatchStudy streams"})


class Queue:
    """One bounded queue. `what` names those inside, in the plural; `first_guess_s` is how long they stay, until that is known."""

    def __init__(self, name: str, limits: QueueLimits, what: str, metrics: Metrics, first_guess_s: float = 1.0) -> None:
        self._name = name
        self._limits = limits
        self._what = what
        self._metrics = metrics
        self._inside = 0
        self._by_project: Counter[str] = Counter()
        self._by_study: Counter[tuple[str, str]] = Counter()
        self._stay_s = first_guess_s
        metrics.queue_length(name, self.__len__)

    def __len__(self) -> int:
        return self._inside

    @property
    def retry_delay_s(self) -> float:
        """When it is worth coming back, in seconds from now."""
        return min(max(self._stay_s, LEAST_DELAY_S), LONGEST_DELAY_S)

    def entered(self, project: str, study: str) -> Place:
        """A place in the queue for one study, to be used with `with`. Raises ServerBusy if there is none."""
        of_project, of_study, limits = self._by_project[project], self._by_study[project, study], self._limits
        if of_study >= limits.per_study:
            raise self._full("study", f" of projects/{project}/studies/{study}", limits.per_study, of_study)
        if of_project >= limits.per_project:
            raise self._full("project", f" of projects/{project}", limits.per_project, of_project)
        if self._inside >= limits.total:
            raise self._full("server", "", limits.total, self._inside)
        return Place(self, project, study)

    def enter(self, project: str, study: str) -> None:
        """Counts one more."""
        self._inside += 1
        self._by_project[project] += 1
        self._by_study[project, study] += 1

    def leave(self, project: str, study: str, stay_s: float) -> None:
        """Counts one less, who stayed so long."""
        self._stay_s += _NEWEST * (stay_s - self._stay_s)
        self._inside -= 1
        _leave(self._by_project, project)
        _leave(self._by_study, (project, study))

    def _full(self, scope: str, whose: str, limit: int, inside: int) -> ServerBusy:
        self._metrics.refused(self._name, scope)
        suffix = "" if scope == "server" else f"-per-{scope}"
        setting = f"--max-{self._name.replace('_', '-')}{suffix}"
        return ServerBusy(
            f"there are {inside} {self._what}{whose}, the limit set by {setting}; try again later",
            retry_delay_s=self.retry_delay_s,
            metadata={"queue": self._name, "scope": scope, "limit": str(limit)},
        )


class Place:
    """A place in a queue, from `with` to its end. (As a generator it would cost a measurable part of a call.)"""

    __slots__ = ("_entered_s", "_project", "_queue", "_study")

    def __init__(self, queue: Queue, project: str, study: str) -> None:
        self._queue = queue
        self._project = project
        self._study = study

    def __enter__(self) -> None:
        self._queue.enter(self._project, self._study)
        self._entered_s = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self._queue.leave(self._project, self._study, time.monotonic() - self._entered_s)


def _leave(counts: Counter[K], key: K) -> None:
    counts[key] -= 1
    if not counts[key]:
        del counts[key]


class Admission:
    """The queues of one server."""

    def __init__(self, config: AdmissionConfig, metrics: Metrics) -> None:
        def queue(name: str) -> Queue:
            what = AdmissionConfig.__dataclass_fields__[name].metadata["what"]
            return Queue(name, getattr(config, name), what, metrics)

        self.waiting_asks = queue("waiting_asks")
        self.waiting_explanations = queue("waiting_explanations")
        self.waiting_writes = queue("waiting_writes")
        self.waiting_reads = queue("waiting_reads")
        self.watches = queue("watches")
