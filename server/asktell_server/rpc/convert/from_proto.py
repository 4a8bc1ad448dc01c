"""From the wire to the domain. Reading collects everything that is wrong instead of stopping at the first.

Reading functions take the list that violations are added to and the path of what they read; they return a harmless stand-in
for what could not be read, which the caller must not use when the list is not empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Sized
from datetime import timedelta
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration

from asktell.names import InvalidName, StudyName
from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, trial_pb2
from asktell_server.domain import space as domain_space
from asktell_server.domain.algorithms import (
    Algorithm,
    GpOptimizer,
    GridSearch,
    NormalPrior,
    OptimumPrior,
    RandomSearch,
    SkoptAcquisition,
    SkoptEstimator,
    SkoptOptimizer,
    SobolSearch,
    TransferSource,
    WeightedPrior,
)
from asktell_server.domain.errors import Violation
from asktell_server.domain.explanation import ExplainRequest
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
    SearchSpace,
    shown,
)
from asktell_server.domain.study import StoppingCriteria, StudySpec, TrialPolicy

E = TypeVar("E", bound=Enum)
Violations = list[Violation]

# What is tried when a study names no algorithm.
DEFAULT_ALGORITHM = GpOptimizer()
DEFAULT_RETRIES = TrialPolicy().max_retries
MAX_STATES = 16
"""In a filter: more than there are."""


def read_spec(
    pb: study_pb2.StudySpec, project: str | None, found: Violations, at: str
) -> tuple[StudySpec, frozenset[str]]:
    """The spec of a study in `project` (None if that could not be read), and the names of the fields left to the server."""
    left_open = set()
    if pb.algorithm.WhichOneof("kind") is None:
        left_open.add("algorithm")
    if not pb.HasField("seed"):
        left_open.add("seed")
    spec = StudySpec(
        space=SearchSpace(
            tuple(_read_parameter(p, found, f"{at}.parameters[{i}]") for i, p in enumerate(pb.parameters))
        ),
        objectives=tuple(_read_objective(o, found, f"{at}.objectives[{i}]") for i, o in enumerate(pb.objectives)),
        constraints=tuple(_read_constraint(constraint) for constraint in pb.outcome_constraints),
        algorithm=_read_algorithm(pb.algorithm, project, found, f"{at}.algorithm"),
        stopping=StoppingCriteria(
            max_trials=pb.stopping_criteria.max_trials,
            target=pb.stopping_criteria.target if pb.stopping_criteria.HasField("target") else None,
            max_trials_without_improvement=pb.stopping_criteria.max_trials_without_improvement,
            max_failed_trials=pb.stopping_criteria.max_failed_trials,
        ),
        trial_policy=_read_policy(pb.trial_policy),
        seed=pb.seed,
    )
    return spec, frozenset(left_open)


def entries(pb: study_pb2.StudySpec) -> Iterator[int]:
    """How many entries the lists of a spec have: first the outer ones together, then one after the other what they hold."""
    gp = pb.algorithm.gp
    outer: tuple[Sized, ...] = (pb.parameters, pb.objectives, pb.outcome_constraints, gp.priors, gp.transfer_sources)
    yield sum(map(len, outer))
    for parameter in pb.parameters:
        yield len(parameter.categorical.choices) + len(parameter.discrete.values) + len(parameter.condition.values)
    for prior in gp.priors:
        yield len(prior.weighted.weights)


def unimplemented(pb: study_pb2.StudySpec, at: str) -> list[Violation]:
    """What the spec asks for that has no counterpart in the domain yet."""
    found = []
    if pb.HasField("early_stopping"):
        found.append(Violation(f"{at}.early_stopping", "early-stopping rules are not supported by this release"))
    return found


def _read_parameter(pb: search_space_pb2.Parameter, found: Violations, at: str) -> Parameter:
    kind = pb.WhichOneof("type")
    condition = _read_condition(pb.condition, found, f"{at}.condition") if pb.HasField("condition") else None
    if kind == "float":
        float_ = pb.float
        return FloatParameter(
            pb.name,
            _required(float_, "min", found, f"{at}.float", other="max"),
            _required(float_, "max", found, f"{at}.float", other="min"),
            float_.log,
            float_.step if float_.HasField("step") else None,
            float_.default_value if float_.HasField("default_value") else None,
            condition,
        )
    if kind == "int":
        int_ = pb.int
        return IntParameter(
            pb.name,
            _required(int_, "min", found, f"{at}.int", other="max"),
            _required(int_, "max", found, f"{at}.int", other="min"),
            int_.log,
            int_.step if int_.HasField("step") else None,
            int_.default_value if int_.HasField("default_value") else None,
            condition,
        )
    if kind == "discrete":
        discrete = pb.discrete
        default = discrete.default_value if discrete.HasField("default_value") else None
        return DiscreteParameter(pb.name, tuple(discrete.values), discrete.log, default, condition)
    if kind == "categorical":
        categorical = pb.categorical
        here = f"{at}.categorical"
        return CategoricalParameter(
            pb.name,
            tuple(read_value(c, found, f"{here}.choices[{i}]") for i, c in enumerate(categorical.choices)),
            read_value(categorical.default_value, found, f"{here}.default_value")
            if categorical.HasField("default_value")
            else None,
            condition,
        )
    found.append(Violation(f"{at}.type", "is required: float, int, discrete or categorical"))
    return CategoricalParameter(pb.name, (0,), None, condition)


def _required(pb: Any, field: str, found: Violations, at: str, other: str) -> Any:
    if not pb.HasField(field):
        found.append(Violation(f"{at}.{field}", "is required"))
        return getattr(pb, other)
    return getattr(pb, field)


def _read_condition(pb: search_space_pb2.Condition, found: Violations, at: str) -> Condition:
    return Condition(pb.parent, tuple(read_value(v, found, f"{at}.values[{i}]") for i, v in enumerate(pb.values)))


def read_value(pb: search_space_pb2.ParameterValue, found: Violations, at: str) -> ParameterValue:
    """One value of a parameter."""
    kind = pb.WhichOneof("kind")
    if kind is None:
        found.append(Violation(at, "holds no value: set float_value, int_value, string_value or bool_value"))
        return f"unread {at}"  # equal to nothing else, so that it is not taken for a repeat
    value: ParameterValue = getattr(pb, kind)
    if isinstance(value, str) and len(value) > domain_space.MAX_STRING:
        found.append(Violation(at, f"must have at most {domain_space.MAX_STRING} characters, not {len(value)}"))
        return value[: domain_space.MAX_STRING]
    return value


def _read_objective(pb: study_pb2.Objective, found: Violations, at: str) -> Objective:
    direction = _read_enum(Direction, study_pb2.Objective.Direction, pb.direction)
    if direction is None:
        found.append(Violation(f"{at}.direction", "must be MAXIMIZE or MINIMIZE"))
    return Objective(pb.metric, direction or Direction.MINIMIZE)


def _read_enum(domain: type[E], wire: Any, value: int) -> E | None:
    """The member of `domain` with the wire's name for `value`; None for the unspecified and unknown."""
    name = wire.Name(value) if value in wire.values() else ""
    return domain.__members__.get(name)


def _read_constraint(pb: study_pb2.OutcomeConstraint) -> OutcomeConstraint:
    return OutcomeConstraint(pb.metric, pb.min if pb.HasField("min") else None, pb.max if pb.HasField("max") else None)


def _read_algorithm(pb: study_pb2.Algorithm, project: str | None, found: Violations, at: str) -> Algorithm:
    kind = pb.WhichOneof("kind")
    if kind == "random":
        return RandomSearch()
    if kind == "grid":
        return GridSearch(pb.grid.points_per_parameter or GridSearch().points_per_parameter)
    if kind == "sobol":
        return SobolSearch()
    if kind == "skopt":
        return _read_skopt(pb.skopt, found, f"{at}.skopt")
    if kind == "gp":
        return _read_gp(pb.gp, project, found, f"{at}.gp")
    return DEFAULT_ALGORITHM


def _read_skopt(pb: study_pb2.SkoptOptimizer, found: Violations, at: str) -> SkoptOptimizer:
    default = SkoptOptimizer()
    estimator = default.base_estimator
    if pb.base_estimator:
        read = _read_enum(SkoptEstimator, study_pb2.SkoptOptimizer.BaseEstimator, pb.base_estimator)
        if read is None:
            found.append(Violation(f"{at}.base_estimator", f"{pb.base_estimator} is not a known estimator"))
        estimator = read or estimator
    acquisition = default.acquisition_function
    if pb.acquisition_function:
        known = _read_enum(SkoptAcquisition, study_pb2.SkoptOptimizer.AcquisitionFunction, pb.acquisition_function)
        if known is None:
            found.append(Violation(f"{at}.acquisition_function", f"{pb.acquisition_function} is not a known function"))
        acquisition = known or acquisition
    return SkoptOptimizer(
        base_estimator=estimator,
        acquisition_function=acquisition,
        initial_points=pb.initial_points,
        xi=pb.xi if pb.HasField("xi") else default.xi,
        kappa=pb.kappa if pb.HasField("kappa") else default.kappa,
        max_observations=pb.max_observations or default.max_observations,
    )


def _read_gp(pb: study_pb2.GpOptimizer, project: str | None, found: Violations, at: str) -> GpOptimizer:
    return GpOptimizer(
        initial_points=pb.initial_points,
        cost_metric=pb.cost_metric,
        priors=tuple(_read_prior(prior, found, f"{at}.priors[{i}]") for i, prior in enumerate(pb.priors)),
        transfer_sources=tuple(
            _read_source(source, project, found, f"{at}.transfer_sources[{i}]")
            for i, source in enumerate(pb.transfer_sources)
        ),
    )


def _read_prior(pb: study_pb2.GpOptimizer.OptimumPrior, found: Violations, at: str) -> OptimumPrior:
    kind = pb.WhichOneof("belief")
    if kind is None:
        found.append(Violation(f"{at}.belief", "is required: normal or weighted"))
    if kind == "normal":
        return OptimumPrior(pb.parameter, NormalPrior(pb.normal.mean, pb.normal.width))
    weights = (
        (read_value(pair.value, found, f"{at}.weighted.weights[{i}].value"), pair.weight)
        for i, pair in enumerate(pb.weighted.weights)
    )
    return OptimumPrior(pb.parameter, WeightedPrior(tuple(weights)))


def _read_source(
    pb: study_pb2.GpOptimizer.TransferSource, project: str | None, found: Violations, at: str
) -> TransferSource:
    try:
        name = StudyName.parse(pb.study)
    except InvalidName as error:
        found.append(Violation(f"{at}.study", str(error)))
        return TransferSource(pb.study, pb.revision)
    if project is not None and name.project != project:
        found.append(Violation(f"{at}.study", f"must be a study of projects/{project}, not {name}"))
    return TransferSource(name.study, pb.revision)


def _read_policy(pb: study_pb2.TrialPolicy) -> TrialPolicy:
    return TrialPolicy(
        # What is far out of range must still fit a timedelta, to be refused by the domain.
        lease=timedelta(seconds=min(max(_seconds(pb.lease), -1e9), 1e9)) if pb.HasField("lease") else None,
        max_retries=pb.max_retries if pb.HasField("max_retries") else DEFAULT_RETRIES,
    )


def read_measurement(pb: trial_pb2.Measurement) -> Measurement:
    """A measurement; what is wrong with it is for the domain to say."""
    return Measurement(
        metrics=dict(pb.metrics),
        standard_errors=dict(pb.standard_errors),
        step=pb.step if pb.HasField("step") else None,
        elapsed_s=_seconds(pb.elapsed) if pb.HasField("elapsed") else None,
    )


def read_explain_request(pb: study_service_pb2.ExplainStudyRequest) -> ExplainRequest:
    """Which slices are wanted; what is wrong with them is for the domain to say."""
    return ExplainRequest(tuple(pb.slices), tuple((pair.first, pair.second) for pair in pb.pair_slices), pb.points)


def read_states(domain: type[E], wire: Any, values: Sequence[int], found: Violations, at: str) -> list[E]:
    """A filter by state: each once."""
    states: list[E] = []
    if len(values) > MAX_STATES:
        found.append(Violation(at, f"must name at most {MAX_STATES} states, not {len(values)}"))
        return states
    for i, value in enumerate(values):
        state = _read_enum(domain, wire, value)
        if state is None:
            found.append(Violation(f"{at}[{i}]", f"must be one of {', '.join(domain.__members__)}"))
        elif state not in states:
            states.append(state)
    return states


def read_parameters(
    pb: Mapping[str, search_space_pb2.ParameterValue], found: Violations, at: str
) -> dict[str, ParameterValue]:
    """A point, not yet held against a space; unread if no space has so many parameters."""
    if len(pb) > domain_space.MAX_PARAMETERS:
        found.append(Violation(at, f"must hold at most {domain_space.MAX_PARAMETERS} parameters, not {len(pb)}"))
        return {}
    return {name: read_value(value, found, f"{at}[{shown(name)}]") for name, value in pb.items()}


def _seconds(pb: Duration) -> float:
    return pb.seconds + pb.nanos / 1e9
