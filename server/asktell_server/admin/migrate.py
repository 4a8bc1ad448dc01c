"""`asktell migrate`: the schema of a database brought up to date without serving it.

A server does the same when it starts. The command is for those who want it done, or refused, before.
"""

from __future__ import annotations

import asyncio

import click

from asktell_server.admin import options
from asktell_server.domain.errors import StorageUnavailable
from asktell_server.storage.opening import open_storage


class _Silent:
    def committed(self, seconds: float, works: int) -> None:
        """Nobody is told."""


@click.command()
@options.database
def migrate(database: str) -> None:
    """Bring a database's schema up to date; a new database is made."""

    async def upgrade() -> None:
        storage = open_storage(database, observer=_Silent())
        await storage.start()
        await storage.stop()

    try:
        asyncio.run(upgrade())
    except StorageUnavailable as error:
        raise click.ClickException(str(error)) from error
    click.echo("the schema is up to date")
