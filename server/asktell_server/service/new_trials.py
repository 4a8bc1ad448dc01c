"""Trials that callers bring: what is wrong with them, and what is added to the study if nothing is.

A study's spec never changes, so all this comes before the transaction, in turns with other calls; what is left for the transaction
are the trials' numbers. What no study could take is not even read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from asktell_server.domain.errors import MOST_VIOLATIONS, InvalidArgument, Violation
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.space import ParameterValue
from asktell_server.domain.study import MAX_REASON, MAX_TEXT, Study, StudySpec, label_violations, text_violations
from asktell_server.domain.trial import RESULT_STATES, Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.service.asking import MAX_WORKER
from asktell_server.service.limits import Limits
from asktell_server.service.reading import LARGEST_REPLY_BYTES, trial_bytes
from asktell_server.service.turns import Turns

MAX_NEW_TRIALS = 1000
_NOT_YET = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class NewTrial:
    """A trial that the caller brings: a point to try (WAITING) or a finished trial."""

    parameters: Mapping[str, ParameterValue]
    state: TrialState = TrialState.WAITING
    reason: str = ""
    measurement: Measurement | None = None
    intermediate: tuple[Measurement, ...] = ()
    worker: str = ""
    notes: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def count_violations(count: int) -> list[Violation]:
    """What is wrong with bringing so many trials at once."""
    if 1 <= count <= MAX_NEW_TRIALS:
        return []
    return [Violation("trials", f"must hold 1 to {MAX_NEW_TRIALS} trials, not {count}")]


async def prepared(
    spec: StudySpec, new: Sequence[NewTrial], limits: Limits, wrong: Sequence[Violation]
) -> Sequence[Trial]:
    """The trials, to be `numbered`. Raises InvalidArgument if something is `wrong` with the request already, or with them.

    It names everything that is wrong, or, once that is more than anybody reads, that there is more.
    """
    found = list(wrong)
    named = {violation.field for violation in wrong}
    trials: list[Trial] = []
    size = 0
    turns = Turns()
    for i, asked in enumerate(new):
        point, violations = spec.space.checked(asked.parameters)
        violations += _violations(spec, asked)
        violations += await _intermediate_violations(asked, limits, turns)
        found += (v for v in (each.under(f"trials[{i}]") for each in violations) if not _is_named(v.field, named))
        if len(found) > MOST_VIOLATIONS:
            break
        trials.append(_trial(point, asked))
        size += trial_bytes(trials[-1])
        await turns.next()
    if not found and size > LARGEST_REPLY_BYTES:
        found.append(Violation("trials", _too_large(size)))
    if found:
        raise InvalidArgument(found)
    return trials


def numbered(trials: Sequence[Trial], study: Study, now: datetime) -> list[Trial]:
    """What was prepared, as the next trials of the study."""
    revision = study.revision + 1
    return [
        replace(
            trial,
            number=study.next_number + i,
            revision=revision,
            finish_revision=revision if trial.state.has_result else None,
            create_time=now,
            end_time=now if trial.state.has_result else None,
        )
        for i, trial in enumerate(trials)
    ]


def _trial(point: Mapping[str, ParameterValue], asked: NewTrial) -> Trial:
    finished = asked.state in RESULT_STATES
    intermediate = tuple(sorted(asked.intermediate, key=lambda measured: measured.step or 0))
    measurement = asked.measurement
    if measurement is None and asked.state is TrialState.PRUNED and intermediate:
        measurement = intermediate[-1]  # as of one that was pruned here
    return Trial(
        number=0,
        state=asked.state,
        state_reason=asked.reason,
        suggestion=Suggestion(point, SuggestionSource.IMPORTED if finished else SuggestionSource.ENQUEUED),
        create_time=_NOT_YET,
        measurement=measurement,
        intermediate=intermediate,
        worker=asked.worker if finished else "",
        notes=asked.notes,
        labels=dict(asked.labels),
    )


def _too_large(size: int) -> str:
    return (
        f"would be answered by a message of up to {size} bytes, and clients of most languages take {LARGEST_REPLY_BYTES}: "
        "send fewer trials at once"
    )


def _is_named(path: str, named: set[str]) -> bool:
    """Whether a field, or the map that it is an entry of, was named before."""
    return path in named or path.partition("['")[0] in named


def _violations(spec: StudySpec, asked: NewTrial) -> list[Violation]:
    """What is wrong with all but the point and the intermediate measurements."""
    found = list(text_violations("state_reason", asked.reason, MAX_REASON))
    found += text_violations("notes", asked.notes, MAX_TEXT)
    found += text_violations("worker", asked.worker, MAX_WORKER)
    found += label_violations(asked.labels)
    measurement = asked.measurement
    if asked.state is TrialState.SUCCEEDED:
        if measurement is None:
            found.append(Violation("measurement", "is required for a SUCCEEDED trial"))
        else:
            found += [v.under("measurement") for v in measurement.final_violations(spec.objectives, spec.constraints)]
    elif measurement is not None:
        if asked.state is TrialState.PRUNED:
            found += [v.under("measurement") for v in measurement.violations()]
        else:
            found.append(Violation("measurement", f"does not go with state {asked.state.value}"))
    if asked.intermediate and asked.state is TrialState.WAITING:
        found.append(Violation("intermediate_measurements", "do not go with a trial to be tried"))
    return found


async def _intermediate_violations(asked: NewTrial, limits: Limits, turns: Turns) -> list[Violation]:
    found = limits.measurements_violations(len(asked.intermediate))
    if found:
        return found
    steps: set[int] = set()
    for i, each in enumerate(asked.intermediate):
        at = f"intermediate_measurements[{i}]"
        found += [v.under(at) for v in each.violations()]
        if each.step is None:
            found.append(Violation(f"{at}.step", "is required"))
        elif each.step in steps:
            found.append(Violation(f"{at}.step", f"repeats step {each.step}"))
        else:
            steps.add(each.step)
        if len(found) > MOST_VIOLATIONS:
            break
        await turns.next()
    return found
