"""Invariant 7: cost per ask stays bounded as a study grows, and memory as studies grow. Counted, not timed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from unittest import mock

import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.algorithms import SkoptOptimizer
from asktell_server.domain.objectives import Direction, Measurement, Objective
from asktell_server.domain.space import FloatParameter, SearchSpace
from asktell_server.domain.study import StudySpec
from asktell_server.domain.trial import TrialState
from asktell_server.engine import pool
from asktell_server.optimizers import skopt_model
from asktell_server.optimizers.base import Observation
from asktell_server.optimizers.registry import create_optimizer

from ..inprocess import in_process
from ..rpc.calls import ask_one, enqueue, finished, loss, new_study, study_of, tell
from ..support import serving, spec, stub

TRIALS = 10_000
LIMIT = 20


def _spec() -> study_pb2.StudySpec:
    made = spec("skopt")
    made.algorithm.skopt.max_observations = LIMIT
    return made


def _imported(count: int, first: int = 0) -> list[trial_pb2.Trial]:
    return [finished(i / TRIALS, x0=i / TRIALS, x1=(i * 7 % TRIALS) / TRIALS) for i in range(first, first + count)]


def test_ask_after_ten_thousand_trials(tmp_path: Path) -> None:
    """A study of 10,000 trials, live or after a restart, gives the model's suggestion, and tells come through."""
    with serving(tmp_path) as server:
        with stub(server.target) as service:
            study = new_study(service, "long", _spec())
            for start in range(0, TRIALS, 1000):
                enqueue(service, study, _imported(1000, start))
            trial = ask_one(service, study)
            tell(service, trial.name, 0.5)
        server.stop()
        server.start()
        with stub(server.target) as service:
            again = ask_one(service, study)

            assert trial.suggestion.source == again.suggestion.source == trial_pb2.Suggestion.MODEL
            assert again.name.endswith(f"/{TRIALS + 2}")
            assert study_of(service, study).trial_counts.succeeded == TRIALS + 1


def test_only_what_is_new_is_sent_to_the_compute_process() -> None:
    """The history goes to a compute process once; each further ask sends the results since."""
    sent: list[int] = []
    job = pool._Worker._job

    def counted(self: pool._Worker, *args: object) -> object:
        made = job(self, *args)  # type: ignore[arg-type]
        if isinstance(made, pool.worker.Job):
            sent.append(len(made.new_observations))
        return made

    async def tune() -> None:
        async with in_process() as running:
            request = pb.CreateStudyRequest(
                parent="projects/default", study_id="sent", study=study_pb2.Study(spec=_spec())
            )
            study = (await running.service.CreateStudy(request)).name
            await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=_imported(500)))
            for i in range(3):
                (trial,) = (await running.service.Ask(pb.AskRequest(parent=study))).trials
                assert trial.suggestion.source == trial_pb2.Suggestion.MODEL
                await running.service.Tell(pb.TellRequest(name=trial.name, measurement=loss(float(i))))

    with mock.patch.object(pool._Worker, "_job", counted):
        asyncio.run(tune())

    assert sum(sent) <= 503
    assert sent[0] == 500
    assert all(count <= 1 for count in sent[1:])


def test_the_model_is_fitted_on_a_bounded_number_of_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10,000 results at most max_observations reach the model, and of pending points no more."""
    rows: list[int] = []
    model = skopt_model.SkoptModel

    def counted(encoding: object, settings: object, codes: object, y: object, rng: object) -> object:
        rows.append(len(y))  # type: ignore[arg-type]
        return model(encoding, settings, codes, y, rng)  # type: ignore[arg-type]

    monkeypatch.setattr(skopt_model, "SkoptModel", counted)
    space = SearchSpace((FloatParameter("x0", 0.0, 1.0), FloatParameter("x1", 0.0, 1.0)))
    optimizer = create_optimizer(
        StudySpec(space, (Objective("loss", Direction.MINIMIZE),), SkoptOptimizer(max_observations=LIMIT))
    )
    optimizer.tell(
        [
            Observation(
                i + 1, {"x0": i / TRIALS, "x1": 0.5}, TrialState.SUCCEEDED, Measurement({"loss": float(i % 97)})
            )
            for i in range(TRIALS)
        ]
    )
    pending = [{"x0": i / 1000, "x1": 0.25} for i in range(1000)]

    optimizer.ask(TRIALS + 1001, pending)

    assert rows
    assert max(rows) <= 2 * LIMIT


def test_live_studies_are_bounded(tmp_path: Path) -> None:
    """With room for two live studies, four take turns: each goes on where it was, and the gauge says two."""
    with (
        serving(tmp_path, "--live-studies", "2", "--studies-per-worker", "1") as server,
        stub(server.target) as service,
    ):
        studies = [new_study(service, f"s{i}", spec("sobol")) for i in range(3)]
        made = spec("skopt")
        made.algorithm.skopt.CopyFrom(study_pb2.SkoptOptimizer(base_estimator="ET", initial_points=1))
        studies.append(new_study(service, "s5", made))

        seen: dict[str, list[trial_pb2.Trial]] = {study: [] for study in studies}
        for i in range(3):
            for study in studies:
                trial = ask_one(service, study)
                tell(service, trial.name, float(i))
                seen[study].append(trial)
        deleted = studies[0]
        service.DeleteStudy(pb.DeleteStudyRequest(name=deleted))

        for study, trials in seen.items():
            assert [trial.name for trial in trials] == [f"{study}/trials/{n}" for n in range(1, 4)]
            assert len({str(trial.parameters["x0"]) for trial in trials}) == 3
        assert server.metric("asktell_live_studies") == 2
