"""`asktell token`: bearer tokens, made, listed and revoked. Works while servers run; a revocation takes effect within seconds."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click

from asktell.names import is_id
from asktell_server.admin import options
from asktell_server.domain.access import Grant, Role, Token, grants
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.service.authentication import issue
from asktell_server.storage import codec
from asktell_server.storage.base import Transaction
from asktell_server.storage.beside import write_beside

T = TypeVar("T")

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=36_500)


class Duration(click.ParamType[timedelta]):
    """Such as 90d, 12h or 30m."""

    name = "duration"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """The duration. Fails if it is none, or longer than a century."""
        match = re.fullmatch(r"([1-9][0-9]{0,8})([mhd])", value)
        found = timedelta(**{_UNITS[match[2]]: int(match[1])}) if match else None
        if found is None or found > _LONGEST:
            self.fail(f"{value!r} is not a duration of at most 100 years; write 90d, 12h or 30m", param, ctx)
        return found


def _project(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [project for project in value if project != "*" and not is_id(project)]
    if wrong:
        raise click.BadParameter(f"not ids of projects: {', '.join(map(repr, wrong))}", ctx, param)
    return value


def _run(database: str, work: Callable[[Transaction], T]) -> T:
    try:
        return write_beside(database, work)
    except StorageUnavailable as error:
        raise click.ClickException(str(error)) from error
    except codec.UNREADABLE as error:
        raise click.ClickException(
            f"the database holds a token that cannot be read; see `asktell doctor` ({error})"
        ) from error


@click.group(context_settings={"show_default": True})
def token() -> None:
    """Create, list and revoke bearer tokens."""


@token.command()
@click.argument("name")
@click.option(
    "--role", type=click.Choice([role.name.lower() for role in Role]), required=True, help="What the holder may do."
)
@click.option(
    "--project", "projects", multiple=True, required=True, callback=_project, help="Where; again for more; '*' is all."
)
@click.option("--expires-in", type=Duration(), help="Such as 90d, 12h, 30m.  [default: never]")
@options.database
def create(name: str, role: str, projects: tuple[str, ...], expires_in: timedelta | None, database: str) -> None:
    """Make a token and print it, this one time. NAME is for people: logs show it."""
    if not 1 <= len(name) <= 128 or not name.isprintable():
        raise click.BadParameter("must have 1 to 128 printable characters", param_hint="NAME")
    now = datetime.now(UTC)
    expire_time = None if expires_in is None else now + expires_in
    text, made = issue(name, grants(Role[role.upper()], projects), now, expire_time)
    _run(database, lambda tx: tx.insert_token(made))
    until = "never expires" if expire_time is None else f"expires {expire_time:%Y-%m-%d %H:%M} UTC"
    click.echo(f"token {made.id} for {name!r}: {_shown(made.grants)}; {until}. It is shown only now:", err=True)
    click.echo(text)


@token.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@options.database
def list_(as_json: bool, database: str) -> None:
    """Show all tokens, never their secrets."""
    now = datetime.now(UTC)
    for found in _run(database, lambda tx: tx.tokens()):
        state = "revoked" if found.revoke_time else "expired" if found.is_expired(now) else "active"
        if as_json:
            click.echo(json.dumps(_plain(found, state)))
        else:
            click.echo(f"{found.id}  {state:<8} {found.create_time:%Y-%m-%d}  {_shown(found.grants)}  {found.name}")


@token.command()
@click.argument("token_id", metavar="ID")
@options.database
def revoke(token_id: str, database: str) -> None:
    """Make a token good for nothing from now on."""
    if not _run(database, lambda tx: tx.revoke_token(token_id, datetime.now(UTC))):
        click.echo(f"there is no token {token_id!r} that is not revoked (asktell token list)", err=True)
        sys.exit(1)
    click.echo(f"token {token_id} is revoked")


def _shown(held: tuple[Grant, ...]) -> str:
    return ", ".join(f"{grant.role.name.lower()} in {grant.project or 'all projects'}" for grant in held)


def _plain(found: Token, state: str) -> dict[str, object]:
    return {
        "id": found.id,
        "name": found.name,
        "state": state,
        "grants": [{"role": grant.role.name.lower(), "project": grant.project or "*"} for grant in found.grants],
        "create_time": found.create_time.isoformat(),
        "expire_time": None if found.expire_time is None else found.expire_time.isoformat(),
        "revoke_time": None if found.revoke_time is None else found.revoke_time.isoformat(),
    }
