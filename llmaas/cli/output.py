"""What commands print: tables for people, JSON and CSV for programs. What others wrote never steers a terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from shutil import get_terminal_size
from typing import Any

from llmaas.clock import iso
from llmaas.domain.exports import csv_line
from llmaas.domain.values import printable

_NOTHING = "-"
_GAP = 2


def table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Rows under their columns; numbers to the right. On a terminal by Rich, and one column under the other when it is too
    narrow for them; else aligned by spaces and never cut.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [_numeric([row[n] for row in rows]) for n in range(len(columns))]
    widths = [max(len(line[n]) for line in [list(columns), *cells]) for n in range(len(columns))]
    if sys.stdout.isatty():
        if sum(widths) + _GAP * (len(widths) - 1) <= get_terminal_size().columns:
            _rich_table(columns, cells, numeric, title)
        else:
            _upright(columns, cells, title)
        return
    if title:
        print(title)
    for line in [[column.upper() for column in columns], *cells]:
        aligned = (t.rjust(w) if right else t.ljust(w) for t, w, right in zip(line, widths, numeric, strict=True))
        print("  ".join(aligned).rstrip())


class JsonList:
    """A JSON array, one object a line, written as the items come."""

    def __init__(self) -> None:
        self._started = False

    def add(self, item: Mapping[str, Any]) -> None:
        print(",\n" if self._started else "[\n", json.dumps(item, ensure_ascii=False), sep="", end="")
        self._started = True

    def end(self) -> None:
        print("\n]" if self._started else "[]")


class CsvTable:
    """A cell that a spreadsheet would take for a formula gets an apostrophe in front."""

    def __init__(self, columns: Sequence[str]) -> None:
        self.add(columns)

    def add(self, row: Iterable[object]) -> None:
        print(csv_line(row), end="")


def json_list(items: Iterable[Mapping[str, Any]]) -> None:
    written = JsonList()
    for item in items:
        written.add(item)
    written.end()


def json_object(item: Mapping[str, Any]) -> None:
    print(json.dumps(item, ensure_ascii=False, indent=2))


def day_and_time(ms: int | None) -> str | None:
    """To the second, in UTC, for tables."""
    return None if ms is None else iso(ms)[:19].replace("T", " ") + "Z"


def moment(ms: int | None) -> str | None:
    """To the millisecond, in ISO 8601, for programs."""
    return None if ms is None else iso(ms)


def note(text: str) -> None:
    """A remark that is no result: it goes to stderr."""
    print(text, file=sys.stderr)


def progress(text: str) -> None:
    """What goes on at the moment, on a terminal only, where the next text takes its place; none: the line is free again."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _rich_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[bool], title: str | None
) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, title=title, title_justify="left", padding=(0, _GAP, 0, 0), pad_edge=False)
    for column, right in zip(columns, numeric, strict=True):
        drawn.add_column(column, justify="right" if right else "left", no_wrap=True)
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(drawn)


def _upright(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str | None) -> None:
    if title:
        print(title)
    width = max(map(len, columns))
    for number, row in enumerate(rows):
        print(end="\n" if number else "")
        for column, cell in zip(columns, row, strict=True):
            print(f"{column.ljust(width)}  {cell}")


def _numeric(values: Sequence[object]) -> bool:
    given = [value for value in values if value is not None]
    return bool(given) and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)


def _cell(value: object) -> str:
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple | frozenset):
        return printable(", ".join(str(item) for item in value)) or _NOTHING
    return printable(str(value))
