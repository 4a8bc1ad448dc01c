"""Files that bind who somebody is elsewhere to roles here, in TOML: what they have in common.

    [[bindings]]
    ...                        # who: depends on the file
    role = "owner"
    projects = ["vision"]      # "*" is every project

Everything that is wrong with a file is told at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from asktell.names import is_id
from asktell_server.domain.access import Grant, Role, grants

T = TypeVar("T")


class BadConfig(ValueError):
    """The file cannot be used; the message says everything that is wrong with it."""


def load(path: Path) -> dict[str, Any]:
    """The file's content. Raises BadConfig."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadConfig(f"cannot read {path}: {error}") from error


def read_bindings(
    content: dict[str, Any],
    keys: frozenset[str],
    read: Callable[[dict[str, Any], str, list[str], tuple[Grant, ...]], T | None],
    wrong: list[str],
) -> tuple[T, ...]:
    """The bindings of a file, each with its `keys` read by `read`; complaints are added to `wrong`."""
    entries = content.get("bindings", [])
    if not isinstance(entries, list) or not entries:
        wrong.append("bindings must have at least one entry, or nobody may do anything")
        return ()
    found = []
    for i, entry in enumerate(entries):
        at = f"bindings[{i}]"
        if not isinstance(entry, dict):
            wrong.append(f"{at} must be a table")
            continue
        wrong += [f"{at}.{key} is not known" for key in sorted(set(entry) - keys - {"role", "projects"})]
        found.append(read(entry, at, wrong, _grants(entry, at, wrong)))
    return tuple(one for one in found if one is not None)


def _grants(entry: dict[str, Any], at: str, wrong: list[str]) -> tuple[Grant, ...]:
    role, projects = entry.get("role"), entry.get("projects")
    names = [role.name.lower() for role in Role]
    if role not in names:
        wrong.append(f"{at}.role must be one of {', '.join(names)}")
    if not isinstance(projects, list) or not projects or not all(_is_project(project) for project in projects):
        wrong.append(f'{at}.projects must be a list of ids of projects, or ["*"]')
    elif role in names:
        return grants(Role[str(role).upper()], projects)
    return ()


def _is_project(value: object) -> bool:
    return isinstance(value, str) and (value == "*" or is_id(value))
