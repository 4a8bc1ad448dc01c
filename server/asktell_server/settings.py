"""Kinds of settings that the command lines share, of the server and of those who operate it."""

from __future__ import annotations

from math import isfinite
from typing import Any

import click


class FiniteFloat(click.FloatRange):
    """A number within bounds, which NaN would otherwise pass, and infinity where there is no upper one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number as given. Fails if it is none."""
        number = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number
