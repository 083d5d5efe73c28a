"""On which line the keys of a TOML text stand: neither `tomllib` nor tomlkit keeps that, so this walks the text again.

It reads only what `tomllib` has accepted, hence it looks for where things end and judges nothing.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]
_BLANK = re.compile(r"(?:[\s,]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[^\s.=\[\]\"'#]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")
# The closing quotes of a multi-line string may follow on up to two that belong to it.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)


def locate(text: str) -> dict[Path, int]:
    """The line, from 1, of each key, table and list item; `text` must be valid TOML."""
    return _Walk(text.replace("\r\n", "\n")).run()


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        """How many tables each list of tables (`[[name]]`) has so far."""

    def run(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip_blank() < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _header(self) -> Path:
        line = self._line()
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        parts = self._key()
        self._at = self._text.index("]", self._at) + (2 if several else 1)
        path: Path = ()
        for depth, part in enumerate(parts, start=1):
            path = (*path, part)
            self._lines.setdefault(path, line)
            if several and depth == len(parts):
                self._counts[path] = self._counts.get(path, 0) + 1
            if path in self._counts:
                path = (*path, self._counts[path] - 1)
                self._lines.setdefault(path, line)
        return path

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for part in self._key():
            path = (*path, part)
            self._lines.setdefault(path, line)
        self._at = self._text.index("=", self._at) + 1
        self._value(path)

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip_blank()
            if self._text[self._at] in "\"'":
                parts.append(tomllib.loads(f"key = {self._take(_STRING)}")["key"])
            else:
                parts.append(self._take(_BARE_KEY))
            self._skip_blank()
            if not self._text.startswith(".", self._at):
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        self._skip_blank()
        first = self._text[self._at]
        if first in "\"'":
            self._take(_STRING)
        elif first == "[":
            self._list(path)
        elif first == "{":
            self._inline_table(path)
        else:
            self._take(_SCALAR)

    def _list(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._text[self._skip_blank()] != "]":
            self._lines[(*path, index)] = self._line()
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._text[self._skip_blank()] != "}":
            self._pair(path)
        self._at += 1

    def _skip_blank(self) -> int:
        self._take(_BLANK)
        return self._at

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        assert match is not None  # noqa: S101 - the text is valid
        self._at = match.end()
        return match[0]

    def _line(self) -> int:
        return bisect_right(self._line_ends, self._at) + 1
