"""A Dockerfile as its stages, read just far enough to check it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Stage:
    """One FROM and what follows it, in order: (instruction, its text on one line)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The text of each `instruction` of this stage itself, in order."""
        return [text for name, text in self.instructions if name == instruction]


def read(path: Path) -> tuple[dict[str, str], dict[str, Stage]]:
    """The arguments given before the first stage with their defaults, and the stages by name, in order."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE)
    lines = [line for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]

    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for instruction, rest in (line.split(maxsplit=1) for line in lines):
        if instruction == "FROM":
            base, _, name = rest.split()
            stages[name] = Stage(name, base)
        elif not stages:
            argument, default = rest.split("=", 1)
            arguments[argument] = default
        else:
            stages[next(reversed(stages))].instructions.append((instruction, rest))
    return arguments, stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """The stage, the stage it builds on, and so on to the one on an image."""
    stage = stages[name]
    return [stage, *(lineage(stages, stage.base) if stage.base in stages else [])]
