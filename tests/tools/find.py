"""Where the commands are that scripts/tools brings."""

from __future__ import annotations

import shutil

from ..support import ROOT

TOOLS = ROOT / ".tools"


def tool(name: str) -> str:
    """The path of a command: from .tools if it is there, else from the system. A missing one fails the test."""
    found = shutil.which(name, path=str(TOOLS / "bin")) or shutil.which(name)
    assert found is not None, f"{name} is missing: run scripts/tools"
    return found
