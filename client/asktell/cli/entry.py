"""The console script. It works without the extra packages of the command line just far enough to name them."""

from __future__ import annotations

import errno
import importlib.util
import os
import sys

_NEEDED = ("click", "rich", "yaml")


def main() -> None:
    """Runs the command line; exits 1 with a hint when its packages are not installed."""
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.exit("asktell: the command line needs a few more packages: pip install 'asktell[cli]'")

    from asktell.cli.app import root

    try:
        try:
            root(prog_name="asktell")
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EPIPE):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes once more when it exits
        sys.exit(1 if error.errno == errno.EPIPE else f"asktell: the output cannot be written: {error.strerror}")


if __name__ == "__main__":
    main()
