"""Leases, retries and what comes late, on a clock that the test sets."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.service import housekeeping

from ..inprocess import InProcess, SetClock, in_process
from ..rpc.refusals import read
from ..support import spec

State = trial_pb2.Trial
RESULT = trial_pb2.Measurement(metrics={"loss": 1.0})


async def _study(running: InProcess, lease_s: int = 60, retries: int = 2, study_id: str = "leased") -> str:
    made = spec()
    made.trial_policy.lease.seconds = lease_s
    made.trial_policy.max_retries = retries
    request = pb.CreateStudyRequest(parent="projects/default", study_id=study_id, study=study_pb2.Study(spec=made))
    return (await running.service.CreateStudy(request)).name


async def _ask(running: InProcess, study: str, worker: str = "w") -> trial_pb2.Trial:
    return (await running.service.Ask(pb.AskRequest(parent=study, worker=worker))).trials[0]


async def _trial(running: InProcess, name: str) -> trial_pb2.Trial:
    return await running.service.GetTrial(pb.GetTrialRequest(name=name))


async def _counts(running: InProcess, study: str) -> study_pb2.Study.TrialCounts:
    return (await running.service.GetStudy(pb.GetStudyRequest(name=study))).trial_counts


async def test_a_lease_that_runs_out(running: InProcess) -> None:
    """The trial becomes EXPIRED and its parameters wait again, with all that the user gave them; the next ask takes them."""
    study = await _study(running)
    first = await _ask(running, study)
    await running.service.UpdateTrial(
        pb.UpdateTrialRequest(
            trial=State(name=first.name, notes="n", labels={"k": "v"}),
            update_mask={"paths": ["notes", "labels"]},
        )
    )

    early = await running.pass_time(59.9)
    late = await running.pass_time(0.2)
    expired = await _trial(running, first.name)
    second = await _ask(running, study, "v")

    assert (early, late) == (0, 1)
    assert expired.state == State.EXPIRED
    assert "w" in expired.state_reason
    assert expired.HasField("end_time")
    assert not expired.HasField("lease_expire_time")
    assert second.name.endswith("/2")
    assert second.parameters == first.parameters
    assert second.suggestion == first.suggestion
    assert (second.attempt, second.retry_of, second.worker) == (2, 1, "v")
    assert (second.notes, second.labels) == ("n", {"k": "v"})


async def test_retries_end(running: InProcess) -> None:
    """After the last retry the parameters are given up and the next ask brings others."""
    study = await _study(running, retries=2)
    tried = []
    for _ in range(3):
        tried.append(await _ask(running, study))
        await running.pass_time(61)

    after = await _ask(running, study)

    assert [trial.attempt for trial in tried] == [1, 2, 3]
    assert [trial.retry_of for trial in tried] == [0, 1, 2]
    assert tried[0].parameters == tried[1].parameters == tried[2].parameters != after.parameters
    assert (after.attempt, after.HasField("retry_of")) == (1, False)
    assert await _counts(running, study) == study_pb2.Study.TrialCounts(running=1, expired=3)


async def test_no_retries(running: InProcess) -> None:
    """With max_retries 0 a lost trial is not tried again."""
    study = await _study(running, retries=0)
    await _ask(running, study)

    await running.pass_time(61)

    assert await _counts(running, study) == study_pb2.Study.TrialCounts(expired=1)


async def test_signs_of_life_renew_the_lease(running: InProcess) -> None:
    """Heartbeat and Report give a trial its full lease again, and say until when."""
    study = await _study(running)
    name = (await _ask(running, study)).name

    for step in range(5):
        await running.pass_time(40)
        beat = await running.service.Heartbeat(pb.HeartbeatRequest(name=name))
        await running.pass_time(40)
        measurement = trial_pb2.Measurement(metrics={"loss": 1.0}, step=step)
        report = await running.service.Report(pb.ReportRequest(name=name, measurement=measurement))

    assert report.lease_expire_time.ToSeconds() == beat.lease_expire_time.ToSeconds() + 40
    assert (await _trial(running, name)).lease_expire_time == report.lease_expire_time
    assert await running.pass_time(59.9) == 0
    assert await running.pass_time(0.2) == 1


async def test_an_expired_trial(running: InProcess) -> None:
    """A heartbeat of an EXPIRED trial is refused; a report is kept, does not bring it back, and advises to stop."""
    study = await _study(running)
    name = (await _ask(running, study)).name
    await running.pass_time(61)

    with pytest.raises(grpc.RpcError) as caught:
        await running.service.Heartbeat(pb.HeartbeatRequest(name=name))
    measurement = trial_pb2.Measurement(metrics={"loss": 1.0}, step=1)
    report = await running.service.Report(pb.ReportRequest(name=name, measurement=measurement))

    assert read(caught.value).reason == "TRIAL_NOT_RUNNING"
    assert report.should_stop
    assert report.advice.cause == pb.StopAdvice.TRIAL_EXPIRED
    assert not report.HasField("lease_expire_time")
    assert (await _trial(running, name)).state == State.EXPIRED
    assert list((await _trial(running, name)).intermediate_measurements) == [measurement]


async def test_a_late_result_withdraws_the_waiting_retry(running: InProcess) -> None:
    """A late Tell on an EXPIRED trial is taken, and the retry that nobody has begun is superseded."""
    study = await _study(running)
    name = (await _ask(running, study)).name
    await running.pass_time(61)

    told = await running.service.Tell(pb.TellRequest(name=name, measurement=RESULT))
    again = await running.service.Tell(pb.TellRequest(name=name, measurement=RESULT))
    retry = await _trial(running, f"{study}/trials/2")
    after = await _ask(running, study)

    assert told.trial.state == State.SUCCEEDED
    assert again == told
    assert retry.state == State.EXPIRED
    assert "superseded" in retry.state_reason
    assert after.name.endswith("/3")
    assert await _counts(running, study) == study_pb2.Study.TrialCounts(running=1, succeeded=1, expired=1)


async def test_a_late_result_withdraws_the_retry_of_a_retry(running: InProcess) -> None:
    """So it is where the retry was given out and lost, too, and waits for its own retry; another trial's retry stays."""
    study = await _study(running)
    first, other = [(await _ask(running, study)).name for _ in range(2)]
    await running.pass_time(61)
    retries = {(await _ask(running, study)).retry_of for _ in range(2)}
    await running.pass_time(61)

    await running.service.Tell(pb.TellRequest(name=first, measurement=RESULT))
    waiting = [await _trial(running, f"{study}/trials/{number}") for number in (5, 6)]

    assert retries == {1, 2}
    assert [(trial.retry_of, trial.state) for trial in waiting] == [(3, State.EXPIRED), (4, State.WAITING)]
    assert (await _trial(running, other)).state == State.EXPIRED
    assert await _counts(running, study) == study_pb2.Study.TrialCounts(waiting=1, succeeded=1, expired=4)


async def test_a_late_result_leaves_a_running_retry_alone(running: InProcess) -> None:
    """A retry that is being evaluated goes on when the expired trial gets its result after all; both results count."""
    study = await _study(running)
    name = (await _ask(running, study)).name
    await running.pass_time(61)
    retry = await _ask(running, study)

    await running.service.Tell(pb.TellRequest(name=name, measurement=RESULT))
    await running.service.Tell(pb.TellRequest(name=retry.name, failed=pb.TellRequest.Failed()))

    assert await _counts(running, study) == study_pb2.Study.TrialCounts(succeeded=1, failed=1)


async def test_expired_trials_do_not_use_up_the_budget(running: InProcess) -> None:
    """A retry takes the place of the trial that was lost; the study completes when the last one has ended."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.stopping_criteria.max_trials = 1
    request = pb.CreateStudyRequest(parent="projects/default", study_id="budget", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    await _ask(running, study)
    await running.pass_time(61)

    retry = await _ask(running, study)
    told = await running.service.Tell(pb.TellRequest(name=retry.name, measurement=RESULT))

    assert retry.retry_of == 1
    assert told.study_state == study_pb2.Study.COMPLETED


async def test_many_leases_at_once(running: InProcess) -> None:
    """All leases that are due run out together, each trial with one retry, whatever its study."""
    studies = [await _study(running, lease_s=lease, study_id=f"s{lease}") for lease in (10, 20, 30)]
    for study in studies:
        await running.service.Ask(pb.AskRequest(parent=study, count=40))

    expired = await running.pass_time(21)

    assert expired == 80
    assert [await _counts(running, study) for study in studies] == [
        study_pb2.Study.TrialCounts(waiting=40, expired=40),
        study_pb2.Study.TrialCounts(waiting=40, expired=40),
        study_pb2.Study.TrialCounts(running=40),
    ]


async def test_no_lease_runs_out_while_the_server_is_down(tmp_path: Path) -> None:
    """After a restart every lease has its full length before it can run out."""
    clock = SetClock()
    database = str(tmp_path / "studies.db")
    async with in_process(database, clock) as before:
        study = await _study(before)
        name = (await _ask(before, study)).name
    clock.advance(3600)

    async with in_process(database, clock) as after:
        at_start = await after.pass_time(59.9)
        beat = await after.service.Heartbeat(pb.HeartbeatRequest(name=name))
        after_the_beat = await after.pass_time(59.9)
        in_the_end = await after.pass_time(0.2)

    assert (at_start, after_the_beat, in_the_end) == (0, 0, 1)
    assert beat.lease_expire_time.ToSeconds() == int(clock.now.timestamp() - 0.1)


async def test_parameters_that_lose_every_worker_are_not_tried_again(running: InProcess) -> None:
    """Once its retries are used up a point is not suggested any more, not even where an optimizer would come back to it: here a
    grid has but this one point left.
    """
    made = spec("grid", dimensions=1)
    made.algorithm.grid.points_per_parameter = 2
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 1
    request = pb.CreateStudyRequest(parent="projects/default", study_id="poisoned", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    for _ in range(2):
        poisoned = await _ask(running, study)
        await running.pass_time(61)
    other = await _ask(running, study)
    await running.service.Tell(pb.TellRequest(name=other.name, measurement=RESULT))

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _ask(running, study)
    await running.service.Tell(pb.TellRequest(name=poisoned.name, measurement=RESULT))

    assert read(caught.value).reason == "SEARCH_SPACE_EXHAUSTED"
    assert other.parameters != poisoned.parameters
    assert (await _trial(running, poisoned.name)).state == State.SUCCEEDED


async def test_a_point_that_was_given_up_stays_so_after_a_restart(tmp_path: Path) -> None:
    """A new server reads it from the history, so that suggestions are those of the server before it."""
    made = spec("grid", dimensions=1)
    made.algorithm.grid.points_per_parameter = 2
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 0
    request = pb.CreateStudyRequest(parent="projects/default", study_id="poisoned", study=study_pb2.Study(spec=made))
    clock = SetClock()
    async with in_process(str(tmp_path / "a.db"), clock) as running:
        study = (await running.service.CreateStudy(request)).name
        poisoned = await _ask(running, study)
        await running.pass_time(61)

    async with in_process(str(tmp_path / "a.db"), clock) as running:
        other = await _ask(running, study)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _ask(running, study)

    assert other.parameters != poisoned.parameters
    assert read(caught.value).reason == "SEARCH_SPACE_EXHAUSTED"


async def test_a_study_whose_trials_fail_is_stopped(running: InProcess) -> None:
    """Trials that FAILED and those that were lost for good count together; infeasible ones and those that are tried again do not."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 1
    made.stopping_criteria.max_failed_trials = 3
    request = pb.CreateStudyRequest(parent="projects/default", study_id="failing", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    states = []

    async def told(**result: object) -> None:
        trial = await _ask(running, study)
        states.append((await running.service.Tell(pb.TellRequest(name=trial.name, **result))).study_state)

    await told(failed={})
    await told(infeasible={})
    for _ in range(2):  # lost, and lost again
        await _ask(running, study)
        await running.pass_time(61)
    await told(measurement=RESULT)
    await told(failed={})

    assert states == [study_pb2.Study.ACTIVE] * 3 + [study_pb2.Study.COMPLETED]
    kept = await running.service.GetStudy(pb.GetStudyRequest(name=study))
    assert kept.state_reason == "3 trials failed or were lost for good, the limit is 3"


async def test_the_last_retry_that_is_lost_can_stop_a_study(running: InProcess) -> None:
    """The study is COMPLETED by the lease that runs out, without a call; a late FAILED counts no second time."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 0
    made.stopping_criteria.max_failed_trials = 2
    request = pb.CreateStudyRequest(parent="projects/default", study_id="lost", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name

    first = await _ask(running, study)
    await running.pass_time(61)
    late = await running.service.Tell(pb.TellRequest(name=first.name, failed={}))
    await _ask(running, study)
    await running.pass_time(61)

    assert late.study_state == study_pb2.Study.ACTIVE
    assert (await running.service.GetStudy(pb.GetStudyRequest(name=study))).state == study_pb2.Study.COMPLETED


async def test_leases_that_were_extended_hide_no_other(tmp_path: Path) -> None:
    """After a restart hundreds of long leases have their length once more; a short one, asked for since, runs out in its time."""
    clock = SetClock()
    database = str(tmp_path / "studies.db")
    async with in_process(database, clock) as before:
        long = await _study(before, lease_s=3600)
        await before.service.Ask(pb.AskRequest(parent=long, count=520))
    clock.advance(7200)

    async with in_process(database, clock) as after:
        short = await _study(after, lease_s=10, study_id="short")
        name = (await _ask(after, short)).name
        expired = [await after.pass_time(seconds) for seconds in (9, 2, 3600)]
        ended = await _trial(after, name)

    assert expired == [0, 1, 520]
    assert ended.state == State.EXPIRED


async def test_a_retry_of_what_got_its_result_meanwhile_is_the_last(running: InProcess) -> None:
    """It runs when the late result comes, and is lost: nobody tries the point again, and it does not count as lost for good."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 1
    made.stopping_criteria.max_failed_trials = 1
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    first = await _ask(running, study)
    await running.pass_time(61)
    retry = await _ask(running, study)
    await running.service.Tell(pb.TellRequest(name=first.name, measurement=RESULT))

    expired = await running.pass_time(61)
    after = await running.service.GetStudy(pb.GetStudyRequest(name=study))
    lost = await _trial(running, retry.name)

    assert retry.retry_of == 1
    assert expired == 1
    assert after.state == study_pb2.Study.ACTIVE
    assert after.trial_counts == study_pb2.Study.TrialCounts(succeeded=1, expired=1)
    assert "superseded: trial 1" in lost.state_reason


async def test_a_loss_is_none_once_what_was_tried_again_has_its_result(running: InProcess) -> None:
    """All tries of a point were lost, then the first of them is told late: nothing of it counts as lost, and the point is not pending."""
    made = spec(dimensions=1)
    made.parameters[0].float.step = 0.5
    made.algorithm.grid.SetInParent()
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 1
    made.stopping_criteria.max_failed_trials = 2
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    first = await _ask(running, study)
    for _ in range(2):
        await running.pass_time(61)
        retry = await _ask(running, study)  # of the first; then of nothing
    await running.service.Tell(pb.TellRequest(name=retry.name, measurement=RESULT))

    late = await running.service.Tell(pb.TellRequest(name=first.name, failed={}))
    lost = await _trial(running, f"{study}/trials/2")
    last = await _ask(running, study)
    told = await running.service.Tell(pb.TellRequest(name=last.name, failed={}))

    assert late.study_state == study_pb2.Study.ACTIVE
    assert lost.state == State.EXPIRED
    assert "superseded: trial 1" in lost.state_reason
    assert (lost.retry_of, retry.attempt, last.attempt) == (1, 1, 1)
    assert told.study_state == study_pb2.Study.COMPLETED
    assert await _counts(running, study) == study_pb2.Study.TrialCounts(succeeded=1, failed=2, expired=1)


async def test_a_completed_study_tries_nothing_again(running: InProcess) -> None:
    """A lease that runs out there makes no retry, which nobody could ask for."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.stopping_criteria.target = 2.0
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    await _ask(running, study)
    good = await _ask(running, study)
    await running.service.Tell(pb.TellRequest(name=good.name, measurement=RESULT))

    await running.pass_time(61)
    after = await running.service.GetStudy(pb.GetStudyRequest(name=study))

    assert after.state == study_pb2.Study.COMPLETED
    assert after.trial_counts == study_pb2.Study.TrialCounts(succeeded=1, expired=1)


@pytest.mark.parametrize("criterion", ["max_trials", "target", "max_failed_trials"])
async def test_what_was_met_while_a_study_was_stopped_completes_it(running: InProcess, criterion: str) -> None:
    """When it is resumed: all trials ended, the target reached, or too many lost for good."""
    made = spec()
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 0
    setattr(made.stopping_criteria, criterion, 2)
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    trials = (await running.service.Ask(pb.AskRequest(parent=study, count=2))).trials
    await running.service.StopStudy(pb.StopStudyRequest(name=study))
    if criterion == "max_failed_trials":
        await running.pass_time(61)
    else:
        for trial in trials:
            await running.service.Tell(pb.TellRequest(name=trial.name, measurement=RESULT))
    stopped = await running.service.GetStudy(pb.GetStudyRequest(name=study))

    resumed = await running.service.ResumeStudy(pb.ResumeStudyRequest(name=study))

    assert stopped.state == study_pb2.Study.STOPPED
    assert resumed.state == study_pb2.Study.COMPLETED
    assert resumed.revision == stopped.revision + 1


async def test_imported_failures_count_with_what_was_lost(running: InProcess) -> None:
    """Two trials lost for good and an imported one that FAILED are the three that stop the study."""
    made = spec(dimensions=1)
    made.trial_policy.lease.seconds = 60
    made.trial_policy.max_retries = 0
    made.stopping_criteria.max_failed_trials = 3
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    study = (await running.service.CreateStudy(request)).name
    asked = await running.service.Ask(pb.AskRequest(parent=study, count=2))
    await running.pass_time(61)

    failed = State(parameters=asked.trials[0].parameters, state=State.FAILED)
    await running.service.CreateTrials(pb.CreateTrialsRequest(parent=study, trials=[failed]))

    assert (await running.service.GetStudy(pb.GetStudyRequest(name=study))).state == study_pb2.Study.COMPLETED


async def test_what_is_old_is_forgotten_piece_by_piece(running: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many old request ids do not keep the leases waiting: so many at a time, and the rest when leases were looked at again."""
    monkeypatch.setattr(housekeeping, "_PURGE_BATCH", 2)
    monkeypatch.setattr(housekeeping, "_PURGE_BATCHES", 2)
    study = await _study(running)
    for i in range(7):
        await running.service.Ask(pb.AskRequest(parent=study, request_id=f"ask-{i}"))
    running.clock.advance(25 * 3600)

    left = []
    for _ in range(3):
        await running.forget()
        stored = await running.app.storage.read(lambda tx: [tx.request(f"Ask {study}", f"ask-{i}") for i in range(7)])
        left.append(sum(each is not None for each in stored))

    assert left == [3, 0, 0]


async def test_a_trial_that_cannot_be_read_keeps_no_other_from_running_out(tmp_path: Path) -> None:
    """A row that was damaged stays as it is; the other leases end."""
    path, clock = tmp_path / "studies.db", SetClock()
    async with in_process(str(path), clock) as running:
        study = await _study(running)
        trials = [await _ask(running, study) for _ in range(3)]
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE trials SET labels = '{' WHERE number = 2")

    async with in_process(str(path), clock) as running:
        expired = await running.pass_time(61)
        again = await running.pass_time(0)
        states = [(await _trial(running, trials[i].name)).state for i in (0, 2)]

    assert (expired, again) == (2, 0)
    assert states == [State.EXPIRED, State.EXPIRED]
