"""Pages of large rows, on every database: what does not fit a reply is not read either. Counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.storage import codec

from ..inprocess import InProcess
from ..support import spec

PARENT = "projects/default"
WIDE = 1000
"""Parameters, each with a name of 128 characters: a study or a trial weighs about 140 KB, and 15 of them fill a reply."""
TRIALS = 60
FIT = 20
"""No more than so many of them fit."""


def _wide() -> study_pb2.StudySpec:
    made = spec()
    del made.parameters[:]
    for i in range(WIDE):
        half = search_space_pb2.FloatParameter(min=0, max=1, default_value=0.5)
        made.parameters.add(name=f"x{i:0127}", float=half)
    return made


async def _new_study(running: InProcess, study_id: str) -> str:
    request = pb.CreateStudyRequest(parent=PARENT, study_id=study_id, study=study_pb2.Study(spec=_wide()))
    return (await running.service.CreateStudy(request)).name


async def _new_trials(running: InProcess) -> str:
    """The name of a study with so many large trials that wait."""
    study = await _new_study(running, "s")
    for _ in range(0, TRIALS, 20):
        await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=[trial_pb2.Trial()] * 20))
    return study


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many rows have been read from the database, by what they hold."""
    found: Counter[str] = Counter()

    def counted(kind: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            found[kind] += 1
            return read(*arguments)

        return counting

    for kind in ("study", "trial"):
        name = f"{kind}_from_row"
        monkeypatch.setattr(codec, name, counted(kind, getattr(codec, name)))
    return found


@pytest.mark.parametrize("view", [pb.BASIC, pb.FULL])
async def test_a_page_of_large_trials_reads_few(running: InProcess, rows: Counter[str], view: pb.TrialView) -> None:
    """About as many as it holds; all pages together have every trial once."""
    study = await _new_trials(running)
    numbers, token = [], ""
    while not numbers or token:
        rows.clear()
        request = pb.ListTrialsRequest(parent=study, page_size=1000, page_token=token, view=view)
        page = await running.service.ListTrials(request)
        numbers += [int(trial.name.rpartition("/")[2]) for trial in page.trials]
        token = page.next_page_token

        assert 0 < len(page.trials) < FIT
        assert rows["trial"] <= FIT

    assert numbers == list(range(1, TRIALS + 1))


@pytest.mark.parametrize("parent", [PARENT, "projects/-"])
async def test_a_page_of_large_studies_reads_few(running: InProcess, rows: Counter[str], parent: str) -> None:
    """As a page of trials does."""
    made = [await _new_study(running, f"s{i:02}") for i in range(30)]
    names, token = [], ""
    while not names or token:
        rows.clear()
        page = await running.service.ListStudies(pb.ListStudiesRequest(parent=parent, page_size=1000, page_token=token))
        names += [study.name for study in page.studies]
        token = page.next_page_token

        assert 0 < len(page.studies) < FIT
        assert rows["study"] <= FIT

    assert names == made


@pytest.mark.parametrize("size", [1, 15, 16, 17, 18, 40, 41, 1000])
async def test_pages_of_small_studies_and_trials_end_where_they_should(running: InProcess, size: int) -> None:
    """Whatever their size, and however it falls on the pieces that are read."""
    names = []
    for i in range(41):
        request = pb.CreateStudyRequest(parent=PARENT, study_id=f"s{i:02}", study=study_pb2.Study(spec=spec()))
        names.append((await running.service.CreateStudy(request)).name)
    asked = await running.service.Ask(pb.AskRequest(parent=names[0], count=41))

    studies = await running.service.ListStudies(pb.ListStudiesRequest(parent=PARENT, page_size=size))
    trials = await running.service.ListTrials(pb.ListTrialsRequest(parent=names[0], page_size=size))

    assert [study.name for study in studies.studies] == names[:size]
    assert [trial.name for trial in trials.trials] == [trial.name for trial in asked.trials][:size]
    assert bool(studies.next_page_token) == bool(trials.next_page_token) == (size < 41)


async def test_an_ask_takes_no_more_large_trials_from_the_queue_than_it_answers(
    running: InProcess, rows: Counter[str]
) -> None:
    """The next ask goes on where it ended, and none makes a new trial while one waits."""
    study = await _new_trials(running)
    first = await running.service.Ask(pb.AskRequest(parent=study))  # reads the study's history
    numbers = [int(trial.name.rpartition("/")[2]) for trial in first.trials]
    while len(numbers) < TRIALS:
        rows.clear()
        answer = await running.service.Ask(pb.AskRequest(parent=study, count=TRIALS - len(numbers)))
        numbers += [int(trial.name.rpartition("/")[2]) for trial in answer.trials]

        assert 0 < len(answer.trials) < FIT
        assert rows["trial"] <= FIT

    assert numbers == list(range(1, TRIALS + 1))


async def test_a_watch_reads_no_more_large_trials_than_it_sends(running: InProcess, rows: Counter[str]) -> None:
    """In all its messages together, and only what changed since."""
    study = await _new_trials(running)
    await running.service.Ask(pb.AskRequest(parent=study, count=30))
    for after, numbers in ((0, range(1, TRIALS + 1)), (4, range(1, 15))):
        rows.clear()
        seen: list[int] = []
        messages = 0
        stream = running.service.WatchStudy(pb.WatchStudyRequest(name=study, after_revision=after))
        async for message in stream:
            seen += [int(trial.name.rpartition("/")[2]) for trial in message.trials]

            assert len(message.trials) < FIT
            messages += 1
            if message.revision > after:
                break
        stream.cancel()

        assert rows["trial"] <= FIT * messages
        assert seen[:14] == list(numbers)[:14]
        assert len(seen) == len(set(seen))
