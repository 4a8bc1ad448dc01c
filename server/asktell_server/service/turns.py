"""Much work for one call in the event loop, in turns with that for others.

A request may hold a thousand trials of a thousand parameters, and so may a reply. Whoever goes through them takes a turn of a few
milliseconds, then lets all that waits in the event loop have theirs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")

# For so long one call may hold up the others.
TURN_S = 0.005


class Turns:
    """The turns of one call, from now on."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    async def next(self) -> None:
        """Lets the others have their turns, if this one is over."""
        if time.perf_counter() - self._since > TURN_S:
            await asyncio.sleep(0)
            self._since = time.perf_counter()


async def in_turns(items: Iterable[A], do: Callable[[A], B]) -> list[B]:
    """What `do` makes of each item."""
    turns = Turns()
    found = []
    for item in items:
        found.append(do(item))
        await turns.next()
    return found
