"""Problems with several objectives. What counts is the hypervolume up to a reference point that peers are not told.

Where the front has a formula its hypervolume is computed from 2000 points of it (a little less than the truth, by
under 0.1 %). The seed turns axes around or moves the front, so that it does not lie where peers like to look.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np

from ..space import Point, Space, choice, integer, real, when
from .base import COARSE_FLOOR, Array, Instance, Outcome, Problem, Tag, box, vector
from .constrained import network_space
from .hpo import digits_error_and_size, forest_loss_and_work
from .hypervolume import hypervolume

Objectives = Callable[[Array], tuple[float, ...]]


def zdt1(x: Array) -> tuple[float, ...]:
    """ZDT1 (Zitzler, Deb and Thiele 2000): convex front."""
    g = 1 + 9 * float(np.mean(x[1:]))
    return float(x[0]), g * (1 - math.sqrt(x[0] / g))


def zdt2(x: Array) -> tuple[float, ...]:
    """ZDT2: concave front."""
    g = 1 + 9 * float(np.mean(x[1:]))
    return float(x[0]), g * (1 - (x[0] / g) ** 2)


def zdt3(x: Array) -> tuple[float, ...]:
    """ZDT3: a front in five pieces."""
    g = 1 + 9 * float(np.mean(x[1:]))
    ratio = float(x[0]) / g
    return float(x[0]), g * (1 - math.sqrt(ratio) - ratio * math.sin(10 * math.pi * x[0]))


def _front_of(f: Objectives, d: int) -> list[tuple[float, ...]]:
    return [f(np.append(first, np.zeros(d - 1))) for first in np.linspace(0, 1, 2000)]


def _zdt(f: Objectives, d: int, reference: tuple[float, ...]) -> Callable[[int], Instance]:
    """Instances with some axes turned around; the first, which runs along the front, among them."""

    @functools.cache
    def largest() -> float:
        return hypervolume(_front_of(f, d), reference)

    def instance(seed: int) -> Instance:
        turned = np.random.default_rng([41, d, seed]).random(d) < 0.5

        def truth(point: Point) -> Outcome:
            x = vector(point)
            return Outcome(tuple(map(float, f(np.where(turned, 1 - x, x)))))

        return Instance(box(np.zeros(d), np.ones(d)), truth, largest())

    return instance


def dtlz2(u: Array, z: Array) -> tuple[float, ...]:
    """DTLZ2 with three objectives (Deb et al. 2005): an eighth of a sphere; `u` (2,) lies along it, `z` away from it."""
    g = float(z @ z)
    a, b = u * math.pi / 2
    return (1 + g) * math.cos(a) * math.cos(b), (1 + g) * math.cos(a) * math.sin(b), (1 + g) * math.sin(a)


def _dtlz2(seed: int) -> Instance:
    d = 6
    centre = np.random.default_rng([42, seed]).uniform(0.2, 0.8, d - 2)

    def truth(point: Point) -> Outcome:
        x = vector(point)
        return Outcome(dtlz2(x[:2], x[2:] - centre))

    # Inside the cube of side 1.1: all but an eighth of the unit ball.
    return Instance(box(np.zeros(d), np.ones(d)), truth, 1.1**3 - math.pi / 6)


def vlmop2(x: Array) -> tuple[float, ...]:
    """VLMOP2 (Van Veldhuizen and Lamont 1999) in two dimensions: two Gaussian bells."""
    shift = 1 / math.sqrt(len(x))
    return 1 - math.exp(-float(np.sum((x - shift) ** 2))), 1 - math.exp(-float(np.sum((x + shift) ** 2)))


@functools.cache
def _largest_vlmop2() -> float:
    line = np.linspace(-1, 1, 2000) / math.sqrt(2)
    return hypervolume([vlmop2(np.array([s, s])) for s in line], (1.1, 1.1))


def _vlmop2(seed: int) -> Instance:
    move = np.random.default_rng([43, seed]).uniform(-0.9, 0.9, 2)
    space = box(np.full(2, -2.0), np.full(2, 2.0))
    return Instance(space, lambda point: Outcome(vlmop2(vector(point) - move)), _largest_vlmop2())


def _mixed_trade(seed: int) -> Instance:
    """Quality against cost over a method, two ints and two floats: each method has a front of its own, and the best
    front has pieces of several.
    """
    rng = np.random.default_rng([44, seed])
    methods = ["a", "b", "c"]
    fixed = dict(zip(methods, rng.permutation([0.05, 0.2, 0.45]).tolist(), strict=True))
    limit = {m: {0.05: 0.35, 0.2: 0.15, 0.45: 0.0}[fixed[m]] for m in methods}
    centre = rng.uniform(0.2, 0.8, 2)
    space: Space = (
        choice("method", methods),
        integer("layers", 1, 8),
        integer("units", 4, 256, log=True),
        real("x", 0.0, 1.0),
        real("y", 0.0, 1.0, when=when("method", "b", "c")),
    )

    def truth(point: Point) -> Outcome:
        method = str(point["method"])
        size = (int(point["layers"]) / 8 + math.log(int(point["units"]) / 4) / math.log(64)) / 2
        away = 2 * (float(point["x"]) - centre[0]) ** 2
        if "y" in point:
            away += 2 * (float(point["y"]) - centre[1]) ** 2
        return Outcome((limit[method] + 0.6 * math.exp(-4 * size) + away, fixed[method] + 0.5 * size))

    @functools.cache
    def largest() -> float:
        points = []
        for m in methods:
            for layers in range(1, 9):
                for units in range(4, 257):
                    at: Point = {"method": m, "layers": layers, "units": units, "x": float(centre[0])}
                    points.append(truth(at | ({} if m == "a" else {"y": float(centre[1])})).values)
        return hypervolume(points, (1.0, 1.0))

    return Instance(space, truth, largest())


TRADE_SPLITS = 3


def _error_and_size(_seed: int) -> Instance:
    """Error rate of a network on digits, averaged over three splits, against the logarithm of its number of parameters."""

    def truth(point: Point) -> Outcome:
        found = [digits_error_and_size(point, split, "mlp-digits-small") for split in range(TRADE_SPLITS)]
        return Outcome((float(np.mean([error for error, _ in found])), found[0][1]))

    return Instance(network_space(), truth)


def _forest_loss_and_work(_seed: int) -> Instance:
    """Log loss of a forest on digits, averaged over three splits, against the logarithm of the work of a prediction."""
    space: Space = (
        integer("n_estimators", 1, 80, log=True),
        integer("max_depth", 1, 20),
        real("max_features", 0.02, 1.0, log=True),
        integer("min_samples_leaf", 1, 20, log=True),
    )

    def truth(point: Point) -> Outcome:
        found = [forest_loss_and_work(point, split, "forest-digits-work") for split in range(TRADE_SPLITS)]
        return Outcome((float(np.mean([loss for loss, _ in found])), found[0][1]))

    return Instance(space, truth)


def _problem(
    name: str, budget: int, instance: Callable[[int], Instance], reference: tuple[float, ...], source: str
) -> Problem:
    tags: tuple[Tag, ...] = ("multi-objective",)
    objectives = tuple(f"f{i}" for i in range(len(reference)))
    return Problem(name, tags, budget, instance, objectives, reference=reference, floor=1e-4, source=source)


MULTI_OBJECTIVE = (
    _problem("zdt1-5", 60, _zdt(zdt1, 5, (1.1, 3.0)), (1.1, 3.0), "Zitzler, Deb and Thiele 2000"),
    _problem("zdt2-5", 60, _zdt(zdt2, 5, (1.1, 3.0)), (1.1, 3.0), "Zitzler, Deb and Thiele 2000"),
    _problem("zdt3-5", 60, _zdt(zdt3, 5, (1.1, 3.0)), (1.1, 3.0), "Zitzler, Deb and Thiele 2000"),
    _problem("dtlz2-6", 60, _dtlz2, (1.1, 1.1, 1.1), "Deb et al. 2005"),
    _problem("vlmop2-2", 40, _vlmop2, (1.1, 1.1), "Van Veldhuizen and Lamont 1999"),
    _problem("mixed-trade-5", 60, _mixed_trade, (1.0, 1.0), ""),
    Problem(
        "mlp-digits-error-size",
        ("multi-objective",),
        60,
        _error_and_size,
        objectives=("error", "size"),
        reference=(1.0, 4.2),
        cheap=False,
        floor=COARSE_FLOOR,
        source="scikit-learn, data set digits",
    ),
    Problem(
        "forest-digits-loss-work",
        ("multi-objective",),
        60,
        _forest_loss_and_work,
        objectives=("loss", "work"),
        reference=(2.4, 3.3),
        cheap=False,
        floor=COARSE_FLOOR,
        source="scikit-learn, data set digits",
    ),
)
