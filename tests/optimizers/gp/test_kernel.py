"""The covariance function and the posterior against GPyTorch, autograd, and sums written out entry by entry."""

from __future__ import annotations

from dataclasses import replace

import gpytorch
import numpy as np
import pytest
import torch
from torch import Tensor

from asktell_server.domain.space import SearchSpace
from asktell_server.optimizers.gp.kernel import Hyperparameters, Inputs
from asktell_server.optimizers.gp.model import (
    Data,
    Geometry,
    Posterior,
    Priors,
    fit,
    log_posterior,
    noise_variance,
    prior_mean,
)
from asktell_server.optimizers.safe_math import NumericalError

from .support import SPACES, Scene

TIGHT = {"rtol": 1e-8, "atol": 1e-9}
pytestmark = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


class EmbeddedKernel(gpytorch.kernels.Kernel):
    """The kernel of the head of kernel.py put together from GPyTorch's, on embedded inputs, for one hyperparameter set.

    Columns: the embedding of each numeric dimension (two for a conditional one), then 1 / sqrt 2 at the choice of each
    categorical one, so that different choices are at distance 1.
    """

    def __init__(self, scene: Scene, s: int) -> None:
        super().__init__()
        layout = scene.layout
        d = layout.size
        lengths = scene.theta.lengthscale[s].exp()
        self.columns = _columns(scene)
        owners = [i for i, columns in enumerate(self.columns) for _ in columns]
        joint = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=len(owners)).double()
        joint.lengthscale = lengths[owners]
        first = gpytorch.kernels.ScaleKernel(joint).double()
        first.outputscale = scene.theta.scale[s].exp()
        self.parts = torch.nn.ModuleList([first])
        for i, columns in enumerate(self.columns):
            single = gpytorch.kernels.MaternKernel(nu=2.5, active_dims=columns).double()
            single.lengthscale = lengths[i] / np.sqrt(d)
            scaled = gpytorch.kernels.ScaleKernel(single).double()
            scaled.outputscale = scene.theta.additive[s].exp() / d
            if scene.kernel.is_additive:
                self.parts.append(scaled)

    def forward(self, x1: Tensor, x2: Tensor, diag: bool = False, **params: object) -> Tensor:
        """The sum of the parts."""
        parts = [part(x1, x2) for part in self.parts]
        found = sum((part.to_dense() for part in parts), start=torch.zeros((), dtype=torch.float64))
        return found.diagonal(dim1=-2, dim2=-1) if diag else found


def _columns(scene: Scene) -> list[list[int]]:
    """The embedded columns of each dimension."""
    found: list[list[int]] = []
    at = 0
    for i in range(scene.layout.size):
        if i < scene.layout.p:
            width = 2 if i in scene.layout.conditional else 1
        else:
            width = len(scene.cube.levels[int(scene.layout.categorical[i - scene.layout.p])]) + 1
        found.append(list(range(at, at + width)))
        at += width
    return found


def embedded(scene: Scene, s: int, inputs: Inputs) -> Tensor:  # (n, columns)
    """Warped, on the arc where conditional, one-hot where categorical."""
    columns = []
    for i in range(scene.layout.p):
        a, b = scene.theta.warp[s, :, i].exp()
        w = 1.0 - (1.0 - inputs.x[:, i] ** a) ** b
        if i in scene.layout.conditional:
            columns += [(w - 0.5).sin() * inputs.active[:, i], (w - 0.5).cos() * inputs.active[:, i]]
        else:
            columns.append(w)
    for j in range(scene.layout.size - scene.layout.p):
        levels = [-1.0, *scene.cube.levels[int(scene.layout.categorical[j])]]
        columns += [(inputs.choice[:, j] == level).to(torch.float64) / np.sqrt(2.0) for level in levels]
    return torch.stack(columns, dim=1)


class Exact(gpytorch.models.ExactGP):
    """GPyTorch's process with that kernel and a constant mean."""

    def __init__(self, scene: Scene, s: int, constant: Tensor) -> None:
        known = scene.known_variance
        noise = torch.where(known > 0, known + 1e-8, scene.theta.noise[s].exp())
        likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(noise)
        super().__init__(embedded(scene, s, scene.inputs), scene.y, likelihood)
        self.mean_module = gpytorch.means.ConstantMean().double()
        self.mean_module.constant = constant
        self.covar_module = EmbeddedKernel(scene, s)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        """The process at x."""
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def exactly() -> gpytorch.settings.fast_computations:
    """GPyTorch without approximations."""
    return gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False)


def test_the_covariance_is_what_its_head_says(space: SearchSpace) -> None:
    """Every entry, of numeric, conditional and categorical dimensions, at equal and at different points."""
    scene = Scene(space, n=6, m=4)
    kernel, theta = scene.kernel, scene.theta
    one, other = (kernel.features(theta, inputs) for inputs in (scene.new, scene.inputs))

    assert torch.allclose(kernel.covariance(theta, one, other), scene.dense(theta, scene.new, scene.inputs), **TIGHT)
    assert torch.allclose(
        kernel.covariance(theta, other, other), scene.dense(theta, scene.inputs, scene.inputs), **TIGHT
    )
    diagonal = kernel.covariance(theta, one, one).diagonal(dim1=1, dim2=2)
    assert torch.allclose(diagonal, kernel.variance(theta)[:, None].expand_as(diagonal), rtol=1e-14)


def test_the_covariance_is_positive_definite(space: SearchSpace) -> None:
    """Also for points of every pattern of activity together: no eigenvalue is below rounding."""
    scene = Scene(space, n=60, sets=3)
    features = scene.kernel.features(scene.theta, scene.inputs)

    eigenvalues = torch.linalg.eigvalsh(scene.kernel.covariance(scene.theta, features, features))

    assert float((eigenvalues[:, 0] / eigenvalues[:, -1]).min()) > -1e-13


def test_the_posterior_is_that_of_gpytorch(space: SearchSpace) -> None:
    """Mean, covariance and log marginal likelihood, with the same kernel put together from GPyTorch's own."""
    scene = Scene(space)
    posterior = scene.posterior()
    mean, covariance = posterior.joint(scene.new)
    no_prior = tuple(torch.full_like(t, v) for t, v in zip(scene.table, (0.0, torch.inf, 0.0, 0.0), strict=True))
    value, _ = log_posterior(scene.kernel, scene.packed, Data(scene.inputs, scene.y, scene.known_variance), no_prior)

    for s in range(2):
        model = Exact(scene, s, posterior.constant[s]).double()
        with exactly(), gpytorch.settings.prior_mode(state=True), torch.no_grad():
            prior = model(embedded(scene, s, scene.inputs))
            likelihood = model.likelihood(prior).log_prob(scene.y)
        model.eval()
        with exactly(), torch.no_grad():
            expected = model(embedded(scene, s, scene.new))

        assert torch.allclose(mean[s], expected.mean, **TIGHT)
        assert torch.allclose(covariance[s], expected.covariance_matrix, **TIGHT)
        assert torch.allclose(value[s], likelihood, **TIGHT)


def test_the_posterior_is_that_of_dense_algebra(space: SearchSpace) -> None:
    """Rasmussen & Williams 2006, eqs. 2.25, 2.26 and 5.8, with inverses written out; marginals are those of the joint."""
    scene = Scene(space)
    posterior = scene.posterior()
    covariance = scene.dense_covariance(scene.theta)
    inverse = torch.linalg.inv(covariance)
    cross = scene.dense(scene.theta, scene.new, scene.inputs)
    ones = torch.ones(len(scene.y), dtype=torch.float64)
    constant = (inverse @ scene.y @ ones) / (inverse @ ones @ ones)
    residual = scene.y - constant[:, None]
    expected_mean = constant[:, None] + (cross @ inverse @ residual[:, :, None])[:, :, 0]
    expected = scene.dense(scene.theta, scene.new, scene.new) - cross @ inverse @ cross.mT
    value = -0.5 * (residual[:, None] @ inverse @ residual[:, :, None])[:, 0, 0] - 0.5 * torch.logdet(
        2.0 * torch.pi * covariance
    )
    off = (scene.packed - scene.table[0]) / scene.table[1]

    mean, joint = posterior.joint(scene.new)
    alone, variance = posterior.predict(scene.new)
    found, _ = log_posterior(scene.kernel, scene.packed, Data(scene.inputs, scene.y, scene.known_variance), scene.table)

    assert torch.allclose(mean, expected_mean, **TIGHT)
    assert torch.allclose(joint, expected, **TIGHT)
    assert torch.allclose(alone, mean, rtol=1e-12)
    assert torch.allclose(variance, joint.diagonal(dim1=1, dim2=2), rtol=1e-10)
    assert torch.allclose(found, value - 0.5 * off.square().sum(dim=1), **TIGHT)


def test_the_mean_where_was_observed(space: SearchSpace) -> None:
    """Found without the kernel it is the mean that is predicted there, of observations that were added too."""
    scene = Scene(space)
    posterior = scene.posterior()
    longer = posterior.extended(
        scene.new, torch.zeros(len(scene.new), dtype=torch.float64), posterior.predict(scene.new)[0] + 0.3
    )

    for one in (posterior, longer):
        assert torch.allclose(one.mean_observed(), one.predict(one.geometry.inputs)[0], **TIGHT)


def test_the_constant_maximises_the_likelihood(space: SearchSpace) -> None:
    """No other constant mean makes the outcomes likelier."""
    scene = Scene(space)
    covariance = scene.dense_covariance(scene.theta)
    constant = scene.posterior().constant

    def likelihood(c: Tensor) -> Tensor:
        residual = scene.y - c[:, None]
        return -0.5 * (residual * torch.linalg.solve(covariance, residual[:, :, None])[:, :, 0]).sum(dim=1)

    for move in (-0.3, -1e-3, 1e-3, 0.3):
        assert bool((likelihood(constant + move) < likelihood(constant)).all())


def test_the_gradient_of_the_log_posterior(space: SearchSpace) -> None:
    """By every hyperparameter, against autograd through the sums written out."""
    scene = Scene(space, n=8)
    data = Data(scene.inputs, scene.y, scene.known_variance)

    _, gradient = log_posterior(scene.kernel, scene.packed, data, scene.table)

    packed = scene.packed.clone().requires_grad_()
    theta = Hyperparameters.unpacked(packed, scene.layout)
    covariance = scene.dense_covariance(theta)
    inverse = torch.linalg.inv(covariance)
    constant = (inverse @ scene.y).sum(dim=1) / inverse.sum(dim=(1, 2))
    residual = scene.y - constant[:, None]
    value = -0.5 * (residual[:, None] @ inverse @ residual[:, :, None])[:, 0, 0] - 0.5 * torch.logdet(covariance)
    off = (packed - scene.table[0]) / scene.table[1]
    (value - 0.5 * off.square().sum(dim=1)).sum().backward()
    assert packed.grad is not None
    assert torch.allclose(gradient, packed.grad, **TIGHT)


def test_prediction_gradients(space: SearchSpace) -> None:
    """Of mean and variance by every unit, against differences; the values are those without gradients."""
    scene = Scene(space, m=3)
    posterior = scene.posterior()
    mean, variance, by_mean, by_variance = posterior.predict_with_gradient(scene.new)
    plain = posterior.predict(scene.new)

    assert torch.allclose(mean, plain[0], rtol=1e-12)
    assert torch.allclose(variance, plain[1], rtol=1e-12)
    # Along directions in which every unit changes.
    for _ in range(6):
        direction = torch.from_numpy(scene.rng.standard_normal(scene.layout.p))

        def moved(by: float, direction: Tensor = direction) -> Tensor:  # (2, H, m)
            x = scene.new.x + 1e-5 * by * direction
            return torch.stack(posterior.predict(Inputs(x, scene.new.active, scene.new.choice)))

        expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-5
        assert torch.allclose(torch.stack([by_mean, by_variance]) @ direction, expected, rtol=1e-6, atol=1e-7)


def test_leave_one_out_is_leaving_one_out(space: SearchSpace) -> None:
    """Rasmussen & Williams 2006, eq. 5.12, and Dubrule 1983: the same as a posterior that never saw the observation."""
    scene = Scene(space)

    mean, variance = scene.posterior().leave_one_out()

    n = len(scene.y)
    for i in range(n):
        rest = torch.tensor([j for j in range(n) if j != i])
        known = scene.known_variance
        without = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs.rows(rest), known[rest]), scene.y[rest])
        expected, spread = without.predict(scene.inputs.rows(slice(i, i + 1)))
        assert torch.allclose(mean[:, i], expected[:, 0], **TIGHT)
        noise = noise_variance(scene.theta, known)[:, i]
        assert torch.allclose(variance[:, i], spread[:, 0] + noise, **TIGHT)


def test_a_single_observation_left_out_is_predicted_by_itself(space: SearchSpace) -> None:
    """Without it there is no constant either: its own value stands in, and no number is infinite."""
    scene = Scene(space, n=1)

    mean, variance = scene.posterior().leave_one_out()

    assert torch.equal(mean, scene.y.expand_as(mean))
    assert torch.isfinite(variance).all()


def test_extending_is_beginning_anew(space: SearchSpace) -> None:
    """A factor that was extended, by one point and by several, is the factor of all points, and predicts the same."""
    scene = Scene(space, n=14)
    parts = [slice(0, 5), slice(5, 6), slice(6, 13), slice(13, 14)]
    first, *others = [(scene.inputs.rows(part), scene.known_variance[part]) for part in parts]

    geometry = Geometry(scene.kernel, scene.theta, *first)
    for part in others:
        geometry = geometry.extended(*part)

    whole = scene.geometry()
    assert len(geometry) == 14
    assert torch.allclose(geometry.factor, whole.factor, **TIGHT)
    assert torch.allclose(geometry.inverse_factor, whole.inverse_factor, rtol=1e-8, atol=1e-7)
    for one, other in zip(
        Posterior(geometry, scene.y).joint(scene.new), Posterior(whole, scene.y).joint(scene.new), strict=True
    ):
        assert torch.allclose(one, other, **TIGHT)


def test_repeats_with_hardly_any_noise(space: SearchSpace) -> None:
    """The same point thirty times, with the least noise there is: extending goes on, and the variance there stays positive."""
    scene = Scene(space, n=3)
    scene.packed[:, scene.layout.size + 2] = scene.table[2][scene.layout.size + 2]
    scene.packed[:, scene.layout.size] = scene.table[3][scene.layout.size]
    theta = Hyperparameters.unpacked(scene.packed, scene.layout)
    nothing = torch.zeros(1, dtype=torch.float64)

    geometry = Geometry(scene.kernel, theta, scene.inputs, nothing.expand(3))
    for _ in range(30):
        geometry = geometry.extended(scene.inputs.rows(slice(0, 1)), nothing)
    posterior = Posterior(geometry, torch.cat([scene.y, scene.y[:1].expand(30)]))
    mean, variance = posterior.predict(scene.inputs)

    assert torch.allclose(mean[:, 0], scene.y[0], atol=1e-3)
    assert bool((variance > 0).all())
    assert bool(torch.isfinite(posterior.alpha).all())


def test_every_set_is_on_its_own(space: SearchSpace) -> None:
    """Hyperparameter sets side by side give what each gives alone."""
    scene = Scene(space, sets=3)
    mean, variance, by_mean, by_variance = scene.posterior().predict_with_gradient(scene.new)

    for s in range(3):
        alone = Geometry(scene.kernel, scene.theta.rows(slice(s, s + 1)), scene.inputs, scene.known_variance)
        for found, together in zip(
            Posterior(alone, scene.y).predict_with_gradient(scene.new),
            (mean, variance, by_mean, by_variance),
            strict=True,
        ):
            assert torch.allclose(found[0], together[s], rtol=1e-10, atol=1e-12)


def test_a_fit_is_a_maximum(space: SearchSpace) -> None:
    """It lies in its box, is better than where it started from, and nothing near it is much better."""
    scene = Scene(space, n=20)
    data = Data(scene.inputs, scene.y, scene.known_variance)
    _, _, lower, upper = scene.table

    theta, value = fit(scene.kernel, data, np.random.default_rng(3), starts=2, max_calls=80)

    packed = theta.packed()
    assert bool(((packed >= lower) & (packed <= upper)).all())
    again, gradient = log_posterior(scene.kernel, packed, data, scene.table)
    assert torch.allclose(value, again, rtol=1e-12)
    assert bool((value.diff() <= 0).all())
    assert float(value[0]) >= float(log_posterior(scene.kernel, scene.table[0][None], data, scene.table)[0])
    moved = (packed[:1] + 0.02 * gradient[:1]).clamp(lower, upper)
    assert float(log_posterior(scene.kernel, moved, data, scene.table)[0]) < float(value[0]) + 0.05


def test_a_fit_survives_what_cannot_be_factorised(space: SearchSpace) -> None:
    """A set whose covariance cannot be factorised has no likelihood; where no set has one, that is an error."""
    scene = Scene(space)
    nowhere = replace(scene.inputs, x=scene.inputs.x * torch.nan, choice=scene.inputs.choice * torch.nan)
    data = Data(nowhere, scene.y, scene.known_variance)

    value, gradient = log_posterior(scene.kernel, scene.packed, data, scene.table)

    assert value.tolist() == [-torch.inf] * 2
    assert bool((gradient == 0).all())
    with pytest.raises(NumericalError, match="finite likelihood"):
        fit(scene.kernel, data, np.random.default_rng(3), starts=2, max_calls=5)
    fallback = prior_mean(scene.kernel, Priors())
    assert len(fallback) == 1
    assert bool(((fallback.packed() >= scene.table[2]) & (fallback.packed() <= scene.table[3])).all())


def test_packing_and_unpacking(space: SearchSpace) -> None:
    """Rows of numbers and sets of hyperparameters are the same thing."""
    scene = Scene(space)

    assert torch.equal(scene.theta.packed(), scene.packed)
    assert torch.equal(scene.theta.rows(torch.tensor([1])).packed(), scene.packed[1:])


def test_known_standard_errors_count(space: SearchSpace) -> None:
    """An outcome known exactly pins the posterior to it; one of no account leaves it as if it were not there."""
    scene = Scene(space)
    exact, useless = scene.known_variance.clone(), scene.known_variance.clone()
    exact[0], useless[0] = 1e-9, 1e9
    scene.theta.noise[:] = -18.0
    at = scene.inputs.rows(slice(0, 1))

    pinned = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs, exact), scene.y).predict(at)
    ignored = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs, useless), scene.y).predict(at)
    rest = slice(1, None)
    without = Posterior(
        Geometry(scene.kernel, scene.theta, scene.inputs.rows(rest), scene.known_variance[rest]), scene.y[rest]
    ).predict(at)

    assert torch.allclose(pinned[0], scene.y[0].expand(2, 1), atol=1e-4)
    assert bool((pinned[1] < 1e-6).all())
    for one, other in zip(ignored, without, strict=True):
        assert torch.allclose(one, other, rtol=1e-6, atol=1e-6)
