"""The report: Markdown tables from the results file. `write` makes the whole of it, `tables` the standings only."""

from __future__ import annotations

import datetime
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from .catalogue import NAMED_SUBSETS, PEERS, ROOT, interpreter
from .problems import PROBLEMS
from .results import Run
from .scoring import Interval, Reference, Standing, filled, head_to_head, references, regret, standings

TAGS = ("continuous", "mixed", "real-hpo", "noisy", "conditional", "high-dimensional", "multi-objective", "constrained")
OURS = "asktell-gp"
# A peer that ran at least this share of a group's cells is compared with the others on nearly all of them; peers that ran less get a table
# of their own, on fewer cells, below.
COVERAGE = (0.8, 0.2, 0.0)
STAGES = ((1, 20), (21, 50), (51, 100), (101, 200), (201, 300))


def one_line(run: Run) -> str:
    """A run in a line for people."""
    head = f"{run.peer} {run.problem} seed {run.seed} q {run.q}"
    if run.error is not None:
        return f"{head}: FAILED: {run.error.strip().splitlines()[-1]}"
    ask = statistics.median(seconds for _, seconds in suggestion_times(run)) * 1e3
    return f"{head}: {run.curve[-1]:.6g} after {run.budget}, {run.wall_s:.1f} s, median suggestion {ask:.0f} ms"


def print_catalogue() -> None:
    """Who takes part and on what."""
    print("Peers (environment, and whether it is there; the subset each runs on)")
    for peer in PEERS.values():
        there = "there" if peer.python().exists() else f"missing: scripts/peers {peer.environment}"
        print(f"  {peer.name:16} {peer.environment}, {there}; {peer.subset}")
    print("Problems (budget; tags)")
    for problem in PROBLEMS.values():
        print(f"  {problem.name:28} {problem.budget:4}; {', '.join(problem.tags)}")
    print("Named subsets")
    for name, members in NAMED_SUBSETS.items():
        print(f"  {name}: {', '.join(members) if len(members) < len(PROBLEMS) else 'all problems'}")


def suggestion_times(run: Run) -> list[tuple[int, float]]:
    """Pairs of a number of finished trials and the seconds from sending that trial's result to holding the next
    suggestion.
    """
    pairs = zip(run.tells_s, run.asks_s[run.q :], strict=False)
    return [(n, tell + ask) for n, (tell, ask) in enumerate(pairs, 1)] or [(0, run.asks_s[0])]


def interval(value: Interval, digits: int = 2) -> str:
    """An estimate with its interval."""
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def standing_table(found: Sequence[Standing]) -> str:
    """Standings as a table."""
    return table(
        ["peer", "mean rank", "mean log10 regret", "rank at 50 %", "log10 regret at 50 %", "best in"],
        (
            [
                s.peer,
                interval(s.rank),
                interval(s.log_regret),
                interval(s.rank_half),
                interval(s.log_regret_half),
                f"{s.best:.0%}",
            ]
            for s in found
        ),
    )


def single_objective(run: Run) -> bool:
    """Whether the run belongs to the main comparison: one objective, no constraint, moderate dimension."""
    return not {"multi-objective", "constrained", "high-dimensional"} & set(run.tags)


def groups(runs: Sequence[Run]) -> list[tuple[str, list[Run]]]:
    """The runs of one q overall and by tag, each with its name; stand-ins for those that failed."""
    good = filled(runs)
    named: list[tuple[str, Callable[[Run], bool]]] = [("all with one objective", single_objective)]
    named += [(tag, lambda run, tag=tag: tag in run.tags) for tag in TAGS]  # type: ignore[misc]
    found = [(name, [run for run in good if belongs(run)]) for name, belongs in named]
    return [(name, members) for name, members in found if members]


def comparisons(runs: Sequence[Run], refs: Mapping[tuple[str, int], Reference]) -> list[list[Standing]]:
    """Standings of a group of runs of one q: first of the peers that ran nearly all of it, then with those added that
    ran less.
    """
    cells: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for run in runs:
        cells[run.peer].add((run.problem, run.seed))
    everything = set().union(*cells.values())
    found: list[list[Standing]] = []
    before: list[str] = []
    for least in COVERAGE:
        peers = sorted(peer for peer, of in cells.items() if len(of) > least * len(everything) - 1e-9)
        if peers != before and len(peers) > 1:
            made = standings(runs, peers, refs)
            if made:
                found.append(made)
            before = peers
    return found


def tables(runs: Sequence[Run]) -> str:
    """Standings for each q, overall and by tag."""
    refs = references(runs, PROBLEMS)
    parts = []
    for q in sorted({run.q for run in runs}):
        for name, group in groups([run for run in runs if run.q == q]):
            for i, found in enumerate(comparisons(group, refs)):
                cells = found[0].cells
                also = " and those that ran on a part" if i else ""
                title = f"### {name[0].upper()}{name[1:]}{also}, q = {q}"
                parts.append(
                    f"{title}\n\n{cells} cell{'s' if cells > 1 else ''} of problem and seed.\n\n{standing_table(found)}"
                )
    return "\n\n".join(parts)


def _head_to_head(runs: Sequence[Run], refs: Mapping[tuple[str, int], Reference]) -> str:
    rows = []
    for q in sorted({run.q for run in runs}):
        for name, group in groups([run for run in runs if run.q == q]):
            if name not in ("all with one objective", "high-dimensional", "multi-objective", "constrained"):
                continue
            for peer in sorted({run.peer for run in group} - {OURS}):
                found = head_to_head(group, OURS, peer, refs)
                if found is not None:
                    cells, won, gain = found
                    rows.append([str(q), name, peer, str(cells), interval(won), interval(gain)])
    if not rows:
        return ""
    head = ["q", "problems", "peer", "cells", f"{OURS} better (a tie is half)", "log10 regret of the peer minus ours"]
    return f"## {OURS} against each peer\n\nOn the cells that both ran.\n\n{table(head, rows)}"


def _by_problem(runs: Sequence[Run], refs: Mapping[tuple[str, int], Reference]) -> str:
    parts = []
    for q in sorted({run.q for run in runs}):
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for run in runs:
            if run.q == q and run.error is None:
                log = float(np.log10(regret(run, 1.0, refs[run.problem, run.seed])))
                found[run.problem][run.peer].append(log)
        peers = sorted({peer for of in found.values() for peer in of})
        rows = []
        for problem in PROBLEMS:
            if problem in found:
                of = found[problem]
                means = {peer: float(np.mean(of[peer])) for peer in of}
                best = min(means.values())
                cells = [
                    ""
                    if peer not in means
                    else f"**{means[peer]:.2f}**"
                    if means[peer] == best
                    else f"{means[peer]:.2f}"
                    for peer in peers
                ]
                rows.append([problem, *cells])
        parts.append(f"### q = {q}\n\n{table(['problem', *peers], rows)}")
    return "## Mean log10 regret by problem\n\n" + "\n\n".join(parts)


def _latency(runs: Sequence[Run]) -> str:
    rows = []
    for q in sorted({run.q for run in runs}):
        for peer in sorted({run.peer for run in runs if run.q == q}):
            times = [
                pair
                for run in runs
                if run.peer == peer and run.q == q and not run.error
                for pair in suggestion_times(run)
            ]
            cells = []
            for low, high in STAGES:
                stage = [seconds for n, seconds in times if low <= n <= high]
                cells.append(f"{statistics.median(stage) * 1e3:.0f}" if stage else "")
            rows.append([str(q), peer, *cells])
    head = ["q", "peer", *(f"{low} to {high} trials" for low, high in STAGES)]
    return (
        "## Time to a suggestion\n\nMedian milliseconds from sending a result to holding the next suggestion, by number of "
        "finished trials, over all problems that a peer ran; for AskTell through gRPC and with the result on disk, for "
        "others in their own process.\n\n"
        f"{table(head, rows)}"
    )


def _memory(runs: Sequence[Run]) -> str:
    rows = []
    for peer in sorted({run.peer for run in runs}):
        used = [run.memory_mb for run in runs if run.peer == peer and run.memory_mb is not None]
        if used:
            rows.append([peer, f"{statistics.median(used):.0f}", f"{max(used):.0f}"])
    return (
        "## Memory\n\nPeak resident memory of a study, MiB: of the peer's process, and for AskTell of the server and its "
        "compute process together.\n\n"
        f"{table(['peer', 'median', 'largest'], rows)}"
    )


def _calibration(runs: Sequence[Run]) -> str:
    found: dict[tuple[str, str], list[Mapping[str, float]]] = defaultdict(list)
    for run in runs:
        for of in run.extra.get("calibration", {}).values():
            if "raw_coverage_90" in of:  # earlier versions scaled nothing, or otherwise
                found[run.peer, run.problem].append(of)
    if not found:
        return ""
    keys = ("coverage_90", "raw_coverage_90", "log_density", "r_squared")
    rows = []
    for (peer, problem), group in sorted(found.items()):
        means = [f"{np.mean([of[key] for of in group]):.2f}" for key in keys]
        scale = np.exp(np.mean([np.log(of["deviation_factor"]) for of in group]))
        rows.append([peer, problem, str(len(group)), *means, f"{scale:.2f}"])
    overall = {key: float(np.mean([of[key] for group in found.values() for of in group])) for key in keys}
    head = ["peer", "problem", "models", "coverage of 90 % intervals", "raw coverage", "log density", "R²", "factor"]
    return (
        "## Calibration\n\nHow well the model of a finished study predicts each result from the others (leave one out), as "
        "ExplainStudy says; the log density of a constant normal prediction is -1.42. Deviations are multiplied by a factor that "
        "is learned from the errors of the other results, so that a coverage near 0.9 is no merit of the process: its own is the "
        "*raw coverage*, and *factor* the geometric mean of how much too narrow its intervals are. Over all: coverage "
        f"{overall['coverage_90']:.2f}, raw {overall['raw_coverage_90']:.2f}, "
        f"log density {overall['log_density']:.2f}, R² {overall['r_squared']:.2f}.\n\n{table(head, rows)}"
    )


def _who(runs: Sequence[Run]) -> str:
    rows = []
    for peer in sorted({run.peer for run in runs}):
        of = [run for run in runs if run.peer == peer]
        last = max(of, key=lambda run: run.date)
        versions = next((run.versions for run in reversed(of) if run.versions), {})
        commits = sorted({run.commit for run in of}) if peer.startswith("asktell") else []
        failed = sum(run.error is not None for run in of)
        rows.append(
            [
                peer,
                ", ".join(f"{name} {number}" for name, number in versions.items())
                + (f"; commit {', '.join(commits)}" if commits else ""),
                str(len(of) - failed),
                str(failed),
                last.date[:10],
            ]
        )
    return f"## Who took part\n\n{table(['peer', 'versions', 'runs', 'failed', 'last run'], rows)}"


def absent() -> dict[str, str]:
    """Why an environment is not there, by its name."""
    found = {}
    for environment in sorted({peer.environment for peer in PEERS.values()}):
        failed = ROOT / ".peers" / f"{environment}.failed"
        if failed.exists():
            found[environment] = f"could not be installed: {' '.join(failed.read_text().split())[:300]}"
        elif not interpreter(environment).exists():
            found[environment] = "was not installed"
    return found


def caveats(runs: Sequence[Run]) -> str:
    """What the figures do not show, as far as the results themselves tell."""
    notes = []
    seeds = {run.seed for run in runs}
    notes.append(
        f"Seeds: {len(seeds)}. Intervals are 95 % bootstrap intervals over seeds within problems; they say nothing about other problems."
    )
    if len(seeds) == 1:
        notes.append("With one seed the intervals have no width: they mean nothing.")
    present = {run.peer.partition("@")[0] for run in runs}
    for environment, reason in absent().items():
        members = ", ".join(peer.name for peer in PEERS.values() if peer.environment == environment)
        notes.append(f"The environment `{environment}` ({members}) {reason}.")
    missing = [
        p.name
        for p in PEERS.values()
        if p.name not in present and p.subset != "asked-for" and p.environment not in absent()
    ]
    if missing:
        notes.append(f"Not run: {', '.join(missing)}.")
    for peer in sorted(present):
        entry = PEERS.get(peer)
        if entry is not None and entry.subset not in ("all", "asked-for"):
            ran = {run.problem for run in runs if run.peer == peer}
            rest = len(set(NAMED_SUBSETS[entry.subset]) - ran)
            notes.append(
                f"{peer} ran on {len(ran)} problems, and on {rest} of the subset `{entry.subset}` not, since it takes long."
            )
    if any(run.q > 1 for run in runs):
        notes.append(
            "Trials in parallel: on the subset `parallel` "
            f"({len(NAMED_SUBSETS['parallel'])} problems) unless problems were named."
        )
    uneven = Counter({peer: len({run.seed for run in runs if run.peer == peer}) for peer in {run.peer for run in runs}})
    fewer = [f"{peer} ({n})" for peer, n in sorted(uneven.items()) if n < len(seeds)]
    if fewer:
        notes.append(f"With fewer seeds: {', '.join(fewer)}. Tables compare on common cells only.")
    for run in runs:
        if run.error is not None:
            notes.append(f"Failed: {one_line(run)[:240]}")
    scales = sorted({round(run.budget / PROBLEMS[run.problem].budget, 2) for run in runs if run.problem in PROBLEMS})
    if scales != [1.0]:
        notes.append(f"Budgets were scaled by {', '.join(map(str, scales))}.")
    fallbacks = sum(run.extra.get("sources", {}).get("FALLBACK", 0) for run in runs)
    if fallbacks:
        notes.append(f"{fallbacks} of AskTell's suggestions were quasi-random, since the model was late or failed.")
    dirty = any(run.commit.endswith("+") for run in runs if run.peer.startswith("asktell"))
    if dirty:
        notes.append("A plus after a commit: the tree had changes that were not committed.")
    notes.append(
        "Latencies are of a machine that may have done other work, and of problems with different dimensions; a run with "
        "`--jobs` above 1 shares its cores."
    )
    return "\n".join(f"- {note}" for note in notes)


PROTOCOL = """Every peer gets the same problems, seeds and budgets, one thread, and settings as its documentation
recommends (benchmarks/optimizers/peers/). With q trials in parallel the oldest ends first, so a suggestion is made
without the results of q - 1 others. The seed moves the optimum of each problem, so that no centre or round number is
favoured.

- **Regret** is (achieved - optimum) / (median of 1000 random points - optimum): near 1 where random search begins. What
  is achieved is the noiseless value of the trial with the best observed
  value; with constraints the best feasible value; with several objectives the missing share of the largest hypervolume.
  Real problems' optima are the best that anybody found here.
- Regrets below 1e-8 count as 1e-8 (1e-3 on noisy and real problems, 1e-4 of hypervolume).
- **Ranks** are among the peers of a table, in each cell of problem and seed; 1 is best. *Best in*: the share of cells
  in which nobody was better. A run that failed counts as the worst run of its cell.
- In means each problem counts alike, however many seeds it has. In brackets: 95 % intervals, bootstrap over seeds."""


def _latency_measured(path: Path) -> str:
    """The figures that `--latency` left."""
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    rows = [[row["what"], row["n"], f"{row['median_ms']:.1f}", str(row["count"])] for row in found["rows"]]
    return (
        "## From a tell to the next suggestion, by number of trials\n\n"
        f"An 8-dimensional mixed space, through the server, one client; {found['note']}\n\n"
        f"{table(['what', 'finished trials', 'median ms', 'measured'], ([str(c) for c in row] for row in rows))}"
    )


def write(path: Path, runs: Sequence[Run], command: str, figures: Mapping[str, str], latency: Path) -> None:
    """Writes the report. `figures` are paths, relative to it, by title."""
    refs = references(runs, PROBLEMS)
    today = datetime.datetime.now(datetime.UTC).date()
    machines = sorted({run.machine for run in runs})
    shown = "\n\n".join(f"![{title}]({where})" for title, where in figures.items())
    parts = [
        "# Optimizers compared",
        f"Written on {today} by `{command}` from {len(runs)} runs; this file is generated.",
        f"Machine: {'; '.join(machines)}.",
        PROTOCOL,
        f"## Caveats\n\n{caveats(runs)}",
        f"## Standings\n\n{shown}\n\n{tables(runs)}",
        _head_to_head(runs, refs),
        _by_problem(runs, refs),
        _latency(runs),
        _latency_measured(latency),
        _memory(runs),
        _calibration(runs),
        _who(runs),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(part for part in parts if part) + "\n")
