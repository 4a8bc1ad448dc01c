"""What each part of the Gaussian-process engine is worth: variants against the engine as it is, in this process, without a server.

    python benchmarks/ablation.py                            every variant on twelve problems, two seeds: an hour or more
    python benchmarks/ablation.py --variants no-warping --problems branin-2,hartmann-6 --seeds 0-4

Printed is the mean change of log10 regret (at least 1e-8 of what a random point is worth) at half and at the end of the
budget, with its standard error; above 0 means that the variant is worse. Development looks at this; what the engine is worth
beside others is for `make bench-optimizers` to say.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from benchmarks.optimizers import space as spaces
from benchmarks.optimizers.peers.asktell_peer import study_spec
from benchmarks.optimizers.problems import PROBLEMS
from benchmarks.optimizers.problems.base import FLOOR, Problem, scale
from benchmarks.optimizers.protocol import StudyBrief

from asktell_server.domain.algorithms import GpOptimizer
from asktell_server.domain.objectives import Measurement
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.gp.fit import MUCH_NOISE
from asktell_server.optimizers.gp.optimizer import GpAsk
from asktell_server.optimizers.gp.search import SearchConfig
from asktell_server.optimizers.gp.study_model import Effort, StudyModel
from asktell_server.rpc.convert import read_spec

NAMES = (
    *(
        "branin-2",
        "hartmann-6",
        "ackley-5",
        "levy-4",
        "rosenbrock-6",
        "rastrigin-4",
        "griewank-6",
        "ellipsoid-rotated-8",
    ),
    *("mixed-ackley-7", "mixed-integers-8", "chosen-function-10", "noisy-hartmann-6"),
)


NO_WARPING = (0.0, 1e-3)
NO_ADDITIVE = (-9.0, 1e-3)

VARIANTS: Mapping[str, Callable[[Effort], Effort]] = {
    "no-warping": lambda e: replace(e, priors=replace(e.priors, warp=NO_WARPING)),
    "no-additive-part": lambda e: replace(e, priors=replace(e.priors, additive=NO_ADDITIVE)),
    "neither": lambda e: replace(e, priors=replace(e.priors, additive=NO_ADDITIVE, warp=NO_WARPING)),
    "long-lengthscales": lambda e: replace(
        e, priors=replace(e.priors, lengthscale=(math.sqrt(2), math.sqrt(3)), noise=(-8.0, 3.0))
    ),
    "noise-as-likely-as-structure": lambda e: replace(e, priors=replace(e.priors, much_noise=MUCH_NOISE)),
    "best-set-only": lambda e: replace(e, fit=replace(e.fit, averaged=0, averaged_noisy=0)),
    "average-never-longer": lambda e: replace(e, fit=replace(e.fit, averaged_noisy=e.fit.averaged)),
    "average-longer": lambda e: replace(e, fit=replace(e.fit, averaged=60)),
    "noise-never-below-1e-8": lambda e: replace(e, fit=replace(e.fit, min_noise=1e-8)),
    "wide-search": lambda e: replace(e, search=SearchConfig(2048, 1024, starts=16, calls=80)),
    "brief-search": lambda e: replace(e, few=0),
    "wide-warping": lambda e: replace(e, priors=replace(e.priors, warp=(0.0, 0.6))),
}


def spec_of(problem: Problem, space: spaces.Space, seed: int) -> StudySpec:
    """The study, as the server would read it."""
    brief = StudyBrief(
        *(problem.name, space, problem.objectives, problem.constraints, problem.noisy, seed, problem.budget, 1),
        settings={"algorithm": "gp"},
    )
    return read_spec(study_spec(brief), None, [], "spec")[0]


def curve(problem: Problem, seed: int, variant: Callable[[Effort], Effort]) -> tuple[float, float]:
    """Log10 regret at half and at the end of one run."""
    instance = problem.instance(seed)
    assert instance.optimum is not None
    spec = spec_of(problem, instance.space, seed)
    assert isinstance(spec.algorithm, GpOptimizer)
    optimizer = GpAsk(spec)
    model = StudyModel(spec, optimizer.encoding)
    optimizer.use(StudyModel(spec, optimizer.encoding, variant(model.effort)))
    rng = np.random.default_rng([1, seed])
    metric = problem.objectives[0]
    best: list[float] = []
    for number in range(1, problem.budget + 1):
        point = dict(optimizer.ask(number, []).suggestion.point)
        value = instance.evaluate(point, rng).values[0]
        optimizer.tell([Observation(number, point, TrialState.SUCCEEDED, Measurement({metric: value}))])
        best.append(min(instance.truth(point).values[0], best[-1] if best else math.inf))
    measure = scale(problem, instance, seed)
    assert measure is not None
    unit = measure.median - instance.optimum
    half, end = (
        math.log10(max((best[k - 1] - instance.optimum) / unit, FLOOR)) for k in (problem.budget // 2, problem.budget)
    )
    return half, end


def main() -> None:
    """Runs the variants and prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--problems", default=",".join(NAMES))
    parser.add_argument("--seeds", default="0-1", help="first-last")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    cells = [(PROBLEMS[name], seed) for name in options.problems.split(",") for seed in range(first, last + 1)]
    as_it_is = [curve(problem, seed, lambda effort: effort) for problem, seed in cells]
    half, end = (statistics.mean(column) for column in zip(*as_it_is, strict=True))
    print(f"{len(cells)} runs; as it is: half {half:.2f}, end {end:.2f}")
    for name in options.variants.split(","):
        found = [curve(problem, seed, VARIANTS[name]) for problem, seed in cells]
        columns = []
        for k, at in enumerate(("half", "end")):
            change = [there[k] - here[k] for there, here in zip(found, as_it_is, strict=True)]
            error = statistics.stdev(change) / math.sqrt(len(change)) if len(change) > 1 else math.nan
            columns.append(f"{at} {statistics.mean(change):+.2f} ± {error:.2f}")
        print(f"  {name:20} {'   '.join(columns)}", flush=True)


if __name__ == "__main__":
    main()
