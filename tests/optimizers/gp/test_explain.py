"""What a model has learned, against functions of which it is known: importances, calibration, slices."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from asktell_server.domain.algorithms import RandomSearch
from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import ExplainRequest, Importance, MetricExplanation
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    Point,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.explain import Design, Sampler, calibration_of, explain, reference_of

Function = Callable[[Point], float]


class Known:
    """A model that knows a function of the point exactly; checks that it is asked as agreed."""

    def __init__(self, cube: Cube, function: Function) -> None:
        self.cube, self.function = cube, function

    def at(self, codes: Array) -> Array:
        """The function at canonical codes."""
        assert np.array_equal(self.cube.canonical(codes.copy())[0], codes)
        return np.array([self.function(self.cube.encoding.decode(code)) for code in codes])

    def predict(self, codes: Array) -> tuple[Array, Array]:
        """The value, and a deviation that tells the row."""
        return self.at(codes), 0.25 + np.arange(len(codes), dtype=np.float64)

    def leave_one_out(self) -> tuple[Array, Array, Array]:
        """A perfect prediction."""
        y = np.array([-1.0, 0.0, 1.0])
        return y, y, np.ones(3)

    def sampler(self, base: Array) -> Sampler:
        """The same function again and again."""
        before = self.at(base)

        def draw(changed: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
            return np.tile(before, (count, 1)), np.tile(self.at(changed), (count, 1))

        return draw


class Uncertain(Known):
    """Functions a x + b y, with a and b drawn independently from normal distributions around 1."""

    def __init__(self, cube: Cube, deviation: float) -> None:
        super().__init__(cube, lambda point: 0.0)
        self.deviation = deviation

    def sampler(self, base: Array) -> Sampler:
        """One function for each pair of coefficients."""

        def draw(changed: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array]:
            coefficients = rng.normal(1.0, self.deviation, (count, 2))
            return coefficients @ base.T, coefficients @ changed.T

        return draw


def a_spec(*parameters: Parameter, metrics: Sequence[str] = ("loss",)) -> StudySpec:
    """A spec that minimises."""
    return StudySpec(
        SearchSpace(parameters), tuple(Objective(m, Direction.MINIMIZE) for m in metrics), algorithm=RandomSearch()
    )


def cube_of(spec: StudySpec) -> Cube:
    """Its space as arrays."""
    return Cube(Encoding(spec.space))


def success(number: int, point: Point, **metrics: float) -> Observation:
    """A result."""
    return Observation(number, point, TrialState.SUCCEEDED, Measurement(metrics))


def explained(
    spec: StudySpec, function: Function, best: Point, request: ExplainRequest | None = None
) -> MetricExplanation:
    """The explanation of a known function."""
    models = {"loss": Known(cube_of(spec), function)}
    explanation = explain(spec, cube_of(spec), models, [success(1, best, loss=0.0)], request or ExplainRequest())
    (metric,) = explanation.metrics
    return metric


def effects(spec: StudySpec, function: Function) -> Mapping[str, float]:
    """The total effects of a known function."""
    importances = Design(cube_of(spec), spec.seed, 1).importances(Known(cube_of(spec), function), _rng())
    assert [i.total_effect for i in importances] == sorted((i.total_effect for i in importances), reverse=True)
    assert all(i.lower == i.total_effect == i.upper for i in importances)
    return {importance.parameter: importance.total_effect for importance in importances}


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def number(point: Point, name: str) -> float:
    """A number of the point."""
    return float(point[name])


# --- importances ------------------------------------------------------------------------------------------------------


def test_the_ishigami_function() -> None:
    """T = (0.558, 0.442, 0.244) for a = 7, b = 0.1 (Ishigami & Homma 1990)."""
    spec = a_spec(*(FloatParameter(f"x{i}", -math.pi, math.pi) for i in range(3)), FloatParameter("idle", 0.0, 1.0))

    def ishigami(point: Point) -> float:
        x, y, z = (number(point, f"x{i}") for i in range(3))
        return math.sin(x) + 7.0 * math.sin(y) ** 2 + 0.1 * z**4 * math.sin(x)

    found = effects(spec, ishigami)

    assert found == {
        "x0": pytest.approx(0.5576, abs=0.05),
        "x1": pytest.approx(0.4424, abs=0.05),
        "x2": pytest.approx(0.2437, abs=0.05),
        "idle": 0.0,
    }


def test_an_additive_function_on_log_and_stepped_scales() -> None:
    """Each parameter is uniform on the scale of its search; its share is that of its variance."""
    spec = a_spec(
        FloatParameter("log", 1e-6, 1.0, log=True),
        FloatParameter("linear", -5.0, 5.0),
        DiscreteParameter("two", (0.0, 1.0)),
    )
    parts = {"log": 36 / 12, "linear": 4 * 100 / 12, "two": 64 / 4}
    total = sum(parts.values())

    found = effects(spec, lambda p: math.log10(number(p, "log")) + 2.0 * number(p, "linear") + 8.0 * number(p, "two"))

    assert found == {name: pytest.approx(part / total, abs=0.03) for name, part in parts.items()}


def test_choices_count_by_what_they_change() -> None:
    """An interaction of two choices: f = 1 where they agree, so each flips half of the variance and both effects are 1."""
    spec = a_spec(CategoricalParameter("a", ("x", "y")), CategoricalParameter("b", ("x", "y")))

    found = effects(spec, lambda point: float(point["a"] == point["b"]))

    assert found == {"a": pytest.approx(1.0, abs=0.02), "b": pytest.approx(1.0, abs=0.02)}


def test_a_conditional_parameter_has_the_share_that_it_has_over_the_whole_space() -> None:
    """The function is rate where the switch is on, 0 elsewhere. With P(on) = 1/2 and rate uniform in [0, 1]:
    Var f = 1/6 - 1/16, E Var(f | switch) = 1/24, and E Var(f | rate) = E rate^2 / 4 = 1/12.
    """
    spec = a_spec(
        FloatParameter("rate", 0.0, 1.0, condition=Condition("switch", ("on",))),
        CategoricalParameter("switch", ("on", "off")),
    )
    variance = 1 / 6 - 1 / 16

    found = effects(spec, lambda point: number(point, "rate") if "rate" in point else 0.0)

    assert found == {
        "switch": pytest.approx(1 / 12 / variance, abs=0.04),
        "rate": pytest.approx(1 / 24 / variance, abs=0.04),
    }


def test_a_constant_has_no_causes_and_a_fixed_parameter_is_not_listed() -> None:
    """Nothing varies: every effect is 0. A parameter with one value cannot vary."""
    spec = a_spec(FloatParameter("x", 0.0, 1.0), FloatParameter("fixed", 2.0, 2.0), IntParameter("n", 1, 3))

    found = effects(spec, lambda point: 1e300 * number(point, "fixed"))

    assert found == {"x": 0.0, "n": 0.0}


def test_a_space_of_one_point_has_no_importances() -> None:
    """There is nothing to draw."""
    spec = a_spec(IntParameter("n", 3, 3))

    metric = explained(spec, lambda point: 1.0, {"n": 3}, ExplainRequest(slices=("n",)))

    assert metric.importances == ()
    assert metric.slices[0].first_values == (3,)


def test_values_of_any_size_give_the_same_effects() -> None:
    """Squares of huge values would overflow, of tiny ones vanish."""
    spec = a_spec(FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0))

    found = [
        effects(spec, lambda p, s=scale: s * (2 * number(p, "x") + number(p, "y"))) for scale in (1, 5e307, 1e-300)
    ]  # type: ignore[misc]

    assert found[1] == pytest.approx(found[0])
    assert found[2] == pytest.approx(found[0])


@pytest.mark.parametrize("deviation", [0.1, 0.5])
def test_the_interval_holds_what_the_model_does_not_know(deviation: float) -> None:
    """The function a x + b y has effects a^2 / (a^2 + b^2): the quantiles of that ratio, for normal a and b, are the interval."""
    spec = a_spec(FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0))
    a, b = np.random.default_rng(1).normal(1.0, deviation, (2, 100_000))
    lower, middle, upper = np.quantile(a**2 / (a**2 + b**2), [0.1, 0.5, 0.9])

    importances = Design(cube_of(spec), 1, 1).importances(Uncertain(cube_of(spec), deviation), _rng())

    for importance in importances:
        assert importance.lower == pytest.approx(lower, abs=0.12)
        assert importance.total_effect == pytest.approx(middle, abs=0.12)
        assert importance.upper == pytest.approx(upper, abs=0.12)
        assert 0.0 <= importance.lower <= importance.total_effect <= importance.upper <= 1.0


def test_hundreds_of_parameters_are_told_apart_at_bounded_cost() -> None:
    """One of 300 matters: it has the whole effect, and the model is asked for a bounded number of values."""
    spec = a_spec(*(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(300)))
    cube = cube_of(spec)
    asked = []

    class Counting(Known):
        def at(self, codes: Array) -> Array:
            asked.append(len(codes))
            return codes[:, 17]

    importances = Design(cube, 1, 1).importances(Counting(cube, lambda point: 0.0), _rng())

    assert importances[0] == Importance("x17", pytest.approx(1.0, abs=0.1), *[pytest.approx(1.0, abs=0.1)] * 2)
    assert {importance.total_effect for importance in importances[1:]} == {0.0}
    assert sum(asked) == 301 * 128


# --- calibration ------------------------------------------------------------------------------------------------------


class Left(Known):
    """A model with given predictions of its own results."""

    def __init__(self, y: Array, mean: Array, deviation: Array) -> None:
        self.left = y, mean, deviation

    def leave_one_out(self) -> tuple[Array, Array, Array]:
        """Those."""
        return self.left


def test_a_calibrated_model() -> None:
    """Results drawn from the predictions: coverage 0.9, the entropy of the noise, and 1 - noise variance as R^2."""
    rng = np.random.default_rng(3)
    mean = rng.normal(0.0, math.sqrt(0.75), 20_000)
    y = mean + rng.normal(0.0, 0.5, 20_000)

    calibration = calibration_of(Left(y, mean, np.full(20_000, 0.5)))

    assert calibration.observations == 20_000
    assert calibration.coverage_90 == pytest.approx(0.9, abs=0.01)
    assert calibration.log_density == pytest.approx(-0.5 * math.log(2 * math.pi * 0.25) - 0.5, abs=0.02)
    assert calibration.r_squared == pytest.approx(0.75, abs=0.02)


def test_a_constant_normal_prediction_is_the_yardstick() -> None:
    """Log density -1.42 and R^2 0, as the contract says."""
    y = np.random.default_rng(3).normal(0.0, 1.0, 20_000)

    calibration = calibration_of(Left((y - y.mean()) / y.std(), np.zeros(20_000), np.ones(20_000)))

    assert calibration.log_density == pytest.approx(-1.42, abs=0.005)
    assert calibration.r_squared == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("said", [0.5, 2.0])
def test_a_model_that_is_wrong_about_itself(said: float) -> None:
    """Too sure or too cautious by a factor of 2: intervals are set right, and it is said by how much."""
    y = np.random.default_rng(3).normal(0.0, 1.0, 20_000)

    calibration = calibration_of(Left(y, np.zeros(20_000), np.full(20_000, said)))

    assert calibration.coverage_90 == pytest.approx(0.9, abs=0.01)
    assert calibration.log_density == pytest.approx(-1.42, abs=0.01)
    assert calibration.deviation_factor == pytest.approx(1.0 / said, rel=0.03)
    assert calibration.raw_coverage_90 == pytest.approx(math.erf(1.645 * said / math.sqrt(2)), abs=0.01)


def test_an_outlier_widens_the_intervals_of_others_alone() -> None:
    """Of twenty results one is far off; were its own interval made with it, its density would not be that low."""
    y = np.append(np.random.default_rng(3).normal(0.0, 1.0, 19), 40.0)
    without = calibration_of(Left(y[:-1], np.zeros(19), np.ones(19)))

    calibration = calibration_of(Left(y, np.zeros(20), np.ones(20)))

    assert calibration.raw_coverage_90 == pytest.approx(19 / 20 * without.raw_coverage_90, abs=1e-9)
    alone = without.deviation_factor
    assert 20 * calibration.log_density < -0.5 * (40.0 / alone) ** 2 - math.log(alone)


def test_equal_results_leave_nothing_to_explain() -> None:
    """R^2 is 0 then, not a division by zero."""
    assert calibration_of(Left(np.zeros(3), np.zeros(3), np.ones(3))).r_squared == 0.0


# --- slices -----------------------------------------------------------------------------------------------------------

MIXED = a_spec(
    FloatParameter("lr", 1e-4, 1.0, log=True),
    FloatParameter("drop", 0.0, 0.5),
    FloatParameter("step", 0.0, 1.0, step=0.25),
    IntParameter("width", 1, 1000),
    DiscreteParameter("batch", (64.0, 16.0, 32.0)),
    CategoricalParameter("act", tuple(f"act{i}" for i in range(120))),
)
BEST: Point = {"lr": 0.01, "drop": 0.1, "step": 0.5, "width": 10, "batch": 32.0, "act": "act3"}


def test_an_axis_follows_the_scale_of_the_search() -> None:
    """Log floats in equal ratios, linear ones in equal steps, few values all of them, choices the first hundred."""
    names = ("lr", "drop", "step", "width", "batch", "act")

    slices = explained(MIXED, lambda p: number(p, "lr"), BEST, ExplainRequest(slices=names, points=5)).slices

    axes = {shown.parameters[0]: shown.first_values for shown in slices}
    assert tuple(axes) == names
    assert axes["lr"] == pytest.approx((1e-4, 1e-3, 1e-2, 1e-1, 1.0))
    assert axes["drop"] == pytest.approx((0.0, 0.125, 0.25, 0.375, 0.5))
    assert axes["step"] == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert axes["width"][0] == 1
    assert axes["width"][-1] == 1000
    assert {type(value) for value in axes["width"]} == {int}
    assert axes["batch"] == (16.0, 32.0, 64.0)
    assert axes["act"] == tuple(f"act{i}" for i in range(100))
    assert all(len(shown.means) == len(shown.first_values) for shown in slices)
    assert slices[0].means == axes["lr"]
    assert slices[0].standard_deviations == (0.25, 1.25, 2.25, 3.25, 4.25)


def test_by_default_the_most_important_are_shown() -> None:
    """Ten slices of 25 points, in the order of importance, through the best trial."""
    spec = a_spec(*(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(12)))
    best = {f"x{i}": 0.5 for i in range(12)}

    metric = explained(spec, lambda p: sum((1 + i) * number(p, f"x{i}") for i in range(12)), best)

    assert [shown.parameters for shown in metric.slices] == [(f"x{i}",) for i in range(11, 1, -1)]
    assert {len(shown.first_values) for shown in metric.slices} == {25}
    assert metric.slices[0].means[0] == pytest.approx(0.5 * sum(range(1, 12)))


def test_a_pair_runs_over_the_second_parameter_fastest() -> None:
    """Means are row by row, and the others stay at the best trial."""
    request = ExplainRequest(slices=("lr",), pairs=(("batch", "drop"),), points=3)

    metric = explained(MIXED, lambda p: number(p, "batch") + number(p, "drop") + number(p, "step"), BEST, request)

    pair = metric.slices[1]
    assert pair.parameters == ("batch", "drop")
    assert (pair.first_values, pair.second_values) == ((16.0, 32.0, 64.0), (0.0, 0.25, 0.5))
    assert pair.means == pytest.approx([b + d + 0.5 for b in (16, 32, 64) for d in (0, 0.25, 0.5)])
    assert len(pair.standard_deviations) == 9


NESTED = a_spec(
    FloatParameter("momentum", 0.0, 1.0, condition=Condition("optimizer", ("sgd",))),
    CategoricalParameter("nesterov", (True, False), condition=Condition("optimizer", ("sgd",)), default=False),
    FloatParameter("damping", 0.0, 8.0, condition=Condition("nesterov", (True,))),
    CategoricalParameter("optimizer", ("adam", "sgd")),
)


def nested(point: Point) -> float:
    """Tells which parameters are active."""
    if point["optimizer"] == "adam":
        return -1.0
    return number(point, "momentum") + (10.0 + number(point, "damping") if point["nesterov"] is True else 0.0)


def test_a_slice_over_an_inactive_parameter_activates_its_ancestors() -> None:
    """The best trial uses adam: for damping, sgd and nesterov are switched on; momentum stands at the middle of its range."""
    request = ExplainRequest(slices=("damping", "momentum", "optimizer"), points=3)

    slices = explained(NESTED, nested, {"optimizer": "adam"}, request).slices

    assert slices[0].means == pytest.approx((10.5, 14.5, 18.5))
    assert slices[1].means == pytest.approx((0.0, 0.5, 1.0))  # nesterov at its default
    assert slices[2].first_values == ("adam", "sgd")
    assert slices[2].means == pytest.approx((-1.0, 0.5))


def test_what_is_active_at_the_best_trial_stays() -> None:
    """Ancestors that hold an activating value are left alone."""
    best = {"momentum": 0.75, "nesterov": True, "damping": 2.0, "optimizer": "sgd"}

    slices = explained(NESTED, nested, best, ExplainRequest(slices=("momentum", "nesterov"), points=2)).slices

    assert slices[0].means == pytest.approx((12.0, 13.0))
    assert slices[1].means == pytest.approx((12.75, 0.75))


def test_a_pair_of_a_parent_and_its_child() -> None:
    """Where the parent deactivates the child the model is constant along it."""
    request = ExplainRequest(slices=("optimizer",), pairs=(("optimizer", "momentum"),), points=2)

    pair = explained(NESTED, nested, {"optimizer": "adam"}, request).slices[1]

    assert pair.means == pytest.approx((-1.0, -1.0, 0.0, 1.0))


# --- the whole --------------------------------------------------------------------------------------------------------


def test_each_metric_is_explained_in_the_order_of_the_spec() -> None:
    """Objectives, then constraints, each with its own model; equal arguments give equal answers."""
    spec = StudySpec(
        SearchSpace((FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0))),
        (Objective("loss", Direction.MINIMIZE),),
        constraints=(OutcomeConstraint("memory", max=1.0),),
        algorithm=RandomSearch(),
    )
    cube = cube_of(spec)
    models = {
        "memory": Known(cube, lambda point: number(point, "y")),
        "loss": Known(cube, lambda point: number(point, "x")),
    }
    history = [success(1, {"x": 0.5, "y": 0.5}, loss=0.5, memory=0.5)]

    first, second = (explain(spec, cube, models, history, ExplainRequest()) for _ in range(2))

    assert first == second
    assert [metric.metric for metric in first.metrics] == ["loss", "memory"]
    assert [metric.importances[0].parameter for metric in first.metrics] == ["x", "y"]
    assert first.reference_trial == 1


def test_metrics_share_the_importances_that_an_answer_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each metric the largest remain; slices by default are those of the same parameters as ever."""
    monkeypatch.setattr("asktell_server.optimizers.gp.explain.MAX_IMPORTANCES", 5)
    spec = a_spec(*(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(4)), metrics=("loss", "size"))
    cube = cube_of(spec)
    models = {
        "loss": Known(cube, lambda p: sum((1 + i) * number(p, f"x{i}") for i in range(4))),
        "size": Known(cube, lambda p: sum((4 - i) * number(p, f"x{i}") for i in range(4))),
    }
    history = [success(1, {f"x{i}": 0.5 for i in range(4)}, loss=0.5, size=0.5)]

    metrics = explain(spec, cube, models, history, ExplainRequest()).metrics

    assert [[i.parameter for i in metric.importances] for metric in metrics] == [["x3", "x2"], ["x0", "x1"]]
    assert [len(metric.slices) for metric in metrics] == [4, 4]


def test_without_a_success_there_is_no_reference() -> None:
    """A study of failures has no model."""
    with pytest.raises(NoModel, match="no trial has succeeded"):
        reference_of(a_spec(FloatParameter("x", 0.0, 1.0)), [Observation(1, {"x": 0.5}, TrialState.FAILED)])


def test_the_reference_is_the_best_trial_and_the_earliest_of_equals() -> None:
    """Only succeeded ones count."""
    spec = a_spec(FloatParameter("x", 0.0, 1.0))
    pruned = Observation(1, {"x": 0.5}, TrialState.PRUNED, Measurement({"loss": -9.0}))

    reference = reference_of(
        spec, [pruned, *(success(n, {"x": n / 9}, loss=v) for n, v in ((2, 1.0), (4, 0.5), (3, 0.5)))]
    )

    assert reference.number == 4


def test_of_several_objectives_the_reference_is_near_to_the_best_of_each() -> None:
    """On the front, with each objective scaled to its range there, whatever its size."""
    spec = a_spec(FloatParameter("x", 0.0, 1.0), metrics=("loss", "size"))
    values = [(0.0, 1e300), (0.3, -7e299), (1.0, -1e300), (0.31, -6e299)]

    reference = reference_of(spec, [success(n, {"x": n / 9}, loss=a, size=b) for n, (a, b) in enumerate(values, 1)])

    assert reference.number == 2


def test_a_feasible_trial_is_preferred_and_without_one_the_least_violation() -> None:
    """However good an infeasible trial is; excess counts in units of each metric's spread."""
    spec = StudySpec(
        SearchSpace((FloatParameter("x", 0.0, 1.0),)),
        (Objective("loss", Direction.MINIMIZE),),
        constraints=(OutcomeConstraint("memory", max=1000.0), OutcomeConstraint("recall", min=0.9)),
        algorithm=RandomSearch(),
    )
    broken = [
        success(1, {"x": 0.1}, loss=0.0, memory=9000.0, recall=0.95),
        success(2, {"x": 0.2}, loss=5.0, memory=1000.0, recall=0.89),
        success(3, {"x": 0.3}, loss=0.0, memory=0.0, recall=0.5),
    ]
    kept = success(4, {"x": 0.4}, loss=9.0, memory=1000.0, recall=0.9)

    assert reference_of(spec, broken).number == 2
    assert reference_of(spec, [*broken, kept]).number == 4
