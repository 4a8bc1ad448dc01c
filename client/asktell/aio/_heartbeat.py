"""Automatic heartbeats for asyncio: one task per client renews the leases of all trials asked for through it."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from asktell._heartbeat import BEATS_PER_LEASE, Schedule


class AsyncBeating(Protocol):
    """A trial whose lease is renewed."""

    async def beat(self, budget_s: float) -> bool:
        """Renews the lease within `budget_s`; returns whether to go on doing so. Does not raise."""
        ...


class AsyncHeartbeats:
    """The task that renews leases; it lives only while there are any."""

    def __init__(self) -> None:
        self._schedule: Schedule[AsyncBeating] = Schedule()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, trial: AsyncBeating, lease_s: float) -> None:
        """Renews the trial's lease from now on."""
        self._schedule.add(trial, lease_s / BEATS_PER_LEASE, time.monotonic())
        self._changed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._loop(), name="asktell-heartbeats")

    def remove(self, trial: AsyncBeating) -> None:
        """Lets the trial's lease be."""
        self._schedule.remove(trial)
        self._changed.set()

    async def close(self) -> None:
        """Lets all leases be."""
        self._schedule.clear()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _loop(self) -> None:
        while self._schedule:
            due = self._schedule.take_due(time.monotonic())
            while due:  # emptied, so that no trial is kept alive by this task while it waits
                trial, interval_s = due.pop()
                if not await trial.beat(interval_s):
                    self.remove(trial)
                del trial
            self._changed.clear()
            try:
                async with asyncio.timeout(self._schedule.wait_s(time.monotonic())):
                    await self._changed.wait()
            except TimeoutError:
                continue  # something is due
