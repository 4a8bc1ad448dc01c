"""Peak memory of processes, from what Linux keeps about them; elsewhere there is none to report.

Children serve many studies, so the peak is reset before each (writing 5 to clear_refs, see proc(5)).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path


def reset_peak(pids: Sequence[int]) -> None:
    """Begins a new peak for each process, where the system can do that."""
    for pid in pids:
        with contextlib.suppress(OSError):
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(pids: Sequence[int]) -> float | None:
    """Sum of the processes' peak resident sizes in MiB since they were reset; None where the system does not say."""
    total = 0.0
    try:
        for pid in pids:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    total += float(line.split()[1]) / 1024
    except OSError:
        return None
    return total or None


def descendants(pid: int) -> list[int]:
    """The process and all its children, grandchildren, ..."""
    found = [pid]
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += descendants(int(child))
    return found
