"""Who takes part: peers, the environments they live in, and which peers run where.

An environment is a virtual environment under `.peers/`, made by `scripts/peers NAME`; `asktell` means the repository's
own `.venv`. Peers that take seconds an ask run on a *named subset* only, so that the whole benchmark ends on a small
machine; the report compares each only on what it ran.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .problems import PROBLEMS
from .problems.base import Problem, Tag

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "benchmarks.optimizers.peers"


@dataclass(frozen=True)
class PeerEntry:
    """A peer: the adapter that speaks for it, its settings, and what it can do."""

    name: str
    adapter: str
    environment: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    # Problems with these tags are not for it: it has no such feature.
    lacks: tuple[Tag, ...] = ()
    # Problems only with these tags, if any.
    only: tuple[Tag, ...] = ()
    # Name of the subset it runs on unless problems are named; "all" for everything.
    subset: str = "all"

    def python(self) -> Path:
        """The interpreter of its environment."""
        return interpreter(self.environment)

    def takes(self, problem: Problem) -> bool:
        """Whether it has what the problem needs."""
        if self.only and not set(self.only) & set(problem.tags):
            return False
        return not set(self.lacks) & set(problem.tags)


def interpreter(environment: str) -> Path:
    """Where an environment's Python is; it may not be there yet."""
    if environment == "asktell":
        return Path(sys.executable)
    return ROOT / ".peers" / environment / "bin" / "python"


_ONE: tuple[Tag, ...] = ("multi-objective", "constrained")

PEERS: dict[str, PeerEntry] = {
    peer.name: peer
    for peer in (
        PeerEntry("asktell-gp", "asktell_peer", "asktell", {"algorithm": "gp"}),
        PeerEntry("asktell-skopt", "asktell_peer", "asktell", {"algorithm": "skopt"}, lacks=_ONE, subset="asked-for"),
        PeerEntry("asktell-sobol", "asktell_peer", "asktell", {"algorithm": "sobol"}, subset="asked-for"),
        PeerEntry("asktell-random", "asktell_peer", "asktell", {"algorithm": "random"}, subset="asked-for"),
        PeerEntry("random", "random_search", "asktell"),
        PeerEntry("optuna-tpe", "optuna_peer", "shared", {"sampler": "tpe"}),
        PeerEntry("optuna-gp", "optuna_peer", "shared", {"sampler": "gp"}),
        PeerEntry("optuna-nsga2", "optuna_peer", "shared", {"sampler": "nsga2"}, only=("multi-objective",)),
        PeerEntry("cma", "cma_peer", "shared", lacks=_ONE),
        PeerEntry("skopt", "skopt_peer", "shared", lacks=(*_ONE, "high-dimensional")),
        PeerEntry("botorch", "botorch_peer", "shared", subset="dear"),
        PeerEntry("ax", "ax_peer", "ax", lacks=("high-dimensional",), subset="dear"),
        PeerEntry("smac", "smac_peer", "smac", lacks=(*_ONE, "high-dimensional"), subset="dear"),
        PeerEntry("hebo", "hebo_peer", "hebo", lacks=(*_ONE, "high-dimensional"), subset="dearer"),
        PeerEntry("vizier", "vizier_peer", "vizier", lacks=(*_ONE, "high-dimensional"), subset="dearest"),
        PeerEntry("nevergrad", "nevergrad_peer", "nevergrad", subset="asked-for", lacks=_ONE),
    )
}

# Which problems a peer of each subset runs on. "asked-for" peers run only when named.
NAMED_SUBSETS: dict[str, tuple[str, ...]] = {
    "all": tuple(PROBLEMS),
    "asked-for": tuple(PROBLEMS),
    "dear": (
        "branin-2",
        "hartmann-6",
        "ackley-5",
        "rosenbrock-6",
        "levy-rotated-16",
        "noisy-hartmann-6",
        "mixed-ackley-7",
        "mixed-categorical-7",
        "tree-9",
        "boosting-diabetes",
        "mlp-digits",
        "classifier-digits",
        "hartmann-6-in-100",
        "zdt1-5",
        "mixed-trade-5",
        "mlp-digits-error-size",
        "gramacy-2",
        "welded-beam-4",
        "mlp-digits-small",
    ),
    "dearer": (
        "branin-2",
        "hartmann-6",
        "ackley-5",
        "rosenbrock-6",
        "noisy-hartmann-6",
        "mixed-ackley-7",
        "tree-9",
        "boosting-diabetes",
        "mlp-digits",
    ),
    # Those on which a run of ours takes seconds, not minutes: what can be run with several seeds in an evening.
    "swift": (
        "branin-2",
        "camel-2",
        "goldstein-price-2",
        "hartmann-3",
        "hartmann-6",
        "ackley-5",
        "levy-4",
        "rosenbrock-6",
        "rastrigin-4",
        "griewank-6",
        "michalewicz-5",
        "styblinski-tang-5",
        "ellipsoid-rotated-8",
        "mixed-ackley-7",
        "mixed-categorical-7",
        "tree-9",
        "chosen-function-10",
        "noisy-branin-2",
        "noisy-hartmann-6",
        "noisy-levy-4",
        "svm-digits",
        "svm-kernels-breast-cancer",
        "boosting-diabetes",
        "forest-digits",
        "logistic-breast-cancer",
        "classifier-wine",
        "classifier-breast-cancer",
        "branin-in-100",
        "hartmann-6-in-100",
        "levy-4-in-100",
        "levy-100",
        "zdt1-5",
        "zdt2-5",
        "zdt3-5",
        "dtlz2-6",
        "vlmop2-2",
        "mixed-trade-5",
        "mlp-digits-error-size",
        "forest-digits-loss-work",
        "gramacy-2",
        "constrained-branin-2",
        "welded-beam-4",
        "spring-3",
        "speed-reducer-7",
        "ackley-in-a-ball-10",
        "mlp-digits-small",
    ),
    "dearest": ("branin-2", "hartmann-6", "mixed-ackley-7", "boosting-diabetes"),
    # With more than one trial in parallel: each peer on those of its own subset that are here.
    "parallel": (
        "branin-2",
        "hartmann-6",
        "ackley-5",
        "rosenbrock-6",
        "griewank-6",
        "levy-rotated-16",
        "noisy-hartmann-6",
        "mixed-ackley-7",
        "mixed-categorical-7",
        "tree-9",
        "layers-10",
        "boosting-diabetes",
        "forest-digits",
        "mlp-digits",
        "classifier-digits",
        "zdt1-5",
        "gramacy-2",
    ),
    "quick": ("branin-2", "hartmann-3", "ackley-5", "mixed-ackley-7", "noisy-branin-2", "svm-digits"),
}


def default_peers() -> list[str]:
    """Peers of a full run."""
    return [name for name, peer in PEERS.items() if peer.subset != "asked-for"]


def chosen_problems(names: Iterable[str], tags: Iterable[str], subset: str | None) -> list[Problem]:
    """The problems that are named, have one of the tags, or are in the named subset; those that meet all that is given.
    Raises ValueError for unknown names.
    """
    named, tagged = list(names), set(tags)
    unknown = [name for name in named if name not in PROBLEMS]
    if unknown:
        raise ValueError(f"no such problems: {', '.join(unknown)}; there are {', '.join(PROBLEMS)}")
    if subset is not None and subset not in NAMED_SUBSETS:
        raise ValueError(f"no such subset: {subset}; there are {', '.join(NAMED_SUBSETS)}")
    return [
        problem
        for problem in PROBLEMS.values()
        if (not named or problem.name in named)
        and (not tagged or tagged & set(problem.tags))
        and (subset is None or problem.name in NAMED_SUBSETS[subset])
    ]
