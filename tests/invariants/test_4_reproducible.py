"""Invariant 4: same spec, seed and history give the same suggestions, on any server, before and after a restart."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asktell.v1 import study_pb2, trial_pb2

from ..rpc.calls import Stub, ask, floats, new_study, tell
from ..support import ServerProcess, serving, spec, stub

FALLBACK, MODEL = trial_pb2.Suggestion.FALLBACK, trial_pb2.Suggestion.MODEL
TRIALS = 9
ALGORITHMS = ["random", "sobol", "grid", "skopt"]


def _spec(algorithm: str, seed: int = 7) -> study_pb2.StudySpec:
    made = spec(algorithm, seed=seed)
    if algorithm == "skopt":
        made.algorithm.skopt.initial_points = 3
    return made


def _history(service: Callable[[], Stub], study: str) -> Iterator[trial_pb2.Trial]:
    """Tunes with up to three trials running at once: suggestions depend on results and on what is pending."""
    running: list[trial_pb2.Trial] = []
    for i in itertools.count():
        for trial in [*ask(service(), study), *ask(service(), study)]:
            yield trial
            running.append(trial)
        while len(running) > i % 2:
            trial = running.pop(0)
            x = floats(trial)
            tell(service(), trial.name, (x["x0"] - 0.3) ** 2 + math.sin(5 * x["x1"]))


def _suggestions(trials: Iterator[trial_pb2.Trial]) -> list[tuple[dict[str, float], str]]:
    found = []
    for trial in itertools.islice(trials, TRIALS):
        assert trial.suggestion.source != FALLBACK
        found.append((dict(floats(trial)), str(trial.suggestion)))
    return found


@pytest.fixture(scope="module")
def reference(server: ServerProcess) -> dict[str, list[tuple[dict[str, float], str]]]:
    """The suggestions of a server that looks ahead and is never restarted."""
    with stub(server.target) as service:
        return {
            algorithm: _suggestions(
                _history(lambda: service, new_study(service, f"reference-{algorithm}", _spec(algorithm)))
            )
            for algorithm in ALGORITHMS
        }


def test_a_model_was_at_work(reference: dict[str, list[tuple[dict[str, float], str]]]) -> None:
    """The comparison is worth something: skopt's suggestions came from its model, and no point came twice."""
    assert sum("MODEL" in why for _, why in reference["skopt"]) >= TRIALS - 5
    for suggestions in reference.values():
        assert len({tuple(sorted(point.items())) for point, _ in suggestions}) == TRIALS


def test_again_on_the_same_server(service: Stub, reference: dict[str, list[tuple[dict[str, float], str]]]) -> None:
    """A second study with the same spec and seed gets the same suggestions; another seed gets others."""
    for algorithm in ALGORITHMS:
        again = _suggestions(_history(lambda: service, new_study(service, f"again-{algorithm}", _spec(algorithm))))
        other = new_study(service, f"other-{algorithm}", _spec(algorithm, seed=8))

        assert again == reference[algorithm]
        assert floats(ask(service, other)[0]) != reference[algorithm][0][0]


def test_without_look_ahead(tmp_path: Path, reference: dict[str, list[tuple[dict[str, float], str]]]) -> None:
    """Suggestions made when they are asked for equal those that were held ready."""
    with serving(tmp_path, "--no-look-ahead") as server, stub(server.target) as service:
        for algorithm in ALGORITHMS:
            fresh = _suggestions(_history(lambda: service, new_study(service, "study-" + algorithm, _spec(algorithm))))

            assert fresh == reference[algorithm]


def test_across_restarts(tmp_path: Path, reference: dict[str, list[tuple[dict[str, float], str]]]) -> None:
    """A server that is killed twice on the way goes on as if nothing had happened."""
    with serving(tmp_path) as server:
        with stub(server.target) as service:
            studies = {a: new_study(service, f"study-{a}", _spec(a)) for a in ALGORITHMS}
        current: list[Stub] = []
        histories = {a: _history(lambda: current[0], study) for a, study in studies.items()}
        found: dict[str, list[trial_pb2.Trial]] = {a: [] for a in ALGORITHMS}
        for part in range(3):
            if part:
                server.kill()
                server.start()
            with stub(server.target) as service:
                current[:] = [service]
                for algorithm, history in histories.items():
                    found[algorithm] += [next(history) for _ in range(TRIALS // 3)]

        for algorithm in ALGORITHMS:
            assert _suggestions(iter(found[algorithm])) == reference[algorithm]
