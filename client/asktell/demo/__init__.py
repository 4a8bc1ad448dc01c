"""`asktell demo`: a real server, a real network to tune, and a server that is killed in the middle.

    1. a server is started on a SQLite file, and a study is created on it;
    2. worker processes ask it for settings, train and tell (worker.py: the part to copy);
    3. half-way the server is killed with SIGKILL and started again on the same file and port: the workers wait for it and
       go on, and every result that it had acknowledged must still be there;
    4. as many workers evaluate as many trials of a random search;
    5. the best trials of both and the default settings are compared on images that nobody chose anything by.

What the workers report to have been acknowledged is compared with what the server knows after its restart and at the end;
the demo fails if anything is missing. It writes the database, results.json and two plots.
"""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

_NEEDED = ("torch", "sklearn", "matplotlib", "rich", "asktell_server")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the demo. `arguments`: its options; None takes those of the process. Returns an exit status."""
    options = _parser().parse_args(arguments)
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.stderr.write("asktell: the demo needs a few more packages: pip install 'asktell[demo]'\n")
        return 1

    from asktell.demo.processes import ProcessFailed
    from asktell.demo.story import Story
    from asktell.errors import AskTellError

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell made its background jobs ignore Ctrl-C
            signal.signal(number, _interrupt)
    try:
        if options.quick:
            options.trials, options.epochs = 4, 2
        return Story(
            options.output, options.trials, options.workers, options.epochs, options.seed, options.restart
        ).tell()
    except KeyboardInterrupt:
        sys.stderr.write("asktell demo: interrupted; its processes are gone\n")
        return 130
    except (ProcessFailed, AskTellError) as error:
        sys.stderr.write(f"asktell demo: {error}\n")
        return 1


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="asktell demo",
        description="Tune a small PyTorch network on handwritten digits with a server and several worker processes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--trials", type=_positive, default=36, help="trials of each search")
    parser.add_argument("--workers", type=_positive, default=3, help="training jobs at once")
    parser.add_argument("--epochs", type=_positive, default=10, help="epochs of each training")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="folder for database, plots and results"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the searches and of the trainings")
    parser.add_argument("--no-restart", dest="restart", action="store_false", help="do not kill the server half-way")
    parser.add_argument("--quick", action="store_true", help="4 trials of 2 epochs, to see that it runs")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
