"""A request_id never acts twice: what it did is stored in the transaction that did it.

The body is compared by a fingerprint over the domain's own values in a canonical form (keys sorted, types told apart), not
over the bytes on the wire, which may differ for equal messages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum

from asktell_server.domain.errors import RequestIdReused, Violation
from asktell_server.service.turns import in_turns
from asktell_server.storage.base import Snapshot, StoredRequest, Transaction

MAX_REQUEST_ID = 128
LIFETIME = timedelta(hours=24)


def fingerprint(*body: object) -> str:
    """A digest that is equal for equal bodies."""
    return _digest(_text(body))


async def fingerprint_of_many(body: Sequence[object]) -> str:
    """What `fingerprint(body)` gives, in turns with other calls."""
    return _digest(f"[[{','.join(await in_turns(body, _text))}]]")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _text(value: object) -> str:
    return json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"))


def _canonical(value: object) -> object:
    # The most frequent types first: asking whether something is a Mapping takes as long as all else.
    if isinstance(value, float):
        return {"float": repr(value)}
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{f.name: _canonical(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Mapping):
        return {f"{key}": _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(f"{item}" for item in value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"no canonical form for {type(value).__name__}")


def id_violations(request_id: str) -> list[Violation]:
    """What is wrong with a request_id: too long, or with control characters."""
    if len(request_id) > MAX_REQUEST_ID or not request_id.isprintable():
        return [Violation("request_id", f"must have 1 to {MAX_REQUEST_ID} printable characters")]
    return []


def recall(tx: Snapshot, scope: str, request_id: str, body: str) -> StoredRequest | None:
    """What the id did before, or None if it is new (or empty). Raises RequestIdReused."""
    if not request_id:
        return None
    stored = tx.request(scope, request_id)
    if stored is not None and stored.fingerprint != body:
        raise RequestIdReused(request_id)
    return stored


def remember(
    tx: Transaction,
    study_id: int | None,
    scope: str,
    request_id: str,
    body: str,
    response: Mapping[str, object],
    now: datetime,
) -> None:
    """Stores what the id did, in the transaction that did it. Does nothing without an id."""
    if request_id:
        tx.insert_request(study_id, scope, request_id, StoredRequest(body, response), now)
