"""Learning from earlier studies: what is carried over is exact, what helps is used, what misleads costs little."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.objectives import Direction, Objective
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
    Point,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import Suggestion, SuggestionSource
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.optimizers.encoding import Array, Encoding, column_of
from asktell_server.optimizers.gp.explainable import ExplainablePosterior
from asktell_server.optimizers.gp.fit import Data, Priors
from asktell_server.optimizers.gp.foreign import best_points, unit_near
from asktell_server.optimizers.gp.kernel import Inputs
from asktell_server.optimizers.gp.metric import FitConfig
from asktell_server.optimizers.gp.optimizer import GpAsk
from asktell_server.optimizers.gp.posterior import Posterior
from asktell_server.optimizers.gp.search import SearchConfig
from asktell_server.optimizers.gp.study_model import Effort, StudyModel
from asktell_server.optimizers.gp.transfer import Bridge, WeightedSources, map_of, weights
from asktell_server.optimizers.gp.transform import LONG
from asktell_server.optimizers.safe_math import numerics
from asktell_server.testing.optimizer_contract import assert_lies_in

from .support import LITTLE, RICH, SQUARE, Scene, encoded, failed, optimizer, study, succeeded

Function = Callable[[Array], float]
BRISK = Effort(
    fit=FitConfig(starts=2, calls=15, sets=3, averaged=40, rounds=3),
    search=SearchConfig(anywhere=96, near=48, starts=2, rounds=1, calls=12),
)
"""Effort enough to find minima."""


def source_of(
    spec: StudySpec, points: Sequence[Point], loss: Callable[[Point], float], name: str = "earlier"
) -> SourceStudy:
    """A source whose trials tried these points."""
    return SourceStudy(spec, tuple(succeeded(i + 1, p, loss(p)) for i, p in enumerate(points)), name)


def random_points(space: SearchSpace, count: int, seed: int = 1) -> list[Point]:
    """Points drawn from the cube."""
    encoding, rng = Encoding(space), np.random.default_rng(seed)
    return [encoding.decode(rng.random(encoding.dimensions)) for _ in range(count)]


F = FloatParameter
Int = IntParameter
D = DiscreteParameter
C = CategoricalParameter
PAIRS: dict[str, tuple[Parameter, Parameter]] = {
    "wider": (F("p", 0.2, 0.8), F("p", -1.0, 3.0)),
    "narrower": (F("p", -1.0, 3.0), F("p", 0.0, 1.5)),
    "log": (F("p", 1e-5, 1.0, log=True), F("p", 1e-3, 10.0, log=True)),
    "to log": (F("p", 0.5, 8.0), F("p", 1.0, 4.0, log=True)),
    "from log": (F("p", 1e-3, 8.0, log=True), F("p", 0.0, 4.0)),
    "to steps": (F("p", 0.0, 1.0), F("p", 0.0, 2.0, step=0.25)),
    "from steps": (F("p", 0.0, 2.0, step=0.25), F("p", 0.5, 1.0)),
    "integers": (Int("p", 0, 20), Int("p", 5, 64)),
    "integers to log": (Int("p", 1, 20), Int("p", 2, 200, log=True)),
    "log integers": (Int("p", 1, 300, log=True), Int("p", 10, 200)),
    "many integers": (Int("p", 1, 10**12, log=True), Int("p", 10, 10**9, log=True)),
    "many evenly": (Int("p", 0, 10**9), Int("p", -5, 10**8)),
    "levels": (D("p", (1.0, 2.0, 8.0)), D("p", (0.5, 1.0, 4.0, 8.0), log=True)),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_number_keeps_its_meaning(pair: str) -> None:
    """Its unit in the source is that which the source gives it: to the last digits, clipped to the source's range."""
    here, there = PAIRS[pair]
    one, other = column_of(here), column_of(there)
    mapped = map_of(here, one, there, other)
    rng = np.random.default_rng(1)
    values = [one.value(unit) for unit in (0.0, 1.0, *rng.random(40))]
    found, _ = mapped(np.array([one.unit(value) for value in values]))
    for value, unit in zip(values, found.tolist(), strict=True):
        expected = unit_near(there, other, value)
        assert expected is not None
        assert unit == pytest.approx(expected, abs=1e-12)
        if float(value) <= (there.levels[0] if isinstance(there, DiscreteParameter) else there.min):  # type: ignore[union-attr]
            assert unit == pytest.approx(other.unit(there.level(0) if there.cardinality else there.min), abs=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize("pair", PAIRS)
def test_slopes_of_maps(pair: str) -> None:
    """The derivative of a map is that of its values."""
    here, there = PAIRS[pair]
    mapped = map_of(here, column_of(here), there, column_of(there))
    x = np.random.default_rng(2).uniform(0.01, 0.99, 30)
    step = 1e-7
    numeric = (mapped(x + step)[0] - mapped(x - step)[0]) / (2 * step)
    smooth = mapped(x + step)[1] == pytest.approx(mapped(x - step)[1], rel=1e-3)  # no kink in between
    kept = np.isclose(mapped(x + step)[1], mapped(x - step)[1], rtol=1e-3)
    assert smooth or kept.sum() > 20
    np.testing.assert_allclose(mapped(x)[1][kept], numeric[kept], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", 1 / 6), ("b", 1 / 2), ("z", None), (True, None), (1, 5 / 6), (1.0, 5 / 6)],
)
def test_choices_are_the_same_or_unknown(value: ParameterValue, expected: float | None) -> None:
    """A choice is found by what it is, not by its place; an unknown one has no unit."""
    there = C("p", ("a", "b", 1))
    assert unit_near(there, column_of(there), value) == expected


def test_points_are_carried_over_exactly() -> None:
    """Inputs of the source that the bridge makes are those of the source itself, conditions and choices included."""
    shuffled = SearchSpace(tuple(reversed(RICH.parameters)))
    points = random_points(RICH, 50)
    cube, _, inputs = encoded(RICH, points)
    bridge = Bridge(cube, Encoding(shuffled))
    there, slopes = bridge(inputs)
    _, own = bridge.units_of(source_of(study(shuffled), points, lambda _: 0.0), range(len(points)))
    assert np.array_equal(there.active, own.active)
    assert np.array_equal(there.choice, own.choice)
    np.testing.assert_allclose(there.x * there.active, own.x * own.active, rtol=0, atol=1e-15)
    assert slopes.shape == there.x.shape


def test_what_is_not_shared_is_left_out() -> None:
    """Only parameters of the same name and kind, which vary in the source, are dimensions of its model."""
    here = SearchSpace((F("x", 0.0, 1.0), F("only here", 0.0, 1.0), Int("kind differs", 0, 3), F("held", 2.0, 2.0)))
    there = SearchSpace((F("only there", 0.0, 1.0), F("kind differs", 0.0, 3.0), F("held", 1.0, 3.0), F("x", 0.0, 2.0)))
    cube, _, inputs = encoded(here, random_points(here, 5))
    mapped, _ = Bridge(cube, Encoding(there))(inputs)
    assert mapped.x.shape == (5, 2)
    assert (mapped.x[:, 0] == 0.5).all()  # 2 is the middle of [1, 3]
    np.testing.assert_allclose(mapped.x[:, 1], inputs.x[:, 0] / 2, rtol=1e-7, atol=1e-7)


def test_an_unknown_choice_counts_as_inactive() -> None:
    """What the source cannot know of is as far from all that it saw as can be."""
    here, there = SearchSpace((C("c", ("a", "new", "b")),)), SearchSpace((C("c", ("b", "a", "old")),))
    cube, _, inputs = encoded(here, [{"c": "a"}, {"c": "new"}, {"c": "b"}])
    mapped, _ = Bridge(cube, Encoding(there))(inputs)
    assert mapped.choice[:, 0].tolist() == [0.5, -1.0, pytest.approx(1 / 6)]


def posterior_with_trend(reach: float = 1.0) -> tuple[StudyModel, Posterior]:
    """A study of SQUARE with a source in a wider space, on a log scale in one parameter. `reach`: how far from the best point there are
    results, as a share of the whole.
    """
    there = SearchSpace((F("x", -0.5, 1.5), F("y", 0.05, 2.0, log=True), F("z", 0.0, 1.0)))
    earlier = source_of(study(there), random_points(there, 15), lambda p: 3.0 * bowl(p) - 1.0)
    model = StudyModel(study(SQUARE), Encoding(SQUARE), LITTLE, [earlier])
    points: list[Point] = [
        {"x": 0.3 + reach * (float(p["x"]) - 0.3), "y": 0.7 + reach * (float(p["y"]) - 0.7)}
        for p in random_points(SQUARE, 8, seed=2)
    ]
    model.tell([succeeded(i, p, bowl(p)) for i, p in enumerate(points)])
    with numerics():
        posterior, _ = model.objectives[0].posterior()
    assert isinstance(posterior.trend, WeightedSources)
    return model, posterior


def bowl(point: Point) -> float:
    """A smooth function with its minimum at (0.3, 0.7), not in the middle."""
    x, y = float(point["x"]), float(point["y"])
    return (x - 0.3) ** 2 + 2.0 * (y - 0.7) ** 2 + 0.5 * (x - 0.3) * (y - 0.7)


@pytest.mark.parametrize("reach", [1.0, 0.2])
def test_the_trend_is_differentiable(reach: float) -> None:
    """Its gradient, and that of the posterior to which it is added, are those of the values, also where the scale is bent twice."""
    model, posterior = posterior_with_trend(reach)
    assert isinstance(posterior.trend, WeightedSources)
    _, _, inputs = encoded(SQUARE, random_points(SQUARE, 12, seed=3))
    part = posterior.trend.parts[0]
    bent = part.transform.center + part.transform.deviation * part.transform.forward(part.source.prediction(inputs))
    assert (bent.max() > LONG) == (reach < 1.0)
    value, gradient = posterior.trend.value_and_gradient(inputs)
    np.testing.assert_allclose(value, posterior.trend.value(inputs), rtol=1e-12, atol=1e-12)
    mean, variance, by_mean, _ = posterior.predict_with_gradient(inputs)
    for own, same in zip((mean, variance), posterior.predict(inputs), strict=True):
        np.testing.assert_allclose(own, same, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(posterior.mean(inputs), mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(posterior.mean_with_gradient(inputs)[1], by_mean, rtol=1e-7, atol=1e-9)
    for i in range(2):
        step = np.zeros(2)
        step[i] = 1e-6
        up, down = (Inputs(inputs.x + s * step, inputs.active, inputs.choice) for s in (1.0, -1.0))
        slope = (posterior.trend.value(up) - posterior.trend.value(down)) / 2e-6
        np.testing.assert_allclose(gradient[:, i], slope, rtol=1e-5, atol=1e-6)
        slope = (posterior.predict(up)[0] - posterior.predict(down)[0]) / 2e-6
        np.testing.assert_allclose(by_mean[:, :, i], slope, rtol=1e-5, atol=1e-6)
    assert model.kernel.layout.p == 2


def test_outcomes_added_to_a_posterior_with_a_trend() -> None:
    """Results that are added, as pending points are, count as if they had been there from the start."""
    _, posterior = posterior_with_trend()
    trend, (_, _, ahead), (_, _, at) = posterior.trend, *(encoded(SQUARE, random_points(SQUARE, 3, s)) for s in (4, 5))
    assert trend is not None
    y = np.tile([0.1, -0.4, 0.7], (len(posterior.y), 1))
    none = np.zeros(3)
    extended = posterior.extended(ahead, none, y)
    everything = posterior.geometry.inputs.joined(ahead)
    anew = Posterior(
        posterior.geometry.extended(ahead, none),
        np.concatenate([posterior.y, y], axis=1),
        trend,
        trend.value(everything),
    )
    for one, other in zip(extended.predict(at), anew.predict(at), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-9)
    # What was observed is predicted, whatever the trend.
    np.testing.assert_allclose(extended.predict(ahead)[0], y, rtol=0, atol=0.02)
    np.testing.assert_allclose(extended.mean_observed(), extended.predict(everything)[0], rtol=1e-8, atol=1e-9)
    left_out, variance = extended.leave_one_out()
    assert left_out.shape == variance.shape == extended.y.shape


def test_explanations_know_the_trend() -> None:
    """Functions that are drawn to explain a model vary around its mean, of which the trend is a part."""
    model, posterior = posterior_with_trend()
    points = random_points(SQUARE, 16, seed=6)
    _, base, inputs = encoded(SQUARE, points)
    changed, _ = model.cube.canonical(np.column_stack([base[:, 0], 1.0 - base[:, 1]]))
    with numerics():
        explained = ExplainablePosterior(model.cube, model.layout, *model.objectives[0].posterior(), float)
        drawn, _ = explained.sampler(base)(changed, 4000, np.random.default_rng(1))
        mean, variance = posterior.predict(inputs)
    expected, deviation = mean.mean(axis=0), np.sqrt(variance.mean(axis=0))
    assert np.abs(drawn.mean(axis=0) - expected).max() < 0.1 * deviation.max() + 0.02


def targets(scene: Scene, f: Function) -> Data:
    """Standardised outcomes of f at the scene's points."""
    values = np.array([f(row) for row in scene.units])
    y = (values - values.mean()) / values.std()
    return Data(scene.inputs, y, np.zeros(len(y)))


def learned(scene: Scene, y: Function, *sources: Function) -> Array:
    """The weights of sources that know these functions."""
    basis = np.stack([targets(scene, f).y for f in sources], axis=1)
    return weights(scene.kernel, Priors(), targets(scene, y), basis)


def wavy(x: Array) -> float:
    """A function with some structure."""
    return float(np.sin(5 * x[0]) + (x[1] - 0.4) ** 2 * 3)


def unrelated(seed: int) -> Function:
    """A smooth random function."""
    rng = np.random.default_rng(seed)
    centers, signs = rng.random((5, 2)), rng.standard_normal(5)
    return lambda x: float(signs @ np.exp(-8 * np.square(x - centers).sum(axis=1)))


def test_weights_of_single_sources() -> None:
    """The same shape gets weight 1, the opposite one 0, unrelated ones little on average: more surely with more results."""
    few, many = Scene(SQUARE, n=6), Scene(SQUARE, n=25)
    for scene, least in ((few, 0.85), (many, 0.95)):
        assert learned(scene, wavy, wavy)[0] == pytest.approx(1.0, abs=1.0 - least)
        assert learned(scene, wavy, lambda x: -wavy(x))[0] < 0.01
    by_chance = [float(learned(many, wavy, unrelated(seed))[0]) for seed in range(20)]
    assert np.mean(by_chance) < 0.25


def test_weights_of_several_sources() -> None:
    """Equal sources share the weight; a good one among bad ones has it all, up to the ten that there can be."""
    scene = Scene(SQUARE, n=20)
    alike = learned(scene, wavy, wavy, wavy)
    assert alike[0] == pytest.approx(alike[1], abs=1e-9)
    assert alike.sum() == pytest.approx(1.0, abs=0.1)
    among = learned(scene, wavy, *(unrelated(seed) for seed in range(9)), wavy)
    assert among[9] == pytest.approx(1.0, abs=0.15)
    assert among[:9].sum() < 0.25


def test_no_weights_without_variation() -> None:
    """A source that says the same everywhere adds nothing, and results that are all the same break nothing."""
    scene = Scene(SQUARE, n=8)
    flat = np.zeros(8)
    data = targets(scene, wavy)
    assert np.isfinite(weights(scene.kernel, Priors(), data, flat[:, None])).all()
    assert np.isfinite(weights(scene.kernel, Priors(), Data(data.inputs, flat, flat), data.y[:, None])).all()


@pytest.mark.parametrize("direction", Direction)
def test_only_the_shape_counts(direction: Direction) -> None:
    """A source on another scale, whichever direction is better there, has the new study's shape and the weight 1."""
    sign = 1.0 if direction is Direction.MINIMIZE else -1.0
    earlier = source_of(
        study(SQUARE, direction=direction), random_points(SQUARE, 30), lambda p: sign * (1e6 * bowl(p) - 3e7)
    )
    cube, _, inputs = encoded(SQUARE, points := random_points(SQUARE, 10, seed=2))
    values = np.array([bowl(p) for p in points])
    model = StudyModel(study(SQUARE), cube.encoding, BRISK, [earlier])
    model.tell([succeeded(i, p, v) for i, (p, v) in enumerate(zip(points, values, strict=True))])
    with numerics():
        posterior, transform = model.objectives[0].posterior()
        assert isinstance(posterior.trend, WeightedSources)
        (part,) = posterior.trend.parts
        assert part.weight == pytest.approx(1.0, abs=0.1)
        np.testing.assert_allclose(
            posterior.trend.value(inputs) / part.weight, transform.forward(values), rtol=0, atol=0.1
        )


def test_a_source_is_left_out_once_it_cannot_tell_results_apart() -> None:
    """Results all over the square bear it out; with more of them next to the optimum, closer together than it knows, it says no more."""
    earlier = source_of(study(SQUARE), random_points(SQUARE, 30), bowl)
    points = random_points(SQUARE, 20, seed=2)
    near: list[Point] = [{"x": 0.3 + 1e-4 * float(p["x"]), "y": 0.7 + 1e-4 * float(p["y"])} for p in points[8:]]
    trends = []
    for tried in (points[:8], points[:8] + near):
        model = StudyModel(study(SQUARE), Encoding(SQUARE), BRISK, [earlier])
        model.tell([succeeded(i, p, bowl(p)) for i, p in enumerate(tried)])
        with numerics():
            trends.append(model.objectives[0].posterior()[0].trend)
    assert isinstance(trends[0], WeightedSources)
    assert trends[1] is None


def test_a_source_counts_from_the_first_result_on() -> None:
    """One result among failures says nothing against it, and it leads the search."""
    earlier = source_of(study(SQUARE), random_points(SQUARE, 30), bowl)
    points = random_points(SQUARE, 8, seed=2)
    model = StudyModel(study(SQUARE), Encoding(SQUARE), BRISK, [earlier])

    model.tell([succeeded(0, points[0], bowl(points[0])), *(failed(i, p) for i, p in enumerate(points[1:], 1))])
    with numerics():
        trend = model.objectives[0].posterior()[0].trend

    assert isinstance(trend, WeightedSources)


def test_a_source_that_says_the_same_everywhere_is_none() -> None:
    """Where its range and the new one do not meet it is no trend, and a suggestion does not say that it learns from it."""
    here, there = (SearchSpace((F("x", low, low + 1.0),)) for low in (0.0, 5.0))
    earlier = source_of(study(there), random_points(there, 20), lambda p: float(p["x"]) ** 2)
    found = [suggestion for suggestion, _ in run(study(here), lambda p: (float(p["x"]) - 0.3) ** 2, 6, [earlier])]
    assert SuggestionSource.MODEL in {suggestion.source for suggestion in found}
    assert not any("learns from" in suggestion.detail for suggestion in found)


def test_a_source_does_not_keep_a_search_from_the_optimum() -> None:
    """Forty results of the same function lead it there fast, and not only as near as they tell."""
    earlier = source_of(study(SQUARE), random_points(SQUARE, 40), bowl)
    losses = [loss for _, loss in run(study(SQUARE, initial_points=0), bowl, 30, [earlier], None)]
    assert min(losses[:8]) < 1e-4
    assert min(losses) < 1e-8


def run(
    spec: StudySpec,
    loss: Callable[[Point], float],
    trials: int,
    sources: Sequence[SourceStudy] = (),
    effort: Effort | None = BRISK,
) -> list[tuple[Suggestion, float]]:
    """Suggestions and what came of them, one after the other."""
    made = optimizer(spec, effort=effort, sources=sources)
    found = []
    for number in range(1, trials + 1):
        suggestion = made.ask(number, []).suggestion
        assert_lies_in(spec.space, suggestion.point)
        found.append((suggestion, loss(suggestion.point)))
        made.tell([succeeded(number, suggestion.point, found[-1][1])])
    return found


def test_the_first_trials_are_the_best_of_the_sources() -> None:
    """After the default point; clipped to the new range, unknown choices left at the default, apart from each other."""
    here = SearchSpace((F("x", 0.2, 0.8), C("c", ("u", "v"), default="v"), Int("n", 0, 10, default=3)))
    there = SearchSpace((F("x", 0.0, 1.0), C("c", ("u", "w")), F("gone", 0.0, 1.0)))
    losses = {0.9: 1.0, 0.91: 1.1, 0.4: 2.0, 0.6: 3.0, 0.1: 0.0}
    points: list[Point] = [{"x": x, "c": "w" if x > 0.5 else "u", "gone": 0.5} for x in losses]
    earlier = source_of(study(there), points, lambda p: losses[float(p["x"])])
    failed_there = SourceStudy(earlier.spec, (*earlier.observations, failed(9, {"x": 0.5, "c": "u", "gone": 0.0})), "a")
    spec = study(here, initial_points=0)
    made = GpAsk(spec, [failed_there])
    found = []
    for number in range(1, 5):
        found.append(made.ask(number, [s.point for s in found]).suggestion)
    assert [s.source for s in found] == [SuggestionSource.INITIAL_DESIGN] * 4
    assert [s.detail for s in found[1:3]] == ["best of study 'a'"] * 2
    assert found[1].point == {"x": 0.2, "c": "u", "n": 3}
    assert found[2].point == {"x": 0.8, "c": "v", "n": 3}
    assert found[3].detail == ""


def test_sources_take_turns() -> None:
    """Each gives its best point before one gives its second; constraints of the source are minded, its direction too."""
    one = source_of(study(SQUARE), [{"x": 0.1, "y": 0.1}, {"x": 0.9, "y": 0.1}], lambda p: float(p["x"]), "one")
    other = source_of(
        study(SQUARE, direction=Direction.MAXIMIZE),
        [{"x": 0.1, "y": 0.9}, {"x": 0.9, "y": 0.9}],
        lambda p: float(p["x"]),
        "other",
    )
    found = best_points(study(SQUARE), Encoding(SQUARE), [one, other], 3)
    assert found == [
        ({"x": 0.1, "y": 0.1}, "one"),
        ({"x": 0.9, "y": 0.9}, "other"),
        ({"x": 0.9, "y": 0.1}, "one"),
    ]


def test_the_first_trials_need_no_model_library() -> None:
    """They are made where torch must not be imported."""
    code = """
import sys
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import FloatParameter, SearchSpace
from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.optimizers.registry import create_optimizer
spec = StudySpec(SearchSpace((FloatParameter("x", 0.0, 1.0),)), (Objective("y", Direction.MINIMIZE),), algorithm=GpOptimizer())
source = SourceStudy(spec, (Observation(1, {"x": 0.9}, TrialState.SUCCEEDED, Measurement({"y": 1.0})),), "a")
made = create_optimizer(spec, [source])
details = [made.ask(1, []).suggestion.detail, made.ask(2, [{"x": 0.5}]).suggestion.detail]
assert details[1] == "best of study 'a'", details
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_history_replayed_is_the_history_lived() -> None:
    """Bit for bit, with sources that differ from the space and from each other, whatever was prepared in between."""
    there = SearchSpace((F("x", 0.1, 2.0, log=True), F("other", 0.0, 1.0), F("y", 0.0, 1.0)))
    sources = [
        source_of(study(SQUARE), random_points(SQUARE, 12, seed=4), bowl, "same"),
        source_of(study(there), random_points(there, 30, seed=5), lambda p: 2.0 * bowl(p), "wider"),
        source_of(study(SQUARE), random_points(SQUARE, 9, seed=6), lambda p: -bowl(p), "opposite"),
    ]
    spec = study(SQUARE)
    lived = optimizer(spec, effort=LITTLE, sources=sources)
    history: list[Observation] = []
    for number, point in enumerate(random_points(SQUARE, 30, seed=7), start=1):
        history.append(succeeded(number, point, bowl(point)))
        lived.tell(history[-1:])
        if number % 3 == 0:
            lived.prepare()
        if number in (6, 11, 30):
            pending: list[Point] = [{"x": 0.5, "y": 0.25}] if number == 11 else []
            replayed = optimizer(spec, history, LITTLE, sources)
            one, other = lived.ask(number + 1, pending), replayed.ask(number + 1, pending)
            assert one.suggestion == other.suggestion
            assert one.suggestion.source is SuggestionSource.MODEL
            assert "learns from" in one.suggestion.detail


@pytest.mark.parametrize(
    "earlier",
    [
        SourceStudy(study(SQUARE), (), "empty"),
        SourceStudy(study(SQUARE), (failed(1, {"x": 0.1, "y": 0.2}),), "failed"),
        source_of(study(RICH), random_points(RICH, 5), lambda _: 1.0, "nothing shared"),
        source_of(
            StudySpec(SQUARE, (Objective("loss", Direction.MINIMIZE),), algorithm=GpOptimizer()), [], bowl, "none"
        ),
    ],
    ids=lambda source: source.name,
)
def test_a_source_without_results_is_no_source(earlier: SourceStudy) -> None:
    """Suggestions are the same as without it."""
    spec = study(SQUARE, initial_points=0)
    assert [s for s, _ in run(spec, bowl, 7, [earlier])] == [s for s, _ in run(spec, bowl, 7)]


def test_one_result_of_a_source_is_worse_by_more_decades_than_a_quotient_holds() -> None:
    """The rest of its results differ by rounding: it can be modelled, and asks are answered by the model."""
    losses = iter([1.0, 1.0 + 2**-52, 1.0, 1.0 + 2**-51, 1.7e308])
    earlier = source_of(study(SQUARE), random_points(SQUARE, 5), lambda _: next(losses))

    made = run(study(SQUARE), bowl, 6, [earlier])

    assert [suggestion.source for suggestion, _ in made[4:]] == [SuggestionSource.MODEL] * 2


BOX = SearchSpace(tuple(F(name, -4.0, 4.0) for name in "xyz"))


def valley(point: Point) -> float:
    """Curved, with minimum 0: not found at once."""
    x, y, z = (float(point[name]) for name in "xyz")
    return (y - 0.3 * x * x + 1.0) ** 2 + 0.3 * (x - 1.5) ** 2 + (z + 0.5 * x) ** 2


def shifted(point: Point) -> float:
    """The same valley a little to the side, on another scale."""
    return 1e3 * valley({name: float(value) - 0.25 for name, value in point.items()}) + 17.0


def sine(point: Point) -> float:
    """Nothing like the valley."""
    return math.sin(float(point["x"]) + 2.0) + math.cos(2.0 * float(point["y"])) + 0.2 * float(point["z"])


TRIALS, SEEDS = 18, (1, 2)


def curves(sources: Sequence[SourceStudy], trials: int = TRIALS) -> Array:  # (seeds, trials)
    """log10 of the best value so far, with the effort of a real study."""
    found = []
    for seed in SEEDS:
        made = run(study(BOX, initial_points=0, seed=seed), valley, trials, sources, effort=None)
        found.append(np.log10(np.minimum.accumulate([value for _, value in made])))
    return np.array(found)


@pytest.fixture(scope="module")
def alone() -> Array:
    """How fast a study is without sources."""
    return curves(())


def test_a_source_that_helps_halves_the_trials(alone: Array) -> None:
    """With a shifted source in a wider space, half of the trials reach what all of them reach without."""
    wider = SearchSpace(tuple(F(name, -5.0, 6.0) for name in "zxy"))
    earlier = run(study(wider, initial_points=0, seed=7), shifted, 24)
    helped = curves([source_of(study(wider), [suggestion.point for suggestion, _ in earlier], shifted)], TRIALS // 2)
    assert helped[:, -1].mean() < alone[:, -1].mean()


@pytest.mark.parametrize("loss", [lambda p: -valley(p), sine], ids=["opposite", "unrelated"])
def test_a_source_that_misleads_costs_little(loss: Callable[[Point], float], alone: Array) -> None:
    """The best value so far is at most twice that without it, on the geometric mean over trials, and four times at the end."""
    misled = curves([source_of(study(BOX), random_points(BOX, 40), loss)])
    assert misled.mean() < alone.mean() + math.log10(2.0)
    assert misled[:, -1].mean() < alone[:, -1].mean() + math.log10(4.0)


def test_partial_overlap_in_a_conditional_space() -> None:
    """Different ranges, choices, conditions and parameters: suggestions lie in the space and the source has a say."""
    here = SearchSpace(
        (
            C("kind", ("a", "b", "new")),
            F("rate", 1e-3, 1.0, log=True, condition=Condition("kind", ("a", "new"))),
            Int("depth", 1, 8, condition=Condition("kind", ("b",))),
            F("new", 0.0, 1.0),
        )
    )
    there = SearchSpace(
        (
            C("gate", (True, False)),
            C("kind", ("b", "a")),
            F("rate", 1e-5, 0.5, log=True),
            Int("depth", 2, 30, log=True, condition=Condition("gate", (True,))),
        )
    )

    def loss(point: Point) -> float:
        if point["kind"] == "b":
            return 1.0 + 0.1 * abs(int(point.get("depth", 5)) - 4)
        return 0.2 * (math.log10(float(point["rate"])) + 2.0) ** 2 + 0.1 * float(point.get("new", 0.0))

    earlier = source_of(study(there), random_points(there, 40), loss)
    found = run(study(here, initial_points=0), loss, 14, [earlier])
    assert any("weight" in suggestion.detail for suggestion, _ in found)
    assert min(value for _, value in found) < 0.1


def test_several_objectives_learn_of_the_first() -> None:
    """The other objectives have no trend."""
    objectives = (Objective("loss", Direction.MINIMIZE), Objective("size", Direction.MAXIMIZE))
    spec = StudySpec(SQUARE, objectives, algorithm=GpOptimizer(initial_points=4), seed=1)
    earlier = source_of(study(SQUARE), random_points(SQUARE, 20), bowl)
    made = optimizer(spec, effort=LITTLE, sources=[earlier])
    points = random_points(SQUARE, 6, seed=3)
    made.tell([succeeded(i, p, bowl(p), size=float(p["x"])) for i, p in enumerate(points)])
    assert made.ask(7, []).suggestion.source is SuggestionSource.MODEL
    assert made._model is not None
    with numerics():
        first, second = (model.posterior()[0] for model in made._model.objectives)
    assert first.trend is not None
    assert second.trend is None
