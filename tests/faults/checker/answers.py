"""An answer is about what was asked for, shows what was written, and advises as the study and the lease are."""

from __future__ import annotations

from collections.abc import Iterator

from asktell.v1 import study_service_pb2 as pb

from .evidence import Evidence, grouped, number_of, parent_of, study_id_of


def answers_name_what_was_asked(e: Evidence) -> Iterator[str]:
    """The study, trial and worker of an answer are those of the request; a list holds what its filter lets through, in order."""
    for call in e.history.calls:
        if not call.ok:
            continue
        request, answer = call.request, call.response
        if call.method in ("GetTrial", "GetStudy", "StopStudy", "ResumeStudy"):
            pairs = [(request.name, answer.name)]
        elif call.method == "Tell":
            pairs = [(request.name, answer.trial.name)]
        elif call.method == "CreateStudy":
            pairs = [(study_id_of(call), answer.name)]
        elif call.method == "UpdateTrial":
            pairs = [(request.trial.name, answer.name)]
        elif call.method == "UpdateStudy":
            pairs = [(request.study.name, answer.name)]
        elif call.method in ("Ask", "CreateTrials", "ListTrials", "ListBestTrials"):
            pairs = [(request.parent, parent_of(trial.name)) for trial in answer.trials]
        else:
            continue
        for asked, answered in pairs:
            if asked != answered:
                yield f"{call} asked for {asked} and was answered {answered}"
        if call.method == "Ask" and any(trial.worker != request.worker for trial in answer.trials):
            yield f"{call} was given the trials of another worker"
        if call.method == "ListTrials":
            numbers = [number_of(trial) for trial in answer.trials]
            states = {trial.state for trial in answer.trials}
            if numbers != sorted(set(numbers)) or len(numbers) > request.page_size:
                yield f"{call} listed the numbers {numbers}"
            if request.states and not states <= set(request.states):
                yield f"{call} listed other states than it was asked for"


def updates_answer_what_they_wrote(e: Evidence) -> Iterator[str]:
    """An update is answered with what it wrote."""
    for call in e.calls("UpdateTrial"):
        if call.ok and call.response.labels != call.request.trial.labels:
            yield f"{call} answered the labels {dict(call.response.labels)}"
    for call in e.calls("UpdateStudy"):
        if call.ok and call.response.description != call.request.study.description:
            yield f"{call} answered the description {call.response.description!r}"


def created_labels_are_kept(e: Evidence) -> Iterator[str]:
    """A trial that was brought has the labels that it was brought with, unless somebody replaced them."""
    updated = {call.request.trial.name for call in e.calls("UpdateTrial")}
    for call in e.calls("CreateTrials"):
        if call.ok:
            for sent, answered in zip(call.request.trials, call.response.trials, strict=False):
                kept = e.trials.get(answered.name)
                if kept is not None and kept.name not in updated and kept.labels != sent.labels:
                    yield f"lost: {kept.name} has the labels {dict(kept.labels)}, not those of {call}"


def advice_fits(e: Evidence) -> Iterator[str]:
    """Workers of a stopped study are told to stop; nobody is told so without a cause that can be."""
    stops = grouped(e.calls("StopStudy"), lambda call: call.request.name)
    resumes = grouped(e.calls("ResumeStudy"), lambda call: call.request.name)
    for call in e.calls("Report", "Heartbeat"):
        if not call.ok:
            continue
        study, answer = parent_of(call.request.name), call.response
        if answer.should_stop != (answer.advice.cause != pb.StopAdvice.CAUSE_UNSPECIFIED):
            yield f"{call} was advised to stop without a cause, or not to with one"
        before = [stop for stop in stops.get(study, ()) if stop.began < call.ended]
        if answer.advice.cause == pb.StopAdvice.STUDY_STOPPED and not before:
            yield f"{call} was told of a stop that nobody had asked for"
        if not answer.should_stop and any(
            stop.ok
            and stop.ended < call.began
            and not any(resume.over > stop.began and resume.began < call.ended for resume in resumes.get(study, ()))
            for stop in before
        ):
            yield f"{call} was not told that the study is stopped"


def leases_are_carried(e: Evidence) -> Iterator[str]:
    """A heartbeat of a trial is answered with a lease where the study has leases, and with none where it has not."""
    for call in e.calls("Heartbeat"):
        study = e.final.studies.get(parent_of(call.request.name))
        if call.ok and study is not None:
            leased = study.spec.trial_policy.HasField("lease")
            if call.response.HasField("lease_expire_time") != leased:
                yield f"{call} was answered {'no lease' if leased else 'a lease'}"


RULES = (
    answers_name_what_was_asked,
    updates_answer_what_they_wrote,
    created_labels_are_kept,
    advice_fits,
    leases_are_carried,
)
