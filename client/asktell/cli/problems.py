"""What is wrong with a file or an argument, told before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence


class BadInput(Exception):
    """A file or an argument that cannot be used: `problems` lists all that is wrong with it at once."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        super().__init__(where, problems)
        self.where = where
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n  ".join([f"{self.where} cannot be used:", *self.problems])
