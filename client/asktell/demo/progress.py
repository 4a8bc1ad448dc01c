"""What a person sees while a study runs: a live table on a terminal, one line per finished trial anywhere else."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

import asktell


class Board:
    """The live view of one study."""

    def __init__(self, console: Console, title: str, total: int, epochs: int) -> None:
        self._console = console
        self._title = title
        self._total = total
        self._epochs = epochs
        self._shown: set[int] = set()
        self._best: asktell.TrialRecord | None = None
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self.say(self._headline())

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def update(self, running: Sequence[asktell.TrialRecord], ended: Sequence[asktell.TrialRecord]) -> None:
        """Shows where the study is."""
        for trial in sorted(ended, key=lambda trial: trial.revision):
            if trial.number not in self._shown:
                self._shown.add(trial.number)
                self._add(trial)
        if self._live is not None:
            self._live.update(self._picture(running))

    def _add(self, trial: asktell.TrialRecord) -> None:
        accuracy = trial.metrics.get("validation_accuracy")
        if accuracy is not None and (self._best is None or accuracy > self._best.metrics["validation_accuracy"]):
            self._best = trial
        if self._live is None:
            self.say(
                f"  {self._title} {len(self._shown):3d}/{self._total}  trial {trial.number:3d}  "
                f"{percent(accuracy):>6}  best {self._best_text()}  {source(trial)}"
            )

    def _best_text(self) -> str:
        if self._best is None:
            return "-"
        return f"{percent(self._best.metrics['validation_accuracy'])} (trial {self._best.number})"

    def _picture(self, running: Sequence[asktell.TrialRecord]) -> Group:
        table = Table(box=None, pad_edge=False, expand=True)
        for heading in ("trial", "epoch", "accuracy", "suggested by"):
            table.add_column(heading, header_style="dim", no_wrap=True)
        table.add_column("settings", header_style="dim", no_wrap=True, ratio=1)
        for trial in running:
            latest = trial.intermediate[-1] if trial.intermediate else None
            table.add_row(
                str(trial.number),
                f"{latest.step if latest else 0}/{self._epochs}",
                percent(latest.metrics.get("validation_accuracy")) if latest else "",
                source(trial),
                settings(trial.params),
            )
        return Group(Text(self._headline()), table)

    def _headline(self) -> str:
        return f"  {len(self._shown)} of {self._total} trials done, best {self._best_text()}"


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "-" if share is None else f"{share:.1%}"


def settings(params: dict[str, asktell.ParameterValue]) -> str:
    """A point of the space on one line."""
    return ", ".join(f"{n}={v:.3g}" if isinstance(v, float) else f"{n}={v}" for n, v in params.items())


def source(trial: asktell.TrialRecord) -> str:
    """Where the parameters came from and, when a model made them, what it expected."""
    suggestion = trial.suggestion
    name = suggestion.source.replace("_", " ").lower()
    expected = suggestion.predictions.get("validation_accuracy")
    if expected is not None:
        return f"{name} (expects {expected.mean:.1%} ± {expected.standard_deviation:.1%})"
    return f"{name} ({suggestion.detail})" if suggestion.detail else name
