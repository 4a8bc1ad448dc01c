"""Retries keep their limit, one for each lost trial; what waits is given out in order, and nothing is stuck."""

from __future__ import annotations

import math
from collections.abc import Iterator

from asktell.v1 import study_pb2, trial_pb2

from ..history import Outcome
from .evidence import RESULTS, Evidence, State, number_of, parent_of


def retries_keep_their_limit(e: Evidence) -> Iterator[str]:
    """A lost trial has one retry up to the limit, with its parameters; nothing expires without a lease."""
    for name, trial in e.trials.items():
        policy = e.final.studies[parent_of(name)].spec.trial_policy
        children = e.children.get(name, ())
        if trial.attempt > policy.max_retries + 1:
            yield f"{name} is attempt {trial.attempt}, allowed are {policy.max_retries + 1}"
        if trial.HasField("retry_of"):
            before = e.trials.get(f"{parent_of(name)}/trials/{trial.retry_of}")
            if before is None or trial.attempt != before.attempt + 1 or trial.parameters != before.parameters:
                yield f"{name} does not repeat trial {trial.retry_of}"
        elif trial.attempt != 1:
            yield f"{name} is attempt {trial.attempt} of nothing"
        if len(children) > 1:
            yield f"{name} has {len(children)} retries"
        if trial.state == State.EXPIRED:
            lost = trial.HasField("start_time")
            if lost and not policy.HasField("lease"):
                yield f"{name} is EXPIRED without a lease"
            before = e.trials.get(f"{parent_of(name)}/trials/{trial.retry_of}")
            while before is not None and before.state == State.EXPIRED and before.HasField("retry_of"):
                before = e.trials.get(f"{parent_of(name)}/trials/{before.retry_of}")
            is_solved = before is not None and before.state in RESULTS
            # Nobody would ask for the retry of a study that is COMPLETED.
            is_over = is_solved or e.final.studies[parent_of(name)].state == study_pb2.Study.COMPLETED
            if lost and trial.attempt <= policy.max_retries and not children and not is_over:
                yield f"{name} was lost and is not tried again"
            if not lost and not is_solved:
                yield f"{name} was withdrawn though none of the trials that it repeats has a result"
        elif children and trial.state not in RESULTS:
            yield f"{name} is {State.State.Name(trial.state)} and has a retry"


def solved_points_are_not_given_again(e: Evidence) -> Iterator[str]:
    """From when the late result of a lost trial was acknowledged, none of its retries is given out."""
    told = {name: min((c.ended for c in calls if c.ok), default=math.inf) for name, calls in e.tells.items()}
    for calls in e.asks.values():
        first = min(call.began for call in calls)
        for call in calls:
            for trial in call.response.trials if call.ok else ():
                before = e.trials.get(f"{parent_of(trial.name)}/trials/{trial.retry_of}")
                while before is not None:
                    if told.get(before.name, math.inf) < first:
                        yield f"{trial.name} was given out though {before.name}, which it repeats, had its result"
                    before = e.trials.get(f"{parent_of(before.name)}/trials/{before.retry_of}")


def nothing_is_stuck(e: Evidence) -> Iterator[str]:
    """After all leases have ended nothing runs with one; what runs without one was given to somebody; the queue is in order."""
    for study, trials in e.final.trials.items():
        policy = e.final.studies[study].spec.trial_policy
        for trial in trials:
            if trial.state != State.RUNNING:
                continue
            if policy.HasField("lease"):
                yield f"stuck: {trial.name} runs after its lease has ended"
            calls = e.asks.get(trial.worker, ())
            if not any(call.outcome is not Outcome.REFUSED for call in calls):
                yield f"stuck: {trial.name} runs and belongs to nobody"
        waiting = [number_of(trial) for trial in trials if trial.state == State.WAITING]
        queued = [trial for trial in trials if trial.suggestion.source == trial_pb2.Suggestion.ENQUEUED]
        taken = [number_of(trial) for trial in queued if trial.HasField("start_time")]
        if waiting and taken and min(waiting) < max(taken):
            yield f"{study}: trial {min(waiting)} waits though {max(taken)}, which came later, was given out"


RULES = (
    retries_keep_their_limit,
    solved_points_are_not_given_again,
    nothing_is_stuck,
)
