"""The command line of the server: flags, environment and a TOML file, read in this one place.

A flag wins over the environment, the environment over the file, the file over the default; click checks each value and says
what to change.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import signal
import sys
import threading
import tomllib
from collections.abc import Callable
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import structlog
import uvloop
from click.core import ParameterSource

from asktell_server.app import AccessConfig, App, CannotListen, ServerConfig, default_workers
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.engine.admission import AdmissionConfig, QueueLimits
from asktell_server.engine.host import HostConfig
from asktell_server.engine.pool import PoolConfig
from asktell_server.observe import logs
from asktell_server.rpc.tls import TlsConfig
from asktell_server.service.asking import AskConfig
from asktell_server.service.bindings import BadConfig
from asktell_server.service.certificates import CertificateRoles
from asktell_server.service.limits import Limits
from asktell_server.service.oidc import OidcConfig
from asktell_server.settings import FiniteFloat

log = structlog.get_logger()

F = TypeVar("F", bound=Callable[..., object])

_FIT_DEVICE = re.compile(r"auto|cpu|cuda(:[0-9]{1,3})?")
_ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9_.\-]+):([0-9]{1,5})")


class Address(click.ParamType[str]):
    """host:port, where the port may be 0."""

    name = "host:port"

    def __init__(self, *other_forms: str) -> None:
        self._other_forms = other_forms

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address as given. Fails if it is not one."""
        if any(
            value.startswith(form) and value != form if form.endswith(":") else value == form
            for form in self._other_forms
        ):
            return value
        match = _ADDRESS.fullmatch(value)
        if match is None or int(match[2]) > 65_535:
            also = "".join(f", or {form}{'PATH' if form.endswith(':') else ''}" for form in self._other_forms)
            self.fail(f"{value!r} is not an address; write host:port, such as 127.0.0.1:50051{also}", param, ctx)
        return value


def _read_file(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
    """Makes what a TOML file sets the default of the other options."""
    if value is None:
        return None
    try:
        settings = tomllib.loads(value.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise click.BadParameter(f"cannot read {value}: {error}", ctx, param) from error
    known = {
        p.name: p
        for p in ctx.command.params
        if isinstance(p, click.Option) and p.name not in ("config", "help", "version")
    }
    settings = {key.replace("-", "_"): setting for key, setting in settings.items()}
    settings = {"database" if key == "db" else key: setting for key, setting in settings.items()}
    unknown = sorted(set(settings) - set(known))
    if unknown:
        listed = ", ".join(sorted(name for name in known if name))
        raise click.BadParameter(f"{value} sets unknown {', '.join(unknown)}; known are {listed}", ctx, param)
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return value


class FitDeviceName(click.ParamType[str]):
    """auto, cpu, cuda or cuda:N."""

    name = "device"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The device as given. Fails if it is not one."""
        if not _FIT_DEVICE.fullmatch(value):
            self.fail(f"{value!r} is none of auto, cpu, cuda, and cuda:N for the GPU of that number", param, ctx)
        return value


class _Serve(click.Command):
    """A command that says where a wrong value came from when it was not a flag."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Reads the settings. Raises BadParameter."""
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            param = error.param
            source = ctx.get_parameter_source(param.name) if isinstance(param, click.Option) and param.name else None
            if param is None or source not in (ParameterSource.ENVIRONMENT, ParameterSource.DEFAULT_MAP):
                raise
            in_environment = source is ParameterSource.ENVIRONMENT
            where = f"ASKTELL_{str(param.name).upper()}" if in_environment else f"{param.name} in the TOML file"
            raise click.BadParameter(f"{error.message} It was set by {where}.", ctx, param) from None


_DEFAULT = ServerConfig()
_SCOPES = {"": "in all", "_per_project": "of one project", "_per_study": "of one study"}


def _limit_options(command: F) -> F:
    """Adds an option for each limit of `Limits` and for the three bounds of each queue."""
    options = [
        (f"max_{f.name}", getattr(_DEFAULT.limits, f.name), f.metadata["most"], f"Limit: {f.metadata['what']}")
        for f in fields(Limits)
    ]
    for f in fields(AdmissionConfig):
        bounds = astuple(getattr(_DEFAULT.admission, f.name))
        for (scope, whose), default in zip(_SCOPES.items(), bounds, strict=True):
            text = f"Queue: {f.metadata['what']}, {whose}; more are refused with RESOURCE_EXHAUSTED."
            options.append((f"max_{f.name}{scope}", default, None, text))
    for name, default, most, text in reversed(options):
        flag = f"--{name.replace('_', '-')}"
        add = click.option(flag, type=click.IntRange(1, most), default=default, show_envvar=True, help=text)
        command = add(command)
    return command


_FILE = click.Path(dir_okay=False, path_type=Path)


def _tls(options: dict[str, Any]) -> TlsConfig | None:
    """What the TLS options mean together. Raises UsageError when one lacks its partner."""
    cert, key, client_ca = options["tls_cert"], options["tls_key"], options["tls_client_ca"]
    if cert is not None and key is not None:
        return TlsConfig(cert, key, client_ca)
    if (cert, key, client_ca) == (None, None, None):
        return None
    given = [name for name in ("tls_cert", "tls_key", "tls_client_ca") if options[name] is not None]
    raise click.UsageError(
        f"--tls-cert and --tls-key belong together, and --tls-client-ca needs both; there is only "
        f"{' and '.join('--' + name.replace('_', '-') for name in given)}"
    )


@click.command(
    name="asktell serve",
    cls=_Serve,
    context_settings={"auto_envvar_prefix": "ASKTELL", "show_default": True, "max_content_width": 120},
    epilog="Each option can also be set in the environment (the name in brackets) or in the TOML file, by its name with '_' for "
    "'-': database = \"/var/lib/asktell/asktell.db\". Flags win over the environment, the environment over the file.",
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_read_file,
    show_envvar=True,
    help="TOML file with settings.",
)
@click.option(
    "--database",
    "--db",
    default=_DEFAULT.database,
    envvar=["ASKTELL_DATABASE", "ASKTELL_DB"],
    show_envvar=True,
    help="SQLite file, made if missing; ':memory:' keeps nothing; or postgresql://user@host/database, which several servers may share.",
)
@click.option(
    "--listen",
    type=Address("unix:"),
    default=_DEFAULT.listen,
    show_envvar=True,
    help="gRPC address; port 0 takes a free one.",
)
@click.option(
    "--http-listen",
    type=Address("none"),
    default=_DEFAULT.http_listen,
    show_envvar=True,
    help="HTTP address (metrics, health), or none.",
)
@click.option(
    "--auth/--no-auth", default=_DEFAULT.access.required, show_envvar=True,
    help="Every call needs a bearer token (asktell token create).",
)  # fmt: skip
@click.option(
    "--oidc", type=click.Path(exists=True, dir_okay=False, path_type=Path), show_envvar=True,
    help="TOML file about an identity provider whose tokens are taken too; implies --auth.",
)  # fmt: skip
@click.option(
    "--audit-log", type=click.Path(dir_okay=False, path_type=Path), show_envvar=True,
    help="With --auth: record writes and refusals in this file.  [default: standard error]",
)  # fmt: skip
@click.option(
    "--tls-cert", type=_FILE, show_envvar=True,
    help="Certificate (chain) of the gRPC port, in PEM; read again when it changes.",
)  # fmt: skip
@click.option("--tls-key", type=_FILE, show_envvar=True, help="Its private key, in PEM.")
@click.option(
    "--tls-client-ca", type=_FILE, show_envvar=True,
    help="Let in only clients with a certificate of these authorities (mutual TLS).",
)  # fmt: skip
@click.option(
    "--tls-client-roles", type=click.Path(exists=True, dir_okay=False, path_type=Path), show_envvar=True,
    help="TOML file with the roles of clients by their certificates, for those without a token; implies --auth.",
)  # fmt: skip
@click.option(
    "--insecure", is_flag=True, show_envvar=True,
    help="Allow a gRPC address beyond loopback without TLS, or without knowing who calls.",
)  # fmt: skip
@click.option(
    "--workers",
    type=click.IntRange(1, 256),
    default=default_workers,
    show_default="cores - 1",
    show_envvar=True,
    help="Compute processes.",
)
@click.option(
    "--job-limit-s", type=FiniteFloat(1, 86_400), default=_DEFAULT.host.pool.job_limit_s, show_envvar=True,
    help="A compute process busy longer than this with one suggestion is replaced.",
)  # fmt: skip
@click.option(
    "--studies-per-worker", type=click.IntRange(1), default=_DEFAULT.host.pool.studies_per_worker, show_envvar=True,
    help="Models kept warm in one compute process.",
)  # fmt: skip
@click.option(
    "--fit-device", type=FitDeviceName(), default=_DEFAULT.host.pool.fit_device, show_envvar=True, metavar="DEVICE",
    help="Where the largest fits run: auto (a GPU if torch sees one, else the CPU), cpu, cuda, or cuda:N. A GPU computes other last digits "
    "than a CPU, and may come to other suggestions: where several servers are to suggest the same, give all of them cpu.",
)  # fmt: skip
@click.option(
    "--live-studies",
    type=click.IntRange(1),
    default=_DEFAULT.host.live_studies,
    show_envvar=True,
    help="Studies held in memory.",
)
@click.option(
    "--live-trials",
    type=click.IntRange(1),
    default=_DEFAULT.host.live_trials,
    show_envvar=True,
    help="Trials of the studies held in memory, together.",
)
@click.option(
    "--look-ahead/--no-look-ahead",
    default=_DEFAULT.host.look_ahead,
    show_envvar=True,
    help="Make the next suggestion before it is asked for.",
)
@click.option(
    "--max-lag", type=click.IntRange(0), default=_DEFAULT.host.max_lag, show_envvar=True,
    help="Results that a suggestion made ahead may not have seen yet.",
)  # fmt: skip
@click.option(
    "--ask-timeout-s", type=FiniteFloat(0.1, 3600), default=_DEFAULT.ask.timeout_s, show_envvar=True,
    help="How long an ask without a deadline may wait for a model before it falls back.",
)  # fmt: skip
@click.option(
    "--drain-delay-s", type=FiniteFloat(0, 3600), default=_DEFAULT.drain_delay_s, show_envvar=True,
    help="After SIGTERM: go on serving for so long, reported as not ready.",
)  # fmt: skip
@click.option(
    "--drain-grace-s", type=FiniteFloat(0, 3600), default=_DEFAULT.drain_grace_s, show_envvar=True,
    help="After that: how long calls may still take.",
)  # fmt: skip
@click.option(
    "--max-message-mib", type=click.IntRange(1, 1024), default=_DEFAULT.max_message_bytes // 2**20, show_envvar=True,
    help="Largest request; gRPC itself refuses more. What replies hold does not depend on it.",
)  # fmt: skip
@_limit_options
@click.option(
    "--reflection/--no-reflection", default=_DEFAULT.reflection, show_envvar=True, help="Let clients list the service."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_envvar=True,
    help="Least severe message to log.",
)
@click.option(
    "--log-format",
    type=click.Choice(["auto", "json", "console"]),
    default="auto",
    show_envvar=True,
    help="auto: JSON unless on a terminal.",
)
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), show_envvar=True,
    help='Once serving, write {"grpc": ADDRESS, "http": ADDRESS} to this file.',
)  # fmt: skip
@click.option("--stop-with-parent", is_flag=True, show_envvar=True, help="Drain and stop when standard input ends.")
@click.version_option(package_name="asktell", prog_name="asktell serve")
def main(**options: Any) -> None:
    """Serve studies over gRPC until SIGTERM or Ctrl-C, then drain and stop."""
    logs.setup(options["log_level"], options["log_format"])
    config = ServerConfig(
        database=options["database"],
        listen=options["listen"],
        http_listen=None if options["http_listen"] == "none" else options["http_listen"],
        drain_delay_s=options["drain_delay_s"],
        drain_grace_s=options["drain_grace_s"],
        max_message_bytes=options["max_message_mib"] * 2**20,
        reflection=options["reflection"],
        tls=_tls(options),
        insecure=options["insecure"],
        host=HostConfig(
            pool=PoolConfig(
                workers=options["workers"],
                job_limit_s=options["job_limit_s"],
                studies_per_worker=options["studies_per_worker"],
                fit_device=options["fit_device"],
            ),
            live_studies=options["live_studies"],
            live_trials=options["live_trials"],
            look_ahead=options["look_ahead"],
            max_lag=options["max_lag"],
        ),
        ask=AskConfig(timeout_s=options["ask_timeout_s"]),
        access=_access(options),
        admission=AdmissionConfig(
            **{
                f.name: QueueLimits(*(options[f"max_{f.name}{scope}"] for scope in _SCOPES))
                for f in fields(AdmissionConfig)
            }
        ),
        limits=Limits(**{f.name: options[f"max_{f.name}"] for f in fields(Limits)}),
    )
    try:
        uvloop.run(_serve(config, options["ready_file"], stop_with_parent=options["stop_with_parent"]))
    except (StorageUnavailable, CannotListen) as error:
        raise click.ClickException(str(error)) from error


def _access(options: dict[str, Any]) -> AccessConfig:
    """What the options about callers mean together. Raises BadParameter, UsageError."""
    oidc, roles, audit = options["oidc"], options["tls_client_roles"], options["audit_log"]
    required = options["auth"] or oidc is not None or roles is not None
    if roles is not None and options["tls_client_ca"] is None:
        raise click.UsageError("--tls-client-roles needs --tls-client-ca, which says whose certificates count")
    if audit is not None and not required:
        raise click.UsageError("--audit-log needs --auth: without it nobody knows who calls")
    hint = "--oidc"
    try:
        provider = None if oidc is None else OidcConfig.read(oidc)
        hint = "--tls-client-roles"
        certificates = None if roles is None else CertificateRoles.read(roles)
        hint = "--audit-log"
        if audit is not None:
            audit.open("a").close()
    except BadConfig as error:
        raise click.BadParameter(str(error), param_hint=hint) from error
    except OSError as error:
        raise click.BadParameter(f"cannot write {audit}: {error.strerror}", param_hint=hint) from error
    return AccessConfig(required, provider, certificates, audit)


async def _serve(config: ServerConfig, ready_file: Path | None, *, stop_with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stopping.set)
    if stop_with_parent:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stopping), daemon=True).start()
    app = App(config)
    starting, told = asyncio.create_task(app.start()), asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, told), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _give_up(starting, config.drain_grace_s)
    await starting
    # What was made so far lives as long as the process: to look through all of it for garbage again would hold up every call.
    gc.freeze()
    if ready_file is not None:
        _write_ready_file(ready_file, app)
    await told
    await app.stop()


async def _give_up(starting: asyncio.Task[None], grace_s: float) -> NoReturn:
    """Ends the process, which does not serve yet, as after a drain."""
    starting.cancel()
    await asyncio.wait((starting,), timeout=grace_s)
    log.info("stopped before it served")
    # Python would wait for the threads of the start, and these for the database, or for another server's lock on it. Nothing is
    # lost: what they may be about to change is one transaction, and no call was answered.
    os._exit(0)


def _write_ready_file(path: Path, app: App) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps({"grpc": app.grpc_address, "http": app.http_address}), encoding="utf-8")
    partial.replace(path)


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    loop.call_soon_threadsafe(stopping.set)
