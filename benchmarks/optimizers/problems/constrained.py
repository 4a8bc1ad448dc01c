"""Problems with outcome constraints: a constraint's value must be at most 0.

Engineering designs are stated as Coello Coello (2002) and the survey of Kumar et al. (2020) have them; a box cropped
by the seed around the known optimum keeps anybody from gaining by bounds or round numbers. Their optima were found by
sequential quadratic programming from 200 starts, to ten digits, and agree with those in print.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from .. import space as spaces
from ..space import Point, Space, integer, real
from .base import COARSE_FLOOR, Array, Instance, Outcome, Problem, Tag, box, crop, point_of, vector
from .hpo import BATCHES, SPLITS, digits_error_and_size
from .synthetic import ackley, branin

Design = Callable[[Array], tuple[float, tuple[float, ...]]]


def gramacy(x: Array) -> tuple[float, tuple[float, ...]]:
    """The toy of Gramacy et al. (2016): a plane, a wavy bound and a disk; 0.5998 at (0.1954, 0.4044)."""
    a, b = x
    wave = 1.5 - a - 2 * b - 0.5 * math.sin(2 * math.pi * (a**2 - 2 * b))
    return float(a + b), (float(wave), float(a**2 + b**2 - 1.5))


def constrained_branin(x: Array) -> tuple[float, tuple[float, ...]]:
    """Branin inside a disk that holds one of its three optima (Gelbart et al. 2014)."""
    a, b = x
    return branin(x), (float((a - 2.5) ** 2 + (b - 7.5) ** 2 - 50),)


def welded_beam(x: Array) -> tuple[float, tuple[float, ...]]:
    """Cost of a welded beam: stress, buckling, deflection and geometry bounded; h, l, t, b."""
    h, length, t, b = x
    force, span, elastic, shear = 6000.0, 14.0, 30e6, 12e6
    direct = force / (math.sqrt(2) * h * length)
    moment = force * (span + length / 2)
    radius = math.sqrt(length**2 / 4 + ((h + t) / 2) ** 2)
    polar = 2 * (math.sqrt(2) * h * length * (length**2 / 12 + ((h + t) / 2) ** 2))
    torsion = moment * radius / polar
    stress = math.sqrt(direct**2 + direct * torsion * length / radius + torsion**2)
    bending = 6 * force * span / (b * t**2)
    deflection = 4 * force * span**3 / (elastic * t**3 * b)
    buckling = (
        4.013
        * elastic
        * math.sqrt(t**2 * b**6 / 36)
        / span**2
        * (1 - t / (2 * span) * math.sqrt(elastic / (4 * shear)))
    )
    cost = 1.10471 * h**2 * length + 0.04811 * t * b * (14 + length)
    return float(cost), (
        stress / 13600 - 1,
        bending / 30000 - 1,
        float(h - b),
        deflection / 0.25 - 1,
        force / buckling - 1,
    )


def spring(x: Array) -> tuple[float, tuple[float, ...]]:
    """Weight of a tension spring: wire diameter d, coil diameter D, number of coils n; times 100."""
    d, coil, n = x
    return float((n + 2) * coil * d**2 * 100), (
        float(1 - coil**3 * n / (71785 * d**4)),
        float((4 * coil**2 - d * coil) / (12566 * (coil * d**3 - d**4)) + 1 / (5108 * d**2) - 1),
        float(1 - 140.45 * d / (coil**2 * n)),
        float((d + coil) / 1.5 - 1),
    )


def speed_reducer(x: Array) -> tuple[float, tuple[float, ...]]:
    """Weight of a speed reducer with eleven bounds; the number of teeth may be any real number here."""
    b, m, z, l1, l2, d1, d2 = x
    weight = (
        0.7854 * b * m**2 * (3.3333 * z**2 + 14.9334 * z - 43.0934)
        - 1.508 * b * (d1**2 + d2**2)
        + 7.4777 * (d1**3 + d2**3)
        + 0.7854 * (l1 * d1**2 + l2 * d2**2)
    )
    return float(weight), tuple(
        float(c)
        for c in (
            27 / (b * m**2 * z) - 1,
            397.5 / (b * m**2 * z**2) - 1,
            1.93 * l1**3 / (m * z * d1**4) - 1,
            1.93 * l2**3 / (m * z * d2**4) - 1,
            math.sqrt((745 * l1 / (m * z)) ** 2 + 16.9e6) / (110 * d1**3) - 1,
            math.sqrt((745 * l2 / (m * z)) ** 2 + 157.5e6) / (85 * d2**3) - 1,
            m * z / 40 - 1,
            5 * m / b - 1,
            b / (12 * m) - 1,
            (1.5 * d1 + 1.9) / l1 - 1,
            (1.1 * d2 + 1.9) / l2 - 1,
        )
    )


def _truth(design: Design) -> Callable[[Point], Outcome]:
    def truth(point: Point) -> Outcome:
        value, slack = design(vector(point))
        return Outcome((value,), slack)

    return truth


def _cropped(design: Design, low: list[float], high: list[float], best: list[float]) -> Callable[[int], Instance]:
    """Instances in a part of the box; `best` is the optimum, and its value is the formula's there."""

    def instance(seed: int) -> Instance:
        rng = np.random.default_rng([31, len(low), seed])
        at = np.array(best)
        # The widths are kept close to the original: where the feasible region is small a narrow box would give it away.
        narrow = crop(rng, np.array(low), np.array(high), at)
        space = box(0.5 * (np.array(low) + narrow[0]), 0.5 * (np.array(high) + narrow[1]))
        return Instance(space, _truth(design), design(at)[0], point_of(space, at))

    return instance


@functools.cache
def _beyond_the_plane(d: int) -> tuple[float, float]:
    """How far from its centre along one axis, beyond 0.5, Ackley's least value lies, and that value."""
    grid = np.linspace(0.5, 1.5, 100_001)
    values = [ackley(np.append(z, np.zeros(d - 1))) for z in grid]
    return float(grid[int(np.argmin(values))]), min(values)


def _ackley_in_a_ball(seed: int) -> Instance:
    """Ackley in ten dimensions with its centre cut off: the best feasible point lies on the plane that cuts it off.
    Half of its ball is out of bounds too.
    """
    d = 10
    rng = np.random.default_rng([32, seed])
    centre = rng.uniform(-2, 2, d)
    space = box(np.full(d, -5.0), np.full(d, 5.0))

    def design(x: Array) -> tuple[float, tuple[float, ...]]:
        z = x - centre
        return ackley(z), (float(0.5 - z[0]), float(np.sqrt(np.sum(z**2)) - 6))

    # On the plane z0 = 0.5 the other coordinates are 0; beyond it the waves of the cosine make z0 = 1 - e better.
    away, least = _beyond_the_plane(d)
    best = centre + np.append(away, np.zeros(d - 1))
    return Instance(space, _truth(design), least, point_of(space, best))


SMALL = 3.4  # log10 of the number of parameters that a small network may have


def network_space() -> Space:
    """A network of one layer, and how it is trained."""
    return (
        integer("units", 4, 128, log=True),
        spaces.choice("activation", ["relu", "tanh", "logistic"]),
        real("alpha", 1e-7, 10.0, log=True),
        real("learning_rate", 1e-4, 0.3, log=True),
        spaces.ordinal("batch_size", BATCHES, log=True),
    )


def _small_network(_seed: int) -> Instance:
    name = "mlp-digits-small"

    def at(point: Point, splits: range) -> Outcome:
        found = [digits_error_and_size(point, split, name) for split in splits]
        return Outcome((float(np.mean([error for error, _ in found])),), (found[0][1] - SMALL,))

    def observe(point: Point, rng: np.random.Generator) -> Outcome:
        split = int(rng.integers(SPLITS))
        return at(point, range(split, split + 1))

    return Instance(network_space(), lambda point: at(point, range(SPLITS)), observe=observe)


def _problem(name: str, budget: int, constraints: int, instance: Callable[[int], Instance], source: str) -> Problem:
    tags: tuple[Tag, ...] = ("constrained",)
    return Problem(name, tags, budget, instance, constraints=tuple(f"c{i}" for i in range(constraints)), source=source)


CONSTRAINED = (
    _problem(
        "gramacy-2",
        40,
        2,
        _cropped(gramacy, [0.0, 0.0], [1.0, 1.0], [0.19512268859286924, 0.4046653635003102]),
        "Gramacy et al. 2016",
    ),
    _problem(
        "constrained-branin-2",
        40,
        1,
        _cropped(constrained_branin, [-5.0, 0.0], [10.0, 15.0], [math.pi, 2.275]),
        "Gelbart et al. 2014",
    ),
    _problem(
        "welded-beam-4",
        80,
        5,
        _cropped(
            welded_beam,
            [0.1, 0.1, 0.1, 0.1],
            [2.0, 10.0, 10.0, 2.0],
            [0.20572963969137859, 3.4704886679344082, 9.036623910650434, 0.2057296397853437],
        ),
        "Coello Coello 2002",
    ),
    _problem(
        "spring-3",
        60,
        4,
        _cropped(
            spring, [0.05, 0.25, 2.0], [0.2, 1.3, 15.0], [0.051689067668060605, 0.35671789822272926, 11.288956463897735]
        ),
        "Coello Coello 2002",
    ),
    _problem(
        "speed-reducer-7",
        80,
        11,
        _cropped(
            speed_reducer,
            [2.6, 0.7, 17.0, 7.3, 7.3, 2.9, 5.0],
            [3.6, 0.8, 28.0, 8.3, 8.3, 3.9, 5.5],
            [
                3.5000000001727987,
                0.7000000000005256,
                17.000000000786763,
                7.300000000027436,
                7.715319912485126,
                3.3502146662698595,
                5.286654465142212,
            ],
        ),
        "Kumar et al. 2020",
    ),
    _problem("ackley-in-a-ball-10", 100, 2, _ackley_in_a_ball, "after Eriksson and Poloczek 2021"),
    Problem(
        "mlp-digits-small",
        ("constrained",),
        60,
        _small_network,
        objectives=("error",),
        constraints=("size",),
        noisy=True,
        cheap=False,
        worst=0.9,  # a guess
        floor=COARSE_FLOOR,
        source="scikit-learn, data set digits; log10 of the number of parameters at most 3.4",
    ),
)
