"""The fleet file: TOML text to plain values that know their lines, and plain values to text.

What the values mean is not decided here: `domain.declarations` makes a fleet of them.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmaas.errors import ConfigurationError
from llmaas.protocol.positions import Path, locate

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_NEEDS_ESCAPE = re.compile(r'["\\\x00-\x1f\x7f]')
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_INLINE = frozenset({"price"})
"""Tables that stand on one line."""


@dataclass(frozen=True, slots=True)
class Document:
    values: dict[str, Any]
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it that the text has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def parse(text: str, name: str) -> Document:
    """`name` is what messages call the text. Raises ConfigurationError when it is not TOML."""
    try:
        values = tomllib.loads(text)
        return Document(values, locate(text))
    except tomllib.TOMLDecodeError as error:
        place = _PLACE.search(str(error))
        line = int(place[1]) if place and place[1] else text.count("\n") + 1
        message = str(error)[: place.start()] if place else str(error)
        raise ConfigurationError([f"{name}:{line}: {message}"]) from None
    except RecursionError:
        raise ConfigurationError([f"{name}: is nested too deeply"]) from None
    except ValueError as error:  # a date that does not exist, a number of thousands of digits
        raise ConfigurationError([f"{name}: {error}"]) from None


def write(values: Mapping[str, list[dict[str, Any]]]) -> str:
    """The text of lists of tables; `parse` gives the same values back."""
    blocks = [
        "\n".join(_table(f"[[{_key(name)}]]", name, table)) for name, tables in values.items() for table in tables
    ]
    return "\n\n".join(blocks) + "\n" if blocks else ""


def _table(header: str, name: str, table: Mapping[str, Any]) -> Iterator[str]:
    """Simple values first: what follows on a header of its own would swallow them."""
    apart = {key for key, value in table.items() if isinstance(value, dict) and key not in _INLINE}
    yield header
    for key, value in table.items():
        if key not in apart:
            yield f"{_key(key)} = {_value(value)}"
    for key in table:
        if key in apart:
            yield f"[{_key(name)}.{_key(key)}]"
            yield from (f"{_key(inner)} = {_value(value)}" for inner, value in table[key].items())


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{_key(key)} = {_value(item)}' for key, item in value.items())} }}" if value else "{}"
    raise TypeError(f"{type(value).__name__} has no form in a fleet file")


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _string(key)


def _string(text: str) -> str:
    return f'"{_NEEDS_ESCAPE.sub(_escaped, text)}"'


def _escaped(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"
