"""The audit log by itself: rotation, a disk that takes no more, strangers by the thousand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from asktell_server.observe.audit import STRANGERS_PER_S, AuditLog


def lines(path: Path) -> list[dict[str, object]]:
    """What the file holds; empty lines, which end half lines, are none."""
    return [json.loads(line) for line in path.read_text().splitlines() if line]


def test_a_line_is_one_object_whatever_is_in_it(tmp_path: Path) -> None:
    """Names with line ends and quotes cannot make a line of their own; what is empty is left out."""
    log = AuditLog(tmp_path / "audit.jsonl")
    log.record(caller='a\n{"caller": "root"}', method="Tell", resource="ü\u2028", request_id="")
    log.close()

    [line] = lines(tmp_path / "audit.jsonl")
    assert line.pop("time")
    assert line == {"caller": 'a\n{"caller": "root"}', "method": "Tell", "resource": "ü\u2028"}


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """As log rotation does it, without a signal; a file that was removed too."""
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    log.record(caller="first")
    path.rename(tmp_path / "audit.1")
    log.record(caller="second")
    path.unlink()
    log.record(caller="third")
    log.close()

    assert [line["caller"] for line in lines(tmp_path / "audit.1")] == ["first"]
    assert [line["caller"] for line in lines(path)] == ["third"]


def test_a_full_disk_changes_nothing_but_the_log(tmp_path: Path) -> None:
    """No exception; each lost line is counted, the log says it once; when there is room again lines are whole."""
    path, lost = tmp_path / "audit.jsonl", []
    path.symlink_to("/dev/full")
    log = AuditLog(path, lambda: lost.append(1))
    with capture_logs() as said:
        for _ in range(3):
            log.record(caller="anna")
        path.unlink()
        log.record(caller="otto")
        log.record(caller="emma")
    log.close()

    assert len(lost) == 3
    assert [entry["event"] for entry in said] == ["the audit log cannot be written: lines are missing"]
    assert [line["caller"] for line in lines(path)] == ["otto", "emma"]


def test_without_a_file_it_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Where a container's log is."""
    AuditLog(None).record(caller="anna", code="OK")

    assert json.loads(capsys.readouterr().err)["caller"] == "anna"


def test_strangers_cannot_fill_the_disk(tmp_path: Path) -> None:
    """Of a flood of refusals some are written, with the number of those that are not; known callers are never left out."""
    seconds = [0.0]
    log = AuditLog(tmp_path / "audit.jsonl", clock=lambda: seconds[0])
    for _ in range(1000):
        log.record(caller="", code="UNAUTHENTICATED")
        log.record(caller="anna", code="OK")
    seconds[0] = 1.0
    log.record(caller="", code="UNAUTHENTICATED")
    log.record(caller="", code="UNAUTHENTICATED")
    log.close()

    strangers = [line for line in lines(tmp_path / "audit.jsonl") if "caller" not in line]
    assert len(strangers) == STRANGERS_PER_S + 2
    assert [line.get("left_out") for line in strangers[-3:]] == [None, 1000 - STRANGERS_PER_S, None]
    assert len(lines(tmp_path / "audit.jsonl")) == 1000 + len(strangers)
