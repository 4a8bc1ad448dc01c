"""Numbers in options: click lets NaN through any bounds, and infinity where there is no upper one."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click


class FiniteFloat(click.FloatRange):
    """A number within bounds that is one. (The server's options have the same; client and server share no code.)"""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as given. Fails if it is none."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


def metric(text: str) -> tuple[str, float]:
    """The metric and the value of `accuracy=0.93`. What the server says to a value that is not finite is left to it."""
    name, equals, number = text.rpartition("=")
    try:
        if equals and name:
            return name, float(number)
    except ValueError:
        pass  # as wrong as having no "="
    raise click.BadParameter(f"{text!r} is not of the form METRIC=VALUE with a number, such as accuracy=0.93")


def standard_error(text: str) -> tuple[str, float]:
    """As `metric`, with a finite number."""
    name, number = metric(text)
    if not isfinite(number):
        raise click.BadParameter(f"{text!r} is not of the form METRIC=VALUE with a finite number")
    return name, number
