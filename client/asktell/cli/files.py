"""Reading YAML and JSON documents without surprises.

Both forms refuse a key that is given twice, since the first would be lost in silence. YAML is read by the scalar rules of
YAML 1.2 (core schema), so that `1e-5` is a number, `no` and `on` are words and `2024-01-01` is text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from asktell.cli.problems import BadInput


class _CoreLoader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2 and no repeated keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's own declaration

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are all different."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                said = "a key is text; put what begins with a brace or a bracket in quotes"
                raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# Source: YAML 1.2.2, section 10.3.2 "Tag Resolution".
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})$"), ["" if c == "\0" else c for c in _first]
    )
# SafeLoader reads 010 as octal and knows no exponent without a dot; the patterns above let only decimals through.
_CoreLoader.add_constructor("tag:yaml.org,2002:int", lambda _loader, node: int(node.value))
_CoreLoader.add_constructor("tag:yaml.org,2002:float", lambda _loader, node: float(node.value))


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{next(key for key in keys if keys.count(key) > 1)!r} is given twice")
    return mapping


def parse_json(text: str, where: str) -> Any:
    """The value of a JSON document. Raises BadInput."""
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except ValueError as error:
        raise BadInput(where, [f"it is not JSON: {error}"]) from error
    except RecursionError:
        raise BadInput(where, ["it is nested too deeply"]) from None


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML document. Raises BadInput."""
    try:
        return yaml.load(text, _CoreLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a number of thousands of digits
        raise BadInput(where, [f"it is not YAML: {error}"]) from error
    except RecursionError:
        raise BadInput(where, ["it is nested too deeply"]) from None


def read_text(path: Path) -> str:
    """The file's text, UTF-8, its line ends as they are. Raises BadInput."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise BadInput(str(path), [reason or str(error)]) from error


def read_document(path: Path) -> Any:
    """The value of a file: JSON when its name ends in `.json`, YAML otherwise. Raises BadInput."""
    text = read_text(path)
    return parse_json(text, str(path)) if path.suffix.lower() == ".json" else parse_yaml(text, str(path))
