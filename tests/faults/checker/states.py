"""Every change that anyone saw of a trial is a path of allowed edges, a result never changes, and a stopped study gives nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from .evidence import REACHABLE, RESULTS, Evidence, State, content, grouped


def edges_are_allowed(e: Evidence) -> Iterator[str]:
    """Each change of a trial, by revision, is a path of the table; results never change; one revision has one content."""
    for name, unsorted in e.seen_trials.items():
        seen = sorted(unsorted, key=lambda one: one.revision)
        for before, after in pairwise(seen):
            old, new = before.message, after.message
            names = State.State.Name(old.state), State.State.Name(new.state)
            if before.revision == after.revision:
                if content(old) != content(new):
                    yield f"{name} at revision {after.revision} was seen in two versions ({', '.join(names)})"
            elif new.state not in REACHABLE[old.state]:
                yield f"illegal: {name} went from {names[0]} to {names[1]}"
            elif old.state in RESULTS and (old.measurement, old.state_reason, old.end_time) != (
                new.measurement,
                new.state_reason,
                new.end_time,
            ):
                yield f"the result of {name} changed"
            elif old.worker and old.worker != new.worker:
                yield f"{name} went from worker {old.worker} to {new.worker}"


def stopped_studies_give_nothing(e: Evidence) -> Iterator[str]:
    """From when a stop was acknowledged until a resume is under way, no ask is served (but a repeat)."""
    resumes = grouped(e.calls("ResumeStudy"), lambda call: call.request.name)
    given: dict[str, float] = {}
    for worker, calls in e.asks.items():
        given[worker] = min((call.began for call in calls), default=math.inf)
    for stop in e.calls("StopStudy"):
        if not stop.ok:
            continue
        # A resume that began before the stop ended may be the later one.
        until = min(
            (call.began for call in resumes.get(stop.request.name, ()) if call.over > stop.began), default=math.inf
        )
        for ask in e.calls("Ask"):
            first = given[ask.request.worker]
            if ask.ok and ask.request.parent == stop.request.name and stop.ended < first and ask.ended < until:
                yield f"{ask} was served while the study was stopped"


RULES = (
    edges_are_allowed,
    stopped_studies_give_nothing,
)
