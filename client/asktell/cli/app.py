"""The root command: global options, how errors look, and the commands that run something else (serve, demo)."""

from __future__ import annotations

import importlib.util
import os
import sys

import click

from asktell._targets import resolve_target
from asktell.access import Tls
from asktell.cli.numbers import FiniteFloat
from asktell.cli.output import printable
from asktell.cli.problems import BadInput
from asktell.cli.session import Session
from asktell.cli.studies import study
from asktell.cli.transfer import export, import_
from asktell.cli.trials import ask, trial
from asktell.cli.watching import watch
from asktell.errors import AskTellError, TlsFailed, Unavailable
from asktell.names import DEFAULT_PROJECT, is_id

INTERRUPTED = 130
_FILE = click.Path(dir_okay=False)
_EPILOG = """Tables on a terminal, tab-separated text elsewhere, JSON with --json. Exit status: 0 done, 1 refused or failed
(stderr says why), 2 wrong usage.

\b
Shell completion, for bash (zsh and fish likewise):
  eval "$(_ASKTELL_COMPLETE=bash_source asktell)"
"""


class _Failure(click.ClickException):
    """What the client or the server refused, with every violation."""

    exit_code = 1

    def show(self, file: object = None) -> None:  # noqa: ARG002 - click's signature
        click.echo(printable(f"asktell: {self.message}"), err=True)


def _told(error: AskTellError | BadInput) -> list[str]:
    """The message, or where single fields are to blame, these: the server's message only strings them together."""
    if isinstance(error, AskTellError) and error.violations:
        return ["the server refuses this:", *map(str, error.violations)]
    return [str(error)]


class _Root(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except (AskTellError, BadInput) as error:
            lines = [*_told(error), *getattr(error, "__notes__", [])]
            if isinstance(error, Unavailable) and not isinstance(error, TlsFailed):
                target = resolve_target(ctx.params["target"])
                lines.append(f"is there a server at {target}? `asktell serve` starts one, --target names another")
            raise _Failure("\n  ".join(lines)) from None
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


def _project(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not is_id(value):
        raise click.BadParameter(f"{value!r} is not the id of a project")
    return value


@click.group(cls=_Root, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--target",
    envvar="ASKTELL_TARGET",
    show_envvar=True,
    metavar="HOST:PORT",
    help="The server. [default: localhost:50051]",
)
@click.option(
    "--project",
    envvar="ASKTELL_PROJECT",
    show_envvar=True,
    default=DEFAULT_PROJECT,
    show_default=True,
    callback=_project,
    help="The project of studies that are given by id.",
)
@click.option(
    "--timeout",
    type=FiniteFloat(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="Give up on a call after so long, retries included.",
)
@click.option("--tls/--no-tls", default=None, help="Whether to use TLS. [env var: ASKTELL_TLS, 1 or 0]")
@click.option(
    "--tls-ca", type=_FILE, help="TLS, with a server known to these authorities, in PEM. [env var: ASKTELL_TLS_CA]"
)
@click.option("--tls-cert", type=_FILE, help="This client's certificate, in PEM. [env var: ASKTELL_TLS_CERT]")
@click.option("--tls-key", type=_FILE, help="Its private key, in PEM. [env var: ASKTELL_TLS_KEY]")
@click.option(
    "--token",
    metavar="TOKEN",
    help="The token that says who calls; other users of this machine can see it here, not in the variable. "
    "[env var: ASKTELL_TOKEN]",
)
@click.option("--token-file", type=_FILE, help="The file that the token is in. [env var: ASKTELL_TOKEN_FILE]")
@click.option(
    "--insecure/--no-insecure",
    default=None,
    help="Whether the token may go to another machine without TLS. [env var: ASKTELL_INSECURE, 1 or 0]",
)
@click.version_option(package_name="asktell", prog_name="asktell")
@click.pass_context
def root(
    ctx: click.Context,
    target: str | None,
    project: str,
    timeout: float,
    tls: bool | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    token: str | None,
    token_file: str | None,
    insecure: bool | None,
) -> None:
    """AskTell: ask what to try, tell what came out.

    STUDY is a study's id or its full name, projects/PROJECT/studies/STUDY.
    """
    # What is not given here is left to `connect`, which reads the variables.
    named = tls_ca or tls_cert or tls_key
    if tls is False and named:
        raise click.UsageError("--no-tls goes with none of --tls-ca, --tls-cert and --tls-key")
    ctx.obj = ctx.with_resource(
        Session(
            target,
            project,
            timeout,
            tls=Tls(
                tls_ca or os.environ.get("ASKTELL_TLS_CA") or None,
                tls_cert or os.environ.get("ASKTELL_TLS_CERT") or None,
                tls_key or os.environ.get("ASKTELL_TLS_KEY") or None,
            )
            if named
            else tls,
            token=token,
            token_file=token_file,
            insecure=insecure,
        )
    )


_PASS_ON = {"ignore_unknown_options": True, "allow_interspersed_args": False}
_OPERATOR_COMMANDS = {
    "migrate": "Bring a database's schema up to date",
    "token": "Create, list and revoke bearer tokens",
    "backup": "Copy a database while it is in use",
    "restore": "Put a backup in the place of a database",
    "doctor": "Say what is wrong with a database",
}


def _run_module(*command: str) -> None:
    """Becomes another Python process."""
    if importlib.util.find_spec("asktell_server") is None:
        raise _Failure("the server is not installed: pip install 'asktell[server]'")
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", *command])


@root.command(add_help_option=False, context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def serve(arguments: tuple[str, ...]) -> None:
    """Run the server (`asktell serve --help`)."""
    _run_module("asktell_server", *arguments)


def _operator_command(name: str, summary: str) -> click.Command:
    """A command on the server's database (`asktell_server.admin`)."""

    @click.command(name, add_help_option=False, context_settings=_PASS_ON, help=f"{summary} (`asktell {name} --help`).")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def command(arguments: tuple[str, ...]) -> None:
        _run_module("asktell_server.admin", name, *arguments)

    return command


for _name, _summary in _OPERATOR_COMMANDS.items():
    root.add_command(_operator_command(_name, _summary))


@root.command(add_help_option=False, context_settings=_PASS_ON)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Tune a real network (`asktell demo --help`)."""
    from asktell.demo import main

    sys.exit(main(arguments))


root.add_command(study)
root.add_command(trial)
root.add_command(ask)
root.add_command(export)
root.add_command(import_)
root.add_command(watch)
