"""How far an `optimize` is, on stderr: a bar where rich is installed, otherwise one line that is rewritten."""

from __future__ import annotations

import sys
from typing import Any, Protocol, TextIO


class Progress(Protocol):
    """Shows how far a study is."""

    def update(self, ended: int, best: str) -> None:
        """`ended`: number of trials that have ended. `best`: the best result in words."""
        ...

    def close(self) -> None:
        """Leaves the display as it is."""
        ...


class NoProgress:
    """Shows nothing."""

    def update(self, ended: int, best: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LineProgress:
    """One line, rewritten."""

    def __init__(self, title: str, total: int | None, stream: TextIO) -> None:
        self._title = title
        self._of = f"/{total}" if total else ""
        self._stream = stream
        self._width = 0

    def update(self, ended: int, best: str) -> None:
        """Rewrites the line."""
        line = f"{self._title}: {ended}{self._of} trials{', ' + best if best else ''}"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def close(self) -> None:
        """Ends the line."""
        if self._width:
            self._stream.write("\n")
            self._stream.flush()


class RichProgress:
    """A bar of rich's."""

    def __init__(self, title: str, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
        columns += [TextColumn("{task.fields[best]}"), TimeElapsedColumn()]
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task(title, total=total, best="")
        self._bar.start()

    def update(self, ended: int, best: str) -> None:
        """Moves the bar."""
        self._bar.update(self._task, completed=ended, best=best)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.stop()


def make_progress(wanted: bool | None, title: str, total: int | None) -> Progress:
    """A display: on a terminal unless `wanted` is False, elsewhere only if it is True."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        return NoProgress()
    try:
        return RichProgress(title, total)
    except ImportError:
        return LineProgress(title, total, sys.stderr)
