"""Functions with a formula over floats: two to sixty dimensions, and a hundred.

The formulas are those of Surjanovic and Bingham's Virtual Library of Simulation Experiments and of the BBOB suite
(Hansen et al. 2009, "Real-Parameter Black-Box Optimization Benchmarking 2009: Noiseless Functions Definitions"). The
seed moves each: functions that are defined everywhere are shifted, so that their optimum lies anywhere in the inner 60
% of the box (or as far as their original allows), and some are rotated; others have their box cropped around the
optimum. So no peer gains from trying the centre, a corner or a round number.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from .base import Array, Instance, Problem, Tag, box, crop, noisy, point_of, rotation, simple

Function = Callable[[Array], float]


def branin(x: Array) -> float:
    """Branin (1972); three optima, 0.397887."""
    a, b = x
    square = b - 5.1 / (4 * math.pi**2) * a**2 + 5 / math.pi * a - 6
    return float(square**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(a) + 10)


BRANIN_BEST = 10 / (8 * math.pi)


def camel(x: Array) -> float:
    """Six-hump camel; two optima."""
    a, b = x
    return float((4 - 2.1 * a**2 + a**4 / 3) * a**2 + a * b + (-4 + 4 * b**2) * b**2)


def goldstein_price(x: Array) -> float:
    """The logarithm of Goldstein and Price's function; optimum log 3 at (0, -1)."""
    a, b = x
    first = 1 + (a + b + 1) ** 2 * (19 - 14 * a + 3 * a**2 - 14 * b + 6 * a * b + 3 * b**2)
    second = 30 + (2 * a - 3 * b) ** 2 * (18 - 32 * a + 12 * a**2 + 48 * b - 36 * a * b + 27 * b**2)
    return math.log(first * second)


_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_A3 = np.array([[3, 10, 30], [0.1, 10, 35], [3, 10, 30], [0.1, 10, 35]], dtype=float)
_P3 = 1e-4 * np.array([[3689, 1170, 2673], [4699, 4387, 7470], [1091, 8732, 5547], [381, 5743, 8828]])
_A6 = np.array(
    [
        [10, 3, 17, 3.5, 1.7, 8],
        [0.05, 10, 17, 0.1, 8, 14],
        [3, 3.5, 1.7, 10, 17, 8],
        [17, 8, 0.05, 10, 0.1, 14],
    ]
)
_P6 = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann3(x: Array) -> float:
    """Hartmann in three dimensions; -3.86278."""
    return -float(_WEIGHTS @ np.exp(-np.sum(_A3 * (x - _P3) ** 2, axis=1)))


def hartmann6(x: Array) -> float:
    """Hartmann in six dimensions; -3.32237."""
    return -float(_WEIGHTS @ np.exp(-np.sum(_A6 * (x - _P6) ** 2, axis=1)))


HARTMANN3_AT = np.array([0.11458887974090096, 0.5556488943069666, 0.8525469846004501])
HARTMANN6_AT = np.array([0.20168951, 0.15001069, 0.47687398, 0.27533243, 0.31165162, 0.65730053])


def ackley(z: Array) -> float:
    """Ackley (1987) around 0."""
    return float(
        -20 * math.exp(-0.2 * math.sqrt(float(np.mean(z**2))))
        - math.exp(float(np.mean(np.cos(2 * np.pi * z))))
        + 20
        + math.e
    )


def levy(z: Array) -> float:
    """Levy (1954) around 0: the usual optimum at 1 moved there."""
    w = 1 + z / 4
    body = (w[:-1] - 1) ** 2 * (1 + 10 * np.sin(np.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + math.sin(2 * math.pi * w[-1]) ** 2)
    return float(math.sin(math.pi * w[0]) ** 2 + body.sum() + last)


def rosenbrock(z: Array) -> float:
    """Rosenbrock (1960) around 0: the usual optimum at 1 moved there."""
    x = z + 1
    return float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2))


def rastrigin(z: Array) -> float:
    """Rastrigin (1974) around 0."""
    return float(10 * len(z) + np.sum(z**2 - 10 * np.cos(2 * np.pi * z)))


def griewank(z: Array) -> float:
    """Griewank (1981) around 0."""
    return float(1 + np.sum(z**2) / 4000 - np.prod(np.cos(z / np.sqrt(np.arange(1, len(z) + 1)))))


def styblinski_tang(x: Array) -> float:
    """Styblinski and Tang (1990), per dimension; -39.16617 at -2.903534."""
    return float(np.mean(x**4 - 16 * x**2 + 5 * x) / 2)


STYBLINSKI_TANG_AT = -2.9035340277711770
STYBLINSKI_TANG_BEST = -39.16616570377142


def michalewicz(x: Array) -> float:
    """Michalewicz (1992), m = 10."""
    return -float(np.sum(np.sin(x) * np.sin(np.arange(1, len(x) + 1) * x**2 / np.pi) ** 20))


# Each dimension has an optimum of its own, found to machine precision by a scalar search.
MICHALEWICZ5_AT = np.array(
    [2.2029055194053133, 1.5707963263627756, 1.2849915719502136, 1.9230584701333386, 1.7204697715261974]
)


def ellipsoid(condition: float) -> Function:
    """A quadratic bowl around 0 whose axes differ by `condition` (BBOB f2, f10)."""

    def f(z: Array) -> float:
        return float(np.sum(condition ** (np.arange(len(z)) / max(len(z) - 1, 1)) * z**2))

    return f


def different_powers(z: Array) -> float:
    """BBOB f14: sensitivities that differ ever more towards the optimum."""
    return float(math.sqrt(float(np.sum(np.abs(z) ** (2 + 4 * np.arange(len(z)) / (len(z) - 1))))))


def around_zero(f: Function, d: int, half: float, *, rotated: bool = False) -> Callable[[int], Instance]:
    """Instances of a function with optimum 0 at 0, in the box [-half, half]: shifted within its inner 60 %."""

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([d, seed])
        best = rng.uniform(-0.6, 0.6, d) * half
        turn = rotation(d, rng) if rotated else np.eye(d)
        space = box(np.full(d, -half), np.full(d, half))
        return Instance(space, simple(lambda x: f(turn @ (x - best))), 0.0, point_of(space, best))

    return instance


def shifted(
    f: Function, low: Array, high: Array, best: Array, optimum: float, reach: float
) -> Callable[[int], Instance]:
    """Instances of a function that is defined beyond its box: moved by up to `reach` of the sides, the optimum at
    `best` staying inside.
    """

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([len(low), seed])
        sides = high - low
        move = (
            np.clip(best + rng.uniform(-reach, reach, len(low)) * sides, low + 0.02 * sides, high - 0.02 * sides) - best
        )
        space = box(low, high)
        return Instance(space, simple(lambda x: f(x - move)), optimum, point_of(space, best + move))

    return instance


def cropped(f: Function, low: Array, high: Array, best: Array, optimum: float) -> Callable[[int], Instance]:
    """Instances of a function in a part of its box."""

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([len(low), seed])
        space = box(*crop(rng, low, high, best))
        return Instance(space, simple(f), optimum, point_of(space, best))

    return instance


def embedded(inner: Callable[[int], Instance], d: int) -> Callable[[int], Instance]:
    """Instances over [0, 1]^d in which only a few dimensions, drawn by the seed, matter (Wang et al. 2016)."""

    def instance(seed: int) -> Instance:
        small = inner(seed)
        rng = np.random.default_rng([d, 13, seed])
        places = rng.choice(d, len(small.space), replace=False)
        low = np.array([p.low for p in small.space])
        high = np.array([p.high for p in small.space])
        names = [p.name for p in small.space]

        def f(u: Array) -> float:
            x = low + u[places] * (high - low)
            return small.truth(dict(zip(names, x.tolist(), strict=True))).values[0]

        space = box(np.zeros(d), np.ones(d))
        assert small.optimum_at is not None
        best = np.full(d, 0.5)
        best[places] = (np.array([float(v) for v in small.optimum_at.values()]) - low) / (high - low)
        return Instance(space, simple(f), small.optimum, point_of(space, best))

    return instance


def _problem(name: str, budget: int, instance: Callable[[int], Instance], *tags: Tag) -> Problem:
    return Problem(name, tags or ("continuous",), budget, instance, source="virtual library / BBOB")


_branin = shifted(branin, np.array([-5.0, 0.0]), np.array([10.0, 15.0]), np.array([math.pi, 2.275]), BRANIN_BEST, 0.13)
_hartmann3 = shifted(hartmann3, np.zeros(3), np.ones(3), HARTMANN3_AT, hartmann3(HARTMANN3_AT), 0.15)
_hartmann6 = shifted(hartmann6, np.zeros(6), np.ones(6), HARTMANN6_AT, hartmann6(HARTMANN6_AT), 0.15)


def _styblinski(d: int) -> Callable[[int], Instance]:
    return shifted(
        styblinski_tang, np.full(d, -5.0), np.full(d, 5.0), np.full(d, STYBLINSKI_TANG_AT), STYBLINSKI_TANG_BEST, 0.18
    )


CONTINUOUS = (
    _problem("branin-2", 40, _branin),
    _problem(
        "camel-2",
        40,
        shifted(
            camel,
            np.array([-3.0, -2.0]),
            np.array([3.0, 2.0]),
            np.array([0.0898420131, -0.7126564032]),
            -1.0316284534898774,
            0.2,
        ),
    ),
    _problem(
        "goldstein-price-2",
        40,
        cropped(goldstein_price, np.full(2, -2.0), np.full(2, 2.0), np.array([0.0, -1.0]), math.log(3)),
    ),
    _problem("hartmann-3", 50, _hartmann3),
    _problem("hartmann-6", 70, _hartmann6),
    _problem("ackley-5", 70, around_zero(ackley, 5, 16.0)),
    _problem("ackley-rotated-10", 80, around_zero(ackley, 10, 16.0, rotated=True)),
    _problem("levy-4", 60, around_zero(levy, 4, 10.0)),
    _problem("levy-rotated-16", 100, around_zero(levy, 16, 10.0, rotated=True)),
    _problem("rosenbrock-2", 40, around_zero(rosenbrock, 2, 2.0)),
    _problem("rosenbrock-6", 70, around_zero(rosenbrock, 6, 2.0)),
    _problem("rastrigin-4", 60, around_zero(rastrigin, 4, 5.0)),
    _problem("griewank-6", 70, around_zero(griewank, 6, 30.0)),
    _problem(
        "michalewicz-5",
        70,
        cropped(michalewicz, np.zeros(5), np.full(5, math.pi), MICHALEWICZ5_AT, michalewicz(MICHALEWICZ5_AT)),
    ),
    _problem("styblinski-tang-5", 70, _styblinski(5)),
    _problem("ellipsoid-rotated-8", 80, around_zero(ellipsoid(1e4), 8, 5.0, rotated=True)),
    _problem("different-powers-rotated-12", 80, around_zero(different_powers, 12, 5.0, rotated=True)),
    _problem("ellipsoid-rotated-30", 120, around_zero(ellipsoid(1e2), 30, 5.0, rotated=True)),
    _problem("styblinski-tang-60", 150, _styblinski(60)),
)

HIGH_DIMENSIONAL = (
    _problem("branin-in-100", 300, embedded(_branin, 100), "high-dimensional"),
    _problem("hartmann-6-in-100", 300, embedded(_hartmann6, 100), "high-dimensional"),
    _problem("levy-4-in-100", 300, embedded(around_zero(levy, 4, 10.0), 100), "high-dimensional"),
    _problem("levy-100", 300, around_zero(levy, 100, 10.0), "high-dimensional"),
)


def _named(name: str) -> Problem:
    return next(problem for problem in CONTINUOUS if problem.name == name)


NOISY = (
    noisy(_named("branin-2"), "noisy-branin-2", 0.1, 60),
    noisy(_named("hartmann-6"), "noisy-hartmann-6", 0.3, 100),
    noisy(_named("levy-4"), "noisy-levy-4", 0.2, 80),
    noisy(_named("ackley-5"), "noisy-ackley-5", 0.3, 100),
    noisy(_named("styblinski-tang-5"), "noisy-styblinski-tang-5", 0.3, 100),
)
