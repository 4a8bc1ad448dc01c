"""`asktell study explain`: what a study's model has learned, on the command line."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path

import pytest

from asktell.cli.studies import _bar
from asktell.explanation import Importance

from .conftest import Run, RunJson
from .test_process import _on_terminal

STUDY = """\
name: explained
parameters:
  x: {type: float, min: 0, max: 1}
  batch: {type: discrete, values: [32, 64]}
  idle: {type: float, min: 0, max: 1}
objectives: {minimize: loss}
algorithm: gp
seed: 1
"""


@pytest.fixture
def explained(run: Run, tmp_path: Path) -> str:
    """A study of loss = (x - 0.5)^2 with 16 results."""
    path = tmp_path / "explained.yaml"
    path.write_text(STUDY)
    run("study", "create", path)
    trials = []
    for i in range(16):
        point = {"x": i / 16, "batch": (32, 64)[i % 2], "idle": (7 * i % 16) / 16}
        metrics = {"loss": (point["x"] - 0.5) ** 2}
        trials.append({"parameters": point, "state": "SUCCEEDED", "measurement": {"metrics": metrics}})
    listed = tmp_path / "trials.json"
    listed.write_text(json.dumps(trials))
    run("import", listed, "--study", "explained")
    return "explained"


def test_importances_are_a_table_and_calibration_a_remark(run: Run, explained: str) -> None:
    """Tab-separated for machines: a row for each metric and parameter, the most important first; no bars."""
    result = run("study", "explain", explained)

    rows = list(csv.DictReader(StringIO(result.stdout), delimiter="\t"))
    assert list(rows[0]) == ["metric", "parameter", "total_effect", "lower", "upper"]
    assert {row["metric"] for row in rows} == {"loss"}
    assert rows[0]["parameter"] == "x"
    assert {row["parameter"] for row in rows} == {"x", "batch", "idle"}
    assert float(rows[0]["lower"]) > 0.5
    assert "loss: 16 results; left out one by one" in result.stderr


def test_json_holds_everything(run_json: RunJson, explained: str) -> None:
    """Slices too, those asked for, with values as in the study file."""
    found = run_json("study", "explain", explained, "--slice", "batch", "--pair", "x", "batch", "--points", "3")

    assert found["reference_trial"] == 9
    metric = found["metrics"]["loss"]
    assert metric["calibration"]["observations"] == 16
    assert metric["importances"][0]["parameter"] == "x"
    one, two = metric["slices"]
    assert (one["parameters"], one["first_values"]) == (["batch"], [32, 64])
    assert (two["first_values"], two["second_values"]) == ([0.0, 0.5, 1.0], [32, 64])
    assert len(two["means"]) == 6


def test_a_person_sees_bars(environment: dict[str, str], explained: str) -> None:
    """On a terminal each importance has a bar with its interval."""
    text, status = _on_terminal("study", "explain", explained, env=environment, until="idle")

    assert status == 0
    assert "16 results" in text
    (line,) = [line for line in text.splitlines() if " x " in line]
    assert "█" * 12 in line


def test_a_bar_shows_the_interval() -> None:
    """Full up to the lower end, darker up to the estimate, light up to the upper end; 24 characters are 1."""
    assert _bar(Importance("x", 0.5, 0.25, 1.0)) == "█" * 6 + "▓" * 6 + "░" * 12
    assert _bar(Importance("x", 0.0, 0.0, 0.0)) == ""


def test_refusals_are_told_in_words(run: Run, explained: str, study_file: Path) -> None:
    """Unknown parameters by name; a random search has no model."""
    run("study", "create", study_file)

    unknown = run("study", "explain", explained, "--slice", "nobody", exit_code=1)
    none = run("study", "explain", "digits", exit_code=1)

    assert "slices[0]: 'nobody' is not a parameter of this study" in unknown.stderr
    assert "the algorithm random has no model" in none.stderr
    assert "Traceback" not in unknown.output + none.output
