"""ExplainStudy inside the server: what becomes of an optimizer's failure, and of many calls at once."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.domain.explanation import ExplainRequest, Explanation
from asktell_server.engine.hosted import HostedStudy
from asktell_server.engine.pool import OptimizerFailed
from asktell_server.service import explaining

from ..inprocess import InProcess
from ..rpc.calls import finished
from ..rpc.refusals import read
from ..support import spec


async def _learned(running: InProcess) -> str:
    """A study with a model."""
    request = pb.CreateStudyRequest(parent="projects/default", study_id="s", study=study_pb2.Study(spec=spec("gp")))
    study = (await running.service.CreateStudy(request)).name
    trials = [finished(i / 9, x0=i / 9, x1=0.5) for i in range(9)]
    await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=trials))
    return study


async def test_an_optimizer_that_raises_is_a_bug_with_a_log_id(
    running: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traceback is in the log, not in the answer."""
    study = await _learned(running)

    async def fail(hosted: HostedStudy, request: ExplainRequest, deadline: float) -> tuple[int, Explanation]:
        raise OptimizerFailed("Traceback: secret")

    monkeypatch.setattr(running.app.host, "explain", fail)
    with pytest.raises(grpc.RpcError) as caught:
        await running.service.ExplainStudy(pb.ExplainStudyRequest(name=study))

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert len(refusal.metadata["log_id"]) == 32
    assert "secret" not in refusal.message


async def test_without_a_deadline_the_server_sets_one(running: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller without a deadline is told to come back instead of waiting for ever."""
    study = await _learned(running)
    monkeypatch.setattr(explaining, "TIMEOUT_S", 0.0)

    with pytest.raises(grpc.RpcError) as caught:
        await running.service.ExplainStudy(pb.ExplainStudyRequest(name=study))

    refusal = read(caught.value)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "SERVER_BUSY")
    assert refusal.retry_delay_s == 1.0


async def test_equal_calls_share_one_computation(running: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten callers, one job, ten equal answers."""
    study = await _learned(running)
    pool = running.app.host._pool
    jobs = []
    explain = pool.explain

    def counted(*job: object, **more: object) -> object:
        jobs.append(job)
        return explain(*job, **more)

    monkeypatch.setattr(pool, "explain", counted)
    calls = [running.service.ExplainStudy(pb.ExplainStudyRequest(name=study, points=3)) for _ in range(10)]

    answers = await asyncio.gather(*calls)

    assert len(jobs) == 1
    assert all(answer == answers[0] for answer in answers)
