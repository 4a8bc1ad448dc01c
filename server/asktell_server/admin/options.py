"""Options that several commands have."""

from __future__ import annotations

import click

from asktell_server.app import ServerConfig

database = click.option(
    "--db",
    "database",
    default=ServerConfig.database,
    envvar="ASKTELL_DB",
    show_envvar=True,
    help="The database: what `asktell serve --db` is given.",
)
