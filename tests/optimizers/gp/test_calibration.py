"""The factor by which deviations are multiplied, against its definition and against models that err on purpose."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from asktell_server.domain.objectives import OutcomeConstraint
from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.calibration import (
    FEWEST,
    LEAST,
    MOST,
    Z_90,
    deviation_factor,
    factors_without,
    standardised_errors,
)
from asktell_server.optimizers.gp.explainable import models_of
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.gp.study_model import StudyModel
from asktell_server.optimizers.safe_math import numerics

from .support import SPACES, Scene
from .test_explainable import a_model, a_spec, history, loss


def test_the_factor_is_that_of_the_errors() -> None:
    """Many normal errors of any size, half of them with the other sign: their size is found."""
    errors = np.random.default_rng(1).standard_normal(20_000)

    assert deviation_factor(errors) == pytest.approx(1.0, abs=0.02)
    assert deviation_factor(-3.0 * errors) == pytest.approx(3.0, abs=0.06)
    assert deviation_factor(0.01 * errors) == pytest.approx(LEAST, rel=1e-3)
    assert deviation_factor(100.0 * errors) == pytest.approx(MOST, rel=1e-3)


def test_little_is_learned_from_few() -> None:
    """Errors all of one size: with more of them the factor comes closer to it, from 1 and without leaps."""
    found = [deviation_factor(np.full(n, 4.0 * Z_90)) for n in range(FEWEST, 60)]

    assert all(one < other for one, other in pairwise(found))
    assert 2.5 < found[0] < found[-1] < 4.0


@pytest.mark.parametrize("n", [FEWEST, FEWEST + 1, 19, 20, 57])
def test_no_result_has_a_say_in_its_own_interval(n: int) -> None:
    """However large one error is, its own factor is that of the others; theirs, it raises."""
    errors = np.random.default_rng(n).standard_normal(n)
    with_outlier = np.append(errors[:-1], 1e6)

    found = factors_without(with_outlier)

    assert found[-1] == factors_without(errors)[-1]
    assert (found[:-1] >= factors_without(errors)[:-1]).all()
    assert found[:-1].max() > factors_without(errors)[:-1].max()


@pytest.mark.parametrize("make", [lambda rng: rng.standard_t(2, 200), lambda rng: 5.0 * rng.standard_normal(200)])
def test_nine_of_ten_hold(make: Callable[[np.random.Generator], Array]) -> None:
    """Whatever the errors' distribution: intervals made without a result hold it nine times in ten."""
    errors = make(np.random.default_rng(7))

    inside = np.abs(errors) <= Z_90 * factors_without(errors)

    assert 0.87 <= inside.mean() <= 0.92


@pytest.mark.parametrize("errors", [np.full(30, np.inf), np.full(30, np.nan), np.full(FEWEST - 1, 9.0), np.empty(0)])
def test_errors_that_say_nothing(errors: Array) -> None:
    """Deviations stay as they are where the errors are too few or no numbers."""
    assert deviation_factor(errors) == 1.0
    assert (factors_without(errors) == 1.0).all()


def test_errors_are_those_of_the_mixture() -> None:
    """Of several hyperparameter sets, and with known noise: each result left out for real, and predicted by all sets together."""
    scene = Scene(SPACES["mixed"], 12)
    posterior = scene.posterior()
    theta = posterior.geometry.theta
    found = standardised_errors(posterior)

    assert len(theta) > 1
    for i in range(12):
        kept = np.delete(np.arange(12), i)
        rest = Posterior(
            Geometry(scene.kernel, theta, scene.inputs.rows(kept), scene.known_variance[kept]), posterior.y[:, kept]
        )
        mean, variance = rest.predict(scene.inputs.rows(slice(i, i + 1)))
        noise = posterior.geometry.noises()[:, i]
        total = (variance[:, 0] + noise).mean() + mean.var()
        assert found[i] == pytest.approx((posterior.y[0, i] - mean.mean()) / np.sqrt(total), rel=1e-6)


def test_suggestions_are_widened_never_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The deviation is the model's own, or so many times wider; the mean is the model's, of objectives and constraints."""

    def predicted(factor: float) -> list[tuple[float, float]]:
        spec = a_spec(constraints=(OutcomeConstraint("size", max=1.0),))
        with numerics():
            model: StudyModel = a_model(spec, history(20, lambda p: {"loss": loss(p), "size": 10.0 ** loss(p)}))
            monkeypatch.setattr("asktell_server.optimizers.gp.study_model.deviation_factor", lambda _: factor)
            choice = model.choose(21, [], lambda _: False, None)
        assert choice is not None
        return [(found.mean, found.standard_deviation) for _, found in sorted(choice.predictions.items())]

    own = predicted(1.0)

    assert len(own) == 2
    assert predicted(0.2) == own
    assert predicted(3.0) == [(mean, pytest.approx(3.0 * deviation)) for mean, deviation in own]


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_slices_are_scaled_and_their_means_are_not(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the metric's own scale, both ways."""
    with numerics():
        model = a_model(a_spec(), history(20, lambda p: {"loss": loss(p)}))
        codes = np.array([model.cube.encoding.encode(o.point) for o in history(5, lambda p: {"loss": loss(p)})])
        found = []
        for of in (1.0, factor):
            monkeypatch.setattr("asktell_server.optimizers.gp.explainable.deviation_factor", lambda _, of=of: of)
            found.append(models_of(model)["loss"].predict(codes))

    assert (found[0][0] == found[1][0]).all()
    assert found[1][1] == pytest.approx(factor * found[0][1])
