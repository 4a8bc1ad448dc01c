"""A round: studies are made, clients work on them while harm is done, everything is brought to an end, read, and judged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from asktell.v1 import study_service_pb2 as pb

from . import checker
from .clients import PARENT, Caller, Client, create_all, finish, plans, watch
from .deployment import Deployment
from .history import History
from .nemesis import Nemesis, in_background


@dataclass(frozen=True)
class Round:
    """How a round goes. Clients work until `kills` and `harms` are done, for `seconds` at least, and then for `calls` that are
    acknowledged; never beyond `limit_s`.

    `budget`: trials of the studies that have a budget. `studies`: names of those to work on; empty means all. `patience_s`: how
    long to wait for the end of what must end. `strays`: see Caller.
    """

    seed: int
    seconds: float = 0.0
    calls: int = 0
    kills: int = 0
    harms: int = 0
    clients: int = 4
    budget: int = 40
    model: bool = False
    pace_s: float = 1.0
    limit_s: float = 300.0
    strays: float = 1.0
    studies: Sequence[str] = ()
    patience_s: float = 60.0


@dataclass
class Report:
    """What came of a round."""

    violations: list[str]
    calls: Counter[str] = field(default_factory=Counter)
    harms: Counter[str] = field(default_factory=Counter)
    trials: int = 0

    def __str__(self) -> str:
        shown = "\n".join(f"  {violation}" for violation in self.violations[:20])
        return (
            f"{len(self.violations)} violations; {self.trials} trials; calls {dict(self.calls)}; harm {dict(self.harms)}"
            f"{chr(10) if shown else ''}{shown}"
        )


def play(deployment: Deployment, made: Round) -> Report:
    """Plays a round and judges it."""
    history = History()
    end, watching = threading.Event(), threading.Event()
    rng = Random(made.seed)

    def caller(name: str, ends: threading.Event) -> Caller:
        return Caller(name, deployment.addresses, history, Random(rng.random()), ends, made.strays)

    studies = [plan for plan in plans(made.budget, model=made.model) if not made.studies or plan.name in made.studies]
    first = caller("first", end)
    create_all(first, studies)
    clients = [Client(caller(f"c{i}", end), studies) for i in range(made.clients)]
    threads = [in_background(client.run, client.caller.name) for client in clients]
    watchers = []
    for i, plan in enumerate(studies):
        watcher = caller(f"w{i}", watching)
        watchers.append(in_background(partial(watch, watcher, plan), watcher.name))
    began = time.monotonic()
    progress = lambda: history.acknowledged  # noqa: E731
    nemesis = Nemesis(deployment, rng, progress, kills=made.kills, harms=made.harms, pace_s=made.pace_s)
    try:
        nemesis.run(began + made.limit_s)
        time.sleep(max(0.0, began + made.seconds - time.monotonic()))
        done = history.acknowledged + made.calls
        while history.acknowledged < done and time.monotonic() < began + made.limit_s:
            time.sleep(0.05)
    finally:
        end.set()
    for thread in threads:
        thread.join(180)
        assert not thread.is_alive(), f"client {thread.name} does not end"
    first.close()
    last = Caller("last", [deployment.direct], history, Random(rng.random()), end)
    stuck = finish(last, studies, made.patience_s)
    final = read(last, stuck)
    _await_watchers(history, final, [plan.name for plan in studies], made.patience_s)
    watching.set()
    for thread in watchers:
        thread.join(60)
    last.close()
    if nemesis.kills < made.kills:
        final.stuck.append(f"only {nemesis.kills} of {made.kills} kills were done in {made.limit_s:.0f} s")
    calls = Counter(call.outcome.value for call in history.calls)
    trials = sum(len(each) for each in final.trials.values())
    return Report(_grouped(checker.violations(history, final)), calls, nemesis.counts, trials)


def _grouped(found: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(found))


def _await_watchers(history: History, final: checker.Final, names: Sequence[str], patience_s: float) -> None:
    """Waits until each watch has come to the end of its study; the checker says if one has not."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        reached = {
            watched.study: watched.message.revision for watched in history.watched if watched.message is not None
        }
        if all(
            reached.get(f"{PARENT}/studies/{name}") == final.studies[f"{PARENT}/studies/{name}"].revision
            for name in names
        ):
            return
        time.sleep(0.05)


def read(caller: Caller, stuck: list[str]) -> checker.Final:
    """The whole database, through the API."""
    studies, token = {}, ""
    while True:
        page = caller.stub().ListStudies(pb.ListStudiesRequest(parent=PARENT, page_size=1000, page_token=token))
        studies |= {study.name: study for study in page.studies}
        token = page.next_page_token
        if not token:
            break
    trials, best = {}, {}
    for name in studies:
        found: list[object] = []
        while True:
            request = pb.ListTrialsRequest(parent=name, page_size=1000, page_token=token, view=pb.FULL)
            listed = caller.stub().ListTrials(request, timeout=60)
            found += listed.trials
            token = listed.next_page_token
            if not token:
                break
        trials[name] = found
        best[name] = list(caller.stub().ListBestTrials(pb.ListBestTrialsRequest(parent=name), timeout=60).trials)
    return checker.Final(studies, trials, best, stuck)  # type: ignore[arg-type]
