"""What the results of a study teach the engine, and that it forgets and invents nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from asktell_server.domain.algorithms import GpOptimizer, NormalPrior, OptimumPrior, SobolSearch
from asktell_server.domain.errors import SearchSpaceExhausted
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import FloatParameter, IntParameter, Point, SearchSpace
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource, TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.gp.optimizer import ENUMERATED, GpAsk
from asktell_server.optimizers.registry import create_optimizer
from asktell_server.optimizers.safe_math import NumericalError
from asktell_server.testing.optimizer_contract import FINITE, MIXED, NESTED, assert_lies_in

from .support import LITTLE, RICH, SQUARE, failed, optimizer, study, succeeded


def spread(space: SearchSpace, count: int) -> list[Point]:
    """Sobol points."""
    sampler = create_optimizer(replace(study(space), algorithm=SobolSearch()))
    return [sampler.ask(number, []).suggestion.point for number in range(1, count + 1)]


def bowl(point: Point) -> float:
    """0 at x = 0.3, y = 0.7."""
    return (float(point["x"]) - 0.3) ** 2 + (float(point["y"]) - 0.7) ** 2


def told(
    points: Sequence[Point], loss: Callable[[Point], float], **metrics: Callable[[Point], float]
) -> list[Observation]:
    """Trials that succeeded, in order."""
    return [
        succeeded(i, point, loss(point), **{name: metric(point) for name, metric in metrics.items()})
        for i, point in enumerate(points, 1)
    ]


def asked(made: GpAsk, number: int, count: int) -> list[Suggestion]:
    """Suggestions for several numbers, none of them pending for the others."""
    return [made.ask(number + i, []).suggestion for i in range(count)]


def searched(made: GpAsk, count: int, loss: Callable[[Point], float], first: int = 1) -> list[float]:
    """The losses of so many trials, one after the other."""
    losses = []
    for number in range(first, first + count):
        point = made.ask(number, []).suggestion.point
        losses.append(loss(point))
        made.tell([succeeded(number, point, losses[-1])])
    return losses


def test_it_walks_to_the_bottom_of_a_bowl() -> None:
    """Within 20 trials, from a design of 4, in either direction."""
    for direction, sign in ((Direction.MINIMIZE, 1.0), (Direction.MAXIMIZE, -1.0)):
        made = optimizer(study(SQUARE, direction=direction))
        losses = []
        for number in range(1, 21):
            point = made.ask(number, []).suggestion.point
            losses.append(bowl(point))
            made.tell([succeeded(number, point, sign * losses[-1])])

        assert min(losses) < 1e-4


@pytest.mark.parametrize("space", [NESTED, RICH], ids=["nested", "rich"])
def test_replay_equals_lived(space: SearchSpace) -> None:
    """Beyond the eager phase, with work prepared at random times, failures, pending points and standard errors: bit for bit."""
    spec = study(space, cost_metric="cost", constraints=(OutcomeConstraint("size", max=1.0),))
    rng = np.random.default_rng(5)
    lived = optimizer(spec, (), LITTLE)
    history: list[Observation] = []
    points = spread(space, 60)
    states = [TrialState.SUCCEEDED] * 5 + [TrialState.PRUNED, TrialState.FAILED]
    suggestions = {}
    for number, point in enumerate(points, 1):
        state = states[int(rng.integers(len(states)))]
        metrics = {"loss": float(rng.normal()), "cost": float(rng.gamma(2.0)), "size": float(rng.normal())}
        measurement = None if state is TrialState.FAILED else Measurement(metrics, {"loss": 0.1} if number % 2 else {})
        history.append(Observation(number, point, state, measurement))
        lived.tell(history[-1:])
        if rng.random() < 0.4:
            while lived.prepare():
                pass
        if rng.random() < 0.15 or number == 60:
            pending = [points[int(i)] for i in rng.integers(0, 60, int(rng.integers(0, 4)))]
            suggestions[number] = (pending, lived.ask(number + 1, pending).suggestion)

    assert any(suggestion.source is SuggestionSource.MODEL for _, suggestion in suggestions.values())
    for number, (pending, suggestion) in list(suggestions.items())[-4:]:
        replayed = optimizer(spec, history[:number], LITTLE)
        assert replayed.ask(number + 1, pending).suggestion == suggestion


def test_failures_are_avoided() -> None:
    """Where trials fail the probability of success falls, and suggestions keep away however good the objective looks there."""
    points = spread(SQUARE, 24)
    fails = [float(point["x"]) < 0.4 for point in points]
    history = [
        failed(i, point) if bad else succeeded(i, point, bowl(point))
        for i, (point, bad) in enumerate(zip(points, fails, strict=True), 1)
    ]
    blind = optimizer(study(SQUARE), [o for o in history if o.state is TrialState.SUCCEEDED])
    made = optimizer(study(SQUARE), history)

    suggestions = asked(made, 25, 4)

    assert np.mean([float(s.point["x"]) for s in suggestions]) > np.mean(
        [float(s.point["x"]) for s in asked(blind, 25, 4)]
    )
    assert all(float(s.point["x"]) > 0.3 for s in suggestions)


@pytest.mark.parametrize(
    "works", [lambda x, y: x > 0.8, lambda x, y: x + y < 0.6, lambda x, y: math.hypot(x - 0.3, y - 0.7) > 0.1]
)
def test_a_search_goes_on_where_the_optimum_fails(works: Callable[[float, float], bool]) -> None:
    """What promises most fails, half-planes or a hole: a fair part of the late trials succeeds, and they go on finding better results."""
    made = optimizer(study(SQUARE), [])
    best = {}
    successes = 0
    for number in range(1, 51):
        point = dict(made.ask(number, []).suggestion.point)
        if works(float(point["x"]), float(point["y"])):
            made.tell([succeeded(number, point, bowl(point))])
            successes += number > 30
            best[number] = bowl(point)
        else:
            made.tell([failed(number, point)])

    assert successes >= 4
    assert min(best.values()) < min(value for number, value in best.items() if number <= 25)


@pytest.mark.parametrize("tosses", [1, 2])
def test_failures_that_nothing_foretells_leave_the_search_alone(tosses: int) -> None:
    """Three of five trials fail by the toss of a coin: in four dimensions 50 trials come near the optimum."""
    space = SearchSpace(tuple(FloatParameter(name, 0.0, 1.0) for name in "abcd"))
    coin = np.random.default_rng(tosses)
    made = optimizer(study(space), [])
    best = math.inf
    for number in range(1, 51):
        point = made.ask(number, []).suggestion.point
        loss = sum((float(point[name]) - 0.37) ** 2 for name in "abcd")
        if coin.random() > 0.6:
            best = min(best, loss)
            made.tell([succeeded(number, point, loss)])
        else:
            made.tell([failed(number, point)])

    assert best < 0.01


def test_caution_grows_with_failures_and_ends_with_successes() -> None:
    """The weight of the probability of success doubles with each failure, to 256 times; each result halves it, to once."""
    made = optimizer(study(SQUARE), told(spread(SQUARE, 8), bowl))
    made.ask(9, [])
    model = made._model
    assert model is not None
    weights = []
    for number in range(9, 49):
        point = spread(SQUARE, 48)[number - 1]
        made.tell([failed(number, point) if number < 21 else succeeded(number, point, bowl(point))])
        made._up_to_date()
        weights.append(2**model._caution)

    assert weights[:12] == [2, 4, 8, 16, 32, 64, 128, 256, 256, 256, 256, 256]
    assert weights[12:21] == [128, 64, 32, 16, 8, 4, 2, 1, 1]
    assert set(weights[21:]) == {1}


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.INFEASIBLE])
def test_a_failure_lowers_the_probability_of_success_nearby(state: TrialState) -> None:
    """More there than far away; before the first failure nothing is believed about it."""
    from asktell_server.optimizers.gp.study_model import LABEL_VARIANCE

    points = [{"x": x, "y": 0.5} for x in np.linspace(0.05, 0.95, 10).tolist()]
    history = told(points, bowl)
    history[7:] = [Observation(o.number, o.point, state) for o in history[7:]]
    made = optimizer(study(SQUARE), history)
    made.ask(11, [])
    model = made._model
    assert model is not None

    posterior, _ = model._label.posterior()
    mean, variance = posterior.predict(model._pending_inputs([{"x": 0.85, "y": 0.5}, {"x": 0.1, "y": 0.5}]))

    assert float(mean[:, 0].mean()) > 0 > float(mean[:, 1].mean())
    assert bool((variance + LABEL_VARIANCE > 0).all())
    assert model._failures == 3


@pytest.mark.parametrize("bound", ["min", "max"])
def test_constraints_steer(bound: str) -> None:
    """The best is looked for where the bound is kept; predictions are on the constrained metric's own scale."""
    sign = 1.0 if bound == "max" else -1.0

    def size(point: Point) -> float:
        return sign * (5.0 - 4.0 * float(point["x"]))

    constraint = OutcomeConstraint("size", **{bound: sign * 2.6})  # kept where x >= 0.6
    made = optimizer(study(SQUARE, constraints=(constraint,)), told(spread(SQUARE, 20), bowl, size=size))

    suggestions = asked(made, 21, 4)

    for suggestion in suggestions:
        assert 0.5 < float(suggestion.point["x"]) < 0.8
        assert suggestion.predictions["size"].mean == pytest.approx(size(suggestion.point), abs=0.3)
        assert suggestion.predictions["loss"].mean == pytest.approx(bowl(suggestion.point), abs=0.1)


def test_while_nothing_is_feasible_only_the_constraint_counts() -> None:
    """Every bound was broken so far: the suggestion goes where it is broken least, not where the objective is best."""
    points = [{"x": 0.6 * float(p["x"]), "y": p["y"]} for p in spread(SQUARE, 16)]
    constraint = OutcomeConstraint("size", max=0.0)  # kept where x > 0.8
    history = told(points, lambda point: float(point["x"]), size=lambda point: 0.8 - float(point["x"]))

    suggestion = optimizer(study(SQUARE, constraints=(constraint,)), history).ask(17, []).suggestion

    assert float(suggestion.point["x"]) > 0.7


def test_an_infeasible_best_is_no_incumbent() -> None:
    """A trial that broke a bound, or was pruned, is not what improvement is counted from."""
    points = spread(SQUARE, 12)
    history = told(points, lambda point: 1.0 + bowl(point), size=lambda _: 0.0)
    history.append(succeeded(13, {"x": 0.9, "y": 0.9}, -5.0, size=9.0))
    history.append(Observation(14, {"x": 0.9, "y": 0.1}, TrialState.PRUNED, Measurement({"loss": -5.0, "size": 0.0})))
    made = optimizer(study(SQUARE, constraints=(OutcomeConstraint("size", max=1.0),)), history)
    made.ask(15, [])
    model = made._model
    assert model is not None

    assert model._eligible.tolist() == [True] * 12 + [False] * 2
    assert len(model.objectives[0]) == 14


def test_cheap_is_preferred_among_equals() -> None:
    """An objective that depends on y alone, and costs that grow with x: the suggestions are cheap, and good all the same."""
    points = spread(SQUARE, 20)

    def cost(point: Point) -> float:
        return float(np.exp(4.0 * float(point["x"])))

    def loss(point: Point) -> float:
        return (float(point["y"]) - 0.7) ** 2

    history = told(points, loss, cost=cost)

    aware = asked(optimizer(study(SQUARE, cost_metric="cost"), history), 21, 4)
    unaware = asked(optimizer(study(SQUARE), history), 21, 4)

    assert np.mean([float(s.point["x"]) for s in aware]) < 0.25
    assert np.mean([float(s.point["x"]) for s in aware]) < np.mean([float(s.point["x"]) for s in unaware])
    assert np.mean([loss(s.point) for s in aware]) < 0.05
    assert all(set(s.predictions) == {"loss"} for s in aware)


def test_costs_that_are_missing_or_not_above_zero_teach_nothing() -> None:
    """They are left out; the rest of the study goes on."""
    history = told(spread(SQUARE, 8), bowl)
    history += [
        succeeded(9 + i, point, bowl(point), cost=c)
        for i, (point, c) in enumerate(zip(spread(SQUARE, 11)[8:], (0.0, -1.0, 2.0), strict=True))
    ]
    made = optimizer(study(SQUARE, cost_metric="cost"), history)

    made.ask(12, [])

    assert made._model is not None
    assert made._model._cost is not None
    assert len(made._model._cost) == 1


def test_a_right_belief_helps_at_once_and_a_wrong_one_fades() -> None:
    """After few results suggestions are near the believed optimum; after many they are near the real one."""
    priors = (OptimumPrior("x", NormalPrior(0.9, 0.05)), OptimumPrior("y", NormalPrior(0.1, 0.05)))
    believing = study(SQUARE, priors=priors)
    near = [{"x": 0.05, "y": 0.95}, {"x": 0.5, "y": 0.5}, {"x": 0.1, "y": 0.2}, {"x": 0.9, "y": 0.9}]

    early = optimizer(believing, told(near, lambda point: 1.0 + 0.1 * bowl(point))).ask(5, []).suggestion
    late = optimizer(believing, told(spread(SQUARE, 60), bowl)).ask(61, []).suggestion

    assert float(early.point["x"]) > 0.7
    assert float(early.point["y"]) < 0.3
    assert bowl(late.point) < 0.02


def test_parallel_asks_spread_out() -> None:
    """Pending points are as good as tried: four asks at once are four different places."""
    made = optimizer(study(SQUARE), told(spread(SQUARE, 8), bowl))
    pending: list[Point] = []
    for number in range(9, 13):
        pending.append(made.ask(number, pending).suggestion.point)

    places = np.array([[float(p["x"]), float(p["y"])] for p in pending])
    distances = np.abs(places[:, None] - places[None]).max(axis=2)[np.triu_indices(4, 1)]

    assert float(distances.min()) > 1e-3


def test_parallel_asks_of_a_converged_study_spread_out() -> None:
    """Where the bottom of a bowl is known to a hair, one trial goes there and the others do not follow it."""
    space = SearchSpace((FloatParameter("x", 0.0, 1.0),))
    made = optimizer(study(space))

    def asks(first: int, count: int) -> list[float]:
        pending: list[Point] = []
        for number in range(first, first + count):
            pending.append(made.ask(number, pending).suggestion.point)
        return [float(point["x"]) for point in pending]

    for number in range(1, 21):
        (x,) = asks(number, 1)
        made.tell([succeeded(number, {"x": x}, (x - 0.3) ** 2)])

    together = np.sort(asks(21, 6))

    assert np.diff(together).min() > 1e-4
    assert np.abs(together - 0.3).min() < 0.01


@pytest.mark.parametrize("constraints", [(), (OutcomeConstraint("size", max=10.0),)])
def test_others_follow_a_pending_trial_that_is_not_expected_to_be_the_best(
    constraints: tuple[OutcomeConstraint, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept away only from one that is; and not where something else is weighed as well."""
    spec = replace(study(SQUARE), constraints=constraints)
    history = [
        Observation(o.number, o.point, o.state, Measurement({"loss": bowl(o.point), "size": 1.0}))
        for o in told(spread(SQUARE, 20), bowl)
    ]
    pending: list[Point] = [{"x": 0.3, "y": 0.7}] if constraints else [{"x": 0.9, "y": 0.1}]

    def chosen() -> Point:
        return optimizer(spec, history).ask(22, pending).suggestion.point

    before = chosen()
    monkeypatch.setattr("asktell_server.optimizers.gp.study_model.WORTHWHILE", 0.0)

    assert chosen() == before


@pytest.mark.parametrize("width", [0.02, 1e-3, 1e-200])
def test_a_narrow_wrong_belief_costs_trials_not_the_optimum(width: float) -> None:
    """However sure a belief was of a corner, the study finds the bottom of the bowl within 25 trials."""
    made = optimizer(
        study(SQUARE, priors=(OptimumPrior("x", NormalPrior(0.9, width)), OptimumPrior("y", NormalPrior(0.1, width))))
    )

    losses = searched(made, 25, bowl)

    assert min(losses) < 1e-4


@pytest.mark.parametrize(("value", "error"), [(10.0, 10.0), (1e6, 1e6), (-1e6, 1e6)])
def test_a_result_that_is_known_to_say_nothing_spoils_no_search(value: float, error: float) -> None:
    """The fifth result is nonsense and says so: the others lead to the bottom of the bowl as they would without it."""
    made = optimizer(study(SQUARE, seed=4))

    losses = searched(made, 4, bowl)
    made.tell([succeeded(5, made.ask(5, []).suggestion.point, value, error)])
    losses += searched(made, 18, bowl, first=6)

    assert min(losses) < 1e-6


def test_a_replicate_with_a_tiny_error_is_believed() -> None:
    """Noisy results around 1 everywhere, one well-known 0.2 among them: the prediction there says so."""
    rng = np.random.default_rng(6)
    points = spread(SQUARE, 20)
    history = [succeeded(i, p, float(1.0 + 0.5 * rng.normal()), 0.5) for i, p in enumerate(points, 1)]
    history += [succeeded(21, points[4], 0.2, 1e-6)]
    made = optimizer(study(SQUARE), history)
    made.ask(22, [])
    model = made._model
    assert model is not None

    from asktell_server.optimizers.gp.study_model import _moments

    inputs = model._pending_inputs([points[4]])
    assert inputs is not None
    mean, deviation = _moments(*model.objectives[0].posterior(), inputs)

    assert mean == pytest.approx(0.2, abs=0.1)
    assert deviation < 0.2


def test_nothing_is_proposed_twice_while_there_is_room() -> None:
    """In mixed spaces, with pending points, up to the last point of a small one; then the space is exhausted."""
    for space, count in ((FINITE, FINITE.cardinality), (MIXED, 30), (RICH, 30)):
        assert count is not None
        made = optimizer(study(space), (), LITTLE)
        pending: list[Point] = []
        seen: list[Point] = []
        for number in range(1, count + 1):
            point = made.ask(number, pending).suggestion.point
            assert_lies_in(space, point)
            assert point not in seen
            seen.append(point)
            pending.append(point)
            if number % 3:
                done = pending.pop(0)
                made.tell([succeeded(number, done, float(number % 7))])
        if space is FINITE:
            with pytest.raises(SearchSpaceExhausted):
                made.ask(count + 1, pending)


def test_the_last_points_of_a_large_finite_space_are_still_the_models() -> None:
    """When few points are left a search among all points hardly ever meets one: those that are left are looked at instead."""
    space = SearchSpace((IntParameter("a", 0, 59), IntParameter("b", 0, 59)))
    assert space.cardinality is not None
    assert space.cardinality > ENUMERATED
    everything: list[Point] = [{"a": a, "b": b} for a in range(60) for b in range(60)]
    left = [everything[i] for i in (7, 1777, 3599)]
    tried = [point for point in everything if point not in left]
    made = optimizer(
        study(space), [succeeded(i, point, float(point["a"])) for i, point in enumerate(tried, 1)], effort=LITTLE
    )

    first = made.ask(3598, []).suggestion
    second = made.ask(3599, [first.point]).suggestion

    assert first.source is second.source is SuggestionSource.MODEL
    assert first.point == left[0]
    assert second.point in left[1:]


def test_failing_numerics_end_in_a_quasi_random_point_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the arithmetic does, the ask is answered; the cause is in the detail."""
    from asktell_server.optimizers.gp import study_model

    made = optimizer(study(SQUARE), told(spread(SQUARE, 8), bowl))

    def broken(*args: object) -> object:
        raise NumericalError("the acquisition function is finite nowhere")

    monkeypatch.setattr(study_model.StudyModel, "choose", broken)
    suggestion = made.ask(9, []).suggestion

    assert suggestion.source is SuggestionSource.FALLBACK
    assert suggestion.detail == "the model failed: the acquisition function is finite nowhere"
    assert suggestion.predictions == {}
    monkeypatch.setattr(study_model.StudyModel, "prepare", broken)
    assert not made.prepare()


@pytest.mark.parametrize("objectives", [1, 2])
def test_means_that_are_not_finite_end_in_a_quasi_random_point(
    objectives: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one objective and with several, of which no front is left then."""
    from asktell_server.optimizers.gp.metric import MetricModel

    spec = replace(study(SQUARE), objectives=tuple(Objective(f"m{i}", Direction.MINIMIZE) for i in range(objectives)))
    history = []
    for number in range(1, 7):
        measurement = Measurement({f"m{i}": float(number * (i + 1) % 4) for i in range(objectives)})
        point = {"x": number / 10.0, "y": 0.5}
        history.append(Observation(number, point, TrialState.SUCCEEDED, measurement))
    monkeypatch.setattr(MetricModel, "mean_at", lambda *_: np.full((2, 3), np.nan))

    proposal = optimizer(spec, history, LITTLE).ask(7, [])

    assert proposal.suggestion.source is SuggestionSource.FALLBACK
    assert "not finite" in proposal.suggestion.detail
    assert proposal.shortfall == "numerical"


def test_metrics_beyond_what_a_difference_can_hold() -> None:
    """A bound at one end of the doubles and values at the other: predictions are finite."""
    constraint = OutcomeConstraint("size", min=1.7e308)
    history = told(spread(SQUARE, 8), lambda p: 1e300 * bowl(p), size=lambda p: -1.7e308 * float(p["x"]))

    suggestion = optimizer(study(SQUARE, constraints=(constraint,)), history).ask(9, []).suggestion

    assert suggestion.source is SuggestionSource.MODEL
    for prediction in suggestion.predictions.values():
        assert np.isfinite(prediction.mean)
        assert np.isfinite(prediction.standard_deviation)


@pytest.mark.parametrize(
    "results",
    [
        {"loss": (1.0, 1.0 + 2**-52, 1.0, 1.0 + 2**-51, 1.7e308)},
        {"loss": (-0.25, 0.0, 0.3, 1e8, 1.7e308), "other": (3.0, 2.0, 1.0, 0.0, 4.0)},
    ],
    ids=["one objective", "several"],
)
def test_one_result_is_worse_by_more_decades_than_a_quotient_holds(results: Mapping[str, Sequence[float]]) -> None:
    """The others differ by rounding, or by little compared with what the front reaches: the model stands all the same."""
    spec = replace(study(SQUARE), objectives=tuple(Objective(name, Direction.MINIMIZE) for name in results))
    points = spread(SQUARE, 5)
    history = [succeeded(i + 1, points[i], **{name: results[name][i] for name in results}) for i in range(5)]

    suggestion = optimizer(spec, history, LITTLE).ask(6, []).suggestion

    assert suggestion.source is SuggestionSource.MODEL
    for prediction in suggestion.predictions.values():
        assert np.isfinite(prediction.mean)
        assert np.isfinite(prediction.standard_deviation)


def test_the_first_point_is_the_default() -> None:
    """What the user would have done anyway is tried first, and what has no default in the middle of its range."""
    space = SearchSpace((FloatParameter("x", 0.0, 1.0, default=0.125), FloatParameter("y", 0.0, 1.0)))

    first = optimizer(study(space)).ask(1, []).suggestion

    assert first.point == {"x": 0.125, "y": 0.5}
    assert first.source is SuggestionSource.INITIAL_DESIGN


def test_one_success_among_failures_is_enough_for_a_model() -> None:
    """Where most of the space fails, the failures teach the model as soon as one trial has brought a result."""
    made = create_optimizer(
        StudySpec(SQUARE, (Objective("loss", Direction.MINIMIZE),), algorithm=GpOptimizer(initial_points=4), seed=3)
    )
    sources = []
    for number in range(1, 12):
        suggestion = made.ask(number, []).suggestion
        sources.append(suggestion.source)
        measurement = Measurement({"loss": 1.0}) if number == 3 else None
        state = TrialState.SUCCEEDED if number == 3 else TrialState.FAILED
        made.tell([Observation(number, suggestion.point, state, measurement)])

    assert sources == [SuggestionSource.INITIAL_DESIGN] * 4 + [SuggestionSource.MODEL] * 7
