"""The studies that the lone writer keeps: never more than the database would say, never less."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from asktell_server.storage import write_cache
from asktell_server.storage.base import Transaction
from asktell_server.storage.sql import SqlStorage
from asktell_server.testing.samples import a_study

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
