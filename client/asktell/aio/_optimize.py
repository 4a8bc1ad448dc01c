"""`AsyncStudy.optimize`: the loop of ask, evaluate, tell in one or several tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from asktell import _calls
from asktell._objective import (
    DONE,
    FAREWELL_S,
    INTERRUPTED,
    Tally,
    call_for_error,
    call_for_result,
    untold,
)
from asktell._progress import make_progress
from asktell.errors import AskTellError, InvalidArgument, NotFinite, TrialInfeasible, TrialPruned

if TYPE_CHECKING:
    from asktell.aio.study import AsyncStudy, AsyncTrial

AsyncObjective: TypeAlias = "Callable[[AsyncTrial], Awaitable[float | dict[str, float] | None]]"
"""Evaluates a trial; see `asktell.Study.optimize`."""


async def optimize(
    study: AsyncStudy,
    objective: AsyncObjective,
    *,
    n_trials: int | None,
    n_workers: int,
    timeout_s: float | None,
    catch: type[Exception] | tuple[type[Exception], ...],
    progress: bool | None,
    worker: str,
    callbacks: Sequence[Callable[[AsyncStudy, AsyncTrial], object]],
) -> None:
    """See `AsyncStudy.optimize`."""
    if n_workers < 1:
        raise ValueError(f"n_workers is at least 1, not {n_workers}")
    await study.reload()
    run = _Run(study, objective, n_trials, timeout_s, catch, callbacks, Tally(study, await study.best_trial()))
    run.display = make_progress(progress, study.id, n_trials or study.spec.max_trials)
    names = [worker] if n_workers == 1 else [f"{worker}/{index}" for index in range(1, n_workers + 1)]
    tasks = [asyncio.create_task(run.work(name), name=name) for name in names]
    try:
        run.show()
        await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        run.display.close()
    for end in ends:
        if end is not None:
            raise end


class _Run:
    """One `optimize` while it lasts."""

    def __init__(
        self,
        study: AsyncStudy,
        objective: AsyncObjective,
        n_trials: int | None,
        timeout_s: float | None,
        catch: type[Exception] | tuple[type[Exception], ...],
        callbacks: Sequence[Callable[[AsyncStudy, AsyncTrial], object]],
        tally: Tally,
    ) -> None:
        self._study = study
        self._objective = objective
        self._n_trials = n_trials
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._catch = catch
        self._callbacks = callbacks
        self._tally = tally
        self._asking = asyncio.Lock()
        self._over = False  # no new trials
        self.display = make_progress(wanted=False, title="", total=None)

    def show(self) -> None:
        """Brings the display up to date."""
        self.display.update(self._tally.ended, self._tally.best)

    async def work(self, worker: str) -> None:
        """Evaluates trial after trial."""
        try:
            while (trial := await self._next(worker)) is not None:
                await self._conclude(trial)
                self._tally.add(trial)
                self.show()
                for callback in self._callbacks:
                    callback(self._study, trial)
        except BaseException:
            self._over = True
            raise

    async def _next(self, worker: str) -> AsyncTrial | None:
        """The next trial to evaluate; None when there is none for this run."""
        async with self._asking:
            if self._over or (self._deadline_s is not None and time.monotonic() >= self._deadline_s):
                return None
            if self._n_trials is not None:
                await self._study.reload()
                self._tally.recount(self._study)
                if self._study.trial_counts.started >= self._n_trials:
                    return None
            call = _calls.ask(self._study.name, 1, worker)
            try:
                return (await self._study.take(call))[0]
            except DONE:
                return None
            except asyncio.CancelledError:
                # The trial may have been given out all the same: the same call again brings it, to be told.
                with suppress(AskTellError):  # it is the end that is to be raised; a lease runs out by itself
                    await self._say_farewell((await self._study.take(call, FAREWELL_S))[0])
                raise

    async def _conclude(self, trial: AsyncTrial) -> None:
        """Runs the objective and tells how it ended."""
        try:
            result = await self._objective(trial)
            if result is None:
                if not trial.state.ended:
                    await trial.reload()  # it may have been told through another handle
                if not trial.state.ended:
                    raise untold(trial)
                return
            call = call_for_result(trial, self._study.spec, result)
        except (TrialPruned, TrialInfeasible, NotFinite) as error:
            call = call_for_error(trial, error)
        except Exception as error:
            if not trial.state.ended:
                await self._tell_error(trial, error)
            if not isinstance(error, self._catch):
                raise
            return
        except BaseException:
            if not trial.state.ended:
                await self._say_farewell(trial)
            raise
        if trial.state.ended:
            return
        try:
            await trial.end(call)
        except InvalidArgument as error:  # it is the result that is wrong: an error of the objective's
            await self._tell_error(trial, error)
            if not isinstance(error, self._catch):
                raise

    async def _tell_error(self, trial: AsyncTrial, error: Exception) -> None:
        try:
            await trial.end(call_for_error(trial, error))
        except AskTellError as another:
            error.add_note(f"and telling so to the server failed: {another}")

    async def _say_farewell(self, trial: AsyncTrial) -> None:
        """Tells, within seconds, that the trial was interrupted; if that cannot be told its lease will run out."""
        try:
            await trial.end(_calls.tell_failed(trial.name, INTERRUPTED), FAREWELL_S)
        except AskTellError:
            self._over = True
