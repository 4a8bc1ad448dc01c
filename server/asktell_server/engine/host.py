"""The engine host: answers "what should trial n try?" for every study, as soon as possible.

The three ways to a suggestion, tried in this order:

1. a *held* suggestion, made ahead after the last result and still current;
2. the optimizer's cheap part (a sampler, the initial design), here in the event loop, in microseconds;
3. a model, in a compute process, joined if it is already in the making; when the deadline nears or the process is lost,
   the quasi-random fallback.

Explanations of what a model has learned are made in a compute process, too, after all suggestions.

Results come in through `applied`, after their commit: they cost nothing here but an append, and start the next look-ahead.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from asktell_server.domain.errors import ComputeUnavailable, SearchSpaceExhausted, ServerBusy, StudyNotFound
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Suggestion, Trial
from asktell_server.engine.admission import Admission, AdmissionConfig
from asktell_server.engine.hosted import Computation, Held, HostedStudy, Reservation, SharedExplanation
from asktell_server.engine.pool import OptimizerFailed, PoolConfig, WorkerLost, WorkerPool
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import Proposal, SourceStudy
from asktell_server.optimizers.registry import create_optimizer

log = structlog.get_logger()

# What it may mean when there is no time for a model, by the cause that is counted.
LATE = {
    "deadline": "the deadline was near",
    "overtaken": "other asks were faster again and again, and there was no more waiting for the model",
}

Loader = Callable[[int, int], Awaitable[tuple[Study, list[Trial]] | None]]
"""(study id, revision) -> the study and its trials that changed since; None if the study is gone."""

SourceLoader = Callable[[Study], Awaitable[Sequence[SourceStudy]]]
"""A study -> the studies that its spec names to learn from, in that order; one that is gone is left out."""


@dataclass(frozen=True)
class HostConfig:
    """Engine host.

    `live_studies`: studies held in memory, `live_trials`: trials of all of them together; the study used least recently goes first,
    and is read again when it is asked for. `look_ahead`: make the next suggestion
    before it is asked for, `look_ahead_delay_s` after what gave cause for it, so that the reply goes out first, or at once where no
    trial is under way. `max_lag`: results that a held suggestion may not have seen yet.
    """

    pool: PoolConfig = field(default_factory=PoolConfig)
    live_studies: int = 1000
    live_trials: int = 300_000
    look_ahead: bool = True
    look_ahead_delay_s: float = 0.01
    max_lag: int = 0


async def _no_sources(_: Study) -> Sequence[SourceStudy]:
    return ()


class EngineHost:
    """Hosts live optimizers keyed by study. Used from the event loop only."""

    def __init__(
        self,
        config: HostConfig,
        load: Loader,
        metrics: Metrics,
        load_sources: SourceLoader = _no_sources,
        admission: Admission | None = None,
    ) -> None:
        self._config = config
        self._load = load
        self._load_sources = load_sources
        self._metrics = metrics
        self._pool = WorkerPool(config.pool, metrics)
        self._studies: OrderedDict[int, HostedStudy] = OrderedDict()
        self._ids: dict[tuple[str, str], int] = {}
        self._live_trials = 0
        metrics.live_trials(lambda: self._live_trials)
        self._loading: dict[int, asyncio.Task[HostedStudy]] = {}
        admission = admission or Admission(AdmissionConfig(), metrics)
        self._asks, self._explanations = admission.waiting_asks, admission.waiting_explanations

    def warm_up(self, studies: Iterable[Study]) -> None:
        """Gets the compute processes ready if one of these studies, which were there at the start, has a model."""
        for study in studies:
            if create_optimizer(study.spec).uses_results:
                self._pool.warm_up_all(study.spec)
                return

    async def stop(self) -> None:
        """Ends the compute processes."""
        await self._pool.stop()

    def worker_process_ids(self) -> list[int]:
        """Ids of the running compute processes."""
        return self._pool.process_ids()

    def by_name(self, project: str, name: str) -> HostedStudy | None:
        """The image of a study that is in memory and current, or None."""
        study_id = self._ids.get((project, name))
        hosted = None if study_id is None else self._studies.get(study_id)
        if hosted is None or hosted.stale:
            return None
        self._studies.move_to_end(hosted.study.id)
        return hosted

    async def image(self, study: Study) -> HostedStudy:
        """The study's image, current at least up to the last commit of this server."""
        hosted = self._studies.get(study.id)
        if hosted is not None and not hosted.stale:
            self._studies.move_to_end(study.id)
            return hosted
        task = self._loading.get(study.id)
        if task is None:
            task = self._loading[study.id] = asyncio.create_task(self._catch_up(study))
            task.add_done_callback(lambda _: self._loading.pop(study.id, None))
        return await asyncio.shield(task)

    def is_ready(self, hosted: HostedStudy) -> bool:
        """Whether the next suggestion costs no model: it is held, or cheap."""
        held = hosted.held
        current = held is not None and hosted.is_current(held, hosted.version, self._config.max_lag)
        return current or not hosted.optimizer.needs_model()

    async def reserve(self, hosted: HostedStudy, count: int, deadline: float, late: str = "deadline") -> Reservation:
        """Suggestions for the next `count` trials, reserved. `deadline` is on the clock of `time.monotonic`.

        `late` is what it means when that has passed, a key of `LATE`: the cause of a fallback.
        Fewer come if the space is exhausted on the way, and none where that is so only by what others have reserved, which may
        become free again. Raises SearchSpaceExhausted, ServerBusy.
        """
        if count > 1 or hosted.turn.locked():
            # A batch is one run of numbers: others wait for their turn, unless their deadline is nearer.
            try:
                async with self._waiting_until(hosted, deadline):
                    await hosted.turn.acquire()
            except TimeoutError:
                return await self._reserve(hosted, count, deadline, late)
            try:
                return await self._reserve(hosted, count, deadline, late)
            finally:
                hosted.turn.release()
        return await self._reserve(hosted, count, deadline, late)

    async def _reserve(self, hosted: HostedStudy, count: int, deadline: float, late: str) -> Reservation:
        since = hosted.version
        reservation: Reservation | None = None
        try:
            for i in range(count):
                if i:
                    await asyncio.sleep(0)  # a long batch lets other calls in
                suggestion = await self._next(hosted, since, deadline, late)
                # What this ask has may have become void, or others have taken numbers, while it waited: the rest is theirs.
                if reservation is not None and not hosted.is_last(reservation):
                    break
                reservation = hosted.reserve(suggestion, reservation)
        except SearchSpaceExhausted:
            if reservation is None and not hosted.reserved:
                raise
            reservation = hosted.ended(reservation)
        except BaseException:
            if reservation is not None:
                hosted.release(reservation)
            raise
        assert reservation is not None
        self._look_ahead_soon(hosted)
        return reservation

    async def explain(self, hosted: HostedStudy, request: ExplainRequest, deadline: float) -> tuple[int, Explanation]:
        """What the study's model has learned, and the revision up to which; `deadline` is on the clock of `time.monotonic`.

        Equal requests about the same history share one computation. Raises NoModel, ServerBusy (also at the deadline),
        ComputeUnavailable, OptimizerFailed.
        """
        if not hosted.optimizer.explains:
            hosted.optimizer.explain(request)  # which says so
        with self._explanations.entered(hosted.study.project, hosted.study.name):
            return await self._explain(hosted, request, deadline)

    async def _explain(self, hosted: HostedStudy, request: ExplainRequest, deadline: float) -> tuple[int, Explanation]:
        revision, key = hosted.applied_revision, (len(hosted.observations), request)
        shared = hosted.explanations.get(key)
        if shared is None:
            made = self._pool.explain(
                hosted.study.id,
                hosted.study.spec,
                tuple(hosted.observations),
                request,
                hosted.sources,
                project=hosted.study.project,
            )
            shared = hosted.explanations[key] = SharedExplanation(made)
            made.future.add_done_callback(lambda _: hosted.drop_explanation(key, shared))
        shared.waiters += 1
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return revision, await asyncio.shield(shared.making.future)
        except TimeoutError:
            delay_s = self._explanations.retry_delay_s
            raise ServerBusy("the explanation was not ready in time", retry_delay_s=delay_s) from None
        except WorkerLost as error:
            raise ComputeUnavailable(f"the explanation is lost: {error}; try again") from error
        finally:
            shared.waiters -= 1
            if not shared.waiters and shared.making.withdraw():
                hosted.drop_explanation(key, shared)

    def release(self, reservation: Reservation) -> None:
        """Gives back suggestions that did not get into the database."""
        hosted = self._studies.get(reservation.study_id)
        if hosted is not None:
            hosted.release(reservation)

    def applied(self, study: Study, trials: Iterable[Trial]) -> None:
        """Takes over a commit of this server."""
        hosted = self._studies.get(study.id)
        if hosted is not None:
            before = hosted.size
            hosted.applied(study, trials)
            self._grew(hosted, before)
            self._look_ahead_soon(hosted)

    def overtaken(self, study_id: int, revision: int) -> None:
        """Takes note that another server brought the study to `revision`."""
        hosted = self._studies.get(study_id)
        if hosted is not None:
            hosted.overtaken(revision)

    def forget(self, study_id: int) -> None:
        """Drops a study that was deleted."""
        self._drop(self._studies.pop(study_id, None))

    def went_back(self, study_id: int | None = None) -> None:
        """Drops what is held of a study, or of all: more than the database has, which has lost commits (a failover, a restore)."""
        for each in list(self._studies) if study_id is None else [study_id]:
            self.forget(each)
        self._pool.begin_anew()
        log.warning("the database went back: what was held in memory is read anew", study_id=study_id)

    def _grew(self, hosted: HostedStudy, before: int) -> None:
        """Called when an image has grown from a size: studies go until no more is held than may be, but never this one."""
        if self._studies.get(hosted.study.id) is not hosted:
            return  # evicted or deleted meanwhile
        self._live_trials += hosted.size - before
        self._studies.move_to_end(hosted.study.id)
        while len(self._studies) > 1 and (
            len(self._studies) > self._config.live_studies or self._live_trials > self._config.live_trials
        ):
            self._drop(self._studies.popitem(last=False)[1])

    def _drop(self, hosted: HostedStudy | None) -> None:
        if hosted is not None:
            self._live_trials -= hosted.size
            self._metrics.live_studies(len(self._studies))
            key = (hosted.study.project, hosted.study.name)
            if self._ids.get(key) == hosted.study.id:
                del self._ids[key]

    async def _catch_up(self, study: Study) -> HostedStudy:
        started = time.perf_counter()
        hosted = self._studies.get(study.id) or await self._begun(study)
        while hosted.stale:
            known = hosted.known_revision
            changes = await self._load(study.id, hosted.applied_revision)
            if changes is None:
                self.forget(study.id)
                raise StudyNotFound(f"projects/{study.project}/studies/{study.name}")
            if changes[0].revision < known:
                self.went_back(study.id)
                hosted = await self._begun(changes[0])
                continue
            before = hosted.size
            hosted.caught_up(*changes)
            self._grew(hosted, before)
        self._metrics.ask_phase("catch_up", time.perf_counter() - started)
        self._look_ahead_soon(hosted)
        return hosted

    async def _begun(self, study: Study) -> HostedStudy:
        """An image that holds nothing yet."""
        sources = await self._load_sources(study) if study.spec.transfer_sources else ()
        hosted = HostedStudy(study, create_optimizer(study.spec, sources), sources)
        self._studies[study.id] = hosted
        self._ids[study.project, study.name] = study.id
        self._metrics.live_studies(len(self._studies))
        if hosted.optimizer.uses_results:
            self._pool.warm_up(study.id, study.spec, study.project)
        return hosted

    async def _next(self, hosted: HostedStudy, since: int, deadline: float, late: str) -> Suggestion:
        joined = False
        while True:
            held = hosted.held
            if held is not None and hosted.is_current(held, since, self._config.max_lag):
                hosted.held = None
                if not joined:
                    self._metrics.look_ahead("hit")
                return held.suggestion
            number, pending = hosted.next_number, hosted.pending()
            if not hosted.optimizer.needs_model():
                return hosted.optimizer.ask(number, pending).suggestion
            if time.monotonic() >= deadline:
                return self._fallback(hosted, late, LATE[late])
            computation = hosted.computation
            if computation is None or not hosted.is_current(computation, since, self._config.max_lag):
                computation = self._compute(hosted, urgent=True)
                if not joined:
                    self._metrics.look_ahead("miss")
            else:
                self._pool.hurry(hosted.study.id)
                if not joined:
                    self._metrics.look_ahead("joined")
            joined = True
            try:
                await self._wait(hosted, computation, deadline)
            except TimeoutError:
                return self._fallback(hosted, late, LATE[late])
            except SearchSpaceExhausted:
                if hosted.is_current(computation, since, self._config.max_lag):
                    raise  # else by points that were reserved then
            except WorkerLost as error:
                return self._fallback(hosted, "worker_lost", str(error))
            except OptimizerFailed as error:
                log.error("optimizer failed", study=hosted.study.name, trial=number, error=str(error))
                return self._fallback(hosted, "numerical", f"the optimizer failed: {str(error).splitlines()[-1]}")

    async def _wait(self, hosted: HostedStudy, computation: Computation, deadline: float) -> None:
        computation.waiters += 1
        try:
            async with self._waiting_until(hosted, deadline):
                await asyncio.shield(computation.future)
        finally:
            computation.waiters -= 1

    @asynccontextmanager
    async def _waiting_until(self, hosted: HostedStudy, deadline: float) -> AsyncIterator[None]:
        """Where an ask waits: counted, bounded, and no longer than until its deadline. Raises ServerBusy, TimeoutError."""
        try:
            with self._asks.entered(hosted.study.project, hosted.study.name):
                self._metrics.waiting_asks(len(self._asks))
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    yield
        finally:
            self._metrics.waiting_asks(len(self._asks))

    def _fallback(self, hosted: HostedStudy, cause: str, detail: str) -> Suggestion:
        suggestion = hosted.optimizer.fallback(hosted.next_number, hosted.pending(), detail)
        self._metrics.fell_back(cause)
        log.warning(
            "suggestion fell back", study=hosted.study.name, trial=hosted.next_number, cause=cause, detail=detail
        )
        return suggestion

    def _compute(self, hosted: HostedStudy, *, urgent: bool) -> Computation:
        old = hosted.computation
        if old is not None and not old.waiters:
            old.future.cancel()  # frees its place in the queue if it has not begun
        number, version, generation = hosted.next_number, hosted.version, hosted.generation
        future = self._pool.submit(
            hosted.study.id,
            hosted.study.spec,
            tuple(hosted.observations),
            hosted.pending(),
            number,
            urgent=urgent,
            sources=hosted.sources,
            project=hosted.study.project,
        )
        computation = hosted.computation = Computation(number, version, generation, future)

        def done(finished: asyncio.Future[Proposal | None]) -> None:
            if hosted.computation is computation:
                hosted.computation = None
            if finished.cancelled() or finished.exception() is not None:
                return
            proposal = finished.result()
            if proposal is not None:
                if proposal.shortfall:
                    self._metrics.fell_back(proposal.shortfall)
                hosted.held = Held(number, version, generation, proposal.suggestion)

        future.add_done_callback(done)
        return computation

    def _look_ahead_soon(self, hosted: HostedStudy) -> None:
        if not hosted.optimizer.needs_model():
            return
        # Handing the history to a compute process takes the interpreter's lock for a while. With nothing under way an ask is
        # likely to come next, and a moment's lead counts.
        delay = self._config.look_ahead_delay_s if hosted.unfinished or hosted.reserved else 0.0
        if self._config.look_ahead_delay_s:
            asyncio.get_running_loop().call_later(delay, self._look_ahead, hosted)
        else:
            self._look_ahead(hosted)

    def _look_ahead(self, hosted: HostedStudy) -> None:
        if self._studies.get(hosted.study.id) is not hosted:
            return  # evicted or deleted meanwhile
        if not self._config.look_ahead or hosted.stale or not hosted.optimizer.needs_model():
            return
        since, lag = hosted.version, self._config.max_lag
        if hosted.held is not None and hosted.is_current(hosted.held, since, lag):
            return
        if hosted.computation is not None and hosted.is_current(hosted.computation, since, lag):
            return
        room = hosted.study.room()
        if hosted.study.state is not StudyState.ACTIVE or (room is not None and room <= len(hosted.reserved)):
            return
        self._compute(hosted, urgent=False)
