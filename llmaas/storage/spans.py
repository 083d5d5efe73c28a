"""The statement behind sums of usage: which part of a span comes from months, days, hours, and which from rows.

A span's whole months come from `usage_months`, whole days at its ends from `usage_days`, for both the hours that are not folded
yet, whole hours at its ends from `usage_hours`, and what is less than an hour from rows. See `rollups.py` for these tables.
By end user, days and hours that are whole come from `usage_end_users` (`end_users.py`), the others from rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmaas.clock import iso
from llmaas.domain.usage import FROM_ROWS, Grouping, UsageFilter
from llmaas.storage.end_users import Bounds, EndUserParts
from llmaas.storage.rollups import DAY_MS, FRESH, HOUR_MS, READ, UNPRICED, month_end, month_start, unpriced_of
from llmaas.storage.tables import keys, usage, usage_days, usage_end_users, usage_hours, usage_months

_COLUMN_OF = {
    Grouping.BACKEND: "backend_id",
    Grouping.DAY: "day_ms",
    Grouping.END_USER: "end_user",
    Grouping.HOUR: "hour_ms",
    Grouping.KEY: "key_id",
    Grouping.MEMBER: "key_id",
    Grouping.MODEL: "model_id",
    Grouping.MONTH: "day_ms",
    Grouping.OUTCOME: "outcome",
    Grouping.PROJECT: "project_id",
    Grouping.TIER: "tier_id",
}
_FILTERED = ("project_id", "key_id", "model_id", "backend_id", "outcome")
_YEAR_9000_MS = 221_845_392_000_000
_BESIDE_END_USERS = frozenset({Grouping.END_USER, Grouping.DAY, Grouping.MONTH, Grouping.PROJECT})


@dataclass(frozen=True, slots=True)
class _Source:
    """A table, the column of its time, and the spans of time that it answers for."""

    table: sa.Table
    time: str
    spans: tuple[Bounds, ...]
    fresh_only: bool = False
    unit_ms: int | None = None
    """Of `usage_end_users`."""


@dataclass(frozen=True, slots=True)
class Only:
    """The values of a grouping that are wanted; "" is none."""

    by: Grouping
    values: tuple[str, ...]


def knows_end_users(where: UsageFilter, by: Sequence[Grouping]) -> bool:
    """Whether sums by end user hold what is asked for, and are needed for it."""
    if Grouping.END_USER not in by and where.end_user is None:
        return False
    others = (where.key_id, where.model_id, where.backend_id, where.outcome, where.member_id, where.id)
    return _BESIDE_END_USERS.issuperset(by) and where.end_user != "" and all(other is None for other in others)


_NOTHING = _Source(usage, "started_ms", ((0, 0),))


def sums_query(
    where: UsageFilter,
    by: Sequence[Grouping],
    *,
    with_price: bool = False,
    parts: EndUserParts | None = None,
    only: Only | None = None,
    numbers: Sequence[str] = READ,
) -> sa.Select[Any]:
    """Columns: one for each grouping, currency, [price version, outcome], then the numbers. The last may be decimals.

    `parts`: where sums by end user come from.
    """
    names = [_COLUMN_OF[name] for name in by]
    dimensions = list(dict.fromkeys([*names, "currency", *(("price_version", "outcome") if with_price else ())]))
    sources = _sources(where, by) if parts is None else _end_user_sources(parts)
    used = [source for source in sources if source.spans] or [_NOTHING]
    selects = [_part(source, where, dimensions, numbers, only) for source in used]
    joined = sa.union_all(*selects).subquery("parts")
    shown: list[sa.ColumnElement[Any]] = []
    found: sa.FromClause = joined
    if Grouping.MEMBER in by:
        found = joined.outerjoin(keys, keys.c.id == joined.c.key_id)
    for number, (name, column) in enumerate(zip(by, names, strict=True)):
        value = keys.c.owner_id if name is Grouping.MEMBER else joined.c[column]
        shown.append(value.label(f"group_{number}"))
    shown.append(joined.c.currency)
    if with_price:
        shown += [joined.c.price_version, joined.c.outcome.label("ended")]
    grouped = [column.element if isinstance(column, sa.Label) else column for column in shown]
    totals = [sa.func.sum(joined.c[name]).label(name) for name in numbers]
    return sa.select(*shown, *totals).select_from(found).group_by(*grouped)


def ranked_query(
    where: UsageFilter, by: Grouping, numbers: Sequence[str], parts: EndUserParts | None, limit: int
) -> sa.Select[Any]:
    """The largest groups by the sum of these numbers, and of how many. Columns: group, currency, how many groups.

    Sorting records with all their numbers takes the most of the time, so only these are read; see `Only` for the others.
    """
    every = sums_query(where, [by], parts=parts, numbers=numbers).subquery("every_group")
    height = sum((every.c[name] for name in numbers[1:]), every.c[numbers[0]])
    query = sa.select(every.c.group_0, every.c.currency, sa.func.count().over())
    return query.order_by(height.desc(), every.c.group_0, every.c.currency).limit(limit)


def row_clauses(where: UsageFilter) -> list[sa.ColumnElement[bool]]:
    """The filter as conditions on `usage`."""
    clauses = _conditions(usage, where)
    if where.from_ms is not None:
        clauses.append(usage.c.started_ms >= where.from_ms)
    if where.to_ms is not None:
        clauses.append(usage.c.started_ms < where.to_ms)
    return clauses


def group_text(name: Grouping, value: Any) -> str | None:
    """A value of a grouping as it is shown: times as `2026-05`, `2026-05-29` or `2026-05-29T12:00Z`, in UTC."""
    if value is None or value == "":
        return None
    if name is Grouping.MONTH:
        return iso(value)[:7]
    if name is Grouping.DAY:
        return iso(value)[:10]
    if name is Grouping.HOUR:
        return iso(value)[:16] + "Z"
    return str(value)


def _sources(where: UsageFilter, by: Sequence[Grouping]) -> list[_Source]:
    start, end = in_the_calendar(where.from_ms), in_the_calendar(where.to_ms)
    if where.end_user is not None or where.id is not None or not FROM_ROWS.isdisjoint(by):
        return [_Source(usage, "started_ms", ((start, end),))]
    hours = _inside((start, end), _hour_start, _hour_end)
    if _empty(hours):
        return [_Source(usage, "started_ms", ((start, end),))]
    rows = _Source(usage, "started_ms", _around(hours, (start, end)))
    days = _inside(hours, _day_start, _day_end)
    if Grouping.HOUR in by or _empty(days):
        return [rows, _Source(usage_hours, "hour_ms", (hours,))]
    sources = [
        rows,
        _Source(usage_hours, "hour_ms", _around(days, hours)),
        _Source(usage_hours, "hour_ms", (days,), fresh_only=True),
    ]
    months = _inside(days, month_start, month_end)
    if Grouping.DAY in by or _empty(months):
        return [*sources, _Source(usage_days, "day_ms", (days,))]
    return [
        *sources,
        _Source(usage_days, "day_ms", _around(months, days)),
        _Source(usage_months, "month_ms", (months,)),
    ]


def _end_user_sources(parts: EndUserParts) -> list[_Source]:
    return [
        _Source(usage, "started_ms", parts.rows),
        _Source(usage_end_users, "start_ms", parts.hours, unit_ms=HOUR_MS),
        _Source(usage_end_users, "start_ms", parts.days, unit_ms=DAY_MS),
    ]


def in_the_calendar(ms: int | None) -> int | None:
    """No row lies beyond, and the last months of the year 9999 have no end."""
    return None if ms is None else min(max(ms, 0), _YEAR_9000_MS)


def _inside(bounds: Bounds, starts: Callable[[int], int], ends: Callable[[int], int]) -> Bounds:
    """The whole units within a span; what is open stays open. `starts`, `ends`: of the unit that holds a moment."""
    start, end = bounds
    if start is not None and starts(start) != start:
        start = ends(start)
    return start, None if end is None else starts(end)


def _hour_start(ms: int) -> int:
    return ms // HOUR_MS * HOUR_MS


def _hour_end(ms: int) -> int:
    return _hour_start(ms) + HOUR_MS


def _day_start(ms: int) -> int:
    return ms // DAY_MS * DAY_MS


def _day_end(ms: int) -> int:
    return _day_start(ms) + DAY_MS


def _around(units: Bounds, bounds: Bounds) -> tuple[Bounds, ...]:
    """What of a span lies before and after its whole units. An end of it that is open has nothing beyond them."""
    ends = (bounds[0], units[0]), (units[1], bounds[1])
    return tuple(span for span in ends if None not in span and not _empty(span))


def _empty(bounds: Bounds) -> bool:
    start, end = bounds
    return start is not None and end is not None and start >= end


def _part(
    source: _Source, where: UsageFilter, dimensions: Sequence[str], numbers: Sequence[str], only: Only | None
) -> sa.Select[Any]:
    table, time = source.table, source.table.c[source.time]
    shown = [_dimension(table, time, name) for name in dimensions]
    clauses: list[sa.ColumnElement[bool] | sa.TextClause] = [*_conditions(table, where, fresh_only=source.fresh_only)]
    if source.spans != ((None, None),):
        clauses.append(sa.or_(*(_within(time, span) for span in source.spans)))
    if source.fresh_only:
        clauses.append(FRESH)
    if source.unit_ms is not None:
        clauses.append(usage_end_users.c.unit_ms == source.unit_ms)
    if only is not None:
        clauses.append(_dimension(table, time, _COLUMN_OF[only.by]).in_(only.values))
    totals = [_total(table, name).label(name) for name in numbers]
    labelled = [column.label(name) for column, name in zip(shown, dimensions, strict=True)]
    return sa.select(*labelled, *totals).where(*clauses).group_by(*shown)


def _conditions(table: sa.Table, where: UsageFilter, *, fresh_only: bool = False) -> list[sa.ColumnElement[bool]]:
    columns: dict[str, sa.ColumnElement[str]] = {name: table.c[name] for name in _FILTERED if name in table.c}
    if fresh_only:
        # Without statistics SQLite would go through all hours of a project to find the few that are fresh.
        columns["project_id"] = table.c.project_id.concat("")
    wanted = {name: getattr(where, name) for name in _FILTERED}
    clauses = [columns[name] == value for name, value in wanted.items() if value is not None]
    if where.member_id is not None:
        clauses.append(table.c.key_id.in_(sa.select(keys.c.id).where(keys.c.owner_id == where.member_id)))
    if where.end_user is not None:
        clauses.append(table.c.end_user == where.end_user)
    if where.id is not None:
        clauses.append(usage.c.id == where.id)
    return clauses


def _within(time: sa.ColumnElement[int], span: Bounds) -> sa.ColumnElement[bool]:
    start, end = span
    return sa.and_(
        sa.true(), *([time >= start] if start is not None else []), *([time < end] if end is not None else [])
    )


def _dimension(table: sa.Table, time: sa.ColumnElement[int], name: str) -> sa.ColumnElement[Any]:
    if name == "day_ms" and table is usage_months:
        return time  # of the month: who asks for days does not get months
    if name in table.c:
        column = table.c[name]
        if table is usage and name == "end_user":
            return sa.func.coalesce(column, sa.literal_column("''"))  # as sums by end user say it
        # Rollups say '' and 0 where a row has nothing, since their key cannot hold nothing.
        if table is not usage and name == "backend_id":
            return sa.func.nullif(column, sa.literal_column("''"))
        if table is not usage and name == "price_version":
            return sa.func.nullif(column, sa.literal_column("0"))
        return column
    unit = _written(HOUR_MS if name == "hour_ms" else DAY_MS)
    return time // unit * unit


def _total(table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    if name == UNPRICED:
        return sa.func.coalesce(unpriced_of(table), sa.literal_column("0"))
    if table is not usage:
        return sa.func.sum(table.c[name])
    if name == "requests":
        return sa.func.count()
    if name == "ttft_requests":
        return sa.func.count(usage.c.ttft_ms)
    return sa.func.coalesce(sa.func.sum(usage.c[name]), sa.literal_column("0"))


def _written(number: int) -> sa.ColumnElement[int]:
    """Not bound: PostgreSQL takes two parameters for two different expressions."""
    return sa.literal_column(str(number), sa.BigInteger)
