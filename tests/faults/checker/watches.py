"""What was seen once is never unseen, by reads and watches, also across restarts; a watch is in order, and complete in the end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asktell.v1 import study_pb2, trial_pb2

from .evidence import Evidence, content, parent_of


def revisions_never_go_back(e: Evidence) -> Iterator[str]:
    """What was seen of a study or trial before a read began, the read sees."""
    for kind in (e.seen_studies, e.seen_trials):
        for name, seen in kind.items():
            if name in e.deleted or parent_of(name) in e.deleted:
                continue
            ended = sorted(seen, key=lambda one: one.ended)
            highest, i = 0, 0
            for one in sorted(seen, key=lambda one: one.began):
                while i < len(ended) and ended[i].ended < one.began:
                    highest = max(highest, ended[i].revision)
                    i += 1
                if one.revision < highest:
                    yield f"backward: {name} was at revision {highest}, later at {one.revision}"
                    break
    for name, seen in e.seen_studies.items():
        versions: dict[int, study_pb2.Study] = {}
        for one in seen:
            if versions.setdefault(one.revision, one.message) != one.message and name not in e.deleted:
                yield f"{name} at revision {one.revision} was seen in two versions"
                break


def watches_are_complete(e: Evidence) -> Iterator[str]:
    """A watch goes forward, and what it showed in all is what is there."""
    for (watcher, study), messages in _by_watcher(e).items():
        seen = 0
        trials: dict[str, trial_pb2.Trial] = {}
        measured: dict[str, dict[int, trial_pb2.Measurement]] = defaultdict(dict)
        for watched in messages:
            if watched.reason in ("REVISION_IN_FUTURE", "STUDY_NOT_FOUND", "INTERNAL"):
                yield f"backward: the watch of {study} after revision {watched.after} ended with {watched.reason}"
            if watched.message is None:
                continue
            if watched.message.revision < max(seen, watched.after):
                yield f"{watcher} of {study} saw revision {watched.message.revision} after {seen}"
            for trial in watched.message.trials:
                if trial.revision > watched.message.study.revision:
                    yield f"{watcher} saw {trial.name} at {trial.revision}, the study at {watched.message.study.revision}"
                if trial.name in trials and trial.revision < trials[trial.name].revision:
                    yield f"{watcher} saw {trial.name} go back to revision {trial.revision}"
                trials[trial.name] = trial
                for each in trial.intermediate_measurements:
                    measured[trial.name][each.step] = each
            seen = watched.message.revision
        if study not in e.final.studies:
            continue
        if seen != e.final.studies[study].revision:
            yield f"{watcher} of {study} saw revision {seen}, the study is at {e.final.studies[study].revision}"
        for kept in e.final.trials[study]:
            shown = trials.get(kept.name)
            if shown is None or content(shown) != content(kept):
                yield f"{watcher} missed a change of {kept.name}"
            if measured[kept.name] != {each.step: each for each in kept.intermediate_measurements}:
                yield f"{watcher} missed measurements of {kept.name}"


def _by_watcher(e: Evidence) -> Mapping[tuple[str, str], Sequence[Any]]:
    found: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for watched in e.history.watched:
        found[watched.watcher, watched.study].append(watched)
    return found


RULES = (
    revisions_never_go_back,
    watches_are_complete,
)
