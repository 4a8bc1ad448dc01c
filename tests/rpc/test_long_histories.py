"""Trials with very many measurements and studies with very many trials, to a client that takes messages of 4 MiB."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence

import grpc
import pytest

import asktell
from asktell.v1 import search_space_pb2, study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.service.turns import in_turns

from ..support import ServerProcess, spec
from .calls import Stub, ask, every_trial, loss, new_study, point, report, study_of, tell, trial_of
from .refusals import read

STEPS = 90_000
TAKEN = 4 * 2**20  # what a client takes by default
Trial = trial_pb2.Trial


def _finished(value: float, **more: float) -> Trial:
    return Trial(parameters=point(x0=0.5, x1=0.5), state=Trial.SUCCEEDED, measurement=loss(value, **more))


def _create(service: Stub, study: str, *trials: Trial) -> None:
    service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=trials))


@pytest.fixture(scope="module")
def long_study(server: ServerProcess) -> Iterator[str]:
    """A study of three trials, of which the second, the best, has 90,000 measurements: about 5 MiB."""
    with asktell.connect(server.target) as client:
        name = client.create_study("long", {"x0": asktell.Float(0, 1), "x1": asktell.Float(0, 1)}, minimize="loss")
        long = _finished(0.5)
        long.intermediate_measurements.extend(loss(float(i), step=i, accuracy=0.25) for i in range(STEPS))
        for trial in (_finished(1.0), long, _finished(2.0)):
            client._transport.unary("CreateTrials", pb.CreateTrialsRequest(parent=name.name, trials=[trial]), 60)
        yield name.name


def _steps(trial: Trial) -> list[int]:
    return [measured.step for measured in trial.intermediate_measurements]


def test_a_trial_is_cut_and_its_rest_can_be_asked_for(service: Stub, long_study: str) -> None:
    """Piece by piece come all measurements, each once; the last piece says that it is the last."""
    name = f"{long_study}/trials/2"
    pieces = [trial_of(service, name)]
    while pieces[-1].has_more_measurements:
        after = pieces[-1].intermediate_measurements[-1].step
        pieces.append(service.GetTrial(pb.GetTrialRequest(name=name, after_step=after)))

    assert len(pieces) > 1
    assert [step for piece in pieces for step in _steps(piece)] == list(range(STEPS))
    assert all(piece.ByteSize() < TAKEN for piece in pieces)
    assert {piece.measurement.metrics["loss"] for piece in pieces} == {0.5}


@pytest.mark.parametrize(("after", "expected"), [(STEPS - 2, [STEPS - 1]), (STEPS, [])])
def test_measurements_after_a_step(service: Stub, long_study: str, after: int, expected: list[int]) -> None:
    """Only those of later steps, maybe none."""
    trial = service.GetTrial(pb.GetTrialRequest(name=f"{long_study}/trials/2", after_step=after))

    assert _steps(trial) == expected
    assert not trial.has_more_measurements


def test_a_full_page_ends_before_a_trial_that_does_not_fit(service: Stub, long_study: str) -> None:
    """A trial that is too large for any page comes alone, cut."""
    trials = every_trial(service, long_study)

    assert [trial.name[-1] for trial in trials] == ["1", "2", "3"]
    assert [trial.has_more_measurements for trial in trials] == [False, True, False]


def test_a_page_of_large_studies_ends_early(service: Stub) -> None:
    """However large the studies are, a page fits a message, and the pages together have all of them."""
    large = spec()
    choices = [search_space_pb2.ParameterValue(string_value=f"{i:0200}") for i in range(5000)]
    large.parameters.add(name="many").categorical.choices.extend(choices)
    made = [
        service.CreateStudy(
            pb.CreateStudyRequest(parent="projects/large", study_id=f"s{i}", study=study_pb2.Study(spec=large))
        ).name
        for i in range(5)
    ]

    for parent in ("projects/large", "projects/-"):
        found, token = [], ""
        while True:
            page = service.ListStudies(pb.ListStudiesRequest(parent=parent, page_token=token))
            assert page.studies
            assert page.ByteSize() < TAKEN
            found += [study.name for study in page.studies if study.name.startswith("projects/large/")]
            token = page.next_page_token
            if not token:
                break
        assert found == made


def test_the_best_trial_is_cut_too(service: Stub, long_study: str) -> None:
    """ListBestTrials holds no more than a message either."""
    page = service.ListBestTrials(pb.ListBestTrialsRequest(parent=long_study))

    assert [trial.has_more_measurements for trial in page.trials] == [True]
    assert page.ByteSize() < TAKEN
    assert not page.next_page_token


def test_the_python_client_puts_cut_trials_together(server: ServerProcess, long_study: str) -> None:
    """Whoever uses it sees all measurements, from every call."""
    with asktell.connect(server.target) as client:
        study = client.get_study("long")
        found = [study.trial(2), list(study.trials(full=True))[1], study.best_trial]

    for trial in found:
        assert trial is not None
        assert [measured.step for measured in trial.intermediate] == list(range(STEPS))
    assert study.name == long_study


def test_a_watch_repeats_a_trial_until_all_its_measurements_came(service: Stub, long_study: str) -> None:
    """Each once and in order, in messages that a client takes; only the last message has the study's revision."""
    until = study_of(service, long_study).revision
    messages = []
    stream = service.WatchStudy(pb.WatchStudyRequest(name=long_study), timeout=120)
    for message in stream:
        messages.append(message)
        if message.revision:
            break
    stream.cancel()

    assert messages[-1].revision == until
    assert all(message.ByteSize() < TAKEN for message in messages)
    assert [step for m in messages for trial in m.trials for step in _steps(trial)] == list(range(STEPS))
    assert [number for number, _ in _runs(messages)] == ["1", "2", "3"]


def _runs(messages: list[pb.WatchStudyResponse]) -> list[tuple[str, int]]:
    """Trial numbers in the order of their first message, with how often each came."""
    counts: dict[str, int] = {}
    for message in messages:
        for trial in message.trials:
            counts[trial.name[-1]] = counts.get(trial.name[-1], 0) + 1
    return list(counts.items())


def test_a_watch_catches_up_with_many_changes_from_any_revision(service: Stub) -> None:
    """More changes than are read at once: every trial that changed, once, with the measurements that are new to the watcher."""
    study = new_study(service, "watched-long")
    running = ask(service, study, 2)
    report(service, running[0].name, 0.1, 1)
    after = study_of(service, study).revision
    for start in range(0, 900, 300):
        _create(service, study, *(_finished(start + i) for i in range(300)))
    report(service, running[0].name, 0.2, 2)
    until = study_of(service, study).revision

    messages = []
    stream = service.WatchStudy(pb.WatchStudyRequest(name=study, after_revision=after), timeout=120)
    for message in stream:
        messages.append(message)
        if message.revision == until:
            break
    stream.cancel()

    trials = [trial for message in messages for trial in message.trials]
    assert [message.revision for message in messages[:-1]] == [after] * (len(messages) - 1)
    assert len(messages) > 1
    assert [trial.name.rpartition("/")[2] for trial in trials] == ["1", *(str(n) for n in range(3, 903))]
    assert _steps(trials[0]) == [2]


def test_the_front_is_carried_on_as_results_come(service: Stub) -> None:
    """After each batch of any size it is what a comparison of everything gives; deleting the study forgets it."""
    made = spec(metric="loss")
    made.objectives.append(study_pb2.Objective(metric="cost", direction=study_pb2.Objective.MAXIMIZE))
    study = new_study(service, "front", made)
    values: list[tuple[float, float]] = []
    for size in (3, 1, 1300, 5):
        new = [(math.sin(7.3 * (len(values) + i)), math.cos(11.1 * (len(values) + i))) for i in range(size)]
        values += new
        for start in range(0, size, 1000):
            _create(service, study, *(_finished(a, cost=b) for a, b in new[start : start + 1000]))

        page = service.ListBestTrials(pb.ListBestTrialsRequest(parent=study, page_size=1000))

        found = [int(trial.name.rpartition("/")[2]) for trial in page.trials]
        assert found == [
            i + 1
            for i, (a, b) in enumerate(values)
            if not any(c <= a and d >= b and (c, d) != (a, b) for c, d in values)
        ]
    service.DeleteStudy(pb.DeleteStudyRequest(name=study))
    new_study(service, "front", made)
    assert not service.ListBestTrials(pb.ListBestTrialsRequest(parent=study)).trials


def test_a_late_result_of_an_early_trial_joins_the_front_in_its_place(service: Stub) -> None:
    """The front is by number, whenever the results came."""
    made = spec(metric="loss")
    made.objectives.append(study_pb2.Objective(metric="cost", direction=study_pb2.Objective.MINIMIZE))
    study = new_study(service, "front-late", made)
    first, second = ask(service, study, 2)
    for trial, a, b in ((second, 1.0, 2.0), (first, 2.0, 1.0)):
        service.Tell(pb.TellRequest(name=trial.name, measurement=loss(a, cost=b)))
        page = service.ListBestTrials(pb.ListBestTrialsRequest(parent=study))

    assert [trial.name for trial in page.trials] == [first.name, second.name]


WIDE = 1000
"""Parameters, each with a name of 128 characters: a trial weighs about 140 KB, and 28 of them 4 MiB."""


@pytest.fixture(scope="module")
def wide_study(server: ServerProcess) -> Iterator[str]:
    """A study of 1,000 parameters whose defaults make up a point."""
    with asktell.connect(server.target) as client:
        space = {f"x{i:0127}": asktell.Float(0, 1, default=0.5) for i in range(WIDE)}
        yield client.create_study("wide", space, minimize="loss", algorithm=asktell.RandomSearch()).name


def test_no_more_wide_trials_are_given_out_than_fit_an_answer(service: Stub, wide_study: str) -> None:
    """Waiting ones and suggestions alike; the next ask goes on where the last ended, and a repeat answers the same."""
    waiting = Trial(notes="n" * 16_000)
    _create(service, wide_study, *[waiting] * 10)
    request = pb.AskRequest(parent=wide_study, count=100, request_id="wide")

    first = service.Ask(request, timeout=60)
    again = service.Ask(request, timeout=60)
    second = service.Ask(pb.AskRequest(parent=wide_study, count=100), timeout=60)

    numbers = [int(trial.name.rpartition("/")[2]) for answer in (first, second) for trial in answer.trials]
    assert 10 <= len(first.trials) < 20
    assert first.ByteSize() < TAKEN
    assert [trial.name for trial in again.trials] == [trial.name for trial in first.trials]
    assert numbers == list(range(1, len(numbers) + 1))
    page = service.ListTrials(pb.ListTrialsRequest(parent=wide_study))
    rest = service.ListTrials(pb.ListTrialsRequest(parent=wide_study, page_token=page.next_page_token))
    assert max(page.ByteSize(), rest.ByteSize()) < TAKEN
    assert len(page.trials) < len(numbers)
    assert rest.trials[0].name == f"{wide_study}/trials/{len(page.trials) + 1}"
    assert [trial.state for trial in every_trial(service, wide_study)] == [Trial.RUNNING] * len(numbers)


def test_new_trials_whose_answer_would_not_fit_are_refused(service: Stub, wide_study: str) -> None:
    """Nothing is created that the caller would not hear of; as many as fit are taken."""
    before = study_of(service, wide_study).revision

    with pytest.raises(grpc.RpcError) as caught:
        _create(service, wide_study, *[Trial()] * 40)

    refusal = read(caught.value)
    assert (refusal.code, refusal.named) == (grpc.StatusCode.INVALID_ARGUMENT, {"trials"})
    assert "send fewer trials at once" in refusal.message
    assert study_of(service, wide_study).revision == before
    _create(service, wide_study, *[Trial()] * 25)


@pytest.mark.parametrize("method", ["Ask", "CreateTrials"])
def test_a_repeat_names_its_trials_also_where_they_have_grown(service: Stub, method: str) -> None:
    """Where not all fits, notes and labels are left out, and if need be what came of them; the trials are there, all of them."""
    study = new_study(service, f"grown-{method}")
    asked = pb.AskRequest(parent=study, count=400, request_id="r")
    points = [Trial(parameters=point(x0=0.5, x1=0.5))] * 400
    created = pb.CreateTrialsRequest(parent=study, trials=points, request_id="r")

    def call() -> list[Trial]:
        return list((service.Ask(asked) if method == "Ask" else service.CreateTrials(created)).trials)

    first = call()
    if method == "CreateTrials":
        ask(service, study, 400)
    tell(service, first[0].name, 1.0)
    grown = Trial(notes="n" * 16_000, labels={"is": "grown"})
    wide = loss(1.0, **{f"{'m' * 100}{i}": 0.5 for i in range(100)})

    def grow(trials: Sequence[Trial]) -> None:
        for trial in trials:
            grown.name = trial.name
            service.UpdateTrial(pb.UpdateTrialRequest(trial=grown, update_mask={"paths": ["notes", "labels"]}))

    grow(first[:200])
    some_grown = call()
    grow(first[200:])
    all_grown = call()
    for trial in first[1:]:
        service.Tell(pb.TellRequest(name=trial.name, measurement=wide))
    all_told = call()

    for again in (some_grown, all_grown, all_told):
        assert [(one.name, one.parameters) for one in again] == [(one.name, one.parameters) for one in first]
    assert (some_grown[0].notes, some_grown[0].labels) == (grown.notes, grown.labels)
    assert not any(one.notes or one.labels for one in (*all_grown, *all_told))
    assert all_grown[0].measurement == loss(1.0)
    assert {(one.state, one.HasField("measurement")) for one in all_told} == {(Trial.SUCCEEDED, False)}


async def test_translating_many_trials_lets_others_have_their_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two of them, whenever a turn is over; all are there in the end, in order."""
    turns: list[int] = []

    async def other() -> None:
        while len(turns) < 5:
            turns.append(len(translated))
            await asyncio.sleep(0)

    translated: list[int] = []

    def translate(item: int) -> int:
        translated.append(item)
        return -item

    task = asyncio.create_task(other())
    monkeypatch.setattr("asktell_server.service.turns.TURN_S", -1.0)

    found = await in_turns(range(10), translate)
    await task

    assert found == [-i for i in range(10)]
    assert len(set(turns)) == 5
