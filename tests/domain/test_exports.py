"""Lines for files: one record a line, and nothing in a cell that a spreadsheet would calculate."""

from __future__ import annotations

import csv
import io
import json

import pytest

from llmaas.domain.exports import ROW_COLUMNS, csv_line, json_line, row_record
from tests.storage.rows import row

FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "=cmd|' /C calc'!A0"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_A02_a_cell_is_never_a_formula(formula: str) -> None:
    (cells,) = csv.reader(io.StringIO(csv_line([formula, "plain", -5, None]), newline=""))
    assert cells == [f"'{formula}", "plain", "-5", ""]


@pytest.mark.parametrize("text", ["a\nb", 'a"b', "a,b", "\u202e", "\x00"])
def test_A02_what_callers_wrote_stays_in_its_cell(text: str) -> None:
    line = csv_line([text, "next"])
    assert list(csv.reader(io.StringIO(line, newline=""))) == [[text, "next"]]
    assert json.loads(json_line({"a": text})) == {"a": text}
    assert json_line({"a": text}).count("\n") == 1


def test_a_row_has_every_column_and_what_people_read() -> None:
    record = row_record(row(cost_nano=1_500_000_000, energy_uwh=2_000_000, started_ms=1_780_012_800_000))
    assert tuple(record) == ROW_COLUMNS
    assert (record["unpriced"], row_record(row(price_version=1))["unpriced"]) == (True, False)
    assert row_record(row(outcome="engine_failed"))["unpriced"] is False, "it would have cost nothing anyway"
    assert (record["cost"], record["estimated_wh"], record["started"]) == ("1.50", "2.0", "2026-05-29T00:00:00.000Z")
