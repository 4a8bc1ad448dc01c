"""How much a study, a project and the server may hold. Each limit has a flag of its name; the defaults are generous.

What is too large in itself is INVALID_ARGUMENT, like everything else that is wrong with a request; what there is too much of by
now is RESOURCE_EXHAUSTED, reason QUOTA_EXCEEDED. Either way the message names the limit and the flag.

With several replicas on one database, the limits on studies are exact only up to the studies that are created at the same moment.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from asktell_server.domain.errors import QuotaExceeded, Violation
from asktell_server.domain.space import MAX_CHOICES, MAX_PARAMETERS, CategoricalParameter, DiscreteParameter, shown
from asktell_server.domain.study import Study, StudySpec
from asktell_server.domain.trial import TrialState


@dataclass(frozen=True)
class Limits:
    """The limits, each at least 1. `--max-parameters-per-study` and the like set them."""

    parameters_per_study: int = field(
        default=MAX_PARAMETERS, metadata={"what": "Parameters of a new study.", "most": MAX_PARAMETERS}
    )
    choices_per_parameter: int = field(
        default=MAX_CHOICES,
        metadata={"what": "Choices or values of one parameter of a new study.", "most": MAX_CHOICES},
    )
    entries_per_study: int = field(
        default=20_000,
        metadata={"what": "Parameters, choices, values, weights and the like of a new study, in all.", "most": None},
    )
    spec_bytes: int = field(
        default=1024 * 1024, metadata={"what": "Bytes of a new study's specification, as it is sent.", "most": None}
    )
    trials_per_study: int = field(
        default=1_000_000, metadata={"what": "Trials of one study; a retry of a lost one is always made.", "most": None}
    )
    pending_per_study: int = field(
        default=10_000, metadata={"what": "Trials of one study that wait or run at once.", "most": None}
    )
    measurements_per_trial: int = field(
        default=100_000, metadata={"what": "Intermediate measurements of one trial.", "most": 1_000_000}
    )
    studies_per_project: int = field(default=100_000, metadata={"what": "Studies of one project.", "most": None})
    studies: int = field(default=1_000_000, metadata={"what": "Studies in all.", "most": None})

    def size_violations(self, size: int, entries: Iterable[int]) -> Iterator[Violation]:
        """Why a new study's spec of `size` bytes is too large to be looked at; `entries` are the lengths of its lists.

        The paths are empty: it is the spec as a whole. Counting ends as soon as there are too many.
        """
        if size > self.spec_bytes:
            yield Violation("", self._at_most("spec_bytes", "bytes", size))
            return
        if any(count > self.entries_per_study for count in itertools.accumulate(entries)):
            what = "parameters, choices, values, weights and the like in all"
            yield Violation(
                "", f"must hold at most {self.entries_per_study} {what} (the server's {flag('entries_per_study')})"
            )

    def spec_violations(self, spec: StudySpec) -> Iterator[Violation]:
        """What of a new study is too large for this server; paths are relative to the spec."""
        count = len(spec.space.parameters)
        if self.parameters_per_study < min(count, MAX_PARAMETERS + 1):
            yield Violation("parameters", self._at_most("parameters_per_study", "parameters", count))
        for i, parameter in enumerate(spec.space.parameters[: self.parameters_per_study]):
            if isinstance(parameter, CategoricalParameter):
                where, values = f"parameters[{i}].categorical.choices", len(parameter.choices)
            elif isinstance(parameter, DiscreteParameter):
                where, values = f"parameters[{i}].discrete.values", len(parameter.values)
            else:
                continue
            if self.choices_per_parameter < min(values, MAX_CHOICES + 1):
                yield Violation(where, self._at_most("choices_per_parameter", f"of {shown(parameter.name)}", values))

    def room(self, study: Study) -> int:
        """How many pending trials may be added to a study; 0 or less if none."""
        pending = study.count(TrialState.WAITING, TrialState.RUNNING)
        return min(self._trials_left(study), self.pending_per_study - pending)

    def check_new_trials(self, study: Study, name: object, *, waiting: int, finished: int) -> None:
        """Raises QuotaExceeded unless so many waiting and finished trials can all be added."""
        if waiting + finished > self._trials_left(study):
            raise self._exceeded("trials_per_study", f"study {name} has {study.next_number - 1} trials")
        pending = study.count(TrialState.WAITING, TrialState.RUNNING)
        if waiting and pending + waiting > self.pending_per_study:
            raise self._exceeded("pending_per_study", f"{pending} trials of study {name} wait or run")

    def measurements_violations(self, count: int) -> list[Violation]:
        """Why a new trial may not have so many intermediate measurements; the path is relative to the trial."""
        most = self.measurements_per_trial
        if count <= most:
            return []
        setting = flag("measurements_per_trial")
        return [Violation("intermediate_measurements", f"must be at most {most} (the server's {setting})")]

    def check_measurements(self, count: int, name: object) -> None:
        """Raises QuotaExceeded unless a trial with so many intermediate measurements may have another one."""
        if count >= self.measurements_per_trial:
            raise self._exceeded("measurements_per_trial", f"trial {name} has {count} measurements")

    def check_studies(self, in_project: int, in_all: int, project: str) -> None:
        """Raises QuotaExceeded unless there may be another study."""
        if in_project >= self.studies_per_project:
            raise self._exceeded("studies_per_project", f"projects/{project} has {in_project} studies")
        if in_all >= self.studies:
            raise self._exceeded("studies", f"there are {in_all} studies")

    def _trials_left(self, study: Study) -> int:
        return self.trials_per_study - (study.next_number - 1)

    def _exceeded(self, limit: str, message: str) -> QuotaExceeded:
        value = getattr(self, limit)
        return QuotaExceeded(f"{message}, and may have {value}", limit=limit, value=value, setting=flag(limit))

    def _at_most(self, limit: str, what: str, given: int) -> str:
        return f"must hold at most {getattr(self, limit)} {what}, not {given} (the server's {flag(limit)})"


def flag(limit: str) -> str:
    """The flag that sets a limit."""
    return f"--max-{limit.replace('_', '-')}"
