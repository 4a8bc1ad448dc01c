"""How the command line prints: a rich table on a terminal, tab-separated text elsewhere, JSON with --json.

Tab-separated text is for `cut` and `awk`: a header line, one line per row, exact numbers; a tab, line break or backslash in
a value is escaped with a backslash. JSON is for everything else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.table import Table

Cell = float | int | str | bool | None
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
# JSON lets these stand as they are; to some terminals they are the beginnings of commands.
_CONTROLS = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def on_terminal() -> bool:
    """Whether a person is reading."""
    return sys.stdout.isatty()


def exact(cell: Cell) -> str:
    """The cell for a machine: nothing lost, on one line."""
    if cell is None:
        return ""
    return json.dumps(cell) if isinstance(cell, bool) else str(cell).translate(_ESCAPES)


def short(cell: Cell) -> str:
    """The cell for a person: six digits of a number, and no control characters."""
    if isinstance(cell, float):
        return f"{cell:.6g}"
    return printable(exact(cell))


def printable(text: str) -> str:
    """Text for a person, whoever wrote it: nothing that a terminal would take for a command."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def write(text: str) -> None:
    """Text for a machine as it is: click's echo would take out what looks like a colour."""
    sys.stdout.write(text)


def json_text(value: object, indent: int | None = None) -> str:
    """A JSON document in which no character controls a terminal, and all others are themselves."""
    return json.dumps(value, indent=indent, ensure_ascii=False).translate(_CONTROLS)


def print_json(value: object) -> None:
    """One JSON document."""
    click.echo(json_text(value, indent=2))


def print_json_line(value: object) -> None:
    """One JSON document on one line, at once."""
    click.echo(json_text(value))
    sys.stdout.flush()


def print_table(rows: Sequence[Mapping[str, Cell]], columns: Iterable[str]) -> None:
    """The rows under the columns; a cell that a row lacks stays empty."""
    names = list(columns)
    if on_terminal():
        from rich.console import Console

        Console().print(table(rows, names))
        return
    write("\t".join(exact(name) for name in names) + "\n")
    for row in rows:
        write("\t".join(exact(row.get(name)) for name in names) + "\n")


def table(rows: Sequence[Mapping[str, Cell]], columns: Iterable[str]) -> Table:
    """The rows as a rich table; `params.lr` is headed `lr`."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    names = list(columns)
    for name in names:
        cells = [cell for row in rows if (cell := row.get(name)) is not None]
        numeric = bool(cells) and all(isinstance(cell, (int, float)) for cell in cells)
        made.add_column(
            Text(short(name.partition(".")[2] or name)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        made.add_row(*(Text(short(row.get(name))) for name in names))
    return made


def print_fields(fields: Mapping[str, Cell]) -> None:
    """One thing, a field per line."""
    print_table([{"field": key, "value": cell} for key, cell in fields.items()], ("field", "value"))
