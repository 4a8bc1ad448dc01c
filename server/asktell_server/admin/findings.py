"""What `asktell doctor` finds: one thing that is wrong, how bad it is, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WARNING, ERROR = 1, 2
MAX_SHOWN = 5
RESTORE = "stop the server and `asktell restore` the last backup that doctor finds whole"
RESTORE_POSTGRESQL = (
    "stop the servers and bring the last good backup back (`pg_restore`, or PostgreSQL's point-in-time recovery)"
)


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which examination found it, how bad it is (WARNING, ERROR), and what to do."""

    check: str
    severity: int
    message: str
    mend: str

    @property
    def level(self) -> str:
        """The severity as a word."""
        return "error" if self.severity == ERROR else "warning"

    def to_json(self) -> dict[str, str]:
        """The finding for programs."""
        return {"check": self.check, "level": self.level, "message": self.message, "mend": self.mend}


def first_few(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The first MAX_SHOWN of each examination and severity, then how many more there are."""
    found: Counter[tuple[str, int, str]] = Counter()
    for finding in findings:
        kind = (finding.check, finding.severity, finding.mend)
        found[kind] += 1
        if found[kind] <= MAX_SHOWN:
            yield finding
    for (check, severity, mend), count in found.items():
        if count > MAX_SHOWN:
            yield Finding(check, severity, f"and {count - MAX_SHOWN} more", mend)
