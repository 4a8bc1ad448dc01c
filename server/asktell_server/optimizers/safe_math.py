"""Numerical care, in one place: logarithms of tiny probabilities, and factorisations that do not fail.

Every function here is finite, or raises `NumericalError`, for all arguments whose squares are finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import torch
from scipy import special
from threadpoolctl import ThreadpoolController

from asktell_server.optimizers.encoding import Array

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
TAIL = -50.0
"""Where `log_h` changes to its asymptotic series."""
JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""What is added to the diagonal, in units of its mean unless told otherwise, until the factorisation succeeds."""


@cache
def _thread_pools() -> ThreadpoolController:
    """Those of the libraries that are loaded by now; to look for them takes a millisecond."""
    return ThreadpoolController()


@contextmanager
def numerics() -> Iterator[None]:
    """Where the engine computes: one thread, whose sums have one order, and no record of operations for derivatives.

    Whatever fails in the arithmetic leaves it as NumericalError; infinities and NaN pass without a warning, and whoever they
    matter to looks for them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), _thread_pools().limit(limits=1, user_api="blas"), np.errstate(all="ignore"):
            yield
    except NumericalError:
        raise
    except (ArithmeticError, torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
        raise NumericalError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    finally:
        torch.set_num_threads(threads)


class NumericalError(ArithmeticError):
    """Numbers with which the engine cannot go on: the message says what failed, and what was tried."""


def cholesky(
    matrix: Array,  # (..., n, n)
    unit: Array | None = None,  # (...,) of the jitter, if not the mean of the diagonal
) -> Array:  # (..., n, n)
    """Lower Cholesky factor, with the least of JITTERS that works for each matrix. Raises NumericalError."""
    factor, info = _cholesky(matrix)
    if not info.any() and np.isfinite(factor).all():
        return factor
    if not np.isfinite(matrix).all():
        raise NumericalError("a covariance matrix holds values that are not finite")
    if unit is None:
        unit = matrix.diagonal(axis1=-2, axis2=-1).mean(axis=-1)
    identity = unit[..., None, None] * np.eye(matrix.shape[-1])
    for jitter in JITTERS[1:]:
        again, info_again = _cholesky(matrix + jitter * identity)
        factor = np.where((info != 0)[..., None, None], again, factor)
        info = np.where(info != 0, info_again, info)
        if not info.any():
            return factor
    raise NumericalError(f"a covariance matrix is not positive definite even with {JITTERS[-1]} added to its diagonal")


def _cholesky(matrix: Array) -> tuple[Array, Array]:  # -> factors, and 0 for each that succeeded
    factor, info = torch.linalg.cholesky_ex(torch.from_numpy(matrix))
    return factor.numpy(), info.numpy()


def inverse_of_lower(factor: Array) -> Array:  # (..., n, n)
    """Inverse of a lower triangular matrix."""
    return solved_by_lower(factor, np.broadcast_to(np.eye(factor.shape[-1]), factor.shape))


def solved_by_lower(factor: Array, right: Array) -> Array:  # (..., n, n), (..., n, m) -> (..., n, m)
    """X of L X = R for a lower triangular L: with little noise the product with an inverse of L is too far from it to build on."""
    # In torch's memory: where numpy's lies may decide over the last bits.
    solved: Array = torch.linalg.solve_triangular(torch.tensor(factor), torch.tensor(right), upper=False).numpy()
    return solved


def log_normal_density(u: Array) -> Array:
    """log of the standard normal density."""
    return -0.5 * u * u - LOG_SQRT_2PI


def log_h(u: Array) -> tuple[Array, Array]:
    """log h(u) and its derivative, h(u) = phi(u) + u Phi(u): expected improvement is s h((best - mean) / s).

    Accurate to 1e-12 of value and derivative for |u| up to 1e6 [1]_. For u > -1 by the definition. Below, h = phi(u) b with
    b = 1 + u R(u) and Mills' ratio R(u) = Phi(u) / phi(u) = sqrt(pi / 2) erfcx(-u / sqrt 2), where cancellation costs u^2 units of
    the last digit; so below TAIL the asymptotic series b = t - 3 t^2 + 15 t^3 - ..., t = u^-2, takes over. The derivative is
    Phi / h = R / b, which is (1 - b) / (-u b).

    .. [1] S. Ament, S. Daulton, D. Eriksson, M. Balandat, E. Bakshy. Unexpected improvements to expected improvement for
       Bayesian optimization. NeurIPS 2023. Equations (9) and (14).
    """
    near = np.maximum(u, -1.0)
    cumulative = special.ndtr(near)
    h = np.exp(log_normal_density(near)) + near * cumulative
    value, slope = np.log(h), cumulative / h
    least = float(u.min()) if u.size else 0.0  # most calls need no more than this
    if least <= -1.0:
        middle = np.clip(u, TAIL, -1.0)
        mills = special.erfcx(middle * (-1 / math.sqrt(2))) * math.sqrt(math.pi / 2)
        bracket = 1.0 + middle * mills
        value = np.where(u > -1.0, value, log_normal_density(middle) + np.log(bracket))
        slope = np.where(u > -1.0, slope, mills / bracket)
    if least <= TAIL:
        tail = np.minimum(u, TAIL)
        t = 1.0 / (tail * tail)
        series = np.ones_like(t)
        for coefficient in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
            series = 1.0 - coefficient * t * series
        value = np.where(u > TAIL, value, log_normal_density(tail) + np.log(series) - 2.0 * np.log(-tail))
        slope = np.where(u > TAIL, slope, -tail * (1.0 - t * series) / series)
    return value, slope


def log_ndtr(u: Array) -> tuple[Array, Array]:
    """log Phi(u) and its derivative, phi / Phi."""
    near, far = np.maximum(u, -1.0), np.minimum(u, -1.0)
    slope = np.where(
        u > -1.0,
        np.exp(log_normal_density(near)) / special.ndtr(near),
        math.sqrt(2.0 / math.pi) / special.erfcx(far * (-1 / math.sqrt(2))),
    )
    return special.log_ndtr(u), slope


def logsumexp(x: Array, axis: int | tuple[int, ...]) -> Array:
    """log of the sum of exp(x), minus infinity where all x are. What scipy has takes eight times as long for a few numbers."""
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        found: Array = np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)
    return found


def logmeanexp(x: Array, axis: int) -> Array:
    """log of the mean of exp(x)."""
    return logsumexp(x, axis) - math.log(x.shape[axis])
