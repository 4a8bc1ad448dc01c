"""What clients asked for and what came of it: the evidence that the checker judges.

Times are seconds of this process's monotonic clock, on which all clients run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from asktell.v1 import study_service_pb2 as pb


class Outcome(Enum):
    """What a client knows of a call: it took effect, it changed nothing, or neither is known (the reply was lost)."""

    OK = "ok"
    REFUSED = "refused"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Call:
    """One attempt of a call. `reason` is that of the ErrorInfo, or the name of the gRPC code where there is none."""

    client: str
    method: str
    request: Any
    began: float
    ended: float
    outcome: Outcome
    response: Any = None
    reason: str = ""
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether it was acknowledged."""
        return self.outcome is Outcome.OK

    @property
    def over(self) -> float:
        """When its effect must have happened: never, if nobody knows whether it will."""
        return math.inf if self.outcome is Outcome.UNKNOWN else self.ended

    def __str__(self) -> str:
        what = getattr(self.request, "name", "") or getattr(self.request, "parent", "")
        return f"{self.method} {what} by {self.client} ({self.outcome.value} {self.reason} {self.began:.3f}..{self.ended:.3f})"


@dataclass(frozen=True)
class Watched:
    """One message of a watch, or its end (`message` None, with the reason)."""

    watcher: str
    stream: int
    study: str
    after: int
    at: float
    message: pb.WatchStudyResponse | None
    reason: str = ""


@dataclass
class History:
    """All calls and watches in the order of their ends. Appended to by many threads."""

    calls: list[Call] = field(default_factory=list)
    acknowledged: int = 0
    """How many calls were, about: threads may count at the same moment."""
    watched: list[Watched] = field(default_factory=list)
