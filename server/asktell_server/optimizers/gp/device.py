"""Where the largest fits of a compute process run: on a GPU where there is one and it pays, on the CPU otherwise.

A GPU can only save time. So it is first touched by a fit that is large enough to gain from it, and whatever goes wrong there stays
here: that fit runs again on the CPU, from its beginning, as if there were no GPU, and the process does not come back to it.

Which device computes is part of what a suggestion is a function of. A GPU adds up in another order than a CPU, a fit is a search
that can follow such a difference to another maximum, and the suggestion then is another one. On GPUs of one kind, with the same
libraries, fits are expected to repeat: of the operations that PyTorch lists as nondeterministic [1]_ they use only assignment by index,
where no index occurs twice; the products of cuBLAS repeat while one stream is at work, and so do the factorisations of cuSOLVER.

Importing this module imports no torch.

.. [1] https://docs.pytorch.org/docs/stable/generated/torch.use_deterministic_algorithms.html
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

AUTO, CPU, CUDA = "auto", "cpu", "cuda"
PAYS = 1_000_000
"""Numbers in the largest array of a fit from which on a GPU is used. An estimate: it was never measured on a GPU.

On a CPU a log posterior with its gradient was measured to take 22 to 25 ns for each of these numbers (one thread), so 25 ms for as
many as this. On a GPU it launches some 150 to 200 kernels, at 5 to 10 us each about 2 ms; factorising and inverting a few matrices of 150
rows should take a few ms more, copies there and back a fraction of one. At a million numbers that leaves room for an
estimate that is wrong by a factor of three.
"""
MAX_PROBLEM = 300

T = TypeVar("T")


@dataclass(frozen=True)
class DeviceNews:
    """What an operator may want to know: large fits run on `device`, or, for `problem`, no longer."""

    device: str
    problem: str = ""


class FitDevice:
    """The devices that fits of one process may run on, and what it has learned about them."""

    def __init__(self, wish: str = CPU) -> None:
        """`wish`: "auto" (the GPU if torch sees one), "cpu", "cuda", or "cuda:N" for the GPU of that number."""
        self._wish = wish
        self._is_known = False
        self._news: list[DeviceNews] = []

    def run(
        self,
        work: Callable[[str | None], T],  # torch's name of a GPU, None for the CPU -> what was computed there
        numbers: int,
    ) -> T:
        """What `work` returns or raises on the CPU, or returns on the GPU if its largest array is large enough for one.

        Nothing that `work` raises on the GPU leaves this method. `work` may be called twice, and has to begin anew then.
        """
        problem = ""
        if self._wish != CPU and numbers >= PAYS:
            try:
                device = self._device()
                if device is not None:
                    found = work(device)
                    self._has_worked(device)
                    return found
            except Exception as error:
                problem = _in_a_line(error)
        found = work(None)
        # What fails on the CPU as well, as a matrix without a factor does, is no fault of the GPU, and does not get here.
        if problem:
            self._news.append(DeviceNews(self._wish, problem))
            self._wish = CPU
        return found

    def news(self) -> tuple[DeviceNews, ...]:
        """What is new since the last call."""
        news, self._news = tuple(self._news), []
        return news

    def _device(self) -> str | None:
        if self._wish == AUTO:
            # Whoever fits has imported torch; this module is also imported by those who must not.
            import torch

            self._wish = CUDA if torch.cuda.is_available() else CPU
        return None if self._wish == CPU else self._wish

    def _has_worked(self, device: str) -> None:
        if not self._is_known:
            self._is_known = True
            self._news.append(DeviceNews(device))


def _in_a_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says; torch's are long."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:MAX_PROBLEM]
