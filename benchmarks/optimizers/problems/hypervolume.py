"""Pareto fronts and the volume they dominate; smaller values are better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(points: Iterable[Sequence[float]]) -> list[tuple[float, ...]]:
    """The points that no other dominates, each once, in ascending order."""
    distinct = sorted({tuple(map(float, point)) for point in points})
    found: list[tuple[float, ...]] = []
    # In ascending order a point can only be dominated by one before it.
    for p in distinct:
        if not (found and len(p) == 2 and found[-1][1] <= p[1]) and not (
            len(p) > 2 and any(dominates(other, p) for other in found)
        ):
            found.append(p)
    return found


def hypervolume(points: Iterable[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between the points and the reference point, by slices along the last objective (While et al. 2006)."""
    inside = [p for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 1:
        return float(reference[0]) - min(float(p[0]) for p in inside)
    if len(reference) == 2:
        volume, top = 0.0, float(reference[1])
        for x, y in front(inside):  # ascending in x, so descending in y
            volume += (reference[0] - x) * (top - y)
            top = y
        return volume
    by_last = sorted(front(inside), key=lambda p: p[-1])
    volume = 0.0
    for i, p in enumerate(by_last):
        above = by_last[i + 1][-1] if i + 1 < len(by_last) else float(reference[-1])
        if above > p[-1]:
            volume += (above - p[-1]) * hypervolume([other[:-1] for other in by_last[: i + 1]], reference[:-1])
    return volume
