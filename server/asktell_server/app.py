"""The composition root: every part is made here, handed what it needs, started, drained and stopped in order.

start   storage -> engine host -> gRPC port -> HTTP port -> housekeeping; then ready
stop    not ready -> (drain delay) -> watches end -> calls finish, at most the drain grace -> engine host -> storage
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from asktell.v1 import study_service_pb2, study_service_pb2_grpc
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.domain.study import Study, StudyState
from asktell_server.domain.trial import Trial
from asktell_server.engine.admission import Admission, AdmissionConfig
from asktell_server.engine.host import EngineHost, HostConfig
from asktell_server.observe.audit import AuditLog
from asktell_server.observe.http import HttpServer
from asktell_server.observe.metrics import Metrics
from asktell_server.optimizers.base import SourceStudy
from asktell_server.optimizers.registry import preload
from asktell_server.rpc.access import Gate
from asktell_server.rpc.boundary import Boundary
from asktell_server.rpc.doorkeeper import Doorkeeper
from asktell_server.rpc.health import Health
from asktell_server.rpc.reading import Registrar
from asktell_server.rpc.servicer import Servicer
from asktell_server.rpc.tls import RotatingCertificate, TlsConfig, UnusableCertificate, reaches_beyond_loopback
from asktell_server.service.asking import AskConfig, Asking
from asktell_server.service.authentication import Authenticator, StoredTokens
from asktell_server.service.certificates import CertificateRoles
from asktell_server.service.commits import Bell, Commits
from asktell_server.service.explaining import Explaining
from asktell_server.service.housekeeping import Housekeeping
from asktell_server.service.limits import Limits
from asktell_server.service.oidc import OidcConfig, OidcTokens
from asktell_server.service.reads import Reads
from asktell_server.service.studies import Studies
from asktell_server.service.transfer import read_sources
from asktell_server.service.trials import Trials
from asktell_server.service.watching import Watching
from asktell_server.storage.base import ForeignCommit, Snapshot, Storage
from asktell_server.storage.codec import UNREADABLE
from asktell_server.storage.opening import open_storage

log = structlog.get_logger()

_DESCRIPTOR = study_service_pb2.DESCRIPTOR.services_by_name["StudyService"]
SERVICE = _DESCRIPTOR.full_name
LIVENESS, READINESS = "liveness", "readiness"
_WHEN_READY = ("", READINESS, SERVICE)
# Studies among which the start looks for one with a model.
_LOOKED_AT = 50


class CannotListen(Exception):
    """A port cannot be bound, or must not be as configured; the message says which and what to change."""


@dataclass(frozen=True)
class AccessConfig:
    """Who may call. `required`: every call needs a token (`asktell token create`). `oidc`: tokens of this identity provider are taken
    too. `certificates`: whoever sends no token is known by the certificate of the TLS connection. `audit`: the file that writes and
    refusals are recorded in; None means standard error. Without `required` none of this counts.
    """

    required: bool = False
    oidc: OidcConfig | None = None
    certificates: CertificateRoles | None = None
    audit: Path | None = None


@dataclass(frozen=True)
class ServerConfig:
    """Everything that can be set.

    `database`: path of a SQLite file, ":memory:", or the URL of a PostgreSQL database (postgresql://...). `listen`, `http_listen`:
    host:port, port 0 takes a free one; `unix:PATH` is possible for gRPC; `http_listen` None means no HTTP port. `drain_delay_s`: how
    long to go on serving after a stop signal, not ready, so that load balancers notice. `drain_grace_s`: how long calls may then
    still take. `max_message_bytes`: larger requests are refused by gRPC itself; it must leave room for a clear error about an
    oversized field. `reflection`: let clients list the service. `tls`: of the gRPC port; the HTTP port has none. `insecure`: let
    `listen` reach beyond loopback without TLS or without knowing who calls.
    """

    database: str = "asktell.db"
    listen: str = "127.0.0.1:50051"
    http_listen: str | None = "127.0.0.1:8080"
    drain_delay_s: float = 0.0
    drain_grace_s: float = 10.0
    max_message_bytes: int = 16 * 1024 * 1024
    reflection: bool = True
    access: AccessConfig = field(default_factory=AccessConfig)
    tls: TlsConfig | None = None
    insecure: bool = False
    host: HostConfig = field(default_factory=HostConfig)
    ask: AskConfig = field(default_factory=AskConfig)
    admission: AdmissionConfig = field(default_factory=AdmissionConfig)
    limits: Limits = field(default_factory=Limits)


def default_workers() -> int:
    """One compute process per core, but for one core that serves."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class App:
    """A server that can be started once and stopped once."""

    def __init__(
        self,
        config: ServerConfig,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        registry: CollectorRegistry | None = None,
        storage: Storage | None = None,
    ) -> None:
        self.config = config
        self.registry = registry if registry is not None else CollectorRegistry()
        self._metrics = metrics = Metrics(self.registry, version("asktell"))
        self.storage = storage if storage is not None else open_storage(config.database, observer=metrics)
        self.storage.listen(self._heard, self._went_back)
        admission, limits = Admission(config.admission, metrics), config.limits
        self.host = EngineHost(config.host, self._load, metrics, self._load_sources, admission)
        self._bell = Bell()
        commits = Commits(self.storage, self.host, self._bell, admission.waiting_writes)
        reads = Reads(self.storage, admission.waiting_reads)
        servicer = Servicer(
            Studies(self.storage, reads, commits, clock, limits),
            Trials(self.storage, reads, commits, clock, metrics, limits),
            Asking(self.storage, commits, self.host, clock, metrics, config.ask, limits),
            Watching(reads, self._bell, metrics, admission.watches),
            Explaining(reads, self.host),
        )
        access = config.access
        gate, self._audit = None, None
        if access.required:
            authenticators: list[Authenticator] = [StoredTokens(self.storage, clock)]
            if access.oidc is not None:
                authenticators.append(OidcTokens(access.oidc))
            gate, self._audit = (
                Gate(authenticators, access.certificates),
                AuditLog(access.audit, metrics.audit_line_lost),
            )
        boundary = Boundary(metrics, gate, self._audit)
        self._servicer = boundary.guarded(servicer, _DESCRIPTOR)
        self._interceptors = [] if gate is None else [Doorkeeper(SERVICE, gate, boundary)]
        self._make_housekeeping = partial(Housekeeping, self.storage, commits, clock, metrics)
        self._health = Health()
        self._server: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._background: asyncio.Task[None] | None = None
        self._preloading: asyncio.Task[None] | None = None
        self._ready = False
        self.grpc_address = ""
        self.http_address: str | None = None

    async def start(self) -> None:
        """Serves from when it returns. Raises StorageUnavailable, CannotListen."""
        credentials = self._credentials()
        await self.storage.start()
        try:
            # What takes longest before the first ask for a model is answered is to load one: begin at once.
            self.host.warm_up(await self._active_studies())
            await self._listen(credentials)
        except BaseException:
            await self.host.stop()
            await self.storage.stop()
            raise
        self._background = asyncio.create_task(self._make_housekeeping().run())
        self._preloading = asyncio.create_task(asyncio.to_thread(preload))
        self._ready = True
        self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        for name in _WHEN_READY:
            self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info(
            "serving", grpc=self.grpc_address, tls=self.config.tls is not None, http=self.http_address,
            database=self.storage.location, pid=os.getpid(),
        )  # fmt: skip

    async def stop(self) -> None:
        """Drains and stops; what was acknowledged is on disk, what was not begun is refused."""
        log.info("draining", grace_s=self.config.drain_grace_s)
        self._ready = False
        for name in _WHEN_READY:
            self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self.config.drain_delay_s:
            await asyncio.sleep(self.config.drain_delay_s)
        if self._background is not None:
            self._background.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._background
        if self._preloading is not None:
            await self._preloading
        self._bell.close()
        self._health.close()
        if self._server is not None:
            await self._server.stop(self.config.drain_grace_s)
        if self._http is not None:
            await asyncio.to_thread(self._http.stop)
        await self.host.stop()
        await self.storage.stop()
        if self._audit is not None:
            self._audit.close()
        log.info("stopped")

    async def _active_studies(self) -> list[Study]:
        """Some of them. Raises StorageUnavailable, also if one of them cannot be read."""
        active = [StudyState.ACTIVE]
        try:
            return await self.storage.read(lambda tx: tx.studies(None, active, None, _LOOKED_AT))
        except UNREADABLE as error:
            raise StorageUnavailable(
                f"the database holds a study that cannot be read; see `asktell doctor` ({type(error).__name__}: {error})"
            ) from error

    def _credentials(self) -> grpc.ServerCredentials | None:
        """Those of the gRPC port; None for one without TLS. Raises CannotListen."""
        config = self.config
        credentials = None
        if config.tls is not None:
            try:
                credentials = RotatingCertificate(config.tls, self._metrics.certificate_loaded).credentials()
            except UnusableCertificate as error:
                raise CannotListen(f"cannot serve TLS: {error}") from error
        open_doors = []
        if config.tls is None:
            open_doors.append(
                "without TLS whoever is on the way reads and changes everything: give --tls-cert and --tls-key"
            )
        if not config.access.required and (config.tls is None or config.tls.client_ca is None):
            open_doors.append("without --auth (or --oidc, or --tls-client-ca) whoever connects may do everything")
        if open_doors and reaches_beyond_loopback(config.listen):
            if not config.insecure:
                raise CannotListen(
                    f"{config.listen} can be reached from other machines; {'; '.join(open_doors)}. Or listen on 127.0.0.1, or say "
                    "--insecure if the network between clients and server can be trusted, or protects by itself"
                )
            for door in open_doors:
                log.warning(f"insecure: {door}", listen=config.listen)
        return credentials

    async def _listen(self, credentials: grpc.ServerCredentials | None) -> None:
        if self.config.listen.startswith("unix:") and _answers(self.config.listen):
            raise CannotListen(f"cannot listen on gRPC {self.config.listen}: in use; change --listen")
        server = grpc.aio.server(
            interceptors=self._interceptors,
            options=[
                # Replies have budgets of their own (`service/reading.py`), so what is sent has no limit here.
                ("grpc.max_receive_message_length", self.config.max_message_bytes),
                # A second server on the same port must fail instead of taking half of the calls.
                ("grpc.so_reuseport", 0),
                # Long training jobs keep idle channels through proxies: allow pings every 10 s, send one every minute.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        registrar: Any = Registrar(server, ours=SERVICE)  # of the server, generated code needs no more
        study_service_pb2_grpc.add_StudyServiceServicer_to_server(self._servicer, registrar)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, registrar)
        if self.config.reflection:
            names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server(
                reflection.aio.ReflectionServicer(names), registrar
            )
        if self.config.http_listen is not None:
            host, port = _split(self.config.http_listen)
            try:
                self._http = HttpServer(host, port, self.registry, lambda: self._ready)
            except OSError as error:
                raise CannotListen(
                    f"cannot listen on HTTP {self.config.http_listen}: {error.strerror}; change --http-listen"
                ) from error
            self.http_address = f"{host}:{self._http.port}"
        try:
            port = (
                server.add_insecure_port(self.config.listen)
                if credentials is None
                else server.add_secure_port(self.config.listen, credentials)
            )
        except RuntimeError as error:
            if self._http is not None:
                self._http.close()
            raise CannotListen(
                f"cannot listen on gRPC {self.config.listen}: in use or not an address here; change --listen"
            ) from error
        unix = self.config.listen.startswith("unix:")
        self.grpc_address = self.config.listen if unix else f"{_split(self.config.listen)[0]}:{port}"
        await server.start()
        self._server = server
        if self._http is not None:
            self._http.start()

    async def _load(self, study_id: int, after_revision: int) -> tuple[Study, list[Trial]] | None:
        def work(tx: Snapshot) -> tuple[Study, list[Trial]] | None:
            study = tx.study_by_id(study_id)
            return None if study is None else (study, tx.history(study_id, after_revision))

        return await self.storage.read(work)

    def _heard(self, changed: Sequence[ForeignCommit]) -> None:
        """Takes note of what other servers did, or, if that is nothing, of the chance that something was missed."""
        for commit in changed:
            if commit.revision:
                self.host.overtaken(commit.study_id, commit.revision)
            else:
                self.host.forget(commit.study_id)
            self._bell.ring(commit.study_id)
        if not changed:
            self._bell.ring_all()

    def _went_back(self) -> None:
        self.host.went_back()
        self._bell.ring_all()

    async def _load_sources(self, study: Study) -> tuple[SourceStudy, ...]:
        return await self.storage.read(lambda tx: read_sources(tx, study))


def _answers(listen: str) -> bool:
    """Whether somebody listens on a Unix socket already: gRPC would take its file away."""
    path = unquote(listen.removeprefix("unix:").removeprefix("//"))
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):  # nothing, or what a server that was killed left behind
            return False
        except OSError:  # a queue that is full, or what is not ours
            return True
    return True


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
