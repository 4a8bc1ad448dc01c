"""What a study's model has learned, as Python reads it: how well it predicts, which parameters matter, slices of it.

explanation = study.explain()
explanation["accuracy"].importances[0]      # Importance(parameter='lr', total_effect=0.71, lower=0.62, upper=0.8)
explanation["accuracy"].calibration.r_squared
"""

from __future__ import annotations

from dataclasses import dataclass

from asktell.space import ParameterValue, Space, axis_from_proto
from asktell.v1 import study_service_pb2 as service


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well the model predicts each result from all the others (leave one out)."""

    observations: int
    """Number of results."""
    coverage_90: float
    """Share of results that lie in their 90 % interval; 0.9 is perfect."""
    log_density: float
    """Mean log density of the standardised results; that of a constant normal prediction is -1.42."""
    r_squared: float
    """Share of the variance that the predictions explain; 1 is perfect, 0 no better than the mean."""
    deviation_factor: float
    """By what the model's own deviations are multiplied, above and in the slices, so that intervals hold what they say: above 1
    the model by itself is too sure, below 1 too cautious.
    """
    raw_coverage_90: float
    """Share of results that would lie in their interval with the model's own deviations."""


@dataclass(frozen=True, slots=True)
class Importance:
    """How much of a metric's variation over the search space one parameter causes, alone and together with others: the
    total Sobol index, in [0, 1], with an 80 % interval.
    """

    parameter: str
    total_effect: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class Slice:
    """The model along one parameter or two, the others held at the reference point."""

    parameters: tuple[str, ...]
    """The parameter, or the two."""
    first_values: tuple[ParameterValue, ...]
    """Values of the first."""
    second_values: tuple[ParameterValue, ...]
    """Values of the second; empty in one dimension."""
    means: tuple[float, ...]
    """Predicted mean of the metric at each value; in two dimensions row by row, the second parameter running fastest."""
    standard_deviations: tuple[float, ...]
    """Standard deviation of each, without the noise of a measurement."""


@dataclass(frozen=True, slots=True)
class MetricExplanation:
    """What the model of one metric, an objective or a constraint, has learned."""

    metric: str
    calibration: Calibration
    importances: tuple[Importance, ...]
    """Of each parameter that can vary, the largest first; with hundreds of parameters and many metrics only the largest."""
    slices: tuple[Slice, ...]
    """Those asked for, one-dimensional ones first."""

    def importance(self, parameter: str) -> Importance:
        """That of one parameter. Raises KeyError for one that is not there."""
        for importance in self.importances:
            if importance.parameter == parameter:
                return importance
        raise KeyError(parameter)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What the model of each metric has learned; `explanation["loss"]` is that of one."""

    revision: int
    """The study's revision up to which results were used."""
    reference_trial: int
    """Number of the trial at which the slices cross: the best one."""
    metrics: dict[str, MetricExplanation]
    """By metric: objectives, then constraints."""

    def __getitem__(self, metric: str) -> MetricExplanation:
        return self.metrics[metric]


def explanation_from_proto(response: service.ExplainStudyResponse, space: Space) -> Explanation:
    """The explanation of a study with this space."""
    return Explanation(
        response.revision,
        response.reference_trial,
        {metric.metric: _metric(metric, space) for metric in response.metrics},
    )


def _metric(message: service.MetricExplanation, space: Space) -> MetricExplanation:
    c = message.calibration
    return MetricExplanation(
        message.metric,
        Calibration(c.observations, c.coverage_90, c.log_density, c.r_squared, c.deviation_factor, c.raw_coverage_90),
        tuple(Importance(i.parameter, i.total_effect, i.lower, i.upper) for i in message.importances),
        tuple(_slice(shown, space) for shown in message.slices),
    )


def _slice(message: service.MetricExplanation.Slice, space: Space) -> Slice:
    first, *second = (space.get(name) for name in message.parameters)
    return Slice(
        tuple(message.parameters),
        axis_from_proto(message.first_values, first),
        axis_from_proto(message.second_values, second[0] if second else None),
        tuple(message.means),
        tuple(message.standard_deviations),
    )
