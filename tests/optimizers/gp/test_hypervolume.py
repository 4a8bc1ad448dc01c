"""Expected hypervolume improvement: boxes against volumes, values against Monte Carlo and BoTorch, gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import special

from asktell_server.domain.algorithms import GpOptimizer, RandomSearch
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import FloatParameter, Point, SearchSpace
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.acquisition import total, total_and_gradient
from asktell_server.optimizers.gp.hypervolume import (
    Boxes,
    LogChanceOfCorners,
    LogExpectedHypervolumeImprovement,
    _learnable,
    corners_of,
    merit,
    reference_point,
    spread,
    undominated_boxes,
)
from asktell_server.optimizers.gp.kernel import Inputs
from asktell_server.optimizers.gp.metric import FitConfig
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.gp.search import SearchConfig
from asktell_server.optimizers.gp.study_model import Effort, StudyModel
from asktell_server.optimizers.pareto import front
from asktell_server.optimizers.registry import create_optimizer

from .support import RICH, SPACES, SQUARE, Scene, optimizer

DRAWS = 400_000
MODEST = Effort(
    fit=FitConfig(starts=2, calls=25, sets=2, averaged=8, rounds=2),
    search=SearchConfig(anywhere=128, near=64, starts=3, rounds=1, calls=20),
)


def values(k: int, objectives: int, seed: int = 1) -> Array:  # (k, M)
    """Points on a sphere, some of them pushed away from it."""
    rng = np.random.default_rng(seed)
    directions = np.abs(rng.standard_normal((k, objectives)))
    directions /= np.linalg.norm(directions, axis=1)[:, None]
    return np.asarray(1.0 - directions * rng.choice([1.0, 0.8, 0.5], k)[:, None])


def volume(corners: tuple[Array, Array], lowest: float) -> float:
    """Of boxes that are cut off at `lowest`."""
    lower, upper = corners
    return float(np.prod(np.maximum(upper - np.maximum(lower, lowest), 0.0), axis=1).sum())


def posteriors(scene: Scene, objectives: int) -> list[Posterior]:
    """One for each objective, all for the same points."""
    rng = np.random.default_rng(7)
    return [Posterior(scene.geometry(), rng.standard_normal(len(scene.y))) for _ in range(objectives)]


def means(models: Sequence[Posterior], scene: Scene) -> Array:  # (H, n, M)
    """At the observed points."""
    return np.stack([model.predict(scene.inputs)[0] for model in models], axis=2)


def term_of(models: Sequence[Posterior], points: Array, reference: Array) -> LogExpectedHypervolumeImprovement:
    """The term given the values (H, k, M) of which the front consists."""
    return LogExpectedHypervolumeImprovement(models, Boxes.of([undominated_boxes(own, reference) for own in points]))


def learned(model: Posterior, inputs: Inputs) -> tuple[Array, Array]:  # (H, m), (H, m)
    """Mean and variance of the mean as it will be once there is a measurement."""
    mean, variance = model.predict(inputs)
    return mean, np.square(variance) / (variance + model.geometry.noise()[:, None])


class Noiseless:
    """Where measurements are exact."""

    def noise(self) -> Array:
        """None."""
        return np.zeros(1)


class Fixed:
    """A posterior that is given by its moments."""

    geometry = Noiseless()

    def __init__(self, mean: Array, deviation: Array) -> None:  # (m,) or (H, m)
        self.mean, self.deviation = mean.reshape(-1, mean.shape[-1]), deviation.reshape(-1, mean.shape[-1])

    def predict(self, inputs: Any) -> tuple[Array, Array]:
        """Mean and variance."""
        return self.mean, np.square(self.deviation)


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("k", [1, 2, 13])
def test_boxes_hold_exactly_what_is_not_dominated(objectives: int, k: int) -> None:
    """Each point below the reference lies in one box if no point of the front dominates it, in none if one does."""
    points = values(k, objectives)
    reference = np.full(objectives, 1.1)
    lower, upper = undominated_boxes(points, reference)

    new = np.random.default_rng(2).uniform(-0.5, 1.1, (20_000, objectives))
    count = ((lower[:, None] < new) & (new <= upper[:, None])).all(axis=2).sum(axis=0)

    dominated = (points[:, None] <= new).all(axis=2).any(axis=0)
    assert np.array_equal(count, np.where(dominated, 0, 1))


@pytest.mark.parametrize("objectives", [2, 3, 4, 5])
def test_volumes_are_those_of_botorch(objectives: int) -> None:
    """What is left of a box is what the front dominates; ties and repetitions do no harm."""
    from botorch.utils.multi_objective.box_decompositions.dominated import DominatedPartitioning

    points = np.round(values(15, objectives), 1)
    points = np.concatenate([points, points[:2]])
    reference = np.full(objectives, 1.1)

    found = (1.1 + 1.0) ** objectives - volume(undominated_boxes(points, reference), -1.0)

    expected = DominatedPartitioning(-torch.from_numpy(reference), -torch.from_numpy(points)).compute_hypervolume()
    assert found == pytest.approx(float(expected), rel=1e-9)


def test_a_front_that_is_all_beyond_the_reference_leaves_one_box() -> None:
    """Then all that is below the reference counts."""
    for objectives in (2, 3):
        lower, upper = undominated_boxes(np.full((2, objectives), 3.0), np.ones(objectives))

        assert lower.tolist() == [[-np.inf] * objectives]
        assert upper.tolist() == [[1.0] * objectives]


@pytest.mark.parametrize("objectives", [2, 3])
def test_it_is_that_of_botorch(objectives: int) -> None:
    """The analytic ExpectedHypervolumeImprovement, on a fixed front, for means on both sides of it."""
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions.non_dominated import NondominatedPartitioning
    from botorch.utils.testing import MockModel, MockPosterior

    points = values(9, objectives)
    reference = np.full(objectives, 1.1)
    rng = np.random.default_rng(3)
    mean = rng.uniform(-0.5, 1.5, (40, objectives))
    deviation = 10.0 ** rng.uniform(-1.5, 0.5, (40, objectives))
    fixed: Any = [Fixed(mean[:, j], deviation[:, j]) for j in range(objectives)]

    found = np.exp(term_of(fixed, points[None], reference).value(None))

    partitioning = NondominatedPartitioning(-torch.from_numpy(reference), -torch.from_numpy(points))
    for i in range(40):
        moments = torch.from_numpy(-mean[i][None]), torch.from_numpy(np.square(deviation[i])[None])
        model = MockModel(MockPosterior(mean=moments[0], variance=moments[1]))
        peer = ExpectedHypervolumeImprovement(model, (-reference).tolist(), partitioning)
        expected = float(peer(torch.zeros((1, 1, 1), dtype=torch.float64)))
        assert float(found[i]) == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("objectives", [2, 3])
def test_it_is_the_mean_gain(objectives: int) -> None:
    """Over independent normal outcomes of all hyperparameter sets, within four standard errors."""
    scene = Scene(RICH, sets=3)
    models = posteriors(scene, objectives)
    points = means(models, scene)
    reference = np.full(objectives, 1.0)

    found = np.exp(term_of(models, points, reference).value(scene.new))

    rng = np.random.default_rng(4)
    moments = [learned(model, scene.new) for model in models]
    gains = []
    for h in range(3):
        lower, upper = undominated_boxes(points[h], reference)
        draws = np.stack(
            [mean[h] + np.sqrt(variance[h]) * rng.standard_normal((DRAWS // 40, 7)) for mean, variance in moments],
            axis=2,
        )
        gains.append(np.maximum(upper - np.maximum(lower, draws[:, :, None]), 0.0).prod(axis=3).sum(axis=2))
    gain = np.concatenate(gains)
    error = gain.std(axis=0) / math.sqrt(len(gain))
    assert bool((np.abs(found - gain.mean(axis=0)) < 4 * error + 1e-6).all())


@pytest.mark.parametrize("name", ["square", "rich"])
@pytest.mark.parametrize("objectives", [2, 3])
def test_gradients(name: str, objectives: int) -> None:
    """By every unit; also where no improvement is in sight."""
    scene = Scene(SPACES[name], m=3, sets=2)
    models = posteriors(scene, objectives)
    points = means(models, scene)
    for shift in (0.0, 30.0):
        some = [term_of(models, points - shift, np.full(objectives, 1.0 - shift))]

        value, gradient = total_and_gradient(some, scene.new)

        assert np.allclose(value, total(some, scene.new), rtol=1e-9, atol=1e-9)
        for i in range(scene.layout.p):
            step = np.zeros_like(scene.new.x)
            step[:, i] = 1e-5

            def moved(by: float, step: Array = step, some: Any = some) -> Array:
                return total(some, replace(scene.new, x=scene.new.x + by * step))

            expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-5
            size = 1.0 + np.abs(value)
            assert np.allclose(gradient[:, i] / size, expected / size, rtol=1e-5, atol=1e-6), (shift, i)


def test_it_is_alive_where_nothing_is_to_be_gained() -> None:
    """Where the gain is 1e-100 and far less, value and gradient are finite and lead towards the front."""
    points, reference = values(5, 2)[None], np.full(2, 1.1)
    previous = math.inf
    for distance in (1.0, 2.0, 10.0, 1e4):
        fixed: Any = [Fixed(np.array([1.0 + distance]), np.array([0.05])) for _ in range(2)]
        value = float(term_of(fixed, points, reference).value(None)[0])
        assert math.isfinite(value)
        assert value < previous
        previous = value
    assert previous < -1e9
    scene = Scene(SQUARE)
    models = posteriors(scene, 3)
    far = means(models, scene) - 1e5
    hopeless, gradient = term_of(models, far, np.full(3, -1e5 + 1.0)).value_and_gradient(scene.inputs.joined(scene.new))
    assert float(hopeless.max()) < math.log(1e-100)
    assert np.isfinite(gradient).all()
    assert (np.abs(gradient).max(axis=1) > 0).all()


def test_sets_may_have_fronts_of_different_length() -> None:
    """The result is the mean over sets of what each gives alone; one set of an objective may serve for all of another."""
    rng = np.random.default_rng(5)
    mean, deviation = rng.uniform(0.0, 1.0, (2, 6)), rng.uniform(0.1, 0.5, (2, 6))
    shared: Any = Fixed(rng.uniform(0.0, 1.0, 6), np.full(6, 0.3))
    corners = [undominated_boxes(own, np.ones(2)) for own in (values(3, 2), values(8, 2, seed=5))]
    assert len(corners[0][0]) != len(corners[1][0])

    def term(models: list[Any], own: list[tuple[Array, Array]]) -> Array:
        return np.asarray(np.exp(LogExpectedHypervolumeImprovement(models, Boxes.of(own)).value(None)))

    together = term([Fixed(mean, deviation), shared], corners)

    alone = [term([Fixed(mean[h], deviation[h]), shared], [corners[h]]) for h in range(2)]
    assert np.allclose(together, np.mean(alone, axis=0), rtol=1e-12)


def test_many_objectives_count_chances_of_corners() -> None:
    """Corners are dominated by no point of the front, their chances are those of drawn outcomes, and gradients are right."""
    objectives = 6
    rng = np.random.default_rng(8)
    points = values(30, objectives)
    corners, log_weights = corners_of([points, points[:9]], [np.full(objectives, 1.1)] * 2, rng)
    for own, of_set in zip((points, points[:9]), corners, strict=True):
        assert not bool((own[:, None] <= of_set).all(axis=2).any())
    scene = Scene(RICH, sets=2)
    models = posteriors(scene, objectives)
    term = LogChanceOfCorners(models, corners, log_weights)

    value, gradient = term.value_and_gradient(scene.new)

    assert np.allclose(value, term.value(scene.new), rtol=1e-12)
    moments = [learned(model, scene.new) for model in models]
    expected = np.tile(log_weights, (2, 7, 1))
    for j, (mean, variance) in enumerate(moments):
        u = (corners[:, None, :, j] - mean[:, :, None]) / np.sqrt(variance)[:, :, None]
        expected += special.log_ndtr(u)
    assert np.allclose(value, np.log(np.exp(expected).sum(axis=2).mean(axis=0)), rtol=1e-9)
    step = np.zeros_like(scene.new.x)
    step[:, 0] = 1e-5
    ahead, behind = (term.value(replace(scene.new, x=scene.new.x + sign * step)) for sign in (1, -1))
    assert np.allclose(gradient[:, 0], (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-5)


def test_what_is_worth_keeping() -> None:
    """The front comes first, whatever the scales; what is last in everything comes last."""
    points = np.concatenate([values(40, 2), [[5.0, 5.0]]]) * np.array([1e6, 1e-3])

    found = merit(points)

    assert found.argmax() == 40
    kept = np.argsort(found, kind="stable")[:20]
    assert set(front(points).tolist()) <= set(kept.tolist())


def zdt1(point: Point) -> list[float]:
    """A front that is convex, in three dimensions [Zitzler, Deb, Thiele 2000]."""
    x = [float(value) for value in point.values()]
    g = 1.0 + 9.0 * sum(x[1:]) / (len(x) - 1)
    return [x[0], g * (1.0 - math.sqrt(x[0] / g))]


def dominated(losses: list[list[float]], reference: float = 11.0) -> float:
    """The hypervolume."""
    return (reference + 1.0) ** 2 - volume(undominated_boxes(np.array(losses), np.full(2, reference)), -1.0)


CUBE = SearchSpace(tuple(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(3)))


def several(losses: Callable[[Point], list[float]], trials: int, spec: StudySpec, q: int = 1) -> list[list[float]]:
    """What `trials` trials bring, q at a time."""
    made = optimizer(spec, effort=MODEST)
    found: list[list[float]] = []
    pending: list[Point] = []
    for number in range(1, trials + 1):
        while len(pending) < q:
            pending.append(made.ask(number + len(pending), pending).suggestion.point)
        point = pending.pop(0)
        found.append(losses(point))
        metrics = dict(zip("abcdef", found[-1], strict=False))
        made.tell([Observation(number, point, TrialState.SUCCEEDED, Measurement(metrics))])
    return found


def study_of(objectives: str, constraints: Sequence[OutcomeConstraint] = ()) -> StudySpec:
    """A study of CUBE that minimises metrics of one letter each."""
    return StudySpec(
        CUBE,
        tuple(Objective(name, Direction.MINIMIZE) for name in objectives),
        constraints=tuple(constraints),
        algorithm=GpOptimizer(initial_points=5),
        seed=1,
    )


@pytest.mark.parametrize("q", [1, 3])
def test_it_finds_the_front(q: int) -> None:
    """Of ZDT1, of whose 120 and 2/3 random points leave far more, within 25 trials, one or three at a time."""
    found = dominated(several(zdt1, 25, study_of("ab"), q))
    sampler = create_optimizer(replace(study_of("ab"), algorithm=RandomSearch()))
    blind = dominated([zdt1(sampler.ask(number, []).suggestion.point) for number in range(1, 26)])

    assert found > 119.0
    assert found > blind + 3.0


def test_objectives_that_are_zero_on_most_of_the_front() -> None:
    """DTLZ2's first trials with sine and cosine as computed, so that zeros are 1e-17: predictions stay of the objectives' size."""
    spec = study_of("abc")
    rng = np.random.default_rng(3)
    history = []
    for number in range(1, 25):
        x = np.where(rng.random(4) < 0.5, rng.integers(0, 2, 4), rng.random(4))
        radius, first, second = 1.0 + (x[2] - 0.4) ** 2 + (x[3] - 0.6) ** 2, x[0] * math.pi / 2, x[1] * math.pi / 2
        losses = (math.cos(first) * math.cos(second), math.cos(first) * math.sin(second), math.sin(first))
        point = {f"x{i}": float(value) for i, value in enumerate(x)}
        metrics = {name: radius * loss for name, loss in zip("abc", losses, strict=True)}
        history.append(Observation(number, point, TrialState.SUCCEEDED, Measurement(metrics)))
    wide = replace(spec, space=SearchSpace(tuple(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(4))))

    predictions = optimizer(wide, history, MODEST).ask(25, []).suggestion.predictions

    for prediction in predictions.values():
        assert abs(prediction.mean) < 5.0
        assert prediction.standard_deviation < 5.0


@pytest.mark.parametrize("feasible", ["all", "some", "late", "none"])
def test_the_front_of_the_first_results(feasible: str) -> None:
    """However many are asked for and in whichever order, it is the front of those among them that can be the best, or of all."""
    spec = study_of("abc", [OutcomeConstraint("k", max=0.0)])
    rng = np.random.default_rng(4)
    points = rng.random((40, 3))
    share, first = {"all": (1.0, 0), "some": (0.4, 0), "late": (1.0, 26), "none": (0.0, 0)}[feasible]
    kept = (rng.random(40) < share) & (np.arange(40) >= first)
    losses = rng.integers(0, 6, (40, 3)).astype(float)
    model = StudyModel(spec, Encoding(spec.space))
    for number, (point, values, can) in enumerate(zip(points, losses, kept, strict=True), 1):
        metrics = dict(zip("abc", values.tolist(), strict=True)) | {"k": 0.0 if can else 1.0}
        at = dict(zip(spec.space.by_name, point.tolist(), strict=True))
        model.tell([Observation(number, at, TrialState.SUCCEEDED, Measurement(metrics))])

    for n in (7, 30, 12, 31, 40, 26, 39, 1):
        rows = np.arange(n)
        rows = rows[kept[:n]] if kept[:n].any() else rows
        assert model._front(n).tolist() == rows[front(losses[rows])].tolist()


def test_the_front_is_one_of_feasible_points() -> None:
    """With half of the space forbidden, what is best there attracts no further trials."""

    def losses(point: Point) -> list[float]:
        return [*zdt1(point), 0.5 - float(point["x0"])]

    found = several(losses, 25, study_of("ab", [OutcomeConstraint("c", max=0.0)]))

    late = [row for row in found[10:] if row[2] <= 0.05]
    assert len(late) >= 11
    assert any(row[2] <= 0 and row[0] < 0.55 and row[1] < 0.4 for row in found)


def test_six_objectives() -> None:
    """Distances to six corners: trials gather between these, and predictions are given for all."""
    corners = np.random.default_rng(1).uniform(0.3, 0.7, (6, 3))

    def losses(point: Point) -> list[float]:
        return np.linalg.norm(corners - np.array(list(point.values()), dtype=np.float64), axis=1).tolist()

    found = np.array(several(losses, 14, study_of("abcdef")))

    assert found[5:].mean() < found[:5].mean()


def test_the_same_history_gives_the_same_point() -> None:
    """Told at once or one by one, with pending points, for two objectives and for six; all objectives are predicted."""
    for names in ("ab", "abcdef"):
        spec = study_of(names)
        sampler = create_optimizer(replace(spec, algorithm=RandomSearch()))
        points = [sampler.ask(number, []).suggestion.point for number in range(1, 11)]
        history = []
        for number, point in enumerate(points[:9], 1):
            metrics = {name: (float(point["x0"]) - 0.1 * i) ** 2 + float(point["x1"]) for i, name in enumerate(names)}
            history.append(Observation(number, point, TrialState.SUCCEEDED, Measurement(metrics)))
        at_once, one_by_one = optimizer(spec, history, MODEST), optimizer(spec, history[:6], MODEST)
        for observation in history[6:]:
            one_by_one.ask(observation.number, [])
            one_by_one.tell([observation])

        found = [made.ask(11, points[9:]).suggestion for made in (at_once, one_by_one)]

        assert found[0] == found[1]
        assert set(found[0].predictions) == set(names)


def test_a_reference_is_beyond_the_front() -> None:
    """In every objective, the far one beyond all values, also if the front is a single point or all values are the same."""
    for points in (values(9, 3), np.array([[0.0, 0.0], [1.0, 2.0]]), np.ones((3, 2))):
        near, far = reference_point(points, is_far=False), reference_point(points, is_far=True)

        assert bool((points[front(points)] < near).all())
        assert bool((points < far).all())
        assert bool((near <= far).all())


def test_a_measurement_moves_the_mean_as_expected() -> None:
    """With variance v and noise, an outcome one off moves it by v / (v + noise); so its variance is v^2 / (v + noise)."""
    scene = Scene(RICH, sets=2)
    model = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs, np.zeros(12)), scene.y)
    at = scene.new.rows(slice(0, 1))
    mean, variance = model.predict(at)
    known = np.zeros(1)

    up, down = (model.extended(at, known, mean + off).predict(at)[0] for off in (0.5, -0.5))

    noise = np.exp(scene.theta.noise)
    assert np.allclose(model.geometry.noise(), noise, rtol=1e-9)
    found, slope = _learnable(model, variance)
    # The constant of the model moves a little as well.
    assert np.allclose(((up - down) ** 2 * (variance + noise[:, None]))[:, 0], found[:, 0], rtol=0.05)
    ahead, behind = (_learnable(model, variance * (1 + off))[0] for off in (1e-6, -1e-6))
    assert np.allclose((ahead - behind) / (2e-6 * variance), slope, rtol=1e-6)


def test_a_front_is_spread_from_its_ends() -> None:
    """The best of each objective, then what is farthest from those; never more than there is."""
    line = np.column_stack([np.arange(11.0), 10.0 - np.arange(11.0)])

    assert spread(line, 4).tolist()[:3] == [0, 10, 5]
    assert len(set(spread(line, 4).tolist())) == 4
    assert sorted(spread(line, 50).tolist()) == list(range(11))
    assert spread(line[:1], 5).tolist() == [0]
    assert spread(np.ones((3, 2)), 5).tolist() == [0]
