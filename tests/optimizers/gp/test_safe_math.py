"""Logarithms of tiny probabilities against 50 digits and against BoTorch; factorisations that do not fail."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch

from asktell_server.optimizers.encoding import Array
from asktell_server.optimizers.safe_math import (
    JITTERS,
    TAIL,
    NumericalError,
    cholesky,
    inverse_of_lower,
    log_h,
    log_ndtr,
    logmeanexp,
    numerics,
)

ARGUMENTS = np.unique(
    np.concatenate(
        [
            -np.logspace(6, -6, 400),
            [0.0],
            np.logspace(-6, 6, 200),
            np.linspace(1.01 * TAIL, 0.99 * TAIL, 40),
            np.linspace(-1.01, -0.99, 40),
        ]
    )
)


def exact(u: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """h(u), Phi(u) and phi(u), to 50 digits and more where they cancel."""
    with mpmath.workdps(90):
        x = mpmath.mpf(u)
        density = mpmath.exp(-x * x / 2) / mpmath.sqrt(2 * mpmath.pi)
        cumulative = mpmath.erfc(-x / mpmath.sqrt(2)) / 2
        return density + x * cumulative, cumulative, density


def distance(found: Array, expected: list[mpmath.mpf]) -> float:
    """The largest difference, relative where the expected number is above 1."""
    return max(float(abs(mpmath.mpf(a) - b) / max(1, abs(b))) for a, b in zip(found.tolist(), expected, strict=True))


def test_log_h_has_twelve_digits() -> None:
    """From -1e6 to 1e6 log h is exact to 1e-12, and to 1e-12 of itself where it is large; so is its slope."""
    reference = [exact(u) for u in ARGUMENTS.tolist()]

    value, slope = log_h(ARGUMENTS)

    assert distance(value, [mpmath.log(h) for h, _, _ in reference]) < 1e-12
    expected = [cumulative / h for h, cumulative, _ in reference]
    relative = [float(abs(mpmath.mpf(a) / b - 1)) for a, b in zip(slope.tolist(), expected, strict=True)]
    assert max(relative) < 1e-12


def test_log_h_is_that_of_botorch() -> None:
    """Ament et al. 2023: BoTorch's implementation agrees to ten digits, which is what it has in its own middle part."""
    from botorch.acquisition.analytic import _log_ei_helper

    u = ARGUMENTS[ARGUMENTS > -900]

    assert np.allclose(log_h(u)[0], _log_ei_helper(torch.from_numpy(u)).numpy(), rtol=1e-10, atol=1e-10)


def test_log_h_grows_without_a_gap() -> None:
    """Where one formula takes over from another it neither jumps nor falls, and its slope does not grow."""
    for crossover in (-1.0, TAIL):
        u = crossover + np.linspace(-1e-6, 1e-6, 2001) * abs(crossover)

        value, slope = log_h(u)

        steps = np.diff(value)
        assert bool((steps > 0).all())
        assert float(steps.max() / steps.min()) == pytest.approx(1, rel=1e-3)
        assert float(slope.max() / slope.min() - 1) < 1e-5


def test_log_ndtr_has_twelve_digits() -> None:
    """Log Phi to 1e-12 from -1e6 to 1e6, and so is its slope, relative where Phi is not almost 1."""
    reference = [exact(u) for u in ARGUMENTS.tolist()]

    value, slope = log_ndtr(ARGUMENTS)

    assert distance(value, [mpmath.log(cumulative) for _, cumulative, _ in reference]) < 1e-12
    assert distance(slope, [density / cumulative for _, cumulative, density in reference]) < 1e-12


def test_logmeanexp_does_not_overflow() -> None:
    """The mean of exponentials whose own size is out of range."""
    x = np.array([[1e4, -1e4], [1e4 + math.log(3.0), -1e4]])

    assert logmeanexp(x, axis=0).tolist() == pytest.approx([1e4 + math.log(2.0), -1e4], abs=1e-9)


def test_a_good_matrix_gets_no_jitter() -> None:
    """What can be factorised as it stands is, and the inverse of the factor is one."""
    rng = np.random.default_rng(1)
    root = rng.standard_normal((3, 6, 6))
    matrix = root @ root.mT + np.eye(6)

    factor = cholesky(matrix)

    assert np.allclose(factor @ factor.mT, matrix, rtol=1e-14, atol=1e-13)
    assert np.allclose(inverse_of_lower(factor) @ factor, np.eye(6), atol=1e-13)


def test_each_matrix_gets_the_least_jitter_that_helps() -> None:
    """In a batch of a good, a singular and a slightly indefinite matrix each is changed no more than it needs."""
    good = np.eye(4)
    singular = np.ones((4, 4))
    indefinite = np.ones((4, 4)) - 3e-7 * good

    factor = cholesky(np.stack([good, singular, indefinite]))

    change = (factor @ factor.mT - np.stack([good, singular, indefinite])).diagonal(axis1=1, axis2=2).max(axis=1)
    assert change[0] == 0.0
    assert float(change[1]) <= 1.01 * JITTERS[1]
    assert float(change[2]) == pytest.approx(1e-6, rel=1e-3)


def test_a_hopeless_matrix_says_so() -> None:
    """Not a number, or far from positive definite: NumericalError, with what was tried."""
    with pytest.raises(NumericalError, match="not finite"):
        cholesky(np.full((2, 2), np.nan))
    with pytest.raises(NumericalError, match=r"0\.01"):
        cholesky(-np.eye(2))


def test_infinities_pass_without_a_warning() -> None:
    """Where the engine computes; outside numpy goes on warning of them."""
    zero = np.zeros(2)

    with numerics():
        assert np.log(zero).tolist() == [-np.inf] * 2
        assert np.isnan(zero / zero).all()

    with pytest.warns(RuntimeWarning, match="divide by zero"):
        np.log(zero)


def test_every_failure_of_arithmetic_is_a_numerical_error() -> None:
    """Of torch, numpy and Python alike; other errors pass as they are, and the number of threads is restored."""
    before = torch.get_num_threads()

    with pytest.raises(NumericalError, match="singular"), numerics():
        torch.linalg.inv(torch.zeros((2, 2), dtype=torch.float64))
    with pytest.raises(NumericalError, match="Singular"), numerics():
        np.linalg.inv(np.zeros((2, 2)))
    with pytest.raises(NumericalError, match="range"), numerics():
        math.exp(1e3)
    with pytest.raises(KeyError), numerics():
        raise KeyError

    assert torch.get_num_threads() == before
    assert torch.is_grad_enabled()
