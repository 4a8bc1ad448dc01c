"""What a problem is.

A *problem* becomes an *instance* by a seed, which draws where its optimum lies; every peer gets the same instance for
the same seed. The *truth* of a point is its outcome without noise; an evaluation may add noise, drawn anew for each
trial. All objectives are minimised, and a constraint holds where its slack is at most 0.

    problem.instance(seed).evaluate(point, rng) -> Outcome
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .. import space as spaces
from ..space import Point, Space

Array = NDArray[np.float64]
Tag = Literal[
    "continuous", "mixed", "real-hpo", "noisy", "conditional", "high-dimensional", "multi-objective", "constrained"
]
SAMPLE = 1000
FLOOR = 1e-8
COARSE_FLOOR = 1e-3


@dataclass(frozen=True)
class Outcome:
    """What came out of one trial."""

    values: tuple[float, ...]
    slack: tuple[float, ...] = ()

    @property
    def feasible(self) -> bool:
        """Whether every constraint holds."""
        return all(slack <= 0 for slack in self.slack)


@dataclass(frozen=True)
class Instance:
    """A problem with its seed: what can be evaluated."""

    space: Space
    # The outcome of an active point without noise.
    truth: Callable[[Point], Outcome]
    # The least value, or with several objectives the largest hypervolume; None where nobody knows it.
    optimum: float | None = None
    # A point whose truth is `optimum`, where one is known. For tests: no peer sees it.
    optimum_at: Point | None = None
    # The noisy outcome of an active point; absent: the truth.
    observe: Callable[[Point, np.random.Generator], Outcome] | None = None

    def evaluate(self, point: Point, rng: np.random.Generator) -> Outcome:
        """What a trial at an active point measures."""
        return self.truth(point) if self.observe is None else self.observe(point, rng)


@dataclass(frozen=True)
class Problem:
    """A named problem: how to make its instances, how long to try, and which subsets of the benchmark it belongs to."""

    name: str
    tags: tuple[Tag, ...]
    # Trials at full scale.
    budget: int
    instance: Callable[[int], Instance]
    objectives: tuple[str, ...] = ("loss",)
    constraints: tuple[str, ...] = ()
    # The corner from which hypervolume is measured; with several objectives only. Peers are not told.
    reference: tuple[float, ...] = ()
    noisy: bool = False
    # Whether an evaluation takes microseconds, so that a thousand random points can set the scale.
    cheap: bool = True
    # With constraints: what counts before the first feasible trial, where evaluations are dear.
    worst: float | None = None
    # Normalised regrets below this count as this.
    floor: float = FLOOR
    # Where the formula is from.
    source: str = field(default="", compare=False)


@dataclass(frozen=True)
class Scale:
    """What `SAMPLE` random points of an instance are worth, as a fixed measure for regrets."""

    # Median value of the feasible ones.
    median: float
    # Largest value of any.
    worst: float


def scale(problem: Problem, instance: Instance, seed: int) -> Scale | None:
    """The measure of an instance with one objective; None if evaluations are dear."""
    if not problem.cheap or len(problem.objectives) > 1:
        return None
    rng = np.random.default_rng([7, seed])
    outcomes = [
        instance.truth(spaces.active(instance.space, spaces.sample(instance.space, rng))) for _ in range(SAMPLE)
    ]
    feasible = [outcome.values[0] for outcome in outcomes if outcome.feasible]
    everything = [outcome.values[0] for outcome in outcomes]
    return Scale(float(np.median(feasible or everything)), max(everything))


def rotation(d: int, rng: np.random.Generator) -> Array:  # (d, d), orthogonal
    """A random rotation, uniform over the orthogonal group (Mezzadri 2007)."""
    q, r = np.linalg.qr(rng.standard_normal((d, d)))
    return np.asarray(q * np.sign(np.diag(r)))


def crop(rng: np.random.Generator, low: Array, high: Array, best: Array) -> tuple[Array, Array]:  # all (d,)
    """A part of the box that holds `best`, at a place in it that the seed decides: each side keeps 40 to 100 % of its
    length from the optimum.
    """
    return best - (best - low) * rng.uniform(0.4, 1.0, len(low)), best + (high - best) * rng.uniform(0.4, 1.0, len(low))


def vector(point: Point) -> Array:  # (d,)
    """The numbers of a point that has nothing else, in the space's order."""
    return np.array([float(value) for value in point.values()])


def simple(f: Callable[[Array], float]) -> Callable[[Point], Outcome]:
    """The truth of a problem with one objective over numbers."""
    return lambda point: Outcome((float(f(vector(point))),))


def box(low: Array, high: Array) -> Space:  # (d,) each
    """A space of floats x0, x1, ..."""
    return tuple(spaces.real(f"x{i}", float(a), float(b)) for i, (a, b) in enumerate(zip(low, high, strict=True)))


def point_of(space: Space, x: Array) -> Point:
    """`vector` backwards, for spaces of floats."""
    return {parameter.name: float(value) for parameter, value in zip(space, x, strict=True)}


def noisy(problem: Problem, name: str, relative: float, budget: int) -> Problem:
    """The problem with normal noise on its one objective, of `relative` times the spread of its values (half the
    distance between the 16th and 84th percentile of a random sample).
    """

    def instance(seed: int) -> Instance:
        quiet = problem.instance(seed)
        rng = np.random.default_rng([11, seed])
        values = [
            quiet.truth(spaces.active(quiet.space, spaces.sample(quiet.space, rng))).values[0] for _ in range(200)
        ]
        low, high = np.percentile(values, [16, 84])
        deviation = relative * float(high - low) / 2

        def observe(point: Point, rng: np.random.Generator) -> Outcome:
            return Outcome((quiet.truth(point).values[0] + deviation * float(rng.standard_normal()),))

        return Instance(quiet.space, quiet.truth, quiet.optimum, quiet.optimum_at, observe)

    return Problem(
        name,
        ("noisy",),
        budget,
        instance,
        noisy=True,
        floor=COARSE_FLOOR,
        source=f"{problem.name} with normal noise",
    )
