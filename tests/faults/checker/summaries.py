"""Counts and the best trial of a study are those of its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from .evidence import Evidence, State


def summaries_are_true(e: Evidence) -> Iterator[str]:
    """A study's counts are those of its trials, its best trial is the best."""
    for name, study in e.final.studies.items():
        trials = e.final.trials[name]
        states = Counter(State.State.Name(trial.state).lower() for trial in trials)
        counts = {field.name: getattr(study.trial_counts, field.name) for field in study.trial_counts.DESCRIPTOR.fields}
        if {state: count for state, count in counts.items() if count} != dict(states):
            yield f"counts of {name} are {counts}, the trials are {dict(states)}"
        losses = [trial.measurement.metrics["loss"] for trial in trials if trial.state == State.SUCCEEDED]
        best = [trial.measurement.metrics["loss"] for trial in e.final.best[name]]
        if best != ([min(losses)] if losses else []):
            yield f"best of {name} is {best}, should be {min(losses, default=None)}"
        latest = max((trial.revision for trial in trials), default=0)
        if latest > study.revision:
            yield f"{name} is at revision {study.revision}, a trial of it at {latest}"


RULES = (summaries_are_true,)
