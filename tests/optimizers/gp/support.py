"""What the tests of the engine share: studies, models with little effort, inputs and hyperparameters for any space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.objectives import Direction, Measurement, Objective, OutcomeConstraint
from asktell_server.domain.space import (
    CategoricalParameter,
    Condition,
    DiscreteParameter,
    FloatParameter,
    IntParameter,
    Point,
    SearchSpace,
)
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation, SourceStudy
from asktell_server.optimizers.encoding import Array, Encoding
from asktell_server.optimizers.gp.cube import Cube
from asktell_server.optimizers.gp.fit import MUCH_NOISE, Data, Priors
from asktell_server.optimizers.gp.kernel import MAX_ADDITIVE, A, Hyperparameters, Inputs, Kernel, Layout, library
from asktell_server.optimizers.gp.metric import FitConfig
from asktell_server.optimizers.gp.optimizer import GpAsk
from asktell_server.optimizers.gp.posterior import Geometry, Posterior
from asktell_server.optimizers.gp.search import SearchConfig
from asktell_server.optimizers.gp.study_model import Effort, StudyModel
from asktell_server.testing.optimizer_contract import MIXED, NESTED, NUMERIC

SQUARE = SearchSpace((FloatParameter("x", 0.0, 1.0), FloatParameter("y", 0.0, 1.0)))
# Every kind of dimension, and conditions on all of them.
RICH = SearchSpace(
    (
        FloatParameter("free", -1.0, 1.0),
        CategoricalParameter("kind", ("a", "b", "c")),
        FloatParameter("under a", 1e-3, 1.0, log=True, condition=Condition("kind", ("a",))),
        IntParameter("under a or b", 1, 5, condition=Condition("kind", ("a", "b"))),
        CategoricalParameter("choice under a", ("p", "q"), condition=Condition("kind", ("a",))),
        DiscreteParameter("under q", (1.0, 2.0, 8.0), condition=Condition("choice under a", ("q",))),
    )
)
# More dimensions than the kernel's second term has.
WIDE = SearchSpace(
    (
        *RICH.parameters,
        *(FloatParameter(f"x{i}", 0.0, 1.0) for i in range(MAX_ADDITIVE)),
    )
)
SPACES: Mapping[str, SearchSpace] = {
    "square": SQUARE,
    "numeric": NUMERIC,
    "mixed": MIXED,
    "nested": NESTED,
    "rich": RICH,
    "wide": WIDE,
}
LITTLE = Effort(
    fit=FitConfig(starts=2, calls=8, sets=2, averaged=4, rounds=1, eager=6, fit_size=8, active_size=9),
    search=SearchConfig(anywhere=48, near=24, starts=2, rounds=2, calls=8),
)
"""For tests of what must hold however hard the engine tries."""


def study(
    space: SearchSpace,
    *,
    direction: Direction = Direction.MINIMIZE,
    constraints: Sequence[OutcomeConstraint] = (),
    seed: int = 3,
    **settings: Any,
) -> StudySpec:
    """A study of `space` with one objective, `loss`."""
    settings = {"initial_points": 4} | settings
    return StudySpec(
        space,
        (Objective("loss", direction),),
        constraints=tuple(constraints),
        algorithm=GpOptimizer(**settings),
        seed=seed,
    )


def optimizer(
    spec: StudySpec,
    history: Sequence[Observation] = (),
    effort: Effort | None = None,
    sources: Sequence[SourceStudy] = (),
) -> GpAsk:
    """An optimizer that was told `history`, with as much effort as is wished."""
    made = GpAsk(spec, sources)
    if effort is not None:
        made.use(StudyModel(spec, made.encoding, effort, sources))
    made.tell(history)
    return made


def succeeded(number: int, point: Point, loss: float, errors: float = 0.0, **metrics: float) -> Observation:
    """A trial that brought `loss` and other metrics."""
    measurement = Measurement({"loss": loss, **metrics}, {"loss": errors} if errors else {})
    return Observation(number, point, TrialState.SUCCEEDED, measurement)


def failed(number: int, point: Point) -> Observation:
    """A trial that failed."""
    return Observation(number, point, TrialState.FAILED)


class Scene:
    """A kernel, hyperparameters, inputs and outcomes for one space, all of them random."""

    def __init__(self, space: SearchSpace, n: int = 12, m: int = 7, sets: int = 2, seed: int = 1) -> None:
        self.rng = np.random.default_rng(seed)
        self.cube = Cube(Encoding(space))
        self.layout = Layout.of(self.cube)
        self.kernel = Kernel(self.layout)
        self.priors = Priors(much_noise=MUCH_NOISE)
        self.prior = self.priors.of(self.kernel)
        start = self.prior.means + 0.6 * self.rng.standard_normal((sets, len(self.prior.means)))
        self.packed = np.clip(start, self.prior.lower, self.prior.upper)
        # Noise that leaves sixteen digits room for a comparison to ten of them.
        self.packed[:, self.layout.size + 2] = self.rng.uniform(-4.0, -2.0, sets)
        self.theta = Hyperparameters.unpacked(self.packed, self.layout)
        self.units, self.inputs = self.random_inputs(n)
        self.new_units, self.new = self.random_inputs(m)
        self.y = self.rng.standard_normal(n)
        known = self.rng.uniform(0.02, 0.1, n)
        self.known_variance = np.where(np.arange(n) % 3 == 0, 0.0, known)

    def random_inputs(self, count: int) -> tuple[Array, Inputs]:
        """Points drawn from the cube."""
        units, active = self.cube.canonical(self.rng.random((count, self.cube.dimensions)))
        return units, Inputs.of(self.layout, units, active)

    @property
    def data(self) -> Data:
        """The observations."""
        return Data(self.inputs, self.y, self.known_variance)

    def geometry(self) -> Geometry:
        """The factor for the observed points."""
        return Geometry(self.kernel, self.theta, self.inputs, self.known_variance)

    def posterior(self) -> Posterior:
        """The posterior given the outcomes."""
        return Posterior(self.geometry(), self.y)

    def dense(self, theta: Hyperparameters[A], one: Inputs[A], other: Inputs[A]) -> A:  # (H, m, n)
        """The kernel as the head of kernel.py writes it down, entry by entry."""
        use = library(theta.scale)
        d, p = self.layout.size, self.layout.p
        found = []
        for s in range(len(theta)):
            length, (a, b) = use.exp(theta.lengthscale[s]), use.exp(theta.warp[s])
            parts = []
            for i in range(p):
                w, v = (1.0 - (1.0 - x[..., i] ** a[i]) ** b[i] for x in (one.x[:, None], other.x[None]))
                if i in self.layout.conditional:
                    on, too = one.active[:, None, i], other.active[None, :, i]
                    off = (use.sin(w - 0.5) * on - use.sin(v - 0.5) * too) ** 2
                    parts.append((off + (use.cos(w - 0.5) * on - use.cos(v - 0.5) * too) ** 2) / length[i] ** 2)
                else:
                    parts.append(((w - v) / length[i]) ** 2)
            for i in range(d - p):
                differs = one.choice[:, None, i] != other.choice[None, :, i]
                parts.append(differs / length[p + i] ** 2)
            k = use.exp(theta.scale[s]) * _matern(use.stack(parts).sum(0))
            if self.kernel.is_additive:
                k = k + use.exp(theta.additive[s]) / d * _matern(d * use.stack(parts)).sum(0)
            found.append(k)
        dense: A = use.stack(found)
        return dense

    def dense_covariance(self, theta: Hyperparameters[A], data: Data[A]) -> A:  # (H, n, n)
        """The covariance of the outcomes, entry by entry."""
        use = library(theta.scale)
        known = data.known_variance
        noise = use.where(known > 0, known + 1e-8, use.exp(theta.noise)[:, None])
        covariance: A = self.dense(theta, data.inputs, data.inputs) + noise[:, :, None] * use.eye(len(data))
        return covariance


def tensors(theta: Hyperparameters) -> Hyperparameters[Tensor]:
    """The same hyperparameters for torch."""
    return Hyperparameters(*(torch.tensor(part) for part in vars(theta).values()))


def _matern(r2: A) -> A:
    use = library(r2)
    r = use.sqrt(use.clip(5.0 * r2, 1e-300, None))
    k: A = (1.0 + r + r * r / 3.0) * use.exp(-r)
    return k


def encoded(space: SearchSpace, points: Sequence[Point]) -> tuple[Cube, Array, Inputs]:
    """Points as the engine takes them."""
    cube = Cube(Encoding(space))
    units = cube.encoding.encode_all(points)
    active = np.array([cube.encoding.activity(point) for point in points])
    return cube, units, Inputs.of(Layout.of(cube), units, active)
