"""The HTTP port, over a real socket: metrics, liveness, readiness."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from prometheus_client import CollectorRegistry

from asktell_server.observe import http as http_port
from asktell_server.observe.http import HttpServer
from asktell_server.observe.metrics import Metrics


@dataclass
class Port:
    """A running HTTP server, and whether the rest of the server is ready."""

    server: HttpServer
    ready: bool = True

    def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        """Status, content type and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.getheader("Content-Type", ""), response.read().decode()
        finally:
            connection.close()


@pytest.fixture
def port() -> Iterator[Port]:
    """A server on a free port."""
    registry = CollectorRegistry()
    Metrics(registry, "1.2.3").reported()
    made: Port | None = None
    server = HttpServer("127.0.0.1", 0, registry, lambda: made is not None and made.ready)
    made = Port(server)
    server.start()
    yield made
    server.stop()


def test_metrics_are_in_the_format_of_prometheus(port: Port) -> None:
    """What a scrape gets is the registry of this server."""
    status, content_type, body = port.get("/metrics")

    assert status == 200
    assert content_type.startswith("text/plain")
    assert "asktell_reports_total 1.0" in body.splitlines()


@pytest.mark.parametrize("ready", [True, False])
def test_a_process_that_serves_is_alive_whether_ready_or_not(port: Port, ready: bool) -> None:
    """A restart would not help a server that drains."""
    port.ready = ready

    assert port.get("/livez")[::2] == (200, "ok\n")


@pytest.mark.parametrize(("ready", "answer"), [(True, (200, "ok\n")), (False, (503, "not ready\n"))])
def test_readiness_is_that_of_the_server(port: Port, ready: bool, answer: tuple[int, str]) -> None:
    """Load balancers look here."""
    port.ready = ready

    assert port.get("/readyz")[::2] == answer


@pytest.mark.parametrize("path", ["/", "/metrics/", "/livez/x", "/favicon.ico", "/%2e%2e/etc/passwd"])
def test_anything_else_is_not_found_and_says_what_there_is(port: Port, path: str) -> None:
    """A person who looks around is told where to go."""
    status, _, body = port.get(path)

    assert status == 404
    assert "/metrics" in body


def test_a_silent_client_keeps_nobody_waiting(port: Port) -> None:
    """Each connection has a thread of its own."""
    with socket.create_connection(("127.0.0.1", port.server.port)):
        status, _, _ = port.get("/livez")

    assert status == 200


def test_a_client_that_sends_little_at_a_time_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time for a request is that for all of it: drops do not hold a place for longer than silence does."""
    monkeypatch.setattr(http_port._QuietHandler, "timeout", 0.5)
    with socket.create_connection(("127.0.0.1", port.server.port)) as dripping:
        dripping.sendall(b"GET /livez HTTP/1.1\r\nX: ")
        dripping.settimeout(0.1)
        began, answer = time.monotonic(), None
        while answer is None and time.monotonic() - began < 10:
            try:
                dripping.sendall(b"x")
                answer = dripping.recv(1)
            except TimeoutError:
                continue
            except ConnectionError:
                answer = b""

    assert answer == b""


def test_a_taken_port_is_an_error_at_start(port: Port) -> None:
    """Two servers do not share a port."""
    with pytest.raises(OSError, match="in use"):
        HttpServer("127.0.0.1", port.server.port, CollectorRegistry(), lambda: True)


def test_a_stopped_server_frees_its_port() -> None:
    """Stopped or closed before it was started, the port can be bound again."""
    registry = CollectorRegistry()
    first = HttpServer("127.0.0.1", 0, registry, lambda: True)
    number = first.port
    first.close()

    second = HttpServer("127.0.0.1", number, registry, lambda: True)
    second.start()
    second.stop()
    third = HttpServer("127.0.0.1", number, registry, lambda: True)
    third.close()

    assert second.port == third.port == number
