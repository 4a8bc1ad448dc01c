"""Persist, then speak: the one way in which the use cases change the database.

A use case hands in a work that returns a `Change`: the study and trials as it left them, and its own result. Once the commit is
on disk the engine host and the watchers hear of it, in the order of the commits, and only then does the caller. A caller
that goes away in the meantime changes none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from asktell.names import StudyName
from asktell_server.domain.study import Study
from asktell_server.domain.trial import Trial
from asktell_server.engine.admission import Queue
from asktell_server.engine.host import EngineHost
from asktell_server.storage.base import Storage, Transaction

T = TypeVar("T")

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Change(Generic[T]):
    """What a work did. `study` is None when it changed nothing, or removed the study `deleted_study_id`."""

    result: T
    study: Study | None = None
    trials: Sequence[Trial] = ()
    deleted_study_id: int | None = None


class Bell:
    """Lets those who watch a study sleep until it changes."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self.closed = False

    def close(self) -> None:
        """Wakes everybody for the last time: the server is stopping."""
        self.closed = True
        self.ring_all()

    def ring_all(self) -> None:
        """Wakes everybody: their study may have changed."""
        for study_id in self._waiting:
            self.ring(study_id)

    def ring(self, study_id: int) -> None:
        """Wakes all who watch the study."""
        for event in self._waiting.get(study_id, ()):
            event.set()

    def listen(self, study_id: int) -> asyncio.Event:
        """An event that is set at each change from now on; end with `leave`."""
        event = asyncio.Event()
        self._waiting.setdefault(study_id, set()).add(event)
        return event

    def leave(self, study_id: int, event: asyncio.Event) -> None:
        """Ends a `listen`."""
        listeners = self._waiting.get(study_id, set())
        listeners.discard(event)
        if not listeners:
            self._waiting.pop(study_id, None)


class Commits:
    """Runs works and passes on what they changed. Calls wait in a bounded queue; what the server does by itself does not."""

    def __init__(self, storage: Storage, host: EngineHost, bell: Bell, waiting: Queue) -> None:
        self._storage = storage
        self._waiting = waiting
        self._host = host
        self._bell = bell

    async def run(self, name: StudyName, work: Callable[[Transaction], Change[T]], *, brief: bool = False) -> T:
        """Runs a call's `work` on the study in a transaction; returns its result once it is on disk and passed on. Raises ServerBusy.

        `brief`: it reads and writes a few rows.
        """
        with self._waiting.entered(name.project, name.study):
            return await self.run_own(work, brief=brief)

    async def run_own(self, work: Callable[[Transaction], Change[T]], *, brief: bool = False) -> T:
        """As `run`, for work of the server's own."""
        return (await self._storage.submit(work, self._pass_on, brief=brief)).result

    def _pass_on(self, change: Change[T]) -> None:
        if change.study is not None:
            self._host.applied(change.study, change.trials)
            self._bell.ring(change.study.id)
        if change.deleted_study_id is not None:
            self._host.forget(change.deleted_study_id)
            self._bell.ring(change.deleted_study_id)
