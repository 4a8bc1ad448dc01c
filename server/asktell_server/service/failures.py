"""Trials that were lost with their last retry: with those that FAILED they count towards `max_failed_trials`."""

from __future__ import annotations

from asktell_server.domain.study import Study
from asktell_server.domain.trial import TrialState
from asktell_server.storage.base import Snapshot


def given_up(tx: Snapshot, study: Study, but: int) -> int:
    """How many there are in the database, but for trial number `but`; 0 where the study has no limit on failures, since nobody
    needs to know. `study` is as it is in the database.
    """
    expired = study.count(TrialState.EXPIRED)
    if not study.spec.stopping.max_failed_trials or not expired:
        return 0
    retries = study.spec.trial_policy.max_retries
    trials = tx.trials(study.id, states=[TrialState.EXPIRED], limit=expired)
    return sum(trial.is_given_up(retries) for trial in trials if trial.number != but)
