"""`Study.optimize`: the loop of ask, evaluate, tell in one or several threads.

With one worker the objective runs in the calling thread; with several each has a daemon thread and the calling thread
waits, so that a Ctrl-C reaches it. Asks are sent one at a time: whether the study has room for another trial is read
and used under one lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
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
from asktell.records import StopAdvice, StopCause

if TYPE_CHECKING:
    from asktell.study import Study, Trial

Objective: TypeAlias = "Callable[[Trial], float | dict[str, float] | None]"
"""Evaluates a trial; see `Study.optimize`."""

_GLANCE_S = 0.2


def optimize(
    study: Study,
    objective: Objective,
    *,
    n_trials: int | None,
    n_workers: int,
    timeout_s: float | None,
    catch: type[Exception] | tuple[type[Exception], ...],
    progress: bool | None,
    worker: str,
    callbacks: Sequence[Callable[[Study, Trial], object]],
) -> None:
    """See `Study.optimize`."""
    if n_workers < 1:
        raise ValueError(f"n_workers is at least 1, not {n_workers}")
    study.reload()
    run = _Run(study, objective, n_trials, timeout_s, catch, progress, callbacks)
    try:
        if n_workers == 1:
            run.work(worker)
        else:
            run.work_in_threads([f"{worker}/{index}" for index in range(1, n_workers + 1)])
    finally:
        run.display.close()


class _Run:
    """One `optimize` while it lasts."""

    def __init__(
        self,
        study: Study,
        objective: Objective,
        n_trials: int | None,
        timeout_s: float | None,
        catch: type[Exception] | tuple[type[Exception], ...],
        progress: bool | None,
        callbacks: Sequence[Callable[[Study, Trial], object]],
    ) -> None:
        self._study = study
        self._objective = objective
        self._n_trials = n_trials
        self._deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        self._catch = catch
        self._callbacks = callbacks
        self._asking = threading.Lock()
        self._ending = threading.Lock()
        self._over = threading.Event()  # no new trials
        self._interrupted = threading.Event()  # and those that run are told by the thread that was interrupted
        self._running: dict[int, Trial] = {}
        self._error: BaseException | None = None
        self._tally = Tally(study, study.best_trial)
        self.display = make_progress(progress, study.id, n_trials or study.spec.max_trials)
        self.display.update(self._tally.ended, self._tally.best)

    def work(self, worker: str) -> None:
        """Evaluates trial after trial."""
        while (trial := self._next(worker)) is not None:
            self._evaluate(trial)

    def work_in_threads(self, workers: list[str]) -> None:
        """Evaluates in one thread per worker and waits for them. Raises the first error of any."""
        threads = [
            threading.Thread(target=self._guarded_work, args=(name,), name=name, daemon=True) for name in workers
        ]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(_GLANCE_S)  # not for ever, so that a Ctrl-C gets through
        except BaseException:
            self._interrupt()
            raise
        if self._error is not None:
            raise self._error

    def _guarded_work(self, worker: str) -> None:
        try:
            self.work(worker)
        except BaseException as error:  # carried over to the thread that waits
            self._over.set()
            with self._ending:
                self._error = self._error or error

    def _interrupt(self) -> None:
        self._over.set()
        self._interrupted.set()
        held = self._asking.acquire(timeout=FAREWELL_S)  # an Ask under way brings one more trial to tell about
        try:
            for trial in list(self._running.values()):
                trial.advise(StopAdvice(should_stop=True, cause=StopCause.OTHER, detail=INTERRUPTED))
                self._say_farewell(trial)
        finally:
            if held:
                self._asking.release()

    def _next(self, worker: str) -> Trial | None:
        """The next trial to evaluate; None when there is none for this run."""
        with self._asking:
            if self._over.is_set() or (self._deadline_s is not None and time.monotonic() >= self._deadline_s):
                return None
            if self._n_trials is not None:
                self._study.reload()
                with self._ending:
                    self._tally.recount(self._study)
                if self._study.trial_counts.started >= self._n_trials:
                    return None
            call = _calls.ask(self._study.name, 1, worker)
            try:
                trial = self._study.take(call)[0]
            except DONE:
                return None
            except KeyboardInterrupt:
                # The trial may have been given out all the same: the same call again brings it, to be told.
                with suppress(AskTellError):  # it is the interrupt that is to be raised; a lease runs out by itself
                    self._say_farewell(self._study.take(call, FAREWELL_S)[0])
                raise
            if self._interrupted.is_set():  # too late for the thread that was interrupted to see it
                self._say_farewell(trial)
                return None
            self._running[trial.number] = trial
            return trial

    def _evaluate(self, trial: Trial) -> None:
        try:
            self._conclude(trial)
        except AskTellError:
            if not self._interrupted.is_set():  # otherwise the trial was told already, by the interrupted thread
                raise
        finally:
            self._running.pop(trial.number, None)
        if self._interrupted.is_set():
            return
        with self._ending:
            self._tally.add(trial)
            self.display.update(self._tally.ended, self._tally.best)
            for callback in self._callbacks:
                callback(self._study, trial)

    def _conclude(self, trial: Trial) -> None:
        """Runs the objective and tells how it ended."""
        try:
            result = self._objective(trial)
            if result is None:
                if not trial.state.ended:
                    trial.reload()  # it may have been told through another handle
                if not trial.state.ended:
                    raise untold(trial)
                return
            call = call_for_result(trial, self._study.spec, result)
        except (TrialPruned, TrialInfeasible, NotFinite) as error:
            call = call_for_error(trial, error)
        except Exception as error:
            if not trial.state.ended:
                self._tell_error(trial, error)
            if not isinstance(error, self._catch):
                raise
            return
        except BaseException:  # Ctrl-C in the calling thread, which is this one
            if not trial.state.ended:
                self._say_farewell(trial)
            raise
        if trial.state.ended:
            return
        try:
            trial.end(call)
        except InvalidArgument as error:  # it is the result that is wrong: an error of the objective's
            self._tell_error(trial, error)
            if not isinstance(error, self._catch):
                raise

    def _tell_error(self, trial: Trial, error: Exception) -> None:
        try:
            trial.end(call_for_error(trial, error))
        except AskTellError as another:
            error.add_note(f"and telling so to the server failed: {another}")

    def _say_farewell(self, trial: Trial) -> None:
        """Tells, within seconds, that the trial was interrupted; if that cannot be told its lease will run out."""
        try:
            trial.end(_calls.tell_failed(trial.name, INTERRUPTED), FAREWELL_S)
        except AskTellError as error:
            trial.advise(
                StopAdvice(should_stop=True, cause=StopCause.OTHER, detail=f"{INTERRUPTED}; telling so failed: {error}")
            )
