"""The commands against a real server, as a script sees them: exit status, text, JSON."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

from .conftest import Run, RunJson


def _table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))


def test_a_study_is_created_shown_and_listed(run: Run, run_json: RunJson, study_file: Path) -> None:
    """What the file says is what the server has, in the form of the file."""
    created = run_json("study", "create", study_file)
    shown = run_json("study", "show", "digits")
    listed = _table(run("study", "list").stdout)

    assert shown == created
    assert (created["name"], created["state"]) == ("digits", "ACTIVE")
    assert created["spec"]["parameters"]["momentum"]["when"] == {"optimizer": "sgd"}
    assert created["spec"]["parameters"]["flag"]["choices"] == [True, "1", 2, 2.5, "", 'with "quotes"']
    assert created["spec"]["seed"] == 1
    assert [(row["name"], row["objectives"], row["algorithm"]) for row in listed] == [
        ("digits", "maximize accuracy", "random")
    ]


def test_the_fields_of_a_study_are_shown_as_text(run: Run, study_file: Path) -> None:
    """Without --json each field is a line, a parameter as in a study file."""
    run("study", "create", study_file)

    fields = {row["field"]: row["value"] for row in _table(run("study", "show", "digits").stdout)}

    assert fields["parameters.layers"] == "{type: int, min: 1, max: 4}"
    assert fields["objectives"] == "maximize accuracy"
    assert fields["trials.running"] == "0"


def test_a_taken_name_is_refused_or_used(run: Run, study_file: Path, tmp_path: Path) -> None:
    """--if-exists use takes an equal study and refuses a different one."""
    other = tmp_path / "other.yaml"
    other.write_text(study_file.read_text().replace("seed: 1", "seed: 2"))
    run("study", "create", study_file)

    again = run("study", "create", study_file, exit_code=1)
    used = run("study", "create", study_file, "--if-exists", "use")
    differs = run("study", "create", other, "--if-exists", "use", exit_code=1)

    assert again.stderr.startswith("asktell: ")
    assert again.stdout == ""
    assert [row["name"] for row in _table(used.stdout)] == ["digits"]
    assert "seed" in differs.stderr


def test_every_violation_of_a_bad_study_is_told_by_the_name_of_its_parameter(run: Run, tmp_path: Path) -> None:
    """The server's paths are turned into those of the file, and there is no traceback."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        """\
name: bad
parameters:
  fine: {type: int, min: 0, max: 1}
  lr: {type: float, min: 0, max: 1, log: true}
  n: {type: int, min: 5, max: 1}
objectives: {maximize: accuracy}
"""
    )

    result = run("study", "create", path, exit_code=1)

    lines = result.stderr.splitlines()
    assert lines[0] == "asktell: the server refuses this:"
    assert [line.partition(":")[0].strip() for line in lines[1:]] == ["parameters.lr.min", "parameters.n.max"]
    assert "Traceback" not in result.output
    assert run("study", "list").stdout.count("\n") == 1


def test_bad_beliefs_and_sources_are_told_by_their_place_in_the_file(run: Run, tmp_path: Path) -> None:
    """A belief goes by its parameter, as in the file."""
    path = tmp_path / "bad.yaml"
    path.write_text(
        """\
name: bad
parameters:
  lr: {type: float, min: 0.1, max: 1}
  act: {type: categorical, choices: [relu, gelu]}
objectives: {maximize: accuracy}
algorithm:
  gp:
    priors:
      lr: {mean: 2, width: 0}
      act: [{value: tanh, weight: 1}, {value: relu, weight: 0}]
      depth: {mean: 1, width: 1}
    transfer_sources: [nothing, not ok]
"""
    )

    result = run("study", "create", path, exit_code=1)

    at = "algorithm.gp"
    assert {line.partition(": ")[0].strip() for line in result.stderr.splitlines()[1:]} == {
        *(f"{at}.priors.lr.mean", f"{at}.priors.lr.width", f"{at}.priors.depth"),
        *(f"{at}.priors.act[0].value", f"{at}.priors.act[1].weight"),
        *(f"{at}.transfer_sources[0].study", f"{at}.transfer_sources[1].study"),
    }


def test_a_study_that_learns_from_another_is_created_and_shown(run: Run, run_json: RunJson, study_file: Path) -> None:
    """The file names the other study by its id; what is shown says up to which revision it counts, and can be used again."""
    run("study", "create", study_file, "--name", "earlier")
    study_file.write_text(
        study_file.read_text().replace(
            "algorithm: random",
            "algorithm: {gp: {priors: {lr: {mean: 0.01, width: 0.2}}, transfer_sources: [earlier]}}",
        )
    )

    created = run_json("study", "create", study_file)
    used = run_json("study", "create", study_file, "--if-exists", "use")
    fields = {row["field"]: row["value"] for row in _table(run("study", "show", "digits").stdout)}

    assert created["spec"]["algorithm"] == {
        "gp": {
            "priors": {"lr": {"mean": 0.01, "width": 0.2}},
            "transfer_sources": [{"study": "earlier", "revision": 1}],
        }
    }
    assert used == created
    assert fields["algorithm"] == (
        "{gp: {priors: {lr: {mean: 0.01, width: 0.2}}, transfer_sources: [{study: earlier, revision: 1}]}}"
    )


def test_only_trials_that_keep_the_constraints_are_best(run: Run, run_json: RunJson, study_file: Path) -> None:
    """A better trial that breaks a bound is no best one, and a result without the metric is refused."""
    study_file.write_text(study_file.read_text() + "outcome_constraints: [{metric: latency, max: 5}]\n")
    run("study", "create", study_file)
    run("ask", "digits", "--count", "3")
    refused = run("trial", "tell", "digits", "1", "accuracy=0.9", exit_code=1)
    run("trial", "tell", "digits", "1", "accuracy=0.9", "latency=6")
    none = run("study", "best", "digits")
    run("trial", "tell", "digits", "2", "accuracy=0.5", "latency=5")
    run("trial", "tell", "digits", "3", "accuracy=0.4", "latency=1")

    assert "latency" in refused.stderr
    assert none.stderr == "no trial has succeeded and kept the constraints yet\n"
    assert [trial["number"] for trial in run_json("study", "best", "digits")] == [2]


def test_what_the_server_cannot_do_is_refused_by_name(run: Run, study_file: Path) -> None:
    """Early stopping reaches the server, which says that it has none."""
    study_file.write_text(study_file.read_text() + "early_stopping: {median: {min_trials: 3}}\n")

    result = run("study", "create", study_file, exit_code=1)

    assert "early_stopping" in result.stderr


def test_a_file_without_a_name_needs_one_on_the_command_line(run: Run, study_file: Path) -> None:
    """--name gives the name, and overrides the file's."""
    nameless = study_file.with_name("nameless.yaml")
    nameless.write_text(study_file.read_text().replace("name: digits\n", ""))

    refused = run("study", "create", nameless, exit_code=2)
    run("study", "create", nameless, "--name", "first")
    run("study", "create", study_file, "--name", "second")

    assert "--name" in refused.stderr
    assert [row["name"] for row in _table(run("study", "list").stdout)] == ["first", "second"]


def test_trials_are_asked_for_told_and_listed(run: Run, run_json: RunJson, study_file: Path) -> None:
    """Ask and tell from a shell, each way a trial can end, and the best one."""
    run("study", "create", study_file)

    asked = run_json("ask", "digits", "--count", "5", "--worker", "me")
    told = run_json(
        "trial", "tell", "digits", "1", "accuracy=0.9", "loss=0.25", "--standard-error", "accuracy=0.01", "--step", "3"
    )
    run("trial", "tell", "digits", "2", "accuracy=0.95")
    run("trial", "tell", "digits", "3", "--failed", "out of memory")
    run("trial", "tell", "digits", "4", "--infeasible", "no such layer")
    run("trial", "tell", "digits", "5", "accuracy=0.1", "--pruned", "hopeless")
    listed = _table(run("trial", "list", "digits").stdout)
    failed = run_json("trial", "list", "digits", "--state", "failed")
    best = run_json("study", "best", "digits")

    assert [trial["number"] for trial in asked] == [1, 2, 3, 4, 5]
    assert {trial["state"] for trial in asked} == {"RUNNING"}
    assert {trial["worker"] for trial in asked} == {"me"}
    assert type(asked[0]["parameters"]["batch"]) is int
    assert told["measurement"] == {
        "metrics": {"accuracy": 0.9, "loss": 0.25},
        "standard_errors": {"accuracy": 0.01},
        "step": 3,
    }
    assert told["study_state"] == "ACTIVE"
    assert [row["state"] for row in listed] == ["SUCCEEDED", "SUCCEEDED", "FAILED", "INFEASIBLE", "PRUNED"]
    assert [row["metrics.accuracy"] for row in listed] == ["0.9", "0.95", "", "", "0.1"]
    assert [row["params.lr"] for row in listed] == [str(trial["parameters"]["lr"]) for trial in asked]
    assert [(trial["number"], trial["state_reason"]) for trial in failed] == [(3, "out of memory")]
    assert [trial["number"] for trial in best] == [2]


def test_a_trial_is_shown_field_by_field(run: Run, study_file: Path) -> None:
    """Nested fields are named with dots."""
    run("study", "create", study_file)
    run("ask", "digits")
    run("trial", "tell", "digits", "1", "accuracy=0.5")

    fields = {row["field"]: row["value"] for row in _table(run("trial", "show", "digits", "1").stdout)}

    assert fields["number"] == "1"
    assert fields["measurement.metrics.accuracy"] == "0.5"
    assert fields["suggestion.source"] == "SAMPLER"


def test_telling_twice_differently_is_refused(run: Run, study_file: Path) -> None:
    """The same result again is fine, another one fails with exit status 1."""
    run("study", "create", study_file)
    run("ask", "digits")
    run("trial", "tell", "digits", "1", "accuracy=0.5")

    run("trial", "tell", "digits", "1", "accuracy=0.5")
    refused = run("trial", "tell", "digits", "1", "accuracy=0.6", exit_code=1)

    assert refused.stderr.startswith("asktell: ")


def test_bad_usage_exits_with_status_2_before_anything_is_sent(run: Run, study_file: Path) -> None:
    """Metrics, numbers, names and contradictory options are checked on this side."""
    run("study", "create", study_file)
    run("ask", "digits")
    tell = ("trial", "tell", "digits", "1")

    assert "METRIC=VALUE" in run(*tell, "accuracy", exit_code=2).stderr
    assert "METRIC=VALUE" in run(*tell, "accuracy=high", exit_code=2).stderr
    assert "METRIC=VALUE" in run(*tell, "=1", exit_code=2).stderr
    assert "twice" in run(*tell, "a=1", "a=2", exit_code=2).stderr
    assert "give a result" in run(*tell, exit_code=2).stderr
    assert "one way" in run(*tell, "--failed", "x", "--pruned", "y", exit_code=2).stderr
    assert "no metrics" in run(*tell, "a=1", "--failed", "x", exit_code=2).stderr
    assert "go with a metric" in run(*tell, "--failed", "x", "--step", "1", exit_code=2).stderr
    assert "projects/" in run("study", "show", "no such/name!/at all", exit_code=2).stderr
    assert "project" in run("--project", "a/b", "study", "list", exit_code=2).stderr
    assert run(*tell, "accuracy=0.5").exit_code == 0


def test_a_metric_that_is_not_finite_is_refused_by_the_server(run: Run, study_file: Path) -> None:
    """NaN never enters, and the trial stays as it was."""
    run("study", "create", study_file)
    run("ask", "digits")

    refused = run("trial", "tell", "digits", "1", "accuracy=nan", exit_code=1)

    assert "accuracy" in refused.stderr
    assert _table(run("trial", "list", "digits").stdout)[0]["state"] == "RUNNING"


def test_a_missing_study_or_trial_is_an_error_without_a_traceback(run: Run, study_file: Path) -> None:
    """Stderr names what is missing, stdout stays empty."""
    run("study", "create", study_file)

    no_study = run("study", "show", "none", exit_code=1)
    no_trial = run("trial", "show", "digits", "7", exit_code=1)

    assert "none" in no_study.stderr
    assert "7" in no_trial.stderr
    assert no_study.stdout == no_trial.stdout == ""
    assert "Traceback" not in no_study.stderr


def test_a_study_is_stopped_and_resumed(run: Run, run_json: RunJson, study_file: Path) -> None:
    """A stopped study gives out no trials until it is resumed."""
    run("study", "create", study_file)

    stopped = run_json("study", "stop", "digits", "--reason", "enough")
    refused = run("ask", "digits", exit_code=1)
    listed = run_json("study", "list", "--state", "stopped")
    resumed = run_json("study", "resume", "digits")

    assert (stopped["state"], stopped["state_reason"]) == ("STOPPED", "enough")
    assert refused.stderr.startswith("asktell: ")
    assert [study["name"] for study in listed] == ["digits"]
    assert resumed["state"] == "ACTIVE"
    assert len(run_json("ask", "digits")) == 1


def test_a_study_is_deleted_only_with_consent(run: Run, study_file: Path) -> None:
    """Without a terminal to ask on, --yes is required."""
    run("study", "create", study_file)

    refused = run("study", "delete", "digits", exit_code=2)
    run("study", "delete", "digits", "--yes")
    run("study", "delete", "digits", "--yes", exit_code=1)
    run("study", "delete", "digits", "--yes", "--missing-ok")

    assert "--yes" in refused.stderr
    assert run("study", "list").stdout.count("\n") == 1


def test_a_study_of_another_project_is_reached_by_its_full_name(run: Run, run_json: RunJson, study_file: Path) -> None:
    """STUDY may be an id, project/id or a resource name, and a list may span projects."""
    created = run_json("study", "create", study_file)
    project = created["project"]

    for name in (f"{project}/digits", f"projects/{project}/studies/digits"):
        assert run_json("--project", "elsewhere", "study", "show", name) == created
    everywhere = run_json("study", "list", "--all-projects")
    assert project in {study["project"] for study in everywhere}
    assert run_json("--project", "elsewhere", "study", "list") == []


def test_before_the_first_success_there_is_no_best_trial(run: Run, study_file: Path) -> None:
    """An empty answer is no failure; stderr says why it is empty."""
    run("study", "create", study_file)

    best = run("study", "best", "digits", "--json")

    assert json.loads(best.stdout) == []
    assert "no trial has succeeded" in best.stderr


def test_several_objectives_have_a_front(run: Run, run_json: RunJson, study_file: Path) -> None:
    """`study best` lists the trials that no other beats in every objective."""
    text = study_file.read_text().replace("{maximize: accuracy}", "[{minimize: cost}, {maximize: accuracy}]")
    study_file.write_text(text)
    run("study", "create", study_file)
    run("ask", "digits", "-n", "3")
    for number, cost, accuracy in ((1, 1.0, 0.5), (2, 2.0, 0.9), (3, 3.0, 0.8)):
        run("trial", "tell", "digits", str(number), f"cost={cost}", f"accuracy={accuracy}")

    front: list[Any] = run_json("study", "best", "digits")

    assert [trial["number"] for trial in front] == [1, 2]
    assert _table(run("trial", "list", "digits").stdout)[0]["metrics.cost"] == "1.0"
