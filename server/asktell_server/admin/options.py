"""Options that several commands have."""

from __future__ import annotations

import click

from asktell_server.app import ServerConfig

database = click.option(
    "--database",
    "--db",
    "database",
    default=ServerConfig.database,
    envvar=["ASKTELL_DATABASE", "ASKTELL_DB"],
    show_envvar=True,
    help="The database: what `asktell serve --database` is given.",
)
