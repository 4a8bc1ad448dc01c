"""Numbers that are none, in the options of every command: click's own kinds let them through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asktell.cli.app import root
from asktell_server.admin.__main__ import commands
from asktell_server.cli import main

NONE = ["nan", "-nan", "inf", "-inf", "1e999"]


def _options(command: click.Command, *path: str) -> Iterator[tuple[tuple[str, ...], click.Option]]:
    """Every option that takes a number with a fraction, with the names of the commands that lead to it."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.type.name.startswith("float"):
            yield path, parameter
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _options(inner, *path, name)


SERVED = [option for _, option in _options(main)]


def _flag(option: click.Option) -> str:
    return max(option.opts, key=len)


def _refused(command: click.Command, arguments: list[str], flag: str, **environment: str) -> str:
    # A server that takes the number after all ends at its database.
    done = CliRunner().invoke(command, arguments, env={"ASKTELL_DATABASE": "/nowhere/at/all.db", **environment})
    assert done.exit_code == 2, (arguments, done.output)
    assert f"Invalid value for '{flag}'" in done.stderr
    return done.stderr


@pytest.mark.parametrize("number", NONE)
def test_no_flag_takes_them(number: str) -> None:
    """Neither those of the client's commands, nor of the server, nor of those for operators; the message names the flag."""
    found = [(command, *option) for command in (root, main, commands) for option in _options(command)]
    for command, path, option in found:
        inner = ["study", "list"] if command is root else []
        _refused(command, [*path, f"{_flag(option)}={number}", *inner], _flag(option))

    flags = {_flag(option) for *_, option in found}
    assert flags >= {
        "--timeout",
        "--job-limit-s",
        "--ask-timeout-s",
        "--drain-delay-s",
        "--drain-grace-s",
        "--stale-days",
    }


@pytest.mark.parametrize("number", NONE)
@pytest.mark.parametrize("option", SERVED, ids=_flag)
def test_neither_the_environment_nor_the_file_sets_them(tmp_path: Path, option: click.Option, number: str) -> None:
    """A number that is none is as wrong there as in a flag; the message also says where it stood."""
    variable = f"ASKTELL_{str(option.name).upper()}"
    file = tmp_path / "settings.toml"

    said = _refused(main, [], _flag(option), **{variable: number})
    assert variable in said
    for value in (number, repr(number)) if number != "1e999" else (repr(number),):
        file.write_text(f"{option.name} = {value}\n")
        assert "TOML" in _refused(main, ["--config", str(file)], _flag(option))


@pytest.mark.parametrize("number", NONE)
def test_no_standard_error_is_one(number: str) -> None:
    """The command is refused before anything is sent."""
    arguments = ["trial", "tell", "s", "1", "loss=1", "--standard-error", f"loss={number}"]

    assert number in _refused(root, arguments, "--standard-error")
