"""The transition table: exhaustive."""

from __future__ import annotations

import itertools

import pytest

from asktell_server.domain.trial import (
    INITIAL_BY_ASK,
    INITIAL_BY_CREATE,
    RESULT_STATES,
    TRANSITIONS,
    Transition,
    TrialState,
    allowed_from,
    may,
)

S, T = TrialState, Transition
RESULTS = {S.SUCCEEDED, S.INFEASIBLE, S.FAILED, S.PRUNED}
# As the contract draws it (the comment of Trial.State).
DRAWN = {
    (S.WAITING, T.ASK, S.RUNNING),
    (S.WAITING, T.SUPERSEDE, S.EXPIRED),
    (S.RUNNING, T.EXPIRE, S.EXPIRED),
    *((state, T.TELL, result) for state in (S.RUNNING, S.EXPIRED) for result in RESULTS),
}


@pytest.mark.parametrize(("state", "transition", "target"), list(itertools.product(S, T, S)))
def test_every_change(state: TrialState, transition: Transition, target: TrialState) -> None:
    """A change is allowed exactly if the contract draws it."""
    assert may(state, transition, target) == ((state, transition, target) in DRAWN)


def test_results_are_final() -> None:
    """Nothing leads out of a state with a result, and just these have one."""
    assert {state for state in S if state.has_result} == RESULTS == RESULT_STATES
    assert not any(state in RESULTS for state, _ in TRANSITIONS)


def test_beginnings() -> None:
    """An ask begins with RUNNING; CreateTrials with WAITING or with a result."""
    assert INITIAL_BY_ASK is S.RUNNING
    assert {S.WAITING, *RESULTS} == INITIAL_BY_CREATE


def test_every_state_can_be_reached() -> None:
    """From the beginnings the changes lead to every state."""
    reached = {INITIAL_BY_ASK, *INITIAL_BY_CREATE}
    for _ in S:
        reached |= {target for (state, _), targets in TRANSITIONS.items() if state in reached for target in targets}

    assert reached == set(S)


def test_where_a_change_is_allowed() -> None:
    """The states that an error lists are those from which the change may happen, in the order of a life."""
    assert {t: allowed_from(t) for t in T} == {
        T.ASK: [S.WAITING],
        T.TELL: [S.RUNNING, S.EXPIRED],
        T.EXPIRE: [S.RUNNING],
        T.SUPERSEDE: [S.WAITING],
    }
