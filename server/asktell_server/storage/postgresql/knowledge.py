"""What one server knows of studies that others may change: who changed each last, and how this server left it and its trials.

From this follow what a suggestion must have seen (`others_revision`), which studies are expected to be found as they were left, and which
trials, and which measurement of each was reported at the highest step, need not be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial

# Studies of which it is remembered who changed them last, and trials that are remembered as they were written.
REMEMBERED = 10_000
# Studies that are remembered as they were written.
EXPECTED = 1000
# Locks in a row that must find a study as this server left it, once another server was seen to change it, until that is expected.
CALM = 16


class Knowledge:
    """Who changed a study last, as far as this server knows, and how it left trials; outlives connections.

    A trial is as this server left it unless another server changed the study since, so most results are told without reading one.
    """

    def __init__(self) -> None:
        self._own: OrderedDict[int, int] = OrderedDict()
        self._others: dict[int, int] = {}
        self._trials: OrderedDict[tuple[int, int], Trial] = OrderedDict()
        self._lasts: dict[tuple[int, int], Measurement | None] = {}
        """Of those trials, some: the measurement at the highest step."""
        self._shared: dict[int, int] = {}
        """Studies that others changed not long ago, with the locks that are left until it is long ago."""
        self._expected: OrderedDict[int, Study] = OrderedDict()
        self._ids: dict[tuple[str, str], int] = {}

    def locked(self, study: Study) -> None:
        """What is in the database now: not ours, unless it is what we wrote last."""
        own = self._own.get(study.id)
        if own != study.revision:
            if own is not None and study.revision < own:
                self._lost(study.id)
            self._others[study.id] = study.revision
            self._shared[study.id] = CALM
        elif study.id in self._shared:
            self._shared[study.id] -= 1
            if not self._shared[study.id]:
                del self._shared[study.id]

    def _lost(self, study_id: int) -> None:
        """The database has lost commits of ours (a failover, a restore): what they left of the study's trials is not there."""
        for key in [key for key in self._trials if key[0] == study_id]:
            del self._trials[key]
            self._lasts.pop(key, None)

    def expected(self, study_id: int | None) -> Study | None:
        """The study as it will be found, unless another server has begun to change it."""
        return None if study_id is None else self._expected.get(study_id)

    def expected_by_name(self, project: str, name: str) -> Study | None:
        """As `expected`, by name."""
        return self.expected(self._ids.get((project, name)))

    def mistaken(self, study_id: int) -> None:
        """The study may be otherwise than expected: it is to be read again."""
        study = self._expected.pop(study_id, None)
        if study is not None and self._ids.get((study.project, study.name)) == study_id:
            del self._ids[study.project, study.name]

    def doubt(self) -> None:
        """Every study may be otherwise than expected: the connection is a new one, perhaps to another server."""
        self._expected.clear()
        self._ids.clear()

    def committed(
        self,
        revisions: Mapping[int, int],
        trials: Mapping[tuple[int, int], Trial],
        studies: Mapping[int, Study],
        lasts: Mapping[tuple[int, int], Measurement | None],
    ) -> None:
        """We changed these studies and trials and it is durable; `studies` are those that were locked, as they are now, `lasts` the
        measurements at the highest step, of trials of which that is known.
        """
        for study_id, revision in revisions.items():
            self._own[study_id] = revision
            self._own.move_to_end(study_id)
            if study_id not in studies:
                self.mistaken(study_id)
        for study_id, study in studies.items():
            if study_id not in self._shared:
                # Others may have deleted the study and created one of its name, which comes to be known by its id.
                self.mistaken(self._ids.get((study.project, study.name), study_id))
                self._expected[study_id] = study
                self._expected.move_to_end(study_id)
                self._ids[study.project, study.name] = study_id
        while len(self._expected) > EXPECTED:
            self.mistaken(next(iter(self._expected)))
        for key, trial in trials.items():
            if self.trial(*key) is None or trial.state.has_result:
                self._lasts.pop(key, None)  # others may have reported since, or nobody will
            self._trials[key] = trial
            self._trials.move_to_end(key)
        for key, last in lasts.items():
            if (known := self.trial(*key)) is not None and not known.state.has_result:
                self._lasts[key] = last
        while len(self._own) > REMEMBERED:
            forgotten, _ = self._own.popitem(last=False)
            self._others.pop(forgotten, None)
            self._shared.pop(forgotten, None)
            self.mistaken(forgotten)  # only a lock that reads finds out who changed it
        while len(self._trials) > REMEMBERED:
            self._lasts.pop(self._trials.popitem(last=False)[0], None)

    def last_measurement(self, study_id: int, number: int) -> tuple[Measurement | None] | None:
        """The measurement at the highest step of a trial of a locked study, or that there is none, if that is known."""
        key = (study_id, number)
        return (self._lasts[key],) if key in self._lasts and self.trial(*key) is not None else None

    def trial(self, study_id: int, number: int) -> Trial | None:
        """A trial of a locked study, without intermediate measurements, if it is known."""
        trial = self._trials.get((study_id, number))
        return trial if trial is not None and trial.revision > self.others_revision(study_id) else None

    def others_revision(self, study_id: int) -> int:
        """Every change after this revision was made by us."""
        return self._others.get(study_id, 0)
