"""The Pareto front: which of n results no other one beats."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def front(values: NDArray[np.float64]) -> NDArray[np.intp]:  # (n, m), smaller is better -> (k,) increasing
    """Rows that no other row dominates: none is at least as small everywhere and smaller somewhere. Equal rows stay together.

    Rows are visited in lexicographic order, so only earlier ones can dominate a row: for m = 2 one pass after the sort, O(n log n);
    otherwise each is compared with the front so far, O(n k m) in numpy [1]_.

    .. [1] H. T. Kung, F. Luccio, F. P. Preparata. On finding the maxima of a set of vectors. Journal of the ACM 22 (1975).
    """
    if len(values) == 0:
        return np.empty(0, dtype=np.intp)
    order = np.lexsort(values.T[::-1])
    ordered = values[order]
    kept: Any = _two(ordered) if values.shape[1] == 2 else _many(ordered)
    return np.sort(order[kept])


def _two(ordered: NDArray[np.float64]) -> list[int]:
    kept: list[int] = []
    smallest = np.inf
    for i, (first, second) in enumerate(ordered.tolist()):
        is_equal = bool(kept) and ordered[kept[-1]].tolist() == [first, second]
        if second < smallest or is_equal:
            kept.append(i)
            smallest = second
    return kept


def _many(ordered: NDArray[np.float64]) -> list[int]:
    kept: list[int] = []
    rows = np.empty_like(ordered)
    for i, row in enumerate(ordered):
        so_far = rows[: len(kept)]
        if not np.any(np.all(so_far <= row, axis=1) & np.any(so_far < row, axis=1)):
            rows[len(kept)] = row
            kept.append(i)
    return kept
