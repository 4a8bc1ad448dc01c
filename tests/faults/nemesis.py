"""Does harm at random moments, drawn from a seed, and always makes it good again."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random

from .deployment import Deployment

# The clock is wrong by so much at most: several leases.
SKEW_S = 5.0
# Acknowledged calls between two harms, at least.
WORK_BETWEEN = 25


class Nemesis:
    """Harms `deployment`, one thing after another, until `kills` processes were killed and `harms` done, or the time is over.

    Before each harm it waits for some calls to be acknowledged (`progress` says how many were), so that what is harmed was at work.
    `counts` says what was done.
    """

    def __init__(
        self,
        deployment: Deployment,
        rng: Random,
        progress: Callable[[], int],
        *,
        kills: int,
        harms: int = 0,
        pace_s: float = 1.0,
    ) -> None:
        self._deployment = deployment
        self._progress = progress
        self._rng = rng
        self._kills = kills
        self._harms = harms
        self._pace_s = pace_s
        self.counts: Counter[str] = Counter()

    @property
    def kills(self) -> int:
        """Processes killed so far."""
        return self.counts["kill"] + self.counts["kill compute"]

    def run(self, until: float) -> None:
        """Until what was to be done is done, at most until a time of the monotonic clock."""
        harms: Mapping[Callable[[], None], int] = {
            self.kill: 8,
            self.kill_compute: 3,
            self.restart: 1,
            self.pause: 2,
            self.delay: 1,
            self.hold: 2,
            self.reset: 2,
            self.fill_disk: 2,
            self.skew: 2,
            self.checkpoint: 2,
        }
        try:
            while (self.kills < self._kills or self.counts.total() < self._harms) and time.monotonic() < until:
                wanted = self._progress() + WORK_BETWEEN
                time.sleep(self._rng.uniform(0.2, 1.0) * self._pace_s)
                while self._progress() < wanted and time.monotonic() < until:
                    time.sleep(0.02)
                harm = self._rng.choices(list(harms), list(harms.values()))[0]
                harm()
        finally:
            self._deployment.heal()

    def _some(self) -> str:
        return self._rng.choice(list(self._deployment.members))

    def kill(self) -> None:
        """SIGKILL for a server, which is away for a while."""
        member = self._some()
        self._deployment.kill(member, self._rng)
        self.counts["kill"] += 1
        time.sleep(self._rng.choice([0.0, 0.1, 0.5]))
        self._deployment.start(member)

    def kill_compute(self) -> None:
        """SIGKILL for the compute processes."""
        for pid in self._deployment.compute_processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.counts["kill compute"] += 1

    def restart(self) -> None:
        """SIGTERM in the middle of the load, and a start."""
        member = self._some()
        self._deployment.stop(member)
        self._deployment.start(member)
        self.counts["restart"] += 1

    def pause(self) -> None:
        """SIGSTOP for longer than a lease; half of the time what comes next is death."""
        member = self._some()
        self._deployment.pause(member)
        time.sleep(self._rng.uniform(0.5, 2.5))
        if self._rng.random() < 0.5:
            self._deployment.resume(member)
            self.counts["pause"] += 1
        else:
            self._deployment.kill(member, self._rng)
            self._deployment.start(member)
            self.counts["kill"] += 1

    def delay(self) -> None:
        """Everything takes longer."""
        for proxy in self._deployment.proxies:
            proxy.delay(self._rng.uniform(0.01, 0.3))
        time.sleep(self._rng.uniform(0.3, 1.0))
        for proxy in self._deployment.proxies:
            proxy.heal()
        self.counts["delay"] += 1

    def hold(self) -> None:
        """The network swallows everything, and then breaks: requests and replies are lost."""
        proxy = self._rng.choice(list(self._deployment.proxies))
        proxy.hold()
        time.sleep(self._rng.uniform(0.3, 1.5))
        proxy.heal()
        self.counts["hold"] += 1

    def reset(self) -> None:
        """Connections break, several times."""
        for _ in range(self._rng.choice([1, 3])):
            for proxy in self._deployment.proxies:
                proxy.reset()
            time.sleep(self._rng.uniform(0.0, 0.3))
        self.counts["reset"] += 1

    def fill_disk(self) -> None:
        """No room for a while; now and then the server is killed then."""
        if not self._deployment.fill_disk():
            return
        time.sleep(self._rng.uniform(0.3, 1.5))
        if self._rng.random() < 0.3:
            member = self._some()
            self._deployment.kill(member, self._rng)
            self._deployment.free_disk()
            self._deployment.start(member)
            self.counts["kill"] += 1
        self._deployment.free_disk()
        self.counts["full disk"] += 1

    def skew(self) -> None:
        """The clock jumps, forward or back."""
        self._deployment.skew_clock(self._rng.uniform(-SKEW_S, SKEW_S))
        self.counts["skew"] += 1

    def checkpoint(self) -> None:
        """The database's log is moved into its tables."""
        self._deployment.checkpoint()
        self.counts["checkpoint"] += 1


def in_background(target: Callable[[], None], name: str) -> threading.Thread:
    """A thread that has begun."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    thread.start()
    return thread
