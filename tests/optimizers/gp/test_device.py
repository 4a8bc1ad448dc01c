"""Large fits on a GPU: all of a fit stays there, nothing else goes there, and what fails there is computed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from asktell_server.domain.algorithms import SobolSearch
from asktell_server.domain.space import Point, SearchSpace
from asktell_server.domain.trial import Suggestion
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp import device as device_module
from asktell_server.optimizers.gp import fit as fit_module
from asktell_server.optimizers.gp import metric
from asktell_server.optimizers.gp.device import AUTO, CPU, CUDA, PAYS, DeviceNews, FitDevice
from asktell_server.optimizers.gp.fit import Data, fit, largest_array, log_posterior, sample
from asktell_server.optimizers.gp.kernel import Inputs
from asktell_server.optimizers.registry import create_optimizer
from asktell_server.optimizers.safe_math import NumericalError, numerics

from .pretended import OnGpu, PretendedGpu, fake_cuda
from .support import RICH, SPACES, SQUARE, Scene, study, succeeded

NO_GPU = "cuda:99"
"""That there is none of this number is so on every machine."""


def impossible(scene: Scene) -> Array:
    """The scene's hyperparameters, the first set of which has no likelihood."""
    packed = scene.packed.copy()
    packed[0] = np.nan
    return packed


# --- the text of a fit, on one device ---------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_log_posterior_stays_on_its_device(space: SearchSpace) -> None:
    """On a pretended GPU it meets no tensor of the CPU, and finds what torch finds on the CPU, to the last bit."""
    scene = Scene(space)
    packed = impossible(scene)
    here = log_posterior(
        scene.kernel,
        torch.tensor(packed),
        scene.data.tensors(),
        scene.prior.tensors(),
    )

    with PretendedGpu():
        there = log_posterior(
            scene.kernel, torch.tensor(packed, device=CUDA), scene.data.tensors(CUDA), scene.prior.tensors(CUDA)
        )
        assert [part.device.type for part in there] == [CUDA] * 2
        found = [part.cpu().numpy() for part in there]

    assert found[0][0] == -np.inf
    for one, other in zip(found, here, strict=True):
        assert np.array_equal(one, other.numpy())


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_log_posterior_keeps_torch_s_rules_about_devices(space: SearchSpace) -> None:
    """With tensors of which torch itself believes that they are on "cuda": results are there too, in the right shapes."""
    scene = Scene(space)

    def fake(part: Array) -> Tensor:
        return torch.empty(part.shape, dtype=torch.float64, device=CUDA)

    inputs, prior = scene.inputs, scene.prior
    with fake_cuda(), numerics():
        value, gradient = log_posterior(
            scene.kernel,
            fake(scene.packed),
            Data(Inputs(fake(inputs.x), fake(inputs.active), fake(inputs.choice)), fake(scene.y), fake(scene.y)),
            replace(prior, **{name: fake(getattr(prior, name)) for name in ("means", "deviations", "lower", "upper")}),
        )

    for found, shape in ((value, (2,)), (gradient, scene.packed.shape)):
        assert (found.device.type, found.dtype, tuple(found.shape)) == (CUDA, torch.float64, shape)


def test_both_pretences_notice_tensors_of_the_cpu() -> None:
    """A constant made on the CPU, arithmetic and conditions with it, and numbers read without being fetched are refused."""
    with PretendedGpu():
        there = torch.tensor([[1.0, 2.0], [3.0, 4.0]], device=CUDA)
        for mixed in _mixtures(there):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert isinstance(there[:, np.array([1])] + torch.tensor(1.0), OnGpu)
        assert there.cpu().numpy().tolist() == [[1.0, 2.0], [3.0, 4.0]]
    with fake_cuda():
        there = torch.empty(2, 2, dtype=torch.float64, device=CUDA)
        for mixed in _mixtures(there):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()


def _mixtures(there: Tensor) -> list[Callable[[], object]]:
    here = torch.eye(2, dtype=torch.float64)
    return [
        lambda: there + here,
        lambda: there @ here,
        lambda: torch.where(there > 0, here, there),
        lambda: torch.subtract(there, there, out=here),
        lambda: torch.concat([there, here]),
        lambda: there.__setitem__((slice(None), 0), here[0]),
    ]


def test_fits_and_draws_on_a_gpu_are_those_of_torch_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the GPU rounds as the CPU does, from the first start to the last draw; what comes back is numpy's."""
    monkeypatch.setattr(fit_module, "LARGE", 0)
    scene = Scene(RICH)

    def found(device: str | None) -> list[Array]:
        with numerics():
            theta, height = fit(
                scene.kernel, scene.data, np.random.default_rng(1), starts=2, max_calls=9, device=device
            )
            drawn = sample(scene.kernel, scene.data, theta, np.random.default_rng(2), rounds=2, leaps=2, device=device)
        return [theta.packed(), height, drawn.packed()]

    with PretendedGpu() as gpu:
        there = found(CUDA)

    assert gpu.factorisations > 9
    for one, other in zip(there, found(None), strict=True):
        assert type(one) is np.ndarray
        assert np.array_equal(one, other)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_a_real_gpu_finds_the_same_log_posterior(space: SearchSpace) -> None:
    """Value and gradient, as far as rounding allows; impossible sets are known there too; twice the same to the last bit."""
    scene = Scene(space, n=60, sets=3)
    packed = impossible(scene)
    here = log_posterior(scene.kernel, packed, scene.data, scene.prior)

    def there() -> list[Array]:
        found = log_posterior(
            scene.kernel, torch.tensor(packed, device=CUDA), scene.data.tensors(CUDA), scene.prior.tensors(CUDA)
        )
        return [part.cpu().numpy() for part in found]

    for one, again, other in zip(there(), there(), here, strict=True):
        assert np.allclose(one, other, rtol=1e-8, atol=1e-8)
        assert np.array_equal(one, again)


# --- which fits go there ----------------------------------------------------------------------------------------------


def test_only_what_is_large_enough_goes_to_a_gpu() -> None:
    """By one number less than pays, no GPU is looked for."""
    device = FitDevice(CUDA)

    assert device.run(lambda name: name, PAYS - 1) is None
    assert device.news() == ()
    assert device.run(lambda name: name, PAYS) == CUDA
    assert device.run(lambda name: name, PAYS - 1) is None


def test_the_size_of_a_fit_is_that_of_its_largest_array() -> None:
    """Every pair of observations in every dimension, for each set; without the additive part dimensions share an array."""
    assert largest_array(Scene(SQUARE).kernel, 3, 10) == 3 * 2 * 100
    assert largest_array(Scene(SPACES["wide"]).kernel, 3, 10) == 3 * 100


@pytest.mark.parametrize(
    ("wish", "is_there", "expected"),
    [(AUTO, True, CUDA), (AUTO, False, None), (CPU, True, None), (CUDA, False, CUDA), ("cuda:3", True, "cuda:3")],
)
def test_what_is_wished_for(wish: str, is_there: bool, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With auto it is a GPU if there is one; a GPU that is asked for is tried whatever torch says; its first use is news."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: is_there)
    device = FitDevice(wish)

    assert [device.run(lambda name: name, PAYS) for _ in range(2)] == [expected] * 2
    assert device.news() == (() if expected is None else (DeviceNews(expected),))
    assert device.news() == ()


def test_a_gpu_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not before it is needed, and not again where there is none."""
    looked: list[bool] = []

    def look() -> bool:
        looked.append(True)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", look)
    device = FitDevice(AUTO)
    device.run(lambda _: None, PAYS - 1)
    assert looked == []

    for _ in range(3):
        device.run(lambda _: None, PAYS)

    assert looked == [True]


# --- what fails there -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee documentation"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError(""),
        TypeError("Cannot convert a tensor to this device as it doesn't support float64."),
        AssertionError("Torch not compiled with CUDA enabled"),
        NumericalError("no hyperparameters give a finite likelihood"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_failed_gpu_is_left_for_good(error: Exception) -> None:
    """The work is done by the CPU, the caller hears nothing of it, the operator does once, and no later work goes there."""
    tried: list[str | None] = []

    def work(name: str | None) -> str:
        tried.append(name)
        if name is not None:
            raise error
        return "done"

    device = FitDevice("cuda:1")

    assert [device.run(work, PAYS) for _ in range(3)] == ["done"] * 3
    assert tried == ["cuda:1", None, None, None]
    (news,) = device.news()
    assert news.device == "cuda:1"
    assert news.problem.startswith(f"{type(error).__name__}: ")
    assert "\n" not in news.problem
    assert str(error).partition("\n")[0] in news.problem


def test_numbers_that_fail_on_the_cpu_too_are_no_fault_of_the_gpu() -> None:
    """The CPU's error is the caller's, and the next fit goes to the GPU again."""
    tried: list[str | None] = []

    def work(name: str | None) -> None:
        tried.append(name)
        raise NumericalError(f"no likelihood on {name or 'the CPU'}")

    device = FitDevice(CUDA)
    for _ in range(2):
        with pytest.raises(NumericalError, match="on the CPU"):
            device.run(work, PAYS)

    assert tried == [CUDA, None] * 2
    assert device.news() == ()


def test_a_gpu_that_is_not_there_costs_nothing_but_time() -> None:
    """With torch as it is, and no pretence: a fit finds what it finds on the CPU."""
    scene = Scene(RICH)

    def work(name: str | None) -> Array:
        theta, _ = fit(scene.kernel, scene.data, np.random.default_rng(1), starts=2, max_calls=3, device=name)
        return theta.packed()

    device = FitDevice(NO_GPU)

    assert np.array_equal(device.run(work, PAYS), work(None))
    (news,) = device.news()
    assert news.device == NO_GPU
    assert news.problem


# --- through the optimizer --------------------------------------------------------------------------------------------

HISTORY = 30
"""Results that make a noisy study's hyperparameters be averaged over: fits and draws both."""


def bumpy(space: SearchSpace, count: int = HISTORY) -> list[Observation]:
    """Sobol points with noisy values."""
    sampler = create_optimizer(replace(study(space), algorithm=SobolSearch()))
    noise = np.random.default_rng(5).standard_normal(count)
    points: list[Point] = [sampler.ask(number, []).suggestion.point for number in range(1, count + 1)]
    return [
        succeeded(i, point, float(sum(v for v in point.values() if isinstance(v, float)) ** 2 + noise[i - 1]))
        for i, point in enumerate(points, 1)
    ]


def suggested(device: FitDevice | None, sources: tuple[SourceStudy, ...] = ()) -> Suggestion:
    """What a study with noisy results is told to try next."""
    made = create_optimizer(study(RICH), sources, device)
    made.tell(bumpy(RICH))
    return made.ask(HISTORY + 1, []).suggestion


@pytest.fixture
def everything_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU is there and worth it whatever the size; on the CPU fits compute with torch too, which makes them comparable."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(device_module, "PAYS", 0)
    monkeypatch.setattr(fit_module, "LARGE", 0)


@pytest.mark.usefixtures("everything_pays")
def test_suggestions_with_a_gpu_are_those_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the GPU rounds as the CPU does. All fits are made there: maxima, draws, and those of sources."""
    source = SourceStudy(study(RICH), tuple(bumpy(RICH, 12)), "earlier")
    made: list[str | None] = []
    monkeypatch.setattr(metric, "fit", _noting(made, metric.fit))
    monkeypatch.setattr(metric, "sample", _noting(made, metric.sample))
    device = FitDevice(AUTO)

    with PretendedGpu() as gpu:
        there = suggested(device, (source,))

    assert device.news() == (DeviceNews(CUDA),)
    assert gpu.factorisations > 60
    assert made == [CUDA] * 3
    assert there == suggested(None, (source,))
    assert made == [CUDA] * 3 + [None] * 3


def _noting(made: list[str | None], function: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["device"])
        return function(*args, **kwargs)

    return noted


@pytest.mark.usefixtures("everything_pays")
@pytest.mark.parametrize("number", [1, 100])
def test_a_gpu_that_fails_in_the_middle_changes_no_suggestion(number: int) -> None:
    """At the first step of a fit, or while hyperparameters are drawn: what it had begun is begun anew on the CPU."""

    def fails(factorisation: int) -> None:
        if factorisation == number:
            raise torch.OutOfMemoryError("CUDA out of memory")

    device = FitDevice(AUTO)
    here = suggested(None)

    with PretendedGpu(fails) as gpu:
        assert suggested(device) == here
        assert device.news()[-1] == DeviceNews(CUDA, "OutOfMemoryError: CUDA out of memory")
        assert gpu.factorisations == number
        arrivals = gpu.arrivals
        assert suggested(device) == here
        assert gpu.arrivals == arrivals
    assert device.news() == ()


@pytest.mark.usefixtures("everything_pays")
def test_an_optimizer_that_is_given_no_device_touches_none() -> None:
    """Such as those of the serving process."""
    with PretendedGpu() as gpu:
        suggested(None)

    assert gpu.arrivals == 0


def test_a_study_of_a_few_dimensions_needs_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes as they are: its fits are too small for one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("looked for a GPU"))

    assert suggested(FitDevice(AUTO)) == suggested(None)
