"""Automatic heartbeats: one thread per client renews the leases of all trials that were asked for through it.

A trial is renewed every third of its lease, until it is told or nobody holds the `Trial` any more: an abandoned trial
must be able to expire. `Schedule` is the timing, without a clock or a thread; the asyncio client uses it too.
"""

from __future__ import annotations

import threading
import time
import weakref
from typing import Generic, Protocol, TypeVar

from asktell._fork import renew_after_fork

BEATS_PER_LEASE = 3
_LONGEST_WAIT_S = 3600.0  # bounds a wait on a lock, whose timeouts have a platform's limit


class Beating(Protocol):
    """A trial whose lease is renewed."""

    def beat(self, budget_s: float) -> bool:
        """Renews the lease within `budget_s`; returns whether to go on doing so. Does not raise."""
        ...


T = TypeVar("T")


class Schedule(Generic[T]):
    """Which trials are due when. Holds them weakly. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[T], float, float]] = {}  # id -> trial, interval, next due

    def __bool__(self) -> bool:
        return bool(self._entries)

    def add(self, trial: T, interval_s: float, now_s: float) -> None:
        """The trial is due every `interval_s` from now on."""
        self._entries[id(trial)] = (weakref.ref(trial), interval_s, now_s + interval_s)

    def remove(self, trial: T) -> None:
        """The trial is never due again."""
        self._entries.pop(id(trial), None)

    def clear(self) -> None:
        """No trial is ever due again."""
        self._entries.clear()

    def take_due(self, now_s: float) -> list[tuple[T, float]]:
        """The trials that are due, with their intervals; each is due again one interval later."""
        due = []
        for key, (ref, interval_s, due_s) in list(self._entries.items()):
            trial = ref()
            if trial is None:
                del self._entries[key]
            elif due_s <= now_s:
                self._entries[key] = (ref, interval_s, now_s + interval_s)
                due.append((trial, interval_s))
        return due

    def wait_s(self, now_s: float) -> float:
        """Seconds until a trial is due."""
        first_s = min((due_s for _, _, due_s in self._entries.values()), default=now_s + _LONGEST_WAIT_S)
        return min(max(first_s - now_s, 0.0), _LONGEST_WAIT_S)


class Heartbeats:
    """The thread that renews leases; it lives only while there are any."""

    def __init__(self) -> None:
        self._renew()
        renew_after_fork(self)

    def _renew(self) -> None:
        self._changed = threading.Condition()
        self._schedule: Schedule[Beating] = Schedule()
        self._thread: threading.Thread | None = None

    def after_fork(self) -> None:
        """The parent goes on renewing its leases; the child begins with none."""
        self._renew()

    def add(self, trial: Beating, lease_s: float) -> None:
        """Renews the trial's lease from now on."""
        with self._changed:
            self._schedule.add(trial, lease_s / BEATS_PER_LEASE, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="asktell-heartbeats", daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, trial: Beating) -> None:
        """Lets the trial's lease be."""
        with self._changed:
            self._schedule.remove(trial)
            self._changed.notify()

    def close(self) -> None:
        """Lets all leases be."""
        with self._changed:
            self._schedule.clear()
            self._changed.notify()

    def _loop(self) -> None:
        while True:
            with self._changed:
                due = self._schedule.take_due(time.monotonic())
                if not due:
                    if not self._schedule:
                        self._thread = None
                        return
                    self._changed.wait(self._schedule.wait_s(time.monotonic()))
                    continue
            while due:  # emptied, so that no trial is kept alive by this thread while it waits
                trial, interval_s = due.pop()
                if not trial.beat(interval_s):
                    self.remove(trial)
                del trial
