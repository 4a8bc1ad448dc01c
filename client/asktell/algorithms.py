"""How suggestions are made: one frozen dataclass per algorithm, with its settings. None means that the server chooses."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal, TypeAlias

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


Algorithm: TypeAlias = RandomSearch | GridSearch | SobolSearch | Skopt

_BY_NAME: dict[str, Algorithm] = {
    "random": RandomSearch(),
    "grid": GridSearch(),
    "sobol": SobolSearch(),
    "skopt": Skopt(),
}


def algorithm_named(name: str) -> Algorithm:
    """The algorithm of that name with the server's settings. Raises ValueError for an unknown name."""
    if name not in _BY_NAME:
        raise ValueError(f"algorithm {name!r} is unknown; choose one of {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def algorithm_to_proto(algorithm: Algorithm) -> pb.Algorithm:
    """The algorithm and its settings on the wire."""
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
    raise TypeError(f"an algorithm is a RandomSearch, GridSearch, SobolSearch or Skopt, not {algorithm!r}")


def algorithm_from_proto(message: pb.Algorithm) -> Algorithm | None:
    """The algorithm that a study uses; None when this client is too old to know it."""
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
    return None


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
