"""Earlier studies that a new one learns from: checked and pinned when it is created, read when it is hosted.

A source is pinned to a revision: its results up to there count, later ones never do, so that a suggestion depends on nothing
that can still change. Only deleting the source takes them away; a study created later under its name is not taken for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asktell.names import StudyName
from asktell_server.domain.errors import Violation
from asktell_server.domain.space import shown
from asktell_server.domain.study import Study, StudySpec
from asktell_server.domain.trial import Trial
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.storage.base import Snapshot

# A source teaches by its first trials, so many at most: they stay the same whatever comes later.
MOST_TRIALS = 10_000


def source_violations(tx: Snapshot, name: StudyName, spec: StudySpec, *, compare: bool = True) -> list[Violation]:
    """What is wrong with the sources of a new study `name`; paths are relative to the spec.

    `compare` says whether the rest of the spec can be held against them.
    """
    found: list[Violation] = []
    for i, source in enumerate(spec.transfer_sources):
        at = f"algorithm.{spec.algorithm_name}.transfer_sources[{i}]"
        study = tx.study(name.project, source.study)
        if source.study == name.study:
            found.append(Violation(f"{at}.study", "a study cannot learn from itself"))
        elif study is None:
            found.append(Violation(f"{at}.study", f"study {StudyName(name.project, source.study)} does not exist"))
        else:
            if source.revision > study.revision:
                found.append(
                    Violation(
                        f"{at}.revision",
                        f"must be at most {study.revision}, the study's revision, not {source.revision}",
                    )
                )
            if compare:
                found += (Violation(f"{at}.study", text) for text in _differences(study, spec))
    return found


def _differences(source: Study, spec: StudySpec) -> Iterator[str]:
    if all(objective.metric != spec.objective.metric for objective in source.spec.objectives):
        yield f"{shown(source.name)} has no objective {shown(spec.objective.metric)}"
    kinds = {parameter.name: parameter.kind for parameter in source.spec.space.parameters}
    if all(kinds.get(parameter.name) != parameter.kind for parameter in spec.space.parameters):
        yield f"{shown(source.name)} has no parameter in common: one of the same name and type"


def pinned(tx: Snapshot, project: str, spec: StudySpec) -> StudySpec:
    """The spec with the present revision of each source for which none is given. The sources are free of violations."""
    revisions = {}
    for source in spec.transfer_sources:
        study = tx.study(project, source.study)
        assert study is not None
        revisions[source.study] = study.revision
    return spec.with_revisions(revisions)


def read_sources(tx: Snapshot, study: Study) -> tuple[SourceStudy, ...]:
    """The sources of a study with their histories up to the revisions pinned; those that are gone are left out."""
    found = []
    for pin in study.spec.transfer_sources:
        source = tx.study(study.project, pin.study)
        if source is not None and source.id < study.id:  # ids only grow: a later one is another study
            found.append(
                SourceStudy(source.spec, _history(tx.trials(source.id, limit=MOST_TRIALS), pin.revision), pin.study)
            )
    return tuple(found)


def _history(trials: Sequence[Trial], until_revision: int) -> tuple[Observation, ...]:
    finished = [
        (trial.finish_revision, trial.number, Observation(trial.number, trial.point, trial.state, trial.measurement))
        for trial in trials
        if trial.finish_revision is not None and trial.finish_revision <= until_revision and trial.state.has_result
    ]
    return tuple(observation for *_, observation in sorted(finished, key=lambda item: item[:2]))
