"""Which optimizer carries out which algorithm. Another one is one more line in OPTIMIZERS."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from asktell_server.domain.algorithms import (
    Algorithm,
    GpOptimizer,
    GridSearch,
    RandomSearch,
    SkoptOptimizer,
    SobolSearch,
)
from asktell_server.domain.study import StudySpec
from asktell_server.optimizers.base import Optimizer, SourceStudy
from asktell_server.optimizers.design import preload as preload
from asktell_server.optimizers.gp.device import FitDevice
from asktell_server.optimizers.gp.optimizer import GpAsk
from asktell_server.optimizers.grid_search import GridAsk
from asktell_server.optimizers.random_search import RandomAsk
from asktell_server.optimizers.skopt_optimizer import SkoptAsk
from asktell_server.optimizers.sobol_search import SobolAsk

Factory = Callable[[StudySpec, Sequence[SourceStudy], FitDevice | None], Optimizer]


def _alone(factory: Callable[[StudySpec], Optimizer]) -> Factory:
    """The factory of an optimizer that learns from no other study and fits nothing that is large."""
    return lambda spec, *_: factory(spec)


OPTIMIZERS: Mapping[type[Algorithm], Factory] = {
    RandomSearch: _alone(RandomAsk),
    GridSearch: _alone(GridAsk),
    SobolSearch: _alone(SobolAsk),
    SkoptOptimizer: _alone(SkoptAsk),
    GpOptimizer: GpAsk,
}


def create_optimizer(
    spec: StudySpec, sources: Sequence[SourceStudy] = (), device: FitDevice | None = None
) -> Optimizer:
    """A fresh optimizer for a study whose spec is free of violations and of `unimplemented` wishes. Imports no model library.

    `sources` are the studies that the spec names to learn from; `device` is where large fits run, on the CPU without.
    """
    return OPTIMIZERS[type(spec.algorithm)](spec, sources, device)
