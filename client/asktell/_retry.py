"""When to send a call again: pure arithmetic on times that are given to it, shared by the sync and asyncio loops.

A logical call has one deadline budget and one request (with one request_id, so that a repeat cannot act twice). The
budget is split into attempts:

    an attempt may take     half of what is left, up to an hour (a call that may wait for a model), else at most 15 s
    UNAVAILABLE             again after a pause drawn from (0, min(2 s, 0.1 s * 2^n)): exponential backoff, full jitter
    DEADLINE_EXCEEDED       likewise, while budget is left: the attempt's deadline was ours, not the caller's
    ABORTED                 likewise, when the reason is CONCURRENT_UPDATE
    RESOURCE_EXHAUSTED      likewise, plus the pause that the server asked for, when it did
    anything else           final, and so is an UNAVAILABLE that is a failed TLS handshake

Jitter: Brooker, "Exponential backoff and jitter", AWS Architecture Blog, 2015.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from asktell.errors import AskTellError, ConcurrentUpdate, DeadlineExceeded, ServerBusy, TlsFailed, Unavailable

_log = logging.getLogger("asktell")

DEFAULT_BUDGET_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 2.0
_LONGEST_QUICK_ATTEMPT_S = 15.0
_SHORTEST_PATIENT_ATTEMPT_S = 5.0
_LONGEST_PATIENT_ATTEMPT_S = 3600.0  # gRPC takes a deadline centuries away for one that has passed
_QUIET_S = 2.0  # a person hears of an outage that lasts longer, and may last as much longer


class Attempts:
    """The attempts of one logical call."""

    def __init__(
        self,
        method: str,
        budget_s: float,
        *,
        patient: bool,
        now_s: float,
        uniform: Callable[[float, float], float],
    ) -> None:
        """`patient`: whether the server may take its time over the call. `now_s`: a monotonic clock's."""
        self._method = method
        self._start_s = now_s
        self._deadline_s = now_s + budget_s
        self._patient = patient
        self._uniform = uniform
        self._failures = 0
        self._warned = False

    def timeout_s(self, now_s: float) -> float:
        """Seconds that the attempt beginning now may take."""
        left_s = max(self._deadline_s - now_s, 0.001)
        if self._patient:
            return min(left_s, max(left_s / 2, _SHORTEST_PATIENT_ATTEMPT_S), _LONGEST_PATIENT_ATTEMPT_S)
        return min(left_s, _LONGEST_QUICK_ATTEMPT_S)

    def pause_s(self, error: AskTellError, now_s: float) -> float | None:
        """Seconds to wait before the next attempt; None when the error is final."""
        self._failures += 1
        if not _passing(error):
            return None
        pause_s = self._uniform(0.0, min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** (self._failures - 1)))
        if error.retry_delay is not None:
            pause_s += error.retry_delay.total_seconds()
        left_s = self._deadline_s - now_s - pause_s
        if left_s <= 0:
            error.add_note(f"{self._method}: gave up after {self._failures} attempts, {now_s - self._start_s:.1f} s")
            return None
        if not self._warned and min(now_s - self._start_s, left_s) >= _QUIET_S:
            self._warned = True
            _log.warning("%s: %s; trying for another %.0f s", self._method, error.message, left_s)
        return pause_s


def _passing(error: AskTellError) -> bool:
    if isinstance(error, TlsFailed):
        return False
    return isinstance(error, Unavailable | DeadlineExceeded | ConcurrentUpdate | ServerBusy) or (
        error.code == "RESOURCE_EXHAUSTED" and error.retry_delay is not None
    )
