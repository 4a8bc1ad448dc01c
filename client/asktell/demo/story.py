"""The demo from beginning to end; `asktell.demo` says what happens in which order."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

import asktell
from asktell import Categorical, Discrete, Float, Int, when
from asktell.demo import plots
from asktell.demo.processes import Server, Workers
from asktell.demo.progress import Board, percent, settings, source

SPACE: Final[dict[str, plots.Kind]] = {
    "learning_rate": Float(1e-4, 1e-1, log=True, default=1e-3),
    "weight_decay": Float(1e-6, 1e-2, log=True, default=1e-4),
    "layers": Int(1, 4, default=2),
    "width": Int(16, 256, log=True, default=128),
    "dropout": Float(0.0, 0.5, default=0.0),
    "batch_size": Discrete([16, 32, 64, 128, 256], log=True, default=64),
    "activation": Categorical(["relu", "gelu", "tanh"], default="relu"),
    "optimizer": Categorical(["sgd", "adam", "adamw"], default="adam"),
    "momentum": Float(0.0, 0.99, default=0.9, when=when("optimizer", "sgd")),
}
"""The settings to tune. The defaults are PyTorch's own (Adam with a learning rate of 0.001, batches of 64 as in its
tutorials) on two layers of 128: what one would try first.
"""

VALIDATION_IMAGES: Final = 360
TEST_IMAGES: Final = 540
_LEASE_S: Final = 60.0
_GLANCE_S: Final = 0.3
_INITIAL_POINTS: Final = 8
_ENDED: Final = [state for state in asktell.TrialState if state.ended and state is not asktell.TrialState.UNKNOWN]


@dataclass(slots=True)
class Restart:
    """What the kill in the middle found and left."""

    after_trials: int
    acknowledged: int
    running: list[int]
    lost: list[int]
    seconds: float


class Story:
    """One run of the demo."""

    def __init__(self, folder: Path, trials: int, workers: int, epochs: int, seed: int, restart: bool) -> None:
        self._folder = folder
        self._trials = trials
        self._workers = workers
        self._epochs = epochs
        self._seed = seed
        self._with_restart = restart
        self._restart: Restart | None = None
        self._acknowledged = 0
        self._lost: list[str] = []
        self._console = Console()

    def tell(self) -> int:
        """Runs everything. Returns 0, or 1 when an acknowledged result was lost."""
        begin = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        with Server(self._folder) as server, asktell.connect(server.target, timeout=120.0, tls=False) as client:
            self._say(f"server    {server.target} on {server.database} (process {server.pid})")
            self._say(f"to tune   {', '.join(SPACE)}")
            tuned = self._search(client, server, "tuned", self._tuner())
            compared = self._search(client, server, "random", asktell.RandomSearch())
            default = self._default(tuned)
        results = self._results(tuned, compared, default, time.monotonic() - begin)
        self._write(results)
        self._sum_up(results)
        return 1 if self._lost else 0

    def _tuner(self) -> asktell.Gp:
        return asktell.Gp(initial_points=min(_INITIAL_POINTS, self._trials // 2 or 1))

    def _search(
        self, client: asktell.Client, server: Server, name: str, algorithm: asktell.Algorithm
    ) -> list[asktell.Trial]:
        """Has the workers evaluate a study; returns its succeeded trials in the order of their ends."""
        study = client.create_study(
            name,
            SPACE,
            maximize="validation_accuracy",
            algorithm=algorithm,
            seed=self._seed,
            max_trials=self._trials,
            lease=_LEASE_S,
            labels={"epochs": str(self._epochs)},
            if_exists="fail",
        )
        self._say(f"\n{name}: {self._trials} trials of {self._epochs} epochs, {self._workers} workers")
        with (
            Workers(self._folder, server.target, name, self._workers) as workers,
            Board(self._console, name, self._trials, self._epochs) as board,
        ):
            kill_at = self._trials // 2 if self._with_restart and self._restart is None else None
            while True:
                study.reload()
                counts = study.trial_counts
                running = list(study.trials(["RUNNING"], full=True))
                board.update(running, list(study.trials(_ENDED)))
                active = study.state is asktell.StudyState.ACTIVE
                if kill_at is not None and counts.ended >= kill_at and (running or not active):
                    kill_at = None
                    self._kill(board, study, server, workers, [trial.number for trial in running])
                elif not active:
                    break
                else:
                    workers.check()
                    time.sleep(_GLANCE_S)
            workers.join()
            self._acknowledged += len(workers.acknowledged)
            self._lost += [f"{name}/{number}" for number in missing(study, workers.acknowledged)]
        return sorted(study.trials(["SUCCEEDED"]), key=lambda trial: trial.revision)

    def _kill(self, board: Board, study: asktell.Study, server: Server, workers: Workers, running: list[int]) -> None:
        acknowledged = workers.acknowledged
        begin = time.monotonic()
        board.say(f"\n  *** kill -9 {server.pid}: {len(acknowledged)} results acknowledged, trials {running} running")
        server.kill()
        server.start()
        lost = missing(study, acknowledged)
        ended = study.trial_counts.ended
        self._restart = Restart(ended, len(acknowledged), running, lost, time.monotonic() - begin)
        found = "all of them are there" if not lost else f"LOST: trials {lost}"
        board.say(f"  *** server is back after {self._restart.seconds:.1f} s (process {server.pid}): {found}\n")

    def _default(self, tuned: list[asktell.Trial]) -> asktell.Trial:
        """The trial of the default settings, with which the tuner begins."""
        wanted = {
            name: parameter.default
            for name, parameter in SPACE.items()
            if parameter.when is None or SPACE[parameter.when.parent].default in parameter.when.values
        }
        return next(trial for trial in tuned if close(trial.params, wanted))

    def _results(
        self, tuned: list[asktell.Trial], compared: list[asktell.Trial], default: asktell.Trial, seconds: float
    ) -> dict[str, Any]:
        restart = self._restart
        return {
            "trials": self._trials,
            "workers": self._workers,
            "epochs": self._epochs,
            "seed": self._seed,
            "seconds": round(seconds, 1),
            "validation_images": VALIDATION_IMAGES,
            "test_images": TEST_IMAGES,
            "default": row(default),
            "best": {"tuned": row(best(tuned)), "random": row(best(compared))},
            "verdict": verdict(best(tuned), best(compared)),
            "restart": None
            if restart is None
            else {
                "after_trials": restart.after_trials,
                "acknowledged": restart.acknowledged,
                "running": restart.running,
                "running_that_succeeded": [t.number for t in tuned if t.number in restart.running],
                "lost": restart.lost,
                "seconds": round(restart.seconds, 1),
            },
            "acknowledged": self._acknowledged,
            "lost": self._lost,
            "studies": {"tuned": [row(trial) for trial in tuned], "random": [row(trial) for trial in compared]},
        }

    def _write(self, results: dict[str, Any]) -> None:
        (self._folder / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        studies, restart = results["studies"], results["restart"]
        plots.convergence(
            self._folder / "convergence.png",
            {"Gaussian process": studies["tuned"], "random search": studies["random"]},
            results["default"]["validation_accuracy"],
            restart["after_trials"] if restart else None,
            VALIDATION_IMAGES,
        )
        plots.parallel_coordinates(
            self._folder / "parallel-coordinates.png", SPACE, studies["tuned"], VALIDATION_IMAGES
        )

    def _sum_up(self, results: dict[str, Any]) -> None:
        winner = results["best"]["tuned"]
        self._say(f"\nbest trial: number {winner['number']}, {winner['source']}\n  {settings(winner['params'])}\n")
        table = Table(box=None, pad_edge=False)
        for heading in ("", "validation", "test", "wrong in test"):
            table.add_column(heading, justify="left" if not heading else "right")
        named = {
            "default settings": results["default"],
            f"random search, best of {self._trials}": results["best"]["random"],
            f"tuned, best of {self._trials}": winner,
        }
        for name, trial in named.items():
            accuracy = trial["test_accuracy"]
            table.add_row(
                name,
                percent(trial["validation_accuracy"]),
                f"{percent(accuracy)} ± {percent(standard_error(accuracy))}",
                f"{round((1 - accuracy) * TEST_IMAGES)} of {TEST_IMAGES}",
            )
        self._console.print(table, highlight=False)
        self._say(f"\n{results['verdict']}")
        restart = results["restart"]
        if restart:
            self._say(
                f"The server was killed after {restart['after_trials']} trials and was back in {restart['seconds']} s; "
                f"of the trials then running ({len(restart['running'])}), {len(restart['running_that_succeeded'])} went on "
                "and succeeded."
            )
        if self._lost:
            self._say(f"LOST: acknowledged results that the server does not have: {', '.join(self._lost)}")
        else:
            self._say(f"Nothing was lost: all {self._acknowledged} acknowledged results are in the database.")
        self._say(
            f"\n{results['seconds']:.0f} s; see convergence.png, parallel-coordinates.png, results.json in {self._folder}/"
        )

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def missing(study: asktell.Study, acknowledged: Mapping[int, Mapping[str, float]]) -> list[int]:
    """Numbers of the trials whose acknowledged metrics are not exactly what the server has; brings `study` up to date."""
    study.reload()
    stored = {trial.number: trial.metrics for trial in study.trials(["SUCCEEDED"])}
    return sorted(number for number, metrics in acknowledged.items() if stored.get(number) != metrics)


def close(params: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether two points are the same but for rounding."""
    return params.keys() == wanted.keys() and all(
        math.isclose(params[name], value, rel_tol=1e-9) if isinstance(value, float) else params[name] == value
        for name, value in wanted.items()
    )


def best(trials: list[asktell.Trial]) -> asktell.Trial:
    """The trial with the best validation accuracy; the first of several."""
    return max(trials, key=lambda trial: trial.metrics["validation_accuracy"])


def standard_error(accuracy: float) -> float:
    """Of an accuracy measured on the test images: sqrt(p (1 - p) / n)."""
    return math.sqrt(accuracy * (1 - accuracy) / TEST_IMAGES)


def verdict(tuned: asktell.Trial, compared: asktell.Trial) -> str:
    """How the tuner did against random search, in words that the size of the test set bears out."""
    ours, theirs = tuned.metrics["test_accuracy"], compared.metrics["test_accuracy"]
    error = math.hypot(standard_error(ours), standard_error(theirs))
    points = f"{100 * abs(ours - theirs):.1f} points (standard error of the difference: {100 * error:.1f})"
    if ours <= theirs:
        return f"On the test images the tuner did NOT beat random search this time: it is behind by {points}."
    if ours - theirs < 2 * error:
        return f"On the test images the tuner is ahead of random search by {points}: too little to be sure of."
    return f"On the test images the tuner beats random search by {points}."


def row(trial: asktell.Trial) -> dict[str, Any]:
    """A trial as results.json has it."""
    return {
        "number": trial.number,
        "params": trial.params,
        **trial.metrics,
        "source": source(trial),
        "worker": trial.worker,
    }
