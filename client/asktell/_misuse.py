"""Arguments of wrong types, said by their names: protobuf's own errors name neither the argument nor where it belongs."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_INT64 = 2**63


def check_words(labels: object, **texts: object) -> None:
    """Raises TypeError that names all that is no text."""
    wrong = [f"{name} is text, not {text!r}" for name, text in texts.items() if not isinstance(text, str | None)]
    if isinstance(labels, Mapping | None):
        wrong += [
            f"labels: a key and its label are text, not {key!r}: {label!r}"
            for key, label in (labels or {}).items()
            if not (isinstance(key, str) and isinstance(label, str))
        ]
    else:
        wrong.append(f"labels is a mapping, not {labels!r}")
    if wrong:
        raise TypeError("; ".join(wrong))


def whole_numbers(**numbers: object) -> dict[str, int | None]:
    """Each number as an int, None where there is none. Raises TypeError that names all that are no whole numbers, NumPy's being welcome,
    or ValueError for what nobody can count to.
    """
    found: dict[str, int | None] = {}
    wrong = []
    for name, number in numbers.items():
        try:
            if isinstance(number, bool):
                raise TypeError
            found[name] = None if number is None else operator.index(number)  # type: ignore[arg-type]  # that is the question
        except TypeError:
            wrong.append(f"{name} is a whole number, not {type(number).__name__}: {number!r}")
    if wrong:
        raise TypeError("; ".join(wrong))
    large = [f"{name} is below 2**63, not {n}" for name, n in found.items() if n is not None and abs(n) >= _INT64]
    if large:
        raise ValueError("; ".join(large))
    return found


@contextmanager
def naming(what: str) -> Iterator[None]:
    """Puts a name before what is said of a wrong type or value."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}: {error}") from None
