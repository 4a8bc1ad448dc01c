"""The optimizer benchmark's problems are what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.optimizers import space as spaces
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.problems.base import Instance, Problem, scale
from benchmarks.optimizers.problems.hpo import SPLITS
from benchmarks.optimizers.problems.hypervolume import hypervolume
from benchmarks.optimizers.problems.multiobjective import zdt1

WITH_OPTIMUM = [p for p in PROBLEMS.values() if p.instance(0).optimum_at is not None]
WITH_FRONT = [p for p in PROBLEMS.values() if p.reference and p.cheap]
names = [p.name for p in WITH_OPTIMUM]


def _near(instance: Instance, point: spaces.Point, rng: np.random.Generator) -> spaces.Point:
    """The point with its floats moved a little, inside the space."""
    moved = dict(point)
    for p in instance.space:
        if p.kind == "float" and p.name in moved:
            u = p.encode(moved[p.name]) + 10 ** rng.uniform(-5, -1) * rng.standard_normal()
            moved[p.name] = p.decode(u)
    return moved


def test_there_are_enough_problems_of_each_kind() -> None:
    """The benchmark has the breadth that it claims."""
    tagged = {tag: [p for p in PROBLEMS.values() if tag in p.tags] for p in PROBLEMS.values() for tag in p.tags}
    special = {"high-dimensional", "multi-objective", "constrained"}
    single = [p for p in PROBLEMS.values() if not special & set(p.tags)]

    assert len(single) >= 24
    assert len(tagged["high-dimensional"]) == 4
    assert {len(p.instance(0).space) for p in tagged["high-dimensional"]} == {100}
    assert {p.budget for p in tagged["high-dimensional"]} == {300}
    assert len(tagged["multi-objective"]) >= 4
    assert len(tagged["constrained"]) >= 4
    assert min(len(tagged[tag]) for tag in ("mixed", "real-hpo", "noisy", "conditional")) >= 4


@pytest.mark.parametrize("problem", WITH_OPTIMUM, ids=names)
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_the_known_optimum_is_one(problem: Problem, seed: int) -> None:
    """The optimum lies in the space and is feasible, has the value that is claimed, and no random or near point has a better one."""
    instance = problem.instance(seed)
    assert instance.optimum_at is not None
    assert instance.optimum is not None
    rng = np.random.default_rng(seed)
    best = spaces.active(instance.space, instance.optimum_at)

    outcome = instance.truth(best)

    slack = 1e-9 * max(1.0, abs(instance.optimum))
    assert outcome.feasible
    assert outcome.values[0] == pytest.approx(instance.optimum, rel=1e-9, abs=1e-9)
    others = [spaces.active(instance.space, spaces.sample(instance.space, rng)) for _ in range(300)]
    others += [_near(instance, best, rng) for _ in range(300)]
    found = [outcome for outcome in map(instance.truth, others) if outcome.feasible]
    assert min((outcome.values[0] for outcome in found), default=np.inf) >= instance.optimum - max(
        slack, 1e-5 * abs(instance.optimum)
    )


@pytest.mark.parametrize("problem", WITH_OPTIMUM, ids=names)
def test_the_optimum_moves_with_the_seed(problem: Problem) -> None:
    """Nobody gains by trying the same place on every seed: the optimum's place in the box differs."""
    places = set()
    for seed in range(4):
        instance = problem.instance(seed)
        assert instance.optimum_at is not None
        places.add(tuple(round(u, 4) for u in spaces.to_unit(instance.space, instance.optimum_at)))

    assert len(places) == 4


@pytest.mark.parametrize("problem", WITH_OPTIMUM, ids=names)
def test_a_seed_makes_the_same_instance_again(problem: Problem) -> None:
    """Every peer gets the same instance, with the same scale."""
    first, again = problem.instance(3), problem.instance(3)
    point = spaces.active(first.space, spaces.sample(first.space, np.random.default_rng(0)))

    assert first.space == again.space
    assert first.truth(point) == again.truth(point)
    measured = scale(problem, first, 3)
    assert measured is not None
    assert measured == scale(problem, again, 3)
    assert measured.worst >= measured.median > (first.optimum or 0.0)


@pytest.mark.parametrize("problem", WITH_FRONT, ids=[p.name for p in WITH_FRONT])
def test_no_points_dominate_more_than_the_largest_hypervolume(problem: Problem) -> None:
    """The hypervolume that is called the largest is: random points stay below, though some reach into the box."""
    instance = problem.instance(1)
    assert instance.optimum is not None
    rng = np.random.default_rng(1)
    found = [
        instance.truth(spaces.active(instance.space, spaces.sample(instance.space, rng))).values for _ in range(2000)
    ]

    assert 0 < hypervolume(found, problem.reference) < instance.optimum


def test_the_front_of_zdt1_has_its_area() -> None:
    """The area above f2 = 1 - sqrt(f1) up to (1.1, 3): 1.1 * 3 - 1/3 - 0.1 * 0, that of the front's formula."""
    instance = PROBLEMS["zdt1-5"].instance(0)

    # Below the front lies the integral of 1 - sqrt(x) over [0, 1], a third.
    assert instance.optimum == pytest.approx(1.1 * 3 - 1 / 3, rel=1e-3)
    assert zdt1(np.zeros(5)) == (0.0, 1.0)


def test_noise_has_no_bias_and_does_not_touch_the_truth() -> None:
    """A noisy problem's trials scatter around its truth."""
    instance = PROBLEMS["noisy-hartmann-6"].instance(0)
    assert instance.optimum_at is not None
    rng = np.random.default_rng(0)

    seen = [instance.evaluate(instance.optimum_at, rng).values[0] for _ in range(2000)]

    assert np.std(seen) > 0
    assert abs(np.mean(seen) - instance.truth(instance.optimum_at).values[0]) < 4 * np.std(seen) / np.sqrt(len(seen))


@pytest.mark.parametrize("name", ["svm-digits", "classifier-wine", "mlp-digits-small"])
def test_a_real_problem_measures_one_of_the_splits_that_its_truth_averages(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial trains on one split, the truth is the mean over all, and what was trained once is not trained again."""
    monkeypatch.setenv("ASKTELL_BENCH_DIR", str(tmp_path))
    monkeypatch.setattr("benchmarks.optimizers.problems.cache._connection", None)
    instance = PROBLEMS[name].instance(0)
    rng = np.random.default_rng(2)
    differing = 0
    for _ in range(3):
        point = spaces.active(instance.space, spaces.sample(instance.space, rng))

        truth = instance.truth(point).values[0]
        seen = {instance.evaluate(point, np.random.default_rng(i)).values[0] for i in range(40)}

        assert len(seen) <= SPLITS
        assert min(seen) - 1e-12 <= truth <= max(seen) + 1e-12
        assert instance.truth(point).values[0] == truth
        differing += len(seen) > 1
    # A hopeless point may score the same on each split.
    assert differing
    assert (tmp_path / "evaluations.db").exists()
