"""The HTTP port: /metrics for Prometheus, /livez and /readyz for whoever cannot speak gRPC health."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


# Each connection has a thread; more at once are closed. A scraper and a kubelet need one each, and must find a place beside others.
MOST_CONNECTIONS = 256


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS  # connections that wait to be taken; five, the default, are lost to any burst

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serves a connection in a thread of its own, if there is a place."""
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serves a connection, then frees its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a client that went away or sent what nobody can read."""

    def server_bind(self) -> None:
        self._places = threading.BoundedSemaphore(MOST_CONNECTIONS)
        # As the base class does, but without asking DNS for this machine's name.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Incoming(socket.SocketIO):
    """What a client sends within so many seconds, from now; after them, reading raises TimeoutError."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        super().__init__(connection, "r")
        self._connection, self._seconds = connection, seconds
        self._end = time.monotonic() + seconds

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        try:
            return super().readinto(buffer)
        finally:
            self._connection.settimeout(self._seconds)  # for the answer


class _QuietHandler(WSGIRequestHandler):
    timeout = 5  # a client that says nothing, or little at a time, must not hold a place for long

    def setup(self) -> None:
        """As the base class, whose timeout is that of each piece of a request, for all of it."""
        super().setup()
        self.rfile = io.BufferedReader(_Incoming(self.connection, self.timeout))

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing: scrapes are no news."""


def application(registry: CollectorRegistry, ready: Callable[[], bool]) -> WSGIApplication:
    """The WSGI application behind the port."""
    metrics = make_wsgi_app(registry)

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "/")
        if path == "/metrics":
            scraped: Iterable[bytes] = metrics(environ, start_response)
            return scraped
        if path == "/livez" or (path == "/readyz" and ready()):
            status, body = "200 OK", b"ok\n"
        elif path == "/readyz":
            status, body = "503 Service Unavailable", b"not ready\n"
        else:
            status, body = "404 Not Found", b"there is /metrics, /livez and /readyz\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))])
        return [body]

    return answer


class HttpServer:
    """Serves the application from a thread of its own."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        """Binds the port (0 takes a free one). Raises OSError."""
        self._server = make_server(
            host, port, application(registry, ready), _Server6 if ":" in host else _Server, _QuietHandler
        )
        self._thread = threading.Thread(target=self._server.serve_forever, name="http", daemon=True)

    @property
    def port(self) -> int:
        """The bound port."""
        return self._server.server_port

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def close(self) -> None:
        """Frees the port of a server that was never started."""
        self._server.server_close()

    def stop(self) -> None:
        """Stops and frees the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=5)
