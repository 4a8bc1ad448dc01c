"""The demo's two pictures, from plain rows: how fast the searches converged, and which settings did well."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from asktell import Categorical, Discrete, Float, Int

_ERROR_TICKS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9)
_COLORS = ("#0b6e99", "#c8553d")
_DPI = 150

Kind: TypeAlias = Float | Int | Discrete | Categorical
Rows: TypeAlias = Sequence[Mapping[str, Any]]
"""Trials in the order of their ends: params, validation_accuracy (a share in [0, 1])."""


def convergence(path: Path, curves: Mapping[str, Rows], default: float, restart_after: int | None, images: int) -> None:
    """Best validation error so far against the number of finished trials, a line for each search.

    default: validation accuracy of the default settings. restart_after: trials of the first search that had ended when
    the server was killed. images: size of the validation set; no error is drawn below half an image.
    """
    floor = 0.5 / images
    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for (name, rows), color in zip(curves.items(), _COLORS, strict=True):
        errors = np.maximum(1 - np.array([row["validation_accuracy"] for row in rows]), floor)
        ended = np.arange(1, len(errors) + 1)
        axes.plot(ended, errors, "o", color=color, alpha=0.35, markersize=4.5, markeredgewidth=0)
        axes.step(ended, np.minimum.accumulate(errors), where="post", color=color, linewidth=2.2, label=name)
    axes.axhline(max(1 - default, floor), color="0.35", linestyle="--", linewidth=1.2, label="default settings")
    if restart_after is not None:
        axes.axvline(
            restart_after + 0.5, color="0.6", linestyle=":", linewidth=1.5, label="server killed and restarted"
        )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, min(high, 1.0))
    _error_ticks(axes, low)
    axes.set_xlabel("finished trials (dots: each trial; lines: the best so far)")
    axes.set_ylabel("validation error")
    figure.suptitle("Tuning a network on scikit-learn's digits", x=0.01, ha="left")
    axes.grid(axis="y", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=4, columnspacing=1.2, fontsize=9)
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def parallel_coordinates(path: Path, space: Mapping[str, Kind], rows: Rows, images: int) -> None:
    """A line for each trial through the values of all parameters to its validation error, which is also its colour.

    A parameter that was not active in a trial is passed at the place "off", under the axis. images: as above.
    """
    floor = 0.5 / images
    errors = np.maximum(1 - np.array([row["validation_accuracy"] for row in rows]), floor)
    low, high = float(errors.min()), max(float(errors.max()), 1.01 * float(errors.min()))
    norm = LogNorm(low, high)
    width = len(space) + 1
    figure, axes = plt.subplots(figsize=(1.5 * width, 5.6), layout="constrained")
    order = np.argsort(-errors)  # the best on top
    lines, widths = [], []
    for index in order:
        params = rows[index]["params"]
        heights = [_height(p, params.get(name)) + _spread(p, int(index)) for name, p in space.items()]
        heights.append(_share(math.log(errors[index]), math.log(low), math.log(high)))
        lines.append(list(enumerate(heights)))
        widths.append(1.3)
    widths[-1] = 3.5
    colormap = plt.get_cmap("viridis")
    collection = LineCollection(lines, linewidths=widths, colors=colormap(norm(errors[order])), alpha=0.85)
    axes.add_collection(collection)
    for x, (name, parameter) in enumerate(space.items()):
        _axis(axes, x, name, parameter)
    _result_axis(axes, width - 1, low, high)
    axes.set_xlim(-0.35, width - 0.65)
    axes.set_ylim(-0.2, 1.2)
    axes.axis("off")
    bar = figure.colorbar(ScalarMappable(norm, colormap), ax=axes, pad=0.02, shrink=0.75, label="validation error")
    _error_ticks(bar.ax, low, high)
    figure.suptitle("Settings that were tried; the thick line is the best trial", x=0.01, ha="left")
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)


def _axis(axes: Axes, x: int, name: str, parameter: Kind) -> None:
    axes.plot([x, x], [0, 1], color="0.25", linewidth=1.2, zorder=3)
    label = name.replace("_", "\n") + ("\n(log)" if getattr(parameter, "log", False) else "")
    axes.text(x, 1.04, label, ha="center", va="bottom", fontsize=10)
    ticks = [(_height(parameter, value), _value_text(value)) for value in _tick_values(parameter)]
    if parameter.when is not None:
        ticks.append((_OFF, "off"))
    for y, text in ticks:
        _tick(axes, x, y, text)


_OFF = -0.12


def _result_axis(axes: Axes, x: int, low: float, high: float) -> None:
    axes.plot([x, x], [0, 1], color="0.25", linewidth=1.2, zorder=3)
    axes.text(x, 1.04, "validation\nerror", ha="center", va="bottom", fontsize=10, fontweight="bold")
    for error in _ERROR_TICKS:
        if low <= error <= high:
            _tick(axes, x, _share(math.log(error), math.log(low), math.log(high)), _percent(error))


def _tick(axes: Axes, x: int, y: float, text: str) -> None:
    axes.plot([x - 0.03, x + 0.03], [y, y], color="0.25", linewidth=1.2, zorder=3)
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
    axes.text(x - 0.06, y, text, ha="right", va="center", fontsize=8.5, bbox=box, zorder=4)


def _height(parameter: Kind, value: Any) -> float:
    """Where a value lies on its axis, in [0, 1]; below it when there is none."""
    if value is None:
        return _OFF
    if isinstance(parameter, Categorical):
        return _share(parameter.choices.index(value), 0, len(parameter.choices) - 1)
    low, high = _range(parameter)
    if parameter.log:
        return _share(math.log(value), math.log(low), math.log(high))
    return _share(value, low, high)


def _range(parameter: Float | Int | Discrete) -> tuple[float, float]:
    if isinstance(parameter, Discrete):
        return min(parameter.values), max(parameter.values)
    return parameter.min, parameter.max


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low) if high > low else 0.5


def _spread(parameter: Kind, index: int) -> float:
    """A small offset that keeps the lines through one category apart; a fixed one for each trial."""
    if not isinstance(parameter, Categorical):
        return 0.0
    return 0.05 * (index * 0.618 % 1 - 0.5)


def _tick_values(parameter: Kind) -> Sequence[Any]:
    if isinstance(parameter, Categorical):
        return parameter.choices
    if isinstance(parameter, Discrete):
        return parameter.values
    if isinstance(parameter, Int) and not parameter.log:
        return range(parameter.min, parameter.max + 1)
    if not parameter.log:
        ticks = MaxNLocator(nbins=5).tick_values(parameter.min, parameter.max)
        return [float(tick) for tick in ticks if parameter.min <= tick <= parameter.max]
    base = 2 if isinstance(parameter, Int) else 10.0
    low, high = math.log(parameter.min, base), math.log(parameter.max, base)
    return [base**k for k in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]


def _value_text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 1e-2 else f"{value:.3g}"


def _percent(error: float) -> str:
    return f"{100 * error:g}%"


def _error_ticks(axes: Axes, low: float, high: float = 1.0) -> None:
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in _ERROR_TICKS if low <= tick <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: _percent(error)))
    axes.yaxis.set_minor_locator(NullLocator())
