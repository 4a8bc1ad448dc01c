"""The Pareto front against its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.optimizers.pareto import front


def _by_definition(rows: list[list[float]]) -> list[int]:
    def dominates(a: list[float], b: list[float]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and a != b

    return [i for i, row in enumerate(rows) if not any(dominates(other, row) for other in rows)]


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(st.integers(-3, 3).map(float), min_size=m, max_size=m), min_size=1, max_size=30)
    )
)
def test_the_front_is_what_no_other_row_dominates(rows: list[list[float]]) -> None:
    """Ties, repeats and any number of objectives included."""
    assert front(np.array(rows)).tolist() == _by_definition(rows)


def test_no_rows_have_no_front() -> None:
    """Before the first result there is nothing to list."""
    assert front(np.empty((0, 2))).tolist() == []


def test_a_large_front_is_found_whole() -> None:
    """Ten thousand results that all stand, in two and in three dimensions."""
    x = np.linspace(0.0, 1.0, 10_000)

    assert len(front(np.column_stack([x, 1.0 - x]))) == 10_000
    assert len(front(np.column_stack([x[:2000], 1.0 - x[:2000], np.zeros(2000)]))) == 2000
