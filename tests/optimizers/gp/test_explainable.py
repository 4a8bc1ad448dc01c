"""Posteriors as explanations ask for them: functions drawn, predictions, and what a whole study explains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.errors import NoModel
from asktell_server.domain.explanation import ExplainRequest
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    FloatParameter,
    IntParameter,
    Point,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.explainable import ExplainablePosterior, models_of
from asktell_server.optimizers.gp.kernel import MAX_ADDITIVE, Inputs
from asktell_server.optimizers.gp.optimizer import GpAsk
from asktell_server.optimizers.gp.study_model import StudyModel
from asktell_server.optimizers.safe_math import numerics

SPACE = SearchSpace(
    (
        FloatParameter("lr", 1e-4, 1.0, log=True),
        FloatParameter("momentum", 0.0, 1.0, condition=Condition("optimizer", ("sgd",))),
        CategoricalParameter("optimizer", ("adam", "sgd", "lion")),
        CategoricalParameter("nesterov", (False, True), condition=Condition("optimizer", ("sgd",))),
        IntParameter("layers", 1, 3),
    )
)


def loss(point: Point) -> float:
    """Smooth, with an effect of momentum where it is active."""
    return (
        (math.log10(float(point["lr"])) + 2.0) ** 2
        + (2.0 * float(point["momentum"]) if "momentum" in point else 0.5)
        + 0.1 * int(point["layers"])
    )


def a_spec(direction: Direction = Direction.MINIMIZE, constraints: tuple[OutcomeConstraint, ...] = ()) -> StudySpec:
    """A study of SPACE."""
    return StudySpec(SPACE, (Objective("loss", direction),), constraints=constraints, algorithm=GpOptimizer(), seed=5)


def history(count: int, metrics: Callable[[Point], dict[str, float]], space: SearchSpace = SPACE) -> list[Observation]:
    """Results at random points."""
    encoding, rng = Encoding(space), np.random.default_rng(11)
    points = [encoding.decode(rng.random(encoding.dimensions)) for _ in range(count)]
    return [Observation(i, p, TrialState.SUCCEEDED, Measurement(metrics(p))) for i, p in enumerate(points, 1)]


def a_model(spec: StudySpec, observations: list[Observation]) -> StudyModel:
    """The models of a study after these results."""
    model = StudyModel(spec, Encoding(spec.space))
    model.tell(observations)
    return model


def rows(model: StudyModel, count: int) -> Array:
    """Canonical codes."""
    return model.cube.canonical(np.random.default_rng(7).random((count, model.cube.dimensions)))[0]


def changed(model: StudyModel, base: Array, column: int) -> Array:
    """Other values of one column, canonical: children become active or inactive with their parent."""
    units = base.copy()
    units[:, column] = (units[:, column] + 0.5) % 1.0
    return model.cube.canonical(units)[0]


MANY = SearchSpace((*SPACE.parameters, *(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(MAX_ADDITIVE))))


@pytest.mark.parametrize(
    ("space", "column"), [*((SPACE, i) for i in range(5)), (MANY, 2), (MANY, 9)], ids=lambda value: str(value)[:1]
)
def test_functions_have_the_moments_of_the_posterior(space: SearchSpace, column: int) -> None:
    """Mean and covariance of many functions, at a and at what one column changes, are those of the posterior at these points."""
    with numerics():
        model = a_model(replace(a_spec(), space=space), history(25, lambda p: {"loss": loss(p)}, space))
        posterior, transform = model.objectives[0].posterior()
        part = ExplainablePosterior(model.cube, model.layout, posterior, transform, float)
        base = rows(model, 9)
        other = changed(model, base, column)
        drawn = np.concatenate(part.sampler(base)(other, 40_000, np.random.default_rng(1)), axis=1)
        mean, covariance = posterior.joint(_inputs(model, np.concatenate([base, other])))

    scale = float(covariance.diagonal(axis1=1, axis2=2).max())
    mixed = mean.mean(axis=0)
    expected = covariance.mean(axis=0) + (mean - mixed).mT @ (mean - mixed) / len(mean)
    assert (base != other).any()
    assert np.allclose(drawn.mean(axis=0), mixed, atol=0.03 * math.sqrt(scale))
    assert np.allclose(np.cov(drawn.T), expected, atol=0.04 * scale)


def _inputs(model: StudyModel, codes: Array) -> Inputs:
    canonical, active = model.cube.canonical(codes.copy())
    return Inputs.of(model.layout, canonical, active)


def test_predictions_are_on_the_scale_of_the_metric() -> None:
    """At observed points the mean is the result, for both directions and for both kinds of bounds."""
    constraints = (OutcomeConstraint("memory", max=3.0), OutcomeConstraint("recall", min=0.5))
    spec = a_spec(Direction.MAXIMIZE, constraints)
    observations = history(
        30, lambda p: {"loss": -100.0 * loss(p), "memory": 2.0 + loss(p), "recall": 1.0 - loss(p) / 10.0}
    )
    with numerics():
        model = a_model(spec, observations)
        codes = model.cube.encoding.encode_all(o.point for o in observations)
        predictions = {metric: part.predict(codes) for metric, part in models_of(model).items()}

    assert list(predictions) == ["loss", "memory", "recall"]
    for metric, (means, deviations) in predictions.items():
        told = np.array([o.measurement.metrics[metric] for o in observations if o.measurement])
        assert np.abs(means - told).max() < 0.2 * told.std()
        assert (deviations > 0).all()


def test_a_row_at_a_time_or_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is held at once does not matter."""
    with numerics():
        model = a_model(a_spec(), history(20, lambda point: {"loss": loss(point)}))
        (part,) = models_of(model).values()
        codes = rows(model, 7)
        at_once = part.predict(codes), part.sampler(codes)(changed(model, codes, 0), 4, np.random.default_rng(1))
        monkeypatch.setattr("asktell_server.optimizers.gp.explainable.ELEMENTS", 1)
        by_row = part.predict(codes), part.sampler(codes)(changed(model, codes, 0), 4, np.random.default_rng(1))

    for one, other in zip(at_once, by_row, strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6)


def test_results_left_out_are_standardised() -> None:
    """Whatever the transform does, the yardstick of -1.42 stays one."""
    constraints = (OutcomeConstraint("memory", max=1e6),)
    with numerics():
        model = a_model(
            a_spec(constraints=constraints), history(20, lambda p: {"loss": loss(p), "memory": 1e7 * loss(p)})
        )
        parts = models_of(model).values()

    for part in parts:
        y, mean, deviation = part.leave_one_out()
        assert y.mean() == pytest.approx(0.0, abs=1e-9)
        assert y.std() == pytest.approx(1.0)
        assert len(y) == len(mean) == len(deviation) == 20
        assert np.corrcoef(y, mean)[0, 1] > 0.5


def test_a_study_explains_itself() -> None:
    """The parameters that matter are found, the model predicts well, and a slice has its valley where the function has it."""
    optimizer = GpAsk(a_spec())
    observations = history(40, lambda point: {"loss": loss(point)})
    optimizer.tell(observations)

    explanation = optimizer.explain(ExplainRequest(slices=("lr", "momentum"), points=9))

    (metric,) = explanation.metrics
    importance = {i.parameter: i.total_effect for i in metric.importances}
    assert metric.importances[0].parameter == "lr"
    assert importance["optimizer"] > importance["layers"]
    assert importance["momentum"] > importance["layers"] > importance["nesterov"]
    assert metric.calibration.r_squared > 0.9
    assert metric.calibration.observations == 40
    valley, slope = metric.slices
    assert valley.first_values[int(np.argmin(valley.means))] == pytest.approx(0.01)
    assert slope.means[-1] - slope.means[0] == pytest.approx(2.0, abs=0.5)
    best = min(observations, key=lambda o: loss(o.point))
    assert explanation.reference_trial == best.number


@pytest.mark.parametrize("seed", range(4))
def test_noise_is_not_taken_for_what_useless_parameters_do(seed: int) -> None:
    """Results at random points, nine tenths as much noise as there is of a line along one of three parameters."""
    rng = np.random.default_rng([seed, 30, 3])
    space = SearchSpace(tuple(FloatParameter(name, 0.0, 1.0) for name in "abc"))
    units = rng.random((30, 3))
    values = 2.0 * units[:, 0] + 0.9 * np.std(2.0 * units[:, 0]) * rng.standard_normal(30)
    optimizer = GpAsk(StudySpec(space, (Objective("loss", Direction.MINIMIZE),), algorithm=GpOptimizer(), seed=seed))
    optimizer.tell(
        [
            Observation(i, dict(zip("abc", row, strict=True)), TrialState.SUCCEEDED, Measurement({"loss": value}))
            for i, (row, value) in enumerate(zip(units.tolist(), values.tolist(), strict=True), 1)
        ]
    )

    (metric,) = optimizer.explain(ExplainRequest(points=2)).metrics

    importance = {i.parameter: i.total_effect for i in metric.importances}
    assert max(importance["b"], importance["c"]) < 0.25 < 0.7 < importance["a"]


@pytest.mark.parametrize("value", [0.0, 0.3, 1e300])
def test_a_metric_that_never_varied_has_no_causes(value: float) -> None:
    """The model's functions would vary as its prior does; the results do not."""
    optimizer = GpAsk(a_spec())
    optimizer.tell(history(12, lambda _: {"loss": value}))

    (metric,) = optimizer.explain(ExplainRequest(points=2)).metrics

    assert {(i.total_effect, i.lower, i.upper) for i in metric.importances} == {(0.0, 0.0, 0.0)}
    assert np.allclose(metric.slices[0].means, value, rtol=1e-9)


def test_too_few_results_are_no_model() -> None:
    """The error says how many there are and what is missing."""
    optimizer = GpAsk(a_spec())
    optimizer.tell(history(2, lambda point: {"loss": loss(point)}))

    with pytest.raises(NoModel, match="2 have ended, 2 with a result"):
        optimizer.explain(ExplainRequest())


def test_the_threads_of_the_process_are_left_as_they_were() -> None:
    """An explanation computes on one thread and gives the others back."""
    optimizer = GpAsk(a_spec())
    optimizer.tell(history(12, lambda point: {"loss": loss(point)}))
    before = torch.get_num_threads()

    optimizer.explain(ExplainRequest(points=2))

    assert torch.get_num_threads() == before
