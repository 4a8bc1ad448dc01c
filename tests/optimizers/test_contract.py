"""Every optimizer under the contract that all share."""

from __future__ import annotations

from asktell_server.domain.algorithms import GpOptimizer, GridSearch, RandomSearch, SkoptOptimizer, SobolSearch
from asktell_server.testing.optimizer_contract import OptimizerContract


class TestRandom(OptimizerContract):
    """Random search."""

    algorithm = RandomSearch()


class TestGrid(OptimizerContract):
    """Grid search."""

    algorithm = GridSearch(points_per_parameter=5)


class TestSobol(OptimizerContract):
    """Sobol search."""

    algorithm = SobolSearch()


class TestSkoptGaussianProcess(OptimizerContract):
    """scikit-optimize with its Gaussian process."""

    algorithm = SkoptOptimizer(initial_points=4)
    asks = 7


class TestGp(OptimizerContract):
    """The Gaussian-process engine."""

    algorithm = GpOptimizer(initial_points=4)
    asks = 10
    exhausts = True
