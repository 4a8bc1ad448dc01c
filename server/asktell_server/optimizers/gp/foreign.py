"""What a value of one study is in the space of another; the points at which earlier studies were best. Without torch.

Two parameters are *shared* if name and kind agree; their ranges, steps, scales, levels and choices may differ. A number that the
other parameter cannot take has the unit at which it would lie: clipped to the range, interpolated between levels. A choice that
the other one does not have has none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from asktell_server.domain.space import (
    CategoricalParameter,
    DiscreteParameter,
    NotInDomain,
    Parameter,
    ParameterValue,
    Point,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import SourceStudy
from asktell_server.optimizers.encoding import Array, Column, Encoding

APART = 0.1
"""In some coordinate two suggestions from sources differ by this at least."""
BEST = 100
"""Of one source so many of its best results are looked at."""


def shared(one: SearchSpace, other: SearchSpace) -> list[str]:
    """Names of the parameters that both have, in the order of `one`."""
    kinds = {parameter.name: parameter.kind for parameter in other.parameters}
    return [parameter.name for parameter in one.parameters if kinds.get(parameter.name) == parameter.kind]


def unit_near(parameter: Parameter, column: Column, value: ParameterValue) -> float | None:
    """The unit for a value of a shared parameter; see the head of this module. None for an unknown choice."""
    try:
        return column.unit(parameter.normalized(value))
    except NotInDomain:
        pass
    if isinstance(parameter, CategoricalParameter):
        return None
    if parameter.cardinality == 1:
        return 0.5
    number = float(value)
    if not isinstance(parameter, DiscreteParameter):
        return column.scale().unit(number)
    levels = parameter.levels
    if number <= levels[0] or number >= levels[-1]:
        return column.unit(levels[0] if number <= levels[0] else levels[-1])
    places = [math.log(level) if parameter.log else 0.25 * level for level in levels]
    place = math.log(number) if parameter.log else 0.25 * number  # a quarter keeps differences finite
    return float(np.interp(place, places, [column.unit(level) for level in levels]))


def metric_of(spec: StudySpec, source: StudySpec) -> tuple[str, float] | None:
    """The first objective's metric, if it is an objective of the source as well; 1 or -1, which makes smaller better there."""
    for objective in source.objectives:
        if objective.metric == spec.objective.metric:
            return objective.metric, objective.sign
    return None


def best_points(
    spec: StudySpec, encoding: Encoding, sources: Sequence[SourceStudy], count: int
) -> list[tuple[Point, str]]:
    """Up to `count` points of the space, apart from each other, with the names of the sources in which they were best.

    The sources take turns. Parameters that a source does not know have their default, or the middle of the range.
    """
    rankings = [_ranking(spec, encoding, source) for source in sources]
    chosen: list[tuple[Point, str]] = []
    codes: list[Array] = []
    while rankings and len(chosen) < count:
        for ranking, name in list(rankings):
            code = next((code for code in ranking if all(np.abs(code - other).max() >= APART for other in codes)), None)
            if code is None:
                rankings.remove((ranking, name))
            elif len(chosen) < count:
                codes.append(code)
                chosen.append((encoding.decode(code), name))
    return chosen


def _ranking(spec: StudySpec, encoding: Encoding, source: SourceStudy) -> tuple[Iterator[Array], str]:
    """Codes of a source's points in the space of `spec`, the best one first, and the source's name."""
    metric = metric_of(spec, source.spec)
    names = shared(spec.space, source.spec.space)
    found: list[tuple[float, int]] = []
    for i, observation in enumerate(source.observations if metric is not None and names else ()):
        measurement = observation.measurement
        if (
            observation.state is TrialState.SUCCEEDED
            and measurement is not None
            and source.spec.is_feasible(measurement)
        ):
            assert metric is not None
            found.append((metric[1] * measurement.metrics[metric[0]], i))
    ordered = [source.observations[i].point for _, i in sorted(found)[:BEST]]
    return (_code(encoding, names, point) for point in ordered), source.name


def _code(encoding: Encoding, names: Sequence[str], point: Point) -> Array:  # (d,)
    """The code of what a point of a source is here."""
    code = encoding.imputed
    for i, (parameter, column) in enumerate(zip(encoding.space.parameters, encoding.columns, strict=True)):
        if parameter.name in point and parameter.name in names:
            unit = unit_near(parameter, column, point[parameter.name])
            code[i] = code[i] if unit is None else unit
    # What is not active here is imputed.
    return encoding.encode(encoding.decode(code))
