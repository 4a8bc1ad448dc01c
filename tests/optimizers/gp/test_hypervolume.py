"""Expected hypervolume improvement: boxes against volumes, values against Monte Carlo and BoTorch, gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.acquisition import total, total_and_gradient
from asktell_server.optimizers.gp.hypervolume import (
    Boxes,
    LogExpectedHypervolumeImprovement,
    reference_point,
    spread,
    undominated_boxes,
)
from asktell_server.optimizers.gp.model import Posterior
from asktell_server.optimizers.pareto import front

from .support import RICH, SPACES, SQUARE, Scene

DRAWS = 400_000


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
    return [Posterior(scene.geometry(), torch.from_numpy(rng.standard_normal(len(scene.y)))) for _ in range(objectives)]


def means(models: Sequence[Posterior], scene: Scene) -> Array:  # (H, n, M)
    """At the observed points."""
    return torch.stack([model.predict(scene.inputs)[0] for model in models], dim=2).numpy()


def term_of(models: Sequence[Posterior], points: Array, reference: Array) -> LogExpectedHypervolumeImprovement:
    """The term given the values (H, k, M) of which the front consists."""
    return LogExpectedHypervolumeImprovement(models, Boxes.of([undominated_boxes(own, reference) for own in points]))


class Fixed:
    """A posterior that says the same of every point; its derivatives are by mean and deviation themselves."""

    def __init__(self, mean: Tensor, deviation: Tensor) -> None:
        self.mean, self.deviation = mean[None], deviation[None]

    def predict(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Mean and variance."""
        return self.mean, self.deviation.square()


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
    mean = torch.from_numpy(rng.uniform(-0.5, 1.5, (40, objectives)))
    deviation = torch.from_numpy(10.0 ** rng.uniform(-1.5, 0.5, (40, objectives)))
    fixed: Any = [Fixed(mean[:, j], deviation[:, j]) for j in range(objectives)]

    found = term_of(fixed, points[None], reference).value(None).exp()  # type: ignore[arg-type]

    partitioning = NondominatedPartitioning(-torch.from_numpy(reference), -torch.from_numpy(points))
    for i in range(40):
        model = MockModel(MockPosterior(mean=-mean[i][None], variance=deviation[i][None].square()))
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

    found = term_of(models, points, reference).value(scene.new).exp()

    rng = np.random.default_rng(4)
    moments = [model.predict(scene.new) for model in models]
    gains = []
    for h in range(3):
        lower, upper = undominated_boxes(points[h], reference)
        draws = np.stack(
            [
                mean[h].numpy() + variance[h].sqrt().numpy() * rng.standard_normal((DRAWS // 40, 7))
                for mean, variance in moments
            ],
            axis=2,
        )
        gains.append(np.maximum(upper - np.maximum(lower, draws[:, :, None]), 0.0).prod(axis=3).sum(axis=2))
    gain = np.concatenate(gains)
    error = gain.std(axis=0) / math.sqrt(len(gain))
    assert bool((np.abs(found.numpy() - gain.mean(axis=0)) < 4 * error + 1e-6).all())


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("objectives", [2, 3])
def test_gradients(name: str, objectives: int) -> None:
    """By every unit, in numeric, mixed and conditional spaces; also where no improvement is in sight."""
    scene = Scene(SPACES[name], m=3, sets=2)
    models = posteriors(scene, objectives)
    points = means(models, scene)
    for shift in (0.0, 30.0):
        some = [term_of(models, points - shift, np.full(objectives, 1.0 - shift))]

        value, gradient = total_and_gradient(some, scene.new)

        assert torch.allclose(value, total(some, scene.new), rtol=1e-9, atol=1e-9)
        for i in range(scene.layout.p):
            step = torch.zeros_like(scene.new.x)
            step[:, i] = 1e-5

            def moved(by: float, step: Tensor = step, some: Any = some) -> Tensor:
                return total(some, replace(scene.new, x=scene.new.x + by * step))

            expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-5
            size = 1.0 + value.abs()
            assert torch.allclose(gradient[:, i] / size, expected / size, rtol=1e-5, atol=1e-6), (shift, i)


def test_it_is_alive_where_nothing_is_to_be_gained() -> None:
    """Where the gain is 1e-100 and far less, value and gradient are finite and lead towards the front."""
    points, reference = values(5, 2)[None], np.full(2, 1.1)
    previous = math.inf
    for distance in (1.0, 2.0, 10.0, 1e4):
        fixed: Any = [Fixed(torch.tensor([1.0 + distance]), torch.tensor([0.05])) for _ in range(2)]
        value = float(term_of(fixed, points, reference).value(None)[0])  # type: ignore[arg-type]
        assert math.isfinite(value)
        assert value < previous
        previous = value
    assert previous < -1e9
    scene = Scene(SQUARE)
    models = posteriors(scene, 3)
    far = means(models, scene) - 1e5
    hopeless, gradient = term_of(models, far, np.full(3, -1e5 + 1.0)).value_and_gradient(scene.inputs.joined(scene.new))
    assert float(hopeless.max()) < math.log(1e-100)
    assert bool(torch.isfinite(gradient).all())
    assert bool((gradient.abs().max(dim=1).values > 0).all())


def test_sets_may_have_fronts_of_different_length() -> None:
    """The mean over sets is that of each alone, and one set of hyperparameters may serve for all sets of another objective."""
    scene = Scene(RICH, sets=2)
    single = Scene(RICH, sets=1, seed=2)
    several, one = posteriors(scene, 2)[0], posteriors(single, 2)[1]
    reference = np.ones(2)
    points = [values(3, 2), values(8, 2, seed=5)]
    corners = [undominated_boxes(own, reference) for own in points]

    together, gradient = LogExpectedHypervolumeImprovement([several, one], Boxes.of(corners)).value_and_gradient(
        scene.new
    )

    alone = [
        LogExpectedHypervolumeImprovement([several, one], Boxes.of([own, own])).value_and_gradient(scene.new)
        for own in corners
    ]
    assert len(corners[0][0]) != len(corners[1][0])
    both = torch.stack([value for value, _ in alone])
    assert bool((together <= both.max(dim=0).values + 1.0).all())
    assert gradient.shape == scene.new.x.shape


def test_the_reference_is_beyond_the_front() -> None:
    """In every objective, also if the front is a single point or all values are the same."""
    for points in (values(9, 3), np.array([[0.0, 0.0], [1.0, 2.0]]), np.ones((3, 2))):
        reference = reference_point(points)

        assert bool((points[front(points)] < reference).all())


def test_a_front_is_spread_from_its_ends() -> None:
    """The best of each objective, then what is farthest from those; never more than there is."""
    line = np.column_stack([np.arange(11.0), 10.0 - np.arange(11.0)])

    assert spread(line, 4).tolist()[:3] == [0, 10, 5]
    assert len(set(spread(line, 4).tolist())) == 4
    assert sorted(spread(line, 50).tolist()) == list(range(11))
    assert spread(line[:1], 5).tolist() == [0]
    assert spread(np.ones((3, 2)), 5).tolist() == [0]
