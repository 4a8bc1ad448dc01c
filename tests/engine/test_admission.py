"""Admission: bounded three times, told when to come back, and nobody pays for somebody else's load."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from prometheus_client import CollectorRegistry

from asktell_server.domain.errors import ServerBusy
from asktell_server.engine import admission
from asktell_server.engine.admission import Queue, QueueLimits
from asktell_server.observe.metrics import Metrics


@pytest.fixture
def registry() -> CollectorRegistry:
    """Where the queue counts."""
    return CollectorRegistry()


@pytest.fixture
def queue(registry: CollectorRegistry) -> Queue:
    """Room for five, three of a project, two of a study."""
    return Queue("waiting_asks", QueueLimits(5, 3, 2), "asks that wait", Metrics(registry, "test"))


@pytest.mark.parametrize(
    ("inside", "refused", "scope", "limit"),
    [
        ([("a", "s"), ("a", "s")], ("a", "s"), "study", "2"),
        ([("a", "s"), ("a", "t"), ("a", "u")], ("a", "v"), "project", "3"),
        ([("a", "s"), ("a", "t"), ("b", "s"), ("b", "t"), ("c", "s")], ("d", "s"), "server", "5"),
    ],
)
def test_each_bound_holds_and_is_named(
    queue: Queue,
    registry: CollectorRegistry,
    inside: list[tuple[str, str]],
    refused: tuple[str, str],
    scope: str,
    limit: str,
) -> None:
    """The refusal says which bound, its value and the flag; it is counted and takes no place."""
    with ExitStack() as stack:
        for place in inside:
            stack.enter_context(queue.entered(*place))
        with pytest.raises(ServerBusy) as caught, queue.entered(*refused):
            pass

        assert len(queue) == len(inside)

    suffix = "" if scope == "server" else f"-per-{scope}"
    assert caught.value.metadata == {"queue": "waiting_asks", "scope": scope, "limit": limit}
    assert f"--max-waiting-asks{suffix};" in caught.value.message
    assert registry.get_sample_value("asktell_refused_total", {"cause": "waiting_asks", "scope": scope}) == 1
    assert registry.get_sample_value("asktell_queue_length", {"queue": "waiting_asks"}) == 0


def test_a_full_study_leaves_room_for_its_neighbour_and_a_full_project_for_others(queue: Queue) -> None:
    """That is what the inner bounds are for."""
    with queue.entered("a", "s"), queue.entered("a", "s"), queue.entered("a", "t"), queue.entered("b", "s"):
        assert len(queue) == 4


def test_places_are_free_again_whatever_happened_inside(queue: Queue) -> None:
    """Also after an error; nothing is kept about who was there."""
    for _ in range(10):
        with pytest.raises(RuntimeError), queue.entered("a", "s"):
            raise RuntimeError

    assert len(queue) == 0
    assert not queue._by_project
    assert not queue._by_study


def test_the_delay_follows_how_long_those_inside_stay(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the mean stay, within bounds that keep callers neither hammering nor away for good."""
    now = 0.0
    monkeypatch.setattr(admission.time, "monotonic", lambda: now)
    assert queue.retry_delay_s == 1.0

    for stay_s, expected in ((8.0, 8.0), (1e4, admission.LONGEST_DELAY_S), (0.0, admission.LEAST_DELAY_S)):
        for _ in range(200):
            with queue.entered("a", "s"):
                now += stay_s

        assert queue.retry_delay_s == pytest.approx(expected, rel=0.01)
