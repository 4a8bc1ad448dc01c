"""The bridge between the wire and the domain. Reading collects everything that is wrong instead of stopping at the first.

Reading functions take the list that violations are added to and the path of what they read; they return a harmless stand-in
for what could not be read, which the caller must not use when the list is not empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from asktell.names import InvalidName, StudyName
from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, trial_pb2
from asktell_server.domain import space as domain_space
from asktell_server.domain.errors import Violation
from asktell_server.domain.explanation import ExplainRequest, Explanation, MetricExplanation
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
from asktell_server.domain.study import (
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
    StoppingCriteria,
    Study,
    StudySpec,
    StudyState,
    TransferSource,
    TrialPolicy,
    WeightedPrior,
)
from asktell_server.domain.trial import Trial, TrialState
from asktell_server.service.studies import etag

E = TypeVar("E", bound=Enum)
Violations = list[Violation]

# What is tried when a study names no algorithm.
DEFAULT_ALGORITHM = GpOptimizer()
DEFAULT_RETRIES = TrialPolicy().max_retries


# --- proto -> domain -------------------------------------------------------------------------------------------------


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


def read_states(domain: type[E], wire: Any, values: Iterable[int], found: Violations, at: str) -> list[E]:
    """A filter by state."""
    states = []
    for i, value in enumerate(values):
        state = _read_enum(domain, wire, value)
        if state is None:
            found.append(Violation(f"{at}[{i}]", f"must be one of {', '.join(domain.__members__)}"))
        else:
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


# --- domain -> proto -------------------------------------------------------------------------------------------------


def study_to_proto(study: Study) -> study_pb2.Study:
    """A study as the wire shows it."""
    return study_pb2.Study(
        name=str(StudyName(study.project, study.name)),
        spec=spec_to_proto(study.spec, study.project),
        state=_STUDY_STATES[study.state],
        state_reason=study.state_reason,
        description=study.description,
        labels=study.labels,
        revision=study.revision,
        etag=etag(study),
        trial_counts=study_pb2.Study.TrialCounts(
            **{state.value.lower(): study.counts.get(state, 0) for state in TrialState}
        ),
        create_time=_timestamp(study.create_time),
        update_time=_timestamp(study.update_time),
    )


def spec_to_proto(spec: StudySpec, project: str) -> study_pb2.StudySpec:
    """The spec of a study in `project` as the wire shows it, with what the server chose filled in."""
    stopping = study_pb2.StoppingCriteria(
        max_trials=spec.stopping.max_trials,
        target=spec.stopping.target,
        max_trials_without_improvement=spec.stopping.max_trials_without_improvement,
        max_failed_trials=spec.stopping.max_failed_trials,
    )
    policy = study_pb2.TrialPolicy(max_retries=spec.trial_policy.max_retries)
    if spec.trial_policy.lease is not None:
        policy.lease.FromTimedelta(spec.trial_policy.lease)
    return study_pb2.StudySpec(
        parameters=[_parameter_to_proto(parameter) for parameter in spec.space.parameters],
        objectives=[
            study_pb2.Objective(metric=o.metric, direction=study_pb2.Objective.Direction.Value(o.direction.value))
            for o in spec.objectives
        ],
        outcome_constraints=[_constraint_to_proto(constraint) for constraint in spec.constraints],
        algorithm=_algorithm_to_proto(spec.algorithm, project),
        stopping_criteria=stopping,
        trial_policy=policy,
        seed=spec.seed,
    )


def _parameter_to_proto(parameter: Parameter) -> search_space_pb2.Parameter:
    pb = search_space_pb2.Parameter(name=parameter.name)
    if isinstance(parameter, FloatParameter):
        pb.float.CopyFrom(
            search_space_pb2.FloatParameter(
                min=parameter.min,
                max=parameter.max,
                log=parameter.log,
                step=parameter.step,
                default_value=parameter.default,
            )
        )
    elif isinstance(parameter, IntParameter):
        pb.int.CopyFrom(
            search_space_pb2.IntParameter(
                min=parameter.min,
                max=parameter.max,
                log=parameter.log,
                step=parameter.step,
                default_value=parameter.default,
            )
        )
    elif isinstance(parameter, DiscreteParameter):
        pb.discrete.CopyFrom(
            search_space_pb2.DiscreteParameter(
                values=parameter.values, log=parameter.log, default_value=parameter.default
            )
        )
    else:
        pb.categorical.choices.extend(value_to_proto(choice) for choice in parameter.choices)
        if parameter.default is not None:
            pb.categorical.default_value.CopyFrom(value_to_proto(parameter.default))
    if parameter.condition is not None:
        pb.condition.parent = parameter.condition.parent
        pb.condition.values.extend(value_to_proto(value) for value in parameter.condition.values)
    return pb


def _constraint_to_proto(constraint: OutcomeConstraint) -> study_pb2.OutcomeConstraint:
    pb = study_pb2.OutcomeConstraint(metric=constraint.metric)
    if constraint.min is not None:
        pb.min = constraint.min
    if constraint.max is not None:
        pb.max = constraint.max
    return pb


def _algorithm_to_proto(algorithm: Algorithm, project: str) -> study_pb2.Algorithm:
    if isinstance(algorithm, RandomSearch):
        return study_pb2.Algorithm(random=study_pb2.RandomSearch())
    if isinstance(algorithm, GridSearch):
        return study_pb2.Algorithm(grid=study_pb2.GridSearch(points_per_parameter=algorithm.points_per_parameter))
    if isinstance(algorithm, SobolSearch):
        return study_pb2.Algorithm(sobol=study_pb2.SobolSearch())
    if isinstance(algorithm, GpOptimizer):
        return study_pb2.Algorithm(gp=_gp_to_proto(algorithm, project))
    return study_pb2.Algorithm(
        skopt=study_pb2.SkoptOptimizer(
            base_estimator=study_pb2.SkoptOptimizer.BaseEstimator.Value(algorithm.base_estimator.value),
            acquisition_function=study_pb2.SkoptOptimizer.AcquisitionFunction.Value(
                algorithm.acquisition_function.value
            ),
            initial_points=algorithm.initial_points,
            xi=algorithm.xi,
            kappa=algorithm.kappa,
            max_observations=algorithm.max_observations,
        )
    )


def _gp_to_proto(algorithm: GpOptimizer, project: str) -> study_pb2.GpOptimizer:
    return study_pb2.GpOptimizer(
        initial_points=algorithm.initial_points,
        cost_metric=algorithm.cost_metric,
        priors=[_prior_to_proto(prior) for prior in algorithm.priors],
        transfer_sources=[
            study_pb2.GpOptimizer.TransferSource(study=str(StudyName(project, source.study)), revision=source.revision)
            for source in algorithm.transfer_sources
        ],
    )


def _prior_to_proto(prior: OptimumPrior) -> study_pb2.GpOptimizer.OptimumPrior:
    pb = study_pb2.GpOptimizer.OptimumPrior(parameter=prior.parameter)
    if isinstance(prior.belief, NormalPrior):
        pb.normal.mean, pb.normal.width = prior.belief.mean, prior.belief.width
    else:
        for value, weight in prior.belief.weights:
            pb.weighted.weights.add(value=value_to_proto(value), weight=weight)
    return pb


def value_to_proto(value: ParameterValue) -> search_space_pb2.ParameterValue:
    """One value of a parameter."""
    pb = search_space_pb2.ParameterValue()
    _put_value(pb, value)
    return pb


def _put_value(pb: search_space_pb2.ParameterValue, value: ParameterValue) -> None:
    if isinstance(value, bool):
        pb.bool_value = value
    elif isinstance(value, float):
        pb.float_value = value
    elif isinstance(value, int):
        pb.int_value = value
    else:
        pb.string_value = value


def trial_to_proto(name: StudyName, trial: Trial) -> trial_pb2.Trial:
    """A trial of the study `name` as the wire shows it."""
    pb = trial_pb2.Trial(
        name=str(name.trial(trial.number)),
        state=_TRIAL_STATES[trial.state],
        state_reason=trial.state_reason,
        worker=trial.worker,
        attempt=trial.attempt,
        retry_of=trial.retry_of,
        notes=trial.notes,
        labels=trial.labels,
        revision=trial.revision,
        create_time=_timestamp(trial.create_time),
    )
    for parameter, value in trial.point.items():
        _put_value(pb.parameters[parameter], value)
    suggestion = trial.suggestion
    pb.suggestion.source = _SOURCES[suggestion.source.value]
    pb.suggestion.detail = suggestion.detail
    for metric, prediction in suggestion.predictions.items():
        pb.suggestion.predictions[metric].mean = prediction.mean
        pb.suggestion.predictions[metric].standard_deviation = prediction.standard_deviation
    if trial.measurement is not None:
        pb.measurement.CopyFrom(measurement_to_proto(trial.measurement))
    if trial.intermediate:
        pb.intermediate_measurements.extend(measurement_to_proto(m) for m in trial.intermediate)
    pb.has_more_measurements = trial.is_cut
    for field, time in (
        ("lease_expire_time", trial.lease_expire_time),
        ("start_time", trial.start_time),
        ("end_time", trial.end_time),
    ):
        if time is not None:
            getattr(pb, field).CopyFrom(_timestamp(time))
    return pb


def explanation_to_proto(revision: int, explanation: Explanation) -> study_service_pb2.ExplainStudyResponse:
    """An explanation as the wire shows it."""
    return study_service_pb2.ExplainStudyResponse(
        revision=revision,
        reference_trial=explanation.reference_trial,
        metrics=[_metric_explanation_to_proto(metric) for metric in explanation.metrics],
    )


def _metric_explanation_to_proto(explained: MetricExplanation) -> study_service_pb2.MetricExplanation:
    calibration = explained.calibration
    return study_service_pb2.MetricExplanation(
        metric=explained.metric,
        calibration=study_service_pb2.MetricExplanation.Calibration(
            observations=calibration.observations,
            coverage_90=calibration.coverage_90,
            log_density=calibration.log_density,
            r_squared=calibration.r_squared,
            deviation_factor=calibration.deviation_factor,
            raw_coverage_90=calibration.raw_coverage_90,
        ),
        importances=[
            study_service_pb2.MetricExplanation.Importance(
                parameter=importance.parameter,
                total_effect=importance.total_effect,
                lower=importance.lower,
                upper=importance.upper,
            )
            for importance in explained.importances
        ],
        slices=[
            study_service_pb2.MetricExplanation.Slice(
                parameters=shown.parameters,
                first_values=map(value_to_proto, shown.first_values),
                second_values=map(value_to_proto, shown.second_values),
                means=shown.means,
                standard_deviations=shown.standard_deviations,
            )
            for shown in explained.slices
        ],
    )


def measurement_to_proto(measurement: Measurement) -> trial_pb2.Measurement:
    """A measurement as the wire shows it."""
    pb = trial_pb2.Measurement(
        metrics=measurement.metrics, standard_errors=measurement.standard_errors, step=measurement.step
    )
    if measurement.elapsed_s is not None:
        nanos = round(measurement.elapsed_s * 1e9)
        pb.elapsed.seconds, pb.elapsed.nanos = divmod(nanos, 10**9)
    return pb


def optional_timestamp(time: datetime | None) -> Timestamp | None:
    """A time, or None."""
    return None if time is None else _timestamp(time)


def _timestamp(time: datetime) -> Timestamp:
    since_epoch = time - _EPOCH
    return Timestamp(seconds=since_epoch.days * 86_400 + since_epoch.seconds, nanos=since_epoch.microseconds * 1000)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STUDY_STATES = {state: study_pb2.Study.State.Value(state.value) for state in StudyState}
_TRIAL_STATES = {state: trial_pb2.Trial.State.Value(state.value) for state in TrialState}
_SOURCES = dict(trial_pb2.Suggestion.Source.items())
