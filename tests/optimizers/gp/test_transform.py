"""From values to the model's scale and back: order is kept, nothing overflows, and the inverse is one."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.gp.transform import (
    LARGEST,
    ConstraintTransform,
    IdentityTransform,
    LabelTransform,
    LogTransform,
    ObjectiveTransform,
    Transform,
)

KINDS: dict[str, Callable[[Array], Transform]] = {
    "objective": ObjectiveTransform.of,
    "constraint": ConstraintTransform.of,
    "cost": LogTransform.of,
    "label": lambda _: IdentityTransform(),
}
EXTREMES: dict[str, list[float]] = {
    "one value": [0.3],
    "zero": [0.0],
    "constant": [0.1] * 7,
    "constant and huge": [LARGEST] * 3,
    "huge of both signs": [1e300, -1e300, LARGEST, -LARGEST],
    "tiny": [1e-300, 3e-300, 5e-324],
    "subnormal": [5e-324, 1e-323, 1.5e-323, 0.0],
    "of every size": [5e-324, 1e-300, 1e-8, 1.0, 1e8, 1e300],
    "almost constant": [1.0, 1.0 + 2**-52, 1.0, 1.0],
    "one outlier": [1.0, 1.1, 0.9, 1.05, 1e300],
    "a good outlier": [1.0, 1.1, 0.9, 1.05, -1e300],
    "more than half alike": [1.0] * 6 + [2.0, 3.0, 0.5],
    "the best half alike": [1.0] * 6 + [2.0, 3.0],
    "alike give or take rounding, and an outlier": [1.0, 1.0 + 2**-52, LARGEST],
    "alike or nearly so, and an outlier": [0.0, 0.0, 1e-8, LARGEST],
}
values = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12)


def usable(kind: str, numbers: list[float]) -> Array:
    """Values that the transform may meet."""
    y = np.array(numbers)
    if kind == "cost":
        return np.maximum(np.abs(y), 5e-324)
    if kind == "label":
        return np.clip(y, -1.0, 1.0)
    return y


def check(kind: str, y: Array) -> None:
    """What holds for every transform and all finite values."""
    transform = KINDS[kind](y)
    order = np.argsort(y, kind="stable")
    z = transform.forward(y)
    back = transform.backward(z)
    error = transform.error(y, np.abs(y))

    assert bool(np.isfinite(z).all())
    assert float(np.abs(z).max()) < 1e3
    assert bool((np.diff(z[order]) >= 0).all())
    assert bool(np.isfinite(back).all())
    assert bool((error >= 0).all())
    assert bool(np.isfinite(error).all())
    for mean in (-1e3, -1.0, 0.0, float(z[0]), 1.0, 1e3):
        for deviation in (0.0, 1e-6, 1.0, 1e3):
            center, spread = transform.prediction(mean, deviation)
            assert math.isfinite(center)
            assert 0.0 <= spread < math.inf
    # Values that come later may lie anywhere.
    later = usable(kind, [LARGEST, -LARGEST, 5e-324, 0.0, 1e-300, 1.0])
    for size in (5e-324, 1.0, LARGEST):
        assert bool((transform.error(later, np.full(len(later), size)) >= 0).all())


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize("kind", KINDS)
def test_extremes(kind: str, name: str) -> None:
    """Finite, monotone, with finite predictions, whatever the values."""
    check(kind, usable(kind, EXTREMES[name]))


@pytest.mark.parametrize("kind", KINDS)
@given(values)
@settings(deadline=None, max_examples=60)
def test_any_values(kind: str, numbers: list[float]) -> None:
    """The same for random ones."""
    check(kind, usable(kind, numbers))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-290, 1e-6, 1.0, 1e6, 1e290])
def test_back_is_the_inverse_of_forth(kind: str, scale: float) -> None:
    """To twelve digits of the range of the values, in any unit."""
    y = usable(kind, list(scale * np.exp(np.random.default_rng(4).standard_normal(30))))
    if kind == "constraint":
        y *= np.where(np.arange(30) % 3 == 0, -1.0, 1.0)
    transform = KINDS[kind](y)

    assert transform.backward(transform.forward(y)) == pytest.approx(y, rel=1e-12, abs=1e-12 * np.ptp(y))


def test_the_slope_is_the_derivative() -> None:
    """Against differences."""
    y = np.array([*np.exp(np.random.default_rng(5).standard_normal(25)), 300.0, 900.0])
    transform = ObjectiveTransform.of(y)
    step = 1e-6 * y

    differences = (transform.forward(y + step) - transform.forward(y - step)) / (2 * step)

    # Where its pieces meet it has a derivative as well: they meet smoothly.
    assert transform.slope(y) == pytest.approx(differences, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_error_is_bent_as_values_are(kind: str) -> None:
    """It is the error times the slope of the scale there."""
    y = usable(kind, [*np.exp(np.random.default_rng(5).standard_normal(25)), 300.0, 900.0])
    transform = KINDS[kind](y)
    step = 1e-6 * y

    differences = 0.5 * (transform.forward(y + step) - transform.forward(y - step))

    assert transform.error(y, step) == pytest.approx(differences, rel=1e-4)


@pytest.mark.parametrize("value", [10.0, 1e6, 1e300, -1e6])
def test_an_error_as_large_as_its_value_reaches_the_others(value: float) -> None:
    """However little slope the scale of an objective or a constraint has so far out, 0 is one error away."""
    y = np.random.default_rng(5).uniform(-1.0, 1.0, 30)
    for kind in ("objective", "constraint", "label"):
        transform = KINDS[kind](y)
        ends = transform.forward(np.array([0.0, value]))

        assert transform.error(np.array([value]), np.array([abs(value)]))[0] >= abs(ends[1] - ends[0])


@pytest.mark.parametrize("unit", [1e-250, 1e-3, 1e3, 1e250])
def test_the_unit_of_an_objective_does_not_matter(unit: float) -> None:
    """Scaled by a power of two or not, with or without an offset: the model sees the same numbers."""
    y = np.random.default_rng(6).standard_normal(20)
    expected = ObjectiveTransform.of(y).forward(y)

    scaled = ObjectiveTransform.of(y * unit).forward(y * unit)
    moved = ObjectiveTransform.of(y + 100.0).forward(y + 100.0)

    assert scaled == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert moved == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_an_objective_is_standardised_and_outliers_do_not_drown_it() -> None:
    """Mean 0, deviation 1; the better half keeps its shape and most of the spread, however bad the worst is."""
    rng = np.random.default_rng(7)
    y = np.concatenate([rng.standard_normal(30), 10.0 ** rng.uniform(3, 300, 6)])

    z = ObjectiveTransform.of(y).forward(y)

    assert float(z.mean()) == pytest.approx(0, abs=1e-9)
    assert float(z.std()) == pytest.approx(1)
    better = np.argsort(y)[:18]
    shape = np.polynomial.polynomial.polyfit(y[better], z[better], 1)
    assert z[better] == pytest.approx(shape[0] + shape[1] * y[better], abs=1e-8)


@pytest.mark.parametrize("sentinel", [1e4, 1e8, 1e30, 1e300, LARGEST])
def test_a_sentinel_takes_little_of_the_scale(sentinel: float) -> None:
    """A third of the trials report a huge number for "diverged": the better half keeps a good part of the range."""
    y = np.concatenate([np.linspace(0.1, 1.0, 20), np.full(10, sentinel)])

    z = ObjectiveTransform.of(y).forward(y)

    assert np.ptp(z[:15]) > np.ptp(z) / 16


@pytest.mark.parametrize("noise", [0.0, 1e-17])
def test_what_a_front_reaches_keeps_its_shape(noise: float) -> None:
    """Although most values, on the front as well, are at the lowest one give or take rounding; without a front only those count."""
    y = np.concatenate([noise * np.arange(12.0), np.linspace(0.2, 1.0, 9)])
    front = y[6:18]

    z = ObjectiveTransform.of(y, front).forward(y)

    reached = front.max() >= y
    shape = np.polyfit(y[reached], z[reached], 1)
    # The middle of what the front reaches bounds the part that is straight.
    straight = y <= np.median(front[front > 0.1])
    assert z[straight] == pytest.approx(z[0] + (z[12] - z[0]) / 0.2 * y[straight], abs=1e-9)
    assert shape[0] > 0
    assert np.ptp(z[straight]) > np.ptp(z) / 3
    alone = ObjectiveTransform.of(y).forward(y)
    assert noise == 0.0 or np.ptp(alone[12:]) < np.ptp(alone) / 10


def test_a_front_that_reaches_far_and_an_outlier_far_beyond() -> None:
    """The middle of the front is a hundred-millionth of what it reaches, and the outlier 300 decades off: all is finite, in order."""
    y = np.array([-0.25, 0.0, 0.3, 1e8, LARGEST])
    transform = ObjectiveTransform.of(y, y[:4])

    z = transform.forward(y)

    assert bool((np.diff(z) > 0).all())
    assert z.mean() == pytest.approx(0, abs=1e-9)
    assert z.std() == pytest.approx(1)
    assert bool(np.isfinite(transform.backward(z)).all())


@pytest.mark.parametrize("decades", [0.3, 3.0, 12.0])
def test_a_prediction_is_hardly_worse_than_all_that_was_seen(decades: float) -> None:
    """However unsure the model is, and however near to the optimum a study has come: at most twice as far from the best as the worst."""
    y = 1.0 + np.random.default_rng(10).uniform(0.0, 1.0, 40) * np.logspace(0.0, -decades, 40)
    transform = ObjectiveTransform.of(y)

    furthest = y.min() + 2.0 * np.ptp(y)

    assert transform.backward(np.array([50.0, 1e6])) == pytest.approx(furthest)
    mean, deviation = transform.prediction(10.0, 2.0)
    assert mean < furthest
    assert deviation < 2.0 * np.ptp(y)


def test_a_constraint_keeps_its_sign() -> None:
    """The boundary stays at 0 on the model's scale."""
    violation = np.array([-1e300, -1.0, -5e-324, 0.0, 5e-324, 2.0, 1e300])

    z = ConstraintTransform.of(violation).forward(violation)

    assert bool(((z > 0) <= (violation > 0)).all())
    assert bool(((z < 0) <= (violation < 0)).all())
    assert z[3] == 0.0


def test_a_constraint_is_not_bent_at_its_boundary() -> None:
    """Near 0 it is a straight line but for terms of third order, and what four fifths of the results say is hardly bent."""
    violation = np.random.default_rng(11).uniform(-1.0, 1.0, 50)
    transform = ConstraintTransform.of(violation)
    near = 1e-3 * transform.scale * np.array([-1.0, 1.0])

    assert transform.forward(near) == pytest.approx(near / transform.scale, rel=1e-6)
    assert transform.forward(np.array([transform.scale]))[0] > 0.85
    assert float((np.abs(violation) <= transform.scale).mean()) == pytest.approx(0.8, abs=0.02)


def test_an_enormous_violation_takes_little_of_the_scale() -> None:
    """The others remain about as far apart as they were, be it one of twenty that is enormous or eight."""
    violation = np.random.default_rng(12).uniform(-1.0, 1.0, 20)
    for share in (1, 8):
        result = np.concatenate([violation[share:], np.full(share, 1e300)])

        transform = ConstraintTransform.of(result)

        assert 0.5 < transform.scale < 10.0
        assert transform.forward(result)[-1] < 1000.0


def test_a_prediction_is_the_mean_of_what_is_believed() -> None:
    """Against draws of the normal variable on the model's scale."""
    y = np.exp(np.random.default_rng(8).standard_normal(40))
    for kind, transform in ((k, KINDS[k](y)) for k in KINDS):
        draws = transform.backward(0.2 + 0.4 * np.random.default_rng(9).standard_normal(400_000))

        center, spread = transform.prediction(0.2, 0.4)

        assert center == pytest.approx(draws.mean(), rel=0.01), kind
        assert spread == pytest.approx(draws.std(), rel=0.03), kind


@pytest.mark.parametrize(("kept", "broken"), [(0.0, 1.0), (-0.5, 0.5), (-LARGEST, LARGEST), (-1e-290, 1e-290)])
def test_two_values_on_either_side_of_a_bound_are_labels(kept: float, broken: float) -> None:
    """They become -1 and 1, and come back."""
    violation = np.array([kept, broken, kept, kept])

    transform = ConstraintTransform.of(violation)

    assert isinstance(transform, LabelTransform)
    np.testing.assert_allclose(transform.forward(violation), [-1.0, 1.0, -1.0, -1.0])
    np.testing.assert_allclose(transform.backward(transform.forward(violation)), violation, rtol=1e-12)
    assert np.isfinite(transform.backward(np.array([-1e300, 1e300]))).all()
    assert np.isfinite(transform.forward(np.array([-LARGEST, LARGEST]))).all()


@pytest.mark.parametrize(
    "violation",
    [
        [0.0, 1.0, 0.0],
        [-1.0, -1.0, 0.0, -1.0],
        [1.0, 2.0, 2.0, 1.0],
        [0.0, 1.0, 0.5, 1.0],
        [0.0, 5e-324, 0.0, 0.0],
        [1.0, 1.0, 1.0, 1.0],
    ],
)
def test_other_violations_are_no_labels(violation: list[float]) -> None:
    """Too few of them; on one side of the bound; three values; or values that are not apart."""
    assert not isinstance(ConstraintTransform.of(np.array(violation)), LabelTransform)
