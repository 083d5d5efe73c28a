"""Sums by end user: made from rows, whole or not taken, gone with the rows they were made from."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.usage import Grouping, Ranked, UsageFilter
from llmaas.storage.database import Database
from llmaas.storage.end_users import SqlEndUsers, end_user_parts
from llmaas.storage.retention import SqlRetention
from llmaas.storage.rollups import DAY_MS, HOUR_MS, SqlRollups
from llmaas.storage.tables import projects, usage, usage_end_user_parts, usage_end_users
from llmaas.storage.usage import SqlUsageReader
from tests.storage.recording import keep
from tests.storage.rows import row

BASE_MS = 1_780_012_800_000  # 2026-05-29T00:00Z
NOON_MS = BASE_MS + 2 * DAY_MS + 12 * HOUR_MS
MONTH = UsageFilter(project_id="lab", from_ms=BASE_MS, to_ms=BASE_MS + 31 * DAY_MS)


async def settle(database: Database, now_ms: int = NOON_MS) -> int:
    await SqlRollups(database).fold(now_ms)
    return await SqlEndUsers(database).make(now_ms)


async def by_end_user(database: Database, where: UsageFilter = MONTH) -> dict[str | None, int]:
    sums = await SqlUsageReader(database).sums(where, [Grouping.END_USER])
    return {total.group[0]: total.requests for total in sums}


async def fill(database: Database, names: str = "abbcccdddd") -> None:
    """Two days that are over and one that is not."""
    rows = [
        row(
            id=f"{day}-{n}",
            project_id="lab",
            started_ms=BASE_MS + day * DAY_MS + n * HOUR_MS,
            end_user=None if name == "a" else name,
        )
        for day in range(3)
        for n, name in enumerate(names)
    ]
    await keep(database, rows)


async def test_days_that_are_over_and_hours_of_this_one_need_no_rows(database: Database) -> None:
    await fill(database)
    assert await settle(database) == 12
    assert await settle(database) == 0
    async with database.begin() as connection:
        await connection.execute(sa.delete(usage))
    assert await by_end_user(database) == {None: 3, "b": 6, "c": 9, "d": 12}
    assert await settle(database, NOON_MS + DAY_MS) == 1
    async with database.connect() as connection:
        units = (await connection.execute(sa.select(usage_end_user_parts.c.unit_ms))).scalars().all()
        left = (await connection.execute(sa.select(usage_end_users.c.unit_ms).distinct())).scalars().all()
    assert set(units) == set(left) == {DAY_MS}, "its hours went when the day was made"


async def test_a_late_row_counts_at_once_and_is_taken_in(database: Database) -> None:
    await fill(database)
    await settle(database)
    await keep(database, [row(id="late", project_id="lab", started_ms=BASE_MS + 5, end_user="z")], shard=3)
    assert (await by_end_user(database))["z"] == 1
    assert await settle(database) == 1
    assert (await by_end_user(database))["z"] == 1
    async with database.connect() as connection:
        parts = await end_user_parts(connection, BASE_MS, BASE_MS + 2 * DAY_MS)
    assert parts.days == ((BASE_MS, BASE_MS + 2 * DAY_MS),)
    assert not parts.rows


async def test_a_day_that_changed_while_it_was_made_is_not_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late row comes, and another worker folds it, after the rows were read and before the day is finished."""
    await fill(database)
    await SqlRollups(database).fold(NOON_MS)
    plain_sleep = asyncio.sleep
    came: list[int] = []

    async def row_comes(seconds: float) -> None:
        if not came:
            came.append(1)
            await keep(database, [row(id="late", project_id="lab", started_ms=BASE_MS + DAY_MS, end_user="z")], shard=3)
            await SqlRollups(database).fold(NOON_MS)
        await plain_sleep(seconds)

    end_users = SqlEndUsers(database)
    while not came:
        async with database.connect() as connection:
            done = (await connection.execute(sa.select(sa.func.count()).select_from(usage_end_user_parts))).scalar_one()
        if done >= 10:  # this day's hours are there; the next is the day that the row comes into
            monkeypatch.setattr("llmaas.storage.end_users.asyncio.sleep", row_comes)
        assert done < 12
        await end_users.make(NOON_MS, most_s=0)
        monkeypatch.undo()
    async with database.connect() as connection:
        whole = sa.select(usage_end_user_parts.c.start_ms).where(
            usage_end_user_parts.c.unit_ms == DAY_MS, usage_end_user_parts.c.maker == 0
        )
        assert (await connection.execute(whole)).scalars().all() == []
    assert (await by_end_user(database))["z"] == 1
    while await end_users.make(NOON_MS):
        pass
    assert (await by_end_user(database))["z"] == 1
    assert [fault async for fault in end_users.faults()] == []


async def test_a_rebuild_makes_days_anew(database: Database) -> None:
    await fill(database)
    await settle(database)
    async with database.begin() as connection:
        await connection.execute(sa.delete(usage).where(usage.c.end_user == "d"))
    await SqlRollups(database).rebuild(BASE_MS, NOON_MS)
    assert await settle(database) == 8, "two days and the six hours with rows"
    assert await by_end_user(database) == {None: 3, "b": 6, "c": 9}


async def test_end_users_go_with_their_rows(database: Database) -> None:
    async with database.begin() as connection:
        lab = {"id": "lab", "name": "lab", "created_ms": 1, "retention_days": 1}
        await connection.execute(sa.insert(projects).values(lab))
    await fill(database)
    await settle(database)
    await SqlRetention(database, batch_rows=2).sweep(NOON_MS)
    async with database.connect() as connection:
        days = (await connection.execute(sa.select(usage_end_users.c.start_ms).distinct())).scalars().all()
    assert min(days) == BASE_MS + DAY_MS
    assert await by_end_user(database) == {None: 2, "b": 4, "c": 6, "d": 8}
    await SqlRollups(database).rebuild(BASE_MS, NOON_MS)
    await settle(database)
    assert await by_end_user(database) == {None: 2, "b": 4, "c": 6, "d": 8}, "the day of which rows are gone keeps them"
    assert [fault async for fault in SqlEndUsers(database).faults()] == []


async def test_what_differs_is_told(database: Database) -> None:
    await fill(database)
    await settle(database)
    async with database.begin() as connection:
        day = usage_end_users.c.unit_ms == DAY_MS
        wrong = sa.update(usage_end_users).where(day, usage_end_users.c.end_user == "d").values(cost_nano=7)
        await connection.execute(wrong)
    found = [fault async for fault in SqlEndUsers(database).faults()]
    assert [fault.split(":")[0] for fault in found] == [f"day {BASE_MS + n * DAY_MS} of lab" for n in range(2)]


@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize(("by", "name"), [(Grouping.END_USER, "end_user"), (Grouping.KEY, "key_id")])
async def test_the_largest_and_all_together(database: Database, by: Grouping, name: str, made: bool) -> None:
    reader = SqlUsageReader(database)
    rows = [
        row(
            id=f"{n}",
            project_id="lab",
            started_ms=BASE_MS + n * HOUR_MS,
            input_tokens=n * n,
            currency=("EUR", "USD")[n % 5 == 0],
            **{name: f"u{n % 7}"},
        )
        for n in range(60)
    ]
    await keep(database, rows)
    if made:
        while await settle(database, BASE_MS + 9 * DAY_MS):
            pass
    every = await reader.sums(MONTH, [by])
    found = await reader.largest(MONTH, by, Ranked.TOKENS, Grouping.DAY, limit=4, drawn=2)
    assert found.count == len(every)
    assert found.lines == sorted(every, key=lambda line: -line.total_tokens)[:4]
    assert found.every == await reader.sums(MONTH, [Grouping.DAY])
    drawn = {line.group[0] for line in found.lines[:2]}
    days = await reader.sums(MONTH, [Grouping.DAY, by])
    assert found.columns == [one for one in days if one.group[1] in drawn]
    nothing = await reader.largest(UsageFilter(project_id="nobody"), by, Ranked.COST, Grouping.MONTH, limit=4, drawn=2)
    assert (nothing.lines, nothing.columns, nothing.every, nothing.count) == ([], [], [], 0)


async def test_only_what_no_sums_hold_is_read_from_rows(database: Database) -> None:
    await fill(database)
    await settle(database)
    reader = SqlUsageReader(database)
    assert await reader.requests_from_rows(MONTH, [Grouping.END_USER]) == {}
    await keep(database, [row(id="late", project_id="lab", started_ms=BASE_MS + 5)], shard=3)
    assert await reader.requests_from_rows(MONTH, [Grouping.END_USER]) == {"2026-05-29": 11}
    other: dict[str, Any] = {"key_id": "nobody"}
    assert await reader.requests_from_rows(UsageFilter(project_id="lab", **other), [Grouping.END_USER]) == {}
    assert sum((await reader.requests_from_rows(MONTH, [Grouping.MODEL, Grouping.END_USER])).values()) == 31
