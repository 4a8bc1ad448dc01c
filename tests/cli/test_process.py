"""The command as a process: start-up, terminals, signals, and the commands that run something else."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from asktell.cli.app import root

from .conftest import Run

ASKTELL = (sys.executable, "-m", "asktell.cli.entry")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _process(*arguments: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ASKTELL, *map(str, arguments)], env={**os.environ, **(env or {})}, capture_output=True, text=True, timeout=60
    )


def _on_terminal(
    *arguments: str, env: dict[str, str], until: str, answer: str = "", send: int | None = None
) -> tuple[str, int]:
    """What a person sees, and the exit status; once `until` is seen, `answer` is typed or the signal `send` sent."""
    master, slave = pty.openpty()
    environment = {**os.environ, **env, "TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    seen = ""
    deadline = time.monotonic() + 60
    with subprocess.Popen([*ASKTELL, *arguments], env=environment, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        try:
            waiting = True
            while time.monotonic() < deadline:
                if not select.select([master], [], [], 0.5)[0]:
                    continue
                try:
                    seen += os.read(master, 65536).decode(errors="replace")
                except OSError:  # the other end is closed: the command has ended
                    break
                if waiting and until in _ANSI.sub("", seen):
                    waiting = False
                    os.write(master, answer.encode())
                    if send is not None:
                        process.send_signal(send)
            status = process.wait(10)
        finally:
            process.kill()
            os.close(master)
    return _ANSI.sub("", seen), status


def test_the_version_is_that_of_the_package() -> None:
    """`asktell --version` needs no server."""
    result = CliRunner().invoke(root, ["--version"], prog_name="asktell")

    assert result.exit_code == 0
    assert result.output.strip().endswith(metadata.version("asktell"))


def test_the_help_lists_every_command_and_shell_completion() -> None:
    """A person finds out from the command itself what it can do."""
    text = CliRunner().invoke(root, ["--help"]).output

    for command in ("ask", "demo", "export", "import", "serve", "study", "trial", "watch"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
    assert "_ASKTELL_COMPLETE=bash_source" in text
    assert "ASKTELL_TARGET" in text


def test_help_loads_nothing_heavy_and_never_the_server() -> None:
    """Tables, YAML and the server are loaded only by what needs them."""
    code = (
        "import sys; from asktell.cli.app import root\n"
        "try: root(['study', 'create', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'rich', 'yaml', 'asktell_server', 'numpy', 'sqlalchemy'}))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)

    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("missing", ["click", "rich", "yaml"])
def test_without_its_packages_the_command_says_what_to_install(missing: str) -> None:
    """A plain `pip install asktell` has the script, but not what it needs."""
    code = (
        "import importlib.util, sys\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *more: None if name == {missing!r} else real(name, *more)\n"
        f"sys.modules[{missing!r}] = None\n"
        "from asktell.cli.entry import main; main()"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)

    assert result.returncode == 1
    assert result.stderr == "asktell: the command line needs a few more packages: pip install 'asktell[cli]'\n"


def test_serve_without_the_server_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client runs without the server package, and names it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "asktell_server" else find_spec(name))

    result = CliRunner().invoke(root, ["serve"])

    assert result.exit_code == 1
    assert "pip install 'asktell[server]'" in result.stderr


def test_demo_hands_every_argument_to_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo documents and reads its own options; its exit status is the command's."""
    seen: list[tuple[str, ...]] = []

    def main(arguments: tuple[str, ...]) -> int:
        seen.append(arguments)
        return 3

    monkeypatch.setattr("asktell.demo.main", main)

    result = CliRunner().invoke(root, ["demo", "--help", "--trials", "4"])

    assert seen == [("--help", "--trials", "4")]
    assert result.exit_code == 3


def test_serve_hands_every_argument_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process becomes the server, options and --help included."""
    seen: list[tuple[str, list[str]]] = []

    def execv(path: str, arguments: list[str]) -> None:
        seen.append((path, arguments))

    monkeypatch.setattr("os.execv", execv)

    CliRunner().invoke(root, ["serve", "--db", "x.db", "--help", "--", "-y"], catch_exceptions=False)

    assert seen == [(sys.executable, [sys.executable, "-m", "asktell_server", "--db", "x.db", "--help", "--", "-y"])]


def test_serve_help_is_the_help_of_the_server() -> None:
    """The server documents its own options."""
    result = _process("serve", "--help")

    assert result.returncode == 0, result.stderr
    assert "--listen" in result.stdout


def test_a_server_that_is_not_there_is_said_in_words() -> None:
    """Stderr names the target and how to start a server, within the timeout, without a traceback."""
    result = _process("--target", "127.0.0.1:1", "--timeout", "0.5", "study", "list")

    assert result.returncode == 1
    assert "is there a server at 127.0.0.1:1?" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_a_repeated_ask_with_a_request_id_gets_the_same_trials(
    environment: dict[str, str], run: Run, study_file: Path
) -> None:
    """A script that is run again, in another process, does not take further trials."""
    run("study", "create", study_file)

    first = _process("ask", "digits", "--request-id", "job-7", env=environment)
    again = _process("ask", "digits", "--request-id", "job-7", env=environment)

    assert first.returncode == 0, first.stderr
    assert again.stdout == first.stdout
    assert run("trial", "list", "digits").stdout.count("RUNNING") == 1


def test_a_person_gets_a_table(environment: dict[str, str], run: Run, study_file: Path) -> None:
    """On a terminal the same list is a drawn table."""
    run("study", "create", study_file)
    run("ask", "digits")

    text, status = _on_terminal("trial", "list", "digits", env=environment, until="RUNNING")

    assert status == 0
    assert "─" in text
    assert "\t" not in text
    assert re.search(r"\b1\s+RUNNING\b", text)


def test_a_person_is_asked_before_a_study_is_deleted(environment: dict[str, str], run: Run, study_file: Path) -> None:
    """The answer "n" deletes nothing."""
    run("study", "create", study_file)

    text, status = _on_terminal("study", "delete", "digits", env=environment, until="[y/N]", answer="n\n")

    assert "for good?" in text
    assert status == 1
    assert "digits" in run("study", "list").stdout


def test_watch_prints_a_line_of_json_per_change_and_ends_with_the_study(
    environment: dict[str, str], run: Run, study_file: Path
) -> None:
    """The lines tell the whole story by revision, and the command ends when the study is COMPLETED."""
    study_file.write_text(study_file.read_text() + "stopping: {max_trials: 2}\n")
    run("study", "create", study_file)
    with subprocess.Popen(
        [*ASKTELL, "watch", "digits", "--json"], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline())]
        for number in ("1", "2"):
            run("ask", "digits")
            run("trial", "tell", "digits", number, f"accuracy=0.{number}")
        lines += [json.loads(line) for line in process.stdout]
        status = process.wait(60)

    assert status == 0
    assert lines[-1]["study"]["state"] == "COMPLETED"
    revisions = [line["revision"] for line in lines]
    assert revisions == sorted(set(revisions))
    last = {trial["number"]: trial for line in lines for trial in line["trials"]}
    assert {number: trial["state"] for number, trial in last.items()} == {1: "SUCCEEDED", 2: "SUCCEEDED"}
    resumed = run("watch", "digits", "--json", "--after", str(revisions[-1] - 1)).stdout.splitlines()
    assert [json.loads(line)["revision"] for line in resumed] == [revisions[-1]]


def test_watch_in_a_pipe_prints_a_line_per_trial(run: Run, study_file: Path) -> None:
    """Text for awk: revision, number, state, parameters, objectives."""
    study_file.write_text(study_file.read_text() + "stopping: {max_trials: 1}\n")
    run("study", "create", study_file)
    run("ask", "digits")
    run("trial", "tell", "digits", "1", "accuracy=0.5")

    lines = [line.split("\t") for line in run("watch", "digits").stdout.splitlines()]

    assert lines[0][:4] == ["revision", "number", "state", "params.lr"]
    assert lines[-1][1:3] == ["1", "SUCCEEDED"]
    assert lines[-1][-1] == "0.5"


def test_watch_draws_a_live_table_until_ctrl_c(environment: dict[str, str], run: Run, study_file: Path) -> None:
    """On a terminal it shows state, best trial and latest trials; Ctrl-C ends it quietly."""
    run("study", "create", study_file)
    run("ask", "digits", "-n", "2")
    run("trial", "tell", "digits", "1", "accuracy=0.5")

    text, status = _on_terminal(
        "watch", "digits", env=environment, until="best accuracy 0.5 in trial 1", send=signal.SIGINT
    )

    assert "ACTIVE" in text
    assert "1 running, 1 succeeded" in text
    assert status == 130
    assert "Traceback" not in text
    assert "Aborted" not in text


def test_the_live_table_calls_no_trial_best_that_breaks_a_bound(
    environment: dict[str, str], run: Run, study_file: Path
) -> None:
    """The best trial is the best of those that keep the study's constraints, whose metrics have columns, too."""
    study_file.write_text(study_file.read_text() + "outcome_constraints: [{metric: latency, max: 5}]\n")
    run("study", "create", study_file)
    run("ask", "digits", "-n", "2")
    run("trial", "tell", "digits", "1", "accuracy=0.9", "latency=6")
    run("trial", "tell", "digits", "2", "accuracy=0.5", "latency=5")

    text, _ = _on_terminal("watch", "digits", env=environment, until="best accuracy 0.5 in trial 2", send=signal.SIGINT)

    assert "best accuracy 0.9" not in text


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_full_disk_is_said(arguments: list[str]) -> None:
    """In one line, without a traceback, with status 1."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "asktell.cli.entry", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )

    assert (done.returncode, done.stderr) == (1, "asktell: the output cannot be written: No space left on device\n")
