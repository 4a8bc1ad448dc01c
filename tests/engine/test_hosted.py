"""The image of one study: reservations, what makes suggestions void, and that it is what a replay would give."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.domain.algorithms import SobolSearch
from asktell_server.domain.space import IntParameter, SearchSpace
from asktell_server.domain.study import Study, TrialPolicy
from asktell_server.domain.trial import Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.engine.hosted import GIVEN_UP, Held, HostedStudy
from asktell_server.optimizers.registry import create_optimizer

from .doubles import Change, Ledger, Scripted, a_point, a_spec


def image_of(ledger: Ledger) -> HostedStudy:
    """A fresh image that caught up with everything, as after a restart."""
    image = HostedStudy(ledger.study, Scripted(ledger.study.spec))
    image.caught_up(*ledger.since(0))
    return image


def suggested(number: int) -> Suggestion:
    """A suggestion for a number."""
    return Suggestion(a_point(number), SuggestionSource.MODEL)


def take_over(image: HostedStudy, change: Change) -> None:
    """A commit of this server."""
    image.applied(*change)


def test_reservations_share_consecutive_numbers_and_are_pending() -> None:
    """Each reservation gets the next number, and later suggestions see those before as pending."""
    image = image_of(Ledger())

    first, second = image.reserve(suggested(1)), image.reserve(suggested(2))

    assert (first.first, second.first, image.next_number) == (1, 2, 3)
    assert image.pending() == [a_point(1), a_point(2)]


def test_a_commit_turns_a_reservation_into_a_pending_trial_and_keeps_those_built_on_it() -> None:
    """Nothing but the owner of the point changes: pending, version and generation stay."""
    ledger = Ledger()
    image = image_of(ledger)
    first, second = image.reserve(suggested(1)), image.reserve(suggested(2))
    before = (image.pending(), image.version, image.generation, image.next_number)

    take_over(image, ledger.give_out(*first.suggestions))
    image.release(first)

    assert (image.pending(), image.version, image.generation, image.next_number) == before
    assert list(image.reserved) == [second.first]


def test_a_failed_commit_voids_what_was_built_on_it() -> None:
    """Releasing an unused reservation frees all numbers, and later releases of the void ones do no harm."""
    image = image_of(Ledger())
    first, second = image.reserve(suggested(1)), image.reserve(suggested(2))
    image.held = Held(3, image.version, image.generation, suggested(3))

    image.release(first)
    again = image.reserve(suggested(1))
    image.release(second)

    assert again.first == 1
    assert again.generation > second.generation
    assert image.held is None
    assert list(image.reserved) == [1]


def test_the_unused_rest_of_a_reservation_is_released() -> None:
    """A run of three of which one got into the database leaves two free numbers."""
    ledger = Ledger()
    image = image_of(ledger)
    run = image.reserve(suggested(3), image.reserve(suggested(2), image.reserve(suggested(1))))

    take_over(image, ledger.give_out(run.suggestions[0]))
    image.release(run)

    assert image.reserved == {}
    assert image.next_number == 2


def test_another_writer_that_takes_a_reserved_number_voids_the_reservations() -> None:
    """CreateTrials got number 1: what was reserved as 1 and 2 stands on nothing."""
    ledger = Ledger()
    image = image_of(ledger)
    first = image.reserve(suggested(1))
    image.reserve(suggested(2))

    take_over(image, ledger.enqueue(a_point(77)))

    assert image.reserved == {}
    assert image.generation > first.generation
    assert image.next_number == 2


def test_a_reserved_number_that_goes_to_another_point_voids_what_was_built_on_it() -> None:
    """An ask that was given up commits after all with another point: suggestions that foresaw the first are void."""
    ledger = Ledger()
    image = image_of(ledger)
    image.reserve(suggested(1))
    image.reserve(suggested(2))
    image.held = Held(3, image.version, image.generation, suggested(3))
    version = image.version

    take_over(image, ledger.give_out(suggested(99)))

    assert image.reserved == {}
    assert image.held is None
    assert image.version > version
    assert image.pending() == [a_point(99)]


def test_a_suggestion_in_the_making_is_not_current_after_its_reservations_became_void() -> None:
    """What was computed for trial 2 beside a point that nobody tries does not answer the next ask for trial 2."""
    image = image_of(Ledger())
    doomed = image.reserve(suggested(1))
    made = Held(2, image.version, image.generation, suggested(2))

    image.release(doomed)
    image.reserve(suggested(55))

    assert not image.is_current(made, image.version, max_lag=0)


def test_pending_points_are_in_the_order_of_their_numbers_however_they_came() -> None:
    """An ask that takes waiting trials and adds a new one, after a later trial was given out, is sorted in."""
    ledger = Ledger()
    image = image_of(ledger)
    for change in (
        ledger.give_out(suggested(1)),
        ledger.enqueue(a_point(2), a_point(3)),
        ledger.give_out(suggested(4)),
    ):
        take_over(image, change)

    take_over(image, ledger.give_out(suggested(5), take=[2, 3]))

    assert image.pending() == [a_point(number) for number in (1, 2, 3, 4, 5)]


def test_waiting_points_are_pending() -> None:
    """A point that was enqueued will be tried, so it must not be suggested a second time."""
    ledger = Ledger()
    image = image_of(ledger)

    take_over(image, ledger.enqueue(a_point(9)))

    assert image.pending() == [a_point(9)]


def test_a_gap_makes_the_image_stale_until_it_has_caught_up() -> None:
    """A commit whose predecessor is missing is not applied; catching up brings both."""
    ledger = Ledger()
    image = image_of(ledger)
    ledger.give_out(suggested(1))
    later = ledger.tell(1, 0.5)

    take_over(image, later)
    stale, seen = image.stale, list(image.observations)
    image.caught_up(*ledger.since(image.applied_revision))

    assert stale
    assert seen == []
    assert not image.stale
    assert [o.number for o in image.observations] == [1]


def test_an_image_stays_stale_if_a_commit_came_while_the_database_was_read() -> None:
    """What was read does not hold the commit that the host heard of meanwhile: another round is needed."""
    ledger = Ledger()
    image = image_of(ledger)
    ledger.give_out(suggested(1))
    read = ledger.since(image.applied_revision)
    ledger.tell(1, 0.5)
    take_over(image, ledger.renew(1))

    image.caught_up(*read)
    still = image.stale
    image.caught_up(*ledger.since(image.applied_revision))

    assert still
    assert not image.stale
    assert [o.number for o in image.observations] == [1]


def test_a_row_that_is_stamped_again_is_not_a_new_observation() -> None:
    """Notes on a finished trial change its revision; the optimizer hears of its result once, by replay too."""
    ledger = Ledger()
    image = image_of(ledger)
    for change in (ledger.give_out(suggested(1)), ledger.tell(1, 0.5)):
        take_over(image, change)
    version = image.version

    take_over(image, ledger.renew(1))

    assert len(image.observations) == 1
    assert image.version == version
    assert image_of(ledger).observations == image.observations


def test_a_commit_is_taken_over_once() -> None:
    """The same commit by catching up and by the commit's own news adds one observation."""
    ledger = Ledger()
    image = image_of(ledger)
    take_over(image, ledger.give_out(suggested(1)))
    told = ledger.tell(1, 0.5)
    image.caught_up(*ledger.since(image.applied_revision))

    take_over(image, told)

    assert [o.number for o in image.observations] == [1]


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["ask", "batch", "tell", "enqueue", "take", "mixed", "expire", "import", "renew", "lose", "miss"]
        ),
        st.integers(0, 10**6),
    ),
    max_size=40,
)


def happen(ledger: Ledger, image: HostedStudy, kind: str, pick: int) -> Change | None:
    """One random event, if it is possible now; asks are reserved first, as by the server."""

    def some(*states: TrialState) -> Trial | None:
        found = [trial for trial in ledger.trials.values() if trial.state in states]
        return found[pick % len(found)] if found else None

    def next_one() -> Suggestion:
        return image.optimizer.ask(image.next_number, image.pending()).suggestion

    running, waiting = some(TrialState.RUNNING), some(TrialState.WAITING)
    match kind:
        case "ask":
            return ledger.give_out(*image.reserve(next_one()).suggestions)
        case "batch":
            first = image.reserve(next_one())
            return ledger.give_out(*image.reserve(next_one(), first).suggestions)
        case "lose":
            image.release(image.reserve(next_one()))
        case "tell":
            told = some(TrialState.RUNNING, TrialState.EXPIRED)
            return ledger.tell(told.number, pick / 7) if told else None
        case "enqueue":
            return ledger.enqueue(a_point(pick % 997), a_point(pick % 991 + 1000))
        case "take":
            return ledger.give_out(take=[waiting.number]) if waiting else None
        case "mixed":
            return ledger.give_out(*image.reserve(next_one()).suggestions, take=[waiting.number]) if waiting else None
        case "expire":
            return ledger.expire(running.number, retry=pick % 2 == 0) if running else None
        case "import":
            return ledger.import_(pick / 3, pick / 5)
        case "renew":
            return ledger.renew(pick % len(ledger.trials) + 1) if ledger.trials else None
    return None


@settings(max_examples=150, deadline=None)
@given(EVENTS)
def test_a_history_lived_is_a_history_replayed(events: list[tuple[str, int]]) -> None:
    """Whatever happens, live or by catching up after a gap, a fresh image has the same observations, pending points and next suggestion."""
    ledger = Ledger(a_spec(SobolSearch()))
    image = HostedStudy(ledger.study, create_optimizer(ledger.study.spec))
    image.caught_up(*ledger.since(0))
    for kind, pick in events:
        change = happen(ledger, image, kind, pick)
        if kind == "miss":  # two commits of which the image hears only the second
            ledger.enqueue(a_point(pick % 983))
            change = ledger.import_(pick / 11)
        if change is not None:
            take_over(image, change)
        if image.stale:
            image.caught_up(*ledger.since(image.applied_revision))

    fresh = HostedStudy(ledger.study, create_optimizer(ledger.study.spec))
    fresh.caught_up(*ledger.since(0))

    assert image.reserved == {}
    assert image.next_number == fresh.next_number
    assert image.observations == fresh.observations
    assert list(image.unfinished.items()) == list(fresh.unfinished.items())
    assert _next(image) == _next(fresh)


def _next(image: HostedStudy) -> Suggestion:
    return image.optimizer.ask(image.next_number, image.pending()).suggestion


def test_an_old_study_row_changes_nothing() -> None:
    """News of a revision that the image already has is ignored."""
    ledger = Ledger()
    old: Study = ledger.study
    ledger.give_out(suggested(1))
    image = image_of(ledger)

    image.applied(old, [])

    assert image.next_number == 2


def test_of_many_points_that_were_given_up_the_last_stay_pending() -> None:
    """In an infinite space preempted trials do not make asks dearer for ever; and each further one voids what is held."""
    ledger = Ledger(replace(a_spec(), trial_policy=TrialPolicy(max_retries=0)))
    image = image_of(ledger)
    versions = []
    for number in range(1, GIVEN_UP + 4):
        take_over(image, ledger.give_out(suggested(number)))
        versions.append(image.version)
        take_over(image, ledger.expire(number, retry=False))

    assert image.pending() == [a_point(number) for number in range(4, GIVEN_UP + 4)]
    assert image_of(ledger).pending() == image.pending()
    assert versions[GIVEN_UP] == versions[1] + GIVEN_UP - 1  # asks alone
    assert image.version > versions[-1]


def test_of_a_finite_space_all_points_that_were_given_up_stay_pending() -> None:
    """Else they would be suggested again and again once the rest is tried."""
    space = SearchSpace((IntParameter("x", 1, 1000), IntParameter("n", 1, 1000)))
    ledger = Ledger(replace(a_spec(), space=space, trial_policy=TrialPolicy(max_retries=0)))
    image = image_of(ledger)
    points = [{"x": number, "n": 1} for number in range(1, GIVEN_UP + 4)]
    for number, point in enumerate(points, 1):
        take_over(image, ledger.give_out(Suggestion(point, SuggestionSource.MODEL)))
        take_over(image, ledger.expire(number, retry=False))

    assert image.pending() == points
