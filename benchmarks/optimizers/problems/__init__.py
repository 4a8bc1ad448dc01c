"""All problems, and the named subsets for peers that take seconds an ask."""

from __future__ import annotations

from .base import Problem
from .constrained import CONSTRAINED
from .hpo import REAL
from .multiobjective import MULTI_OBJECTIVE
from .structured import CONDITIONAL, MIXED
from .synthetic import CONTINUOUS, HIGH_DIMENSIONAL, NOISY

PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        *CONTINUOUS,
        *MIXED,
        *CONDITIONAL,
        *NOISY,
        *REAL,
        *HIGH_DIMENSIONAL,
        *MULTI_OBJECTIVE,
        *CONSTRAINED,
    )
}
