"""Usage as lines of CSV or JSON, for files and other programs. One line at a time, so that any number of rows fits.

What callers wrote (`end_user`, `requested_model`) is in these lines; a cell that a spreadsheet would take for a formula
gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from llmaas.clock import iso
from llmaas.domain.energy import format_wh
from llmaas.domain.prices import format_amount
from llmaas.domain.usage import COLUMNS, UsageRow

ROW_COLUMNS: tuple[str, ...] = (*COLUMNS, "cost", "estimated_wh", "started")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_record(row: UsageRow) -> dict[str, Any]:
    """Every column of the row, and its cost, energy and start as people write them."""
    values = {name: getattr(row, name) for name in COLUMNS}
    readable = (format_amount(row.cost_nano), format_wh(row.energy_uwh), iso(row.started_ms))
    return {**values, **dict(zip(("cost", "estimated_wh", "started"), readable, strict=True))}


def csv_line(cells: Iterable[object]) -> str:
    """One line with its end. Nothing becomes an empty cell, text never a formula."""
    line = io.StringIO()
    # The writer quotes a carriage return only when it is part of what ends its lines; bare, it would begin a new row.
    csv.writer(line, lineterminator="\r\n").writerow(["" if value is None else harmless(value) for value in cells])
    return line.getvalue().removesuffix("\r\n") + "\n"


def json_line(record: Mapping[str, Any]) -> str:
    """One object on one line, with its end."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def harmless(value: object) -> object:
    """The value, with an apostrophe in front if it is text that a spreadsheet would calculate."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
