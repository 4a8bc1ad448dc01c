"""A stream that has nothing to say says that it lives."""

from __future__ import annotations

import pytest

from asktell.v1 import study_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.service import watching

from ..inprocess import InProcess
from ..support import spec


async def test_a_quiet_stream_says_that_it_lives(running: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without changes progress messages come, with the revision and nothing else; a change comes in between."""
    monkeypatch.setattr(watching, "PROGRESS_S", 0.02)
    request = pb.CreateStudyRequest(parent="projects/default", study_id="quiet", study=study_pb2.Study(spec=spec()))
    study = await running.service.CreateStudy(request)
    stream = running.service.WatchStudy(pb.WatchStudyRequest(name=study.name, after_revision=1))

    quiet = [await stream.read() for _ in range(3)]
    await running.service.StopStudy(pb.StopStudyRequest(name=study.name))
    news = [await stream.read()]
    while not news[-1].HasField("study"):
        news.append(await stream.read())
    stream.cancel()

    assert quiet == [pb.WatchStudyResponse(revision=1)] * 3
    assert news[-1].study.state == study_pb2.Study.STOPPED
    assert news[-1].revision == 2
