"""Raw bytes to both ports: neither falls over, neither logs a traceback, and both still serve afterwards."""

from __future__ import annotations

import random
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from asktell.v1 import study_service_pb2 as pb
from asktell_server.observe.http import MOST_CONNECTIONS

from ..rpc.calls import until
from ..support import ServerProcess, create_study, serving, stub
from .driving import MIB, log_problems, resident_bytes

_METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"PRI", b"get", b"", b"\x00", b"G" * 70_000)
_PATHS = (
    b"/metrics",
    b"/livez",
    b"/readyz",
    b"/",
    b"*",
    b"//",
    b"/%00",
    b"/metrics?name[]=%ff",
    b"/../../etc/passwd",
    b"/" + b"a" * 70_000,
)
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/9", b"HTTP/1.1 x", b"", b"HTTP/2.0")
_HEADERS = (
    *(
        b"Host: x",
        b"Accept: */*",
        b"Accept: application/openmetrics-text; version=;;q=a",
        b"Accept-Encoding: gzip",
        b"X" * 70_000 + b": y",
    ),
    *(
        b"Content-Length: -1",
        b"Content-Length: x",
        b"Content-Length: 999999999999",
        b"Transfer-Encoding: chunked",
        b": ",
        b"\xff: \xff",
    ),
    *(b"Connection: keep-alive", b"Expect: 100-continue", b"A: b\r\n c"),
)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of its own."""
    with serving(tmp_path_factory.mktemp("fuzzed"), "--log-level", "warning") as server:
        yield server


def _send(address: str, data: bytes) -> bytes:
    """Sends and says that there will be no more; returns the first of the answer."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)
        except OSError:  # the server had heard enough
            return b""


def _http(draw: random.Random) -> bytes:
    line = b" ".join([draw.choice(_METHODS), draw.choice(_PATHS), draw.choice(_VERSIONS)])
    headers = b"".join(draw.choice(_HEADERS) + b"\r\n" for _ in range(draw.choice((0, 1, 3, 150))))
    whole = line + b"\r\n" + headers + b"\r\n" + draw.randbytes(draw.choice((0, 0, 100)))
    return whole[: draw.randrange(len(whole) + 1)] if draw.randrange(4) == 0 else whole


def _http2(draw: random.Random) -> bytes:
    frames = b""
    for _ in range(draw.randrange(6)):
        body = draw.randbytes(draw.choice((0, 5, 6, 8, 40)))
        length = draw.choice((len(body), len(body), 2**24 - 1))
        kind, flags, stream = draw.randrange(12), draw.randrange(256), draw.choice((0, 1, 3, 2**31 - 1))
        frames += length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body
    return draw.choice((_PREFACE, _PREFACE, b"", draw.randbytes(30))) + frames


def test_the_http_port(fuzzed: ServerProcess) -> None:
    """No answer is a 5xx of ours but "not ready", and the metrics are still there."""
    draw = random.Random(1)
    before = 0
    for i in range(400):
        if i == 100:  # what a server loads and keeps anyway is there by now
            before = resident_bytes(fuzzed)
        data = _http(draw)
        answer = _send(fuzzed.http.removeprefix("http://"), data)
        status = answer.split(b" ")[1:2]
        assert not status or not status[0].startswith(b"500"), f"{data!r}: {answer!r}"

    with urllib.request.urlopen(f"{fuzzed.http}/livez", timeout=30) as response:
        assert response.read() == b"ok\n"
    assert resident_bytes(fuzzed) - before < 50 * MIB
    assert not log_problems(fuzzed.log)


def test_the_grpc_port(fuzzed: ServerProcess) -> None:
    """Frames of any kind, and what is no HTTP/2 at all."""
    draw = random.Random(1)
    before = 0
    for i in range(400):
        if i == 100:
            before = resident_bytes(fuzzed)
        _send(fuzzed.target, _http2(draw))

    with stub(fuzzed.target) as service:
        assert not service.ListStudies(pb.ListStudiesRequest(parent="projects/fuzz")).studies
    assert resident_bytes(fuzzed) - before < 50 * MIB
    assert not log_problems(fuzzed.log)


def test_connections_to_the_http_port_that_say_nothing(fuzzed: ServerProcess) -> None:
    """They are bounded: more are closed at once, and when they are gone the port serves again."""
    host, _, port = fuzzed.http.removeprefix("http://").rpartition(":")
    held = [socket.create_connection((host, int(port)), timeout=30) for _ in range(MOST_CONNECTIONS + 5)]
    try:
        until(lambda: _closed(held) >= 5, "those beyond the bound to be closed")
        threads = psutil.Process(fuzzed.pid).num_threads()
    finally:
        for connection in held:
            connection.close()

    assert threads < MOST_CONNECTIONS + 60
    until(
        lambda: _send(f"{host}:{port}", b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "the port to serve"
    )
    assert not log_problems(fuzzed.log)


def _closed(connections: list[socket.socket]) -> int:
    """How many the other side has closed."""
    found = 0
    for connection in connections:
        connection.settimeout(0)
        try:
            found += connection.recv(1) == b""
        except BlockingIOError:
            pass
        except OSError:
            found += 1
    return found


def test_a_refused_request_is_forgotten_at_once(tmp_path: Path) -> None:
    """One caller's large requests that are refused, one after the other, do not wait for garbage collection in memory."""
    with serving(tmp_path, "--workers", "1") as server, stub(server.target) as service:
        study = create_study(service, "one").name
        request = pb.ExplainStudyRequest(name=study, slices=["a"] * 1_000_000)
        sizes = []
        for _ in range(40):
            with pytest.raises(grpc.RpcError) as caught:
                service.ExplainStudy(request)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            sizes.append(resident_bytes(server))

    # One takes 30 MiB when it is read; memory that is free again stays the process's for a while.
    assert max(sizes) - sizes[0] < 300 * MIB
