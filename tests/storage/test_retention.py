"""Retention: old rows go, sums stay, and the mark says which hours are no longer whole."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from llmaas.domain.usage import Grouping, UsageFilter
from llmaas.storage.database import Database
from llmaas.storage.retention import SqlRetention
from llmaas.storage.rollups import DAY_MS, HOUR_MS, SqlRollups
from llmaas.storage.tables import projects
from llmaas.storage.usage import SqlUsageReader
from tests.storage.recording import keep
from tests.storage.rows import row

NOW_MS = 1_780_012_800_000 + HOUR_MS // 2  # 2026-05-29T00:30Z
CUT_MS = 1_780_012_800_000 - 30 * DAY_MS


@pytest.fixture(autouse=True)
async def tenants(database: Database) -> None:
    async with database.begin() as connection:
        made = [{"id": name, "name": name, "created_ms": 1, "retention_days": days} for name, days in TENANTS.items()]
        await connection.execute(sa.insert(projects), made)


TENANTS = {"lab": 30, "shop": None}


async def test_rows_older_than_the_projects_days_go_and_their_sums_stay(database: Database) -> None:
    reader, retention = SqlUsageReader(database), SqlRetention(database, batch_rows=7)
    old = [row(id=f"{p}{n}", project_id=p, started_ms=CUT_MS - 1 - n) for p in TENANTS for n in range(20)]
    young = [row(id=f"{p}young", project_id=p, started_ms=CUT_MS) for p in TENANTS]
    await keep(database, [*old, *young])
    before = await reader.sums(UsageFilter(), [Grouping.PROJECT, Grouping.HOUR])
    assert await retention.sweep(NOW_MS) == 20
    left = [one.id async for one in reader.rows(UsageFilter())]
    assert sorted(left) == sorted(
        one.id for one in [*old, *young] if one.project_id == "shop" or one.started_ms >= CUT_MS
    )
    assert await reader.sums(UsageFilter(), [Grouping.PROJECT, Grouping.HOUR]) == before
    assert await retention.removed() == {"lab": CUT_MS}
    assert [fault async for fault in SqlRollups(database).faults()] == []


async def test_the_mark_never_falls(database: Database) -> None:
    retention = SqlRetention(database)
    await keep(database, [row(id="a", project_id="lab", started_ms=CUT_MS - 1)])
    await retention.sweep(NOW_MS)
    async with database.begin() as connection:
        await connection.execute(sa.update(projects).where(projects.c.id == "lab").values(retention_days=60))
    await keep(database, [row(id="b", project_id="lab", started_ms=CUT_MS - 40 * DAY_MS)], shard=1)
    assert await retention.sweep(NOW_MS) == 1
    assert await retention.removed() == {"lab": CUT_MS}


async def test_where_nothing_is_too_old_nothing_is_marked(database: Database) -> None:
    retention = SqlRetention(database)
    await keep(database, [row(id="a", project_id="lab", started_ms=CUT_MS)])
    assert await retention.sweep(NOW_MS) == 0
    assert await retention.removed() == {}
