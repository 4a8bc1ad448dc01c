"""Logs, as a process writes them: JSON for machines, columns for people, one line for each message."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

_SAYS = """
import logging, sys
import structlog
from asktell_server.observe import logs
logs.setup({level!r}, {log_format!r})
log = structlog.get_logger()
log.debug("not said at level info")
log.info("study created", study="digits", trial=3, request_id="r-1")
with structlog.contextvars.bound_contextvars(request_id="bound"):
    log.warning("careful")
try:
    1 / 0
except ZeroDivisionError as error:
    log.error("failed", exc_info=error)
logging.getLogger("library").info("chatter")
logging.getLogger("library").warning("from a %s", "library")
print("nothing else on standard output")
"""


def said(log_format: str, level: str = "info") -> list[str]:
    """Lines on the standard error of a process that is not on a terminal."""
    script = _SAYS.format(level=level, log_format=log_format)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "nothing else on standard output\n"
    return done.stderr.splitlines()


@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_without_a_terminal_every_line_is_json(log_format: str) -> None:
    """Messages, context, tracebacks and what libraries say, each one object with level and time."""
    messages = [json.loads(line) for line in said(log_format)]

    assert [(m["level"], m["event"]) for m in messages] == [
        ("info", "study created"),
        ("warning", "careful"),
        ("error", "failed"),
        ("warning", "from a library"),
    ]
    assert {key: messages[0][key] for key in ("study", "trial", "request_id")} == {
        "study": "digits",
        "trial": 3,
        "request_id": "r-1",
    }
    assert messages[1]["request_id"] == "bound"
    assert "ZeroDivisionError" in messages[2]["exception"]
    assert all(m["timestamp"].endswith("Z") for m in messages)


def test_the_console_format_is_for_people() -> None:
    """On demand also without a terminal; no JSON, no colours in a file."""
    lines = said("console")

    assert "study created" in lines[0]
    assert "study=digits" in lines[0]
    assert not lines[0].startswith("{")
    assert "\x1b" not in "".join(lines)


def test_the_level_is_the_least_severe_that_is_said() -> None:
    """Debug says more, error less; libraries are never more talkative than warnings."""
    debug = [json.loads(line)["event"] for line in said("json", "debug")]
    error = [json.loads(line)["event"] for line in said("json", "error")]

    assert "not said at level info" in debug
    assert "chatter" not in debug
    assert error == ["failed"]
