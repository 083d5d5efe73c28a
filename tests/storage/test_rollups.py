"""Rollups: folding moves numbers and loses none, late rows included; a rebuild makes them from the rows."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.usage import Grouping, UsageFilter
from llmaas.storage.database import Database
from llmaas.storage.rollups import DAY_MS, HOUR_MS, SqlRollups, month_end, month_start
from llmaas.storage.tables import usage_days, usage_hours, usage_months, usage_removed
from llmaas.storage.usage import SqlUsageReader
from tests.storage.recording import keep
from tests.storage.rows import row

BASE_MS = 1_780_012_800_000  # 2026-05-29T00:00Z
MONTH_MS = BASE_MS - 28 * DAY_MS
OVER_MS = BASE_MS + 2 * HOUR_MS


async def contents(database: Database, table: sa.Table) -> list[dict[str, Any]]:
    async with database.connect() as connection:
        query = sa.select(table).order_by(*table.primary_key.columns)
        return [dict(found) for found in (await connection.execute(query)).mappings()]


def test_months_begin_and_end_as_in_the_calendar() -> None:
    leap = 1_709_164_799_999  # 2024-02-28T23:59:59.999Z
    assert (month_start(leap), month_end(leap)) == (1_706_745_600_000, 1_709_251_200_000)
    december = 1_798_761_599_999  # 2026-12-31T23:59:59.999Z
    assert (month_start(december), month_end(december)) == (1_796_083_200_000, december + 1)


async def test_an_hour_is_folded_when_it_is_over(database: Database) -> None:
    rollups = SqlRollups(database)
    await keep(database, [row(id="a", started_ms=BASE_MS), row(id="b", started_ms=BASE_MS + HOUR_MS)], shard=2)
    assert await rollups.fold(BASE_MS + HOUR_MS) == 0, "its last rows may be on their way"
    assert await rollups.fold(OVER_MS) == 1
    assert await rollups.fold(OVER_MS) == 0
    assert [(hour["hour_ms"], hour["shard"]) for hour in await contents(database, usage_hours)] == [
        (BASE_MS, -1),
        (BASE_MS + HOUR_MS, 2),
    ]
    (day,) = await contents(database, usage_days)
    assert (day["day_ms"], day["requests"], day["input_tokens"]) == (BASE_MS, 1, 3)
    (month,) = await contents(database, usage_months)
    assert (month["month_ms"], month["requests"], month["input_tokens"]) == (MONTH_MS, 1, 3)


async def test_shards_and_late_rows_are_added(database: Database) -> None:
    rollups = SqlRollups(database)
    await keep(database, [row(id="a", started_ms=BASE_MS)], shard=0)
    await keep(database, [row(id="b", started_ms=BASE_MS + 1)], shard=7)
    await rollups.fold(OVER_MS)
    await keep(database, [row(id="c", started_ms=BASE_MS + 2, ttft_ms=None)], shard=0)
    await rollups.fold(OVER_MS)
    (hour,) = await contents(database, usage_hours)
    (day,) = await contents(database, usage_days)
    assert (hour["requests"], hour["ttft_requests"], hour["shard"]) == (3, 2, -1)
    assert (day["requests"], day["output_tokens"]) == (3, 15)
    assert [fault async for fault in rollups.faults()] == []


async def test_a_rebuild_is_what_folding_makes(database: Database) -> None:
    rollups = SqlRollups(database)
    rows = [
        row(
            id=f"a{n}",
            started_ms=BASE_MS + n * HOUR_MS // 3,
            backend_id=("b", None)[n % 2],
            price_version=n % 3 or None,
        )
        for n in range(100)
    ]
    await keep(database, rows)
    await rollups.fold(BASE_MS + 9 * DAY_MS)
    tables = (usage_hours, usage_days, usage_months)
    folded = [await contents(database, table) for table in tables]
    async with database.begin() as connection:
        await connection.execute(sa.update(usage_hours).values(cost_nano=usage_hours.c.cost_nano + 5))
        await connection.execute(sa.delete(usage_days).where(usage_days.c.day_ms == BASE_MS))
    assert [fault.split(":")[0] async for fault in rollups.faults()] == [
        f"day {BASE_MS} of default",
        f"day {BASE_MS + DAY_MS} of default",
        f"month {MONTH_MS} of default",
    ]
    span = await rollups.span()
    assert span == (BASE_MS, rows[-1].started_ms + 1)
    assert await rollups.rebuild(*span) == 2
    assert [await contents(database, table) for table in tables] == folded
    assert [fault async for fault in rollups.faults()] == []


@pytest.mark.parametrize("removed_from", ["lab", "default"])
async def test_what_retention_took_away_is_not_rebuilt(database: Database, removed_from: str) -> None:
    rollups, reader = SqlRollups(database), SqlUsageReader(database)
    await keep(database, [row(id=project, project_id=project, started_ms=BASE_MS) for project in ("lab", "default")])
    async with database.begin() as connection:
        values = {"project_id": removed_from, "before_ms": BASE_MS + HOUR_MS}
        await connection.execute(sa.insert(usage_removed).values(values))
        await connection.exec_driver_sql("DELETE FROM usage")
    await rollups.rebuild(BASE_MS, BASE_MS + 1)
    sums = await reader.sums(UsageFilter(), [Grouping.PROJECT])
    assert [total.group for total in sums] == [(removed_from,)]


async def test_a_ledger_without_rows_has_no_span(database: Database) -> None:
    assert await SqlRollups(database).span() is None
