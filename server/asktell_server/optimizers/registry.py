"""Which optimizer carries out which algorithm. Another one is one more line in OPTIMIZERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from asktell_server.domain.study import Algorithm, GridSearch, RandomSearch, SkoptOptimizer, SobolSearch, StudySpec
from asktell_server.optimizers.base import Optimizer
from asktell_server.optimizers.design import preload as preload
from asktell_server.optimizers.grid_search import GridAsk
from asktell_server.optimizers.random_search import RandomAsk
from asktell_server.optimizers.skopt_optimizer import SkoptAsk
from asktell_server.optimizers.sobol_search import SobolAsk

OPTIMIZERS: Mapping[type[Algorithm], Callable[[StudySpec], Optimizer]] = {
    RandomSearch: RandomAsk,
    GridSearch: GridAsk,
    SobolSearch: SobolAsk,
    SkoptOptimizer: SkoptAsk,
}


def create_optimizer(spec: StudySpec) -> Optimizer:
    """A fresh optimizer for a study whose spec is free of violations and of `unimplemented` wishes. Imports no model library."""
    return OPTIMIZERS[type(spec.algorithm)](spec)
