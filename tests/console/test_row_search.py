"""Searching rows by the sums of their hours finds what reading all of them finds, in the same order."""

from __future__ import annotations

import dataclasses
import random
from datetime import date
from typing import Any

import pytest

from llmaas.console.pages.row_search import find_rows, first_day_of, latest_failures
from llmaas.control.spans import day_of
from llmaas.domain.usage import Cursor, Grouping, UsageFilter, UsageRow
from tests.console.lab import DAY_MS, Lab

_HOUR_MS = 3_600_000
_OUTCOMES = ("completed", "completed", "completed", "engine_failed", "engine_timeout", "client_aborted")


async def _history(lab: Lab) -> list[UsageRow]:
    """400 rows over 20 days, most of them of one key and model; some at the same millisecond, some on the hour."""
    chance = random.Random(7)
    rare = await lab.key("rare", owner="owner")
    hour_ms = lab.now_ms // _HOUR_MS * _HOUR_MS
    rows = []
    for n in range(400):
        started_ms = hour_ms - chance.choice((chance.randrange(20 * DAY_MS), chance.randrange(480) * _HOUR_MS))
        fields: dict[str, Any] = {
            "started_ms": started_ms if n % 9 else hour_ms - DAY_MS,
            "key_id": rare.id if n % 37 == 0 else lab.keys["bot"].id,
            "model_id": "embed" if n % 11 == 0 else "granite3.3:8b",
            "outcome": chance.choice(_OUTCOMES),
            "end_user": f"u-{n % 3}",
        }
        rows.append(lab.row(n, **fields))
    await lab.asked(*rows)
    return rows


@pytest.mark.parametrize("span", ["all", "part"])
@pytest.mark.parametrize(
    "name", ["key", "model", "member", "outcome", "several", "end_user", "nothing", "no_such_key", "no_such_time"]
)
async def test_every_page_holds_the_rows_that_a_reading_of_all_gives(lab: Lab, name: str, span: str) -> None:
    await _history(lab)
    usage = lab.admin.services.usage
    where = {
        "key": UsageFilter(key_id=lab.keys["rare"].id),
        "model": UsageFilter(model_id="embed"),
        "member": UsageFilter(member_id="user-owner"),
        "outcome": UsageFilter(outcome="engine_timeout"),
        "several": UsageFilter(key_id=lab.keys["bot"].id, model_id="embed", outcome="completed"),
        "end_user": UsageFilter(end_user="u-1", outcome="engine_failed"),
        "nothing": UsageFilter(),
        "no_such_key": UsageFilter(key_id="nobody"),
        "no_such_time": UsageFilter(key_id=lab.keys["bot"].id, to_ms=1_000),
    }[name]
    where = dataclasses.replace(where, project_id="lab")
    if span == "part":
        first_ms, last_ms = lab.now_ms - 11 * DAY_MS - 1_234_567, lab.now_ms - 2 * DAY_MS + 7_654_321
        where = dataclasses.replace(where, from_ms=first_ms, to_ms=where.to_ms or last_ms)
    expected = await usage.page(where, limit=1_000)
    found: list[UsageRow] = []
    while part := await find_rows(usage, where, limit=7, after=Cursor.after(found[-1]) if found else None):
        found += part
        assert len(part) <= 7
    assert [row.id for row in found] == [row.id for row in expected]
    if name in {"key", "model", "member", "outcome", "several", "end_user"}:
        assert len(expected) > 1, "the filter should find something, or nothing is tested"


async def test_failures_of_a_day_are_found_newest_first(lab: Lab) -> None:
    rows = await _history(lab)
    first_ms = lab.now_ms // _HOUR_MS * _HOUR_MS - 23 * _HOUR_MS
    bad = [row for row in rows if row.started_ms >= first_ms and row.outcome not in {"completed", "client_aborted"}]
    assert len(bad) > 3
    newest = sorted(bad, key=lambda row: (row.started_ms, row.id), reverse=True)
    found = await latest_failures(lab.admin.services.usage, "lab", lab.now_ms, 3)
    assert [row.id for row in found] == [row.id for row in newest[:3]]


async def test_polls_of_a_model_that_is_loading_are_no_failures(lab: Lab) -> None:
    away: dict[str, Any] = {"outcome": "unavailable", "billing_reason": "failed_before_output", "output_tokens": 0}
    polls = [lab.row(n, days_ago=0.1 + n / 10_000, error_code="loading", **away) for n in range(250)]
    await lab.asked(*polls, lab.row(900, days_ago=0.5, error_code="no_backend", **away))
    found = await latest_failures(lab.admin.services.usage, "lab", lab.now_ms, 3)
    assert [row.error_code for row in found] == ["no_backend"]


async def test_a_span_begins_where_what_follows_is_not_too_much(lab: Lab) -> None:
    await lab.asked(*(lab.row(n, days_ago=n % 4) for n in range(40)))
    where = UsageFilter(project_id="lab")
    usage, today = lab.admin.services.usage, day_of(lab.now_ms)

    async def first(most: int) -> date | None:
        return await first_day_of(usage, where, [Grouping.HOUR], most=most)

    assert await first(40) is None
    assert await first(39) == day_of(lab.now_ms - 2 * DAY_MS)
    assert await first(20) == day_of(lab.now_ms - DAY_MS)
    assert await first(3) == today, "a day is left, however much it holds"
