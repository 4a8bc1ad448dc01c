"""Stops and resumes act, a study is COMPLETED when its criterion is met and not before, and an etag names one version of it."""

from __future__ import annotations

from collections.abc import Iterator

from asktell.v1 import study_pb2

from .evidence import Evidence, grouped

State = study_pb2.Study


def stops_and_resumes_act(e: Evidence) -> Iterator[str]:
    """What answers a stop is not ACTIVE, and what answers a resume not STOPPED; so is what is seen until the next one is under way."""
    for call in e.calls("StopStudy"):
        if call.ok and call.response.state == State.ACTIVE:
            yield f"{call} did not stop the study"
    for call in e.calls("ResumeStudy"):
        if call.ok and call.response.state == State.STOPPED:
            yield f"{call} did not resume the study"
    stops = grouped(e.calls("StopStudy"), lambda call: call.request.name)
    resumes = grouped(e.calls("ResumeStudy"), lambda call: call.request.name)
    for name, seen in e.seen_studies.items():
        for one in seen:
            made, undone = stops.get(name, []), resumes.get(name, [])
            if one.message.state == State.STOPPED:
                made, undone = undone, made
                if not any(stop.began < one.ended for stop in undone):
                    yield f"{name} was seen STOPPED, which nobody had asked for"
            elif one.message.state != State.ACTIVE:
                continue
            for call in made:
                between = any(other.over > call.began and other.began < one.ended for other in undone)
                if call.ok and call.ended < one.began and not between:
                    yield f"{name} was seen {State.State.Name(one.message.state)} after {call}"
                    break


def studies_are_completed_in_time(e: Evidence) -> Iterator[str]:
    """A study with `max_trials` is COMPLETED when as many have ended and none is to come, and not before; others never are."""
    for name, seen in e.seen_studies.items():
        for one in seen:
            study, counts = one.message, one.message.trial_counts
            limit = study.spec.stopping_criteria.max_trials
            ended = counts.succeeded + counts.infeasible + counts.failed + counts.pruned
            is_done = bool(limit) and ended >= limit and not counts.waiting and not counts.running
            if study.state == State.COMPLETED and not is_done:
                yield f"{name} was COMPLETED too early, at {ended} of {limit} trials"
            if study.state == State.ACTIVE and is_done:
                yield f"{name} was not COMPLETED at {ended} of {limit} trials"


def etags_are_versions(e: Evidence) -> Iterator[str]:
    """Each version of a study has an etag of its own; an update is taken with the etag of the version that it replaces only."""
    for name, seen in e.seen_studies.items():
        if name in e.deleted:
            continue
        versions: dict[str, int] = {}
        for one in seen:
            if versions.setdefault(one.message.etag, one.revision) != one.revision:
                yield f"{name} has the etag {one.message.etag} at two revisions"
        for call in e.calls("UpdateStudy"):
            etag = call.request.study.etag
            if call.request.study.name != name or not etag:
                continue
            if call.ok and versions.get(etag) != call.response.revision - 1:
                yield f"{call} was taken with a stale etag"
            if call.reason == "ETAG_MISMATCH" and any(s.message.etag == etag and s.began > call.ended for s in seen):
                yield f"{call} was refused though its etag was current"


RULES = (stops_and_resumes_act, studies_are_completed_in_time, etags_are_versions)
