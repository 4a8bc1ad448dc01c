"""Fingerprints of requests: equal for equal bodies, different for different ones."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.trial import TrialState
from asktell_server.service.requests import fingerprint, fingerprint_of_many, id_violations

bodies = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


def _typed(value: object) -> object:
    """A form in which values of different types differ."""
    if isinstance(value, Mapping):
        return {key: _typed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_typed(item) for item in value]
    return type(value).__name__, repr(value)


@given(bodies, bodies)
def test_equal_for_equal_bodies_only(left: object, right: object) -> None:
    """Two bodies have the same fingerprint exactly if they are equal, types included."""
    assert (fingerprint(left) == fingerprint(right)) == (_typed(left) == _typed(right))


@given(st.lists(bodies, max_size=4))
async def test_of_many_it_is_made_in_turns_and_the_same(items: list[object]) -> None:
    """However it is made, a body has one fingerprint."""
    assert await fingerprint_of_many(items) == fingerprint(items)


def test_it_is_that_of_earlier_releases() -> None:
    """What an earlier release stored of a request still matches the same request."""
    body = ({"x": 1.5, "y": -0.0}, ["a", None, True, 3], Measurement({"loss": 0.1}, step=2), TrialState.PRUNED)

    assert (
        fingerprint(*body, timedelta(seconds=90)) == "862ee1a078f17be12ff21fe0d4e2f418bb723aa965446d4b33d98f53d7f99796"
    )


def test_order_of_keys_does_not_matter() -> None:
    """A map is the same in any order."""
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        (0.5, "float:0.5"),
        (Measurement({"loss": 1.0}), Measurement({"loss": 1.0}, step=0)),
        (TrialState.FAILED, TrialState.PRUNED),
        (timedelta(seconds=1), timedelta(seconds=2)),
    ],
)
def test_different_values(left: object, right: object) -> None:
    """Values that a caller could tell apart have different fingerprints."""
    assert fingerprint(left) != fingerprint(right)


def test_what_has_no_canonical_form_is_refused() -> None:
    """A type that nobody thought of is an error, not a fingerprint of its address."""
    with pytest.raises(TypeError, match="object"):
        fingerprint(object())


@pytest.mark.parametrize("request_id", ["", "a", "x" * 128, "ü 😀"])
def test_good_ids(request_id: str) -> None:
    """Any printable text of up to 128 characters will do."""
    assert not id_violations(request_id)


@pytest.mark.parametrize("request_id", ["x" * 129, "a\n", "\0", "\x7f", "\u2028"])
def test_bad_ids(request_id: str) -> None:
    """Too long or not printable is refused."""
    assert [violation.field for violation in id_violations(request_id)] == ["request_id"]
