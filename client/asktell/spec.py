"""What a study searches, for what, and how: `StudySpec`, and its two ways across the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import timedelta
from typing import Literal, TypeAlias, TypedDict

from google.protobuf.duration_pb2 import Duration

from asktell._misuse import naming, whole_numbers
from asktell.algorithms import Algorithm, algorithm_from_proto, algorithm_named, algorithm_to_proto
from asktell.names import DEFAULT_PROJECT
from asktell.space import Parameter, Space, parameter_from_proto, parameter_to_proto
from asktell.v1 import search_space_pb2
from asktell.v1 import study_pb2 as pb

Direction: TypeAlias = Literal["maximize", "minimize"]
Constraint: TypeAlias = tuple[Literal["<=", ">="], float]
"""A bound that a metric has to keep: ("<=", most) or (">=", least)."""
Seconds: TypeAlias = timedelta | float
"""A duration: a timedelta, or a number of seconds."""


@dataclass(frozen=True, slots=True)
class StudySpec:
    """A study's specification; immutable once the study is created."""

    space: Space
    """Parameter by name."""
    objectives: dict[str, Direction]
    """Which way is better, by metric. More than one: the best trials are the Pareto front."""
    _: KW_ONLY
    constraints: dict[str, Constraint] = field(default_factory=dict)
    """Bounds that a trial has to keep to count as feasible, by metric. Only feasible trials are best trials."""
    algorithm: Algorithm | None = None
    """How suggestions are made. None means that the server chooses."""
    seed: int | None = None
    """Same specification, seed and history give the same suggestions. None means that the server draws one."""
    lease: timedelta | None = None
    """How long a running trial may go without a sign of life before it is EXPIRED. None means for ever."""
    max_retries: int | None = None
    """How often the parameters of an EXPIRED trial are tried again. None means 2."""
    max_trials: int | None = None
    """The study is done after so many trials. None means no limit."""
    target: float | None = None
    """The study is done once the objective is at least this good."""
    max_trials_without_improvement: int | None = None
    """The study is done after so many succeeded trials in a row without a new best one."""
    max_failed_trials: int | None = None
    """The study is done once so many trials failed or were lost with their last retry."""

    @property
    def required_metrics(self) -> list[str]:
        """The metrics that every result has to hold: objectives, then constrained ones."""
        return [*self.objectives, *self.constraints]

    def is_feasible(self, metrics: Mapping[str, float]) -> bool:
        """Whether a result keeps every bound; one that does not hold a constrained metric does not."""
        return all(
            metric in metrics and (metrics[metric] <= bound if way == "<=" else metrics[metric] >= bound)
            for metric, (way, bound) in self.constraints.items()
        )


def to_seconds(duration: Seconds) -> float:
    """A duration in seconds."""
    given: object = duration
    if isinstance(given, str):  # float would read it
        raise TypeError(f"a duration is a timedelta or a number of seconds, not {given!r}")
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


def to_budget(timeout: Seconds) -> float:
    """A timeout in seconds, which may be infinite. Raises ValueError for what is no time to wait for."""
    seconds = to_seconds(timeout)
    if not seconds > 0:  # NaN is not, either
        raise ValueError(f"timeout is more than 0 seconds, not {timeout!r}")
    return seconds


def to_limit(timeout: Seconds | None) -> float | None:
    """How long new work may begin, in seconds; not at all after 0. Raises ValueError for NaN and what is negative."""
    seconds = None if timeout is None else to_seconds(timeout)
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"timeout is at least 0 seconds, not {timeout!r}")
    return seconds


class StudyOptions(TypedDict, total=False):
    """What `create_study` takes beside a name and a space, all by keyword."""

    maximize: str | Sequence[str] | None
    """The metric or metrics of which larger is better. One objective at least is needed."""
    minimize: str | Sequence[str] | None
    """The metric or metrics of which smaller is better."""
    constraints: Mapping[str, Constraint] | None
    """Bounds that a good trial keeps, by metric: `{"latency_ms": ("<=", 5), "recall": (">=", 0.9)}`. Every result must then
    hold these metrics; only trials that keep all bounds are best trials or meet the target."""
    algorithm: str | Algorithm | None
    """"gp", "skopt", "sobol", "grid", "random", or one of their dataclasses with settings. None: the server chooses."""
    seed: int | None
    """See `StudySpec`, as for those below."""
    lease: Seconds | None
    max_retries: int | None
    max_trials: int | None
    target: float | None
    max_trials_without_improvement: int | None
    max_failed_trials: int | None
    labels: Mapping[str, str] | None
    """For people and programs; those of an existing study are left as they are."""
    description: str
    """For people; that of an existing study is left as it is."""
    if_exists: Literal["use", "fail"]
    """What to do when the name is taken: "use" the study if its spec is equal (the default, which makes a script that
    is run again go on), or "fail"."""


_LIMITS = ("max_trials", "max_trials_without_improvement", "max_failed_trials")
_WHOLE = ("seed", "max_retries", *_LIMITS)


def build_spec(space: Space, options: StudyOptions) -> StudySpec:
    """The spec that the arguments of `create_study` describe. Raises ValueError or TypeError for misuse."""
    unknown = set(options) - StudyOptions.__optional_keys__
    if unknown:
        raise TypeError(f"create_study() got unexpected arguments: {', '.join(sorted(unknown))}")
    objectives: dict[str, Direction] = dict.fromkeys(_names(options.get("maximize")), "maximize")
    for metric in _names(options.get("minimize")):
        if metric in objectives:
            raise ValueError(f"metric {metric!r} is both to maximize and to minimize")
        objectives[metric] = "minimize"
    if not objectives:
        raise ValueError("a study needs an objective: give maximize= or minimize= the name of a metric")
    if not isinstance(space, Mapping) or not all(isinstance(name, str) for name in space):
        raise TypeError(f"space is a mapping from names to parameters, not {space!r}")
    numbers = whole_numbers(**{name: options.get(name) for name in _WHOLE})
    _check_limits(numbers)
    algorithm = options.get("algorithm")
    lease = options.get("lease")
    return StudySpec(
        dict(space),
        objectives,
        constraints=_constraints(options.get("constraints") or {}),
        algorithm=algorithm_named(algorithm) if isinstance(algorithm, str) else algorithm,
        lease=None if lease is None else timedelta(seconds=to_seconds(lease)),
        target=options.get("target"),
        **numbers,
    )


def _check_limits(numbers: Mapping[str, int | None]) -> None:
    """On the wire 0 is no limit, which nobody means who writes 0 here."""
    limits = [(name, numbers[name]) for name in _LIMITS]
    wrong = [f"{name} is at least 1, not {limit}" for name, limit in limits if limit is not None and limit < 1]
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}; None means no limit")


def _names(metrics: str | Sequence[str] | None) -> list[str]:
    if metrics is None:
        return []
    return [metrics] if isinstance(metrics, str) else list(metrics)


def _constraints(given: Mapping[str, Constraint]) -> dict[str, Constraint]:
    constraints: dict[str, Constraint] = {}
    for metric, constraint in given.items():
        match constraint:
            case ("<=" | ">=", int() | float()):
                constraints[metric] = constraint
            case _:
                raise ValueError(
                    f'the constraint on {metric!r} is of the form ("<=", 5.0) or (">=", 5.0), not {constraint!r}'
                )
    return constraints


def spec_to_proto(spec: StudySpec, project: str = DEFAULT_PROJECT) -> pb.StudySpec:
    """The spec on the wire, for a study of `project`."""
    directions = {"maximize": pb.Objective.MAXIMIZE, "minimize": pb.Objective.MINIMIZE}
    message = pb.StudySpec(
        parameters=[_named(name, parameter) for name, parameter in spec.space.items()],
        objectives=[pb.Objective(metric=name, direction=directions[way]) for name, way in spec.objectives.items()],
        seed=spec.seed,
    )
    for metric, (way, bound) in spec.constraints.items():
        message.outcome_constraints.add(metric=metric, **{"max" if way == "<=" else "min": bound})
    if spec.algorithm is not None:
        message.algorithm.CopyFrom(algorithm_to_proto(spec.algorithm, project))
    with naming("target"):
        criteria = pb.StoppingCriteria(target=spec.target)
    limits = pb.StoppingCriteria(
        max_trials=spec.max_trials or 0,
        max_trials_without_improvement=spec.max_trials_without_improvement or 0,
        max_failed_trials=spec.max_failed_trials or 0,
    )
    criteria.MergeFrom(limits)
    if criteria.ByteSize():
        message.stopping_criteria.CopyFrom(criteria)
    if spec.lease is not None or spec.max_retries is not None:
        policy = pb.TrialPolicy(max_retries=spec.max_retries)
        if spec.lease is not None:
            lease = Duration()
            lease.FromTimedelta(spec.lease)
            policy.lease.CopyFrom(lease)
        message.trial_policy.CopyFrom(policy)
    return message


def _named(name: str, parameter: Parameter) -> search_space_pb2.Parameter:
    if not isinstance(parameter, Parameter):
        raise TypeError(f"parameter {name!r} is a Float, Int, Discrete or Categorical, not {parameter!r}")
    with naming(f"parameter {name!r}"):
        return parameter_to_proto(name, parameter)


def spec_from_proto(message: pb.StudySpec) -> StudySpec:
    """The spec as Python describes it."""
    criteria = message.stopping_criteria
    policy = message.trial_policy
    directions: dict[int, Direction] = {pb.Objective.MAXIMIZE: "maximize", pb.Objective.MINIMIZE: "minimize"}
    space = {parameter.name: parameter_from_proto(parameter) for parameter in message.parameters}
    return StudySpec(
        space,
        {objective.metric: directions[objective.direction] for objective in message.objectives},
        constraints={
            constraint.metric: ("<=", constraint.max) if constraint.HasField("max") else (">=", constraint.min)
            for constraint in message.outcome_constraints
        },
        algorithm=algorithm_from_proto(message.algorithm, space),
        seed=message.seed if message.HasField("seed") else None,
        lease=policy.lease.ToTimedelta() if policy.HasField("lease") else None,
        max_retries=policy.max_retries if policy.HasField("max_retries") else None,
        max_trials=criteria.max_trials or None,
        target=criteria.target if criteria.HasField("target") else None,
        max_trials_without_improvement=criteria.max_trials_without_improvement or None,
        max_failed_trials=criteria.max_failed_trials or None,
    )
