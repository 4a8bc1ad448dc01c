"""The terms of the acquisition function: values against Monte Carlo, gradients against differences."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from asktell_server.domain.algorithms import NormalPrior, OptimumPrior, WeightedPrior
from asktell_server.domain.space import FloatParameter, IntParameter, SearchSpace
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.acquisition import (
    LogExpectedImprovement,
    LogProbabilityBelow,
    NegativeMean,
    Term,
    total,
    total_and_gradient,
)
from asktell_server.optimizers.gp.kernel import EDGE, Inputs
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.gp.prior import Belief, LogBelief
from asktell_server.optimizers.gp.study_model import _believing

from .support import RICH, SPACES, SQUARE, Scene, encoded

DRAWS = 400_000


def drawn(posterior: Posterior, inputs: Inputs, seed: int = 1) -> Array:  # (H, DRAWS, m)
    """Functions drawn from the posterior, at m points together."""
    mean, covariance = posterior.joint(inputs)
    factor = np.linalg.cholesky(covariance + 1e-12 * np.eye(len(inputs)))
    normal = np.random.default_rng(seed).standard_normal((len(mean), DRAWS, len(inputs)))
    return np.asarray(mean[:, None] + normal @ factor.mT)


def priors(scene: Scene) -> list[OptimumPrior]:
    """A belief about every parameter of RICH."""
    found = []
    for parameter in scene.cube.encoding.space.parameters:
        if isinstance(parameter, FloatParameter | IntParameter):
            found.append(OptimumPrior(parameter.name, NormalPrior(float(parameter.max), 0.4)))
        else:
            found.append(
                OptimumPrior(parameter.name, WeightedPrior(((parameter.level(0), 4.0), (parameter.level(1), 1.0))))
            )
    return found


def terms_of(scene: Scene) -> dict[str, Term]:
    """One of each kind, and sums."""
    posterior = scene.posterior()
    best = posterior.predict(scene.inputs)[0].min(axis=1)
    return {
        "improvement": LogExpectedImprovement(posterior, best),
        "hopeless improvement": LogExpectedImprovement(posterior, best - 60.0),
        "sure improvement": LogExpectedImprovement(posterior, best + 60.0),
        "feasibility": LogProbabilityBelow(posterior),
        "success": LogProbabilityBelow(posterior, 0.25, 8.0),
        "cost": NegativeMean(posterior, 1.7),
        "belief": LogBelief(Belief(scene.cube, scene.layout, priors(scene)), 3),
    }


def test_expected_improvement_is_the_mean_improvement() -> None:
    """Over functions drawn from the posteriors of all hyperparameter sets, within four standard errors."""
    scene = Scene(RICH, sets=3)
    posterior = scene.posterior()
    best = posterior.predict(scene.inputs)[0].min(axis=1)

    found = np.exp(LogExpectedImprovement(posterior, best).value(scene.new))

    improvement = np.maximum(best[:, None, None] - drawn(posterior, scene.new), 0.0).reshape(-1, len(scene.new))
    error = improvement.std(axis=0) / math.sqrt(len(improvement))
    assert (np.abs(found - improvement.mean(axis=0)) < 4 * error + 1e-6).all()


@pytest.mark.parametrize("extra", [0.0, 0.25])
def test_the_probability_is_the_share_of_draws(extra: float) -> None:
    """Of being at most 0, with the variance that is added."""
    scene = Scene(RICH, sets=3)
    posterior = scene.posterior()

    found = np.exp(LogProbabilityBelow(posterior, extra).value(scene.new))

    draws = drawn(posterior, scene.new)
    draws += math.sqrt(extra) * np.random.default_rng(2).standard_normal(draws.shape)
    kept = (draws <= 0).reshape(-1, len(scene.new))
    error = np.sqrt(found * (1 - found) / len(kept))
    assert (np.abs(found - kept.mean(axis=0)) < 4 * error + 1e-6).all()


def test_a_believed_pending_point_takes_its_variance() -> None:
    """As if it had brought the mean: the mean stays everywhere, the variance is that given one more observation."""
    scene = Scene(RICH)
    posterior = scene.posterior()
    ahead = scene.new.rows(slice(0, 2))

    believed = _believing(posterior, ahead)

    theta = scene.theta
    mean, variance = believed.predict(scene.new)
    both = scene.inputs.joined(ahead)
    known = np.concatenate([scene.known_variance, np.zeros(2)])
    anew = Posterior(
        Geometry(scene.kernel, theta, both, known), np.concatenate([posterior.y, posterior.predict(ahead)[0]], axis=1)
    )
    for found, expected in zip((mean, variance), anew.predict(scene.new), strict=True):
        assert np.allclose(found, expected, rtol=1e-8, atol=1e-9)
    assert np.allclose(mean, posterior.predict(scene.new)[0], rtol=1e-8, atol=1e-9)
    assert (variance[:, :2] < posterior.predict(ahead)[1]).all()
    # The variance of draws that agree with the believed value, by conditioning the joint distribution.
    at, covariance = posterior.joint(scene.new)
    noise = np.exp(theta.noise)[:, None, None] * np.eye(2)
    gain = np.linalg.solve(covariance[:, :2, :2] + noise, covariance[:, :2]).mT
    assert at.shape == mean.shape
    left = covariance - gain @ covariance[:, :2]
    assert np.allclose(variance, left.diagonal(axis1=1, axis2=2), rtol=1e-7, atol=1e-9)
    assert _believing(posterior, None) is posterior


@pytest.mark.parametrize("name", SPACES)
def test_gradients(name: str) -> None:
    """Of each term and of their sum, by every unit, in numeric, mixed and conditional spaces."""
    scene = Scene(SPACES[name], m=3, sets=3)
    terms = {"sum": list(terms_of(scene).values())} | {key: [term] for key, term in terms_of(scene).items()}

    for key, some in terms.items():
        value, gradient = total_and_gradient(some, scene.new)

        assert np.allclose(value, total(some, scene.new), rtol=1e-9, atol=1e-9), key
        assert gradient.shape == scene.new.x.shape
        # Along directions in which every unit changes; a weighted belief jumps between levels, which gradients do not move.
        for _ in range(5):
            free = scene.cube.is_free[scene.layout.numeric]
            direction = scene.rng.standard_normal(scene.layout.p) * free

            def moved(by: float, direction: Array = direction, some: list[Term] = some) -> Array:
                return total(some, replace(scene.new, x=scene.new.x + 1e-5 * by * direction))

            expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-5
            found, size = gradient @ direction, 1.0 + np.abs(value)
            assert np.allclose(found / size, expected / size, rtol=1e-5, atol=1e-6), key


@pytest.mark.parametrize("name", SPACES)
def test_terms_are_finite_everywhere(name: str) -> None:
    """At observed points, at corners, and hundreds of deviations from anything that could improve."""
    scene = Scene(SPACES[name])
    corners, active = scene.cube.canonical(np.repeat([[0.0], [1.0]], scene.cube.dimensions, axis=1))
    inputs = scene.inputs.joined(Inputs.of(scene.layout, corners, active))
    posterior = scene.posterior()
    hopeless = LogExpectedImprovement(posterior, np.full(2, -1e5))

    for key, term in (terms_of(scene) | {"hopeless": hopeless}).items():
        value, gradient = term.value_and_gradient(inputs)
        assert np.isfinite(value).all(), key
        assert np.isfinite(gradient).all(), key


def test_a_belief_is_the_product_of_its_priors() -> None:
    """A normal density and weights, each with maximum 1, to the power of STRENGTH / n; nothing where inactive."""
    cube, _, inputs = encoded(
        RICH,
        [
            {"free": 0.5, "kind": "c"},
            {"free": -1.0, "kind": "b", "under a or b": 5},
            {"free": 0.5, "kind": "b", "under a or b": 2},
        ],
    )
    layout = Scene(RICH).layout
    belief = Belief(
        cube,
        layout,
        [
            OptimumPrior("free", NormalPrior(0.5, 0.25)),
            OptimumPrior("kind", WeightedPrior((("b", 4.0), ("a", 2.0)))),
            OptimumPrior("under a or b", NormalPrior(5.0, 0.1)),
        ],
    )

    one, other = LogBelief(belief, 1).value(inputs), LogBelief(belief, 4).value(inputs)

    # c is not listed: it has the least weight that is.
    assert float(one[1] - one[0]) == pytest.approx(
        float(one[0]) / math.log(0.5) * (-0.5 * (0.75 / 0.25) ** 2 - math.log(0.5)), rel=1e-6
    )
    assert float(one[2]) < float(one[1])
    assert np.allclose(other, one / 4)


@pytest.mark.parametrize("width", [1e-2, 1e-9, 1e-300])
def test_no_belief_is_a_certainty(width: float) -> None:
    """Far from a normal belief's mean it is a millionth of a millionth of what it is there, whatever its width, and pulls no more."""
    scene = Scene(SPACES["square"])
    term = LogBelief(Belief(scene.cube, scene.layout, [OptimumPrior("x", NormalPrior(0.5, width))]), 1)
    inputs = Inputs.of(scene.layout, np.array([[0.5, 0.1], [0.9, 0.1]]), np.ones((2, 2), dtype=np.bool_))

    value, gradient = term.value_and_gradient(inputs)

    assert value.tolist() == pytest.approx([0.0, 10.0 * math.log(1e-12)], abs=1e-9)
    assert gradient.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_draws_from_a_belief_are_where_it_is() -> None:
    """Normal inside the cube, by weight over levels, uniform where nothing is believed."""
    scene = Scene(RICH)
    belief = Belief(
        scene.cube,
        scene.layout,
        [
            OptimumPrior("free", NormalPrior(1.0, 0.01)),
            OptimumPrior("kind", WeightedPrior((("b", 8.0), ("a", 1.0)))),
        ],
    )

    units = belief.sample(np.random.default_rng(1), 4000)

    assert bool(((units >= 0) & (units <= 1)).all())
    assert float(units[:, 0].min()) > 0.95
    levels = scene.cube.levels[1]
    shares = [float(np.mean(units[:, 1] == level)) for level in levels]
    assert shares == pytest.approx([0.1, 0.8, 0.1], abs=0.03)
    assert float(units[:, 2].mean()) == pytest.approx(0.5, abs=0.03)


def test_a_belief_at_the_edge_can_be_drawn_from() -> None:
    """Also if hardly anything of the normal distribution is inside the cube, or its width is next to nothing."""
    space = SearchSpace((FloatParameter("x", 0.0, 1.0),))
    scene = Scene(space)
    for width in (1e-15, 10.0):
        belief = Belief(scene.cube, scene.layout, [OptimumPrior("x", NormalPrior(0.0, width))])

        units = belief.sample(np.random.default_rng(1), 500)

        assert bool(((units >= 0) & (units <= 1)).all())


def test_edges_do_not_break_the_warping() -> None:
    """Units 0 and 1 are kept from where the warping has no derivative."""
    scene = Scene(SQUARE)
    inputs = Inputs.of(scene.layout, np.array([[0.0, 1.0]]), np.ones((1, 2), dtype=np.bool_))

    features = scene.kernel.features(scene.theta, inputs, by_warp=True)

    assert inputs.x.tolist() == [[EDGE, 1.0 - EDGE]]
    assert features.by_warp is not None
    for part in (features.z, features.slope, features.by_warp):
        assert np.isfinite(part).all()
