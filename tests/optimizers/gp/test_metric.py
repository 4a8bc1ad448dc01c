"""When the model of a metric is fitted and on what: a schedule that depends on the history alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp import metric
from asktell_server.optimizers.gp.fit import Priors, prior_mean
from asktell_server.optimizers.gp.kernel import Hyperparameters, Inputs, Kernel
from asktell_server.optimizers.gp.metric import FitConfig, MetricModel, chosen, fitted_length, telling
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.gp.transform import IdentityTransform, ObjectiveTransform
from asktell_server.optimizers.safe_math import NumericalError, numerics

from .support import RICH, SQUARE, Scene

EAGER = 5
CONFIG = replace(FitConfig(), starts=2, calls=6, eager=EAGER)


def model(scene: Scene, config: FitConfig = CONFIG, priors: Priors | None = None) -> MetricModel:
    """An empty model whose fits are random in their own way."""
    return MetricModel(
        scene.kernel, ObjectiveTransform.of, lambda m: np.random.default_rng([7, m]), config, priors or Priors()
    )


def add(made: MetricModel, scene: Scene, rows: slice, errors: float = 0.0) -> None:
    """Tells some of the scene's outcomes."""
    y = scene.y[rows]
    made.add(scene.inputs.rows(rows), scene.units[rows], y, np.full(len(y), errors))


def everything(posterior: Posterior) -> list[Array]:
    """All numbers that a posterior holds."""
    geometry = posterior.geometry
    return [geometry.theta.packed(), geometry.factor, geometry.inverse_factor, posterior.alpha, posterior.constant]


def test_the_schedule() -> None:
    """m(n) <= n, all of them at first, never falls, and lags by no more than two of its steps of a twelfth or forty."""
    lengths = [fitted_length(n, 24) for n in range(1, 12_000)]

    assert lengths[:24] == list(range(1, 25))
    for n, (m, following) in enumerate(pairwise(lengths), 1):
        assert 1 <= m <= n
        assert m <= following
        assert n - m <= 2 * max(1, min(m // 12, 40))
    # Beyond the eager phase the fit that the next ask needs could begin before the last result came.
    assert all(m < n for n, m in enumerate(lengths, 1) if n > 24)


@pytest.mark.parametrize("size", [1, 2, 10, 31])
def test_chosen_keeps_the_best_half_and_covers_the_rest(size: int) -> None:
    """As many as wished, each once, in order; the best half among them; the same each time, ties included."""
    rng = np.random.default_rng(1)
    x, y = rng.random((200, 3)), rng.integers(0, 50, 200).astype(np.float64)

    kept = chosen(x, y, size)

    assert len(set(kept.tolist())) == size
    assert bool((np.diff(kept) > 0).all())
    best = np.argsort(y, kind="stable")[: size // 2]
    assert set(best.tolist()) <= set(kept.tolist())
    assert np.array_equal(kept, chosen(x.copy(), y.copy(), size))


def test_chosen_spreads_out() -> None:
    """Those kept besides the best leave no observation as far from them as the best ones alone would."""
    rng = np.random.default_rng(2)
    x = rng.random((300, 2))
    y = ((x - 0.1) ** 2).sum(axis=1)

    def gap(kept: np.ndarray) -> float:
        return float(np.sqrt(((x[:, None] - x[None, kept]) ** 2).sum(axis=2)).min(axis=1).max())

    assert gap(chosen(x, y, 40)) < 0.5 * gap(np.argsort(y)[:40])
    assert np.array_equal(chosen(x, y, 300), np.arange(300))
    assert np.array_equal(chosen(x, y, 900), np.arange(300))


def test_chosen_survives_repeats() -> None:
    """Points that are all the same are as good as each other, and none is kept twice."""
    kept = chosen(np.zeros((50, 2)), np.zeros(50), 20)

    assert len(set(kept.tolist())) == 20


@pytest.mark.parametrize("prepares", ["never", "always", "at times"])
def test_replay_is_what_was_lived(prepares: str) -> None:
    """However the observations came and whatever was prepared in between, the posterior is the same, bit for bit."""
    scene = Scene(RICH, n=40)
    rng = np.random.default_rng(3)
    lived, replayed = model(scene), model(scene)

    with numerics():
        at = 0
        while at < 40:
            more = int(rng.integers(1, 4))
            add(lived, scene, slice(at, min(at + more, 40)), errors=0.1 * (at % 3))
            at += more
            if rng.random() < 0.5:
                lived.posterior()
            if prepares == "always" or (prepares == "at times" and rng.random() < 0.3):
                while lived.prepare():
                    pass
        at, rng = 0, np.random.default_rng(3)
        while at < 40:
            more = int(rng.integers(1, 4))
            add(replayed, scene, slice(at, min(at + more, 40)), errors=0.1 * (at % 3))
            at += more
            rng.random()
            if prepares == "at times":
                rng.random()
        one, other = lived.posterior()[0], replayed.posterior()[0]
        mean, variance = one.predict(scene.new)
        again, variance_again = other.predict(scene.new)

    for a, b in zip(everything(one), everything(other), strict=True):
        assert np.array_equal(a, b)
    assert np.array_equal(mean, again)
    assert np.array_equal(variance, variance_again)


def test_prepared_work_is_the_work_of_the_next_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the eager phase an ask after `prepare` fits nothing; `prepare` says when there is nothing left."""
    scene = Scene(SQUARE, n=30)
    made = model(scene)
    fits: list[int] = []
    whole = metric.fit

    def counted(kernel: object, data: object, *args: object, **kwargs: object) -> object:
        fits.append(len(data))
        return whole(kernel, data, *args, **kwargs)

    monkeypatch.setattr(metric, "fit", counted)
    with numerics():
        for n in range(30):
            add(made, scene, slice(n, n + 1))
            before = len(fits)
            made.posterior()
            assert len(fits) == before or n + 1 <= EAGER + 1
            while made.prepare():
                pass
            assert not made.prepare()
    assert fits == sorted(set(fits))


def test_the_kept_observations_are_those_of_the_posterior() -> None:
    """Beyond `active_size` the posterior rests on the chosen ones and on those that came since the fit."""
    scene = Scene(SQUARE, n=40)
    made = model(scene, replace(CONFIG, active_size=12, fit_size=8))
    with numerics():
        add(made, scene, slice(0, 40))
        posterior, transform = made.posterior()

    m = fitted_length(40, EAGER)
    kept = chosen(scene.units[:m], scene.y[:m], 12).tolist() + list(range(m, 40))
    assert len(posterior.geometry) == len(kept)
    assert made._resting().tolist() == kept
    assert np.array_equal(posterior.y[0], transform.forward(scene.y[kept]))
    assert np.allclose(transform.forward(scene.y), ObjectiveTransform.of(scene.y).forward(scene.y))


@pytest.mark.parametrize("active_size", [6, 400])
def test_the_mean_at_observations(active_size: int) -> None:
    """It is that of the posterior there, pending points included, whether or not the posterior rests on all of them."""
    scene = Scene(RICH, n=30)
    made = model(scene, replace(CONFIG, active_size=active_size))
    rows, pending = np.array([29, 3, 0, 17, 8]), np.array([1])

    with numerics():
        add(made, scene, slice(0, 30), errors=0.2)
        posterior, _ = made.posterior()
        ahead = scene.inputs.rows(np.array([5, 11]))
        believed = posterior.extended(ahead, np.zeros(2), np.zeros((len(posterior.geometry.theta), 2)))
        expected = believed.mean(scene.inputs.rows(rows).joined(ahead.rows(pending)))

        assert (len(posterior.geometry) < 30) == (active_size == 6)
        np.testing.assert_allclose(made.mean_at(believed, rows, pending), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("n", "spread", "error", "sets"),
    [(8, 0.0, 0.0, 3), (20, 0.0, 0.0, 1), (20, 1.0, 0.0, 3), (20, 0.0, 0.5, 3), (34, 1.0, 0.0, 1)],
)
def test_noise_leaves_much_open_for_longer(n: int, spread: float, error: float, sets: int) -> None:
    """Hyperparameters are averaged over up to 10 results; up to 30 if these are noisy, as found or by what is known of their errors."""
    config = FitConfig(starts=2, calls=40, sets=3, averaged=10, averaged_noisy=30, rounds=1, eager=100)
    scene = Scene(SQUARE, n=n)
    made = model(scene, config)
    y = (scene.units**2).sum(axis=1) + spread * np.random.default_rng(1).standard_normal(n)

    with numerics():
        made.add(scene.inputs, scene.units, y, np.full(n, error))
        posterior, _ = made.posterior()

    assert len(posterior.geometry.theta) == sets


@pytest.mark.parametrize(("averaged", "exact"), [(10, True), (40, False)])
def test_exact_outcomes_are_seen_to_be_exact(averaged: int, exact: bool) -> None:
    """With more results than are averaged over the noise may be as little as rounding; with fewer it is not taken for so little."""
    config = FitConfig(starts=2, calls=60, sets=3, averaged=averaged, rounds=1, eager=100)
    scene = Scene(SQUARE, n=40)
    made = MetricModel(
        scene.kernel, lambda _: IdentityTransform(), lambda m: np.random.default_rng(m), config, Priors()
    )

    with numerics():
        made.add(scene.inputs, scene.units, 4.0 * np.square(scene.units - 0.5).sum(axis=1) - 0.7, np.zeros(40))
        posterior, _ = made.posterior()
        mean = posterior.mean_observed()

    least = float(np.exp(posterior.geometry.theta.noise).min())
    assert (least < 1e-9) if exact else (least >= 0.999e-8)
    assert np.allclose(mean, posterior.y, rtol=0, atol=1e-4 if exact else 0.1)


@pytest.mark.parametrize("seed", [0, 3])
def test_exact_results_one_by_one_stay_exact(seed: int) -> None:
    """Results that crowd about a point, of a function that ignores a parameter, each added to the factor of those before it: errors of
    rounding do not grow from one to the next.
    """
    n, known = 200, 160
    scene = Scene(SQUARE, n=n)
    rng = np.random.default_rng(seed)
    units = rng.random((n, 2))
    spread = 10.0 ** -rng.uniform(0.5, 3.0, size=(150, 1))
    units[50:] = np.clip([0.3, 0.7] + rng.normal(size=(150, 2)) * spread, 1e-9, 1 - 1e-9)
    inputs, y = replace(scene.inputs, x=units), np.exp(2.0 * units[:, 0])
    made = model(scene, FitConfig())

    worst = 0.0
    with numerics():
        made.add(inputs.rows(slice(0, known)), units[:known], y[:known], np.zeros(known))
        for at in range(known, n):
            row = slice(at, at + 1)
            made.add(inputs.rows(row), units[row], y[row], np.zeros(1))
            posterior, _ = made.posterior()
            worst = max(worst, float(np.abs(posterior.mean_observed() - posterior.y).max()))

    assert float(np.exp(posterior.geometry.theta.noise).max()) < 1e-11
    assert worst < 1e-4


def test_a_failed_fit_falls_back_on_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and forgets that as soon as a fit succeeds again, whatever was prepared or replayed."""
    scene = Scene(SQUARE, n=12)
    whole = metric.fit

    def fragile(kernel: object, data: object, *args: object, **kwargs: object) -> object:
        if len(data) in (3, 8):
            raise NumericalError("no hyperparameters give a finite likelihood")
        return whole(kernel, data, *args, **kwargs)

    monkeypatch.setattr(metric, "fit", fragile)
    config = replace(CONFIG, eager=100)
    made = model(scene, config)
    with numerics():
        for n in range(1, 13):
            add(made, scene, slice(n - 1, n))
            posterior, _ = made.posterior()
            assert bool(made.failure) == (n in (3, 8))
            assert np.isfinite(posterior.predict(scene.new)[0]).all()
            replayed = model(scene, config)
            add(replayed, scene, slice(0, n))
            replayed.posterior()
            assert replayed.failure == made.failure


def test_a_failed_factorisation_falls_back_on_the_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the fitted hyperparameters give no factor, the prior's do."""
    scene = Scene(SQUARE, n=6)

    class Fragile(Geometry):
        def __init__(self, kernel: Kernel, theta: Hyperparameters, *args: Any) -> None:
            if float(theta.noise[0]) != pytest.approx(float(prior_mean(kernel, Priors()).noise[0])):
                raise NumericalError("a covariance matrix is not positive definite")
            super().__init__(kernel, theta, *args)

    monkeypatch.setattr(metric, "Geometry", Fragile)
    made = model(scene)
    with numerics():
        add(made, scene, slice(0, 6))
        posterior, _ = made.posterior()

    assert "positive definite" in made.failure
    assert np.isfinite(posterior.alpha).all()


def test_a_tiny_standard_error_pins_the_posterior() -> None:
    """Of two outcomes at one point the one that is known well is believed, not the mean of both."""
    scene = Scene(SQUARE, n=20)
    x = np.concatenate([scene.units, scene.units[:1]])
    y = np.sin(3.0 * x[:, 0]) + x[:, 1] ** 2
    truth = y[0]
    y[0] += 2.0
    errors = np.concatenate([[2.0], np.full(20, 1e-6)])
    made = MetricModel(
        scene.kernel,
        lambda _: IdentityTransform(),
        lambda m: np.random.default_rng(m),
        replace(CONFIG, eager=50),
        Priors(),
    )
    inputs = Inputs.of(scene.layout, x, np.ones(x.shape, dtype=np.bool_))

    with numerics():
        made.add(inputs, x, y, errors)
        posterior, _ = made.posterior()
        mean, variance = posterior.predict(inputs.rows(slice(0, 1)))

    assert float(mean.mean()) == pytest.approx(truth, abs=0.1)
    assert float(variance.mean()) < 0.01


@pytest.mark.parametrize(
    ("value", "error", "tells"),
    [
        (10.0, 10.0, False),
        (-1e6, 1e6, False),
        (-2.5e300, 1e300, False),
        (10.0, 1.0, True),  # far worse than the others for sure
        (-1e6, 1e3, True),  # far better
        (0.5, 1.0, True),  # not so unsure beside the others' spread
        (10.0, 0.0, True),  # nothing is known of its error
    ],
)
def test_what_says_nothing_has_no_part_in_the_scale(value: float, error: float, tells: bool) -> None:
    """A value whose error is larger than what it could tell counts as a middling one; every other is left as it is."""
    others = np.linspace(0.0, 1.0, 9)
    values, errors = np.append(others, value), np.append(np.full(9, 0.01), error)

    told = telling(values, errors)

    assert told[:9].tolist() == others.tolist()
    assert told[9] == (value if tells else 0.5)


def test_exact_values_on_a_plateau_are_left_as_they_are() -> None:
    """Where most are equal their distance from the median is no measure: small errors still say a lot."""
    values = np.array([1000.0] * 6 + [999.0])

    assert telling(values, np.full(7, 0.01)) is values
    assert telling(np.full(7, 1000.0), np.full(7, 0.01)).tolist() == [1000.0] * 7
    assert telling(np.append(values, 1e6), np.append(np.full(7, 0.01), 1e6)).tolist() == [*values.tolist(), 1000.0]


def test_values_that_are_all_as_unsure_are_left_as_they_are() -> None:
    """Noise that hides everything is no reason to know nothing at all, and without errors there is nothing to do."""
    values = np.random.default_rng(1).standard_normal(20)

    assert telling(values, np.full(20, 1.0)) is values
    assert telling(values, np.full(20, 1e9)) is values
    assert telling(values, np.zeros(20)) is values


@pytest.mark.parametrize(("value", "error"), [(10.0, 10.0), (1e6, 1e6), (-1e6, 1e6), (1e300, 1e300), (-1e300, 1e300)])
def test_an_outlier_that_is_known_to_say_nothing_changes_little(value: float, error: float) -> None:
    """What is predicted for other points is almost what it is without that result."""
    scene = Scene(SQUARE, n=20, m=50)

    def bowl(units: Array) -> Array:
        found: Array = np.square(units - 0.3).sum(axis=1)
        return found

    def off(rows: int) -> float:
        made = model(scene, replace(FitConfig(), eager=50, averaged=0))
        y, errors = bowl(scene.units), np.zeros(20)
        y[19], errors[19] = value, error
        with numerics():
            made.add(scene.inputs.rows(slice(0, rows)), scene.units[:rows], y[:rows], errors[:rows])
            posterior, transform = made.posterior()
            found = transform.backward(posterior.mean(scene.new).mean(axis=0))
        return float(np.abs(found - bowl(scene.new_units)).max())

    assert off(20) < 2.0 * off(19) + 1e-3


@pytest.mark.parametrize("error", [5e-324, 1e-200, 1e-20])
def test_an_error_next_to_nothing_is_still_known(error: float) -> None:
    """It does not turn into 0, which would leave the noise to be learned."""
    scene = Scene(SQUARE, n=12)
    made = model(scene)
    add(made, scene, slice(0, 12), errors=error)

    with numerics():
        _, transform = made.posterior()

    known = made._known_variance(transform, np.arange(12))
    assert (known > 0.0).all()
    assert (known < 1e-20).all()
