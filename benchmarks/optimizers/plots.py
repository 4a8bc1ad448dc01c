"""The report's figures: mean ranks, regret along the budget, time to a suggestion."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from .catalogue import PEERS
from .problems import PROBLEMS
from .report import OURS, comparisons, groups, suggestion_times
from .results import Run
from .scoring import mean_curve, references

mpl.use("Agg")
mpl.rcParams.update({"svg.hashsalt": "asktell", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})

from matplotlib import pyplot as plt  # noqa: E402 # after the backend is chosen

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def _colours(peers: Sequence[str]) -> dict[str, Any]:
    """A colour for each peer, ours black; the same in every figure for peers of the catalogue."""
    wheel = plt.get_cmap("tab20").colors  # type: ignore[attr-defined]
    order = [*PEERS, *sorted(set(peers) - set(PEERS))]
    # First the ten strong colours, then their pale sisters.
    return {peer: wheel[(2 * i + i // 10) % 20] for i, peer in enumerate(p for p in order if p != OURS)} | {
        OURS: "black"
    }


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def mean_ranks(runs: Sequence[Run], q: int, path: Path) -> None:
    """Mean rank with its interval, a panel for all problems and for each tag, of the peers that ran nearly all."""
    refs = references(runs, PROBLEMS)
    panels = []
    for name, group in groups([run for run in runs if run.q == q]):
        compared = comparisons(group, refs)
        if compared:
            panels.append((name, compared[0]))
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 0.6 + 2.3 * rows), squeeze=False)
    colours = _colours([s.peer for _, found in panels for s in found])
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (name, found) in zip(axes.flat, panels, strict=False):
        for i, s in enumerate(reversed(found)):
            axis.plot([s.rank.low, s.rank.high], [i, i], color=colours[s.peer], linewidth=3, alpha=0.4)
            axis.plot([s.rank.mean], [i], "o", color=colours[s.peer])
        axis.set_yticks(range(len(found)), [s.peer for s in reversed(found)])
        axis.set_title(f"{name} ({found[0].cells} cells)", fontsize=9)
        axis.set_xlabel("mean rank")
    figure.suptitle(f"Mean rank at the end of the budget, q = {q} (left is better)")
    figure.tight_layout()
    _save(figure, path)


def regret_curves(runs: Sequence[Run], q: int, path: Path) -> None:
    """Mean log10 regret along the budget, with 95 % bands, on the cells that the compared peers share."""
    refs = references(runs, PROBLEMS)
    panels = []
    for name, group in groups([run for run in runs if run.q == q]):
        compared = comparisons(group, refs)
        if compared:
            peers = [s.peer for s in compared[0]]
            cells = set.intersection(*({(r.problem, r.seed) for r in group if r.peer == peer} for peer in peers))
            panels.append((name, peers, [run for run in group if (run.problem, run.seed) in cells]))
    if not panels:
        return
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 0.8 + 2.8 * rows), squeeze=False)
    colours = _colours([peer for _, peers, _ in panels for peer in peers])
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    drawn: dict[str, Any] = {}
    for axis, (name, peers, group) in zip(axes.flat, panels, strict=False):
        for peer in peers:
            curve = mean_curve([run for run in group if run.peer == peer], refs, SHARES)
            x = [share * 100 for share in SHARES]
            (drawn[peer],) = axis.plot(
                x, [c.mean for c in curve], color=colours[peer], linewidth=2 if peer == OURS else 1.2
            )
            axis.fill_between(x, [c.low for c in curve], [c.high for c in curve], color=colours[peer], alpha=0.12)
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("% of the budget")
        axis.set_ylabel("mean log10 regret")
    figure.legend(
        list(drawn.values()), list(drawn), loc="upper center", ncols=min(6, len(drawn)), bbox_to_anchor=(0.5, 0.0)
    )
    figure.suptitle(f"Normalised regret, q = {q} (lower is better)")
    figure.tight_layout()
    _save(figure, path)


def latency_curves(runs: Sequence[Run], q: int, path: Path) -> None:
    """Median seconds from a result to the next suggestion against the number of finished trials."""
    times: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.q == q and run.error is None:
            for n, seconds in suggestion_times(run):
                times[run.peer][(n - 1) // 10].append(seconds)
    if not times:
        return
    figure, axis = plt.subplots(figsize=(7, 4.2))
    colours = _colours(list(times))
    for peer, of in sorted(times.items()):
        x = np.array(sorted(of))
        y = [statistics.median(of[k]) for k in x]
        axis.plot(10 * x + 5, y, color=colours[peer], label=peer, linewidth=2 if peer == OURS else 1.2)
    axis.set_yscale("log")
    axis.set_xlabel("finished trials")
    axis.set_ylabel("seconds to the next suggestion (median)")
    axis.set_title(f"Time from a result to the next suggestion, q = {q}")
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, path)


def draw(runs: Sequence[Run], report: Path) -> dict[str, str]:
    """Draws all figures into the folder beside the report that has its name; returns their paths relative to it, by
    title.
    """
    folder = report.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for q in sorted({run.q for run in runs}):
        for title, name, plot in (
            ("Mean ranks", "mean-rank", mean_ranks),
            ("Regret along the budget", "regret", regret_curves),
            ("Time to a suggestion", "latency", latency_curves),
        ):
            path = folder / f"{name}-q{q}.svg"
            path.unlink(missing_ok=True)
            plot(runs, q, path)
            if path.exists():
                made[f"{title}, q = {q}"] = f"{folder.name}/{path.name}"
    return made
