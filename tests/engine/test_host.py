"""The host's own decisions, with an optimizer and compute processes that act by script: what answers an ask, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from asktell_server.domain.algorithms import GpOptimizer, TransferSource
from asktell_server.domain.errors import SearchSpaceExhausted, ServerBusy, StudyNotFound
from asktell_server.domain.trial import Suggestion, SuggestionSource, TrialState
from asktell_server.engine import host as host_module
from asktell_server.engine.admission import AdmissionConfig, QueueLimits
from asktell_server.engine.host import HostConfig
from asktell_server.engine.hosted import HostedStudy, Reservation
from asktell_server.engine.pool import OptimizerFailed, WorkerLost
from asktell_server.optimizers.base import Observation, SourceStudy

from .doubles import Bench, Ledger, Scripted, a_point, a_spec, settle, suggestion_of

SOON = 60.0


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every study has the scripted optimizer."""
    monkeypatch.setattr(host_module, "create_optimizer", Scripted)


async def with_model(bench: Bench, ledger: Ledger) -> HostedStudy:
    """The image of a study that has one result, so that a model answers; its look-ahead for trial 2 is queued."""
    ledger.import_(0.5)
    return await bench.host.image(ledger.study)


async def reserve(bench: Bench, image: HostedStudy, count: int = 1, left_s: float = SOON) -> Reservation:
    """An ask's suggestions."""
    return await bench.host.reserve(image, count, time.monotonic() + left_s)


def commit(bench: Bench, ledger: Ledger, reservation: Reservation) -> None:
    """The ask's transaction goes through."""
    bench.applied(ledger.give_out(*reservation.suggestions))
    bench.host.release(reservation)


def fresh(image: HostedStudy) -> Suggestion:
    """What a computation from nothing would suggest now."""
    return suggestion_of(image.next_number, image.observations, image.pending())


async def test_without_a_model_the_answer_comes_at_once_and_no_process_is_asked() -> None:
    """The initial design is made in the event loop."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await bench.host.image(ledger.study)

    reservation = await reserve(bench, image)

    assert reservation.suggestions[0].source is SuggestionSource.INITIAL_DESIGN
    assert bench.pool.requests == []
    assert bench.look_ahead() == {"hit": 0, "joined": 0, "miss": 0}


async def test_a_held_suggestion_answers_at_once_and_is_what_a_fresh_computation_gives() -> None:
    """Look-ahead made it for the next trial; taking it starts the one after."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.pool.requests[0].answer()
    await settle()
    expected = fresh(image)

    reservation = await reserve(bench, image)

    assert reservation.suggestions == (expected,)
    assert bench.look_ahead() == {"hit": 1, "joined": 0, "miss": 0}
    assert [(r.number, r.urgent, r.pending) for r in bench.pool.open] == [(3, False, [expected.point])]


async def test_an_ask_joins_the_computation_that_is_under_way_and_makes_it_urgent() -> None:
    """No second job for the same suggestion; the first one may overtake other look-aheads."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    jobs = len(bench.pool.requests)

    bench.pool.requests[0].answer()
    reservation = await asking

    assert jobs == 1
    assert reservation.suggestions[0].source is SuggestionSource.MODEL
    assert bench.pool.hurried == [ledger.study.id]
    assert bench.look_ahead() == {"hit": 0, "joined": 1, "miss": 0}


async def test_without_look_ahead_each_ask_begins_its_own_computation() -> None:
    """It is urgent and counts as a miss."""
    ledger = Ledger()
    bench = Bench(ledger, config=HostConfig(look_ahead=False))
    image = await with_model(bench, ledger)
    before = list(bench.pool.requests)
    asking = asyncio.create_task(reserve(bench, image))
    await settle()

    bench.pool.requests[0].answer()
    await asking

    assert before == []
    assert [request.urgent for request in bench.pool.requests] == [True]
    assert bench.look_ahead() == {"hit": 0, "joined": 0, "miss": 1}


async def test_a_new_result_drops_the_held_suggestion() -> None:
    """With lag 0 the next ask waits for a suggestion that has seen the result."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.pool.requests[0].answer()
    await settle()
    bench.applied(ledger.import_(0.25))
    asking = asyncio.create_task(reserve(bench, image))
    await settle()

    bench.pool.open[0].answer()
    reservation = await asking

    assert "after [1,2]" in reservation.suggestions[0].detail
    assert bench.look_ahead()["hit"] == 0


@pytest.mark.parametrize(("max_lag", "outcome"), [(0, "joined"), (1, "hit")])
async def test_max_lag_is_how_many_results_a_held_suggestion_may_not_have_seen(max_lag: int, outcome: str) -> None:
    """One result came after it was made."""
    ledger = Ledger()
    bench = Bench(ledger, config=HostConfig(max_lag=max_lag))
    image = await with_model(bench, ledger)
    commit(bench, ledger, await _answered(bench, image))
    bench.pool.open[0].answer()
    await settle()
    before = bench.look_ahead()[outcome]

    bench.applied(ledger.tell(2, 0.1))
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    for request in bench.pool.open:
        request.answer()
    await asking

    assert bench.look_ahead()[outcome] == before + 1


async def _answered(bench: Bench, image: HostedStudy) -> Reservation:
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    if bench.pool.open:
        bench.pool.open[0].answer()
    return await asking


@pytest.mark.parametrize(
    "event",
    [
        pytest.param(lambda ledger: ledger.expire(2, retry=False), id="a lease ran out"),
        pytest.param(lambda ledger: ledger.expire(2, retry=True), id="a lease ran out, to be tried again"),
        pytest.param(lambda ledger: ledger.enqueue(a_point(300)), id="a point was enqueued"),
        pytest.param(lambda ledger: ledger.tell(2, 1.0), id="a result"),
    ],
)
async def test_what_changes_the_history_or_the_pending_points_drops_the_held_suggestion(
    event: Callable[[Ledger], object],
) -> None:
    """The next ask gets what a fresh computation gives."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    commit(bench, ledger, await _answered(bench, image))
    bench.pool.open[0].answer()
    await settle()

    bench.applied(event(ledger))  # type: ignore[arg-type]
    expected = fresh(image)
    reservation = await _answered(bench, image)

    assert reservation.suggestions == (expected,)


async def test_an_enqueued_point_that_is_taken_changes_no_suggestion() -> None:
    """It was pending before: the held suggestion stays, and is still what a fresh computation gives."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.applied(ledger.enqueue(a_point(300)))
    bench.pool.open[0].answer()
    await settle()

    bench.applied(ledger.give_out(take=[2]))
    expected = fresh(image)
    reservation = await reserve(bench, image)

    assert reservation.suggestions == (expected,)
    assert bench.look_ahead()["hit"] == 1


async def test_heartbeats_keep_the_held_suggestion() -> None:
    """A commit that changes nothing that an optimizer sees costs nothing."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.pool.requests[0].answer()
    await settle()

    bench.applied(ledger.renew(1))
    await reserve(bench, image)

    assert bench.look_ahead()["hit"] == 1


async def test_concurrent_asks_get_consecutive_numbers_each_made_beside_the_ones_before() -> None:
    """Three asks wait for one model; nobody's number or point is another's."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    asking = [asyncio.create_task(reserve(bench, image)) for _ in range(3)]

    while not all(task.done() for task in asking):
        await settle()
        for request in bench.pool.open:
            request.answer()
    reservations = [task.result() for task in asking]

    assert [r.first for r in reservations] == [2, 3, 4]
    assert [r.suggestions[0].detail.partition("beside ")[2] for r in reservations] == ["[]", "[3]", "[3,4]"]


async def test_a_batch_is_one_run_of_numbers_and_a_single_ask_waits_for_its_turn() -> None:
    """The single ask that comes in between gets the number after the batch."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    batch = asyncio.create_task(reserve(bench, image, 3))
    await settle()
    single = asyncio.create_task(reserve(bench, image))

    while not (batch.done() and single.done()):
        await settle()
        for request in bench.pool.open:
            request.answer()

    assert (batch.result().first, len(batch.result().suggestions)) == (2, 3)
    assert single.result().first == 5


async def test_other_calls_come_through_while_a_long_batch_is_made() -> None:
    """Without a model there is nothing to wait for, but a thousand suggestions take a while."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await bench.host.image(ledger.study)
    batch = asyncio.create_task(reserve(bench, image, 1000))
    await settle()

    got_in = not batch.done()
    run = await batch

    assert got_in
    assert len(run.suggestions) == 1000


async def test_a_single_ask_whose_deadline_is_near_does_not_wait_for_a_batch() -> None:
    """It falls back and takes the next number; the batch keeps the run that it has and answers with fewer."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    batch = asyncio.create_task(reserve(bench, image, 3))
    await settle()
    bench.pool.open[0].answer()
    await settle()

    single = await reserve(bench, image, left_s=0.0)
    bench.pool.open[0].answer()
    await settle()
    for request in bench.pool.open:
        request.answer()
    run = await batch

    assert single.suggestions[0].source is SuggestionSource.FALLBACK
    assert single.first == 3
    assert (run.first, len(run.suggestions)) == (2, 1)


async def test_a_batch_that_became_void_while_it_waited_takes_no_more_numbers() -> None:
    """Its numbers went to another ask with the very same run: what it reserved on top would never be released."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    batch = asyncio.create_task(reserve(bench, image, 2))
    await settle()
    bench.pool.open[0].answer()
    await settle()
    image._void()
    other = await reserve(bench, image, left_s=0.0)
    for request in bench.pool.open:
        request.answer()
    await settle()
    for request in bench.pool.open:
        request.answer()
    run = await batch

    commit(bench, ledger, other)
    bench.host.release(run)

    assert image.reserved == {}
    assert image.next_number == other.first + 1


async def test_a_batch_ends_where_the_space_is_exhausted() -> None:
    """Fewer come; with none at all the error is passed on."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    batch = asyncio.create_task(reserve(bench, image, 3))
    await settle()
    bench.pool.open[0].answer()
    await settle()

    bench.pool.open[0].future.set_exception(SearchSpaceExhausted("study", "full"))
    run = await batch
    commit(bench, ledger, run)
    single = asyncio.create_task(reserve(bench, image))
    await settle()
    bench.pool.open[0].future.set_exception(SearchSpaceExhausted("study", "full"))

    assert (len(run.suggestions), run.is_end) == (1, True)
    with pytest.raises(SearchSpaceExhausted):
        await single


async def test_what_others_have_reserved_is_no_end() -> None:
    """It may become free again: an ask that finds nothing else gets nothing, one that found some is told that there may be more."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.pool.open[0].answer()
    await settle()
    others = await reserve(bench, image)

    none = asyncio.create_task(reserve(bench, image))
    await settle()
    bench.pool.open[0].future.set_exception(SearchSpaceExhausted("study", "full"))
    some = asyncio.create_task(reserve(bench, image, 2))
    await none
    await settle()
    bench.pool.open[0].answer()
    await settle()
    bench.pool.open[0].future.set_exception(SearchSpaceExhausted("study", "full"))
    await some

    assert (others.first, none.result().suggestions) == (2, ())
    assert (some.result().first, len(some.result().suggestions), some.result().is_end) == (3, 1, False)
    bench.host.release(none.result())
    assert list(image.reserved) == [2, 3]


async def test_a_space_that_was_full_only_with_what_is_free_again_is_looked_at_anew() -> None:
    """What was reserved when the computation began was given back before it ended."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    bench.pool.open[0].answer()
    await settle()
    others = await reserve(bench, image)
    single = asyncio.create_task(reserve(bench, image))
    await settle()
    begun = bench.pool.open[0]

    bench.host.release(others)
    begun.future.set_exception(SearchSpaceExhausted("study", "full"))
    await settle()
    bench.pool.open[0].answer()

    assert (await single).first == 2


async def _cancelled(batch: asyncio.Task[Reservation], bench: Bench) -> type[BaseException]:
    batch.cancel()
    await asyncio.wait([batch])
    return asyncio.CancelledError


async def _refused(batch: asyncio.Task[Reservation], bench: Bench) -> type[BaseException]:
    asks = bench.admission.waiting_asks
    asks._limits, before = QueueLimits(0, 0, 0), asks._limits
    bench.pool.open[0].answer()
    await asyncio.wait([batch])
    asks._limits = before
    return ServerBusy


@pytest.mark.parametrize("end", [_cancelled, _refused])
async def test_a_batch_that_ends_half_way_gives_back_the_numbers_it_had(
    end: Callable[[asyncio.Task[Reservation], Bench], object],
) -> None:
    """A caller that went away, or a full server, in the middle of a batch must not block the study's next number for ever."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    batch = asyncio.create_task(reserve(bench, image, 4))
    await settle()
    bench.pool.open[0].answer()
    await settle()
    before = list(image.reserved)

    expected = await end(batch, bench)  # type: ignore[misc]

    assert before == [2]
    assert image.reserved == {}
    assert image.next_number == 2
    with pytest.raises(expected):
        batch.result()


async def test_the_deadline_brings_a_fallback_that_says_so_and_the_late_result_goes_nowhere() -> None:
    """The model's answer for trial 2 comes after trial 2 got a fallback: trial 3 gets its own."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    late = bench.pool.requests[0]

    second = await reserve(bench, image, left_s=0.01)
    if not late.future.done():
        late.answer()
    await settle()
    third = await _answered(bench, image)

    assert second.suggestions[0].source is SuggestionSource.FALLBACK
    assert "deadline" in second.suggestions[0].detail
    assert bench.metric("asktell_fallbacks_total", cause="deadline") == 1
    assert third.first == 3
    assert third.suggestions[0].detail.startswith("3 after [1] beside [2")


async def test_a_fallback_in_a_space_that_is_used_up_says_so_and_counts_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the deadline the ask ends as it would have with the model's answer."""

    def used_up(*_: object) -> Suggestion:
        raise SearchSpaceExhausted("study", "full")

    monkeypatch.setattr(Scripted, "fallback", used_up)
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)

    with pytest.raises(SearchSpaceExhausted):
        await reserve(bench, image, left_s=0.0)

    assert bench.metric("asktell_fallbacks_total", cause="deadline") == 0


async def test_no_computation_is_begun_for_an_ask_whose_time_is_up() -> None:
    """A batch whose deadline passed fills up with fallbacks without a job for each."""
    ledger = Ledger()
    bench = Bench(ledger, config=HostConfig(look_ahead=False))
    image = await with_model(bench, ledger)

    run = await reserve(bench, image, 20, left_s=0.0)

    assert len(run.suggestions) == 20
    assert bench.pool.requests == []


@pytest.mark.parametrize(
    ("error", "cause"),
    [(WorkerLost("the compute process died"), "worker_lost"), (OptimizerFailed("boom"), "numerical")],
)
async def test_a_lost_process_or_a_failed_optimizer_costs_quality_not_the_answer(error: Exception, cause: str) -> None:
    """The fallback answers and names the cause; the ask after it is a model's again."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    bench.pool.open[0].future.set_exception(error)
    fell_back = await asking

    after = await _answered(bench, image)

    assert fell_back.suggestions[0].source is SuggestionSource.FALLBACK
    assert str(error) in fell_back.suggestions[0].detail
    assert bench.metric("asktell_fallbacks_total", cause=cause) == 1
    assert after.suggestions[0].source is SuggestionSource.MODEL


async def test_asks_beyond_the_limit_are_refused_with_a_delay_and_leave_no_trace() -> None:
    """Two may wait; the third is told when to come back, and the others are answered."""
    ledger = Ledger()
    bench = Bench(ledger, admission=AdmissionConfig(waiting_asks=QueueLimits(2, 9, 9)))
    image = await with_model(bench, ledger)
    waiting = [asyncio.create_task(reserve(bench, image)) for _ in range(2)]
    await settle()
    depth = bench.metric("asktell_queue_depth")

    with pytest.raises(ServerBusy) as caught:
        await reserve(bench, image)
    while not all(task.done() for task in waiting):
        for request in bench.pool.open:
            request.answer()
        await settle()

    assert caught.value.retry_delay_s == 1.0
    assert depth == 2
    assert bench.metric("asktell_queue_depth") == 0
    assert [task.result().first for task in waiting] == [2, 3]


async def test_a_look_ahead_that_nobody_waits_for_is_cancelled_by_the_next_result() -> None:
    """At most one job per study is alive, however many results come in."""
    ledger = Ledger()
    bench = Bench(ledger)
    await with_model(bench, ledger)

    for i in range(10):
        bench.applied(ledger.import_(i / 10))

    assert len(bench.pool.open) == 1
    assert bench.pool.open[0].number == 12
    assert sum(request.future.cancelled() for request in bench.pool.requests) == 10


async def test_look_ahead_waits_while_trials_are_under_way_and_begins_at_once_when_none_is() -> None:
    """Of several workers another may tell its result next; a single one can only ask."""
    ledger = Ledger()
    bench = Bench(ledger, delay_s=3600.0)
    image = await with_model(bench, ledger)
    await settle()
    first = [request.number for request in bench.pool.requests]
    bench.pool.requests[0].answer()
    await settle()

    commit(bench, ledger, await reserve(bench, image))
    await settle()
    under_way = [request.number for request in bench.pool.requests]
    bench.applied(ledger.tell(2, 0.5))
    await settle()

    assert first == under_way == [2]
    assert [request.number for request in bench.pool.requests] == [2, 3]


async def test_a_computation_that_somebody_waits_for_is_not_cancelled_by_a_result() -> None:
    """The ask that came before the result is answered with what it waited for."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    commit(bench, ledger, await _answered(bench, image))
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    awaited = bench.pool.open[0]

    bench.applied(ledger.tell(2, 0.5))
    awaited.answer()
    reservation = await asking

    assert reservation.suggestions[0].detail.startswith("3 after [1] ")


async def test_no_look_ahead_for_a_study_without_room() -> None:
    """All trials are given out: nobody will ask for more."""
    ledger = Ledger(a_spec(max_trials=1))
    bench = Bench(ledger)

    await with_model(bench, ledger)

    assert bench.pool.requests == []


async def test_a_void_reservation_takes_the_suggestions_built_on_it_along() -> None:
    """Trial 2 failed to commit while trial 3 was computed beside it; another point got number 2: 3 is computed anew."""
    ledger = Ledger()
    bench = Bench(ledger)
    image = await with_model(bench, ledger)
    doomed = await _answered(bench, image)
    built_on_it = bench.pool.open[0]
    bench.host.release(doomed)
    second = await reserve(bench, image, left_s=0.0)
    if not built_on_it.future.done():
        built_on_it.answer()
    await settle()
    expected = fresh(image)

    third = await _answered(bench, image)

    assert second.suggestions[0].point != doomed.suggestions[0].point
    assert third.suggestions == (expected,)


async def test_images_are_loaded_once_for_all_who_wait() -> None:
    """Ten asks of a study that is not in memory read the database once."""
    ledger = Ledger()
    bench = Bench(ledger)
    ledger.gate.clear()
    loading = [asyncio.create_task(bench.host.image(ledger.study)) for _ in range(10)]
    await settle()

    ledger.gate.set()
    images = await asyncio.gather(*loading)

    assert ledger.loads == [0]
    assert len({id(image) for image in images}) == 1


async def test_a_commit_while_the_image_is_loaded_is_in_the_image() -> None:
    """The database was read before the commit, the news of it came before the rows: a second read brings it."""
    ledger = Ledger()
    bench = Bench(ledger)
    ledger.gate.clear()
    loading = asyncio.create_task(bench.host.image(ledger.study))
    await settle()
    ledger.import_(0.5)
    bench.applied(ledger.import_(0.25))

    ledger.gate.set()
    image = await loading

    assert [o.number for o in image.observations] == [1, 2]
    assert not image.stale


async def test_a_gap_sends_the_next_ask_to_the_database() -> None:
    """The host missed a commit; by name there is no image until it has caught up."""
    ledger = Ledger()
    bench = Bench(ledger)
    await bench.host.image(ledger.study)
    ledger.import_(0.5)
    bench.applied(ledger.import_(0.25))

    gone = bench.host.by_name("default", ledger.study.name)
    image = await bench.host.image(ledger.study)

    assert gone is None
    assert [o.number for o in image.observations] == [1, 2]
    assert bench.host.by_name("default", ledger.study.name) is image


async def test_the_study_used_least_recently_is_evicted_and_comes_back_the_same() -> None:
    """Two may live; the third takes the place of the one not used since."""
    ledgers = [Ledger(study_id=i) for i in (1, 2, 3)]
    bench = Bench(*ledgers, config=HostConfig(live_studies=2))
    first = await with_model(bench, ledgers[0])
    await with_model(bench, ledgers[1])
    bench.host.by_name("default", ledgers[0].study.name)

    await with_model(bench, ledgers[2])
    in_memory = [bench.host.by_name("default", ledger.study.name) is not None for ledger in ledgers]
    again = await bench.host.image(ledgers[1].study)

    assert in_memory == [True, False, True]
    assert bench.metric("asktell_live_studies") == 2
    assert again.observations == first.observations
    assert fresh(again) == suggestion_of(2, first.observations, [])


async def test_a_study_that_is_evicted_while_it_computes_still_answers() -> None:
    """The ask that waits gets its suggestion; the study's next image knows nothing of it until the commit."""
    ledgers = [Ledger(study_id=i) for i in (1, 2)]
    bench = Bench(*ledgers, config=HostConfig(live_studies=1))
    image = await with_model(bench, ledgers[0])
    asking = asyncio.create_task(reserve(bench, image))
    await settle()
    await with_model(bench, ledgers[1])

    bench.pool.requests[0].answer()
    reservation = await asking
    commit(bench, ledgers[0], reservation)
    again = await bench.host.image(ledgers[0].study)

    assert reservation.suggestions[0].source is SuggestionSource.MODEL
    assert again is not image
    assert again.next_number == 3


async def test_a_study_that_was_deleted_is_not_found_and_forgotten() -> None:
    """Whoever waits for its image is told."""
    ledger = Ledger()
    ledger.deleted = True
    bench = Bench(ledger)

    with pytest.raises(StudyNotFound):
        await bench.host.image(ledger.study)

    assert bench.metric("asktell_live_studies") == 0


async def test_sources_are_loaded_once_and_go_with_the_study_wherever_it_goes() -> None:
    """The optimizer here and the compute process get the same studies to learn from; after an eviction they are read anew."""
    ledger = Ledger(a_spec(GpOptimizer(transfer_sources=(TransferSource("earlier", 3),))))
    ledger.sources = (SourceStudy(a_spec(), (Observation(1, a_point(1), TrialState.FAILED),)),)
    other = Ledger(study_id=2)
    bench = Bench(ledger, other, config=HostConfig(live_studies=1))

    image = await with_model(bench, ledger)
    bench.applied(ledger.import_(0.25))
    await bench.host.image(ledger.study)
    loads = ledger.source_loads
    await bench.host.image(other.study)
    again = await bench.host.image(ledger.study)

    assert isinstance(image.optimizer, Scripted)
    assert isinstance(again.optimizer, Scripted)
    assert image.optimizer.sources == again.optimizer.sources == ledger.sources
    assert [request.sources for request in bench.pool.requests if request.study_id == 1] == [ledger.sources] * 3
    assert (loads, ledger.source_loads, other.source_loads) == (1, 2, 0)


async def test_memory_is_bounded_by_the_trials_of_all_studies_together() -> None:
    """The study used least recently goes, never the one at hand; what was evicted is read again, all of it."""
    ledgers = [Ledger(study_id=i) for i in (1, 2, 3)]
    for ledger in ledgers:
        ledger.import_(*(i / 10 for i in range(4)))
    bench = Bench(*ledgers, config=HostConfig(look_ahead=False, live_trials=9))

    for ledger in ledgers:
        await bench.host.image(ledger.study)
    held = bench.metric("asktell_live_studies"), bench.metric("asktell_live_trials")
    bench.applied(ledgers[2].import_(*(i / 20 for i in range(1, 20, 2))))
    grown = bench.metric("asktell_live_studies"), bench.metric("asktell_live_trials")
    again = await bench.host.image(ledgers[0].study)
    bench.host.forget(1)

    assert held == (2, 8)
    assert grown == (1, 14)
    assert len(again.observations) == 4
    assert bench.metric("asktell_live_trials") == 0
