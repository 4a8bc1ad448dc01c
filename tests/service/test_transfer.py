"""Studies to learn from: pinned when the new study is created, read back as they were then, whatever happens to them later."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.study import Study
from asktell_server.domain.trial import TrialState
from asktell_server.optimizers.base import SourceStudy

from ..inprocess import InProcess, in_process
from ..rpc.refusals import Refusal, read
from ..support import spec

Call = Callable[..., Coroutine[Any, Any, study_pb2.Study]]
PROJECT = "projects/default"
Source = study_pb2.GpOptimizer.TransferSource


def _learning(*sources: str | tuple[str, int]) -> study_pb2.StudySpec:
    """A spec that learns from these studies, at a revision if it is given."""
    made = spec("gp", dimensions=1)
    for each in sources:
        name, revision = (each, 0) if isinstance(each, str) else each
        made.algorithm.gp.transfer_sources.add(study=f"{PROJECT}/studies/{name}", revision=revision)
    return made


async def _create(
    running: InProcess, study_id: str, made: study_pb2.StudySpec, *, use_existing: bool = False, request_id: str = ""
) -> study_pb2.Study:
    policy = pb.CreateStudyRequest.USE_EXISTING if use_existing else pb.CreateStudyRequest.FAIL
    create: Call = running.service.CreateStudy  # type: ignore[assignment]
    return await create(
        pb.CreateStudyRequest(
            parent=PROJECT,
            study_id=study_id,
            study=study_pb2.Study(spec=made),
            conflict_policy=policy,
            request_id=request_id,
        )
    )


async def _refused(call: Coroutine[Any, Any, object]) -> Refusal:
    with pytest.raises(grpc.RpcError) as caught:
        await call
    return read(caught.value)


async def _add(running: InProcess, study_id: str, *values: float) -> None:
    """Finished trials; each call is one revision."""
    trials = [
        trial_pb2.Trial(
            parameters={"x0": search_space_pb2.ParameterValue(float_value=0.5)},
            state=trial_pb2.Trial.SUCCEEDED,
            measurement=trial_pb2.Measurement(metrics={"loss": value}),
        )
        for value in values
    ]
    request = pb.CreateTrialsRequest(parent=f"{PROJECT}/studies/{study_id}", trials=trials)
    await running.service.CreateTrials(request)  # type: ignore[misc]


async def _delete(running: InProcess, study_id: str) -> None:
    await running.service.DeleteStudy(pb.DeleteStudyRequest(name=f"{PROJECT}/studies/{study_id}"))  # type: ignore[misc]


def _pins(study: study_pb2.Study) -> dict[str, int]:
    return {s.study.rpartition("/")[2]: s.revision for s in study.spec.algorithm.gp.transfer_sources}


async def _sources(running: InProcess, study_id: str) -> tuple[SourceStudy, ...]:
    """What the engine would be given."""
    study = await running.app.storage.read(lambda tx: tx.study("default", study_id))
    assert isinstance(study, Study)
    return await running.app._load_sources(study)


def _losses(source: SourceStudy) -> list[float]:
    return [o.measurement.metrics["loss"] for o in source.observations if o.measurement is not None]


async def test_a_source_is_pinned_to_its_present_revision(running: InProcess) -> None:
    """Without a revision the server sets the one that the source has; a revision that is given stands."""
    await _create(running, "a", spec(dimensions=1))
    await _create(running, "b", spec(dimensions=1))
    for value in (1.0, 2.0):
        await _add(running, "a", value)
        await _add(running, "b", value)

    made = await _create(running, "new", _learning("a", ("b", 2)))

    assert _pins(made) == {"a": 3, "b": 2}
    assert [source.study for source in made.spec.algorithm.gp.transfer_sources] == [
        f"{PROJECT}/studies/a",
        f"{PROJECT}/studies/b",
    ]


async def test_results_up_to_the_revision_are_read_in_their_order(running: InProcess) -> None:
    """What came by then is read, finished trials of every kind, by when they ended; what came later never is."""
    service: Any = running.service
    await _create(running, "a", spec(dimensions=1))
    asked = (await service.Ask(pb.AskRequest(parent=f"{PROJECT}/studies/a", count=4))).trials
    await service.Tell(pb.TellRequest(name=asked[2].name, measurement=trial_pb2.Measurement(metrics={"loss": 3.0})))
    await service.Tell(pb.TellRequest(name=asked[1].name, failed=pb.TellRequest.Failed()))
    await _add(running, "a", 6.0, 5.0)
    made = await _create(running, "new", _learning("a"))
    await service.Tell(pb.TellRequest(name=asked[0].name, measurement=trial_pb2.Measurement(metrics={"loss": 0.0})))
    await service.UpdateTrial(
        pb.UpdateTrialRequest(
            trial=trial_pb2.Trial(name=asked[2].name, notes="later"),
            update_mask={"paths": ["notes"]},  # type: ignore[arg-type]
        )
    )

    (source,) = await _sources(running, "new")

    assert _pins(made) == {"a": 5}
    assert source.spec.algorithm_name == "random"
    assert [(o.number, o.state) for o in source.observations] == [
        (3, TrialState.SUCCEEDED),
        (2, TrialState.FAILED),
        (5, TrialState.SUCCEEDED),
        (6, TrialState.SUCCEEDED),
    ]
    assert _losses(source) == [3.0, 6.0, 5.0]


async def test_a_deleted_source_is_left_out_and_its_successor_not_taken_for_it(running: InProcess) -> None:
    """A study that was created later under the name of a source is another one."""
    for name in ("a", "b"):
        await _create(running, name, spec(dimensions=1))
        await _add(running, name, 1.0)
    await _create(running, "new", _learning("a", "b"))

    await _delete(running, "a")
    without = await _sources(running, "new")
    await _create(running, "a", spec(dimensions=1))
    await _add(running, "a", 7.0)
    with_successor = await _sources(running, "new")

    assert [_losses(source) for source in without] == [[1.0]]
    assert with_successor == without


async def test_sources_are_the_same_after_a_restart(tmp_path: Path) -> None:
    """They are read from the database as they were pinned."""
    database = str(tmp_path / "studies.db")
    async with in_process(database) as running:
        await _create(running, "a", spec(dimensions=1))
        await _add(running, "a", 1.0, 2.0)
        made = await _create(running, "new", _learning("a"))
        before = await _sources(running, "new")
        await _add(running, "a", 3.0)

    async with in_process(database) as running:
        get: Call = running.service.GetStudy  # type: ignore[assignment]
        assert (await get(pb.GetStudyRequest(name=made.name))).spec == made.spec
        assert await _sources(running, "new") == before


async def test_an_existing_study_is_used_whatever_its_sources_have_become(running: InProcess) -> None:
    """A revision left open is equal to the one that was pinned, also when the source has gone on or is gone."""
    await _create(running, "a", spec(dimensions=1))
    made = await _create(running, "new", _learning("a"))
    await _add(running, "a", 1.0)

    gone_on = await _create(running, "new", _learning("a"), use_existing=True)
    given = await _create(running, "new", _learning(("a", 1)), use_existing=True)
    other = await _refused(_create(running, "new", _learning(("a", 2)), use_existing=True))
    await _delete(running, "a")
    gone = await _create(running, "new", _learning("a"), use_existing=True)

    assert gone_on == given == gone == made
    assert (other.reason, other.metadata["fields"]) == ("STUDY_SPEC_MISMATCH", "algorithm")


async def test_a_repeat_under_the_same_id_is_the_same_call(running: InProcess) -> None:
    """What the server pinned is no part of the request."""
    await _create(running, "a", spec(dimensions=1))
    made = await _create(running, "new", _learning("a"), request_id="once")
    await _add(running, "a", 1.0)

    again = await _create(running, "new", _learning("a"), request_id="once")
    other = await _refused(_create(running, "new", _learning(("a", 1)), request_id="once"))

    assert again == made
    assert other.reason == "REQUEST_ID_REUSED"


async def test_any_objective_of_a_source_will_do_in_either_direction(running: InProcess) -> None:
    """A source has the first objective's metric among its own objectives."""
    made = spec(dimensions=2)
    del made.objectives[:]
    made.objectives.add(metric="size", direction=study_pb2.Objective.MINIMIZE)
    made.objectives.add(metric="loss", direction=study_pb2.Objective.MAXIMIZE)
    await _create(running, "a", made)

    assert _pins(await _create(running, "new", _learning("a"))) == {"a": 1}
