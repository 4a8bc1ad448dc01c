"""The results file: one JSON line for each run of a peer on a problem with a seed and a number of trials in parallel.

Lines are only appended, each in one write, so a run can be interrupted anywhere and gone on with; for the same key the last line counts. A
run that failed leaves a line with `error` in place of results, and is tried again the next time.

The runs behind a report are kept in the repository (`keep`): compressed, and with no more digits of times and told values than a
report shows. `read` takes such files as well.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, order=True)
class Key:
    """What makes a run the same run."""

    peer: str
    problem: str
    seed: int
    q: int
    budget: int


@dataclass(frozen=True)
class Run:
    """One line. `curve` has one number a finished trial: what had been achieved by then, smaller is better (see
    scoring.py).
    """

    peer: str
    problem: str
    seed: int
    q: int
    budget: int
    tags: tuple[str, ...] = ()
    curve: tuple[float, ...] = ()
    # All values told, trial by trial.
    values: tuple[tuple[float, ...], ...] = ()
    # What the peer had proposed in the end that nothing dominates; with several objectives only.
    front: tuple[tuple[float, ...], ...] = ()
    optimum: float | None = None
    # Median and worst value of random points; None where evaluations are dear.
    median: float | None = None
    worst: float | None = None
    floor: float = 1e-8
    # Seconds of each ask, and of each tell.
    asks_s: tuple[float, ...] = ()
    tells_s: tuple[float, ...] = ()
    memory_mb: float | None = None
    wall_s: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    machine: str = ""
    date: str = ""
    error: str | None = None

    @property
    def key(self) -> Key:
        """Its key."""
        return Key(self.peer, self.problem, self.seed, self.q, self.budget)

    def to_line(self) -> str:
        """The line, without its end."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Run:
        """`to_line` backwards."""
        item = json.loads(line)
        for name in ("tags", "curve", "asks_s", "tells_s"):
            item[name] = tuple(item[name])
        for name in ("values", "front"):
            item[name] = tuple(tuple(row) for row in item[name])
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in item.items() if name in known})


def append(path: Path, run: Run) -> None:
    """Adds a line, in one write, on a line of its own even if an interrupted write left half a line behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0, os.SEEK_END)
        broken = False
        if file.tell():
            file.seek(-1, os.SEEK_END)
            broken = file.read(1) != b"\n"
        file.write((b"\n" if broken else b"") + run.to_line().encode() + b"\n")


def read(paths: Iterable[Path]) -> dict[Key, Run]:
    """The last run of each key over all files; half lines are passed over."""
    found: dict[Key, Run] = {}
    for path in paths:
        if not path.exists():
            continue
        text = lzma.decompress(path.read_bytes()).decode() if path.suffix == ".xz" else path.read_text()
        for line in text.splitlines():
            try:
                run = Run.from_line(line)
            except (ValueError, TypeError, KeyError):
                continue
            found[run.key] = run
    return found


def keep(path: Path, runs: Iterable[Run]) -> None:
    """Writes a file in place of what was there, for `read`; `path` ends in .xz. Curves, of which logarithms are taken, keep all digits."""
    kept = (
        dataclasses.replace(
            run,
            values=tuple(tuple(_rounded(value, 6) for value in row) for row in run.values),
            asks_s=tuple(_rounded(seconds, 3) for seconds in run.asks_s),
            tells_s=tuple(_rounded(seconds, 3) for seconds in run.tells_s),
        )
        for run in sorted(runs, key=lambda run: run.key)
    )
    path.write_bytes(lzma.compress("".join(run.to_line() + "\n" for run in kept).encode(), preset=9))


def _rounded(number: float, digits: int) -> float:
    return float(f"{number:.{digits}g}")
