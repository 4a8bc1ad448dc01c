"""Trials that callers bring: found wrong before the transaction, at a bounded cost, and with nothing written."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import grpc
import pytest

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.errors import MOST_VIOLATIONS
from asktell_server.rpc import convert
from asktell_server.rpc.convert import from_proto
from asktell_server.service import new_trials, trials
from asktell_server.service.commits import Commits

from ..inprocess import InProcess
from ..rpc.calls import finished, loss
from ..rpc.refusals import Refusal, read
from ..support import spec

Trial = trial_pb2.Trial


async def _new_study(running: InProcess, study_id: str = "s", dimensions: int = 2) -> str:
    request = pb.CreateStudyRequest(
        parent="projects/default", study_id=study_id, study=study_pb2.Study(spec=spec(dimensions=dimensions))
    )
    return (await running.service.CreateStudy(request)).name


async def _refused(running: InProcess, request: pb.CreateTrialsRequest) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await running.service.CreateTrials(request, timeout=120)
    return read(caught.value)


def _unknown(count: int) -> Trial:
    value = search_space_pb2.ParameterValue(float_value=0.5)
    return Trial(parameters={f"z{i}": value for i in range(count)})


async def test_what_is_wrong_is_found_before_the_transaction_and_not_all_of_it(running: InProcess) -> None:
    """Hundreds of thousands of mistakes: no work gets to the writer, few of them are made up, and the answer says at least how many."""
    study = await _new_study(running)
    request = pb.CreateTrialsRequest(parent=study, trials=[_unknown(300)] * 1000)
    checked = 0

    def counted(*arguments: Any) -> Any:
        nonlocal checked
        checked += 1
        return violations(*arguments)

    violations = new_trials._violations
    with mock.patch.object(new_trials, "_violations", counted), mock.patch.object(Commits, "run") as run:
        refusal = await _refused(running, request)

    run.assert_not_called()
    assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal.fields[0].startswith("trials[0].parameters['z")
    assert checked == MOST_VIOLATIONS // 302 + 1
    assert refusal.descriptions[-1] == f"and at least {302 * checked - 20} more violations"


async def test_others_are_served_while_many_trials_are_checked(
    running: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two trials, when a turn is over."""
    study = await _new_study(running)
    turns: set[int] = set()
    checked = 0

    def counted(*arguments: Any) -> Any:
        nonlocal checked
        checked += 1
        return violations(*arguments)

    async def other() -> None:
        while checked < 50:
            turns.add(checked)
            await asyncio.sleep(0)

    violations = new_trials._violations
    monkeypatch.setattr(new_trials, "_violations", counted)
    monkeypatch.setattr("asktell_server.service.turns.TURN_S", -1.0)
    task = asyncio.create_task(other())
    new = [finished(i / 50, x0=i / 50, x1=0.5) for i in range(50)]
    made = await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=new, request_id="r"))
    await task

    assert len(made.trials) == 50
    assert len(turns) > 25


async def test_more_than_any_study_could_take_is_not_read(running: InProcess) -> None:
    """Too many trials, parameters of one, or measurements of one: each is named alone, and nothing in it is looked at."""
    study = await _new_study(running)
    measured = Trial(state=Trial.FAILED, intermediate_measurements=[trial_pb2.Measurement()] * 100_001)
    requests = {
        "trials": [Trial(state=99)] * 1001,
        "trials[0].parameters": [_unknown(1001)],
        "trials[0].intermediate_measurements": [measured],
    }
    named = {}
    for field, sent in requests.items():
        with (
            mock.patch.object(from_proto, "read_value") as value,
            mock.patch.object(convert, "read_measurement") as one,
        ):
            refusal = await _refused(running, pb.CreateTrialsRequest(parent=study, trials=sent))
        value.assert_not_called()
        one.assert_not_called()
        named[field] = refusal.named

    complete = "trials[0].intermediate_measurements"
    missing = {"trials[0].parameters['x0']", "trials[0].parameters['x1']"}
    assert named == {
        "trials": {"trials"},
        "trials[0].parameters": {"trials[0].parameters"},
        complete: {complete, *missing},
    }


async def test_reading_ends_when_enough_is_wrong(running: InProcess) -> None:
    """What cannot be read is as bounded as what does not fit the study."""
    study = await _new_study(running)
    empty = Trial(parameters={f"z{i}": search_space_pb2.ParameterValue() for i in range(500)})

    with mock.patch.object(convert, "read_parameters", wraps=convert.read_parameters) as reading:
        refusal = await _refused(running, pb.CreateTrialsRequest(parent=study, trials=[empty] * 1000))

    assert reading.call_count == 3
    assert refusal.descriptions[-1].startswith("and at least ")


async def test_a_study_made_anew_meanwhile_takes_nothing_that_was_checked_for_the_old_one(
    running: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have another space; the caller is told to try again."""
    study = await _new_study(running)
    prepared = new_trials.prepared

    async def slowly(*arguments: Any) -> Any:
        ready = await prepared(*arguments)
        await running.service.DeleteStudy(pb.DeleteStudyRequest(name=study))
        await _new_study(running, dimensions=3)
        return ready

    monkeypatch.setattr(trials, "prepared", slowly)
    request = pb.CreateTrialsRequest(parent=study, trials=[finished(1.0, x0=0.5, x1=0.5)])
    refusal = await _refused(running, request)

    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "CONCURRENT_UPDATE")
    assert not (await running.service.ListTrials(pb.ListTrialsRequest(parent=study))).trials


async def test_a_repeat_writes_nothing(running: InProcess) -> None:
    """It answers what the first call did, without a transaction; the body must be the same."""
    study = await _new_study(running)
    request = pb.CreateTrialsRequest(parent=study, trials=[finished(1.0, x0=0.5, x1=0.5)] * 3, request_id="r")
    first = await running.service.CreateTrials(request)

    with mock.patch.object(Commits, "run") as run:
        again = await running.service.CreateTrials(request)
        request.trials[1].measurement.CopyFrom(loss(2.0))
        refusal = await _refused(running, request)

    run.assert_not_called()
    assert again == first
    assert refusal.reason == "REQUEST_ID_REUSED"
