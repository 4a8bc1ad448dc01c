"""From the domain to the wire. What is empty is left out, which is the same there: to set it costs as much as to set anything."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from asktell.names import StudyName
from asktell.v1 import search_space_pb2, study_pb2, study_service_pb2, trial_pb2
from asktell_server.domain.algorithms import (
    Algorithm,
    GpOptimizer,
    GridSearch,
    NormalPrior,
    OptimumPrior,
    RandomSearch,
    SobolSearch,
)
from asktell_server.domain.explanation import Explanation, MetricExplanation
from asktell_server.domain.objectives import Measurement, OutcomeConstraint
from asktell_server.domain.space import (
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Parameter,
    ParameterValue,
)
from asktell_server.domain.study import Study, StudySpec, StudyState
from asktell_server.domain.trial import SuggestionSource, Trial, TrialState
from asktell_server.service.studies import etag


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


def _put_time(pb: Timestamp, time: datetime) -> None:
    since_epoch = time - _EPOCH
    pb.seconds = since_epoch.days * 86_400 + since_epoch.seconds
    pb.nanos = since_epoch.microseconds * 1000


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
    suggestion = trial.suggestion
    pb = trial_pb2.Trial(
        name=str(name.trial(trial.number)),
        state=_TRIAL_STATES[trial.state],
        attempt=trial.attempt,
        revision=trial.revision,
    )
    if trial.state_reason:
        pb.state_reason = trial.state_reason
    if trial.worker:
        pb.worker = trial.worker
    if trial.retry_of is not None:
        pb.retry_of = trial.retry_of
    if trial.notes:
        pb.notes = trial.notes
    if trial.labels:
        pb.labels.update(trial.labels)
    _put_time(pb.create_time, trial.create_time)
    parameters = pb.parameters
    for parameter, value in trial.point.items():
        _put_value(parameters[parameter], value)
    made = pb.suggestion
    made.source = _SOURCE_OF[suggestion.source]
    if suggestion.detail:
        made.detail = suggestion.detail
    for metric, prediction in suggestion.predictions.items():
        made.predictions[metric].mean = prediction.mean
        made.predictions[metric].standard_deviation = prediction.standard_deviation
    if trial.measurement is not None:
        _put_measurement(pb.measurement, trial.measurement)
    if trial.intermediate:
        pb.intermediate_measurements.extend(measurement_to_proto(m) for m in trial.intermediate)
    if trial.is_cut:
        pb.has_more_measurements = True
    if trial.lease_expire_time is not None:
        _put_time(pb.lease_expire_time, trial.lease_expire_time)
    if trial.start_time is not None:
        _put_time(pb.start_time, trial.start_time)
    if trial.end_time is not None:
        _put_time(pb.end_time, trial.end_time)
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
    pb = trial_pb2.Measurement()
    _put_measurement(pb, measurement)
    return pb


def _put_measurement(pb: trial_pb2.Measurement, measurement: Measurement) -> None:
    pb.SetInParent()
    metrics = pb.metrics
    for name, value in measurement.metrics.items():
        metrics[name] = value
    if measurement.standard_errors:
        pb.standard_errors.update(measurement.standard_errors)
    if measurement.step is not None:
        pb.step = measurement.step
    if measurement.elapsed_s is not None:
        nanos = round(measurement.elapsed_s * 1e9)
        pb.elapsed.seconds, pb.elapsed.nanos = divmod(nanos, 10**9)


def optional_timestamp(time: datetime | None) -> Timestamp | None:
    """A time, or None."""
    return None if time is None else _timestamp(time)


def _timestamp(time: datetime) -> Timestamp:
    pb = Timestamp()
    _put_time(pb, time)
    return pb


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_STUDY_STATES = {state: study_pb2.Study.State.Value(state.value) for state in StudyState}
_TRIAL_STATES = {state: trial_pb2.Trial.State.Value(state.value) for state in TrialState}
_SOURCE_OF = {source: trial_pb2.Suggestion.Source.Value(source.value) for source in SuggestionSource}
