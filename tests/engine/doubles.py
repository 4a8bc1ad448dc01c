"""What stands in for the rest of the server in tests of the engine: a database of one study, an optimizer and a pool by script."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry

from asktell_server.domain.algorithms import Algorithm, SkoptOptimizer
from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import Calibration, ExplainRequest, Explanation, MetricExplanation
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import FloatParameter, IntParameter, Point, SearchSpace
from asktell_server.domain.study import StoppingCriteria, Study, StudySpec, StudyState
from asktell_server.domain.trial import Suggestion, SuggestionSource, Trial, TrialState
from asktell_server.engine.admission import Admission, AdmissionConfig
from asktell_server.engine.host import EngineHost, HostConfig
from asktell_server.engine.pool import Explaining
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import Observation, Optimizer, Proposal, SourceStudy
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.testing.samples import NOW

SPACE = SearchSpace((FloatParameter("x", 0.0, 1.0), IntParameter("n", 1, 1000)))
Change = tuple[Study, list[Trial]]


def a_spec(algorithm: Algorithm | None = None, *, max_trials: int = 0, seed: int = 1) -> StudySpec:
    """A small space, one objective to minimise; skopt with a model after one result unless told otherwise."""
    return StudySpec(
        SPACE,
        (Objective("loss", Direction.MINIMIZE),),
        algorithm or SkoptOptimizer(initial_points=1),
        StoppingCriteria(max_trials=max_trials),
        seed=seed,
    )


class Ledger:
    """The truth about one study, as a database would hold it. Each method is one commit; `load` is the host's loader."""

    def __init__(self, spec: StudySpec | None = None, *, study_id: int = 1) -> None:
        self.study = Study(study_id, "default", f"study-{study_id}", spec or a_spec(), StudyState.ACTIVE, NOW, NOW)
        self.trials: dict[int, Trial] = {}
        self.loads: list[int] = []
        self.sources: tuple[SourceStudy, ...] = ()
        self.source_loads = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.deleted = False

    async def load(self, study_id: int, after: int) -> Change | None:
        """What changed after a revision, as it is now; handed over once the gate is open."""
        self.loads.append(after)
        found = None if self.deleted else self.since(after)
        await self.gate.wait()
        return found

    async def load_sources(self, study: Study) -> tuple[SourceStudy, ...]:
        """The host's loader of source studies."""
        self.source_loads += 1
        await self.gate.wait()
        return self.sources

    def since(self, after: int) -> Change:
        """What changed after a revision."""
        return self.study, [trial for _, trial in sorted(self.trials.items()) if trial.revision > after]

    def commit(self, *trials: Trial) -> Change:
        """Writes these rows, stamped with the next revision."""
        revision = self.study.revision + 1
        stamped = [replace(trial, revision=revision) for trial in trials]
        self.trials.update({trial.number: trial for trial in stamped})
        states = [trial.state for trial in self.trials.values()]
        counts = {state: states.count(state) for state in TrialState}
        self.study = replace(self.study, revision=revision, counts=counts, next_number=max(self.trials, default=0) + 1)
        return self.study, stamped

    def give_out(self, *suggestions: Suggestion, take: Sequence[int] = ()) -> Change:
        """An ask: waiting trials `take`, then new ones, RUNNING."""
        taken = [replace(self.trials[number], state=TrialState.RUNNING, start_time=NOW) for number in take]
        first = self.study.next_number
        new = [Trial(first + i, TrialState.RUNNING, s, NOW, start_time=NOW) for i, s in enumerate(suggestions)]
        return self.commit(*taken, *new)

    def tell(self, number: int, value: float) -> Change:
        """A result."""
        finish = self.study.revision + 1
        measured = Measurement({"loss": value})
        told = replace(self.trials[number], state=TrialState.SUCCEEDED, measurement=measured, finish_revision=finish)
        return self.commit(told)

    def enqueue(self, *points: Point) -> Change:
        """Points to try."""
        first = self.study.next_number
        made = [Suggestion(point, SuggestionSource.ENQUEUED) for point in points]
        return self.commit(*(Trial(first + i, TrialState.WAITING, s, NOW) for i, s in enumerate(made)))

    def import_(self, *values: float) -> Change:
        """Finished trials from elsewhere."""
        first, finish = self.study.next_number, self.study.revision + 1
        return self.commit(
            *(
                Trial(
                    first + i,
                    TrialState.SUCCEEDED,
                    Suggestion(a_point(first + i), SuggestionSource.IMPORTED),
                    NOW,
                    measurement=Measurement({"loss": value}),
                    finish_revision=finish,
                )
                for i, value in enumerate(values)
            )
        )

    def expire(self, number: int, *, retry: bool) -> Change:
        """A lease that ran out."""
        gone = self.trials[number]
        changed = [replace(gone, state=TrialState.EXPIRED)]
        if retry:
            changed.append(Trial(self.study.next_number, TrialState.WAITING, gone.suggestion, NOW, retry_of=number))
        return self.commit(*changed)

    def renew(self, number: int) -> Change:
        """A heartbeat, or notes: the row changes, nothing that an optimizer sees."""
        return self.commit(self.trials[number])


def a_point(number: int) -> Point:
    """A point of SPACE, another one for each number."""
    return {"x": number / 2048, "n": number % 1000 + 1}


class Scripted(Optimizer):
    """Needs a model as soon as it has a result; every suggestion spells out what it was made from."""

    uses_results = True
    explains = True

    def __init__(self, spec: StudySpec, sources: Sequence[SourceStudy] = (), device: FitDevice | None = None) -> None:
        super().__init__(spec)
        self.sources = sources
        self.seen: list[Observation] = []

    def tell(self, observations: Sequence[Observation]) -> None:
        """Takes note."""
        self.seen += observations

    def needs_model(self) -> bool:
        """After the first result."""
        return bool(self.seen)

    def ask(self, number: int, pending: Sequence[Point]) -> Proposal:
        """A point that depends on the number alone."""
        return Proposal(suggestion_of(number, self.seen, pending, SuggestionSource.INITIAL_DESIGN))

    def fallback(self, number: int, pending: Sequence[Point], cause: str) -> Suggestion:
        """The same, as fallback."""
        point = {"x": 1.0 - number / 2048, "n": number}
        return Suggestion(point, SuggestionSource.FALLBACK, detail=cause)

    def explain(self, request: ExplainRequest) -> Explanation:
        """One that tells what it was made from; NoModel before the first result."""
        if not self.seen:
            raise NoModel("study", "there are no results yet")
        return explanation_of(self.seen)


def explanation_of(observations: Sequence[Observation]) -> Explanation:
    """What a scripted explanation says: the last trial, and how many there are."""
    metric = MetricExplanation("loss", Calibration(len(observations), 0.9, -1.0, 0.5, 1.0, 0.9), (), ())
    return Explanation(observations[-1].number, (metric,))


def suggestion_of(
    number: int,
    observations: Sequence[Observation],
    pending: Sequence[Point],
    source: SuggestionSource = SuggestionSource.MODEL,
) -> Suggestion:
    """What a scripted computation answers."""
    history = ",".join(str(o.number) for o in observations)
    open_points = ",".join(str(point["n"]) for point in pending)
    return Suggestion(a_point(number), source, detail=f"{number} after [{history}] beside [{open_points}]")


@dataclass
class Request:
    """A job that was given to the scripted pool, and its future."""

    study_id: int
    observations: tuple[Observation, ...]
    pending: list[Point]
    number: int
    urgent: bool
    future: asyncio.Future[Proposal | None]
    sources: Sequence[SourceStudy] = ()

    def answer(self) -> None:
        """The computation ends well."""
        self.future.set_result(Proposal(suggestion_of(self.number, self.observations, self.pending)))


@dataclass
class Explanatory:
    """An explanation that the scripted pool was asked for. `begun`: it cannot be withdrawn any more."""

    study_id: int
    observations: tuple[Observation, ...]
    request: ExplainRequest
    future: asyncio.Future[Explanation]
    begun: bool = False

    def answer(self) -> None:
        """The computation ends well."""
        self.future.set_result(explanation_of(self.observations))

    def withdraw(self) -> bool:
        """As the pool does it."""
        return not self.begun and self.future.cancel()


@dataclass
class ScriptedPool:
    """A pool whose jobs end when the test says so."""

    explanations: list[Explanatory] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    hurried: list[int] = field(default_factory=list)
    warmed: list[int] = field(default_factory=list)

    def submit(
        self,
        study_id: int,
        spec: StudySpec,
        observations: Sequence[Observation],
        pending: Sequence[Point],
        number: int,
        *,
        urgent: bool,
        sources: Sequence[SourceStudy] = (),
        project: str = "",
    ) -> asyncio.Future[Proposal | None]:
        """Notes the job."""
        future: asyncio.Future[Proposal | None] = asyncio.get_running_loop().create_future()
        self.requests.append(Request(study_id, tuple(observations), list(pending), number, urgent, future, sources))
        return future

    def explain(
        self,
        study_id: int,
        spec: StudySpec,
        observations: Sequence[Observation],
        request: ExplainRequest,
        sources: Sequence[SourceStudy] = (),
        project: str = "",
    ) -> Explaining:
        """Notes the job."""
        future: asyncio.Future[Explanation] = asyncio.get_running_loop().create_future()
        made = Explanatory(study_id, tuple(observations), request, future)
        self.explanations.append(made)
        return Explaining(future, made.withdraw)

    def hurry(self, study_id: int) -> None:
        """Notes it."""
        self.hurried.append(study_id)

    def warm_up(self, study_id: int, spec: StudySpec, project: str = "") -> None:
        """Notes it."""
        self.warmed.append(study_id)

    async def stop(self) -> None:
        """Nothing to stop."""

    @property
    def open(self) -> list[Request]:
        """Jobs that are neither done nor cancelled."""
        return [request for request in self.requests if not request.future.done()]


class Bench:
    """A host with a scripted pool over ledgers, and readings of its metrics."""

    def __init__(
        self,
        *ledgers: Ledger,
        config: HostConfig | None = None,
        admission: AdmissionConfig | None = None,
        delay_s: float = 0.0,
    ) -> None:
        """`delay_s`: of look-ahead."""
        self.ledgers = {ledger.study.id: ledger for ledger in ledgers}
        self.registry = CollectorRegistry()
        self.pool = ScriptedPool()
        metrics = Metrics(self.registry, "test")
        self.admission = Admission(admission or AdmissionConfig(), metrics)
        self.host = EngineHost(
            replace(config or HostConfig(), look_ahead_delay_s=delay_s),
            self._load,
            metrics,
            self._load_sources,
            self.admission,
        )
        self.host._pool = self.pool  # type: ignore[assignment]

    async def _load(self, study_id: int, after: int) -> Change | None:
        return await self.ledgers[study_id].load(study_id, after)

    async def _load_sources(self, study: Study) -> tuple[SourceStudy, ...]:
        return await self.ledgers[study.id].load_sources(study)

    def applied(self, change: Change) -> None:
        """The server's own commit reaches the host."""
        self.host.applied(*change)

    def metric(self, name: str, **labels: str) -> float:
        """The value of a sample; 0 if there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def look_ahead(self) -> dict[str, float]:
        """Count of each outcome."""
        return {o: self.metric("asktell_look_ahead_total", outcome=o) for o in ("hit", "joined", "miss")}


async def settle(until: Callable[[], bool] | None = None) -> None:
    """Lets the event loop run until nothing moves, or until something is so."""
    for _ in range(20):
        await asyncio.sleep(0)
    while until is not None and not until():
        await asyncio.sleep(0.005)
