"""From the wire's error to the typed tree."""

from __future__ import annotations

import inspect
from datetime import timedelta

import pytest

import asktell
from asktell import errors
from asktell._status import CallFailed, to_error

from .fake import Fault, details


def test_all_violations_are_carried_and_shown() -> None:
    """An InvalidArgument lists every violation in its text."""
    fault = Fault(
        code="INVALID_ARGUMENT",
        message="2 fields are wrong",
        reason="INVALID_ARGUMENT",
        violations=[("study.spec.parameters[0].float.max", "is below min"), ("study_id", "is empty")],
    )

    error = to_error(CallFailed(fault.code, fault.message, details(fault)))

    assert isinstance(error, asktell.InvalidArgument)
    assert error.violations[1] == asktell.FieldViolation("study_id", "is empty")
    assert str(error).splitlines() == [
        "2 fields are wrong",
        "  study.spec.parameters[0].float.max: is below min",
        "  study_id: is empty",
    ]


def test_reason_metadata_and_delay_are_carried() -> None:
    """ErrorInfo and RetryInfo are read beside each other."""
    fault = Fault(reason="SERVER_BUSY", metadata={"queue": "9"}, retry_delay_s=0.25)

    error = to_error(CallFailed("RESOURCE_EXHAUSTED", "busy", details(fault)))

    assert isinstance(error, asktell.ServerBusy)
    assert (error.code, error.reason, error.metadata) == ("RESOURCE_EXHAUSTED", "SERVER_BUSY", {"queue": "9"})
    assert error.retry_delay == timedelta(seconds=0.25)


def test_a_spec_mismatch_names_the_fields() -> None:
    """The metadata of STUDY_SPEC_MISMATCH is a tuple in Python."""
    fault = Fault(reason="STUDY_SPEC_MISMATCH", metadata={"fields": "spec.seed, spec.parameters[0]"})

    error = to_error(CallFailed("ALREADY_EXISTS", "differs", details(fault)))

    assert isinstance(error, asktell.StudySpecMismatch)
    assert error.fields == ("spec.seed", "spec.parameters[0]")


@pytest.mark.parametrize("raw", [b"", b"\xff\xff\xff", b"\x1a\x02\x08\x01"])
def test_without_readable_details_the_code_decides(raw: bytes) -> None:
    """A proxy's error has no details, or somebody else's."""
    error = to_error(CallFailed("NOT_FOUND", "no", raw))

    assert type(error) is asktell.NotFound
    assert error.reason == ""


def test_an_unknown_code_is_the_servers_fault() -> None:
    """INTERNAL and what else is not in the tree become ServerError."""
    assert type(to_error(CallFailed("INTERNAL", "bug"))) is asktell.ServerError
    assert type(to_error(CallFailed("DATA_LOSS", "bug"))) is asktell.ServerError


def test_the_drawn_tree_is_the_tree() -> None:
    """Every error class stands in the drawing, below its parent."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, asktell.AskTellError)]
    drawing = errors.__doc__ or ""
    depth = {
        name: (len(line) - len(line.lstrip(" │├└─"))) // 4
        for line in drawing.splitlines()
        for name in line.strip(" │├└─").split(" ")[:1]
    }

    assert len(classes) > 30
    for cls in classes:
        assert depth[cls.__name__] == depth["AskTellError"] + len(cls.__mro__) - len(asktell.AskTellError.__mro__)


def test_every_error_is_exported() -> None:
    """What a caller may want to catch is one import away."""
    classes = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, Exception)]

    assert {c.__name__ for c in classes} <= set(asktell.__all__)
