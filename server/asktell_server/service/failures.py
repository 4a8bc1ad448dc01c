"""Trials that were lost: with their last retry they count, with those that FAILED, towards `max_failed_trials`; unless what they repeat
gets its result, before or after.
"""

from __future__ import annotations

from asktell_server.domain.study import Study
from asktell_server.domain.trial import SUPERSEDED, Trial, TrialState
from asktell_server.storage.base import Snapshot


def given_up(tx: Snapshot, study: Study, but: int = 0) -> int:
    """How many were lost for good in the database, but for trial number `but`; 0 where the study has no limit on failures, since nobody
    needs to know. `study` is as it is in the database.
    """
    if not study.spec.stopping.max_failed_trials or not study.count(TrialState.EXPIRED):
        return 0
    return tx.count_given_up(study.id, study.spec.trial_policy.max_retries, but)


def solved(tx: Snapshot, study_id: int, trial: Trial) -> Trial | None:
    """What the trial repeats, at once or by way of other retries, if that got its result after all."""
    before = trial.retry_of
    while before is not None:
        repeated = tx.trial(study_id, before, full=False)
        if repeated is None or repeated.state.has_result:
            return repeated
        before = repeated.retry_of
    return None


def superseded_by(trial: Trial) -> str:
    """The reason for which a retry of this trial, which got its result after all, is EXPIRED."""
    return f"{SUPERSEDED}trial {trial.number} got its result after all"
