"""Sums by end user: `usage_end_users`, by whole UTC days, and by hours of the days that are not over.

Other than the rollups, they are made from rows by a duty after hours are folded, since the ledger's writer has no time for
them. `usage_end_user_parts` says for which hours and days they are whole (`maker` 0). Whoever makes a part first puts a number
of its own there, then reads. Folding a late row takes the part's mark away in its own transaction: so a part is whole, and
stays so, when its mark is there and none of its hours is fresh.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.storage.database import Database, upsert
from llmaas.storage.rollups import DAY_MS, FRESH, HOUR_MS, READ, UNPRICED, unpriced_of
from llmaas.storage.tables import (
    usage,
    usage_days,
    usage_end_user_parts,
    usage_end_users,
    usage_hours,
    usage_removed,
)

_SETTLED_MS = 10 * 60_000
_AT_ONCE = 200
_PAUSE_S = 0.005
"""Between transactions, so that the ledger's writer gets its turn on SQLite."""
_MOST_S = 30.0
_ROW_SPANS = 200
"""A condition of more spans than these is more than a database takes well; then rows tell everything."""
_MAKERS = 2**53
Bounds = tuple[int | None, int | None]
_Key = tuple[str, str]


@dataclass(frozen=True, slots=True)
class EndUserParts:
    """Which parts of a span come from sums by day and by hour, and which from rows."""

    days: tuple[Bounds, ...]
    hours: tuple[Bounds, ...]
    rows: tuple[Bounds, ...]


class SqlEndUsers:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def make(self, now_ms: int, *, most_s: float = _MOST_S) -> int:
        """Make what is missing, newest first, for about so long; gives how many hours and days. Can be cut short."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + most_s
        made = 0
        for unit_ms, start_ms in await self._missing(now_ms):
            made += await self._make(unit_ms, start_ms)
            if loop.time() >= ends:
                break
        return made

    async def faults(self) -> AsyncIterator[str]:
        """One line for each project and day whose sums by end user differ from its other ones."""
        async with self._database.connect(long=True) as connection:
            found: Sequence[Any] = (await connection.execute(_days_differ())).all()
        for day_ms, project_id, *amounts in found:
            told = ", ".join(f"{n} by {int(a)}" for n, a in zip(READ, amounts, strict=True) if a)
            yield f"day {day_ms} of {project_id}: usage_end_users differs from usage_days: {told}"

    async def _missing(self, now_ms: int) -> list[tuple[int, int]]:
        """Hours of the days that are not over, or not folded, and then days."""
        async with self._database.connect() as connection:
            days = await _distinct(connection, usage_days.c.day_ms, (None, None))
            recent = (now_ms // DAY_MS - 1) * DAY_MS
            hours = await _distinct(connection, usage_hours.c.hour_ms, (recent, None))
            fresh = await _fresh(connection, (None, None))
            whole_days = await _whole(connection, DAY_MS, (None, None))
            whole_hours = await _whole(connection, HOUR_MS, (recent, None))
        unsettled = {hour_ms // DAY_MS * DAY_MS for hour_ms in fresh}
        over = {day for day in days if day + DAY_MS + _SETTLED_MS <= now_ms and day not in unsettled}
        of_hours = set(hours) - fresh - whole_hours
        return [
            *((HOUR_MS, hour) for hour in sorted(of_hours, reverse=True) if hour // DAY_MS * DAY_MS not in over),
            *((DAY_MS, day) for day in sorted(over - whole_days, reverse=True)),
        ]

    async def _make(self, unit_ms: int, start_ms: int) -> bool:
        """False when rows came meanwhile, or somebody else began to make it: then it is left to the next turn."""
        part = _Part(self._database, unit_ms, start_ms, 1 + secrets.randbelow(_MAKERS))
        await part.claim()
        try:
            for project_id in await part.projects():
                await part.write(project_id)
            if unit_ms == DAY_MS:
                await part.remove_hours()
            return await part.finish()
        except _LostError:
            return False


class _LostError(Exception):
    """The part is another maker's, or outdated."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A part while it is made. What it reads after `claim` is whole as long as its number is there."""

    database: Database
    unit_ms: int
    start_ms: int
    maker: int

    @property
    def end_ms(self) -> int:
        return self.start_ms + self.unit_ms

    async def claim(self) -> None:
        async with self.database.begin(one_at_a_time=False) as connection:
            insert = upsert(connection, usage_end_user_parts)
            taken = insert.on_conflict_do_update(
                index_elements=list(usage_end_user_parts.primary_key.columns), set_={"maker": self.maker}
            )
            values = {"unit_ms": self.unit_ms, "start_ms": self.start_ms, "maker": self.maker}
            await connection.execute(taken, values)

    async def finish(self) -> bool:
        async with self.database.begin(one_at_a_time=False) as connection:
            mine = sa.update(usage_end_user_parts).where(*self._mark(), usage_end_user_parts.c.maker == self.maker)
            return bool((await connection.execute(mine.values(maker=0))).rowcount)

    async def projects(self) -> list[str]:
        """Those with usage in it, but for those that retention has removed rows of and that have sums already, or need none."""
        table, time = (
            (usage_days, usage_days.c.day_ms) if self.unit_ms == DAY_MS else (usage_hours, usage_hours.c.hour_ms)
        )
        query = sa.select(table.c.project_id).where(time == self.start_ms).distinct().order_by(table.c.project_id)
        removed = sa.select(usage_removed.c.project_id, usage_removed.c.before_ms).where(
            usage_removed.c.before_ms > self.start_ms
        )
        async with self.database.connect() as connection:
            found = (await connection.execute(query)).scalars().all()
            left = {row.project_id: row.before_ms for row in (await connection.execute(removed)).all()}
            return [
                project_id
                for project_id in found
                if project_id not in left
                or (left[project_id] < self.end_ms and not await self._keys(connection, project_id))
            ]

    async def write(self, project_id: str) -> None:
        async with self.database.connect(long=True) as connection:
            before = await self._keys(connection, project_id)
            rows: Sequence[Any] = (await connection.execute(self._sums(project_id))).all()
        of = {"project_id": project_id, "unit_ms": self.unit_ms, "start_ms": self.start_ms}
        names = ("end_user", "currency", *READ)
        made = [{**of, **dict(zip(names, (*row[:2], *map(int, row[2:])), strict=True))} for row in rows]
        gone = sorted(before - {(record["end_user"], record["currency"]) for record in made})
        for first in range(0, len(made), _AT_ONCE):
            async with self.database.begin(one_at_a_time=False) as connection:
                await self._hold(connection)
                insert = upsert(connection, usage_end_users)
                put = insert.on_conflict_do_update(
                    index_elements=list(usage_end_users.primary_key.columns),
                    set_={name: insert.excluded[name] for name in READ},
                )
                await connection.execute(put, made[first : first + _AT_ONCE])
            await asyncio.sleep(_PAUSE_S)
        for first in range(0, len(gone), _AT_ONCE):
            async with self.database.begin(one_at_a_time=False) as connection:
                await self._hold(connection)
                for end_user, currency in gone[first : first + _AT_ONCE]:
                    one = (usage_end_users.c.end_user == end_user, usage_end_users.c.currency == currency)
                    await connection.execute(sa.delete(usage_end_users).where(*self._of(project_id), *one))

    async def remove_hours(self) -> None:
        """A day that is over needs no hours: first what says that they are whole goes, then they."""
        hours = (usage_end_user_parts.c.unit_ms == HOUR_MS, *_between(usage_end_user_parts.c.start_ms, self._bounds()))
        async with self.database.begin(one_at_a_time=False) as connection:
            await self._hold(connection)
            await connection.execute(sa.delete(usage_end_user_parts).where(*hours))
        for project_id in await self._all_projects():
            mine = (usage_end_users.c.project_id == project_id, usage_end_users.c.unit_ms == HOUR_MS)
            within = (*mine, *_between(usage_end_users.c.start_ms, self._bounds()))
            async with self.database.connect() as connection:
                query = sa.select(usage_end_users.c.start_ms).where(*within).distinct()
                starts = (await connection.execute(query)).scalars().all()
            for start_ms in starts:
                async with self.database.begin(one_at_a_time=False) as connection:
                    await self._hold(connection)
                    await connection.execute(
                        sa.delete(usage_end_users).where(*mine, usage_end_users.c.start_ms == start_ms)
                    )
                await asyncio.sleep(_PAUSE_S)

    async def _all_projects(self) -> Sequence[str]:
        query = sa.select(usage_days.c.project_id).where(usage_days.c.day_ms == self.start_ms).distinct()
        async with self.database.connect() as connection:
            return (await connection.execute(query)).scalars().all()

    async def _hold(self, connection: AsyncConnection) -> None:
        query = sa.select(usage_end_user_parts.c.maker).where(*self._mark()).with_for_update()
        if (await connection.execute(query)).scalar() != self.maker:
            raise _LostError

    async def _keys(self, connection: AsyncConnection, project_id: str) -> set[_Key]:
        query = sa.select(usage_end_users.c.end_user, usage_end_users.c.currency).where(*self._of(project_id))
        return {(end_user, currency) for end_user, currency in (await connection.execute(query)).all()}

    def _sums(self, project_id: str) -> sa.Select[Any]:
        end_user = sa.func.coalesce(usage.c.end_user, sa.literal_column("''"))
        counted = {
            "requests": sa.func.count(),
            "ttft_requests": sa.func.count(usage.c.ttft_ms),
            UNPRICED: unpriced_of(usage),
        }
        zero: sa.ColumnElement[int] = sa.literal_column("0", sa.BigInteger)
        numbers = [counted[n] if n in counted else sa.func.coalesce(sa.func.sum(usage.c[n]), zero) for n in READ]
        mine = (usage.c.project_id == project_id, *_between(usage.c.started_ms, self._bounds()))
        return sa.select(end_user, usage.c.currency, *numbers).where(*mine).group_by(end_user, usage.c.currency)

    def _bounds(self) -> Bounds:
        return self.start_ms, self.end_ms

    def _mark(self) -> tuple[sa.ColumnElement[bool], ...]:
        return usage_end_user_parts.c.unit_ms == self.unit_ms, usage_end_user_parts.c.start_ms == self.start_ms

    def _of(self, project_id: str) -> tuple[sa.ColumnElement[bool], ...]:
        columns = usage_end_users.c
        return (
            columns.project_id == project_id,
            columns.unit_ms == self.unit_ms,
            columns.start_ms == self.start_ms,
        )


async def end_user_parts(connection: AsyncConnection, start: int | None, end: int | None) -> EndUserParts:
    """From where each part of a span is read, as of the moment that the connection sees."""
    bounds = (None if start is None else start // DAY_MS * DAY_MS, end)
    fresh = await _fresh(connection, bounds)
    whole_days = await _whole(connection, DAY_MS, bounds)
    whole_hours = await _whole(connection, HOUR_MS, bounds) - fresh
    unsettled = {hour_ms // DAY_MS * DAY_MS for hour_ms in fresh}
    days, hours, rows = _Runs(), _Runs(), _Runs()
    for day in sorted({*await _distinct(connection, usage_days.c.day_ms, bounds), *unsettled}):
        if day in whole_days and day not in unsettled and _inside(day, DAY_MS, start, end):
            days.add(day, day + DAY_MS)
            rows.close()
            continue
        days.close()
        for hour in range(day, day + DAY_MS, HOUR_MS):
            if hour in whole_hours and _inside(hour, HOUR_MS, start, end):
                hours.add(hour, hour + HOUR_MS)
                rows.close()
                continue
            hours.close()
            first = hour if start is None else max(hour, start)
            last = hour + HOUR_MS if end is None else min(hour + HOUR_MS, end)
            if first < last:
                rows.add(first, last)
        hours.close()
    if len(rows.spans) + len(days.spans) + len(hours.spans) > _ROW_SPANS:
        return EndUserParts((), (), ((start, end),))
    return EndUserParts(tuple(days.spans), tuple(hours.spans), tuple(rows.spans))


class _Runs:
    """Spans of what follows each other with nothing else between; days without any usage are nothing."""

    def __init__(self) -> None:
        self.spans: list[Bounds] = []
        self._open = False

    def add(self, start: int, end: int) -> None:
        if self._open:
            start = self.spans.pop()[0] or 0
        self.spans.append((start, end))
        self._open = True

    def close(self) -> None:
        self._open = False


def _inside(start_ms: int, unit_ms: int, start: int | None, end: int | None) -> bool:
    return (start is None or start <= start_ms) and (end is None or start_ms + unit_ms <= end)


async def _distinct(connection: AsyncConnection, time: sa.Column[int], bounds: Bounds) -> list[int]:
    """Each value of a table's first column once: from one to the next through its index, not through all rows."""
    within = _between(time, bounds)
    found = sa.select(sa.func.min(time).label("ms")).where(*within).cte("found", recursive=True)
    following = sa.select(sa.func.min(time)).where(time > found.c.ms, *within).scalar_subquery()
    found = found.union_all(sa.select(following).where(found.c.ms.is_not(None)))
    query = sa.select(found.c.ms).where(found.c.ms.is_not(None))
    return list((await connection.execute(query)).scalars().all())


async def _fresh(connection: AsyncConnection, bounds: Bounds) -> set[int]:
    query = sa.select(usage_hours.c.hour_ms).where(FRESH, *_between(usage_hours.c.hour_ms, bounds)).distinct()
    return set((await connection.execute(query)).scalars().all())


async def _whole(connection: AsyncConnection, unit_ms: int, bounds: Bounds) -> set[int]:
    parts = usage_end_user_parts.c
    query = sa.select(parts.start_ms).where(
        parts.unit_ms == unit_ms, parts.maker == 0, *_between(parts.start_ms, bounds)
    )
    return set((await connection.execute(query)).scalars().all())


def _between(time: sa.ColumnElement[int], bounds: Bounds) -> list[sa.ColumnElement[bool]]:
    start, end = bounds
    return [*([time >= start] if start is not None else []), *([time < end] if end is not None else [])]


def _days_differ() -> sa.Select[Any]:
    """Of days that are whole. Where retention has taken rows away, what was late may not stand there."""
    whole = sa.select(usage_end_user_parts.c.start_ms).where(
        usage_end_user_parts.c.unit_ms == DAY_MS, usage_end_user_parts.c.maker == 0
    )
    parts = []
    for table, time, sign in ((usage_end_users, "start_ms", "1"), (usage_days, "day_ms", "-1")):
        removed = sa.select(usage_removed.c.project_id).where(
            usage_removed.c.project_id == table.c.project_id, usage_removed.c.before_ms > table.c[time]
        )
        clauses = [table.c[time].in_(whole), ~removed.exists()]
        if table is usage_end_users:
            clauses.append(usage_end_users.c.unit_ms == DAY_MS)
        factor = sa.literal_column(sign, sa.BigInteger)
        sums = [
            ((unpriced_of(table) if name == UNPRICED else sa.func.sum(table.c[name])) * factor).label(name)
            for name in READ
        ]
        day = table.c[time].label("day_ms")
        parts.append(
            sa.select(day, table.c.project_id, *sums).where(*clauses).group_by(table.c[time], table.c.project_id)
        )
    both = sa.union_all(*parts).subquery()
    differences = [sa.func.sum(both.c[name]) for name in READ]
    of = (both.c.day_ms, both.c.project_id)
    return sa.select(*of, *differences).group_by(*of).having(sa.or_(*(d != 0 for d in differences))).order_by(*of)
