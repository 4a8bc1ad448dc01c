"""Export and import against a real server: what goes out comes back in, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import asktell

from .conftest import Run, RunJson

FINISHED = ("SUCCEEDED", "FAILED", "INFEASIBLE", "PRUNED")


@pytest.fixture
def filled(run: Run, study_file: Path, environment: dict[str, str]) -> str:
    """A study with a trial in each state that a client can bring about, and intermediate measurements."""
    run("study", "create", study_file)
    with asktell.connect(environment["ASKTELL_TARGET"], project=environment["ASKTELL_PROJECT"]) as client:
        study = client.get_study("digits")
        trials = study.ask(12)
        for trial in trials[:6]:
            trial.report(0, accuracy=0.1)
            trial.report(1, accuracy=1 / 3 + trial.number)
            trial.tell(accuracy=0.1 + trial.number / 7, loss=1e-300)
        trials[6].tell_failed("line one\nline two\tand a tab")
        trials[7].tell_infeasible('why, "so"')
        trials[8].tell_pruned("slow")
        trials[9].update(notes="a note\r\nof two lines", labels={"a": "b,c"})
        trials[9].tell(accuracy=-0.0)
        study.enqueue({"lr": 0.01, "layers": 2, "batch": 64, "optimizer": "adam", "flag": "1"})
    return "digits"


def _content(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What of a trial an import keeps."""
    kept = ("state", "parameters", "measurement", "intermediate_measurements", "state_reason", "notes", "labels")
    return [{key: trial[key] for key in kept if key in trial} for trial in trials]


def test_a_json_export_is_lossless(run: Run, run_json: RunJson, filled: str) -> None:
    """It holds the study's spec and every field of every trial."""
    exported = json.loads(run("export", filled).stdout)

    assert exported["study"] == {"name": "digits"} | run_json("study", "show", filled)["spec"]
    assert exported["trials"] == run_json("trial", "list", filled, "--full")
    assert len(exported["trials"]) == 13
    assert exported["trials"][0]["intermediate_measurements"] == [
        {"metrics": {"accuracy": 0.1}, "step": 0},
        {"metrics": {"accuracy": 1 / 3 + 1}, "step": 1},
    ]


def test_a_json_export_makes_the_study_again_elsewhere(
    run: Run, run_json: RunJson, filled: str, tmp_path: Path
) -> None:
    """Finished trials come back with all that was told, waiting ones wait again, running ones are left out."""
    path = tmp_path / "export.json"
    run("export", filled, path)

    imported = run_json("import", path, "--study", "copy")

    before = [t for t in run_json("trial", "list", filled, "--full") if t["state"] in (*FINISHED, "WAITING")]
    after = run_json("trial", "list", "copy", "--full")
    assert (imported["created"], imported["trials"], imported["left_out"]) == (True, 11, 2)
    assert _content(after) == _content(before)
    assert {t["suggestion"]["source"] for t in after if t["state"] in FINISHED} == {"IMPORTED"}
    assert run_json("study", "show", "copy")["spec"] == run_json("study", "show", filled)["spec"]


def test_an_export_holds_constraints_beliefs_and_sources(
    run: Run, run_json: RunJson, study_file: Path, tmp_path: Path
) -> None:
    """A study that learns from another is made again beside it with all its settings, the source at the same revision."""
    run("study", "create", study_file, "--name", "earlier")
    study_file.write_text(
        study_file.read_text().replace(
            "algorithm: random",
            "outcome_constraints: [{metric: latency, max: 0}]\n"
            "algorithm: {gp: {priors: {flag: [{value: true, weight: 2}]}, transfer_sources: [earlier]}}",
        )
    )
    run("study", "create", study_file)
    run("ask", "earlier")
    path = tmp_path / "export.json"
    run("export", "digits", path)

    run("import", path, "--study", "copy")

    spec = run_json("study", "show", "copy")["spec"]
    assert spec == run_json("study", "show", "digits")["spec"]
    assert spec["outcome_constraints"] == [{"metric": "latency", "max": 0.0}]
    assert spec["algorithm"]["gp"]["transfer_sources"] == [{"study": "earlier", "revision": 1}]


def test_an_import_that_is_repeated_adds_nothing(run: Run, run_json: RunJson, filled: str, tmp_path: Path) -> None:
    """The same file into the same study twice gives the trials once."""
    path = tmp_path / "export.json"
    run("export", filled, path)

    run("import", path, "--study", "copy")
    once = run_json("trial", "list", "copy")
    again = run_json("import", path, "--study", "copy")

    assert again["created"] is False
    assert run_json("trial", "list", "copy") == once


def test_csv_goes_into_an_existing_study_with_exact_types(
    run: Run, run_json: RunJson, filled: str, study_file: Path, tmp_path: Path
) -> None:
    """All but intermediate measurements survives the way through CSV."""
    path = tmp_path / "export.csv"
    run("export", filled, path)
    run("study", "create", study_file, "--name", "copy")

    run("import", path, "--study", "copy")

    before = [t for t in run_json("trial", "list", filled) if t["state"] in (*FINISHED, "WAITING")]
    assert _content(run_json("trial", "list", "copy")) == _content(before)


def test_csv_on_standard_output_equals_the_file(run: Run, filled: str, tmp_path: Path) -> None:
    """--format chooses the form where there is no suffix."""
    path = tmp_path / "export.csv"
    run("export", filled, path)

    printed = run("export", filled, "--format", "csv")

    assert printed.stdout_bytes == path.read_bytes()
    assert printed.stdout.startswith("number,state,params.lr,params.layers,")


def test_what_a_terminal_would_take_for_a_command(
    run: Run, environment: dict[str, str], study_file: Path, tmp_path: Path
) -> None:
    """Stays as it is in a pipe, and does not reach a person's terminal by way of an error."""
    colour = "\x1b[31mred\x1b]0;title\x07\x9b"
    run("study", "create", study_file)
    with asktell.connect(environment["ASKTELL_TARGET"], project=environment["ASKTELL_PROJECT"]) as client:
        study = client.get_study("digits")
        study.ask().tell_failed(colour)
        study.stop(colour)
    path = tmp_path / "export.csv"
    run("export", "digits", path)

    printed = run("export", "digits", "--format", "csv")
    refused = run("ask", "digits", exit_code=1)

    assert colour.encode() in printed.stdout_bytes
    assert printed.stdout_bytes == path.read_bytes()
    assert "STOPPED ( [31mred ]0;title  )" in refused.stderr


def test_json_has_nothing_that_a_terminal_would_take_for_a_command(
    run: Run, environment: dict[str, str], study_file: Path, tmp_path: Path
) -> None:
    """Bytes of C1 and DEL are escaped wherever JSON is written, and what is read back is equal; other letters stay."""
    text = "é\x7f\x80\x9b31m\x9f\xa0\u4e2d"
    run("study", "create", study_file)
    with asktell.connect(environment["ASKTELL_TARGET"], project=environment["ASKTELL_PROJECT"]) as client:
        study = client.get_study("digits")
        study.ask().tell_failed(text)
        study.stop(text)
    path = tmp_path / "export.json"
    run("export", "digits", path)

    listed = run("trial", "list", "digits", "--json").stdout_bytes
    shown = run("trial", "show", "digits", "1", "--json").stdout_bytes
    study_shown = run("study", "show", "digits", "--json").stdout_bytes
    exported = run("export", "digits").stdout_bytes

    escaped = "é\\u007f\\u0080\\u009b31m\\u009f\xa0\u4e2d".encode()
    for printed in (listed, shown, study_shown, exported):
        assert escaped in printed
        assert not any(0x7F <= ord(character) < 0xA0 for character in printed.decode())
    assert exported == path.read_bytes()
    assert json.loads(listed)[0]["state_reason"] == json.loads(shown)["state_reason"] == text
    assert json.loads(exported)["trials"][0]["state_reason"] == text


def test_a_list_of_trials_is_imported_as_well(
    run: Run, run_json: RunJson, filled: str, study_file: Path, tmp_path: Path
) -> None:
    """What `trial list --json` prints can be filtered and put into another study."""
    path = tmp_path / "list.json"
    path.write_text(run("trial", "list", filled, "--json", "--state", "failed").stdout)
    run("study", "create", study_file, "--name", "copy")

    run("import", path, "--study", "copy")

    assert [t["state_reason"] for t in run_json("trial", "list", "copy")] == ["line one\nline two\tand a tab"]


def _many(path: Path, largest_lr: float) -> None:
    """2500 finished trials as CSV."""
    rows = [f"{1e-5 + i * largest_lr / 2500},1,32,adam,2,{i}" for i in range(2500)]
    header = "params.lr,params.layers,params.batch,params.optimizer,params.flag,metrics.accuracy"
    path.write_text("\n".join([header, *rows]) + "\n")


def test_more_trials_than_one_call_takes_are_sent_in_batches(
    run: Run, run_json: RunJson, study_file: Path, tmp_path: Path
) -> None:
    """All of them come in, in their order."""
    run("study", "create", study_file)
    path = tmp_path / "many.csv"
    _many(path, largest_lr=0.01)

    run("import", path, "--study", "digits")

    values = [trial["measurement"]["metrics"]["accuracy"] for trial in run_json("trial", "list", "digits")]
    assert values == [float(i) for i in range(2500)]


def test_rows_that_are_there_twice_are_imported_twice(
    run: Run, run_json: RunJson, study_file: Path, tmp_path: Path
) -> None:
    """Two thousand equal rows are two requests of equal trials, and the second is no repeat of the first; the file once more is."""
    run("study", "create", study_file)
    path = tmp_path / "many.csv"
    _many(path, largest_lr=0.01)
    header, first = path.read_text().splitlines(keepends=True)[:2]
    path.write_text(header + 2000 * first)

    run("import", path, "--study", "digits")
    run("import", path, "--study", "digits")

    assert run_json("study", "show", "digits")["trial_counts"]["succeeded"] == 2000


def test_an_import_that_the_server_refuses_half_way_can_be_corrected_and_repeated(
    run: Run, run_json: RunJson, study_file: Path, tmp_path: Path
) -> None:
    """The error names lines of the file; what was in before it is not added again."""
    run("study", "create", study_file)
    path = tmp_path / "many.csv"
    _many(path, largest_lr=0.01)
    good = path.read_text().splitlines(keepends=True)
    bad = [*good[:1500], good[1500].replace(",1,32,", ",9,32,"), *good[1501:]]  # 9 layers, of at most 4
    path.write_text("".join(bad))

    refused = run("import", path, "--study", "digits", exit_code=1)
    path.write_text("".join(good))
    run("import", path, "--study", "digits")

    assert "line 1501: parameters" in refused.stderr
    assert "first 1000 of 2500" in refused.stderr
    assert len(run_json("trial", "list", "digits")) == 2500


def test_a_bad_file_changes_nothing(run: Run, run_json: RunJson, study_file: Path, tmp_path: Path) -> None:
    """Every problem is named, and no study comes into being."""
    run("study", "create", study_file)
    path = tmp_path / "export.json"
    run("export", "digits", path)
    document = json.loads(path.read_text())
    document["trials"] = [
        {"state": "DONE", "parameters": {"lr": "high"}},
        {"number": 9, "parameters": {"nope": 1}, "measurement": {"metrics": {"accuracy": "x"}}, "state": "SUCCEEDED"},
        {"parameters": []},
    ]
    path.write_text(json.dumps(document))

    refused = run("import", path, "--study", "copy", exit_code=1)

    for problem in ("trials[0]: state", "trials[0]: parameters.lr", "trial 9: parameters.nope", "trial 9: measurement"):
        assert problem in refused.stderr
    assert "trials[2]: parameters: [] is not a mapping" in refused.stderr
    assert [study["name"] for study in run_json("study", "list")] == ["digits"]


@pytest.mark.parametrize(
    ("name", "text", "problem", "exit_code"),
    [
        ("a.json", "{", "not JSON", 1),
        ("a.json", "{}", "not an export", 1),
        ("a.json", '{"format": "asktell-export", "version": 2}', '"version": 1', 1),
        ("a.json", '{"format": "asktell-export", "version": 1, "study": {}}', "parameters: required", 1),
        ("a.json", "[]", "give --study", 2),
        ("a.csv", "params.lr\n1\n", "give --study", 2),
        ("a.txt", "", "give --format", 2),
    ],
)
def test_a_file_that_is_no_export_is_refused(
    run: Run, tmp_path: Path, name: str, text: str, problem: str, exit_code: int
) -> None:
    """The error says what the file should be."""
    path = tmp_path / name
    path.write_text(text)

    assert problem in run("import", path, exit_code=exit_code).stderr


def test_csv_does_not_make_a_study(run: Run, tmp_path: Path) -> None:
    """A CSV file has no spec: the study must be there."""
    path = tmp_path / "a.csv"
    path.write_text("params.lr\n1\n")

    assert "none" in run("import", path, "--study", "none", exit_code=1).stderr


def test_an_export_to_a_folder_that_is_not_there_fails_in_words(run: Run, study_file: Path, tmp_path: Path) -> None:
    """The path is named."""
    run("study", "create", study_file)

    refused = run("export", "digits", tmp_path / "none" / "a.json", exit_code=1)

    assert "none/a.json" in refused.stderr
    assert "Traceback" not in refused.output
