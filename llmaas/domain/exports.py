"""Usage as lines of CSV or JSON, for files and other programs. One line at a time, so that any number of rows fits.

What callers wrote (`end_user`, `requested_model`) is in these lines; a cell that a spreadsheet would take for a formula
gets an apostrophe in front.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmaas.clock import iso
from llmaas.domain.energy import format_wh
from llmaas.domain.prices import format_amount
from llmaas.domain.usage import COLUMNS, ClassSum, Grouping, UsageRow, UsageSum, is_unpriced

ROW_COLUMNS: tuple[str, ...] = (*COLUMNS, "cost", "estimated_wh", "started", "unpriced")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def row_record(row: UsageRow) -> dict[str, Any]:
    """Every column of the row, its cost, energy and start as people write them, and whether it had no price."""
    values = {name: getattr(row, name) for name in COLUMNS}
    added = (format_amount(row.cost_nano), format_wh(row.energy_uwh), iso(row.started_ms), is_unpriced(row))
    return {**values, **dict(zip(ROW_COLUMNS[len(COLUMNS) :], added, strict=True))}


def sum_record(total: UsageSum, by: Sequence[Grouping]) -> dict[str, Any]:
    """The values of its groupings, then its numbers; cost, energy and means as people write them."""
    return {
        **group_values(total.group, by),
        "requests": total.requests,
        "input_tokens": total.input_tokens,
        "cached_input_tokens": total.cached_input_tokens,
        "output_tokens": total.output_tokens,
        "reasoning_tokens": total.reasoning_tokens,
        "total_tokens": total.total_tokens,
        "documents": total.documents,
        "estimated_wh": format_wh(total.energy_uwh),
        "cost": format_amount(total.cost_nano),
        "currency": total.currency,
        "unpriced_requests": total.unpriced_requests,
        "mean_duration_ms": total.duration_ms // total.requests if total.requests else None,
        "mean_ttft_ms": total.ttft_ms // total.ttft_requests if total.ttft_requests else None,
    }


def class_record(total: ClassSum, by: Sequence[Grouping]) -> dict[str, Any]:
    """The same of one class of tokens."""
    return {
        **group_values(total.group, by),
        "token_type": total.token_class.value,
        "requests": total.requests,
        "tokens": total.tokens,
        "cost": format_amount(total.cost_nano),
        "currency": total.currency,
        "unpriced_requests": total.unpriced_requests,
    }


def group_values(group: Sequence[str | None], by: Sequence[Grouping]) -> dict[str, str | None]:
    """Each value by the name of its grouping, as records spell it."""
    return {name.replace("-", "_"): value for name, value in zip(by, group, strict=True)}


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
