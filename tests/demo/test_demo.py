"""The demo in its short form, as a person runs it, and the claims that it makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from asktell.demo import story, training

RUN = [sys.executable, "-P", "-m", "asktell.cli.entry", "demo", "--quick", "--workers", "2", "--output"]
LIMIT_S = 170.0


@dataclass(frozen=True)
class Finished:
    """A demo that ran to its end."""

    folder: Path
    status: int
    output: str
    results: dict[str, Any]


def processes_of(run: int) -> list[int]:
    """Ids of the processes whose environment says that they belong to one run."""
    mark = f"ASKTELL_TEST_RUN={run}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:  # gone, or not ours
            continue
    return found


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One short run, with something of an earlier run in its way."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "studies.db").write_bytes(b"left by an earlier run")
    done = subprocess.run([*RUN, str(folder)], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(folder, done.returncode, done.stdout, json.loads((folder / "results.json").read_text()))


def test_every_trial_of_both_searches_is_in_the_results(demo: Finished) -> None:
    """Both studies have all their trials, each with an accuracy in validation and in test."""
    for rows in demo.results["studies"].values():
        assert [row["number"] for row in sorted(rows, key=lambda row: row["number"])] == [1, 2, 3, 4]
        assert all(0.0 <= row["validation_accuracy"] <= 1.0 and 0.0 <= row["test_accuracy"] <= 1.0 for row in rows)


def test_the_best_trials_are_the_best_by_validation(demo: Finished) -> None:
    """The test accuracy has no say in which trial is called the best."""
    for name, rows in demo.results["studies"].items():
        assert demo.results["best"][name] == max(rows, key=lambda row: row["validation_accuracy"])


def test_momentum_is_only_there_for_sgd(demo: Finished) -> None:
    """The conditional parameter is given out exactly when its condition holds."""
    points = [row["params"] for rows in demo.results["studies"].values() for row in rows]

    assert all(("momentum" in point) == (point["optimizer"] == "sgd") for point in points)


def test_the_default_settings_are_among_the_tuned_trials(demo: Finished) -> None:
    """What the best trial is compared with was measured by the same workers."""
    assert demo.results["default"] in demo.results["studies"]["tuned"]
    assert demo.results["default"]["params"]["optimizer"] == "adam"


def test_the_server_was_killed_and_nothing_was_lost(demo: Finished) -> None:
    """The restart happened after acknowledged results, and all of them were found again."""
    restart = demo.results["restart"]

    assert restart["acknowledged"] >= 1
    assert restart["lost"] == []
    assert demo.results["lost"] == []
    assert demo.results["acknowledged"] == 8
    assert (demo.folder / "server.log").read_text().count('"serving"') == 2


def test_the_story_is_told(demo: Finished) -> None:
    """The terminal shows each trial, the kill, the comparison and where the files are."""
    for words in ("kill -9", "server is back", "default settings", "random search", "tuned", "Nothing was lost"):
        assert words in demo.output
    assert demo.output.count("  trial  ") == 8
    assert demo.results["verdict"] in demo.output


@pytest.mark.parametrize("name", ["convergence.png", "parallel-coordinates.png"])
def test_the_plots_show_something(demo: Finished, name: str) -> None:
    """Each picture is large and has many colours and a white background."""
    picture = matplotlib.image.imread(demo.folder / name)

    assert picture.shape[0] > 500
    assert picture.shape[1] > 1000
    colours = {tuple(pixel) for pixel in picture.reshape(-1, picture.shape[-1])[::7].round(2).tolist()}
    assert len(colours) > 50
    assert 0.5 < (picture[..., :3].min(axis=-1) > 0.99).mean() < 0.98


def test_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """Interrupted while the workers train, the demo ends them and the server and exits with the status of Ctrl-C."""
    environment = {**os.environ, "ASKTELL_TEST_RUN": str(os.getpid())}
    with (tmp_path / "output").open("wb") as output:
        demo = subprocess.Popen(
            [*RUN, str(tmp_path)], stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        deadline = time.monotonic() + LIMIT_S
        expected = 4  # the demo, the server, two workers
        while not (tmp_path / "tuned-worker-2.log").exists() or len(processes_of(os.getpid())) < expected:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        status = demo.wait(LIMIT_S)
    finally:
        demo.kill()
        demo.wait()

    assert status == 130
    assert b"interrupted" in (tmp_path / "output").read_bytes()
    assert processes_of(os.getpid()) == []


def test_missing_packages_are_named_in_one_line(tmp_path: Path) -> None:
    """Without torch the demo says what to install and does nothing."""
    code = (
        "import importlib.util, sys; find = importlib.util.find_spec;"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest);"
        "from asktell.demo import main; sys.exit(main(['--output', sys.argv[1]]))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert done.stderr.splitlines() == ["asktell: the demo needs a few more packages: pip install 'asktell[demo]'"]
    assert not (tmp_path / "out").exists()


def test_the_parts_of_the_data_have_the_sizes_that_the_errors_are_computed_with() -> None:
    """The standard error of a test accuracy and the plots assume these sizes; every digit is in every part."""
    data = training.load_data()

    assert (len(data.validation), len(data.test)) == (story.VALIDATION_IMAGES, story.TEST_IMAGES)
    assert len(data.train) + len(data.validation) + len(data.test) == 1797
    for part in (data.train, data.validation, data.test):
        shares = part.labels.bincount() / len(part)
        assert shares.min() > 0.09
        assert shares.max() < 0.11


def test_a_training_is_a_function_of_settings_and_seed() -> None:
    """Two trainings with the same settings and seed end with the same accuracy, which is better than guessing."""
    data = training.load_data()
    settings = {name: parameter.default for name, parameter in story.SPACE.items()}
    accuracies = []
    for _ in range(2):
        made = training.Training(data, settings, seed=3)
        made.run_epoch()
        made.run_epoch()
        accuracies.append(made.accuracy(data.validation))

    assert accuracies[0] == accuracies[1]
    assert accuracies[0] > 0.5


class Told:
    """A study as `story.missing` reads it."""

    def __init__(self, stored: dict[int, dict[str, float]]) -> None:
        self._stored = stored

    def reload(self) -> None:
        """Nothing to do."""

    def trials(self, states: list[str]) -> list[Any]:
        """The stored trials."""
        return [type("Trial", (), {"number": n, "metrics": m}) for n, m in self._stored.items()]


def test_a_lost_or_changed_result_is_noticed() -> None:
    """A result that is not there, and one that is there with another value, both count as lost."""
    study: Any = Told({1: {"validation_accuracy": 0.5}, 2: {"validation_accuracy": 0.6}})
    acknowledged = {number: {"validation_accuracy": 0.5} for number in (1, 2, 3)}

    assert story.missing(study, acknowledged) == [2, 3]


def scored(accuracy: float) -> Any:
    """A trial with a test accuracy."""
    return type("Trial", (), {"metrics": {"test_accuracy": accuracy}})


@pytest.mark.parametrize(
    ("tuned", "random", "words"),
    [(0.97, 0.97, "NOT"), (0.95, 0.97, "NOT"), (0.97, 0.965, "too little"), (0.97, 0.90, "beats")],
)
def test_the_verdict_says_no_more_than_the_test_set_bears_out(tuned: float, random: float, words: str) -> None:
    """Not ahead, ahead within two standard errors, and clearly ahead are told apart."""
    assert words in story.verdict(scored(tuned), scored(random))
