"""The optimizer benchmark from end to end: real peers in processes of their own, ours through a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.optimizers.__main__ import main, missing, numbers, parser, tasks
from benchmarks.optimizers.catalogue import NAMED_SUBSETS, PEERS, chosen_problems
from benchmarks.optimizers.child import Child, PeerFailed
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.protocol import StudyBrief
from benchmarks.optimizers.results import Run, append, keep, read
from benchmarks.optimizers.running import Runner, Task


def test_numbers_may_be_ranges() -> None:
    """Seeds are given as people write them."""
    assert numbers("0-3,7") == [0, 1, 2, 3, 7]


def test_problems_are_chosen_by_name_tag_and_subset() -> None:
    """What is given together narrows."""
    assert [p.name for p in chosen_problems(["branin-2"], [], None)] == ["branin-2"]
    assert all("noisy" in p.tags for p in chosen_problems([], ["noisy"], None))
    assert {p.name for p in chosen_problems([], [], "quick")} == set(NAMED_SUBSETS["quick"])
    with pytest.raises(ValueError, match="nothing-2"):
        chosen_problems(["nothing-2"], [], None)


def test_subsets_name_problems_that_exist() -> None:
    """A renamed problem does not silently drop out."""
    assert all(name in PROBLEMS for members in NAMED_SUBSETS.values() for name in members)


def test_peers_are_given_only_what_they_can_do() -> None:
    """No constrained problem for a peer without constraints; dear peers only on their subset."""
    wanted = tasks(parser().parse_args(["--seeds", "0"]))

    assert not any("constrained" in PROBLEMS[task.problem].tags for task in wanted if task.peer == "skopt")
    assert {task.problem for task in wanted if task.peer == "vizier"} == set(NAMED_SUBSETS["dearest"])
    assert {task.problem for task in wanted if task.peer == "random"} == set(PROBLEMS)
    parallel = tasks(parser().parse_args(["--seeds", "0", "--q", "4"]))
    assert {task.problem for task in parallel if task.peer == "random"} == set(NAMED_SUBSETS["parallel"])
    assert {task.problem for task in parallel if task.peer == "botorch"} < set(NAMED_SUBSETS["parallel"])


def test_results_are_appended_and_the_last_counts(tmp_path: Path) -> None:
    """A broken line, as an interruption leaves it, spoils neither its neighbours nor the next line."""
    path = tmp_path / "results.jsonl"
    append(path, Run("a", "p", 0, 1, 5, curve=(1.0,), values=((1.0, 2.0),), versions={"x": "1"}))
    with path.open("a") as file:
        file.write('{"peer": "a", "prob')
    append(path, Run("b", "p", 0, 1, 5, curve=(3.0,)))
    append(path, Run("a", "p", 0, 1, 5, curve=(2.0,)))

    found = read([path, tmp_path / "none.jsonl"])

    assert {run.peer: run.curve for run in found.values()} == {"a": (2.0,), "b": (3.0,)}
    assert len(path.read_text().splitlines()) == 4


def test_kept_runs_are_read_again(tmp_path: Path) -> None:
    """Compressed, with every digit of the curve, enough of the rest, and failed runs as well; a file is written anew."""
    curve = (1.0 + 1e-9, 1.0 + 1e-16, 1.0)
    run = Run("gp", "branin-2", 0, 1, 3, curve=curve, values=((1 / 3,), (2.0,)), asks_s=(0.123456,), tells_s=(1e-7,))
    failed = Run("gp", "branin-2", 1, 1, 3, error="late")
    path = tmp_path / "runs.jsonl.xz"

    keep(path, [failed])
    keep(path, [failed, run])
    found = read([path])

    assert list(found) == [run.key, failed.key]
    assert found[run.key].curve == curve
    assert found[run.key].values == ((pytest.approx(1 / 3, rel=1e-5),), (2.0,))
    assert found[run.key].asks_s == (0.123,)
    assert found[failed.key] == failed


def test_only_what_is_missing_or_failed_is_run_again() -> None:
    """Results that are there stay; those that failed, and all with --redo, are made again."""
    wanted = [Task(peer, "p", 0, 1, 5) for peer in ("done", "failed", "new")]
    done = {run.key: run for run in (Run("done", "p", 0, 1, 5), Run("failed", "p", 0, 1, 5, error="broken"))}

    assert [task.peer for task in missing(wanted, done, redo=False)] == ["failed", "new"]
    assert len(missing(wanted, done, redo=True)) == 3
    assert Task("a", "p", 0, 1, 5, "variant").shown == "a@variant"


def test_a_peer_without_its_environment_leaves_the_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The run is kept as failed, and says what to do."""
    monkeypatch.setattr("benchmarks.optimizers.catalogue.ROOT", tmp_path)

    run = Runner().run(Task("hebo", "branin-2", 0, 1, 5))

    assert run.error is not None
    assert "scripts/peers hebo" in run.error
    assert run.curve == ()


def test_a_peer_that_raises_is_reported() -> None:
    """The traceback of the peer's own process comes back."""
    child = Child(PEERS["random"])
    try:
        with pytest.raises(PeerFailed, match="no study was started"):
            child.call(op="ask")
        child.start(StudyBrief("p", (), ("loss",), (), noisy=False, seed=0, budget=1, parallel=1))
        assert child.call(op="ask")[0] == {"id": 0, "point": {}}
    finally:
        child.close()


def test_trials_in_parallel_end_oldest_first() -> None:
    """With q outstanding, q suggestions come before the first result; the same seed gives the same run."""
    runner = Runner()
    try:
        one = runner.run(Task("random", "tree-9", 1, 1, 6))
        four = runner.run(Task("random", "tree-9", 1, 4, 6))
        again = runner.run(Task("random", "tree-9", 1, 4, 6))
    finally:
        runner.close()

    assert one.error is None
    assert len(one.asks_s) == len(one.tells_s) == len(one.curve) == 6
    assert one.values == four.values == again.values
    assert all(later <= earlier for earlier, later in zip(one.curve, one.curve[1:], strict=False))
    assert one.optimum == 0.1
    assert one.versions.keys() == {"numpy"}


def test_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Random search and our server on a plain, a conditional, a constrained and a multi-objective problem: results, the
    report, and when it is called again no work.
    """
    monkeypatch.setenv("ASKTELL_BENCH_DIR", str(tmp_path))
    report = tmp_path / "docs" / "found.md"
    arguments = [
        *("--peers", "random,asktell-random", "--problems", "branin-2,tree-9,gramacy-2,vlmop2-2", "--seeds", "0-1"),
        *("--q", "2", "--budget-scale", "0.01", "--report", str(report)),
    ]

    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert main(arguments) == 0
    second = capsys.readouterr().out

    runs = list(read([tmp_path / "optimizers.jsonl"]).values())
    assert [run.error for run in runs] == [None] * 16
    assert "16 to make" in first
    assert "16 there, 0 to make" in second
    ours = next(run for run in runs if run.peer == "asktell-random" and run.problem == "vlmop2-2")
    assert ours.extra["sources"] == {"SAMPLER": 5}
    assert ours.front
    assert ours.memory_mb is None or ours.memory_mb > 20
    text = report.read_text()
    assert "| asktell-random |" in text
    assert "### Constrained, q = 2" in text
    assert "found/regret-q2.svg" in text
    assert (tmp_path / "docs" / "found" / "regret-q2.svg").exists()
