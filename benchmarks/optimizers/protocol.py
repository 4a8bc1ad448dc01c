"""How the harness talks with a peer: one JSON object a line, on the peer's standard input and output.

    harness                                                   peer
    {"op": "start", "study": {...}}                           {"versions": {"optuna": "5.0.0"}}
    {"op": "ask"}                                             {"id": 0, "point": {"x": 0.3, "kernel": "rbf"}}
    {"op": "tell", "id": 0, "values": [1.2], "slack": []}     {}
    {"op": "add", "point": {...}, "values": [...], ...}       {}        a finished trial that nobody asked for
    {"op": "finish"}                                          {"memory_mb": 310.2, "extra": {...}}
    any of them, when it fails                                {"error": "traceback"}

A child serves one study after another. Every objective is minimised; an outcome constraint holds where its value in `slack`
is at most 0. Points that come back may be full ones. What a peer prints for people goes to standard error.

This module runs in every peer's environment: standard library and NumPy only.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import space as spaces
from .memory import peak_mb, reset_peak
from .space import Point, Space


@dataclass(frozen=True)
class StudyBrief:
    """What a peer is told about the study to come; what a user of it would know."""

    problem: str
    space: Space
    objectives: tuple[str, ...]
    constraints: tuple[str, ...]
    noisy: bool
    seed: int
    budget: int
    parallel: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The brief as JSON values."""
        return {
            "problem": self.problem,
            "space": spaces.to_json(self.space),
            "objectives": list(self.objectives),
            "constraints": list(self.constraints),
            "noisy": self.noisy,
            "seed": self.seed,
            "budget": self.budget,
            "parallel": self.parallel,
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, item: Mapping[str, Any]) -> StudyBrief:
        """`to_json` backwards."""
        return cls(
            problem=item["problem"],
            space=spaces.from_json(item["space"]),
            objectives=tuple(item["objectives"]),
            constraints=tuple(item["constraints"]),
            noisy=item["noisy"],
            seed=item["seed"],
            budget=item["budget"],
            parallel=item["parallel"],
            settings=item["settings"],
        )


class Peer:
    """An optimizer behind the protocol; one object a study.

    The trials that were asked for and not yet told are pending: `pending` has their full points by id, and an ask takes them into account
    in whatever way the peer's documentation recommends.
    """

    def __init__(self, brief: StudyBrief) -> None:
        self.brief = brief
        self.pending: dict[int, Point] = {}

    def ask(self, number: int) -> Point:
        """A point to try; `number` counts the asks from 0 and is the trial's id."""
        raise NotImplementedError

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """The result of a pending trial, which is no longer in `pending`."""
        raise NotImplementedError

    def add(self, point: Point, values: list[float], slack: list[float]) -> None:
        """A finished trial that was not asked for."""
        raise NotImplementedError

    def processes(self) -> Sequence[int]:
        """Ids of the processes whose memory counts."""
        return [os.getpid()]

    def extra(self) -> dict[str, Any]:
        """More to keep in the results, asked for once at the end."""
        return {}

    def close(self) -> None:
        """Ends what the study started."""

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Versions of the packages that matter, by name."""
        return {}


def version(*packages: str) -> dict[str, str]:
    """Installed versions of distributions, by name."""
    from importlib import metadata

    return {name: metadata.version(name) for name in packages}


class _Session:
    """The peer's side of one child process."""

    def __init__(self, make: type[Peer]) -> None:
        self._make = make
        self._peer: Peer | None = None
        self._asked = 0

    def _running(self) -> Peer:
        if self._peer is None:
            raise RuntimeError("no study was started")
        return self._peer

    def handle(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a message."""
        operation = message["op"]
        if operation == "start":
            if self._peer is not None:
                self._peer.close()
            reset_peak([os.getpid()])
            self._peer, self._asked = self._make(StudyBrief.from_json(message["study"])), 0
            reset_peak(self._peer.processes())
            return {"versions": self._make.versions()}
        peer = self._running()
        if operation == "ask":
            number = self._asked
            point = {name: plain(value) for name, value in peer.ask(number).items()}
            self._asked += 1
            peer.pending[number] = point
            return {"id": number, "point": point}
        if operation == "tell":
            peer.tell(message["id"], peer.pending.pop(message["id"]), message["values"], message["slack"])
            return {}
        if operation == "add":
            peer.add(message["point"], message["values"], message["slack"])
            return {}
        if operation == "finish":
            memory, extra = peak_mb(peer.processes()), peer.extra()
            peer.close()
            self._peer = None
            return {"memory_mb": memory, "extra": extra}
        raise ValueError(f"unknown operation {operation!r}")

    def close(self) -> None:
        """Ends the study that runs."""
        if self._peer is not None:
            self._peer.close()


def plain(value: Any) -> Any:
    """A NumPy scalar as plain Python."""
    return value.item() if hasattr(value, "item") else value


def serve(make: type[Peer]) -> None:
    """Serves studies of `make` until standard input ends; a peer's script is one call of this."""
    # Packages print; the protocol's stream must stay clean, down to their C code.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    session = _Session(make)
    try:
        for line in sys.stdin:
            try:
                answer = session.handle(json.loads(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
    finally:
        with contextlib.suppress(Exception):
            session.close()
