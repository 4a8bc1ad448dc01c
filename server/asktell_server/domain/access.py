"""Who may do what: principals, their roles in projects, and the tokens that stand for them.

    viewer   reads and watches studies and trials, and what the models have learned
    worker   viewer, and runs trials: ask, tell, report, heartbeat, enqueue, annotate
    owner    worker, and creates, changes, stops, resumes and deletes studies
    admin    owner, and whatever methods for administration there will be; today no method needs more than owner

A role is held in one project or in all. Without a role in a project its studies do not exist for a principal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum


class Role(IntEnum):
    """Each role may do what those below it may."""

    VIEWER = 1
    WORKER = 2
    OWNER = 3
    ADMIN = 4


@dataclass(frozen=True)
class Grant:
    """A role in a project; in all projects if `project` is None."""

    role: Role
    project: str | None


@dataclass(frozen=True)
class Principal:
    """Who calls. `name` is for people and logs."""

    name: str
    grants: tuple[Grant, ...]

    def role_in(self, project: str) -> Role | None:
        """The highest role in a project, or None."""
        return max((grant.role for grant in self.grants if grant.project in (None, project)), default=None)

    @property
    def projects(self) -> frozenset[str] | None:
        """The projects in which the principal has a role; None means all."""
        named = {grant.project for grant in self.grants}
        return None if None in named else frozenset(name for name in named if name is not None)


@dataclass(frozen=True)
class Token:
    """A bearer token as the database knows it: `digest` (SHA-256, hexadecimal) of the secret, never the secret.

    `expire_time` None means never. A token whose `revoke_time` is set is good for nothing.
    """

    id: str
    digest: str
    name: str
    grants: tuple[Grant, ...]
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None

    @property
    def principal(self) -> Principal:
        """Whom it stands for. Names need not be unique, so the id, by which a token is revoked, is part of it."""
        return Principal(f"token:{self.name}:{self.id}", self.grants)

    def is_expired(self, now: datetime) -> bool:
        """Whether its time is over."""
        return self.expire_time is not None and now >= self.expire_time


def grants(role: Role, projects: Iterable[str]) -> tuple[Grant, ...]:
    """A role in each project; `*` means all."""
    return tuple(Grant(role, None if project == "*" else project) for project in projects)
