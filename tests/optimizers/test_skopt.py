"""scikit-optimize: what it learns from, what it does about trouble, and that it finds things."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from asktell_server.domain.algorithms import SkoptAcquisition, SkoptEstimator, SkoptOptimizer, SobolSearch
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import (
    CategoricalParameter,
    FloatParameter,
    IntParameter,
    Point,
    SearchSpace,
    frozen_point,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource, TrialState
from asktell_server.optimizers import skopt_model
from asktell_server.optimizers.base import Observation, Optimizer
from asktell_server.optimizers.registry import create_optimizer
from asktell_server.optimizers.skopt_model import Scale
from asktell_server.optimizers.skopt_optimizer import SkoptAsk, kept_observations
from asktell_server.testing.optimizer_contract import HISTORIES, MIXED, NUMERIC, ONE_POINT, assert_lies_in, observation

BOWL = SearchSpace((FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0)))


def bowl(point: Point) -> float:
    """0 at x = 0.3, y = 0.7; 0.58 on average."""
    return (float(point["x"]) - 0.3) ** 2 + (float(point["y"]) - 0.7) ** 2


def spec(space: SearchSpace, direction: Direction = Direction.MINIMIZE, **settings: Any) -> StudySpec:
    """A study of `space` with scikit-optimize."""
    return StudySpec(space, (Objective("loss", direction),), SkoptOptimizer(**settings), seed=11)


def optimizer(space: SearchSpace, history: Sequence[Observation] = (), **settings: Any) -> SkoptAsk:
    """An optimizer that was told `history`."""
    made = create_optimizer(spec(space, **settings))
    assert isinstance(made, SkoptAsk)
    made.tell(history)
    return made


def sobol_history(space: SearchSpace, count: int, loss: Callable[[Point], float]) -> list[Observation]:
    """`count` succeeded trials, spread over the space."""
    sampler = create_optimizer(StudySpec(space, (Objective("loss", Direction.MINIMIZE),), SobolSearch(), seed=5))
    points = [sampler.ask(number, []).suggestion.point for number in range(1, count + 1)]
    return [observation(i, point, TrialState.SUCCEEDED, loss(point)) for i, point in enumerate(points, 1)]


def walked(made: Optimizer, count: int, unit: float = 1.0) -> list[float]:
    """The losses of `count` trials on the bowl, which are told in another unit."""
    found = []
    for number in range(1, count + 1):
        point = made.ask(number, []).suggestion.point
        found.append(bowl(point))
        made.tell([observation(number, point, TrialState.SUCCEEDED, unit * found[-1])])
    return found


def test_the_gaussian_process_finds_the_bottom_of_a_bowl() -> None:
    """After 25 trials its best is less than half of the best of 25 Sobol points."""
    sobol = create_optimizer(StudySpec(BOWL, (Objective("loss", Direction.MINIMIZE),), SobolSearch(), seed=11))

    assert min(walked(optimizer(BOWL, initial_points=8), 25)) < 0.5 * min(walked(sobol, 25))


@pytest.mark.parametrize("estimator", SkoptEstimator)
def test_models_prefer_good_regions(estimator: SkoptEstimator) -> None:
    """What a model suggests is on average far better than what the design did."""
    losses = walked(optimizer(BOWL, base_estimator=estimator, initial_points=10), 20)

    assert sum(losses[10:]) < 0.6 * sum(losses[:10])


def test_maximising_climbs() -> None:
    """With direction MAXIMIZE the suggestion goes to the top, and its prediction is on the metric's own scale."""
    history = sobol_history(BOWL, 20, lambda point: 5 - bowl(point))
    made = create_optimizer(spec(BOWL, Direction.MAXIMIZE))
    made.tell(history)

    suggestion = made.ask(21, []).suggestion

    assert bowl(suggestion.point) < 0.01
    assert suggestion.predictions["loss"].mean == pytest.approx(5, abs=0.1)


@pytest.mark.parametrize("unit", [1e-6, 1e300])
def test_the_unit_of_the_objective_does_not_blind_the_model(unit: float) -> None:
    """Also where the default xi is far more than the objective varies by, suggestions are better than the design."""
    losses = walked(optimizer(BOWL, initial_points=10), 25, unit)

    assert min(losses[10:]) < 0.2 * min(losses[:10])


@pytest.mark.parametrize("estimator", [e for e in SkoptEstimator if e is not SkoptEstimator.GP])
@pytest.mark.parametrize("name", HISTORIES)
def test_trees_survive_any_history(estimator: SkoptEstimator, name: str) -> None:
    """What the contract asks of the GP holds for the other estimators."""
    points = [o.point for o in sobol_history(MIXED, 12, lambda _: 0.0)]
    cases = [HISTORIES[name][i % len(HISTORIES[name])] for i in range(12)]
    history = [observation(i, point, *case) for i, (point, case) in enumerate(zip(points, cases, strict=True), 1)]
    made = optimizer(MIXED, history, base_estimator=estimator, initial_points=5)

    first, again = made.ask(20, []).suggestion, made.ask(20, []).suggestion

    assert first == again
    assert_lies_in(MIXED, first.point)
    assert first.source is (SuggestionSource.MODEL if made.needs_model() else SuggestionSource.INITIAL_DESIGN)


@pytest.mark.parametrize("acquisition", SkoptAcquisition)
@pytest.mark.parametrize("estimator", SkoptEstimator)
def test_every_estimator_works_with_every_acquisition(estimator: SkoptEstimator, acquisition: SkoptAcquisition) -> None:
    """All 16 pairs make a suggestion from a model and say what made it."""
    history = sobol_history(BOWL, 12, bowl)
    made = optimizer(BOWL, history, base_estimator=estimator, acquisition_function=acquisition, initial_points=5)

    proposal = made.ask(13, [])

    drawn = ["EI", "LCB", "PI"] if acquisition is SkoptAcquisition.GP_HEDGE else [acquisition.value]
    assert proposal.suggestion.source is SuggestionSource.MODEL
    assert proposal.suggestion.detail in [f"{estimator.value}, {name}" for name in drawn]
    assert set(proposal.phases_s) == {"fit", "acquisition"}


def test_hedge_draws_all_three() -> None:
    """gp_hedge has no memory here: each criterion is drawn about as often as the others."""
    rng = np.random.default_rng(1)

    drawn = [skopt_model.drawn_acquisition(SkoptAcquisition.GP_HEDGE, rng) for _ in range(900)]

    assert [drawn.count(name) for name in ("EI", "LCB", "PI")] == pytest.approx([300] * 3, abs=50)


def test_the_design_comes_first() -> None:
    """Default point, Sobol points, and a model once enough trials have a result and one of them succeeded."""
    made = optimizer(NUMERIC, initial_points=3)

    suggestions = []
    for number in range(1, 5):
        suggestions.append(made.ask(number, []).suggestion)
        made.tell([observation(number, suggestions[-1].point, TrialState.FAILED, None)])
    assert not made.needs_model()
    made.tell([observation(5, suggestions[-1].point, TrialState.SUCCEEDED, 1.0)])

    assert suggestions[0].point == NUMERIC.default_point
    assert {s.source for s in suggestions} == {SuggestionSource.INITIAL_DESIGN}
    assert made.needs_model()


@pytest.mark.parametrize(("dimensions", "expected"), [(1, 5), (4, 8), (10, 20), (50, 20)])
def test_the_length_of_the_design(dimensions: int, expected: int) -> None:
    """0 initial points mean twice the dimensions, at least 5, at most 20."""
    space = SearchSpace(tuple(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(dimensions)))

    assert optimizer(space).initial_points == expected
    assert optimizer(space, initial_points=33).initial_points == 33


def test_a_space_with_one_point_needs_no_model() -> None:
    """There is nothing to choose, however much was observed."""
    history = [observation(i, {"int": 3, "choice": "only"}, TrialState.SUCCEEDED, 1.0) for i in range(1, 30)]
    made = optimizer(ONE_POINT, history)

    assert not made.needs_model()
    assert made.ask(30, []).suggestion.point == {"int": 3, "choice": "only"}


def test_pending_points_push_suggestions_away() -> None:
    """With a pending point at the suggestion the next one goes elsewhere: the liar is in the model."""
    made = optimizer(BOWL, sobol_history(BOWL, 12, bowl), initial_points=5)

    alone = made.ask(13, []).suggestion.point
    beside = made.ask(13, [alone]).suggestion.point

    assert max(abs(float(alone[name]) - float(beside[name])) for name in alone) > 1e-4


def test_failed_and_pruned_trials_are_imputed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failed ones get the worst success, pruned ones their last objective, pending ones the best success."""
    seen: list[list[float]] = []
    real = skopt_model.SkoptModel

    def spying(*args: object) -> skopt_model.SkoptModel:
        seen.append(np.asarray(args[3]).tolist())
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(skopt_model, "SkoptModel", spying)
    points = [o.point for o in sobol_history(BOWL, 7, bowl)]
    made = create_optimizer(spec(BOWL, Direction.MAXIMIZE, base_estimator=SkoptEstimator.ET, initial_points=5))
    made.tell(
        [
            observation(1, points[0], TrialState.SUCCEEDED, 3.0),
            observation(2, points[1], TrialState.FAILED, None),
            observation(3, points[2], TrialState.PRUNED, 9.0),
            observation(4, points[3], TrialState.PRUNED, None),
            Observation(5, points[4], TrialState.PRUNED, Measurement({"other": 1.0})),
            observation(6, points[5], TrialState.SUCCEEDED, 1.0),
            observation(7, points[6], TrialState.INFEASIBLE, None),
        ]
    )

    made.ask(8, [{"x": 0.5, "y": 0.5}])

    assert seen == [[-3.0, -1.0, -9.0, -1.0, -1.0, -1.0, -1.0, -3.0]]


def test_the_model_sees_the_best_half_and_the_latest() -> None:
    """Of 8 observations and room for 5: the best 2 and the latest 3 others, in their order; ties go to the earlier."""
    assert kept_observations([1.0, 5.0, 0.0, 3.0, 1.0, 9.0, 9.0, 9.0], 5) == [0, 2, 5, 6, 7]
    assert kept_observations([3.0, 2.0], 5) == [0, 1]


def test_500_observations_are_answered_from_the_limited_history() -> None:
    """A long history costs no more than `max_observations`, and the optimum is still known."""
    made = optimizer(BOWL, sobol_history(BOWL, 500, bowl), max_observations=60)

    suggestion = made.ask(501, []).suggestion

    assert suggestion.source is SuggestionSource.MODEL
    assert bowl(suggestion.point) < 0.01


@pytest.mark.parametrize(
    "error", [np.linalg.LinAlgError("not positive definite"), ValueError("NaN"), OverflowError("big")]
)
def test_a_numerical_failure_falls_back(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is then the quasi-random point, with the failure named."""

    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(skopt_model, "SkoptModel", failing)
    made = optimizer(BOWL, sobol_history(BOWL, 12, bowl))

    suggestion = made.ask(13, []).suggestion

    cause = f"the model failed: {type(error).__name__}: {error}"
    assert suggestion == made.fallback(13, [], cause)
    assert suggestion == Suggestion(suggestion.point, SuggestionSource.FALLBACK, {}, cause)


def test_other_errors_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake in the program is no numerical failure: it is raised."""

    def failing(*_: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(skopt_model, "SkoptModel", failing)

    with pytest.raises(TypeError, match="a bug"):
        optimizer(BOWL, sobol_history(BOWL, 12, bowl)).ask(13, [])


def test_a_taken_maximum_gives_way_to_the_next_best() -> None:
    """In a small space the model's choice is often taken: the best free point follows, and the detail says so."""
    space = SearchSpace((IntParameter("n", 1, 30), CategoricalParameter("c", ("a", "b"))))

    def loss(point: Point) -> float:
        return (int(point["n"]) - 11) ** 2 + (point["c"] == "b")

    made = optimizer(space, initial_points=5)
    suggestions = []
    for number in range(1, 21):
        suggestions.append(made.ask(number, []).suggestion)
        made.tell([observation(number, suggestions[-1].point, TrialState.SUCCEEDED, loss(suggestions[-1].point))])

    assert len({frozen_point(s.point) for s in suggestions}) == 20
    assert any("its maximum is taken: best of" in s.detail for s in suggestions)
    assert {"n": 11, "c": "a"} in [s.point for s in suggestions]


def test_a_full_space_repeats_with_a_prediction() -> None:
    """When everything was tried, the model may point at a point again and says why."""
    space = SearchSpace((CategoricalParameter("c", tuple("abcdef")),))
    history = [observation(i, {"c": c}, TrialState.SUCCEEDED, float(i)) for i, c in enumerate("abcdef")]

    suggestion = optimizer(space, history, initial_points=5).ask(7, []).suggestion

    assert suggestion.source is SuggestionSource.MODEL
    assert suggestion.detail == "GP, EI; every point is taken"


@pytest.mark.parametrize(
    "y",
    [[1.0, 2.0, 4.0], [1e308, -1e308, 5e307], [5e-324, 1e-323, 0.0], [1.0, 1.0000000000000002], [3.0, 3.0], [0.0]],
    ids=str,
)
def test_scales_are_finite_and_can_be_undone(y: list[float]) -> None:
    """Standardised values begin at 0 with deviation 1 (or are 0), whatever their size, and come back."""
    values = np.array(y)
    scale = Scale.of(values)

    small = scale.standardised(values)

    assert np.all(np.isfinite(small))
    assert small.min() == 0
    assert small.std() == pytest.approx(0 if len(set(y)) == 1 else 1)
    back = [scale.restored(float(value), 0.0)[0] for value in small]
    assert back == pytest.approx(y, rel=1e-12, abs=1e-323)


def test_differences_are_scaled() -> None:
    """A difference is counted in deviations, stays finite, and is 0 where nothing differs."""
    assert Scale.of(np.array([0.0, 2.0])).difference(0.01) == pytest.approx(0.01)
    assert Scale.of(np.array([0.0, 20.0])).difference(0.01) == pytest.approx(0.001)
    assert Scale.of(np.array([0.0, 1e-320])).difference(0.01) == 1e300
    assert Scale.of(np.array([5.0, 5.0])).difference(0.01) == 0.0


def test_predictions_beyond_the_largest_float_are_cut() -> None:
    """A prediction is finite even where the model expects more than a float can hold."""
    scale = Scale.of(np.array([1.7e308, -1.7e308]))

    mean, deviation = scale.restored(5.0, 5.0)

    assert mean == deviation == skopt_model.LARGEST
