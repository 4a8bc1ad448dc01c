"""The server's command line, with a clock that a test sets and, for the checker's own tests, a planted bug.

    python server.py CLOCK_FILE MUTANT|- [arguments of `asktell serve`]

CLOCK_FILE holds the seconds by which the clock is wrong; without it the clock is right.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from asktell_server import cli
from asktell_server.app import App


def wrong_clock(path: Path) -> datetime:
    """The time on a clock that is wrong by what the file says."""
    try:
        offset = float(path.read_text())
    except (OSError, ValueError):  # not there, or just being written
        offset = 0.0
    return datetime.now(UTC) + timedelta(seconds=offset)


if __name__ == "__main__":
    clock_file, mutant, *arguments = sys.argv[1:]
    if mutant != "-":
        sys.path.insert(0, str(Path(__file__).parent))
        import mutants  # type: ignore[import-not-found]

        mutants.plant(mutant)
    cli.App = partial(App, clock=partial(wrong_clock, Path(clock_file)))  # type: ignore[assignment]
    cli.main(arguments)
