"""The covariance function and the posterior against GPyTorch, autograd, and sums written out entry by entry."""

from __future__ import annotations

import math
from dataclasses import replace

import gpytorch
import numpy as np
import pytest
import torch
from torch import Tensor

from asktell_server.domain.space import SearchSpace
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.fit import (
    LEAST_NOISE,
    Data,
    Priors,
    fit,
    log_posterior,
    noise_variance,
    prior_mean,
    sample,
)
from asktell_server.optimizers.gp.kernel import A, Hyperparameters, Inputs, Kernel
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.safe_math import NumericalError, numerics

from .support import SPACES, Scene, tensors

TIGHT = {"rtol": 1e-8, "atol": 1e-9}
pytestmark = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


class EmbeddedKernel(gpytorch.kernels.Kernel):
    """The kernel of the head of kernel.py put together from GPyTorch's, on embedded inputs, for one hyperparameter set.

    Columns: the embedding of each numeric dimension (two for a conditional one), then 1 / sqrt 2 at the choice of each
    categorical one, so that different choices are at distance 1.
    """

    def __init__(self, scene: Scene, s: int) -> None:
        super().__init__()
        theta = tensors(scene.theta)
        d = scene.layout.size
        lengths = theta.lengthscale[s].exp()
        self.columns = _columns(scene)
        owners = [i for i, columns in enumerate(self.columns) for _ in columns]
        joint = gpytorch.kernels.MaternKernel(nu=2.5, ard_num_dims=len(owners)).double()
        joint.lengthscale = lengths[owners]
        first = gpytorch.kernels.ScaleKernel(joint).double()
        first.outputscale = theta.scale[s].exp()
        self.parts = torch.nn.ModuleList([first])
        for i, columns in enumerate(self.columns):
            single = gpytorch.kernels.MaternKernel(nu=2.5, active_dims=columns).double()
            single.lengthscale = lengths[i] / np.sqrt(d)
            scaled = gpytorch.kernels.ScaleKernel(single).double()
            scaled.outputscale = theta.additive[s].exp() / d
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
        a, b = np.exp(scene.theta.warp[s, :, i])
        w = 1.0 - (1.0 - inputs.x[:, i] ** a) ** b
        if i in scene.layout.conditional:
            columns += [np.sin(w - 0.5) * inputs.active[:, i], np.cos(w - 0.5) * inputs.active[:, i]]
        else:
            columns.append(w)
    for j in range(scene.layout.size - scene.layout.p):
        levels = [-1.0, *scene.cube.levels[int(scene.layout.categorical[j])]]
        columns += [(inputs.choice[:, j] == level) / np.sqrt(2.0) for level in levels]
    return torch.from_numpy(np.stack(columns, axis=1))


class Exact(gpytorch.models.ExactGP):
    """GPyTorch's process with that kernel and a constant mean."""

    def __init__(self, scene: Scene, s: int, constant: float) -> None:
        known = scene.known_variance
        noise = np.where(known > 0, known + 1e-8, np.exp(scene.theta.noise[s]))
        likelihood = gpytorch.likelihoods.FixedNoiseGaussianLikelihood(torch.from_numpy(noise))
        super().__init__(embedded(scene, s, scene.inputs), torch.from_numpy(scene.y), likelihood)
        self.mean_module = gpytorch.means.ConstantMean().double()
        self.mean_module.constant = torch.tensor(constant, dtype=torch.float64)
        self.covar_module = EmbeddedKernel(scene, s)

    def forward(self, x: Tensor) -> gpytorch.distributions.MultivariateNormal:
        """The process at x."""
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def exactly() -> gpytorch.settings.fast_computations:
    """GPyTorch without approximations."""
    return gpytorch.settings.fast_computations(covar_root_decomposition=False, log_prob=False, solves=False)


def log_posterior_of(
    scene: Scene,
    packed: Array,  # (H, P)
    data: Data | None = None,
) -> tuple[Array, Array]:  # (H,), (H, P)
    """The log posterior of rows of hyperparameters and its gradient, by default given the scene's observations."""
    return log_posterior(scene.kernel, packed, data or scene.data, scene.prior)


def log_prior_of(scene: Scene, packed: Tensor) -> Tensor:  # (H, P) -> (H,)
    """The sums written out, up to a constant."""
    means, deviations = torch.from_numpy(scene.prior.means), torch.from_numpy(scene.prior.deviations)
    each = -0.5 * ((packed - means) / deviations).square()
    noise = packed[:, scene.layout.size + 2, None]
    halves = torch.tensor([[-12.0, -2.0], [3.0, 2.0]], dtype=torch.float64)
    mixture = (torch.exp(-0.5 * ((noise - halves[0]) / halves[1]).square()) / halves[1]).sum(dim=1)
    return each.sum(dim=1) - each[:, scene.layout.size + 2] + torch.log(mixture)


def kernel_parts(
    kernel: Kernel, theta: Hyperparameters[A], new: Inputs[A], observed: Inputs[A], weights: A
) -> dict[str, A]:
    """All that the kernel computes for two sets of points; `weights` (H, m, n)."""
    one, other = kernel.features(theta, new, by_warp=True), kernel.features(theta, observed)
    k, first, by_r2 = kernel.with_derivatives(theta, one, other)
    pulled = kernel.pulled_to_features(weights, by_r2, one, other)
    assert one.by_warp is not None
    return {
        "z": one.z,
        "slope": one.slope,
        "derivative by the warping": one.by_warp,
        "covariance": kernel.covariance(theta, one, other),
        "covariance with itself": kernel.covariance(theta, one, one),
        "variance": kernel.variance(theta),
        "covariance with derivatives": k,
        "first term": first,
        "derivative by distances": by_r2,
        "derivative by features": pulled,
        "derivative by units": kernel.to_units(pulled, one),
    }


def test_both_libraries_compute_the_same(space: SearchSpace) -> None:
    """Features, covariances and every derivative of them, with numpy and with torch."""
    scene = Scene(space)
    weights = scene.rng.standard_normal((2, 7, 12))

    by_numpy = kernel_parts(scene.kernel, scene.theta, scene.new, scene.inputs, weights)
    by_torch = kernel_parts(
        scene.kernel, tensors(scene.theta), scene.new.tensors(), scene.inputs.tensors(), torch.from_numpy(weights)
    )

    for name, part in by_numpy.items():
        assert isinstance(part, np.ndarray), name
        assert isinstance(by_torch[name], Tensor), name
        assert part.shape == by_torch[name].shape, name
        assert np.allclose(part, by_torch[name].numpy(), rtol=1e-12, atol=1e-12), name


def test_both_libraries_find_the_same_log_posterior(space: SearchSpace) -> None:
    """With its gradient; and both say that a set of hyperparameters is impossible, which leaves the others as they are."""
    scene = Scene(space)
    packed = np.concatenate([scene.packed, scene.packed[:1]])
    packed[-1, scene.layout.size] = np.nan

    by_numpy = log_posterior_of(scene, packed)
    by_torch = log_posterior(
        scene.kernel,
        torch.from_numpy(packed),
        scene.data.tensors(),
        scene.prior.tensors(),
    )

    for one, other in zip(by_numpy, by_torch, strict=True):
        assert np.allclose(one, other.numpy(), rtol=1e-9, atol=1e-9)
    assert by_numpy[0][-1] == -np.inf
    assert not by_numpy[1][-1].any()
    assert np.array_equal(by_numpy[0][:-1], log_posterior_of(scene, scene.packed)[0])


@pytest.mark.parametrize("sets", [1, 3])
def test_fits_agree_whichever_library_computes(space: SearchSpace, sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit and draws from its neighbourhood by numpy are those by torch, as far as rounding allows."""
    scene = Scene(space, n=9)
    found = []
    for large in (0, 10**9):
        monkeypatch.setattr("asktell_server.optimizers.gp.fit.LARGE", large)
        with numerics():
            theta, height = fit(scene.kernel, scene.data, np.random.default_rng(1), starts=sets, max_calls=4)
            drawn = sample(scene.kernel, scene.data, theta, np.random.default_rng(2), rounds=1, leaps=2)
        found.append((theta.packed(), height, drawn.packed()))

    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-5, atol=1e-5)


def test_the_covariance_is_what_its_head_says(space: SearchSpace) -> None:
    """Every entry, of numeric, conditional and categorical dimensions, at equal and at different points."""
    scene = Scene(space, n=6, m=4)
    kernel, theta = scene.kernel, scene.theta
    one, other = (kernel.features(theta, inputs) for inputs in (scene.new, scene.inputs))

    assert np.allclose(kernel.covariance(theta, one, other), scene.dense(theta, scene.new, scene.inputs), **TIGHT)
    assert np.allclose(kernel.covariance(theta, other, other), scene.dense(theta, scene.inputs, scene.inputs), **TIGHT)
    diagonal = kernel.covariance(theta, one, one).diagonal(axis1=1, axis2=2)
    assert np.allclose(diagonal, kernel.variance(theta)[:, None], rtol=1e-14)


def test_the_covariance_is_positive_definite(space: SearchSpace) -> None:
    """Also for points of every pattern of activity together: no eigenvalue is below rounding."""
    scene = Scene(space, n=60, sets=3)
    features = scene.kernel.features(scene.theta, scene.inputs)

    eigenvalues = np.linalg.eigvalsh(scene.kernel.covariance(scene.theta, features, features))

    assert float((eigenvalues[:, 0] / eigenvalues[:, -1]).min()) > -1e-13


def test_the_posterior_is_that_of_gpytorch(space: SearchSpace) -> None:
    """Mean, covariance and log marginal likelihood, with the same kernel put together from GPyTorch's own."""
    scene = Scene(space)
    posterior = scene.posterior()
    mean, covariance = posterior.joint(scene.new)
    value = log_posterior_of(scene, scene.packed)[0] - scene.prior.log_density(scene.packed)[0]

    for s in range(2):
        model = Exact(scene, s, float(posterior.constant[s])).double()
        with exactly(), gpytorch.settings.prior_mode(state=True), torch.no_grad():
            prior = model(embedded(scene, s, scene.inputs))
            likelihood = model.likelihood(prior).log_prob(torch.from_numpy(scene.y))
        model.eval()
        with exactly(), torch.no_grad():
            expected = model(embedded(scene, s, scene.new))

        assert np.allclose(mean[s], expected.mean.numpy(), **TIGHT)
        assert np.allclose(covariance[s], expected.covariance_matrix.numpy(), **TIGHT)
        assert np.allclose(value[s], likelihood.numpy(), **TIGHT)


def test_the_posterior_is_that_of_dense_algebra(space: SearchSpace) -> None:
    """Rasmussen & Williams 2006, eqs. 2.25, 2.26 and 5.8, with inverses written out; marginals are those of the joint."""
    scene = Scene(space)
    posterior = scene.posterior()
    covariance = scene.dense_covariance(scene.theta, scene.data)
    inverse = np.linalg.inv(covariance)
    cross = scene.dense(scene.theta, scene.new, scene.inputs)
    ones = np.ones(len(scene.y))
    constant = (inverse @ scene.y @ ones) / (inverse @ ones @ ones)
    residual = scene.y - constant[:, None]
    expected_mean = constant[:, None] + (cross @ inverse @ residual[:, :, None])[:, :, 0]
    expected = scene.dense(scene.theta, scene.new, scene.new) - cross @ inverse @ cross.mT
    value = -0.5 * (residual[:, None] @ inverse @ residual[:, :, None])[:, 0, 0]
    value -= 0.5 * np.linalg.slogdet(2.0 * np.pi * covariance)[1]

    mean, joint = posterior.joint(scene.new)
    alone, variance = posterior.predict(scene.new)
    found, _ = log_posterior_of(scene, scene.packed)

    assert np.allclose(mean, expected_mean, **TIGHT)
    assert np.allclose(joint, expected, **TIGHT)
    assert np.allclose(alone, mean, rtol=1e-12)
    assert np.allclose(variance, joint.diagonal(axis1=1, axis2=2), rtol=1e-10)
    assert np.allclose(found, value + scene.prior.log_density(scene.packed)[0], **TIGHT)


def test_the_mean_where_was_observed(space: SearchSpace) -> None:
    """Found without the kernel it is the mean that is predicted there, of observations that were added too."""
    scene = Scene(space)
    posterior = scene.posterior()
    longer = posterior.extended(scene.new, np.zeros(len(scene.new)), posterior.predict(scene.new)[0] + 0.3)

    for one in (posterior, longer):
        assert np.allclose(one.mean_observed(), one.predict(one.geometry.inputs)[0], **TIGHT)


def test_the_prior_is_a_density_of_which_half_the_noise_is_much(space: SearchSpace) -> None:
    """Against the sums written out, from next to no noise to more than there can be: values up to a constant, and gradients."""
    scene = Scene(space, sets=9)
    rows = scene.packed.copy()
    rows[:, scene.layout.size + 2] = np.linspace(math.log(LEAST_NOISE), 1.0, 9)

    value, gradient = scene.prior.log_density(rows)

    packed = torch.tensor(rows, requires_grad=True)
    expected = log_prior_of(scene, packed)
    (slope,) = torch.autograd.grad(expected.sum(), packed)
    off = value - expected.detach().numpy()
    assert np.allclose(off, off[0], **TIGHT)
    assert np.allclose(gradient, slope.numpy(), **TIGHT)
    for one, other in zip(scene.prior.tensors().log_density(torch.from_numpy(rows)), (value, gradient), strict=True):
        assert np.allclose(one.numpy(), other, rtol=1e-12)


def test_the_constant_maximises_the_likelihood(space: SearchSpace) -> None:
    """No other constant mean makes the outcomes likelier."""
    scene = Scene(space)
    covariance = scene.dense_covariance(scene.theta, scene.data)
    constant = scene.posterior().constant

    def likelihood(c: Array) -> Array:
        residual = scene.y - c[:, None]
        return np.asarray(-0.5 * (residual * np.linalg.solve(covariance, residual[:, :, None])[:, :, 0]).sum(axis=1))

    for move in (-0.3, -1e-3, 1e-3, 0.3):
        assert (likelihood(constant + move) < likelihood(constant)).all()


def test_the_gradient_of_the_log_posterior(space: SearchSpace) -> None:
    """By every hyperparameter, against autograd through the sums written out."""
    scene = Scene(space, n=8)

    _, gradient = log_posterior_of(scene, scene.packed)

    data = scene.data.tensors()
    packed = torch.tensor(scene.packed, requires_grad=True)
    covariance = scene.dense_covariance(Hyperparameters.unpacked(packed, scene.layout), data)
    inverse = torch.linalg.inv(covariance)
    constant = (inverse @ data.y).sum(dim=1) / inverse.sum(dim=(1, 2))
    residual = data.y - constant[:, None]
    value = -0.5 * (residual[:, None] @ inverse @ residual[:, :, None])[:, 0, 0] - 0.5 * torch.logdet(covariance)
    (value + log_prior_of(scene, packed)).sum().backward()
    assert packed.grad is not None
    assert np.allclose(gradient, packed.grad.numpy(), **TIGHT)


def test_prediction_gradients(space: SearchSpace) -> None:
    """Of mean and variance by every unit, against differences; the values are those without gradients."""
    scene = Scene(space, m=3)
    posterior = scene.posterior()
    mean, variance, by_mean, by_variance = posterior.predict_with_gradient(scene.new)
    plain = posterior.predict(scene.new)

    assert np.allclose(mean, plain[0], rtol=1e-12)
    assert np.allclose(variance, plain[1], rtol=1e-12)
    # Along directions in which every unit changes.
    for _ in range(6):
        direction = scene.rng.standard_normal(scene.layout.p)

        def moved(by: float, direction: Array = direction) -> Array:  # (2, H, m)
            x = scene.new.x + 1e-5 * by * direction
            return np.stack(posterior.predict(Inputs(x, scene.new.active, scene.new.choice)))

        expected = (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / 12e-5
        assert np.allclose(np.stack([by_mean, by_variance]) @ direction, expected, rtol=1e-6, atol=1e-7)


def test_leave_one_out_is_leaving_one_out(space: SearchSpace) -> None:
    """Rasmussen & Williams 2006, eq. 5.12, and Dubrule 1983: the same as a posterior that never saw the observation."""
    scene = Scene(space)

    mean, variance = scene.posterior().leave_one_out()

    n = len(scene.y)
    for i in range(n):
        rest = np.delete(np.arange(n), i)
        known = scene.known_variance
        without = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs.rows(rest), known[rest]), scene.y[rest])
        expected, spread = without.predict(scene.inputs.rows(slice(i, i + 1)))
        assert np.allclose(mean[:, i], expected[:, 0], **TIGHT)
        noise = noise_variance(scene.theta, known)[:, i]
        assert np.allclose(variance[:, i], spread[:, 0] + noise, **TIGHT)


def test_a_single_observation_left_out_is_predicted_by_itself(space: SearchSpace) -> None:
    """Without it there is no constant either: its own value stands in, and no number is infinite."""
    scene = Scene(space, n=1)

    with numerics():
        mean, variance = scene.posterior().leave_one_out()

    assert np.array_equal(mean, np.broadcast_to(scene.y, (2, 1)))
    assert np.isfinite(variance).all()


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
    assert np.allclose(geometry.factor, whole.factor, **TIGHT)
    assert np.allclose(geometry.inverse_factor, whole.inverse_factor, rtol=1e-8, atol=1e-7)
    for one, other in zip(
        Posterior(geometry, scene.y).joint(scene.new), Posterior(whole, scene.y).joint(scene.new), strict=True
    ):
        assert np.allclose(one, other, **TIGHT)


def test_repeats_with_hardly_any_noise(space: SearchSpace) -> None:
    """The same point thirty times, with the least noise there is: extending goes on, and the variance there stays positive."""
    scene = Scene(space, n=3)
    scene.packed[:, scene.layout.size + 2] = math.log(LEAST_NOISE)
    scene.packed[:, scene.layout.size] = scene.prior.upper[scene.layout.size]
    theta = Hyperparameters.unpacked(scene.packed, scene.layout)
    nothing = np.zeros(1)

    geometry = Geometry(scene.kernel, theta, scene.inputs, np.zeros(3))
    for _ in range(30):
        geometry = geometry.extended(scene.inputs.rows(slice(0, 1)), nothing)
    posterior = Posterior(geometry, np.concatenate([scene.y, np.repeat(scene.y[:1], 30)]))
    mean, variance = posterior.predict(scene.inputs)

    assert np.allclose(mean[:, 0], scene.y[0], atol=1e-3)
    assert (variance > 0).all()
    assert np.isfinite(posterior.alpha).all()


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
            assert np.allclose(found[0], together[s], rtol=1e-10, atol=1e-12)


def test_a_fit_is_a_maximum(space: SearchSpace) -> None:
    """It lies in its box, is better than where it started from, and nothing near it is much better."""
    scene = Scene(space, n=20)
    start, lower, upper = scene.prior.means, scene.prior.lower, scene.prior.upper

    theta, value = fit(scene.kernel, scene.data, np.random.default_rng(3), starts=2, max_calls=80, priors=scene.priors)

    packed = theta.packed()
    assert ((packed >= lower) & (packed <= upper)).all()
    again, gradient = log_posterior_of(scene, packed)
    assert np.allclose(value, again, rtol=1e-12)
    assert (np.diff(value) <= 0).all()
    assert value[0] >= log_posterior_of(scene, start[None])[0][0]
    moved = np.clip(packed[:1] + 0.02 * gradient[:1], lower, upper)
    assert log_posterior_of(scene, moved)[0][0] < value[0] + 0.05


def test_a_fit_survives_what_cannot_be_factorised(space: SearchSpace) -> None:
    """A set whose covariance cannot be factorised has no likelihood; where no set has one, that is an error."""
    scene = Scene(space)
    nowhere = replace(scene.inputs, x=scene.inputs.x * np.nan, choice=scene.inputs.choice * np.nan)
    data = replace(scene.data, inputs=nowhere)

    value, gradient = log_posterior_of(scene, scene.packed, data)

    assert value.tolist() == [-np.inf] * 2
    assert (gradient == 0).all()
    with pytest.raises(NumericalError, match="finite likelihood"):
        fit(scene.kernel, data, np.random.default_rng(3), starts=2, max_calls=5)
    fallback = prior_mean(scene.kernel, Priors())
    assert len(fallback) == 1
    assert ((fallback.packed() >= scene.prior.lower) & (fallback.packed() <= scene.prior.upper)).all()


def test_packing_and_unpacking(space: SearchSpace) -> None:
    """Rows of numbers and sets of hyperparameters are the same thing."""
    scene = Scene(space)

    assert np.array_equal(scene.theta.packed(), scene.packed)
    assert np.array_equal(scene.theta.rows(np.array([1])).packed(), scene.packed[1:])


def test_known_standard_errors_count(space: SearchSpace) -> None:
    """An outcome known exactly pins the posterior to it; one of no account leaves it as if it were not there."""
    scene = Scene(space)
    exact, useless = scene.known_variance.copy(), scene.known_variance.copy()
    exact[0], useless[0] = 1e-9, 1e9
    scene.theta.noise[:] = -18.0
    at = scene.inputs.rows(slice(0, 1))

    pinned = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs, exact), scene.y).predict(at)
    ignored = Posterior(Geometry(scene.kernel, scene.theta, scene.inputs, useless), scene.y).predict(at)
    rest = slice(1, None)
    without = Posterior(
        Geometry(scene.kernel, scene.theta, scene.inputs.rows(rest), scene.known_variance[rest]), scene.y[rest]
    ).predict(at)

    assert np.allclose(pinned[0], scene.y[0], atol=1e-4)
    assert (pinned[1] < 1e-6).all()
    for one, other in zip(ignored, without, strict=True):
        assert np.allclose(one, other, rtol=1e-6, atol=1e-6)
