"""The checker finds bugs: each one planted in a real server, worked on for a moment without any fault."""

from __future__ import annotations

from pathlib import Path

import pytest

from .deployment import postgres_deployment, sqlite_deployment
from .mutants import MUTANTS, ON_POSTGRESQL
from .rounds import Round, play

# What the checker must say of each, among other things.
EVIDENCE = {
    "acknowledges_before_the_commit": "lost:",
    "gives_a_number_twice": "given twice:",
    "exceeds_the_budget": "budget of",
    "forgets_request_ids": "request_id",
    "revives_expired_trials": "illegal:",
    "loses_measurements": "lost: Report",
    "skips_in_watches": "missed a change",
    "never_ends_a_lease": "stuck:",
    "retries_for_ever": "is attempt 2, allowed are 1",
    "drops_late_tells": "lost: Tell",
    "imports_half": "brought 5 trials, 4 are there",
    "gives_when_stopped": "while the study was stopped",
    "suggests_outside_of_the_space": "outside of the space",
    "retries_twice": "has 2 retries",
    "starts_from_an_older_state": "backward:",
    "resumes_nothing": "did not resume the study",
    "never_completes": "was not COMPLETED at",
    "takes_stale_etags": "was taken with a stale etag",
    "reads_another_trial": "and was answered",
    "forgets_labels": "not those of CreateTrials",
    "never_says_stop": "was not told that the study is stopped",
    "heartbeats_without_a_lease": "was answered no lease",
    "gives_solved_points_again": "which it repeats, had its result",
    "reads_without_the_last_measurement": "does not see Report",
    "skips_between_pages": "left out the numbers",
    "gives_without_a_lease": "was seen without a lease",
    "forgets_labels_of_studies": "was seen with the labels",
}
# Those that show only when leases run out, which takes seconds.
SLOW = {
    "never_ends_a_lease",
    "retries_for_ever",
    "drops_late_tells",
    "revives_expired_trials",
    "retries_twice",
    "gives_solved_points_again",
}
# Those for the long run alone: the rules that find them are like others', which are tried each time.
LIKE_OTHERS = {
    "imports_half",
    "suggests_outside_of_the_space",
    "never_completes",
    "reads_another_trial",
    "forgets_labels",
    "forgets_labels_of_studies",
    "never_says_stop",
    "heartbeats_without_a_lease",
    "gives_without_a_lease",
}
STUDIES = {
    "exceeds_the_budget": "budget",
    "gives_when_stopped": "stopped",
    "resumes_nothing": "stopped",
    "never_completes": "budget",
    "never_says_stop": "stopped",
    "heartbeats_without_a_lease": "leased",
    "gives_without_a_lease": "leased",
}
SLOW_STUDIES = ("leased", "once")


EVIDENCE_ON_POSTGRESQL = {
    "rolls_back_and_says_committed": ("lost: Tell",),
    "expects_and_does_not_look": ("lost:", "illegal:"),
    "does_not_lock": ("another writer interfered", "internal error"),
    "remembers_trials_for_ever": ("lost: Tell", "illegal:", "the result of"),
}


def test_each_mutant_is_expected() -> None:
    """No planted bug is left out."""
    assert set(EVIDENCE) == set(MUTANTS)
    assert set(EVIDENCE_ON_POSTGRESQL) == set(ON_POSTGRESQL)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "mutant",
    [pytest.param(name, marks=pytest.mark.soak if name in LIKE_OTHERS else ()) for name in sorted(set(MUTANTS) - SLOW)],
)
def test_a_planted_bug_is_found(mutant: str, tmp_path: Path) -> None:
    """Some hundred calls are enough, and what the checker says names the promise that was broken.

    Clients stop studies, too: a budget that would be exceeded a moment later is then kept by luck, so there are several rounds.
    """
    kills = 1 if mutant == "starts_from_an_older_state" else 0
    reports = []
    for seed in range(5, 10):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with sqlite_deployment(folder, mutant=mutant) as deployment:
            studies = (STUDIES.get(mutant, "plain"),)
            made = Round(seed=seed, calls=300, kills=kills, pace_s=0.5, budget=60, studies=studies, patience_s=2.0)
            reports.append(play(deployment, made))
        if any(EVIDENCE[mutant] in violation for violation in reports[-1].violations):
            return

    pytest.fail(f"not found: {[str(report) for report in reports]}")


@pytest.mark.soak
@pytest.mark.parametrize("mutant", sorted(SLOW))
def test_a_planted_bug_of_leases_is_found(mutant: str, tmp_path: Path) -> None:
    """The same where leases have to run out first."""
    with sqlite_deployment(tmp_path, mutant=mutant) as deployment:
        report = play(deployment, Round(seed=5, seconds=3.0, studies=SLOW_STUDIES, patience_s=5.0))

    assert any(EVIDENCE[mutant] in violation for violation in report.violations), report


@pytest.mark.soak
@pytest.mark.parametrize("mutant", sorted(ON_POSTGRESQL))
def test_a_planted_bug_among_three_servers_is_found(mutant: str, tmp_path: Path) -> None:
    """Bugs of the writer to PostgreSQL, which show only where several servers change one study."""
    with postgres_deployment(tmp_path, mutant) as deployment:
        made = Round(seed=5, calls=300, budget=60, studies=("plain",), patience_s=2.0, limit_s=20.0)
        report = play(deployment, made)

    assert any(said in violation for said in EVIDENCE_ON_POSTGRESQL[mutant] for violation in report.violations), report
