"""How suggestions are made: one frozen dataclass per algorithm, with its settings. None means that the server chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, TypeAlias

from asktell._targets import resolve_study
from asktell.names import DEFAULT_PROJECT
from asktell.space import ParameterValue, Space, point_from_proto, value_to_proto
from asktell.v1 import study_pb2 as pb


@dataclass(frozen=True, slots=True)
class RandomSearch:
    """Independent uniform draws (log-uniform where the parameter is log)."""


@dataclass(frozen=True, slots=True)
class GridSearch:
    """Every point of a grid, in an order shuffled by the seed; then SearchSpaceExhausted."""

    points_per_parameter: int = 0
    """Grid values of a continuous parameter; also the cap for an int or stepped one. 0 means 10."""


@dataclass(frozen=True, slots=True)
class SobolSearch:
    """The scrambled Sobol sequence, with the default point first when every parameter has a default."""


@dataclass(frozen=True, slots=True)
class Skopt:
    """scikit-optimize's sequential model-based optimisation."""

    _: KW_ONLY
    base_estimator: Literal["GP", "RF", "ET", "GBRT"] | None = None
    """The regressor that models the objective: Gaussian process, random forest, extremely randomised trees, or
    gradient-boosted trees on quantiles. None means that the server chooses: GP."""
    acquisition_function: Literal["EI", "LCB", "PI", "GP_HEDGE"] | None = None
    """The criterion that picks the next point: expected improvement, lower confidence bound, probability of
    improvement, or one of them drawn anew each time. None means that the server chooses: EI."""
    initial_points: int = 0
    """Sobol points before the model takes over. 0 means max(5, min(2 * dimensions, 20))."""
    xi: float | None = None
    """Improvement that EI and PI ask for, in units of the objective; at least 0. None means 0."""
    kappa: float | None = None
    """Weight of the deviation in LCB; above 0. None means 1.96."""
    max_observations: int = 0
    """Finished trials that the model is fitted on at most. 0 means 200."""


@dataclass(frozen=True, slots=True)
class NormalPrior:
    """A belief about a number: the best value is most likely `mean`, or near it."""

    mean: float
    """The most likely value; one that the parameter can take."""
    _: KW_ONLY
    width: float
    """Standard deviation as a fraction of the parameter's range, or of the logarithm's range if the parameter is log; above 0, at
    most 10."""


Prior: TypeAlias = NormalPrior | Mapping[ParameterValue, float]
"""A belief about the best value of one parameter: a `NormalPrior`, or for a discrete or categorical parameter how likely
each value is relative to the others, such as `{"adam": 3, "sgd": 1}`; values left out have the least of the weights."""


@dataclass(frozen=True, slots=True)
class TransferSource:
    """An earlier study of the same project to learn from."""

    study: str
    """Its name; the full one in what comes from the server."""
    _: KW_ONLY
    revision: int = 0
    """The study's results up to this revision are used. 0 means those that it has when the new study is created."""


@dataclass(frozen=True, slots=True)
class Gp:
    """The server's own Gaussian-process optimizer, which it chooses when it is left the choice.

    Gp(priors={"lr": NormalPrior(1e-3, width=0.2), "optimizer": {"adam": 3, "sgd": 1}}, learn_from=["last-week"])
    """

    _: KW_ONLY
    initial_points: int = 0
    """Trials before the model takes over. 0 means that the server chooses."""
    cost_metric: str | None = None
    """A metric that says what a trial cost (seconds, money; above 0). When set, the improvement that is expected per unit of
    cost is what counts. For one objective only."""
    priors: Mapping[str, Prior] = field(default_factory=dict)
    """What you believe about where the optimum is, by parameter. Wrong beliefs cost trials, not the optimum."""
    learn_from: Sequence[str | TransferSource] = ()
    """Earlier studies of the same project. How much each is trusted is learned; those that mislead do little harm."""

    def __post_init__(self) -> None:
        priors = {name: p if isinstance(p, NormalPrior) else dict(p) for name, p in self.priors.items()}
        object.__setattr__(self, "priors", priors)
        given = [self.learn_from] if isinstance(self.learn_from, str) else self.learn_from
        sources = tuple(TransferSource(source) if isinstance(source, str) else source for source in given)
        object.__setattr__(self, "learn_from", sources)


Algorithm: TypeAlias = RandomSearch | GridSearch | SobolSearch | Skopt | Gp

_BY_NAME: dict[str, Algorithm] = {
    "random": RandomSearch(),
    "grid": GridSearch(),
    "sobol": SobolSearch(),
    "skopt": Skopt(),
    "gp": Gp(),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name with the server's settings. Raises ValueError for an unknown name."""
    if name not in _BY_NAME:
        raise ValueError(f"algorithm {name!r} is unknown; choose one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def algorithm_to_proto(algorithm: Algorithm, project: str = DEFAULT_PROJECT) -> pb.Algorithm:
    """The algorithm and its settings on the wire, for a study of `project`. Raises InvalidName, TypeError."""
    if isinstance(algorithm, RandomSearch):
        return pb.Algorithm(random=pb.RandomSearch())
    if isinstance(algorithm, GridSearch):
        return pb.Algorithm(grid=pb.GridSearch(points_per_parameter=algorithm.points_per_parameter))
    if isinstance(algorithm, SobolSearch):
        return pb.Algorithm(sobol=pb.SobolSearch())
    if isinstance(algorithm, Skopt):
        return pb.Algorithm(
            skopt=pb.SkoptOptimizer(
                base_estimator=pb.SkoptOptimizer.BaseEstimator.Value(
                    algorithm.base_estimator or "BASE_ESTIMATOR_UNSPECIFIED"
                ),
                acquisition_function=pb.SkoptOptimizer.AcquisitionFunction.Value(
                    algorithm.acquisition_function or "ACQUISITION_FUNCTION_UNSPECIFIED"
                ),
                initial_points=algorithm.initial_points,
                xi=algorithm.xi,
                kappa=algorithm.kappa,
                max_observations=algorithm.max_observations,
            )
        )
    if isinstance(algorithm, Gp):
        return pb.Algorithm(gp=_gp_to_proto(algorithm, project))
    raise TypeError(f"an algorithm is a RandomSearch, GridSearch, SobolSearch, Skopt or Gp, not {algorithm!r}")


def _gp_to_proto(gp: Gp, project: str) -> pb.GpOptimizer:
    message = pb.GpOptimizer(initial_points=gp.initial_points, cost_metric=gp.cost_metric or "")
    for parameter, prior in gp.priors.items():
        if isinstance(prior, NormalPrior):
            normal = pb.GpOptimizer.OptimumPrior.Normal(mean=prior.mean, width=prior.width)
            message.priors.add(parameter=parameter, normal=normal)
        else:
            weighted = message.priors.add(parameter=parameter).weighted
            weighted.SetInParent()
            for value, weight in prior.items():
                weighted.weights.add(value=value_to_proto(value), weight=weight)
    for source in gp.learn_from:
        known = TransferSource(source) if isinstance(source, str) else source
        message.transfer_sources.add(study=str(resolve_study(known.study, project)), revision=known.revision)
    return message


def algorithm_from_proto(message: pb.Algorithm, space: Space) -> Algorithm | None:
    """The algorithm that a study of this space uses; None when this client is too old to know it."""
    kind = message.WhichOneof("kind")
    if kind == "random":
        return RandomSearch()
    if kind == "grid":
        return GridSearch(message.grid.points_per_parameter)
    if kind == "sobol":
        return SobolSearch()
    if kind == "skopt":
        s = message.skopt
        return Skopt(
            base_estimator=_estimator(s.base_estimator),
            acquisition_function=_acquisition(s.acquisition_function),
            initial_points=s.initial_points,
            xi=s.xi if s.HasField("xi") else None,
            kappa=s.kappa if s.HasField("kappa") else None,
            max_observations=s.max_observations,
        )
    if kind == "gp":
        return Gp(
            initial_points=message.gp.initial_points,
            cost_metric=message.gp.cost_metric or None,
            priors={prior.parameter: _prior_from_proto(prior, space) for prior in message.gp.priors},
            learn_from=[TransferSource(s.study, revision=s.revision) for s in message.gp.transfer_sources],
        )
    return None


def _prior_from_proto(message: pb.GpOptimizer.OptimumPrior, space: Space) -> Prior:
    if message.HasField("normal"):
        return NormalPrior(message.normal.mean, width=message.normal.width)
    name = message.parameter
    return {point_from_proto({name: weight.value}, space)[name]: weight.weight for weight in message.weighted.weights}


def _estimator(value: int) -> Literal["GP", "RF", "ET", "GBRT"] | None:
    kinds = pb.SkoptOptimizer
    known: dict[int, Literal["GP", "RF", "ET", "GBRT"]] = {
        kinds.GP: "GP",
        kinds.RF: "RF",
        kinds.ET: "ET",
        kinds.GBRT: "GBRT",
    }
    return known.get(value)


def _acquisition(value: int) -> Literal["EI", "LCB", "PI", "GP_HEDGE"] | None:
    kinds = pb.SkoptOptimizer
    known: dict[int, Literal["EI", "LCB", "PI", "GP_HEDGE"]] = {
        kinds.EI: "EI",
        kinds.LCB: "LCB",
        kinds.PI: "PI",
        kinds.GP_HEDGE: "GP_HEDGE",
    }
    return known.get(value)
