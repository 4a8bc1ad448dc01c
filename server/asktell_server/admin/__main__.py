"""The commands by name; each says its failures in a line and ends with a status other than 0."""

from __future__ import annotations

import click

from asktell_server.admin.backup import backup, restore
from asktell_server.admin.doctor import doctor
from asktell_server.admin.migrate import migrate
from asktell_server.admin.token import token


@click.group(name="asktell", context_settings={"show_default": True, "max_content_width": 120})
def commands() -> None:
    """Operate AskTell's database."""


for command in (migrate, token, backup, restore, doctor):
    commands.add_command(command)

if __name__ == "__main__":
    commands(prog_name="asktell")
