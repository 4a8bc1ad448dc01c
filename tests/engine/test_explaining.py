"""Explanations in the engine: shared, bounded, last in the queue, and never at the cost of a model at work."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future

import pytest
from prometheus_client import CollectorRegistry

from asktell_server.domain.algorithms import RandomSearch
from asktell_server.domain.errors import ComputeUnavailable, NoModel, ServerBusy
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.engine import host as host_module
from asktell_server.engine import worker
from asktell_server.engine.admission import AdmissionConfig, QueueLimits
from asktell_server.engine.host import HostConfig
from asktell_server.engine.hosted import HostedStudy
from asktell_server.engine.pool import OptimizerFailed, PoolConfig, WorkerLost, WorkerPool, _Lane, _Queue, _Ticket
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import Observation, Optimizer
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.random_search import RandomAsk

from .doubles import Bench, Ledger, Scripted, a_spec, explanation_of, settle
from .test_pool import results

SPEC = a_spec(RandomSearch())
REQUEST = ExplainRequest()
SOON = 60.0


# --- the host ---------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hosted study has the scripted optimizer."""
    monkeypatch.setattr(host_module, "create_optimizer", Scripted)


async def with_results(
    ledger: Ledger, config: HostConfig | None = None, admission: AdmissionConfig | None = None
) -> tuple[Bench, HostedStudy]:
    """A host with the image of a study that has two results."""
    ledger.import_(0.5, 0.25)
    bench = Bench(ledger, config=config, admission=admission)
    return bench, await bench.host.image(ledger.study)


def explaining(
    bench: Bench, image: HostedStudy, request: ExplainRequest = REQUEST, left_s: float = SOON
) -> asyncio.Task[tuple[int, Explanation]]:
    """A call under way."""
    return asyncio.create_task(bench.host.explain(image, request, time.monotonic() + left_s))


async def test_an_explanation_says_up_to_which_revision_results_were_used() -> None:
    """It is made from the whole history, in a compute process."""
    bench, image = await with_results(ledger := Ledger())
    call = explaining(bench, image)
    await settle()
    bench.pool.explanations[0].answer()

    revision, explanation = await call

    assert revision == ledger.study.revision == 2
    assert explanation == explanation_of(image.observations)
    assert [len(asked.observations) for asked in bench.pool.explanations] == [2]


async def test_equal_requests_about_the_same_history_share_one_computation() -> None:
    """Also when the study changed otherwise in between; each gets its own revision. Another request has its own."""
    bench, image = await with_results(ledger := Ledger())
    first = explaining(bench, image)
    await settle()
    bench.applied(ledger.renew(1))
    second, other = explaining(bench, image), explaining(bench, image, ExplainRequest(points=7))
    await settle()
    for asked in bench.pool.explanations:
        asked.answer()

    answers = await asyncio.gather(first, second, other)

    assert [asked.request.points for asked in bench.pool.explanations] == [0, 7]
    assert [revision for revision, _ in answers] == [2, 3, 3]


async def test_a_new_result_asks_for_a_new_explanation() -> None:
    """What is in the making is about the history before it."""
    bench, image = await with_results(ledger := Ledger())
    first = explaining(bench, image)
    await settle()
    bench.applied(ledger.import_(0.125))
    second = explaining(bench, image)
    await settle()
    for asked in bench.pool.explanations:
        asked.answer()

    answers = await asyncio.gather(first, second)

    assert [(revision, told.reference_trial) for revision, told in answers] == [(2, 2), (3, 3)]


async def test_without_a_model_no_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An algorithm without a model says so at once."""
    monkeypatch.setattr(host_module, "create_optimizer", lambda spec, sources=(): RandomAsk(spec))
    bench, image = await with_results(Ledger(SPEC))

    with pytest.raises(NoModel, match="the algorithm random has no model"):
        await explaining(bench, image)
    assert bench.pool.explanations == []


async def test_at_the_deadline_the_host_stops_waiting_and_takes_the_job_out_of_the_queue() -> None:
    """Nobody is left to read the answer; the next call begins anew."""
    bench, image = await with_results(Ledger())

    with pytest.raises(ServerBusy, match="not ready in time"):
        await explaining(bench, image, left_s=0.01)
    again = explaining(bench, image)
    await settle()
    bench.pool.explanations[1].answer()

    assert bench.pool.explanations[0].future.cancelled()
    assert (await again)[1] == explanation_of(image.observations)
    assert image.explanations == {}


async def test_a_job_that_has_begun_goes_on_for_the_next_attempt() -> None:
    """The client's second attempt joins what its first one started."""
    bench, image = await with_results(Ledger())
    first = explaining(bench, image)
    await settle()
    bench.pool.explanations[0].begun = True
    first.cancel()
    await settle()
    second = explaining(bench, image)
    await settle()

    bench.pool.explanations[0].answer()
    await second

    assert first.cancelled()
    assert len(bench.pool.explanations) == 1


async def test_a_caller_that_goes_away_leaves_the_job_to_the_others() -> None:
    """It is withdrawn only when nobody waits any more."""
    bench, image = await with_results(Ledger())
    going, staying = explaining(bench, image), explaining(bench, image)
    await settle()

    going.cancel()
    await settle()
    bench.pool.explanations[0].answer()

    assert (await staying)[0] == 2


async def test_more_than_the_limit_are_refused_and_asks_have_a_limit_of_their_own() -> None:
    """Explanations that wait do not keep anybody from asking, and places become free again."""
    one = QueueLimits(1, 1, 1)
    bench, image = await with_results(Ledger(), admission=AdmissionConfig(waiting_asks=one, waiting_explanations=one))
    waiting = explaining(bench, image)
    await settle()

    with pytest.raises(ServerBusy, match="there are 1 explanations that wait"):
        await explaining(bench, image)
    asking = asyncio.create_task(bench.host.reserve(image, 1, time.monotonic() + SOON))
    await settle()
    bench.pool.requests[0].answer()
    bench.pool.explanations[0].answer()
    await asyncio.gather(asking, waiting)
    later = explaining(bench, image)
    await settle()
    bench.pool.explanations[1].answer()

    assert (await later)[0] == 2


async def test_a_lost_process_is_unavailable_and_a_broken_model_a_bug() -> None:
    """The first may be tried again; the second ends in the log."""
    bench, image = await with_results(Ledger())
    lost = explaining(bench, image)
    await settle()
    bench.pool.explanations[0].future.set_exception(WorkerLost("the compute process died"))
    with pytest.raises(ComputeUnavailable, match="the compute process died"):
        await lost
    broken = explaining(bench, image)
    await settle()
    bench.pool.explanations[1].future.set_exception(OptimizerFailed("Traceback"))

    with pytest.raises(OptimizerFailed):
        await broken
    assert image.explanations == {}


# --- the queue, and what a process is sent ----------------------------------------------------------------------------


def test_an_explanation_goes_last() -> None:
    """Behind every suggestion and warm-up, whoever came first."""
    jobs = _Queue()
    for order, lane in enumerate([_Lane.EXPLAIN, _Lane.WARM_UP, _Lane.AHEAD, _Lane.URGENT]):
        jobs.put(_Ticket(1, SPEC, (), (), order, Future(), 0.0), lane)

    taken = [jobs.get() for _ in range(4)]

    assert [ticket.number for ticket in taken if ticket is not None] == [3, 2, 1, 0]


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    """A pool of one process."""
    made = WorkerPool(PoolConfig(), Metrics(CollectorRegistry(), "test"))
    yield made
    await made.stop()


async def test_a_real_process_says_that_there_is_no_model(pool: WorkerPool) -> None:
    """The text comes over; the process lives on, with the history that it was told."""
    history = results(3)

    with pytest.raises(NoModel, match="the algorithm random has no model"):
        await pool.explain(1, SPEC, history, REQUEST).future
    proposal = await pool.submit(1, SPEC, history, (), 4, urgent=True)

    assert proposal is not None
    assert pool._workers[0]._told[1] == 3


async def test_a_queued_explanation_can_be_withdrawn_and_one_that_has_begun_cannot(pool: WorkerPool) -> None:
    """A stopped process holds one; the other is still in the queue."""
    await pool.submit(1, SPEC, (), (), 1, urgent=True)
    (pid,) = pool.process_ids()
    os.kill(pid, signal.SIGSTOP)
    begun = pool.explain(2, SPEC, (), REQUEST)
    await settle(lambda: 2 in pool._workers[0]._told)
    queued = pool.explain(2, SPEC, (), REQUEST)

    withdrawn = [begun.withdraw(), queued.withdraw()]
    os.kill(pid, signal.SIGCONT)
    outcomes = await asyncio.gather(begun.future, queued.future, return_exceptions=True)

    assert withdrawn == [False, True]
    assert [type(outcome) for outcome in outcomes] == [NoModel, asyncio.CancelledError]


def jobs_for(
    pool: WorkerPool, *asked: tuple[Sequence[Observation], ExplainRequest | None]
) -> list[worker.Job | worker.Explain]:
    """What the process would be sent for these histories, as suggestions or as explanations."""
    made = []
    for history, request in asked:
        ticket = _Ticket(1, SPEC, history, (), 0 if request else 9, Future(), 0.0, (), request)
        job = pool._workers[0]._job(ticket)
        assert not isinstance(job, worker.WarmUp)
        made.append(job)
    return made


def test_a_history_is_sent_once_for_suggestions_and_explanations() -> None:
    """Each sends what the process has not seen, whichever was first."""
    history = results(4)
    pool = WorkerPool(PoolConfig(), Metrics(CollectorRegistry(), "test"))

    sent = jobs_for(pool, (history[:1], REQUEST), (history[:3], None), (history, REQUEST))

    assert [(job.spec is not None, [o.number for o in job.new_observations]) for job in sent] == [
        (True, [1]),
        (False, [2, 3]),
        (False, [4]),
    ]


def test_an_explanation_that_was_overtaken_is_made_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results came while it waited: it gets the history that it was asked about, and the model at work is not given up."""
    monkeypatch.setattr(worker, "create_optimizer", Scripted)
    history = results(3)
    pool = WorkerPool(PoolConfig(), Metrics(CollectorRegistry(), "test"))
    optimizers: dict[int, Optimizer] = {}

    sent = jobs_for(pool, (history, None), (history[:2], REQUEST), (history, REQUEST))
    worker._answer(optimizers, sent[0], FitDevice())
    at_work = optimizers[1]
    aside, after = (worker._answer(optimizers, job, FitDevice()) for job in sent[1:])

    assert isinstance(sent[1], worker.Explain)
    assert sent[1].aside
    assert aside.explanation == explanation_of(history[:2])
    assert optimizers[1] is at_work
    assert after.explanation == explanation_of(history)
    assert list(sent[2].new_observations) == []


def test_a_process_that_has_too_few_results_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """NoModel is an answer, not a failure."""
    monkeypatch.setattr(worker, "create_optimizer", Scripted)

    answer = worker._answer({}, worker.Explain(1, SPEC, (), REQUEST), FitDevice())

    assert (answer.no_model, answer.error, answer.explanation) == ("there are no results yet", "", None)
