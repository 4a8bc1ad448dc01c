"""Studies and trials as handles, for asyncio: the surface of `asktell.study`, with `await`.

`best_trial` and `best_trials` are methods here, since each asks the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast, overload

from asktell import _calls
from asktell._retry import Attempts
from asktell._status import CallFailed
from asktell._targets import default_worker
from asktell.aio._optimize import AsyncObjective, optimize
from asktell.errors import AskTellError, NotFound, TrialNotRunning, Unauthenticated, Unavailable
from asktell.explanation import Explanation, explanation_from_proto
from asktell.records import (
    FinishedTrial,
    StopAdvice,
    StudyRecord,
    TrialRecord,
    TrialState,
    advice_from_error,
    advice_from_proto,
    rows,
)
from asktell.space import ParameterValue
from asktell.spec import Seconds, to_budget, to_limit
from asktell.study import StudyChange, change_from_proto, dataframe
from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as service

if TYPE_CHECKING:
    from asktell.aio.client import AsyncClient


class AsyncTrial(TrialRecord):
    """`asktell.Trial` for asyncio."""

    def __init__(self, study: AsyncStudy, proto: trial_pb2.Trial) -> None:
        super().__init__(proto, study.spec.space)
        self._study = study
        self._client = study.client
        self._advice = StopAdvice()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a trial holds a connection; send its number and use study.trial(number) there")

    @property
    def study(self) -> AsyncStudy:
        """The trial's study."""
        return self._study

    @property
    def should_stop(self) -> bool:
        """Whether the last report or heartbeat, automatic ones included, said to stop; asks nobody."""
        return bool(self._advice)

    @property
    def advice(self) -> StopAdvice:
        """What the last report or heartbeat said, with its cause."""
        return self._advice

    async def report(
        self,
        step: int,
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        **more: float,
    ) -> StopAdvice:
        """`asktell.Trial.report`."""
        measurement = _calls.measurement(metrics, more, standard_errors, step)
        answer = await self._client.run(_calls.report(self.name, measurement))
        self._advice = advice_from_proto(answer.should_stop, answer.advice)
        return self._advice

    async def heartbeat(self) -> StopAdvice:
        """`asktell.Trial.heartbeat`."""
        return await self._heartbeat(None)

    async def tell(
        self,
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        step: int | None = None,
        **more: float,
    ) -> None:
        """`asktell.Trial.tell`."""
        await self.end(_calls.tell_succeeded(self.name, _calls.measurement(metrics, more, standard_errors, step)))

    async def tell_infeasible(self, reason: str = "") -> None:
        """`asktell.Trial.tell_infeasible`."""
        await self.end(_calls.tell_infeasible(self.name, reason))

    async def tell_failed(self, reason: str = "") -> None:
        """`asktell.Trial.tell_failed`."""
        await self.end(_calls.tell_failed(self.name, reason))

    async def tell_pruned(
        self,
        reason: str = "",
        metrics: Mapping[str, float] | None = None,
        *,
        standard_errors: Mapping[str, float] | None = None,
        step: int | None = None,
        **more: float,
    ) -> None:
        """`asktell.Trial.tell_pruned`."""
        measurement = _calls.last_measurement(metrics, more, standard_errors, step)
        await self.end(_calls.tell_pruned(self.name, reason, measurement))

    async def update(self, *, notes: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """`asktell.Trial.update`."""
        self._proto = await self._client.run(_calls.update_trial(self.name, notes=notes, labels=labels))

    async def reload(self) -> None:
        """`asktell.Trial.reload`."""
        self._proto = await self._client.run(_calls.get_trial(self.name))

    async def end(self, call: _calls.Call[service.TellResponse], timeout_s: float | None = None) -> None:
        """Ends the trial by one of the calls above."""
        self._proto = (await self._client.run(call, timeout_s)).trial
        self._client.heartbeats.remove(self)

    async def beat(self, budget_s: float) -> bool:
        """An automatic heartbeat: returns whether to send another one later."""
        try:
            await self._heartbeat(budget_s)
        except (TrialNotRunning, NotFound) as error:
            self._advice = advice_from_error(error)
            return False
        except AskTellError:
            return True  # not reached this time; the next beat comes before the lease ends
        return True

    async def _heartbeat(self, budget_s: float | None) -> StopAdvice:
        answer = await self._client.run(_calls.heartbeat(self.name), budget_s)
        self._advice = advice_from_proto(answer.should_stop, answer.advice)
        return self._advice


class AsyncStudy(StudyRecord):
    """`asktell.Study` for asyncio."""

    def __init__(self, client: AsyncClient, proto: study_pb2.Study) -> None:
        super().__init__(proto)
        self._client = client

    def __reduce__(self) -> NoReturn:
        raise TypeError("a study holds a connection; send its name and use get_study(name) there")

    @property
    def client(self) -> AsyncClient:
        """The connection."""
        return self._client

    async def reload(self) -> None:
        """`asktell.Study.reload`."""
        self._proto = await self._client.run(_calls.get_study(self.name))

    async def update(self, *, description: str | None = None, labels: Mapping[str, str] | None = None) -> None:
        """`asktell.Study.update`."""
        self._proto = await self._client.run(_calls.update_study(self.name, description=description, labels=labels))

    async def stop(self, reason: str = "") -> None:
        """`asktell.Study.stop`."""
        self._proto = await self._client.run(_calls.stop_study(self.name, reason))

    async def resume(self) -> None:
        """`asktell.Study.resume`."""
        self._proto = await self._client.run(_calls.resume_study(self.name))

    async def delete(self) -> None:
        """`asktell.Study.delete`."""
        await self._client.run(_calls.delete_study(self.name, missing_ok=False))

    @overload
    async def ask(
        self, count: None = None, *, worker: str | None = None, timeout: Seconds | None = None
    ) -> AsyncTrial: ...
    @overload
    async def ask(
        self, count: int, *, worker: str | None = None, timeout: Seconds | None = None
    ) -> list[AsyncTrial]: ...
    async def ask(
        self, count: int | None = None, *, worker: str | None = None, timeout: Seconds | None = None
    ) -> AsyncTrial | list[AsyncTrial]:
        """`asktell.Study.ask`."""
        call = _calls.ask(self.name, count, worker or default_worker())
        trials = await self.take(call, None if timeout is None else to_budget(timeout))
        return trials[0] if count is None else trials

    async def take(self, call: _calls.Call[service.AskResponse], timeout_s: float | None = None) -> list[AsyncTrial]:
        """The trials that an Ask gives out, their leases being renewed from now on."""
        trials = [AsyncTrial(self, proto) for proto in (await self._client.run(call, timeout_s)).trials]
        lease = self.spec.lease
        if lease is not None:
            for trial in trials:
                self._client.heartbeats.add(trial, lease.total_seconds())
        return trials

    async def trial(self, number: int) -> AsyncTrial:
        """`asktell.Study.trial`."""
        return AsyncTrial(self, await self._client.run(_calls.get_trial(_calls.trial_name(self.name, number))))

    async def trials(
        self, states: Iterable[TrialState | str] | None = None, *, full: bool = False
    ) -> AsyncIterator[AsyncTrial]:
        """`asktell.Study.trials`."""
        wanted, token = list(states or ()), ""
        while True:
            page = await self._client.run(_calls.list_trials(self.name, wanted, full, token))
            for proto in page.trials:
                yield AsyncTrial(self, proto)
            token = page.next_page_token
            if not token:
                return

    async def best_trial(self) -> AsyncTrial | None:
        """`asktell.Study.best_trial`."""
        return next(iter(await self.best_trials()), None)

    async def best_trials(self) -> list[AsyncTrial]:
        """`asktell.Study.best_trials`."""
        found: list[AsyncTrial] = []
        token = ""
        while True:
            page = await self._client.run(_calls.list_best_trials(self.name, token))
            found += [AsyncTrial(self, proto) for proto in page.trials]
            token = page.next_page_token
            if not token:
                return found

    async def enqueue(
        self, *points: Mapping[str, ParameterValue], notes: str = "", labels: Mapping[str, str] | None = None
    ) -> list[AsyncTrial]:
        """`asktell.Study.enqueue`."""
        answer = await self._client.run(_calls.enqueue(self.name, points, notes, labels))
        return [AsyncTrial(self, proto) for proto in answer.trials]

    async def import_trials(self, finished: Iterable[FinishedTrial | Mapping[str, Any]]) -> list[AsyncTrial]:
        """`asktell.Study.import_trials`."""
        space = self.spec.space
        trials = [
            trial if isinstance(trial, FinishedTrial) else FinishedTrial.from_dict(trial, space) for trial in finished
        ]
        answer = await self._client.run(_calls.import_trials(self.name, trials))
        return [AsyncTrial(self, proto) for proto in answer.trials]

    async def to_dicts(self, states: Iterable[TrialState | str] | None = None) -> list[dict[str, Any]]:
        """`asktell.Study.to_dicts`."""
        return rows(self.spec, [trial async for trial in self.trials(states)])

    async def to_dataframe(self, states: Iterable[TrialState | str] | None = None) -> Any:
        """`asktell.Study.to_dataframe`."""
        return dataframe(await self.to_dicts(states))

    async def explain(
        self,
        slices: Iterable[str] = (),
        pairs: Iterable[tuple[str, str]] = (),
        *,
        points: int = 0,
        timeout: Seconds | None = None,
    ) -> Explanation:
        """`asktell.Study.explain`."""
        call = _calls.explain(self.name, slices, pairs, points)
        answer = await self._client.run(call, None if timeout is None else to_budget(timeout))
        return explanation_from_proto(answer, self.spec.space)

    async def watch(self, after_revision: int = 0) -> AsyncIterator[StudyChange]:
        """`asktell.Study.watch`."""
        attempts: Attempts | None = None
        while True:
            admitted = False
            stream = self._client.transport.stream("WatchStudy", _calls.watch_study(self.name, after_revision))
            try:
                async for message in stream:
                    response = cast(service.WatchStudyResponse, message)
                    attempts, admitted = None, True
                    after_revision = response.revision
                    if response.HasField("study"):
                        yield change_from_proto(response)
                error: AskTellError = Unavailable("the server ended the stream", code="UNAVAILABLE")
            except CallFailed as failure:
                error = self._client.to_error(failure)
            finally:
                await stream.aclose()
            if admitted and isinstance(error, Unauthenticated):
                continue  # the token's time was over; its file may hold a new one
            attempts = attempts or self._client.attempts("WatchStudy")
            pause_s = attempts.pause_s(error, time.monotonic())
            if pause_s is None:
                raise error
            await asyncio.sleep(pause_s)

    async def optimize(
        self,
        objective: AsyncObjective,
        n_trials: int | None = None,
        *,
        n_workers: int = 1,
        timeout: Seconds | None = None,
        catch: type[Exception] | tuple[type[Exception], ...] = (),
        progress: bool | None = None,
        worker: str | None = None,
        callbacks: Sequence[Callable[[AsyncStudy, AsyncTrial], object]] = (),
    ) -> None:
        """`asktell.Study.optimize` with an asynchronous objective and `n_workers` tasks. When it is cancelled (a
        Ctrl-C under asyncio.run, say) the objectives are, and their trials are told FAILED: "interrupted".
        """
        await optimize(
            self,
            objective,
            n_trials=n_trials,
            n_workers=n_workers,
            timeout_s=to_limit(timeout),
            catch=catch,
            progress=progress,
            worker=worker or default_worker(),
            callbacks=callbacks,
        )
