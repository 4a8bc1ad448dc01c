"""Open Source Vizier's default algorithm, GP-UCB-PE (Song et al. 2024), used as a designer in this process, as its
documentation shows for benchmarks.

Running trials are told as active ones. Conditional spaces are flattened, since the designer takes none. Its first
suggestions compile for minutes of processor time.
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

from vizier import algorithms as vza
from vizier import pyvizier as vz
from vizier._src.algorithms.designers.gp_ucb_pe import VizierGPUCBPEBandit

from ..problems.cache import folder
from ..protocol import Peer, StudyBrief, serve, version
from ..space import Point


class Vizier(Peer):
    """One designer."""

    def __init__(self, brief: StudyBrief) -> None:
        super().__init__(brief)
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        problem = vz.ProblemStatement()
        root = problem.search_space.root
        for p in brief.space:
            scale = vz.ScaleType.LOG if p.log else vz.ScaleType.LINEAR
            if p.kind == "float":
                root.add_float_param(p.name, p.low, p.high, scale_type=scale)
            elif p.kind == "int":
                root.add_int_param(p.name, int(p.low), int(p.high), scale_type=scale)
            elif p.kind == "ordinal":
                root.add_discrete_param(p.name, [float(c) for c in p.choices], scale_type=scale)
            else:
                root.add_categorical_param(p.name, [str(c) for c in p.choices])
        for name in brief.objectives:
            problem.metric_information.append(vz.MetricInformation(name, goal=vz.ObjectiveMetricGoal.MINIMIZE))
        self._designer = VizierGPUCBPEBandit(problem, rng=_key(brief.seed))
        self._trials: dict[int, Any] = {}
        self._new: list[Any] = []

    def ask(self, number: int) -> Point:
        """One suggestion, after what is new has been told."""
        self._designer.update(vza.CompletedTrials(self._new), vza.ActiveTrials(list(self._trials.values())))
        self._new = []
        suggestion = self._designer.suggest(1)[0]
        self._trials[number] = suggestion.to_trial(number + 1)
        point: Point = {}
        for p in self.brief.space:
            value = suggestion.parameters[p.name].value
            if p.kind == "categorical":
                value = next(c for c in p.choices if str(c) == str(value))
            point[p.name] = int(value) if p.kind == "int" else value
        return point

    def tell(self, number: int, point: Point, values: list[float], slack: list[float]) -> None:
        """Keeps the completed trial for the next ask."""
        trial = self._trials.pop(number)
        metrics = dict(zip(self.brief.objectives, values, strict=True))
        trial.complete(vz.Measurement(metrics=metrics))
        self._new.append(trial)

    @classmethod
    def versions(cls) -> dict[str, str]:
        """Vizier's and JAX's."""
        return version("google-vizier-dev", "jax")


def _key(seed: int) -> Any:
    import jax

    # As Vizier's own service does. In single precision suggestions come out empty now and then.
    jax.config.update("jax_enable_x64", True)  # noqa: FBT003 # JAX has it so
    # It compiles anew for every number of trials; what one run has compiled the next need not.
    jax.config.update("jax_compilation_cache_dir", str(folder() / "jax"))
    return jax.random.PRNGKey(seed)


if __name__ == "__main__":
    serve(Vizier)
