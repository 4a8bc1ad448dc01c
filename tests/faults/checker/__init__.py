"""The contract as a model: what a history of calls, and the database after it, must satisfy. Returns violations as sentences.

Of each call it is known that it took effect (acknowledged), that it changed nothing (refused), or neither (the reply was lost):
such a call may have taken effect at any time since, but at most once, and wholly. Each module holds the rules of one subject.

The rules know the contract only: nothing of storage, engine or service.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..history import History
from . import answers, numbers, queue, reads, refusals, states, studies, suggestions, summaries, watches, writes
from .evidence import Evidence, Final

__all__ = ["RULES", "Final", "violations"]

RULES: Sequence[Callable[[Evidence], Iterable[str]]] = (
    *writes.RULES,
    *numbers.RULES,
    *states.RULES,
    *studies.RULES,
    *answers.RULES,
    *reads.RULES,
    *refusals.RULES,
    *watches.RULES,
    *queue.RULES,
    *suggestions.RULES,
    *summaries.RULES,
)


def violations(history: History, final: Final) -> list[str]:
    """Everything in which the history breaks the contract."""
    evidence = Evidence(history, final)
    found = [f"stuck: {what}" for what in final.stuck]
    for rule in RULES:
        found += rule(evidence)
    return found
