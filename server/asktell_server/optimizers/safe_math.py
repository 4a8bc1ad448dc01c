"""Numerical care, in one place: logarithms of tiny probabilities, and factorisations that do not fail.

Every function here is finite, or raises `NumericalError`, for all arguments whose squares are finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
TAIL = -50.0
"""Where `log_h` changes to its asymptotic series."""
JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""What is added to the diagonal, in units of its mean unless told otherwise, until the factorisation succeeds."""


@contextmanager
def numerics() -> Iterator[None]:
    """Where the engine computes: one thread, whose sums have one order, and no record of operations for derivatives.

    Whatever fails in the arithmetic leaves it as NumericalError.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
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
    matrix: Tensor,  # (..., n, n)
    unit: Tensor | None = None,  # (...,) of the jitter, if not the mean of the diagonal
) -> Tensor:  # (..., n, n)
    """Lower Cholesky factor, with the least of JITTERS that works for each matrix. Raises NumericalError."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if not info.any() and bool(torch.isfinite(factor).all()):
        return factor
    if not bool(torch.isfinite(matrix).all()):
        raise NumericalError("a covariance matrix holds values that are not finite")
    if unit is None:
        unit = matrix.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    identity = unit[..., None, None] * torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    for jitter in JITTERS[1:]:
        again, info_again = torch.linalg.cholesky_ex(matrix + jitter * identity)
        factor = torch.where((info != 0)[..., None, None], again, factor)
        info = torch.where(info != 0, info_again, info)
        if not info.any():
            return factor
    raise NumericalError(f"a covariance matrix is not positive definite even with {JITTERS[-1]} added to its diagonal")


def inverse_of_lower(factor: Tensor) -> Tensor:  # (..., n, n)
    """Inverse of a lower triangular matrix."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype).expand_as(factor)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye, upper=False)
    return inverse


def log_normal_density(u: Tensor) -> Tensor:
    """log of the standard normal density."""
    return -0.5 * u * u - LOG_SQRT_2PI


def log_h(u: Tensor) -> tuple[Tensor, Tensor]:
    """log h(u) and its derivative, h(u) = phi(u) + u Phi(u): expected improvement is s h((best - mean) / s).

    Accurate to 1e-12 of value and derivative for |u| up to 1e6 [1]_. For u > -1 by the definition. Below, h = phi(u) b with
    b = 1 + u R(u) and Mills' ratio R(u) = Phi(u) / phi(u) = sqrt(pi / 2) erfcx(-u / sqrt 2), where cancellation costs u^2 units of
    the last digit; so below TAIL the asymptotic series b = t - 3 t^2 + 15 t^3 - ..., t = u^-2, takes over. The derivative is
    Phi / h = R / b, which is (1 - b) / (-u b).

    .. [1] S. Ament, S. Daulton, D. Eriksson, M. Balandat, E. Bakshy. Unexpected improvements to expected improvement for
       Bayesian optimization. NeurIPS 2023. Equations (9) and (14).
    """
    near = u.clamp_min(-1.0)
    cumulative = torch.special.ndtr(near)
    h = torch.addcmul(torch.exp(log_normal_density(near)), near, cumulative)
    value, slope = h.log(), cumulative / h
    least = float(u.min()) if u.numel() else 0.0  # most calls need no more than this
    if least <= -1.0:
        middle = u.clamp(TAIL, -1.0)
        mills = torch.special.erfcx(middle * (-1 / math.sqrt(2))) * math.sqrt(math.pi / 2)
        bracket = torch.addcmul(torch.ones_like(u), middle, mills)
        value = torch.where(u > -1.0, value, log_normal_density(middle) + bracket.log())
        slope = torch.where(u > -1.0, slope, mills / bracket)
    if least <= TAIL:
        tail = u.clamp_max(TAIL)
        t = 1.0 / (tail * tail)
        series = torch.ones_like(t)
        for coefficient in (13.0, 11.0, 9.0, 7.0, 5.0, 3.0):
            series = 1.0 - coefficient * t * series
        value = torch.where(u > TAIL, value, log_normal_density(tail) + series.log() - 2.0 * (-tail).log())
        slope = torch.where(u > TAIL, slope, -tail * (1.0 - t * series) / series)
    return value, slope


def log_ndtr(u: Tensor) -> tuple[Tensor, Tensor]:
    """log Phi(u) and its derivative, phi / Phi."""
    near, far = u.clamp_min(-1.0), u.clamp_max(-1.0)
    slope = torch.where(
        u > -1.0,
        torch.exp(log_normal_density(near)) / torch.special.ndtr(near),
        math.sqrt(2.0 / math.pi) / torch.special.erfcx(far * (-1 / math.sqrt(2))),
    )
    return torch.special.log_ndtr(u), slope


def logmeanexp(x: Tensor, dim: int) -> Tensor:
    """log of the mean of exp(x)."""
    return torch.logsumexp(x, dim=dim) - math.log(x.shape[dim])
