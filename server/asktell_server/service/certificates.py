"""Client certificates as callers: who shows one of the server's client CA is known by what it names.

    [[bindings]]
    dns = "trainer.vision.svc"     # or uri, email, or common_name
    role = "worker"
    projects = ["vision"]

Alternative names of a certificate are compared as they are, each with names of its own kind; there are no wildcards. Nobody but the
authority decides what a certificate names, so the authority must be one that does so with care.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asktell_server.domain.access import Grant, Principal
from asktell_server.service.bindings import BadConfig, load, read_bindings

KINDS = ("dns", "uri", "email", "common_name")


@dataclass(frozen=True)
class Holder:
    """Who has a certificate with `name` among its names of a `kind` gets `grants`."""

    kind: str
    name: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True)
class CertificateRoles:
    """What the file says; see the head of this module."""

    holders: tuple[Holder, ...]

    @classmethod
    def read(cls, path: Path) -> CertificateRoles:
        """From a TOML file. Raises BadConfig."""
        content = load(path)
        wrong = [f"{key} is not known" for key in sorted(set(content) - {"bindings"})]
        holders = read_bindings(content, frozenset(KINDS), _holder, wrong)
        if wrong:
            raise BadConfig(f"{path}: " + "; ".join(wrong))
        return cls(holders)

    def principal(self, names: Mapping[str, Collection[str]]) -> Principal | None:
        """Who holds a certificate with these names, by kind; None if nothing is bound to any of them."""
        held = [holder for holder in self.holders if holder.name in names.get(holder.kind, ())]
        if not held:
            return None
        return Principal(f"certificate:{held[0].name}", tuple(grant for holder in held for grant in holder.grants))


def _holder(entry: dict[str, Any], at: str, wrong: list[str], held: tuple[Grant, ...]) -> Holder | None:
    given = [kind for kind in KINDS if kind in entry]
    if len(given) != 1:
        wrong.append(f"{at} must have one of {', '.join(KINDS)}")
        return None
    name = entry[given[0]]
    if not isinstance(name, str) or not name or not name.isprintable():
        wrong.append(f"{at}.{given[0]} must be a text")
        return None
    return Holder(given[0], name, held)
