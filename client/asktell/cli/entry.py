"""The console script. It works without the extra packages of the command line just far enough to name them."""

from __future__ import annotations

import importlib.util
import sys

_NEEDED = ("click", "rich", "yaml")


def main() -> None:
    """Runs the command line; exits 1 with a hint when its packages are not installed."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.exit("asktell: the command line needs a few more packages: pip install 'asktell[cli]'")

    from asktell.cli.app import root

    root(prog_name="asktell")


if __name__ == "__main__":
    main()
