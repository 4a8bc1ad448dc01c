"""Hypervolumes, regrets, ranks and intervals, on results made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.problems.base import Instance, Outcome, Problem
from benchmarks.optimizers.problems.hypervolume import dominates, front, hypervolume
from benchmarks.optimizers.report import comparisons, suggestion_times
from benchmarks.optimizers.results import Run
from benchmarks.optimizers.scoring import (
    Progress,
    Reference,
    filled,
    head_to_head,
    over_seeds,
    ranks,
    references,
    regret,
    standings,
)


def _nothing(_seed: int) -> Instance:
    raise AssertionError("no instance is needed")


def _run(peer: str, last: float, *, problem: str = "p", seed: int = 0, floor: float = 1e-8) -> Run:
    """A run that got to 1 at half of its budget and to `last` at the end."""
    return Run(peer, problem, seed, 1, 4, curve=(2.0, 1.0, 1.0, last), optimum=0.0, median=10.0, floor=floor)


def test_the_front_holds_each_point_that_nothing_dominates_once() -> None:
    """Dominated and repeated points are gone."""
    points = [(1.0, 3.0), (2.0, 2.0), (2.0, 2.0), (3.0, 1.0), (3.0, 2.0), (2.0, 4.0)]

    assert front(points) == [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    assert front([(1.0, 1.0, 2.0), (1.0, 1.0, 1.0), (0.0, 2.0, 2.0)]) == [(0.0, 2.0, 2.0), (1.0, 1.0, 1.0)]
    assert dominates((1.0, 1.0), (1.0, 2.0))
    assert not dominates((1.0, 1.0), (1.0, 1.0))


def test_hypervolume_by_hand() -> None:
    """Boxes add up without being counted twice, and what lies outside the reference adds nothing."""
    assert hypervolume([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)], (4.0, 4.0)) == 3 + 2 + 1
    assert hypervolume([(1.0, 3.0), (5.0, 0.0)], (4.0, 4.0)) == 3
    assert hypervolume([(4.0, 1.0)], (4.0, 4.0)) == 0
    assert hypervolume([], (1.0, 1.0)) == 0
    assert hypervolume([(0.0, 0.0, 0.0)], (1.0, 2.0, 3.0)) == 6
    assert hypervolume([(0.0, 1.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)], (2.0, 2.0, 2.0)) == 4


def test_hypervolume_in_three_dimensions_agrees_with_counting() -> None:
    """The slices add up to what a fine sample of the box says."""
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    sample = rng.random((100_000, 3))
    counted = np.mean(np.any(np.all(sample[:, None, :] >= points[None], axis=2), axis=1))

    assert hypervolume(points.tolist(), (1.0, 1.0, 1.0)) == pytest.approx(counted, abs=0.006)


def test_with_noise_the_truth_of_the_best_observed_trial_counts() -> None:
    """A lucky result replaces a better trial, and costs."""
    progress = Progress(Problem("p", (), 3, _nothing, noisy=True), None)

    for observed, truth in ((1.0, 1.2), (0.5, 2.0), (0.9, 0.1)):
        progress.add(Outcome((observed,)), lambda truth=truth: Outcome((truth,)))  # type: ignore[misc]

    assert progress.curve == [1.2, 2.0, 2.0]


def test_with_constraints_only_feasible_trials_count() -> None:
    """Before the first feasible one the worst value counts, however good the infeasible ones look."""
    progress = Progress(Problem("p", (), 3, _nothing, constraints=("c",)), 50.0)

    for value, slack in ((1.0, 0.1), (7.0, 0.0), (2.0, 0.5), (6.0, -1.0)):
        progress.add(Outcome((value,), (slack,)), lambda: Outcome((math.nan,)))

    assert progress.curve == [50.0, 7.0, 7.0, 6.0]


def test_with_several_objectives_the_dominated_volume_counts() -> None:
    """The curve is the volume, negative, since smaller is better."""
    progress = Progress(Problem("p", (), 3, _nothing, objectives=("a", "b"), reference=(4.0, 4.0)), None)

    for values in ((3.0, 1.0), (5.0, 5.0), (1.0, 3.0), (2.0, 2.0)):
        progress.add(Outcome(values), lambda: Outcome(()))

    assert progress.curve == [-3, -3, -5, -6]
    assert progress.front() == ((1.0, 3.0), (2.0, 2.0), (3.0, 1.0))
    assert progress.signed(8.0) == -8.0


def test_regret_is_normalised_and_floored() -> None:
    """0.5 above the optimum with a span of 10 is 0.05; nothing is below the floor."""
    reference = Reference(0.0, 10.0)

    assert regret(_run("a", 0.5), 1.0, reference) == pytest.approx(0.05)
    assert regret(_run("a", 0.5), 0.5, reference) == pytest.approx(0.1)
    assert regret(_run("a", 0.0), 1.0, reference) == 1e-8
    assert regret(_run("a", 0.001, floor=1e-3), 1.0, reference) == 1e-3


def test_an_unknown_optimum_is_the_best_in_the_results() -> None:
    """And the span goes to the median of what random search saw."""
    mine = Run("a", "p", 0, 1, 2, curve=(3.0, 1.0), values=((3.0,), (1.0,)))
    random = Run("random", "p", 1, 1, 3, curve=(9.0, 5.0, 5.0), values=((9.0,), (5.0,), (7.0,)))

    found = references([mine, random], PROBLEMS)

    assert found == {("p", 0): Reference(1.0, 6.0), ("p", 1): Reference(1.0, 6.0)}


def test_an_unknown_largest_volume_is_that_of_all_fronts_together() -> None:
    """Fronts of several runs are joined."""
    name = "mlp-digits-error-size"
    first = Run("a", name, 0, 1, 1, curve=(-0.1,), front=((0.5, 2.2),))
    second = Run("b", name, 0, 1, 1, curve=(-0.2,), front=((0.2, 3.2),))

    found = references([first, second], PROBLEMS)[name, 0]

    assert found.optimum == pytest.approx(-(0.5 * 2.0 + 0.3 * 1.0))
    assert found.span == pytest.approx(1.3)


def test_ties_share_their_rank() -> None:
    """Two first places are 1.5 each."""
    assert ranks({"a": 1.0, "b": 1.0, "c": 2.0, "d": 3.0}) == {"a": 1.5, "b": 1.5, "c": 3.0, "d": 4.0}


def test_standings_by_hand() -> None:
    """Peers are compared on the cells that all ran, and the one with the best mean rank stands first."""
    runs = [_run("a", 0.1), _run("b", 0.2), _run("c", 0.3), _run("a", 0.1, seed=1), _run("b", 0.01, seed=1)]
    runs += [_run("c", 0.3, seed=1), _run("a", 0.1, seed=2)]

    found = standings(runs, ["a", "b", "c"], references(runs, PROBLEMS))

    assert [s.peer for s in found] == ["a", "b", "c"]
    assert {s.cells for s in found} == {2}
    assert [s.rank.mean for s in found] == [1.5, 1.5, 3.0]
    assert [s.rank_half.mean for s in found] == [2.0, 2.0, 2.0]
    assert found[0].log_regret.mean == pytest.approx(-2)
    assert found[0].best == 0.5


def test_a_peer_that_ran_on_less_is_compared_apart() -> None:
    """First those that ran everything, on everything; then all of them, on what all ran."""
    runs = [_run(peer, 0.1, seed=seed) for peer in ("a", "b") for seed in range(10)]
    runs += [_run("dear", 0.1, seed=seed) for seed in range(3)]

    found = comparisons(runs, references(runs, PROBLEMS))

    assert [(sorted(s.peer for s in group), group[0].cells) for group in found] == [
        (["a", "b"], 10),
        (["a", "b", "dear"], 3),
    ]


def test_a_failed_run_counts_as_the_worst_of_its_cell() -> None:
    """A peer gains nothing by breaking on what is hard; one that never ran is not compared."""
    runs = [_run("a", 0.1), _run("b", 0.2), _run("c", 0.3), _run("a", 0.1, seed=1), _run("c", 0.4, seed=1)]
    runs += [Run("b", "p", 1, 1, 4, error="broken"), Run("absent", "p", 0, 1, 4, error="not installed")]
    runs += [Run("b", "p", 2, 1, 4, error="broken")]

    found = filled(runs)

    assert {(run.peer, run.seed) for run in found} == {(peer, seed) for peer in "abc" for seed in (0, 1)}
    assert found[-1].curve == (2.0, 1.0, 1.0, 0.4)
    assert regret(found[-1], 1.0, references(found, PROBLEMS)["p", 1]) == pytest.approx(0.04)


def test_head_to_head_by_hand() -> None:
    """One win, one tie: three quarters; gains are in decades of regret."""
    runs = [_run("a", 0.01), _run("b", 0.1), _run("a", 0.1, seed=1), _run("b", 0.1, seed=1), _run("b", 0.1, seed=2)]

    found = head_to_head(runs, "a", "b", references(runs, PROBLEMS))

    assert found is not None
    cells, won, gain = found
    assert cells == 2
    assert won.mean == 0.75
    assert gain.mean == pytest.approx(0.5)
    assert head_to_head(runs, "a", "nobody", {}) is None


def test_a_problem_counts_alike_with_one_seed_or_many() -> None:
    """Ten more seeds of one problem do not draw the mean towards it."""
    few = over_seeds({("a", 0): 0.0, ("b", 0): 1.0}, np.random.default_rng(0))
    many = over_seeds({("a", 0): 0.0} | {("b", seed): 1.0 for seed in range(10)}, np.random.default_rng(0))

    assert few.mean == many.mean == 0.5


def test_intervals_are_over_seeds_within_problems() -> None:
    """Problems that differ widely do not widen the interval; seeds that differ do."""
    rng = np.random.default_rng(0)
    steady = over_seeds({(p, s): float(p == "hard") * 100 for p in ("easy", "hard") for s in range(5)}, rng)
    shaky = over_seeds({("easy", s): float(s) for s in range(5)}, rng)

    assert (steady.low, steady.mean, steady.high) == (50.0, 50.0, 50.0)
    assert shaky.low < shaky.mean == 2.0 < shaky.high


def test_the_time_to_a_suggestion_goes_from_a_tell_to_the_ask_after_it() -> None:
    """With two in parallel the third ask follows the first tell; what is asked before any result is not counted."""
    run = Run("a", "p", 0, 2, 4, curve=(1.0,), asks_s=(9.0, 9.0, 0.3, 0.4), tells_s=(0.1, 0.2, 0.5, 0.6))

    assert suggestion_times(run) == [(1, pytest.approx(0.4)), (2, pytest.approx(0.6))]
