"""Where a client goes: targets, the default client of a process, forks, and the local server's failures."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from concurrent import futures
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

import asktell
from asktell import _local
from asktell._targets import resolve_target
from asktell.client import _default
from asktell.transport import channel_options, headers
from asktell.v1 import study_pb2, trial_pb2
from asktell.v1 import study_service_pb2 as pb
from asktell.v1.study_service_pb2_grpc import add_StudyServiceServicer_to_server

from .conftest import SPACE
from .fake import FakeServer


@pytest.mark.parametrize(
    ("given", "environment", "meant"),
    [
        ("here:1", "there:2", "here:1"),
        (None, "there:2", "there:2"),
        (None, "", "localhost:50051"),
        ("local:", "there:2", "local:"),
    ],
)
def test_which_target_is_meant(
    monkeypatch: pytest.MonkeyPatch, given: str | None, environment: str, meant: str
) -> None:
    """What is given wins over the environment, the environment over the default."""
    monkeypatch.setenv("ASKTELL_TARGET", environment)

    assert resolve_target(given) == meant


def test_a_proxy_is_not_asked_for_the_loopback() -> None:
    """Proxies of the environment apply to other machines only."""
    assert ("grpc.enable_http_proxy", 0) in channel_options("localhost:50051")
    assert "grpc.enable_http_proxy" not in dict(channel_options("tuning.example:50051"))


def test_the_default_client_is_made_once(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Module-level functions share a client, and make another one when it was closed."""
    monkeypatch.setenv("ASKTELL_TARGET", server.target)

    study = asktell.create_study("digits", SPACE, maximize="accuracy")
    again = asktell.get_study("digits")
    study.client.close()
    anew = asktell.get_study("digits")
    anew.client.close()

    assert study.client is again.client
    assert anew.client is not study.client
    _default.after_fork()


def test_a_project_of_ones_own(server: FakeServer) -> None:
    """A client's project is that of names without one."""
    with asktell.connect(server.target, project="vision") as client:
        study = client.create_study("digits", SPACE, maximize="accuracy")
        client.create_study("text/words", SPACE, maximize="accuracy")

        names = [study.name for study in client.list_studies()]

    assert study.name == "projects/vision/studies/digits"
    assert names == ["projects/vision/studies/digits"]


def test_a_unix_socket_is_a_target(tmp_path: Path, server: FakeServer) -> None:
    """The forms of targets that gRPC has pass through."""
    other = grpc.server(futures.ThreadPoolExecutor(2))
    add_StudyServiceServicer_to_server(server.service, other)
    other.add_insecure_port(f"unix:{tmp_path}/asktell.sock")
    other.start()

    with asktell.connect(f"unix:{tmp_path}/asktell.sock") as client:
        study = client.create_study("digits", SPACE, maximize="accuracy")
    other.stop(0).wait()

    assert study.id == "digits"


FORK = """
    import os, sys
    import asktell
    target, used = sys.argv[1], sys.argv[2] == "used"
    client = asktell.connect(target, timeout=10)
    if used:
        client.get_study("digits")
    pid = os.fork()
    if pid == 0:
        try:
            print("child", client.get_study("digits").id, asktell.connect(target).get_study("digits").id, flush=True)
        except asktell.ForkedAfterUse as error:
            print("child", type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    print("parent", client.get_study("digits").id, flush=True)
"""


@pytest.mark.parametrize(
    ("used", "support", "child"),
    [("unused", "0", "digits digits"), ("used", "0", "ForkedAfterUse"), ("used", "1", "digits digits")],
)
def test_a_forked_child_works_or_says_why_not(
    study: asktell.Study, server: FakeServer, used: str, support: str, child: str
) -> None:
    """A child never hangs: it has a connection of its own, or gRPC cannot give it one and that is said."""
    script = textwrap.dedent(FORK)

    done = subprocess.run(
        [sys.executable, "-c", script, server.target, used],
        env={**os.environ, "GRPC_ENABLE_FORK_SUPPORT": support},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert done.stdout.splitlines() == [f"child {child}", "parent digits"]


def test_without_the_server_package_a_local_target_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The light client alone has no server to run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(asktell.LocalServerError, match=r"pip install 'asktell\[server\]'"):
        asktell.connect("local:")


def impostor(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """Puts a package asktell_server into a folder that child processes look into first."""
    package = folder / "asktell_server"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(textwrap.dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_local_server_that_fails_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last words are in the error, and nothing is left running."""
    impostor(tmp_path, monkeypatch, "import sys; sys.exit('database is of a newer version')")

    with pytest.raises(asktell.LocalServerError, match=r"exited with status 1.*\n.*newer version"):
        asktell.connect(f"local:{tmp_path}/study.db")


STUBBORN = """
    import json, os, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready = sys.argv[sys.argv.index("--ready-file") + 1]
    open(ready + ".new", "w").write(json.dumps({"grpc": "127.0.0.1:9", "http": None, "argv": sys.argv}))
    os.rename(ready + ".new", ready)
    time.sleep(60)
"""


def test_a_local_server_that_will_not_go_is_made_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closed stdin, then SIGTERM, then SIGKILL."""
    impostor(tmp_path, monkeypatch, STUBBORN)
    monkeypatch.setattr(_local, "_DRAIN_S", 0.1)
    monkeypatch.setattr(_local, "_TERMINATE_S", 0.1)
    server = _local.acquire_local(f"local:{tmp_path}/study.db")
    process, folder = server._process, server._folder
    assert process is not None
    other = _local.acquire_local(f"local:{tmp_path}/../{tmp_path.name}/study.db")

    _local.release_local(other)
    alive = process.poll() is None
    _local.release_local(server)

    assert other is server
    assert server.target == "127.0.0.1:9"
    assert alive
    assert process.returncode == -9
    assert not folder.exists()


@pytest.mark.parametrize(
    ("request_", "study"),
    [
        (pb.CreateStudyRequest(parent="projects/p", study_id="s"), "projects/p/studies/s"),
        (pb.GetStudyRequest(name="projects/p/studies/s"), "projects/p/studies/s"),
        (pb.UpdateStudyRequest(study=study_pb2.Study(name="projects/p/studies/s.t-u")), "projects/p/studies/s.t-u"),
        (pb.AskRequest(parent="projects/p/studies/s"), "projects/p/studies/s"),
        (pb.TellRequest(name="projects/p/studies/s/trials/17"), "projects/p/studies/s"),
        (pb.UpdateTrialRequest(trial=trial_pb2.Trial(name="projects/p/studies/s/trials/1")), "projects/p/studies/s"),
        (pb.WatchStudyRequest(name="projects/p/studies/s"), "projects/p/studies/s"),
        (pb.ListStudiesRequest(parent="projects/p"), None),
        (pb.AskRequest(parent="projects/p/studies/Grüße\n"), None),
        (pb.AskRequest(parent="anything"), None),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_calls_name_their_study_in_a_header(request_: Message, study: str | None) -> None:
    """Whatever field holds the name; a request about no one study, or with a name that is none, has no such header."""
    assert headers(request_) == (() if study is None else (("x-asktell-study", study),))


def test_every_request_has_its_header() -> None:
    """No method of the service has a request that the header cannot be made for."""
    methods = pb.DESCRIPTOR.services_by_name["StudyService"].methods
    for method in methods:
        assert headers(GetMessageClass(method.input_type)()) == ()
