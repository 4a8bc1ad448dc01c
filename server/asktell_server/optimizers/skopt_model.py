"""One scikit-optimize model: fitted once to a history, asked for the point that maximises an acquisition function.

Importing this module imports skopt and scikit-learn, which takes seconds.

Shapes: X (n, d) float64 codes of encoding.py, y (n,) float64 on any scale, to be minimised. Inside, y is standardised by
`Scale`, and a row for skopt holds one entry per parameter that can vary: the unit, or a choice's index if categorical.

What differs from plain skopt 0.10, and why
    - `gp_hedge` picks among EI, LCB and PI by their past gains. A model that is built afresh for each suggestion has no past,
      so all gains are 0 and each is drawn with probability 1/3; only the one drawn is then computed.
    - `xi` is given in units of the objective; it is cut to XI_LIMIT standard deviations of y, and so to 0 if y is constant. Of
      an objective that varies by 1e-5 nobody can expect an improvement by skopt's default of 0.01: EI and PI would be 0 to
      machine precision everywhere and the suggestion arbitrary.
    - The search for the maximum starts from CANDIDATES random points instead of 10,000, which costs most of the time.
    - GBRT: skopt's quantile regressor is not a regressor to scikit-learn 1.6 and later, and its `predict` uses a function
      that numpy 2.4 dropped; `_BoostedTrees` mends both.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils import RegressorTags
from skopt import Optimizer as _Skopt
from skopt.acquisition import gaussian_ei, gaussian_lcb, gaussian_pi
from skopt.learning import (
    ExtraTreesRegressor,
    GaussianProcessRegressor,
    GradientBoostingQuantileRegressor,
    RandomForestRegressor,
)
from skopt.space import Categorical, Real
from skopt.utils import cook_estimator
from threadpoolctl import threadpool_limits

from asktell_server.domain.algorithms import SkoptAcquisition, SkoptOptimizer
from asktell_server.domain.space import CategoricalParameter
from asktell_server.optimizers.encoding import Array, Encoding

CANDIDATES = 2000
XI_LIMIT = 0.1
LARGEST = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class Scale:
    """y = (lowest + deviation * standardised) * 2^exponent. The power of two keeps sums of the largest floats finite, and
    counting from the lowest value keeps differences that are tiny beside the values.
    """

    exponent: int
    lowest: float
    deviation: float

    @classmethod
    def of(cls, y: Array) -> Scale:  # y: (n,), n >= 1
        """The scale on which `y` begins at 0 and has deviation 1, or is 0 if constant."""
        exponent = int(np.frexp(np.abs(y).max())[1])
        small = np.ldexp(y, -exponent)
        return cls(exponent, float(small.min()), float((small - small.min()).std()))

    def standardised(self, y: Array) -> Array:  # (n,) -> (n,)
        """`y` on this scale."""
        raised = np.ldexp(y, -self.exponent) - self.lowest
        return raised / self.deviation if self.deviation > 0 else raised

    def difference(self, amount: float) -> float:
        """A positive difference of values on this scale, at most 1e300; 0 if the values that made the scale do not differ."""
        if self.deviation == 0:
            return 0.0
        with np.errstate(over="ignore"):  # infinite is cut as well
            return float(min(np.ldexp(amount, -self.exponent) / self.deviation, 1e300))

    def restored(self, mean: float, deviation: float) -> tuple[float, float]:
        """A standardised prediction on the scale of y, cut to finite numbers."""
        unit = self.deviation or 1.0
        with np.errstate(over="ignore"):  # infinite is cut in the next line
            pair = np.ldexp(np.array([self.lowest + mean * unit, deviation * unit]), self.exponent)
        value, spread = np.clip(pair, -LARGEST, LARGEST).tolist()
        return value, spread


class _TimesItsFit:
    """Remembers how long `fit` took: skopt fits and searches in one call."""

    fit_s = 0.0

    def fit(self, x: Array, y: Array) -> Any:
        start = time.perf_counter()
        fitted = super().fit(x, y)  # type: ignore[misc]
        self.fit_s = time.perf_counter() - start
        return fitted


class _GaussianProcess(_TimesItsFit, GaussianProcessRegressor):  # type: ignore[misc]
    pass


class _RandomForest(_TimesItsFit, RandomForestRegressor):  # type: ignore[misc]
    pass


class _ExtraTrees(_TimesItsFit, ExtraTreesRegressor):  # type: ignore[misc]
    pass


class _BoostedTrees(_TimesItsFit, GradientBoostingQuantileRegressor):  # type: ignore[misc]
    """Quantiles 16, 50 and 84 %: the median as mean, half of what lies between the others as deviation."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "regressor"
        tags.regressor_tags = RegressorTags()
        return tags

    def predict(self, x: Array, return_std: bool = False) -> Any:
        low, median, high = (regressor.predict(x) for regressor in self.regressors_)
        # The three are fitted independently and may cross.
        return (median, np.maximum(0.5 * (high - low), 0.0)) if return_std else median


_TIMED = {
    GaussianProcessRegressor: _GaussianProcess,
    RandomForestRegressor: _RandomForest,
    ExtraTreesRegressor: _ExtraTrees,
    GradientBoostingQuantileRegressor: _BoostedTrees,
}


class SkoptModel:
    """A fitted model. Raises ValueError (LinAlgError is one) or ArithmeticError where the numerics fail.

    Made and used within `numerics()` it is bit for bit the same for the same arguments. `phases_s`: the seconds of each phase.
    """

    def __init__(
        self,
        encoding: Encoding,
        settings: SkoptOptimizer,
        codes: Array,  # (n, d)
        y: Array,  # (n,)
        rng: np.random.Generator,
    ) -> None:
        self._encoding = encoding
        self._settings = settings
        self._scale = Scale.of(y)
        self._varying = [i for i, p in enumerate(encoding.space.parameters) if p.cardinality != 1]
        self._choices = {
            i: len(p.choices) for i, p in enumerate(encoding.space.parameters) if isinstance(p, CategoricalParameter)
        }
        self.acquisition = drawn_acquisition(settings.acquisition_function, rng)
        self._criterion = {"xi": min(self._scale.difference(settings.xi), XI_LIMIT), "kappa": settings.kappa}
        standardised = self._scale.standardised(y)
        self._best = float(standardised.min())
        seeds = rng.integers(2**31 - 1, size=2).tolist()
        dimensions = [
            Categorical(list(range(self._choices[i]))) if i in self._choices else Real(0.0, 1.0) for i in self._varying
        ]
        cooked = cook_estimator(settings.base_estimator.value, space=dimensions, random_state=seeds[0], n_jobs=1)
        self._skopt = _Skopt(
            dimensions,
            base_estimator=_TIMED[type(cooked)](**cooked.get_params(deep=False)),
            n_initial_points=0,
            acq_func=self.acquisition,
            acq_func_kwargs=self._criterion,
            acq_optimizer="auto",
            acq_optimizer_kwargs={"n_points": CANDIDATES, "n_jobs": 1},
            random_state=seeds[1],
            avoid_duplicates=False,
        )
        start = time.perf_counter()
        self._skopt.tell(self._rows(codes), standardised.tolist())
        elapsed = time.perf_counter() - start
        self._model = self._skopt.models[-1]
        self.phases_s = {"fit": self._model.fit_s, "acquisition": elapsed - self._model.fit_s}

    def maximum(self) -> Array:  # (d,)
        """The code at which the acquisition function is largest."""
        row = self._skopt.ask()
        code = np.full(self._encoding.dimensions, 0.5)
        for i, entry in zip(self._varying, row, strict=True):
            code[i] = (int(entry) + 0.5) / self._choices[i] if i in self._choices else float(entry)
        return code

    def scores(self, codes: Array) -> Array:  # (n, d) -> (n,)
        """The acquisition function at `codes`: larger is better."""
        start = time.perf_counter()
        x = self._skopt.space.transform(self._rows(codes))
        match self.acquisition:
            case "LCB":
                found = -gaussian_lcb(x, self._model, kappa=self._criterion["kappa"])
            case "EI":
                found = gaussian_ei(x, self._model, y_opt=self._best, xi=self._criterion["xi"])
            case _:
                found = gaussian_pi(x, self._model, y_opt=self._best, xi=self._criterion["xi"])
        self.phases_s["acquisition"] += time.perf_counter() - start
        return np.asarray(found, dtype=np.float64)

    def prediction(self, code: Array) -> tuple[float, float]:  # (d,)
        """Mean and standard deviation of y at `code`."""
        x = self._skopt.space.transform(self._rows(code[np.newaxis]))
        mean, deviation = self._model.predict(x, return_std=True)
        if not np.isfinite(mean[0]) or not np.isfinite(deviation[0]):
            raise ValueError("the model's prediction is not finite")
        return self._scale.restored(float(mean[0]), float(deviation[0]))

    def _rows(self, codes: Array) -> list[list[float | int]]:  # (n, d) -> n rows for skopt
        return [
            [
                min(int(row[i] * self._choices[i]), self._choices[i] - 1) if i in self._choices else row[i]
                for i in self._varying
            ]
            for row in codes.tolist()
        ]


def drawn_acquisition(wanted: SkoptAcquisition, rng: np.random.Generator) -> str:
    """Skopt's name of the criterion, drawn for GP_HEDGE; the draw is made in any case, so that later ones do not shift."""
    drawn = str(rng.choice(["EI", "LCB", "PI"]))
    return drawn if wanted is SkoptAcquisition.GP_HEDGE else wanted.value


@contextmanager
def numerics() -> Iterator[None]:
    """Where a SkoptModel is made and used: one BLAS thread, whose sums have one order, and no warnings of known reason."""
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        # Rounding at a point that was observed; skopt then takes 0, which is right.
        warnings.filterwarnings("ignore", "Predicted variances smaller than 0", UserWarning)
        # The caller looks after points that are taken.
        warnings.filterwarnings("ignore", "The objective has been evaluated at point", UserWarning)
        yield
