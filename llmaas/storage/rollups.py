"""Rollups of usage rows: `usage_hours`, `usage_days` and `usage_months`, from which years are read in milliseconds.

The ledger's writer raises `usage_hours` in the transaction of the rows, in a shard ≥ 0 of its own. When an hour is over,
`fold` moves its numbers into shard FOLDED and adds them to `usage_days` and `usage_months`. A row that comes later opens a
new shard ≥ 0 and is folded in its turn. So at every moment, late rows or not: the hours are the rows, and days + hours not
folded are the rows, and months + hours not folded are the rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.usage import BILLED
from llmaas.storage.database import Database, upsert
from llmaas.storage.tables import (
    usage,
    usage_days,
    usage_end_user_parts,
    usage_end_users,
    usage_hours,
    usage_months,
    usage_removed,
)

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
FOLDED = -1
FRESH = sa.text("shard >= 0")
"""As the partial index `usage_hours_fresh` says it, word for word, or SQLite does not see that it fits."""
_SETTLED_MS = 10 * 60_000
"""An hour is left alone for so long after its end: most rows of long answers are there by then."""
_AT_ONCE = 200
"""Records handed over in one piece: requests share the event loop with this."""
DIMENSIONS: tuple[str, ...] = (
    *("project_id", "key_id", "model_id", "backend_id", "outcome", "price_version", "currency"),
)
NUMBERS: tuple[str, ...] = (
    *("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents"),
    *("cost_nano", "energy_uwh", "duration_ms", "ttft_ms", "ttft_requests"),
)

UNPRICED = "unpriced_requests"
"""This number is not kept in hours, days and months: two of their dimensions tell it."""
READ: tuple[str, ...] = (*NUMBERS, UNPRICED)


def unpriced_of(table: sa.Table) -> sa.ColumnElement[int]:
    """How many requests of a table of usage are as `domain.usage.is_unpriced` says, as a sum over its records."""
    if table is usage_end_users:
        return sa.func.sum(table.c[UNPRICED])
    requests: sa.ColumnElement[int] = _literal(1) if table is usage else table.c.requests
    without = table.c.price_version.is_(None) if table is usage else table.c.price_version == _literal(0)
    billed = table.c.outcome.in_(sorted(BILLED))
    return sa.func.sum(sa.case((sa.and_(without, billed), requests), else_=_literal(0)))


def month_start(ms: int) -> int:
    """The beginning of the UTC month that holds this moment."""
    day = datetime.fromtimestamp(ms // 1000, UTC)
    return ms // DAY_MS * DAY_MS - (day.day - 1) * DAY_MS


def month_end(ms: int) -> int:
    """The beginning of the UTC month after it."""
    return month_start(month_start(ms) + 31 * DAY_MS)


class SqlRollups:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def fold(self, now_ms: int) -> int:
        """Fold every hour that has been over for a while, each in a short transaction; gives how many there were."""
        ended = now_ms - HOUR_MS - _SETTLED_MS
        fresh = (FRESH, usage_hours.c.hour_ms <= ended)
        async with self._database.connect() as connection:
            query = sa.select(usage_hours.c.hour_ms).where(*fresh).distinct().order_by(usage_hours.c.hour_ms)
            hours = (await connection.execute(query)).scalars().all()
        for hour_ms in hours:
            async with self._database.begin(one_at_a_time=False) as connection:
                await _fold_hour(connection, hour_ms)
        return len(hours)

    async def rebuild(self, from_ms: int, to_ms: int) -> int:
        """Make the rollups of every UTC day that the span touches anew from its rows, one transaction a day; gives the days.

        Days of which retention has removed rows stay as they are, project by project. Writers wait meanwhile.
        """
        days = range(from_ms // DAY_MS * DAY_MS, to_ms, DAY_MS)
        for day_ms in days:
            async with self._database.begin(one_at_a_time=False, long=True) as connection:
                await _rebuild_day(connection, day_ms)
        return len(days)

    async def span(self) -> tuple[int, int] | None:
        """From the first row's start to after the last one's; None without rows."""
        query = sa.select(sa.func.min(usage.c.started_ms), sa.func.max(usage.c.started_ms))
        async with self._database.connect() as connection:
            first, last = (await connection.execute(query)).one()
        return None if first is None else (first, last + 1)

    async def faults(self) -> AsyncIterator[str]:
        """One line for each project and day or month in which the rollups differ from each other; nothing when all is well."""
        day = usage_hours.c.hour_ms // _literal(DAY_MS) * _literal(DAY_MS)
        hours = sa.select(day.label("day_ms"), usage_hours.c.project_id, *_sums(usage_hours, 1)).where(
            usage_hours.c.shard < 0
        )
        days = sa.select(usage_days.c.day_ms, usage_days.c.project_id, *_sums(usage_days, -1))
        both = sa.union_all(
            hours.group_by(day, usage_hours.c.project_id), days.group_by(usage_days.c.day_ms, usage_days.c.project_id)
        ).subquery()
        differences = [sa.func.sum(both.c[name]) for name in NUMBERS]
        query = (
            sa.select(both.c.day_ms, both.c.project_id, *differences)
            .group_by(both.c.day_ms, both.c.project_id)
            .having(sa.or_(*(difference != 0 for difference in differences)))
            .order_by(both.c.day_ms, both.c.project_id)
        )
        async with self._database.connect(long=True) as connection:
            found: Sequence[Any] = (await connection.execute(query)).all()
            months = await _months_differ(connection)
        for day_ms, project_id, *amounts in found:
            yield f"day {day_ms} of {project_id}: usage_days differs from usage_hours: {_told(amounts)}"
        for (month_ms, project_id), amounts in months:
            yield f"month {month_ms} of {project_id}: usage_months differs from usage_days: {_told(amounts)}"


async def _fold_hour(connection: AsyncConnection, hour_ms: int) -> None:
    taken = sa.delete(usage_hours).where(usage_hours.c.hour_ms == hour_ms, FRESH)
    columns = [usage_hours.c[name] for name in (*DIMENSIONS, *NUMBERS)]
    # What DELETE gives back is what it deleted, also of rows that a writer was raising at that moment.
    rows: Sequence[Any] = (await connection.execute(taken.returning(*columns))).all()
    totals: dict[tuple[Any, ...], list[int]] = {}
    for row in rows:
        total = totals.setdefault(tuple(row[: len(DIMENSIONS)]), [0] * len(NUMBERS))
        for n, number in enumerate(row[len(DIMENSIONS) :]):
            total[n] += number
    if not totals:
        return
    await _outdate(connection, hour_ms, hour_ms + HOUR_MS)
    records = [dict(zip((*DIMENSIONS, *NUMBERS), (*key, *totals[key]), strict=True)) for key in sorted(totals)]
    at_hour = [{"hour_ms": hour_ms, "shard": FOLDED, **record} for record in records]
    at_day = [{"day_ms": hour_ms // DAY_MS * DAY_MS, **record} for record in records]
    at_month = [{"month_ms": month_start(hour_ms), **record} for record in records]
    for first in range(0, len(records), _AT_ONCE):
        await connection.execute(_adding(connection, usage_hours), at_hour[first : first + _AT_ONCE])
        await connection.execute(_adding(connection, usage_days), at_day[first : first + _AT_ONCE])
        await connection.execute(_adding(connection, usage_months), at_month[first : first + _AT_ONCE])


async def _outdate(connection: AsyncConnection, start_ms: int, end_ms: int) -> None:
    """What stands there by end users is no longer whole, and whoever is making it has to begin again (`end_users.py`)."""
    parts = usage_end_user_parts.c
    touched = (parts.start_ms < end_ms, parts.start_ms + parts.unit_ms > start_ms)
    await connection.execute(sa.delete(usage_end_user_parts).where(*touched))


def _adding(connection: AsyncConnection, table: sa.Table) -> sa.Insert:
    """An insert that adds its numbers to those of a row that is there."""
    insert = upsert(connection, table)
    return insert.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={name: table.c[name] + insert.excluded[name] for name in NUMBERS},
    )


async def _months_differ(connection: AsyncConnection) -> list[tuple[tuple[int, str], list[int]]]:
    """By how much, for each month and project whose months are not its days. Databases count months each in its own way."""
    totals: dict[tuple[int, str], list[int]] = {}
    for table, time, sign in ((usage_days, usage_days.c.day_ms, 1), (usage_months, usage_months.c.month_ms, -1)):
        query = sa.select(time, table.c.project_id, *_sums(table, sign)).group_by(time, table.c.project_id)
        async for time_ms, project_id, *amounts in await connection.stream(query):
            total = totals.setdefault((month_start(time_ms), project_id), [0] * len(NUMBERS))
            for n, amount in enumerate(amounts):
                total[n] += int(amount)
    return sorted((month, total) for month, total in totals.items() if any(total))


def _told(amounts: Iterable[Any]) -> str:
    return ", ".join(f"{n} by {int(a)}" for n, a in zip(NUMBERS, amounts, strict=True) if a)


async def _rebuild_day(connection: AsyncConnection, day_ms: int) -> None:
    if connection.dialect.name == "postgresql":
        await connection.execute(sa.text("LOCK TABLE usage IN SHARE MODE"))  # no row comes between reading and writing
    removed = sa.select(usage_removed.c.project_id).where(usage_removed.c.before_ms > day_ms)
    end_ms = day_ms + DAY_MS
    await _outdate(connection, day_ms, end_ms)

    def whole(table: sa.Table, time: sa.ColumnElement[int]) -> list[sa.ColumnElement[bool]]:
        return [time >= day_ms, time < end_ms, table.c.project_id.not_in(removed)]

    await connection.execute(sa.delete(usage_hours).where(*whole(usage_hours, usage_hours.c.hour_ms)))
    await connection.execute(sa.delete(usage_days).where(*whole(usage_days, usage_days.c.day_ms)))
    hour = usage.c.started_ms // _literal(HOUR_MS) * _literal(HOUR_MS)
    empty = {"backend_id": sa.literal_column("''"), "price_version": _literal(0)}
    dimensions = [
        sa.func.coalesce(usage.c[name], empty[name]) if name in empty else usage.c[name] for name in DIMENSIONS
    ]
    counted = {"requests": sa.func.count(), "ttft_requests": sa.func.count(usage.c.ttft_ms)}
    numbers = [counted[n] if n in counted else sa.func.coalesce(sa.func.sum(usage.c[n]), _literal(0)) for n in NUMBERS]
    from_rows = (
        sa.select(hour, *dimensions, _literal(FOLDED), *numbers)
        .where(*whole(usage, usage.c.started_ms))
        .group_by(hour, *dimensions)
    )
    await connection.execute(sa.insert(usage_hours).from_select(["hour_ms", *DIMENSIONS, "shard", *NUMBERS], from_rows))
    await connection.execute(_added_up(usage_hours, whole(usage_hours, usage_hours.c.hour_ms), usage_days, day_ms))
    # Of its month the other days are as they were, also those that retention has taken rows from.
    month_ms, next_ms = month_start(day_ms), month_end(day_ms)
    in_month = [usage_days.c.day_ms >= month_ms, usage_days.c.day_ms < next_ms]
    await connection.execute(sa.delete(usage_months).where(usage_months.c.month_ms == month_ms))
    await connection.execute(_added_up(usage_days, in_month, usage_months, month_ms))


def _added_up(parts: sa.Table, within: Sequence[sa.ColumnElement[bool]], wholes: sa.Table, time_ms: int) -> sa.Insert:
    """One table's rows within a time, added up to rows of the other at the beginning of that time."""
    groups = [parts.c[name] for name in DIMENSIONS]
    sums = sa.select(_literal(time_ms), *groups, *_sums(parts, 1)).where(*within).group_by(*groups)
    return sa.insert(wholes).from_select([wholes.c[0], *DIMENSIONS, *NUMBERS], sums)


def _sums(table: sa.Table, sign: int) -> Iterable[sa.ColumnElement[Any]]:
    return [(sa.func.sum(table.c[name]) * _literal(sign)).label(name) for name in NUMBERS]


def _literal(number: int) -> sa.ColumnElement[int]:
    """Written out and not bound: PostgreSQL takes two parameters for two different expressions."""
    return sa.literal_column(str(number), sa.BigInteger)
