"""docs/errors.md lists exactly the errors that there are, each under its own code."""

from __future__ import annotations

import re

from asktell_server.domain import errors
from asktell_server.domain.errors import AskTellError
from asktell_server.rpc.status import code_of

from ..support import ROOT


def _leaves(kind: type[AskTellError]) -> set[type[AskTellError]]:
    return {kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))}


def test_every_reason_stands_on_the_page_under_its_code() -> None:
    """Each error with a reason of its own has one row with its gRPC code, and no row is about something else."""
    rows = re.findall(r"^\| ([A-Z_]+) \| `([A-Z_]+)` \|", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    expected = set()
    for kind in _leaves(errors.AskTellError):
        if "reason" in vars(kind):
            instance = kind.__new__(kind)
            expected.add((code_of(instance).name, kind.reason))

    assert set(rows) == expected


def test_the_contract_lists_every_reason() -> None:
    """The table at the head of study_service.proto names every reason too."""
    head = (ROOT / "proto/asktell/v1/study_service.proto").read_text().split("syntax =")[0]
    reasons = {kind.reason for kind in _leaves(errors.AskTellError) if "reason" in vars(kind)}

    assert {reason for reason in reasons if reason not in head} == set()
