"""`asktell watch`: the changes of a study as they come, as a live table, lines of text or lines of JSON."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from asktell.cli.output import Cell, exact, on_terminal, print_json_line, short, table
from asktell.cli.records import space_of, trial_record
from asktell.cli.session import Session, as_json, pass_session
from asktell.cli.studyfile import study_record
from asktell.cli.trials import trial_row
from asktell.v1.study_pb2 import Objective, Study
from asktell.v1.study_service_pb2 import WatchStudyResponse

if TYPE_CHECKING:
    from rich.console import Group

_LINES_AROUND = 8  # of the live table: title, head, rules and the prompt
_FEWEST_ROWS = 5


@click.command()
@click.argument("study")
@click.option(
    "--after",
    "after_revision",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="REVISION",
    help="Only changes after this revision; the `revision` of a line that --json printed goes on after it.",
)
@as_json
@pass_session
def watch(session: Session, study: str, after_revision: int, as_json: bool) -> None:
    """Watch a study in a live table.

    With --json it prints one object per line and change, into a pipe one line per trial that changed. Ends with
    Ctrl-C, or by itself once the study is COMPLETED and none of its trials runs.
    """
    name = session.study_name(study)
    found = session.get_study(name)
    changes = _until_done(session.watch(name, after_revision))
    if as_json:
        _print_json(changes)
    elif on_terminal():
        _show_live(changes, found)
    else:
        _print_lines(changes, found)


def _until_done(changes: Iterator[WatchStudyResponse]) -> Iterator[WatchStudyResponse]:
    for change in changes:
        yield change
        study = change.study
        if study.state == Study.COMPLETED and not study.trial_counts.running and change.revision >= study.revision:
            return


def _print_json(changes: Iterator[WatchStudyResponse]) -> None:
    for change in changes:
        study = study_record(change.study)
        del study["spec"]  # it never changes
        trials = [trial_record(trial, space_of(change.study)) for trial in change.trials]
        print_json_line({"revision": change.revision, "study": study, "trials": trials})


def _print_lines(changes: Iterator[WatchStudyResponse], study: Study) -> None:
    """A line per trial that changed, with the columns of a trial list after the revision."""
    space = space_of(study)
    columns = ["revision", "number", "state", *(f"params.{name}" for name in space)]
    columns += [f"metrics.{objective.metric}" for objective in study.spec.objectives]
    click.echo("\t".join(columns))
    for change in changes:
        for trial in change.trials:
            row: dict[str, Cell] = {"revision": trial.revision, **trial_row(trial_record(trial, space))}
            click.echo("\t".join(exact(row.get(column)) for column in columns))


def _show_live(changes: Iterator[WatchStudyResponse], study: Study) -> None:
    from rich.console import Console
    from rich.live import Live

    shown = _LiveTable(study)
    with Live(shown.render(), console=Console(), vertical_overflow="crop") as live:
        for change in changes:
            shown.take(change)
            live.update(shown.render())


class _LiveTable:
    """The study's state, its best trial and its latest trials."""

    def __init__(self, study: Study) -> None:
        self._study = study
        self._space = space_of(study)
        self._metrics = [f"metrics.{objective.metric}" for objective in study.spec.objectives]
        self._bounds = {f"metrics.{bound.metric}": bound for bound in study.spec.outcome_constraints}
        self._rows: dict[int, dict[str, Cell]] = {}
        self._best: dict[str, Cell] | None = None

    def take(self, change: WatchStudyResponse) -> None:
        """Brings the table up to date."""
        self._study = change.study
        for trial in change.trials:
            row = trial_row(trial_record(trial, self._space))
            self._rows[int(str(row["number"]))] = row
            if row["state"] == "SUCCEEDED" and self._feasible(row) and self._better(row):
                self._best = row

    def render(self) -> Group:
        """What to show now."""
        from rich.console import Group
        from rich.text import Text

        counts = {field.name: value for field, value in self._study.trial_counts.ListFields()}
        title = Text(f"{self._study.name}  {Study.State.Name(self._study.state)}", style="bold")
        title.append("  " + ", ".join(f"{count} {state}" for state, count in counts.items()), style="not bold")
        if self._best is not None:
            value = short(self._best[self._metrics[0]])
            title.append(f"\nbest {self._metrics[0].partition('.')[2]} {value} in trial {self._best['number']}")
        room = max(shutil.get_terminal_size().lines - _LINES_AROUND, _FEWEST_ROWS)
        latest = [self._rows[number] for number in sorted(self._rows)[-room:]]
        columns = [
            "number",
            "state",
            *(f"params.{name}" for name in self._space),
            *self._metrics,
            *self._bounds,
            "source",
            "worker",
        ]
        return Group(title, table(latest, columns))

    def _feasible(self, row: dict[str, Cell]) -> bool:
        """Whether a succeeded trial keeps every bound."""
        return all(
            float(str(row[metric])) <= bound.max if bound.HasField("max") else float(str(row[metric])) >= bound.min
            for metric, bound in self._bounds.items()
        )

    def _better(self, row: dict[str, Cell]) -> bool:
        """Whether a feasible trial beats the best so far, in a study with one objective."""
        if len(self._metrics) > 1:
            return False
        if self._best is None:
            return True
        sign = 1 if self._study.spec.objectives[0].direction == Objective.MAXIMIZE else -1
        return sign * float(str(row[self._metrics[0]])) > sign * float(str(self._best[self._metrics[0]]))
