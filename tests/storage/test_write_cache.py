"""The studies that the lone writer keeps: never more than the database would say, never less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asktell_server.domain.errors import StudyNotFound
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.storage import write_cache
from asktell_server.storage.base import Transaction
from asktell_server.storage.sql import SqlStorage
from asktell_server.testing.samples import a_study, full_trial

from .helpers import Commits


async def _opened(tmp_path: Path) -> SqlStorage:
    storage = SqlStorage(str(tmp_path / "cache.db"), observer=Commits())
    await storage.start()
    return storage


async def test_more_studies_than_are_kept_stay_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was dropped from memory is read again, as it was last written."""
    monkeypatch.setattr(write_cache, "CAPACITY", 3)
    storage = await _opened(tmp_path)
    made = [await storage.write(lambda tx, i=i: tx.insert_study(a_study(name=f"s{i}"))) for i in range(10)]

    for one in made:
        await storage.write(lambda tx, s=one: tx.update_study(replace(s, description=f"changed {s.name}", revision=2)))
    read = [await storage.write(lambda tx, s=one: tx.lock_study(s.project, s.name)) for one in made]
    await storage.stop()

    assert [s.description for s in read if s is not None] == [f"changed s{i}" for i in range(10)]


async def test_a_work_that_fails_takes_what_was_kept_along(tmp_path: Path) -> None:
    """A kept change counts as a write: after it, a failure rolls back, in memory too."""
    storage = await _opened(tmp_path)
    made = await storage.write(lambda tx: tx.insert_study(a_study(name="s")))

    def fails(tx: Transaction) -> None:
        tx.update_study(replace(made, description="never", revision=2))
        raise RuntimeError("after the change")

    with pytest.raises(RuntimeError, match="after the change"):
        await storage.write(fails)
    kept = await storage.write(lambda tx: tx.lock_study(made.project, made.name))
    stored = await storage.read(lambda tx: tx.study_by_id(made.id))
    await storage.stop()

    assert kept == stored == made


async def test_lists_and_counts_see_what_is_kept(tmp_path: Path) -> None:
    """Within one work a changed study is listed as changed, before anything is committed."""
    storage = await _opened(tmp_path)
    made = await storage.write(lambda tx: tx.insert_study(a_study(name="s")))

    def work(tx: Transaction) -> list[str]:
        tx.update_study(replace(made, description="now", revision=2))
        return [s.description for s in tx.studies(made.project, [], None, 10)]

    seen = await storage.write(work)
    await storage.stop()

    assert seen == ["now"]


async def test_a_deleted_study_is_not_kept(tmp_path: Path) -> None:
    """After a delete the name is free, also in the same work."""
    storage = await _opened(tmp_path)
    made = await storage.write(lambda tx: tx.insert_study(a_study(name="s")))

    def work(tx: Transaction) -> object:
        tx.update_study(replace(made, revision=2))
        tx.delete_study(made.id)
        return tx.lock_study(made.project, made.name)

    gone = await storage.write(work)
    again = await storage.write(lambda tx: tx.insert_study(a_study(name="s")))
    await storage.stop()

    assert gone is None
    assert again.id != made.id


async def test_a_kept_trial_is_as_the_database_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the writer remembers of running trials equals what a reader finds, after each kind of change and beyond the capacity."""
    monkeypatch.setattr(write_cache, "RUNNING_KEPT", 3)
    storage = await _opened(tmp_path)
    study = await storage.write(lambda tx: tx.insert_study(a_study()))
    made = [replace(full_trial(n), state=TrialState.RUNNING, measurement=None) for n in range(1, 7)]
    await storage.write(lambda tx: tx.insert_trials(study.id, made))

    async def both() -> tuple[list[Trial | None], list[Trial | None]]:
        numbers = range(1, 8)
        kept = await storage.write(lambda tx: [tx.trial(study.id, n, full=False) for n in numbers])
        stored = await storage.read(lambda tx: [tx.trial(study.id, n, full=False) for n in numbers])
        return kept, stored

    seen = [await both()]
    changed = [replace(made[4], notes="renewed", revision=9), replace(made[5], state=TrialState.FAILED, revision=9)]

    def change(tx: Transaction) -> None:
        for trial in changed:
            tx.update_trial(study.id, trial)

    await storage.write(change)
    seen.append(await both())

    def fail(tx: Transaction) -> None:
        tx.update_trial(study.id, replace(made[4], notes="never", revision=10))
        raise StudyNotFound("on purpose")

    with pytest.raises(StudyNotFound):
        await storage.write(fail)
    seen.append(await both())
    await storage.write(lambda tx: tx.delete_study(study.id))
    seen.append(await both())
    await storage.stop()

    assert all(kept == stored for kept, stored in seen)
    assert [sum(trial is not None for trial in kept) for kept, _ in seen] == [6, 6, 6, 0]
    assert seen[2][0][4] is not None
    assert seen[2][0][4].notes == "renewed"
