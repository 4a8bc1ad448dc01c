"""The server as a process: health, drain, what it refuses to start with, its settings and its logs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import psycopg
import pytest
from click.testing import CliRunner
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell_server.cli import main
from asktell_server.storage.migrate import _LOCK

from ..support import ServerProcess, serving, spec, stub
from .calls import ask_one, enqueue, finished, floats, new_study, study_of, tell, until
from .refusals import read, refused

SERVICE = "asktell.v1.StudyService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def _health(target: str, service: str) -> int:
    with grpc.insecure_channel(target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status)


def _http(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def _run(*flags: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the server's command line to its end."""
    return subprocess.run(
        [sys.executable, "-m", "asktell_server", *flags],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _log(server: ServerProcess) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text().splitlines()]


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("service", ["", "liveness", "readiness", SERVICE])
def test_health_names(server: ServerProcess, service: str) -> None:
    """The health service answers for the server as a whole, for liveness, for readiness and for the service."""
    assert _health(server.target, service) == SERVING


def test_health_of_an_unknown_name(server: ServerProcess) -> None:
    """Another name is NOT_FOUND, as the health protocol wants it."""
    with pytest.raises(grpc.RpcError) as caught:
        _health(server.target, "nobody")

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]


def test_health_over_http(server: ServerProcess) -> None:
    """The HTTP port tells liveness and readiness, too, and knows no other pages but the metrics."""
    answers = [_http(f"{server.http}/{page}") for page in ("livez", "readyz", "metrics", "nothing")]

    assert answers == [200, 200, 200, 404]


# --- drain ------------------------------------------------------------------------------------------------------------


def test_drain(tmp_path: Path) -> None:
    """After SIGTERM: not ready but alive, watches end with UNAVAILABLE, a call that waits is answered, exit status 0, all on disk."""
    with serving(tmp_path, "--no-look-ahead", "--drain-delay-s", "2", "--drain-grace-s", "60") as server:
        with stub(server.target) as service, ThreadPoolExecutor() as threads:
            made = spec("skopt")
            made.algorithm.skopt.CopyFrom(study_pb2.SkoptOptimizer(initial_points=2))
            study = new_study(service, "drained", made)
            enqueue(service, study, [finished(i / 5, x0=i / 5, x1=0.5) for i in range(5)])
            ask_one(service, study)
            children = [
                int(pid)
                for listed in Path(f"/proc/{server.pid}/task").glob("*/children")
                for pid in listed.read_text().split()
                if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
            ]
            stream = service.WatchStudy(pb.WatchStudyRequest(name=study), timeout=60)
            next(stream)
            os.kill(children[0], signal.SIGSTOP)
            waiting = threads.submit(ask_one, service, study)
            until(lambda: server.metric("asktell_queue_depth") == 1, "the ask to wait for the model")

            server.terminate()
            until(lambda: _health(server.target, "readiness") == NOT_SERVING, "not ready")
            health = {name: _health(server.target, name) for name in ("", "liveness", SERVICE)}
            ready = _http(f"{server.http}/readyz")
            with pytest.raises(grpc.RpcError) as caught:
                list(stream)
            os.kill(children[0], signal.SIGCONT)
            answered = waiting.result()
            status = server.wait()

        assert health == {"": NOT_SERVING, "liveness": SERVING, SERVICE: NOT_SERVING}
        assert ready == 503
        refusal = read(caught.value)
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        assert answered.suggestion.source == trial_pb2.Suggestion.MODEL
        assert status == 0
        assert not Path(f"/proc/{children[0]}").exists()
        server.start()
        with stub(server.target) as service:
            assert study_of(service, study).trial_counts.running == 2


def test_watches_of_health_hold_up_nothing(tmp_path: Path) -> None:
    """They are told of each change and end with UNAVAILABLE as the server drains, which need not wait for them."""
    with serving(tmp_path, "--drain-grace-s", "600") as server, grpc.insecure_channel(server.target) as channel:
        names = ("", "readiness", "liveness", SERVICE, "nobody")
        watches = {
            name: health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=name), timeout=60)
            for name in names
        }
        told = {name: [next(watch).status] for name, watch in watches.items()}

        server.terminate()
        for name, watch in watches.items():
            with pytest.raises(grpc.RpcError) as caught:
                told[name].extend(response.status for response in watch)
            refusal = read(caught.value)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")

        assert server.wait() == 0

    stopped = [SERVING, NOT_SERVING]
    unknown = [health_pb2.HealthCheckResponse.SERVICE_UNKNOWN]
    assert told == {"": stopped, "readiness": stopped, "liveness": [SERVING], SERVICE: stopped, "nobody": unknown}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_it(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C both end it with status 0."""
    with serving(tmp_path) as server:
        os.kill(server.pid, number)

        assert server.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None])
def test_what_stops_it_stops_it_while_it_starts(
    tmp_path: Path, postgres_url: str, number: signal.Signals | None
) -> None:
    """So do the signals, and the end of standard input, while it waits for another server that makes the schema."""
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'"
    with psycopg.connect(postgres_url, autocommit=True) as other, (tmp_path / "log").open("wb") as said:
        other.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        flags = ("--db", postgres_url, "--listen", "127.0.0.1:0", "--http-listen", "none", "--stop-with-parent")
        command = [sys.executable, "-m", "asktell_server", *flags]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=said, stderr=said) as process:
            try:
                until(lambda: other.execute(waiting).fetchone(), "the server to wait for the lock")
                if number is not None:
                    process.send_signal(number)
                elif process.stdin is not None:
                    process.stdin.close()
                status = process.wait(30)
            finally:
                process.kill()

    assert status == 0
    assert "stopped before it served" in (tmp_path / "log").read_text()


def test_stop_with_parent(tmp_path: Path) -> None:
    """A server that is to stop with its parent drains and stops when its standard input ends."""
    with serving(tmp_path) as server:
        assert server._process is not None
        assert server._process.stdin is not None
        server._process.stdin.close()

        assert server.wait() == 0


# --- refused starts ---------------------------------------------------------------------------------------------------


def test_a_second_server_on_the_same_database(tmp_path: Path) -> None:
    """It is refused with a message that names the file, and the first one goes on."""
    with serving(tmp_path) as server, stub(server.target) as service:
        second = _run(*("--db", server.database, "--listen", "127.0.0.1:0", "--http-listen", "none"), folder=tmp_path)

        assert second.returncode not in (0, None)
        assert second.returncode > 0
        assert server.database in second.stderr
        assert "Traceback" not in second.stderr
        assert new_study(service, "still")


@pytest.mark.parametrize(("flag", "kind"), [("--listen", "gRPC"), ("--http-listen", "HTTP")])
def test_a_second_server_on_the_same_port(tmp_path: Path, server: ServerProcess, flag: str, kind: str) -> None:
    """It is refused with a message that names the port and the flag, and leaves the first one's calls alone."""
    taken = {"--listen": server.target, "--http-listen": server.http.removeprefix("http://")}[flag]
    addresses = {"--listen": "127.0.0.1:0", "--http-listen": "none", flag: taken}

    second = _run("--db", ":memory:", *[part for pair in addresses.items() for part in pair], folder=tmp_path)

    assert second.returncode > 0
    assert f"cannot listen on {kind} {taken}" in second.stderr
    assert f"change {flag}" in second.stderr
    assert "Traceback" not in second.stderr
    with stub(server.target) as service:
        assert refused(lambda: study_of(service, "projects/p/studies/nobody")).reason == "STUDY_NOT_FOUND"


def test_a_unix_socket_is_its_server_s_until_that_is_gone(tmp_path: Path) -> None:
    """A second server on it is refused and harms nothing; what a killed one left behind is in nobody's way."""
    place = f"unix:{tmp_path}/a b"
    with serving(tmp_path, "--listen", place) as server:
        server.kill()
        server.start()
        for same in (place, f"unix://{tmp_path}/a%20b"):
            second = _run("--db", ":memory:", "--listen", same, "--http-listen", "none", folder=tmp_path)

            assert second.returncode == 1
            assert f"cannot listen on gRPC {same}: in use; change --listen" in second.stderr
        with stub(place.replace(" ", "%20")) as service:
            assert new_study(service, "still")
        assert server.stop() == 0
        assert not (tmp_path / "a b").exists()


@pytest.mark.parametrize(
    ("flags", "environment", "toml", "said"),
    [
        (["--listen", "nowhere"], {}, "", ["--listen", "'nowhere'", "127.0.0.1:50051"]),
        (["--listen", "unix:"], {}, "", ["--listen", "'unix:'", "unix:PATH"]),
        (["--listen", "127.0.0.1:99999"], {}, "", ["--listen", "99999"]),
        (["--workers", "0"], {}, "", ["--workers", "0"]),
        (["--nonsense"], {}, "", ["--nonsense"]),
        (["--fit-device", "gpu"], {}, "", ["--fit-device", "'gpu'", "auto, cpu, cuda", "cuda:N"]),
        ([], {"ASKTELL_FIT_DEVICE": "cuda:x"}, "", ["--fit-device", "ASKTELL_FIT_DEVICE", "cuda:x"]),
        ([], {}, "fit-device = 'cuda:'", ["--fit-device", "cuda:", "TOML"]),
        ([], {"ASKTELL_WORKERS": "1000"}, "", ["--workers", "ASKTELL_WORKERS", "1000", "256"]),
        ([], {"ASKTELL_MAX_LAG": "many"}, "", ["--max-lag", "ASKTELL_MAX_LAG", "many"]),
        ([], {"ASKTELL_LOG_LEVEL": "loud"}, "", ["--log-level", "loud", "warning"]),
        ([], {}, "wokers = 2", ["wokers", "workers"]),
        ([], {}, "workers = 'two'", ["--workers", "two", "TOML"]),
        ([], {}, "workers = ", ["settings.toml"]),
        ([], {}, "[server]\nworkers = 2", ["server"]),
    ],
)
def test_settings_that_cannot_be(
    tmp_path: Path, flags: list[str], environment: dict[str, str], toml: str, said: list[str]
) -> None:
    """A wrong setting ends the start with a message that names it and its source."""
    if toml:
        (tmp_path / "settings.toml").write_text(toml)
        flags = ["--config", str(tmp_path / "settings.toml"), *flags]

    ended = CliRunner().invoke(main, flags, env=environment)

    assert ended.exit_code == 2
    for part in said:
        assert part in ended.output


def test_a_database_that_cannot_be(tmp_path: Path) -> None:
    """A path where no file can be made ends the start with a message, without a traceback."""
    ended = _run("--db", "/nowhere/at/all/studies.db", "--http-listen", "none", folder=tmp_path)

    assert ended.returncode == 1
    assert "/nowhere/at/all" in ended.stderr
    assert "Traceback" not in ended.stderr


# --- settings ---------------------------------------------------------------------------------------------------------


def test_help_names_every_setting() -> None:
    """--help lists each flag with its name in the environment."""
    text = CliRunner().invoke(main, ["--help"], env={"COLUMNS": "200"}).output

    options = [p for p in main.params if p.name not in ("help", "version")]
    assert len(options) > 15
    for option in options:
        assert max(option.opts, key=len) in text
        assert re.search(rf"\bASKTELL_{str(option.name).upper()}\b", text), option.name


def test_precedence(tmp_path: Path) -> None:
    """A flag wins over the environment, the environment over the file, the file over the default."""
    (tmp_path / "settings.toml").write_text("max_lag = -1\n", encoding="utf-8")
    config = ["--config", str(tmp_path / "settings.toml")]
    environment = {"ASKTELL_MAX_LAG": "-2"}

    file = CliRunner().invoke(main, config)
    over_file = CliRunner().invoke(main, config, env=environment)
    over_both = CliRunner().invoke(main, [*config, "--max-lag", "-3"], env=environment)

    for ended, wrong in ((file, "-1"), (over_file, "-2"), (over_both, "-3")):
        assert ended.exit_code == 2
        assert f"'--max-lag': {wrong} is not in the range" in ended.output


def test_a_file_that_sets_everything(tmp_path: Path) -> None:
    """Settings from a file and from the environment take effect."""
    (tmp_path / "settings.toml").write_text('log-format = "json"\nlive_studies = 1\nlook_ahead = false\n')
    with serving(tmp_path, "--config", str(tmp_path / "settings.toml")) as server, stub(server.target) as service:
        for study_id in ("a", "b"):
            ask_one(service, new_study(service, study_id))

        assert server.metric("asktell_live_studies") == 1


def test_a_gpu_that_is_not_there_costs_no_suggestion(tmp_path: Path) -> None:
    """What --fit-device names is tried by the first large fit of a compute process; the log says once that it failed, the model answers."""
    with serving(tmp_path, "--fit-device", "cuda:99", "--workers", "1") as server:
        with stub(server.target) as service:
            study = new_study(service, "wide", spec("gp", dimensions=24))
            drawn = random.Random(3)
            points = [{f"x{i}": drawn.random() for i in range(24)} for _ in range(130)]
            enqueue(service, study, [finished(sum(point.values()), **point) for point in points])

            for _ in range(2):
                trial = ask_one(service, study)
                assert trial.suggestion.source == trial_pb2.Suggestion.MODEL
                tell(service, trial.name, sum(floats(trial).values()))
        assert server.stop() == 0

        (said,) = [line for line in _log(server) if "fit_device" in line]

    assert (said["event"], said["level"]) == ("large fits stay on the CPU", "warning")
    assert (said["fit_device"], said["worker"]) == ("cuda:99", 0)
    assert said["problem"]


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs(tmp_path: Path) -> None:
    """Off a terminal every line is JSON; a call says its method, resource and request id, a refusal its code as well."""
    with serving(tmp_path, "--log-level", "debug") as server:
        with stub(server.target) as service:
            study = new_study(service, "logged")
            request = pb.AskRequest(parent=study, request_id="my-id")
            trial = service.Ask(request).trials[0]
            tell(service, trial.name, 1.0)
            refused(lambda: service.GetTrial(pb.GetTrialRequest(name=f"{study}/trials/9")))
            refused(lambda: service.UpdateStudy(pb.UpdateStudyRequest(study=study_pb2.Study(name=study))))
        assert server.stop() == 0

        lines = _log(server)

    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)
    (serving_line,) = [line for line in lines if line["event"] == "serving"]
    assert (serving_line["grpc"], serving_line["pid"]) == (server.target, server.pid)
    (asked,) = [line for line in lines if line.get("method") == "Ask"]
    assert (asked["event"], asked["resource"], asked["request_id"]) == ("call", study, "my-id")
    (told,) = [line for line in lines if line.get("method") == "Tell"]
    assert told["resource"] == trial.name
    refusals = [line for line in lines if line["event"] == "call refused"]
    assert [(line["method"], line["resource"], line["code"]) for line in refusals] == [
        ("GetTrial", f"{study}/trials/9", "NOT_FOUND"),
        ("UpdateStudy", study, "INVALID_ARGUMENT"),
    ]
    assert [line["event"] for line in lines][-2:] == ["draining", "stopped"]


def test_leases_run_out_by_themselves(server: ServerProcess) -> None:
    """In a running server a lease of one second ends without anybody's help, and its parameters go to the next ask."""
    made = spec()
    made.trial_policy.lease.seconds = 1
    with stub(server.target) as service:
        study = new_study(service, "leases", made)
        first = ask_one(service, study, worker="lost")

        until(lambda: study_of(service, study).trial_counts.expired == 1, "the lease to run out")
        second = ask_one(service, study)

        assert second.retry_of == 1
        assert second.parameters == first.parameters
