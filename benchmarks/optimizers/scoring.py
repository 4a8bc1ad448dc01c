"""What a run is worth.

A run's *curve* is what had been achieved after each finished trial, smaller is better:

    one objective           the truth (the value without noise) of the incumbent, the trial with the best *observed* value: what a
                            user would deploy. So luck with noise does not pay, nor do good points that the results did not show to
                            be good; it is the same rule for every peer, whether or not it could recommend a point by
                            its own model. With noise the curve may rise.
    with constraints        the best feasible value; before the first feasible trial, the worst value of the instance's random sample
    several objectives      minus the hypervolume that the trials' truths dominate, up to the problem's reference point

*Normalised regret* is (achieved - optimum) / (median of 1000 random points - optimum), so random search begins near 1;
for hypervolume it is the missing share of the largest. Where nobody knows the optimum, it is the best that any run in
the results reached, and the median is that of the random search's trials. Regrets below a problem's floor (1e-8; 1e-3
for noisy and real problems, whose last digits mean nothing) count as the floor.

*Ranks* are taken in each cell, a problem with a seed and a q, among the peers that are compared, ties sharing their mean.
A run that failed counts as the worst run of its cell.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .problems.base import Outcome, Problem
from .problems.hypervolume import front, hypervolume
from .results import Run

Array = NDArray[np.float64]
RESAMPLES = 2000


class Progress:
    """The curve of a run while it is made."""

    def __init__(self, problem: Problem, worst: float | None) -> None:
        self._problem = problem
        self._worst = worst
        self._front: list[tuple[float, ...]] = []
        self._best = math.inf
        self.curve: list[float] = []

    def add(self, outcome: Outcome, truth: Callable[[], Outcome]) -> None:
        """One more finished trial; `truth` is asked only when it matters."""
        if self._problem.reference:
            if outcome.feasible:
                self._front = front([*self._front, truth().values if self._problem.noisy else outcome.values])
            self.curve.append(-hypervolume(self._front, self._problem.reference))
            return
        if outcome.feasible and outcome.values[0] < self._best:
            self._best = outcome.values[0]
            self.curve.append(truth().values[0] if self._problem.noisy else outcome.values[0])
        elif self.curve:
            self.curve.append(self.curve[-1])
        else:
            self.curve.append(outcome.values[0] if self._worst is None else self._worst)

    def front(self) -> tuple[tuple[float, ...], ...]:
        """The truths that no other dominates; empty with one objective."""
        return tuple(self._front)

    def signed(self, optimum: float | None) -> float | None:
        """The optimum as a value of the curve."""
        return -optimum if optimum is not None and self._problem.reference else optimum


@dataclass(frozen=True)
class Reference:
    """By which the regrets of one instance are normalised."""

    optimum: float
    span: float


def references(runs: Iterable[Run], problems: Mapping[str, Problem]) -> dict[tuple[str, int], Reference]:
    """For each problem and seed, the optimum and the span; taken from the results where nobody knows them."""
    by_problem: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        if run.error is None:
            by_problem[run.problem].append(run)
    found = {}
    for name, group in by_problem.items():
        reference = problems[name].reference if name in problems else ()
        known = {run.seed: run for run in group}
        empirical = min(min(run.curve) for run in group)
        if reference:
            empirical = -hypervolume([p for run in group for p in run.front], reference)
        for seed, run in known.items():
            optimum = empirical if run.optimum is None else run.optimum
            if reference:
                span = abs(optimum)
            else:
                span = (_median(group) if run.median is None else run.median) - optimum
            found[name, seed] = Reference(optimum, max(span, 1e-12))
    return found


def _median(group: Sequence[Run]) -> float:
    """Median value of random search's trials, or of everybody's first ten."""
    drawn = [value[0] for run in group if run.peer == "random" for value in run.values]
    return float(np.median(drawn or [value[0] for run in group for value in run.values[:10]]))


def filled(runs: Sequence[Run]) -> list[Run]:
    """The runs of one q, those that failed replaced by stand-ins that are at every moment as bad as the worst run of their
    cell. Left out are failed runs of peers that never ended one (they could not run at all) and those in cells where all failed.
    """
    ran = {run.peer for run in runs if run.error is None}
    curves: dict[tuple[str, int], list[tuple[float, ...]]] = defaultdict(list)
    found = []
    for run in runs:
        if run.error is None:
            curves[run.problem, run.seed].append(run.curve)
            found.append(run)
    for run in runs:
        others = curves[run.problem, run.seed]
        if run.error is not None and run.peer in ran and others:
            worst = tuple(max(values) for values in zip(*others, strict=False))
            like = next(r for r in found if (r.problem, r.seed) == (run.problem, run.seed))
            found.append(
                replace(
                    run, error=None, curve=worst, optimum=like.optimum, median=like.median, floor=like.floor, front=()
                )
            )
    return found


def regret(run: Run, share: float, reference: Reference) -> float:
    """Normalised regret after `share` of the budget, floored."""
    at = max(1, math.ceil(share * len(run.curve))) - 1
    return max((run.curve[at] - reference.optimum) / reference.span, run.floor)


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def over_seeds(cells: Mapping[tuple[str, int], float], rng: np.random.Generator) -> Interval:
    """The mean over cells (problem, seed) in which each problem counts alike, however many seeds it has, and how it varies when seeds
    are drawn anew: seeds are resampled within each problem, problems are kept.
    """
    by_problem: dict[str, list[float]] = defaultdict(list)
    for (problem, _), value in cells.items():
        by_problem[problem].append(value)
    groups = [np.array(values) for values in by_problem.values()]
    drawn = [group[rng.integers(len(group), size=(RESAMPLES, len(group)))].mean(axis=1) for group in groups]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Interval(float(np.mean([group.mean() for group in groups])), float(low), float(high))


def ranks(scores: Mapping[str, float]) -> dict[str, float]:
    """Rank of each peer by its score, 1 the smallest; ties share their mean."""
    ordered = sorted(scores.values())
    return {
        peer: float(np.mean([i + 1 for i, other in enumerate(ordered) if other == score]))
        for peer, score in scores.items()
    }


@dataclass(frozen=True)
class Standing:
    """How one peer did among those it is compared with."""

    peer: str
    cells: int
    rank: Interval
    rank_half: Interval
    log_regret: Interval
    log_regret_half: Interval
    # Share of cells in which nobody was better.
    best: float


def standings(runs: Sequence[Run], peers: Sequence[str], refs: Mapping[tuple[str, int], Reference]) -> list[Standing]:
    """The peers compared on the cells that all of them ran, best mean rank first. The runs are of one q."""
    by_peer: dict[str, dict[tuple[str, int], Run]] = {peer: {} for peer in peers}
    for run in runs:
        if run.error is None and run.peer in by_peer:
            by_peer[run.peer][run.problem, run.seed] = run
    cells = sorted(set.intersection(*(set(of) for of in by_peer.values()))) if by_peer else []
    if not cells:
        return []
    rng = np.random.default_rng(0)
    scores = {
        share: {peer: {cell: regret(of[cell], share, refs[cell]) for cell in cells} for peer, of in by_peer.items()}
        for share in (0.5, 1.0)
    }
    ranked = {
        share: {cell: ranks({peer: scores[share][peer][cell] for peer in peers}) for cell in cells}
        for share in (0.5, 1.0)
    }
    made = []
    for peer in peers:
        rank = {share: {cell: ranked[share][cell][peer] for cell in cells} for share in (0.5, 1.0)}
        logs = {share: {cell: math.log10(scores[share][peer][cell]) for cell in cells} for share in (0.5, 1.0)}
        best = np.mean([scores[1.0][peer][cell] <= min(scores[1.0][p][cell] for p in peers) for cell in cells])
        made.append(
            Standing(
                peer,
                len(cells),
                over_seeds(rank[1.0], rng),
                over_seeds(rank[0.5], rng),
                over_seeds(logs[1.0], rng),
                over_seeds(logs[0.5], rng),
                float(best),
            )
        )
    return sorted(made, key=lambda standing: standing.rank.mean)


def head_to_head(
    runs: Sequence[Run], ours: str, other: str, refs: Mapping[tuple[str, int], Reference]
) -> tuple[int, Interval, Interval] | None:
    """Over the cells that both ran: their number, the share in which `ours` ended better (a tie is half), and by how
    much lower its log10 regret was. The runs are of one q.
    """
    mine = {(run.problem, run.seed): run for run in runs if run.peer == ours and run.error is None}
    theirs = {(run.problem, run.seed): run for run in runs if run.peer == other and run.error is None}
    cells = sorted(set(mine) & set(theirs))
    if not cells:
        return None
    won, gain = {}, {}
    for cell in cells:
        a, b = regret(mine[cell], 1.0, refs[cell]), regret(theirs[cell], 1.0, refs[cell])
        won[cell] = 0.5 if a == b else float(a < b)
        gain[cell] = math.log10(b) - math.log10(a)
    rng = np.random.default_rng(0)
    return len(cells), over_seeds(won, rng), over_seeds(gain, rng)


def mean_curve(
    runs: Sequence[Run], refs: Mapping[tuple[str, int], Reference], shares: Sequence[float]
) -> list[Interval]:
    """Mean log10 regret of one peer's runs of one q after each share of the budget."""
    rng = np.random.default_rng(0)
    return [
        over_seeds(
            {(run.problem, run.seed): math.log10(regret(run, share, refs[run.problem, run.seed])) for run in runs}, rng
        )
        for share in shares
    ]
