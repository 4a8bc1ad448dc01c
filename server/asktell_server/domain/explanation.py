"""What a study's model has learned: the request for an explanation, what is wrong with one, and the explanation itself."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from asktell_server.domain.errors import Violation
from asktell_server.domain.space import (
    CategoricalParameter,
    Parameter,
    ParameterValue,
    SearchSpace,
    shown,
)
from asktell_server.domain.study import StudySpec

DEFAULT_SLICES = 10
MAX_SLICES = 100
MAX_PAIRS = 10
DEFAULT_POINTS = 25
MIN_POINTS = 2
MAX_POINTS = 100
MAX_POINTS_OF_PAIRS = 50
# Of all metrics together.
MAX_IMPORTANCES = 10_000
# Clients of most languages take messages of 4 MiB.
MAX_BYTES = 4 * 1024 * 1024 - 64 * 1024
# What parts of an answer weigh at most on the wire, besides the names and texts in them.
_METRIC_BYTES, _IMPORTANCE_BYTES, _SLICE_BYTES, _VALUE_BYTES, _PREDICTION_BYTES = 256, 33, 32, 15, 16


@dataclass(frozen=True)
class ExplainRequest:
    """Which slices of the model are wanted.

    `slices`: parameters; empty means the most important ones of each metric, DEFAULT_SLICES of them. `pairs`: two parameters
    to show together. `points`: values along each numeric axis; 0 means DEFAULT_POINTS.
    """

    slices: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()
    points: int = 0

    @property
    def most_points(self) -> int:
        """How many values an axis may have at most."""
        return MAX_POINTS_OF_PAIRS if self.pairs else MAX_POINTS

    def axis_size(self, parameter: Parameter) -> int:
        """How many values of `parameter` are shown at most: all choices up to `most_points`, so many points of a number."""
        limit = self.most_points if isinstance(parameter, CategoricalParameter) else self.points or DEFAULT_POINTS
        return limit if parameter.cardinality is None else min(limit, parameter.cardinality)

    def violations(self, spec: StudySpec | None) -> list[Violation]:
        """Everything that is wrong; without a spec, what is wrong whatever the study. Paths are those of ExplainStudyRequest."""
        found: list[Violation] = []
        if self.points and not MIN_POINTS <= self.points <= self.most_points:
            with_pairs = " with pair_slices" if self.pairs else ""
            found.append(
                Violation(
                    "points", f"must be 0 or in [{MIN_POINTS}, {self.most_points}]{with_pairs}, not {self.points}"
                )
            )
        too_many = [
            Violation(field, f"must hold at most {limit}, not {len(given)}")
            for field, given, limit in (("slices", self.slices, MAX_SLICES), ("pair_slices", self.pairs, MAX_PAIRS))
            if len(given) > limit
        ]
        if too_many:
            return found + too_many
        space = None if spec is None else spec.space
        found += self._slice_violations(space)
        found += self._pair_violations(space)
        if spec is not None and not found:
            found += self._size_violations(spec)
        return found

    def _slice_violations(self, space: SearchSpace | None) -> Iterator[Violation]:
        first: dict[str, int] = {}
        for i, name in enumerate(self.slices):
            if space is not None and name not in space.by_name:
                yield Violation(f"slices[{i}]", f"{shown(name)} is not a parameter of this study")
            earlier = first.setdefault(name, i)
            if earlier != i:
                yield Violation(f"slices[{i}]", f"repeats {shown(name)} of slices[{earlier}]")

    def _pair_violations(self, space: SearchSpace | None) -> Iterator[Violation]:
        first: dict[frozenset[str], int] = {}
        for i, pair in enumerate(self.pairs):
            at = f"pair_slices[{i}]"
            unknown = False
            for field, name in zip(("first", "second"), pair, strict=True):
                if space is not None and name not in space.by_name:
                    unknown = True
                    yield Violation(f"{at}.{field}", f"{shown(name)} is not a parameter of this study")
            if unknown:
                continue
            if pair[0] == pair[1]:
                yield Violation(f"{at}.second", f"must be another parameter than first, {shown(pair[0])}")
            elif space is not None and not all(activation(space, pair).values()):
                yield Violation(at, f"{shown(pair[0])} and {shown(pair[1])} are never active together")
            earlier = first.setdefault(frozenset(pair), i)
            if earlier != i:
                yield Violation(at, f"repeats the parameters of pair_slices[{earlier}]")

    def _size_violations(self, spec: StudySpec) -> Iterator[Violation]:
        parameters = spec.space.by_name
        slices = [self._bytes(parameters[name]) for name in self.slices]
        if not slices:
            slices = sorted(map(self._bytes, parameters.values()), reverse=True)[:DEFAULT_SLICES]
        pairs = [self._bytes(parameters[first], parameters[second]) for first, second in self.pairs]
        metrics = len(metrics_of(spec))
        names = sorted(map(len, parameters), reverse=True)[: MAX_IMPORTANCES // metrics]
        importances = sum(names) + _IMPORTANCE_BYTES * len(names)
        size = metrics * (_METRIC_BYTES + importances + sum(slices) + sum(pairs))
        if size > MAX_BYTES:
            yield Violation(
                "slices",
                f"with pair_slices, points and the study's {metrics} metrics ask for an answer of up to {size} bytes; "
                f"at most {MAX_BYTES} fit a message",
            )

    def _bytes(self, *axes: Parameter) -> int:
        """The most that a slice along one parameter or two weighs."""
        sizes = [self.axis_size(parameter) for parameter in axes]
        text = sum(
            len(str(choice).encode())
            for parameter, size in zip(axes, sizes, strict=True)
            if isinstance(parameter, CategoricalParameter)
            for choice in parameter.choices[:size]
        )
        names = sum(len(parameter.name) for parameter in axes)
        return _SLICE_BYTES + names + text + _VALUE_BYTES * sum(sizes) + _PREDICTION_BYTES * math.prod(sizes)


def metrics_of(spec: StudySpec) -> list[str]:
    """The metrics that are explained: objectives, then constraints."""
    return [objective.metric for objective in spec.objectives] + [constraint.metric for constraint in spec.constraints]


def activation(space: SearchSpace, names: Sequence[str]) -> Mapping[str, tuple[ParameterValue, ...]]:
    """For each ancestor of the named parameters, its values at which all of these can be active; empty if there are none.

    The named parameters themselves are left out: they are what varies.
    """
    allowed: dict[str, tuple[ParameterValue, ...]] = {}
    followed: set[str] = set()
    for name in names:
        step = space.by_name[name]
        while step.condition is not None and step.name not in followed:
            followed.add(step.name)
            parent = space.by_name[step.condition.parent]
            values = tuple(parent.normalized(value) for value in step.condition.values)
            if parent.name not in names:
                before = allowed.get(parent.name)
                allowed[parent.name] = values if before is None else tuple(v for v in before if v in values)
            step = parent
    return allowed


@dataclass(frozen=True)
class Calibration:
    """How well the model predicts each of its results from all the others.

    `deviation_factor`: by what the model's own deviations were multiplied in `coverage_90`, `log_density` and slices; with them as
    they are `raw_coverage_90` would lie in the interval.
    """

    observations: int
    coverage_90: float
    log_density: float
    r_squared: float
    deviation_factor: float
    raw_coverage_90: float


@dataclass(frozen=True)
class Importance:
    """Total Sobol index of one parameter, in [0, 1], with an 80 % interval."""

    parameter: str
    total_effect: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Slice:
    """The model along one parameter or two; two-dimensional means run over the second parameter fastest."""

    parameters: tuple[str, ...]
    first_values: tuple[ParameterValue, ...]
    second_values: tuple[ParameterValue, ...]
    means: tuple[float, ...]
    standard_deviations: tuple[float, ...]


@dataclass(frozen=True)
class MetricExplanation:
    """What the model of one metric has learned; the largest importance first, and no more than its share of MAX_IMPORTANCES."""

    metric: str
    calibration: Calibration
    importances: tuple[Importance, ...]
    slices: tuple[Slice, ...]


@dataclass(frozen=True)
class Explanation:
    """What the model has learned: one entry for each of `metrics_of`. Slices cross at trial `reference_trial`."""

    reference_trial: int
    metrics: tuple[MetricExplanation, ...]
