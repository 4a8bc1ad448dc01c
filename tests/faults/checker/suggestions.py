"""Every point lies inside the space, and no point is suggested twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asktell.v1 import search_space_pb2, trial_pb2

from .evidence import Evidence


def suggestions_are_valid(e: Evidence) -> Iterator[str]:
    """Every point lies in the space; a suggestion repeats no point of an earlier trial, but for retries."""
    for study, trials in e.final.trials.items():
        space = e.final.studies[study].spec.parameters
        points: dict[object, str] = {}
        for trial in trials:
            wrong = list(_wrong(space, trial.parameters))
            if wrong:
                yield f"{trial.name} lies outside of the space: {', '.join(wrong)}"
            point = tuple(sorted((name, value.SerializeToString()) for name, value in trial.parameters.items()))
            fresh = not trial.HasField("retry_of") and trial.suggestion.source not in (
                trial_pb2.Suggestion.ENQUEUED,
                trial_pb2.Suggestion.IMPORTED,
            )
            if fresh and point in points:
                yield f"{trial.name} suggests the point of {points[point]} again"
            points.setdefault(point, trial.name)


def _wrong(
    space: Sequence[search_space_pb2.Parameter], values: Mapping[str, search_space_pb2.ParameterValue]
) -> Iterator[str]:
    """The parameters that are missing, of the wrong type or out of range, or should not be there."""
    known = {parameter.name: parameter for parameter in space}
    yield from (name for name in values if name not in known)
    for name, parameter in known.items():
        condition = parameter.condition
        active = not parameter.HasField("condition") or (
            condition.parent in values and values[condition.parent] in condition.values
        )
        if active != (name in values) or (active and not _fits(parameter, values[name])):
            yield name


def _fits(parameter: search_space_pb2.Parameter, value: search_space_pb2.ParameterValue) -> bool:
    kind = parameter.WhichOneof("type")
    if kind == "categorical":
        return value in parameter.categorical.choices
    if kind == "discrete":
        return value.WhichOneof("kind") == "float_value" and value.float_value in parameter.discrete.values
    if kind == "int":
        whole = parameter.int
        step = whole.step or 1
        at = value.int_value
        return value.WhichOneof("kind") == "int_value" and whole.min <= at <= whole.max and (at - whole.min) % step == 0
    real = parameter.float
    if value.WhichOneof("kind") != "float_value" or not real.min <= value.float_value <= real.max:
        return False
    if not real.HasField("step"):
        return True
    steps = (value.float_value - real.min) / real.step
    return abs(steps - round(steps)) < 1e-9


RULES = (suggestions_are_valid,)
