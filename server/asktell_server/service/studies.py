"""Use cases on studies: create, get, list, update, stop, resume, delete."""

from __future__ import annotations

import itertools
import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from asktell.names import ProjectName, StudyName, is_id
from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.errors import (
    EtagMismatch,
    FeatureNotImplemented,
    InvalidArgument,
    PreconditionFailed,
    StudyAlreadyExists,
    StudyCompleted,
    StudyNotActive,
    StudyNotFound,
    StudySpecMismatch,
    Violation,
)
from asktell_server.domain.space import shown
from asktell_server.domain.study import (
    MAX_REASON,
    MAX_TEXT,
    Study,
    StudySpec,
    StudyState,
    label_violations,
    text_violations,
)
from asktell_server.service import paging, requests, transfer
from asktell_server.service.commits import Change, Clock, Commits
from asktell_server.service.failures import given_up
from asktell_server.service.limits import Limits
from asktell_server.service.reading import pieces
from asktell_server.service.reads import ALL, Reads
from asktell_server.storage.base import Snapshot, Storage, Transaction

UPDATABLE = ("labels", "description")
MAX_PATHS = 64
"""Of an update mask: more than there are fields."""
_RANGE = re.compile(r"study\.spec\.parameters\[\d+\]\.(?:float|int)(?=\.)")
_PARAMETER = re.compile(r"study\.spec\.parameters\[(\d+)\]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPEC = "study.spec"
_PRIOR = "study.spec.algorithm.gp.priors"


@dataclass(frozen=True)
class NewStudy:
    """What CreateStudy asks for. `left_open` names the fields of the spec that the caller left to the server.

    `violations` and `unimplemented` are what the front door found while it read the request, with paths of the request; they
    are reported together with what is found here.
    """

    parent: ProjectName
    study_id: str
    spec: StudySpec
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    left_open: frozenset[str] = frozenset()
    use_existing: bool = False
    request_id: str = ""
    violations: tuple[Violation, ...] = ()
    unimplemented: tuple[Violation, ...] = ()


def etag(study: Study) -> str:
    """Changes with every change of the study, and is another for a study made anew under its name.

    Made of what a caller sees anyway: the internal id counts the studies of everybody.
    """
    return f"{(study.create_time - _EPOCH) // timedelta(microseconds=1):x}-{study.revision}"


def require(study: Study | None, name: StudyName) -> Study:
    """The study. Raises StudyNotFound for None."""
    if study is None:
        raise StudyNotFound(str(name))
    return study


def new_study_violations(new: NewStudy, limits: Limits) -> list[Violation]:
    """Everything that is wrong with a request for a new study; paths are those of CreateStudyRequest."""
    found = list(new.violations)
    if not is_id(new.study_id):
        found.append(
            Violation(
                "study_id",
                "must have 1 to 128 characters, letters, digits and '_.-', beginning with a letter or digit, "
                f"not {shown(new.study_id)}",
            )
        )
    unread = set(_unread(new))
    named = {v.field for v in new.violations}
    in_spec = [v.under("study.spec") for v in (*new.spec.violations(), *limits.spec_violations(new.spec))]
    found += [v for v in in_spec if v.field not in named and not (unread and _lies_below(v.field, unread))]
    found += [v.under("study") for v in text_violations("description", new.description, MAX_TEXT)]
    found += [v.under("study") for v in label_violations(new.labels)]
    found += requests.id_violations(new.request_id)
    return found


def _lies_below(path: str, fields: Collection[str]) -> bool:
    """Whether `path` is one of the fields, or of what they consist of."""
    return any(prefix in fields for prefix in itertools.accumulate(path.split("."), "{}.{}".format))


def _unread(new: NewStudy) -> Iterator[str]:
    """Fields of which no more can be said: the front door put something in the place of what it could not read."""
    parameters = new.spec.space.parameters
    for violation in new.violations:
        yield from _RANGE.findall(violation.field)
        if violation.field == _SPEC:
            yield _SPEC  # too large to be read
        if violation.field.startswith(_PRIOR) and violation.field.endswith(".belief"):
            yield violation.field.removesuffix("belief") + "weighted"
    if isinstance(new.spec.algorithm, GpOptimizer):
        found = [match for v in new.violations if (match := _PARAMETER.match(v.field))]
        names = {parameters[int(match[1])].name for match in found}
        for i, prior in enumerate(new.spec.algorithm.priors):
            if prior.parameter in names:
                yield f"{_PRIOR}[{i}].{prior.belief.kind}"


def _query(project: str | None, states: Collection[StudyState]) -> tuple[object, ...]:
    return "ListStudies", project, sorted(state.name for state in states)


def update_violations(paths: Collection[str], labels: Mapping[str, str], description: str) -> list[Violation]:
    """What is wrong with an update of a study; paths are those of UpdateStudyRequest."""
    found = mask_violations(paths, UPDATABLE)
    if "description" in paths:
        found += [v.under("study") for v in text_violations("description", description, MAX_TEXT)]
    if "labels" in paths:
        found += [v.under("study") for v in label_violations(labels)]
    return found


def stop_violations(reason: str) -> list[Violation]:
    """What is wrong with the reason for a stop."""
    return list(text_violations("reason", reason, MAX_REASON))


class Studies:
    """Use cases on studies."""

    def __init__(
        self,
        storage: Storage,
        reads: Reads,
        commits: Commits,
        clock: Clock,
        limits: Limits,
        draw_seed: Callable[[], int] = lambda: secrets.randbelow(2**31),
    ) -> None:
        self._storage = storage
        self._reads = reads
        self._commits = commits
        self._clock = clock
        self._limits = limits
        self._draw_seed = draw_seed

    def size_violations(self, size: int, entries: Iterable[int]) -> list[Violation]:
        """Why a spec is too large to be read, see `Limits.size_violations`; paths are those of CreateStudyRequest.

        What stands in its place in a `NewStudy` with these violations is not looked at.
        """
        return [violation.under(_SPEC) for violation in self._limits.size_violations(size, entries)]

    async def create(self, new: NewStudy) -> Study:
        """Creates a study, or returns the one that exists if that is asked for and its spec is equal."""
        violations = new_study_violations(new, self._limits)
        if violations:
            raise InvalidArgument([*violations, *await self._also_wrong(new, violations)])
        missing = [*new.unimplemented, *(v.under("study.spec") for v in new.spec.unimplemented())]
        if missing:
            violations = await self._also_wrong(new, ())
            raise InvalidArgument(violations) if violations else FeatureNotImplemented(missing)
        name = StudyName(new.parent.project, new.study_id)
        scope = f"CreateStudy {new.parent}"
        # What the server chose is no part of the body: a repeat would draw another seed.
        open_spec = replace(new.spec, seed=0) if "seed" in new.left_open else new.spec
        body = requests.fingerprint(
            new.study_id, open_spec, new.description, new.labels, new.left_open, new.use_existing
        )
        spec = replace(new.spec, seed=self._draw_seed()) if "seed" in new.left_open else new.spec

        def work(tx: Transaction) -> Change[Study]:
            existing = tx.lock_study(name.project, name.study)
            made = requests.recall(tx, scope, new.request_id, body)
            if made is not None:
                # Another server may have committed the same call since there was nothing to lock.
                known = require(existing or tx.lock_study(name.project, name.study), name)
                if known.id != made.response.get("study", known.id):
                    raise StudyNotFound(str(name))  # it was deleted, and its name is another's
                return Change(known)
            if existing is not None:
                if not new.use_existing:
                    raise StudyAlreadyExists(str(name))
                differing = existing.spec.differences(spec, ignoring=new.left_open)
                if differing:
                    raise StudySpecMismatch(str(name), differing)
                requests.remember(tx, None, scope, new.request_id, body, {"study": existing.id}, self._clock())
                return Change(existing)
            wrong = transfer.source_violations(tx, name, spec)
            if wrong:
                raise InvalidArgument(v.under("study.spec") for v in wrong)
            most = self._limits.studies_per_project, self._limits.studies
            self._limits.check_studies(
                tx.count_studies(name.project, most[0]), tx.count_studies(None, most[1]), name.project
            )
            now = self._clock()
            study = tx.insert_study(
                Study(
                    id=0,
                    project=name.project,
                    name=name.study,
                    spec=transfer.pinned(tx, name.project, spec),
                    state=StudyState.ACTIVE,
                    create_time=now,
                    update_time=now,
                    description=new.description,
                    labels=dict(new.labels),
                )
            )
            # Also when the study is deleted it is known that it was made.
            requests.remember(tx, None, scope, new.request_id, body, {"study": study.id}, now)
            return Change(study, study)

        return await self._commits.run(name, work)

    async def _also_wrong(self, new: NewStudy, violations: Sequence[Violation]) -> list[Violation]:
        """What is wrong with the transfer sources of a study that has `violations`."""
        named = {violation.field for violation in violations}
        if not new.spec.transfer_sources or not named.isdisjoint(
            ("parent", "study.spec.algorithm.gp.transfer_sources")
        ):
            return []
        compare = not any(field.startswith(("study.spec.parameters", "study.spec.objectives")) for field in named)
        name = StudyName(new.parent.project, new.study_id)
        found = await self._storage.read(lambda tx: transfer.source_violations(tx, name, new.spec, compare=compare))
        in_request = [violation.under("study.spec") for violation in found]
        return [violation for violation in in_request if violation.field not in named]

    async def get(self, name: StudyName) -> Study:
        """The study."""
        found = await self._reads.run(name.project, name.study, lambda tx: tx.study(name.project, name.study))
        return require(found, name)

    async def listed(
        self,
        project: str | None,
        states: Collection[StudyState],
        page_size: int,
        page_token: str,
        visible: Collection[str] | None = None,
    ) -> AsyncIterator[Study]:
        """Studies by name, of one project or of all those that are `visible`, after the position in a token; read as they are taken.

        They are up to a page and one more, if there are more.
        """
        size = paging.page_size(page_size)
        at = paging.position(page_token, (str, str), *_query(project, states))
        after = (str(at[0]), str(at[1])) if at else None

        def read(tx: Snapshot, count: int, after: tuple[str, str] | None) -> list[Study]:
            if project is not None or visible is None:
                return tx.studies(project, states, after, count)
            found: list[Study] = []
            for one in sorted(visible):
                if len(found) < count and (after is None or one >= after[0]):
                    beyond = after if after is not None and one == after[0] else None
                    found += tx.studies(one, states, beyond, count - len(found))
            return found

        for count in pieces(size + 1):
            piece = await self._reads.run(project or ALL, ALL, partial(read, count=count, after=after))
            for study in piece:
                yield study
            if len(piece) < count:
                return
            after = (piece[-1].project, piece[-1].name)

    def token_after(self, project: str | None, states: Collection[StudyState], study: Study) -> str:
        """The token of a page that begins after a study."""
        return paging.token((study.project, study.name), *_query(project, states))

    async def update(
        self, name: StudyName, paths: Collection[str], labels: Mapping[str, str], description: str, expected_etag: str
    ) -> Study:
        """Changes what `paths` name: labels, description."""
        violations = update_violations(paths, labels, description)
        if violations:
            raise InvalidArgument(violations)

        def changed(study: Study, _: Transaction) -> Study:
            self._check_etag(study, expected_etag)
            if "labels" in paths:
                study = replace(study, labels=dict(labels))
            if "description" in paths:
                study = replace(study, description=description)
            return study

        return await self._change(name, changed)

    async def stop(self, name: StudyName, reason: str) -> Study:
        """ACTIVE -> STOPPED; otherwise nothing."""
        violations = stop_violations(reason)
        if violations:
            raise InvalidArgument(violations)

        def changed(study: Study, _: Transaction) -> Study:
            if study.state is not StudyState.ACTIVE:
                return study
            return replace(study, state=StudyState.STOPPED, state_reason=reason)

        return await self._change(name, changed)

    async def resume(self, name: StudyName) -> Study:
        """STOPPED -> ACTIVE, or COMPLETED if a stopping criterion was met meanwhile; an ACTIVE study stays as it is. Raises
        StudyCompleted.
        """

        def changed(study: Study, tx: Transaction) -> Study:
            if study.state is StudyState.COMPLETED:
                raise StudyCompleted(
                    str(name),
                    f"study {name} is COMPLETED ({study.state_reason}) and cannot be resumed; create another study",
                    {"state": study.state.value, "allowedStates": "STOPPED, ACTIVE"},
                )
            if study.state is StudyState.ACTIVE:
                return study
            active = replace(study, state=StudyState.ACTIVE, state_reason="")
            return active.completed_if_done(given_up(tx, study))

        return await self._change(name, changed)

    async def delete(self, name: StudyName, expected_etag: str, allow_missing: bool, request_id: str) -> None:
        """Removes a study with everything that belongs to it."""
        violations = requests.id_violations(request_id)
        if violations:
            raise InvalidArgument(violations)
        scope, body = f"DeleteStudy {name}", requests.fingerprint(expected_etag, allow_missing)

        def work(tx: Transaction) -> Change[None]:
            study = tx.lock_study(name.project, name.study)
            if requests.recall(tx, scope, request_id, body) is not None:
                return Change(None)
            if study is not None:
                self._check_etag(study, expected_etag)
                tx.delete_study(study.id)
            elif not allow_missing:
                raise StudyNotFound(str(name))
            # Also when there was nothing to delete: a repeat must not find what was given the name since.
            requests.remember(tx, None, scope, request_id, body, {}, self._clock())
            return Change(None, deleted_study_id=None if study is None else study.id)

        await self._commits.run(name, work)

    async def _change(self, name: StudyName, changed: Callable[[Study, Transaction], Study]) -> Study:
        def work(tx: Transaction) -> Change[Study]:
            before = require(tx.lock_study(name.project, name.study), name)
            after = changed(before, tx)
            if after is before:
                return Change(before)
            after = replace(after, revision=before.revision + 1, update_time=self._clock())
            tx.update_study(after)
            return Change(after, after)

        return await self._commits.run(name, work)

    @staticmethod
    def _check_etag(study: Study, expected: str) -> None:
        if expected and expected != etag(study):
            raise EtagMismatch(
                "the study has changed since the etag was read; read it again", {"etag": etag(study), "given": expected}
            )


def mask_violations(paths: Collection[str], updatable: Collection[str]) -> list[Violation]:
    """What is wrong with an update mask."""
    listed = ", ".join(updatable)
    if not paths:
        return [Violation("update_mask", f"must name what to change: {listed}")]
    if len(paths) > MAX_PATHS:
        return [Violation("update_mask", f"must name at most {MAX_PATHS} paths, not {len(paths)}")]
    return [
        Violation("update_mask", f"{shown(path)} cannot be updated; only {listed} can")
        for path in paths
        if path not in updatable
    ]


def inactive_error(study: Study, name: StudyName) -> PreconditionFailed:
    """The error for an ask of a study that is not ACTIVE."""
    kind = StudyCompleted if study.state is StudyState.COMPLETED else StudyNotActive
    why = f" ({study.state_reason})" if study.state_reason else ""
    return kind(
        str(name),
        f"study {name} is {study.state.value}{why}; trials can be asked for only while it is ACTIVE",
        {"state": study.state.value, "allowedStates": "ACTIVE"},
    )
