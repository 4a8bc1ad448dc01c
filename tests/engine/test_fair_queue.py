"""The queue in which projects and studies take turns: the one of compute processes and of reads alike."""

from __future__ import annotations

from asktell_server.engine.fair_queue import FairQueue
from asktell_server.engine.pool import _Queue
from asktell_server.service.reads import _Turns


def test_projects_take_turns_then_studies_and_a_study_keeps_its_order() -> None:
    """However much one of them brings, and whatever came first."""
    queue: FairQueue[str, int] = FairQueue()
    for item in range(4):
        queue.put("many", "ab"[item // 2], item)
    queue.put("one", "a", 9)

    taken = [queue.next() for _ in range(5)]

    assert taken == [0, 9, 2, 1, 3]
    assert not queue


def test_what_is_discarded_is_gone_and_may_be_discarded_again() -> None:
    """Nothing of its project and study is left, and what never was there is not missed."""
    queue: FairQueue[int, str] = FairQueue()
    for study, item in [(1, "x"), (1, "y"), (2, "z")]:
        queue.put("p", study, item)

    for item in ("x", "x", "never"):
        queue.discard("p", 1, item)
    queue.discard("q", 1, "y")
    left, of_study = list(queue), queue.of_study(1)
    queue.discard("p", 1, "y")
    queue.discard("p", 2, "z")

    assert (left, of_study) == (["y", "z"], ["y"])
    assert not queue


def test_compute_processes_and_reads_have_this_queue() -> None:
    """There is one way of taking turns."""
    assert all(type(lane) is FairQueue for lane in _Queue()._lanes.values())
    assert type(_Turns(1)._waiting) is FairQueue
