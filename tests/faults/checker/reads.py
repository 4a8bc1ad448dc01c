"""Who reads sees all that was acknowledged before, page by page, and each running trial with its lease."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from asktell.v1 import study_service_pb2 as pb

from ..history import Call, Outcome
from .evidence import RESULTS, Evidence, State, number_of, parent_of


def reads_see_what_was_acknowledged(e: Evidence) -> Iterator[str]:
    """A trial that is read shows every measurement and the result that were acknowledged before the read began."""
    for call in e.calls("GetTrial", "ListTrials"):
        if not call.ok:
            continue
        in_full = call.method == "GetTrial" or call.request.view == pb.FULL
        for trial in [call.response] if call.method == "GetTrial" else call.response.trials:
            told = [tell for tell in e.tells.get(trial.name, ()) if tell.ok and tell.ended < call.began]
            if told and trial.state not in RESULTS:
                yield f"{call} does not see {told[0]}"
            if not in_full:
                continue
            seen = {measured.step: measured for measured in trial.intermediate_measurements}
            for report in e.reports.get(trial.name, ()):
                measured = report.request.measurement
                if report.ok and report.ended < call.began and seen.get(measured.step) != measured:
                    yield f"{call} does not see {report}"


def pages_hold_every_trial(e: Evidence) -> Iterator[str]:
    """Trials of page after page ascend, and with the last page each trial that somebody had seen before the first is among them."""
    following: dict[tuple[str, str, str], list[Call]] = defaultdict(list)
    for call in e.calls("ListTrials"):
        if call.ok and call.request.page_token:
            following[call.client, call.request.parent, call.request.page_token].append(call)
    for first in e.calls("ListTrials"):
        if not first.ok or first.request.page_token:
            continue
        walk = [first]
        while token := walk[-1].response.next_page_token:
            # A token may be that of another walk as well, which ended on the same trial.
            pages = following[first.client, first.request.parent, token]
            later = [page for page in pages if page.began >= walk[-1].ended]
            if not later:
                break
            walk.append(min(later, key=lambda page: page.began))
        numbers = [number_of(trial) for page in walk for trial in page.response.trials]
        if numbers != sorted(set(numbers)):
            yield f"{first} and the pages after it listed the numbers {numbers}"
        is_whole = not walk[-1].response.next_page_token and not first.request.states
        missing = _seen_before(e, first) - set(numbers) if is_whole else set()
        if missing:
            yield f"{first} and the pages after it left out the numbers {sorted(missing)}"


def _seen_before(e: Evidence, call: Call) -> set[int]:
    names: Sequence[str] = [name for name in e.seen_trials if parent_of(name) == call.request.parent]
    return {
        int(name.rpartition("/")[2]) for name in names if any(seen.ended < call.began for seen in e.seen_trials[name])
    }


def running_trials_have_leases(e: Evidence) -> Iterator[str]:
    """In a study with leases a trial has one while it runs; nothing else has."""
    for name, seen in e.seen_trials.items():
        study = e.final.studies.get(parent_of(name))
        leased = study is not None and study.spec.trial_policy.HasField("lease")
        for one in seen:
            trial = one.message
            if study is not None and trial.HasField("lease_expire_time") != (leased and trial.state == State.RUNNING):
                yield f"{name}, {State.State.Name(trial.state)}, was seen {'without' if leased else 'with'} a lease"


def study_labels_are_those_written(e: Evidence) -> Iterator[str]:
    """The labels of a study and its description were written together, and are of one write."""
    written: dict[tuple[str, str], object] = {}
    for call in e.calls("UpdateStudy"):
        if call.outcome is not Outcome.REFUSED:
            study = call.request.study
            written[study.name, study.description] = dict(study.labels)
    for name, seen in e.seen_studies.items():
        for one in seen:
            study = one.message
            labels = written.get((name, study.description))
            if labels is not None and labels != dict(study.labels):
                yield f"{name} was seen with the labels {dict(study.labels)}, where {labels} were written"


RULES = (
    reads_see_what_was_acknowledged,
    pages_hold_every_trial,
    running_trials_have_leases,
    study_labels_are_those_written,
)
