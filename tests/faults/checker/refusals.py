"""A call is refused only for what can be so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..history import Outcome
from .evidence import Evidence, parent_of

# What a use case may answer, beside INVALID_ARGUMENT, which the clients never earn.
_REFUSALS: Mapping[str, set[str]] = {
    "Ask": {"REQUEST_ID_REUSED", "CONCURRENT_UPDATE", "SERVER_BUSY"},
    "Tell": {"REQUEST_ID_REUSED", "RESULT_CONFLICT"},
    "CreateTrials": {"REQUEST_ID_REUSED"},
    "Report": {"TRIAL_NOT_RUNNING"},
    "Heartbeat": {"TRIAL_NOT_RUNNING"},
    "UpdateStudy": {"ETAG_MISMATCH"},
    "ResumeStudy": {"STUDY_COMPLETED"},
    "ExplainStudy": {"NO_MODEL", "SERVER_BUSY"},
}


def refusals_fit(e: Evidence) -> Iterator[str]:
    """A call is refused only for what can be so; nothing is a bug of the server's."""
    for call in e.history.calls:
        if call.reason == "INTERNAL":
            yield f"{call}: {call.message}"
        if call.outcome is not Outcome.REFUSED or call.reason in _REFUSALS.get(call.method, ()):
            continue
        name = getattr(call.request, "name", "") or getattr(call.request, "parent", "")
        study = e.final.studies.get(parent_of(name))
        if call.method == "Ask" and study is not None:
            criteria, algorithm = study.spec.stopping_criteria, study.spec.algorithm
            if call.reason in ("TRIAL_LIMIT_REACHED", "STUDY_COMPLETED") and criteria.max_trials:
                continue
            if call.reason == "SEARCH_SPACE_EXHAUSTED" and algorithm.WhichOneof("kind") == "grid":
                continue
            if call.reason == "STUDY_NOT_ACTIVE" and any(stop.request.name == name for stop in e.calls("StopStudy")):
                continue
        if call.reason == "STUDY_NOT_FOUND" and name in e.deleted:
            continue
        yield f"{call} was refused: {call.message}"
    for call in e.calls("Report"):
        told = e.tells.get(call.request.name, ())
        if call.reason == "TRIAL_NOT_RUNNING" and not any(tell.began < call.ended for tell in told):
            yield f"{call} was refused though nobody had told the trial"


RULES = (refusals_fit,)
