"""Several servers on one database are one server to their clients, whichever of them each call reaches."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import grpc
import psycopg
import pytest

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.storage.postgresql.listening import serving as somebody_serves
from asktell_server.testing.postgresql import PostgresServer

from ..inprocess import InProcess, SetClock, in_process
from ..rpc.refusals import read
from ..support import ServerProcess, create_study, float_parameter, serving, spec, stub
from .conftest import Stub, three_servers

PATIENCE_S = 60.0
State = trial_pb2.Trial


def tell(service: Stub, trial: trial_pb2.Trial) -> pb.TellResponse:
    """Tells a smooth loss of the trial's point."""
    loss = sum((value.float_value - 0.3) ** 2 for value in trial.parameters.values())
    measurement = trial_pb2.Measurement(metrics={"loss": loss})
    return service.Tell(pb.TellRequest(name=trial.name, measurement=measurement), timeout=PATIENCE_S)


def ask(service: Stub, study: str) -> trial_pb2.Trial:
    """The next trial."""
    return service.Ask(pb.AskRequest(parent=study), timeout=PATIENCE_S).trials[0]


def point(trial: trial_pb2.Trial) -> tuple[float, ...]:
    """Its parameters' values by name."""
    return tuple(trial.parameters[name].float_value for name in sorted(trial.parameters))


def all_trials(service: Stub, study: str) -> list[trial_pb2.Trial]:
    """Every trial, by number."""
    return list(service.ListTrials(pb.ListTrialsRequest(parent=study, page_size=1000)).trials)


def test_budget_and_numbers_are_exact_while_a_server_is_killed(postgres_url: str, tmp_path: Path) -> None:
    """Clients of three servers ask and tell one study until its budget is used up, one server is killed meanwhile:
    exactly as many trials as the budget, each number once, and every acknowledged result is there.
    """
    with three_servers(tmp_path, postgres_url) as replicas, ExitStack() as stack:
        _use_up_a_budget(replicas, [stack.enter_context(stub(replica.target)) for replica in replicas])


def _use_up_a_budget(replicas: list[ServerProcess], stubs: list[Stub]) -> None:
    budget = 150
    made = spec()
    made.stopping_criteria.max_trials = budget
    made.trial_policy.lease.seconds = 3
    made.trial_policy.max_retries = 5
    study = create_study(stubs[0], "budget", made).name
    acknowledged: dict[str, float] = {}
    given: list[str] = []
    lock = threading.Lock()

    def client(number: int) -> None:
        turns = itertools.cycle(range(3))
        deadline = time.monotonic() + 2 * PATIENCE_S
        request = 0
        for _ in range(number % 3):
            next(turns)
        while time.monotonic() < deadline:
            service = stubs[next(turns)]
            try:
                asked = service.Ask(pb.AskRequest(parent=study, request_id=f"{number}-{request}"), timeout=10)
                trial = asked.trials[0]
                request += 1
                with lock:
                    given.append(trial.name)
                told = tell(service, trial)
                with lock:
                    acknowledged[trial.name] = told.trial.measurement.metrics["loss"]
            except grpc.RpcError as error:
                reason = "" if error.code() is not grpc.StatusCode.FAILED_PRECONDITION else read(error).reason
                if reason == "STUDY_COMPLETED":
                    return
                time.sleep(0.02)  # the server is gone, or trials of lost calls have to expire first
        raise TimeoutError

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client, number) for number in range(6)]
        while len(acknowledged) < budget // 3:
            time.sleep(0.01)
        replicas[2].kill()
        for each in clients:
            each.result()
    trials = all_trials(stubs[0], study)
    counts = stubs[1].GetStudy(pb.GetStudyRequest(name=study)).trial_counts

    by_name = {trial.name: trial for trial in trials}
    assert len(given) == len(set(given))
    assert [trial.name for trial in trials] == [f"{study}/trials/{n}" for n in range(1, len(trials) + 1)]
    assert {name: by_name[name].measurement.metrics["loss"] for name in acknowledged} == acknowledged
    assert sum(trial.state == State.SUCCEEDED for trial in trials) == budget
    assert counts.succeeded == budget
    assert (counts.running, counts.waiting) == (0, 0)


def test_suggestions_do_not_depend_on_the_server(stubs: list[Stub], tmp_path: Path) -> None:
    """A model's suggestions are those of a single server, though each call goes to another one at once."""
    turns = itertools.cycle(stubs)
    with serving(tmp_path, "--workers", "1") as alone, stub(alone.target) as single:
        made = spec("gp", seed=7)
        made.algorithm.gp.initial_points = 3
        name = create_study(stubs[0], "same", made).name
        create_study(single, "same", made)
        together, by_one = [], []
        for _ in range(7):
            together.append(ask(next(turns), name))
            tell(next(turns), together[-1])
            by_one.append(ask(single, name))
            tell(single, by_one[-1])

    assert [point(trial) for trial in together] == [point(trial) for trial in by_one]
    assert together[-1].suggestion.source == trial_pb2.Suggestion.MODEL
    assert [trial.suggestion for trial in together] == [trial.suggestion for trial in by_one]


def test_asks_at_the_same_moment_get_different_points(stubs: list[Stub]) -> None:
    """Three servers that are asked for one study at once suggest with each other's trials pending: no two points are near."""
    made = spec("gp", seed=3)
    made.algorithm.gp.initial_points = 3
    name = create_study(stubs[0], "apart", made).name
    for _ in range(4):
        tell(stubs[0], ask(stubs[0], name))

    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            trials = list(pool.map(lambda service: ask(service, name), stubs))
        gaps = [
            sum(abs(x - y) for x, y in zip(point(one), point(other), strict=True))
            for one, other in itertools.combinations(trials, 2)
        ]
        assert len({trial.name for trial in trials}) == 3
        assert min(gaps) > 1e-3


def test_a_study_made_anew_elsewhere_is_noticed_at_once(stubs: list[Stub]) -> None:
    """After a delete and a new study of the same name by one server, another's next call is about the new one."""
    name = create_study(stubs[0], "anew").name
    for service in stubs:
        ask(service, name)  # each has it in memory

    for i in range(5):
        stubs[0].DeleteStudy(pb.DeleteStudyRequest(name=name))
        with pytest.raises(grpc.RpcError) as gone:
            ask(stubs[1], name)
        assert gone.value.code() is grpc.StatusCode.NOT_FOUND
        made = spec()
        made.parameters.append(float_parameter(f"new{i}"))
        create_study(stubs[0], "anew", made)
        for number, service in enumerate(stubs, start=1):
            trial = ask(service, name)
            assert trial.name == f"{name}/trials/{number}"
            assert f"new{i}" in trial.parameters


def test_a_watch_sees_what_other_servers_do(stubs: list[Stub]) -> None:
    """Every revision reaches a watcher in order, however the writes are spread; with its end when the study is deleted."""
    name = create_study(stubs[0], "watched").name
    stream = stubs[2].WatchStudy(pb.WatchStudyRequest(name=name, after_revision=0), timeout=2 * PATIENCE_S)
    first = next(stream)
    seen: list[int] = [first.revision]
    results: dict[str, trial_pb2.Trial] = {}

    def write(number: int) -> None:
        for _ in range(10):
            tell(stubs[(number + 1) % 2], ask(stubs[number], name))

    with ThreadPoolExecutor(2) as pool:
        writing = [pool.submit(write, number) for number in range(2)]
        for message in stream:
            seen.append(message.revision)
            results.update({trial.name: trial for trial in message.trials})
            if message.revision == 41:
                break
        for each in writing:
            each.result()
    trials = all_trials(stubs[0], name)
    stubs[0].DeleteStudy(pb.DeleteStudyRequest(name=name))
    with pytest.raises(grpc.RpcError) as ended:
        for _ in stream:
            pass

    assert seen == sorted(seen)
    assert list(results.values()) and sorted(results) == sorted(trial.name for trial in trials)  # noqa: PT018
    assert all(trial.state == State.SUCCEEDED for trial in results.values())
    assert ended.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_request_id_acts_once_over_servers(stubs: list[Stub]) -> None:
    """One request sent to all servers at once is answered with the same trials by each."""
    name = create_study(stubs[0], "once").name
    with ThreadPoolExecutor(6) as pool:
        for i in range(10):
            request = pb.AskRequest(parent=name, count=2, request_id=f"r{i}")
            answers = list(pool.map(lambda service, r=request: service.Ask(r, timeout=PATIENCE_S), stubs * 2))
            assert {tuple(trial.name for trial in answer.trials) for answer in answers} == {
                (f"{name}/trials/{2 * i + 1}", f"{name}/trials/{2 * i + 2}")
            }


def test_a_request_id_makes_one_study_over_servers(stubs: list[Stub]) -> None:
    """The same CreateStudy sent to all servers at once, as by a client that gave one up: each answers with the study."""
    with ThreadPoolExecutor(6) as pool:
        for i in range(30):
            made = study_pb2.Study(spec=spec())
            request = pb.CreateStudyRequest(parent="projects/p", study_id=f"s{i}", study=made, request_id=f"r{i}")
            answers = list(pool.map(lambda service, r=request: service.CreateStudy(r, timeout=PATIENCE_S), stubs * 2))
            assert all(answer == answers[0] for answer in answers)


def test_the_server_heals_when_the_database_is_back(tmp_path: Path) -> None:
    """Without its database a server answers UNAVAILABLE, then goes on by itself; leases begin anew."""
    with PostgresServer() as database, serving(tmp_path, database=database.new_database()) as server:
        with stub(server.target) as service:
            made = spec()
            made.trial_policy.lease.seconds = 5
            name = create_study(service, "healing", made).name
            trial = ask(service, name)
            database.stop("immediate")
            with pytest.raises(grpc.RpcError) as away:
                ask(service, name)
            with pytest.raises(grpc.RpcError) as still:
                service.ListStudies(pb.ListStudiesRequest(parent="projects/-"))
            time.sleep(7)  # longer than the lease
            database.start()
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    beat = service.Heartbeat(pb.HeartbeatRequest(name=trial.name), timeout=5)
                    break
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    assert str(database.port) not in str(error.details())  # where it is, is for the log only
                    assert time.monotonic() < deadline
            told = tell(service, trial)

    assert away.value.code() is grpc.StatusCode.UNAVAILABLE
    assert read(away.value).reason == "STORAGE_UNAVAILABLE"
    for refused in (away, still):
        assert str(database.port) not in str(refused.value.details())  # where it is, is for the log only
    assert beat.HasField("lease_expire_time")
    assert told.trial.state == State.SUCCEEDED


def test_no_password_is_logged(postgres: PostgresServer, postgres_url: str, tmp_path: Path) -> None:
    """The log names the database without the password, when it is served and when it cannot be."""
    secret = postgres.url(postgres_url.rpartition("/")[2], password="s3cret/!")
    with serving(tmp_path, database=secret) as server:
        log = server.log.read_text()
    with pytest.raises(RuntimeError, match="does not exist"), serving(tmp_path, database=f"{secret}-missing"):
        pass

    assert postgres_url in log
    assert "s3cret" not in server.log.read_text()


# Leases, on a clock that the test sets


async def _leased(running: InProcess) -> str:
    made = spec()
    made.trial_policy.lease.seconds = 60
    request = pb.CreateStudyRequest(parent="projects/default", study_id="leased", study=study_pb2.Study(spec=made))
    name = (await running.service.CreateStudy(request)).name
    await running.service.Ask(pb.AskRequest(parent=name, count=5))
    return name


async def test_a_lease_runs_out_once(postgres_url: str) -> None:
    """Two servers that do their housekeeping at once expire each trial once, with one retry."""
    clock = SetClock()
    async with in_process(postgres_url, clock) as one, in_process(postgres_url, clock) as two:
        name = await _leased(one)
        clock.advance(61)
        expired = [await two.pass_time(0) + await one.pass_time(0) for _ in range(2)]
        study = await two.service.GetStudy(pb.GetStudyRequest(name=name))

    assert expired == [5, 0]
    assert study.trial_counts == study_pb2.Study.TrialCounts(waiting=5, expired=5)


async def test_servers_that_come_and_go_extend_no_lease(postgres_url: str) -> None:
    """While one server is there for the workers, the start of another gives no lease another full length."""
    clock = SetClock()
    async with in_process(postgres_url, clock) as one:
        await _leased(one)
        with psycopg.connect(postgres_url) as connection:
            while not somebody_serves(connection):
                time.sleep(0.02)
        clock.advance(50)
        async with in_process(postgres_url, clock) as two:
            early = await two.pass_time(9)
            late = await two.pass_time(2)

    assert (early, late) == (0, 5)


async def test_after_all_servers_were_down_leases_begin_anew(postgres_url: str) -> None:
    """Where no server was there, workers could not renew: each lease has its full length from the first start."""
    clock = SetClock()
    async with in_process(postgres_url, clock) as one:
        await _leased(one)
    with psycopg.connect(postgres_url) as connection:
        while somebody_serves(connection):
            time.sleep(0.02)
    clock.advance(3600)
    async with in_process(postgres_url, clock) as after:
        early = await after.pass_time(59)
        late = await after.pass_time(2)

    assert (early, late) == (0, 5)
