"""Whatever the space and however odd the history: a valid suggestion, the same one each time, or SearchSpaceExhausted."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from asktell_server.domain.algorithms import GpOptimizer, NormalPrior, OptimumPrior, WeightedPrior
from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import CategoricalParameter, DiscreteParameter, FloatParameter, Point, SearchSpace
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import SuggestionSource, TrialState
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.testing.optimizer_contract import assert_lies_in

from ...strategies import points, spaces, values
from .support import LITTLE, optimizer

LARGEST = 1.7976931348623157e308
EXTREME = (0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-300, 1e300, -1e300, LARGEST, -LARGEST, 1e-8, 1e8, 1 + 2**-52)
MAX_TRIALS = 14
asked: Counter[str] = Counter()
"""How the asks of this process ended: by source, or "exhausted"."""


def outcomes(draw: st.DrawFn) -> st.SearchStrategy[float]:
    """Values of a metric: all alike, of one size, with outliers, or anything."""
    match draw(st.sampled_from(["constant", "scaled", "outliers", "extreme", "any"])):
        case "constant":
            return st.just(draw(st.one_of(st.sampled_from(EXTREME), st.floats(allow_nan=False, allow_infinity=False))))
        case "scaled":
            offset, scale = draw(st.sampled_from([0.0, 1.0, -1e6, 1e15])), 10.0 ** draw(st.integers(-300, 300))
            return st.floats(-3.0, 3.0).map(lambda x: max(-LARGEST, min(LARGEST, scale * (offset + x))))
        case "outliers":
            return st.one_of(st.floats(-1.0, 1.0), st.floats(-1.0, 1.0), st.sampled_from(EXTREME))
        case "extreme":
            return st.sampled_from(EXTREME)
        case _:
            return st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def studies(draw: st.DrawFn) -> StudySpec:
    """A study of a random space: constraints, a cost, beliefs, either direction."""
    space = draw(spaces(max_parameters=draw(st.sampled_from([1, 2, 4, 7]))))
    metrics = ["loss", "second", "third"][: draw(st.sampled_from([1, 1, 1, 2, 3]))]
    bounds = [
        OutcomeConstraint(f"c{i}", **{draw(st.sampled_from(["min", "max"])): draw(st.sampled_from(EXTREME))})
        for i in range(draw(st.sampled_from([0, 0, 1, 2])))
    ]
    settings = GpOptimizer(
        initial_points=draw(st.sampled_from([1, 1, 1, 2, 4])),
        cost_metric=draw(st.sampled_from(["", "", "cost"])) if len(metrics) == 1 else "",
        priors=tuple(draw(beliefs(space))) if draw(st.integers(0, 3)) == 0 else (),
    )
    objectives = tuple(Objective(metric, draw(st.sampled_from(list(Direction)))) for metric in metrics)
    spec = StudySpec(space, objectives, constraints=tuple(bounds), algorithm=settings, seed=draw(st.integers(0, 99)))
    assert spec.violations() == []
    return spec


@st.composite
def beliefs(draw: st.DrawFn, space: SearchSpace) -> list[OptimumPrior]:
    """Priors for some of the parameters."""
    found = []
    for parameter in space.parameters:
        if draw(st.booleans()):
            continue
        if isinstance(parameter, CategoricalParameter) or (
            isinstance(parameter, DiscreteParameter) and draw(st.booleans())
        ):
            listed = draw(st.lists(values(parameter), min_size=1, max_size=3, unique=True))
            weights = st.floats(1e-300, 1e300)
            belief: NormalPrior | WeightedPrior = WeightedPrior(tuple((value, draw(weights)) for value in listed))
        else:
            mean = draw(values(parameter))
            belief = NormalPrior(float(mean), draw(st.sampled_from([1e-300, 1e-12, 0.01, 0.3, 10.0])))
        prior = OptimumPrior(parameter.name, belief)
        if not any(True for _ in prior.belief.violations(parameter)):
            found.append(prior)
    return found


@st.composite
def histories(draw: st.DrawFn, spec: StudySpec) -> list[Observation]:
    """Up to MAX_TRIALS trials: new points and old ones, results of every kind, of sizes that only a bug would report."""
    names = [*(objective.metric for objective in spec.objectives), *(c.metric for c in spec.constraints), "cost"]
    metrics = {name: outcomes(draw) for name in names}
    states = draw(
        st.sampled_from(
            [
                (TrialState.SUCCEEDED,),
                (TrialState.SUCCEEDED,),
                (TrialState.SUCCEEDED, TrialState.PRUNED),
                (TrialState.SUCCEEDED, TrialState.PRUNED, TrialState.FAILED, TrialState.INFEASIBLE),
                (TrialState.FAILED, TrialState.INFEASIBLE),
                (TrialState.PRUNED,),
            ]
        )
    )
    errors = draw(st.sampled_from(["none", "none", "some", "extreme"]))
    known: list[Point] = []
    told = []
    for number in range(1, draw(st.sampled_from([1, 2, 4, 8, MAX_TRIALS])) + 1):
        repeats = known and draw(st.integers(0, 3)) == 0
        point = draw(st.sampled_from(known)) if repeats else draw(points(spec.space))
        known.append(point)
        state = draw(st.sampled_from(states))
        measurement = None
        if state in (TrialState.SUCCEEDED, TrialState.PRUNED):
            found = {name: draw(strategy) for name, strategy in metrics.items()}
            if state is TrialState.PRUNED:
                found = {name: value for name, value in found.items() if draw(st.booleans())}
            if errors == "none" or not found:
                given_errors = {}
            else:
                sizes = st.floats(0.0, 2.0) if errors == "some" else st.sampled_from([abs(x) for x in EXTREME])
                given_errors = {name: draw(sizes) for name in found}
            measurement = Measurement(found, given_errors) if found else None
            assert measurement is None or not list(measurement.violations())
        told.append(Observation(number, point, state, measurement))
    return told


@dataclass(frozen=True)
class Situation:
    """A study, its history, points that are pending, and earlier studies to learn from."""

    spec: StudySpec
    history: list[Observation]
    pending: list[Point]
    sources: list[SourceStudy]


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """Any of them."""
    spec = draw(studies())
    pending = draw(st.lists(points(spec.space), max_size=draw(st.sampled_from([0, 0, 1, 4]))))
    sources = []
    for i in range(draw(st.sampled_from([0, 0, 0, 1, 3]))):
        # The same space, or another one in which the parameters of these names are of other kinds.
        space = spec.space if draw(st.booleans()) else draw(spaces())
        source = replace(spec, space=space, algorithm=GpOptimizer())
        sources.append(SourceStudy(source, tuple(draw(histories(source))), f"s{i}"))
    return Situation(spec, draw(histories(spec)), pending, sources)


def check(situation: Situation) -> None:
    """The promise of this module, for one situation."""
    spec, history, pending, sources = situation.spec, situation.history, situation.pending, situation.sources
    number = len(history) + len(pending) + 1
    made = optimizer(spec, history, LITTLE, sources)
    try:
        suggestion = made.ask(number, pending).suggestion
    except SearchSpaceExhausted:
        asked["exhausted"] += 1
        return
    note(f"{suggestion}")
    asked[suggestion.source.name] += 1

    assert_lies_in(spec.space, suggestion.point)
    for prediction in suggestion.predictions.values():
        assert math.isfinite(prediction.mean)
        assert 0.0 <= prediction.standard_deviation < math.inf
    if suggestion.source is SuggestionSource.FALLBACK:
        asked[f"fallback: {suggestion.detail}"] += 1
        assert suggestion.detail
    elif (size := spec.space.cardinality) is None or size > 1:
        taken = [observation.point for observation in history] + pending
        assert suggestion.point not in taken or not _has_room(spec.space, taken)
    # An instance of its own, told one by one, preparing in between.
    again = optimizer(spec, (), LITTLE, sources)
    for at, observation in enumerate(history):
        again.tell([observation])
        if at % 3 == 0:
            again.prepare()
    assert again.ask(number, pending).suggestion == suggestion


def _has_room(space: SearchSpace, taken: list[Point]) -> bool:
    """Whether a point is left, as far as that can be counted; a range of a few floats is as good as full."""
    if any(isinstance(p, FloatParameter) and p.cardinality is None and _narrow(p) for p in space.parameters):
        return False
    return space.cardinality is None or space.cardinality > len({tuple(sorted(p.items())) for p in taken})


def _narrow(parameter: FloatParameter) -> bool:
    return parameter.max - parameter.min < 1e6 * math.ulp(max(abs(parameter.min), abs(parameter.max)))


@given(situations())
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_history_breaks_it(situation: Situation) -> None:
    """Random spaces, random histories of up to 14 trials: an ask ends in a valid suggestion or in SearchSpaceExhausted."""
    check(situation)


@pytest.mark.soak
@pytest.mark.timeout(0)
@pytest.mark.parametrize("shard", range(20))
def test_a_hundred_thousand_histories_do_not_break_it(shard: int) -> None:
    """The same for 100,000 of them, and nearly none of them ends in a quasi-random point."""

    @given(situations())
    @settings(
        max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=False
    )
    def run(situation: Situation) -> None:
        check(situation)

    before = asked.copy()
    run()

    ended = asked - before
    print(shard, dict(ended))
    assert ended[SuggestionSource.FALLBACK.name] <= 0.002 * ended.total()
