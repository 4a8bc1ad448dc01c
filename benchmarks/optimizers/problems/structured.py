"""Functions with a formula over mixed and conditional spaces. Optima are 0, or said otherwise, by construction; where
they lie is drawn by the seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..space import Point, Space, choice, integer, ordinal, real, when
from .base import Instance, Outcome, Problem, Tag
from .synthetic import BRANIN_BEST, HARTMANN3_AT, ackley, branin, hartmann3, levy


def _mixed_ackley(seed: int) -> Instance:
    """Ackley over three floats and two ints, its centre moved by one categorical and its value raised by another."""
    rng = np.random.default_rng([21, seed])
    space: Space = (
        *(real(f"x{i}", -4.0, 4.0) for i in range(3)),
        *(integer(f"n{i}", -6, 6) for i in range(2)),
        choice("centre", ["a", "b", "c", "d"]),
        choice("offset", ["p", "q", "r", "s", "t"]),
    )
    centres = {name: np.append(rng.uniform(-2.4, 2.4, 3), rng.integers(-4, 5, 2)) for name in "abcd"}
    price = dict(zip("abcd", rng.permutation([0.0, 0.7, 1.4, 2.1]).tolist(), strict=True))
    offset = dict(zip("pqrst", rng.permutation([0.0, 0.5, 1.0, 2.0, 4.0]).tolist(), strict=True))

    def truth(point: Point) -> Outcome:
        x = np.array([float(point[name]) for name in ("x0", "x1", "x2", "n0", "n1")])
        where = str(point["centre"])
        z = (x - centres[where]) * np.array([1, 1, 1, 0.5, 0.5])
        return Outcome((ackley(z) + price[where] + offset[str(point["offset"])],))

    best = min(price, key=lambda name: price[name])
    at: Point = {f"x{i}": float(centres[best][i]) for i in range(3)}
    at |= {f"n{i}": int(centres[best][3 + i]) for i in range(2)}
    at |= {"centre": best, "offset": min(offset, key=lambda name: offset[name])}
    return Instance(space, truth, 0.0, at)


def _mixed_integers(seed: int) -> Instance:
    """A rotated bowl over four ints, two ordinals (one of them log) and two floats (one of them log), which all pull at
    one another.
    """
    rng = np.random.default_rng([22, seed])
    batches = [16.0, 32.0, 64.0, 128.0, 256.0, 512.0]
    space: Space = (
        *(integer(f"n{i}", 0, 20) for i in range(3)),
        integer("units", 4, 512, log=True),
        ordinal("batch", batches, log=True),
        ordinal("width", [1.0, 2.0, 3.0, 5.0, 8.0, 13.0]),
        real("x", -5.0, 5.0),
        real("rate", 1e-5, 1.0, log=True),
    )
    at: Point = {f"n{i}": int(rng.integers(4, 17)) for i in range(3)}
    at |= {
        "units": int(2 ** rng.uniform(3, 8)),
        "batch": batches[rng.integers(1, 5)],
        "width": [2.0, 3.0, 5.0, 8.0][rng.integers(4)],
        "x": float(rng.uniform(-3, 3)),
        "rate": float(10 ** rng.uniform(-4, -1)),
    }
    mixing = np.eye(8) + 0.3 * rng.standard_normal((8, 8))

    def coordinates(point: Point) -> list[float]:
        return [
            *(float(point[f"n{i}"]) / 20 for i in range(3)),
            math.log(float(point["units"]) / 4) / math.log(128),
            math.log(float(point["batch"]) / 16) / math.log(32),
            float(point["width"]) / 12,
            float(point["x"]) / 10,
            math.log10(float(point["rate"])) / 5,
        ]

    centre = np.array(coordinates(at))

    def truth(point: Point) -> Outcome:
        z = mixing @ (np.array(coordinates(point)) - centre)
        return Outcome((float(z @ z),))

    return Instance(space, truth, 0.0, at)


def _mixed_categorical(seed: int) -> Instance:
    """Five categoricals with effects of their own and in pairs, and two floats whose best place depends on the first."""
    rng = np.random.default_rng([23, seed])
    sizes = (3, 4, 5, 3, 6)
    names = [[f"c{i}v{j}" for j in range(size)] for i, size in enumerate(sizes)]
    space: Space = (
        *(choice(f"c{i}", values) for i, values in enumerate(names)),
        real("x", 0.0, 1.0),
        real("y", 0.0, 1.0),
    )
    best = [int(rng.integers(size)) for size in sizes]
    alone = [rng.uniform(0.1, 1.0, size) for size in sizes]
    pairs = {(i, i + 1): rng.uniform(0.0, 1.0, (sizes[i], sizes[i + 1])) for i in range(4)}
    for i, j in enumerate(best):
        alone[i][j] = 0.0
    for i, j in pairs:
        pairs[i, j][best[i], best[j]] = 0.0
    places = rng.uniform(0.15, 0.85, (sizes[0], 2))

    def truth(point: Point) -> Outcome:
        index = [names[i].index(str(point[f"c{i}"])) for i in range(5)]
        value = sum(float(alone[i][j]) for i, j in enumerate(index))
        value += sum(float(table[index[i], index[j]]) for (i, j), table in pairs.items())
        away = np.array([float(point["x"]), float(point["y"])]) - places[index[0]]
        return Outcome((value + 4 * float(away @ away),))

    at: Point = {f"c{i}": names[i][j] for i, j in enumerate(best)}
    at |= {"x": float(places[best[0]][0]), "y": float(places[best[0]][1])}
    return Instance(space, truth, 0.0, at)


def _tree(seed: int) -> Instance:
    """The tree of Jenatton et al. (2017), "Bayesian Optimization with Tree-structured Dependencies": four leaves,
    shared parameters below each branch; optimum 0.1. Which branch is the good one, and where in it the optimum lies, is
    drawn.
    """
    rng = np.random.default_rng([24, seed])
    space: Space = (
        choice("x1", ["0", "1"]),
        choice("x2", ["0", "1"], when=when("x1", "0")),
        choice("x3", ["0", "1"], when=when("x1", "1")),
        real("x4", -1.0, 1.0, when=when("x2", "0")),
        real("x5", -1.0, 1.0, when=when("x2", "1")),
        real("x6", -1.0, 1.0, when=when("x3", "0")),
        real("x7", -1.0, 1.0, when=when("x3", "1")),
        real("r8", 0.0, 1.0, when=when("x1", "0")),
        real("r9", 0.0, 1.0, when=when("x1", "1")),
    )
    base = dict(zip(("x4", "x5", "x6", "x7"), rng.permutation([0.1, 0.2, 0.3, 0.4]).tolist(), strict=True))
    centre = {name: float(rng.uniform(-0.6, 0.6)) for name in base}
    shared = {name: float(rng.uniform(0.1, 0.9)) for name in ("r8", "r9")}

    def truth(point: Point) -> Outcome:
        leaf = next(name for name in base if name in point)
        branch = "r8" if "r8" in point else "r9"
        return Outcome(
            ((float(point[leaf]) - centre[leaf]) ** 2 + base[leaf] + abs(float(point[branch]) - shared[branch]),)
        )

    best = min(base, key=lambda name: base[name])
    at: Point = {"x1": "0" if best in ("x4", "x5") else "1"}
    if at["x1"] == "0":
        at |= {"x2": "0" if best == "x4" else "1", best: centre[best], "r8": shared["r8"]}
    else:
        at |= {"x3": "0" if best == "x6" else "1", best: centre[best], "r9": shared["r9"]}
    return Instance(space, truth, 0.1, at)


def _layers(seed: int) -> Instance:
    """A network's depth and, for each layer that exists, its width (an int, log) and dropout: the parameters of a layer
    count only while the network is that deep.
    """
    rng = np.random.default_rng([25, seed])
    deepest = 4
    space: Space = (
        integer("depth", 1, deepest),
        real("rate", 1e-4, 1.0, log=True),
        *(
            parameter
            for i in range(deepest)
            for parameter in (
                integer(f"units{i}", 8, 512, log=True, when=when("depth", *range(i + 1, deepest + 1)) if i else None),
                real(f"dropout{i}", 0.0, 0.8, when=when("depth", *range(i + 1, deepest + 1)) if i else None),
            )
        ),
    )
    depth = int(rng.integers(1, deepest + 1))
    units = [int(2 ** rng.uniform(4, 8)) for _ in range(deepest)]
    dropout = rng.uniform(0.1, 0.7, deepest).tolist()
    rate = float(10 ** rng.uniform(-3, -1))

    def truth(point: Point) -> Outcome:
        here = int(point["depth"])
        value = 0.15 * abs(here - depth) + 0.3 * (math.log10(float(point["rate"]) / rate) / 4) ** 2 * (1 + 0.5 * here)
        for i in range(here):
            value += (math.log2(float(point[f"units{i}"]) / units[i]) / 6) ** 2 / (1 + i)
            value += 0.5 * (float(point[f"dropout{i}"]) - dropout[i]) ** 2
        return Outcome((value,))

    at: Point = {"depth": depth, "rate": rate}
    for i in range(depth):
        at |= {f"units{i}": units[i], f"dropout{i}": dropout[i]}
    return Instance(space, truth, 0.0, at)


def _chosen_function(seed: int) -> Instance:
    """Three methods with parameters of their own (a Branin, a Hartmann-3, a Levy-4, each scaled to about [0, 1] and
    moved), two of them within 0.3 of the best.
    """
    rng = np.random.default_rng([26, seed])
    space: Space = (
        choice("method", ["first", "second", "third"]),
        real("a0", -5.0, 10.0, when=when("method", "first")),
        real("a1", 0.0, 15.0, when=when("method", "first")),
        *(real(f"b{i}", 0.0, 1.0, when=when("method", "second")) for i in range(3)),
        *(real(f"c{i}", -10.0, 10.0, when=when("method", "third")) for i in range(4)),
    )
    offset = dict(zip(("first", "second", "third"), rng.permutation([0.0, 0.15, 0.3]).tolist(), strict=True))
    moves = {
        "first": rng.uniform(-1.8, 1.8, 2),
        "second": rng.uniform(-0.1, 0.1, 3),
        "third": rng.uniform(-6, 6, 4),
    }
    low = {"first": BRANIN_BEST, "second": hartmann3(HARTMANN3_AT), "third": 0.0}
    size = {"first": 60.0, "second": 3.0, "third": 50.0}
    functions = {"first": branin, "second": hartmann3, "third": levy}
    prefix = {"first": "a", "second": "b", "third": "c"}
    places = {"first": np.array([math.pi, 2.275]), "second": HARTMANN3_AT, "third": np.zeros(4)}

    def truth(point: Point) -> Outcome:
        method = str(point["method"])
        x = np.array([float(value) for name, value in point.items() if name != "method"])
        return Outcome(((functions[method](x - moves[method]) - low[method]) / size[method] + offset[method],))

    best = min(offset, key=lambda name: offset[name])
    at: Point = {"method": best}
    at |= {f"{prefix[best]}{i}": float(x) for i, x in enumerate(places[best] + moves[best])}
    return Instance(space, truth, 0.0, at)


def _problem(name: str, budget: int, instance: Callable[[int], Instance], *tags: Tag, source: str = "") -> Problem:
    return Problem(name, tags, budget, instance, source=source)


MIXED = (
    _problem("mixed-ackley-7", 80, _mixed_ackley, "mixed"),
    _problem("mixed-integers-8", 80, _mixed_integers, "mixed"),
    _problem("mixed-categorical-7", 80, _mixed_categorical, "mixed"),
)

CONDITIONAL = (
    _problem("tree-9", 60, _tree, "conditional", source="Jenatton et al. 2017"),
    _problem("layers-10", 80, _layers, "conditional"),
    _problem("chosen-function-10", 80, _chosen_function, "conditional"),
)
