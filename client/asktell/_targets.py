"""What people write where a server or a study is meant, and what that is in full."""

from __future__ import annotations

import os
import socket

from asktell.names import StudyName

TARGET_VARIABLE = "ASKTELL_TARGET"
DEFAULT_TARGET = "localhost:50051"
LOCAL_PREFIX = "local:"


def resolve_target(target: str | None) -> str:
    """The target given, else that of the environment variable ASKTELL_TARGET, else localhost:50051."""
    return target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def resolve_study(name: str, project: str) -> StudyName:
    """The study meant by "study", "project/study" or a full resource name. Raises InvalidName (a ValueError)."""
    if not isinstance(name, str):
        raise TypeError(f"a study's name is text, not {type(name).__name__}: {name!r}")
    parts = name.split("/")
    if len(parts) == 1:
        return StudyName.parse(f"projects/{project}/studies/{name}")
    if len(parts) == 2:
        return StudyName.parse(f"projects/{parts[0]}/studies/{parts[1]}")
    return StudyName.parse(name)


def default_worker() -> str:
    """Who evaluates, for people: this host and process."""
    return f"{socket.gethostname()}:{os.getpid()}"[:255]
