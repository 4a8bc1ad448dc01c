"""The factor by which deviations are multiplied, against its definition and against models that err on purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from asktell_server.optimizers.gp.calibration import FEWEST, PRIOR, Z_90, factor, factors_without
from asktell_server.optimizers.gp.study_model import StudyModel
from asktell_server.optimizers.safe_math import numerics

from .test_explainable import a_model, a_spec, history, loss


@pytest.mark.parametrize("n", [FEWEST, 19, 20, 57, 400])
def test_the_factor_is_the_quantile_tempered(n: int) -> None:
    """Whatever their signs, of n errors at least 0.9 (n + 1), or all, are no larger than the factor undone says."""
    errors = np.random.default_rng(n).standard_t(3, n)

    size = Z_90 * factor(errors) ** ((n + PRIOR) / n)

    inside = (np.abs(errors) <= size * (1 + 1e-9)).sum()
    assert inside >= min(n, 0.9 * (n + 1)) > (np.abs(errors) < size * (1 - 1e-9)).sum()


@pytest.mark.parametrize("n", [FEWEST, FEWEST + 1, 19, 20, 21, 57])
def test_no_result_has_a_say_in_its_own_interval(n: int) -> None:
    """The factors for each are those of the others, equal errors included."""
    errors = np.random.default_rng(n).standard_normal(n)
    errors[: n // 4] = errors[0]

    found = factors_without(errors)

    assert found == pytest.approx([factor(np.delete(errors, i)) for i in range(n)])


@pytest.mark.parametrize("make", [lambda rng: rng.standard_t(2, 200), lambda rng: 30 * rng.standard_normal(200)])
def test_nine_of_ten_hold(make: Callable[[np.random.Generator], np.ndarray]) -> None:
    """Whatever the errors' distribution: intervals made without a result hold it nine times in ten."""
    errors = make(np.random.default_rng(7))

    inside = np.abs(errors) <= Z_90 * factors_without(errors)

    assert 0.86 <= inside.mean() <= 0.93


@pytest.mark.parametrize("errors", [np.full(30, np.inf), np.full(30, np.nan), np.zeros(FEWEST - 1), np.empty(0)])
def test_errors_that_say_nothing(errors: np.ndarray) -> None:
    """Deviations stay as they are where the errors are too few or no numbers."""
    assert factor(errors) == 1.0
    assert (factors_without(errors) == 1.0).all()


def test_errors_of_nothing_narrow_little() -> None:
    """Predictions that were all exact make no deviation zero."""
    assert 0.1 <= factor(np.zeros(50)) < 1.0


def test_suggestions_are_widened_never_narrowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suggestion's deviation is the model's own, or wider where left-out results say that the model is too sure of itself."""

    def predicted(of: float) -> tuple[float, float]:
        with numerics():
            model: StudyModel = a_model(a_spec(), history(20, lambda p: {"loss": loss(p)}))
            monkeypatch.setattr("asktell_server.optimizers.gp.study_model.factor", lambda _: of)
            choice = model.choose(21, [], lambda _: False, None)
        assert choice is not None
        prediction = choice.predictions["loss"]
        return prediction.mean, prediction.standard_deviation

    own = predicted(1.0)

    assert predicted(0.2) == own
    assert predicted(3.0)[1] > 2.0 * own[1]
