"""Ask against others that are faster: what it does in the end, and what it says of it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb

from ..inprocess import InProcess
from ..rpc.calls import finished, point
from ..support import spec


async def _new_study(running: InProcess, study_id: str, made: study_pb2.StudySpec) -> str:
    study = study_pb2.Study(spec=made)
    request = pb.CreateStudyRequest(parent="projects/default", study_id=study_id, study=study)
    return (await running.service.CreateStudy(request)).name


async def test_an_ask_that_loses_again_and_again_says_so(running: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers from the quasi-random design, and neither its trial nor the metric blames a deadline that was far away."""
    made = spec("skopt")
    made.algorithm.skopt.initial_points = 1
    study = await _new_study(running, "s", made)
    trials = [finished(i / 3, x0=i / 3, x1=0.5) for i in range(3)]
    await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=trials))
    host, reserve = running.app.host, running.app.host.reserve
    races = 0

    async def losing(*arguments: Any) -> object:
        nonlocal races
        races += 1
        if races > 6:
            return await reserve(*arguments)
        reservation = await reserve(*arguments)
        imported = pb.CreateTrialsRequest(parent=study, trials=[finished(1.0, x0=0.25, x1=races / 10)])
        await running.service.CreateTrials(imported)  # takes the number
        return reservation

    monkeypatch.setattr(host, "reserve", losing)
    answer = await running.service.Ask(pb.AskRequest(parent=study), timeout=600)

    (trial,) = answer.trials
    assert trial.suggestion.source == trial_pb2.Suggestion.FALLBACK
    assert "other asks were faster" in trial.suggestion.detail
    assert "deadline" not in trial.suggestion.detail
    count = running.app.registry.get_sample_value
    assert count("asktell_fallbacks_total", {"cause": "overtaken"}) == 2.0
    assert count("asktell_fallbacks_total", {"cause": "deadline"}) == 0.0


async def test_a_repeat_takes_no_point_from_others(running: InProcess) -> None:
    """A grid of three points, two given out: while the ask for these is repeated, another one gets the third."""
    made = spec("grid", dimensions=0)
    made.parameters.append(search_space_pb2.Parameter(name="x", int=search_space_pb2.IntParameter(min=1, max=3)))
    for i in range(20):
        study = await _new_study(running, f"s{i}", made)
        first = pb.AskRequest(parent=study, count=2, request_id="r")
        given = await running.service.Ask(first)

        again, other = await asyncio.gather(
            running.service.Ask(first), running.service.Ask(pb.AskRequest(parent=study))
        )

        assert again == given
        assert [trial.name for trial in other.trials] == [f"{study}/trials/3"]


async def test_asks_at_once_get_as_many_as_they_ask_for(running: InProcess) -> None:
    """Both count on the trials that wait; whoever comes second gets suggestions instead."""
    points = [trial_pb2.Trial(parameters=point(x0=0.5, x1=i / 10)) for i in range(9)]
    for i in range(20):
        study = await _new_study(running, f"s{i}", spec())
        await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=points))

        asks = [running.service.Ask(pb.AskRequest(parent=study, count=count)) for count in (9, 10, 3)]
        given = [list(answer.trials) for answer in await asyncio.gather(*asks)]

        assert [len(trials) for trials in given] == [9, 10, 3]
        assert len({trial.name for trials in given for trial in trials}) == 22


async def test_an_ask_from_which_others_take_again_and_again_answers_with_fewer(
    running: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins again a few times, each with one waiting trial less than it counted on, and then takes what there is."""
    study = await _new_study(running, "s", spec())
    points = [trial_pb2.Trial(parameters=point(x0=0.5, x1=i / 10)) for i in range(10)]
    await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=points))
    host, reserve = running.app.host, running.app.host.reserve
    races = 0

    async def losing(*arguments: Any) -> object:
        nonlocal races
        races += 1
        reservation = await reserve(*arguments)
        await running.service.Ask(pb.AskRequest(parent=study))  # takes a waiting one
        return reservation

    monkeypatch.setattr(host, "reserve", losing)
    answer = await running.service.Ask(pb.AskRequest(parent=study, count=11))

    assert (races, len(answer.trials)) == (6, 10)
