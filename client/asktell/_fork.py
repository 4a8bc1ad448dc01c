"""What a forked child does with the objects it inherits: threads, channels and child processes stay the parent's.

Objects that hold such things register here and are told, in the child, to begin anew.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Holds something that does not survive a fork."""

    def after_fork(self) -> None:
        """Called in the child right after the fork, while it has one thread: forget what belongs to the parent."""
        ...


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_after_fork(obj: Renewable) -> None:
    """Calls `obj.after_fork()` in every child forked from now on, for as long as the object lives."""
    _renewables.add(obj)


def _after_fork() -> None:
    for obj in list(_renewables):
        obj.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_after_fork)
