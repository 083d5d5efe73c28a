"""The statement behind sums of usage: which part of a span comes from days, which from hours, which from rows.

A span's whole days come from `usage_days` and the hours not folded into it yet, whole hours at its ends from
`usage_hours`, and what is less than an hour from rows. See `rollups.py` for what these tables hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from llmaas.clock import iso
from llmaas.domain.usage import FROM_ROWS, Grouping, UsageFilter
from llmaas.storage.rollups import DAY_MS, FRESH, HOUR_MS, NUMBERS
from llmaas.storage.tables import keys, usage, usage_days, usage_hours

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
_Bounds = tuple[int | None, int | None]


@dataclass(frozen=True, slots=True)
class _Source:
    """A table, the column of its time, and the spans of time that it answers for."""

    table: sa.Table
    time: str
    spans: tuple[_Bounds, ...]
    fresh_only: bool = False


def sums_query(where: UsageFilter, by: Sequence[Grouping], *, with_price: bool) -> sa.Select[Any]:
    """Columns: one for each grouping, currency, [price version, outcome], then NUMBERS. The last may be decimals."""
    names = [_COLUMN_OF[name] for name in by]
    dimensions = list(dict.fromkeys([*names, "currency", *(("price_version", "outcome") if with_price else ())]))
    parts = [_part(source, where, dimensions) for source in _sources(where, by) if source.spans]
    joined = sa.union_all(*parts).subquery("parts")
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
    totals = [sa.func.sum(joined.c[name]).label(name) for name in NUMBERS]
    return sa.select(*shown, *totals).select_from(found).group_by(*grouped)


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
    start, end = where.from_ms, where.to_ms
    if where.end_user is not None or where.id is not None or not FROM_ROWS.isdisjoint(by):
        return [_Source(usage, "started_ms", ((start, end),))]
    first_hour, last_hour = _inside((start, end), HOUR_MS)
    if _empty((first_hour, last_hour)):
        return [_Source(usage, "started_ms", ((start, end),))]
    rows = _Source(usage, "started_ms", _filled((start, first_hour), (last_hour, end)))
    days = _inside((first_hour, last_hour), DAY_MS)
    if Grouping.HOUR in by or _empty(days):
        return [rows, _Source(usage_hours, "hour_ms", ((first_hour, last_hour),))]
    return [
        rows,
        _Source(usage_hours, "hour_ms", _filled((first_hour, days[0]), (days[1], last_hour))),
        _Source(usage_hours, "hour_ms", (days,), fresh_only=True),
        _Source(usage_days, "day_ms", (days,)),
    ]


def _inside(bounds: _Bounds, unit_ms: int) -> _Bounds:
    """The whole units within a span; what is open stays open."""
    start, end = bounds
    return None if start is None else -(-start // unit_ms) * unit_ms, None if end is None else end // unit_ms * unit_ms


def _empty(bounds: _Bounds) -> bool:
    start, end = bounds
    return start is not None and end is not None and start >= end


def _filled(*spans: _Bounds) -> tuple[_Bounds, ...]:
    """The ends of a span that hold any time: an end of it that is open has nothing beyond its whole units."""
    return tuple(span for span in spans if None not in span and not _empty(span))


def _part(source: _Source, where: UsageFilter, dimensions: Sequence[str]) -> sa.Select[Any]:
    table, time = source.table, source.table.c[source.time]
    shown = [_dimension(table, time, name) for name in dimensions]
    clauses: list[sa.ColumnElement[bool] | sa.TextClause] = [*_conditions(table, where)]
    if source.spans != ((None, None),):
        clauses.append(sa.or_(*(_within(time, span) for span in source.spans)))
    if source.fresh_only:
        clauses.append(FRESH)
    totals = [_total(table, name).label(name) for name in NUMBERS]
    labelled = [column.label(name) for column, name in zip(shown, dimensions, strict=True)]
    return sa.select(*labelled, *totals).where(*clauses).group_by(*shown)


def _conditions(table: sa.Table, where: UsageFilter) -> list[sa.ColumnElement[bool]]:
    wanted = {name: getattr(where, name) for name in _FILTERED}
    clauses = [table.c[name] == value for name, value in wanted.items() if value is not None]
    if where.member_id is not None:
        clauses.append(table.c.key_id.in_(sa.select(keys.c.id).where(keys.c.owner_id == where.member_id)))
    if where.end_user is not None:
        clauses.append(usage.c.end_user == where.end_user)
    if where.id is not None:
        clauses.append(usage.c.id == where.id)
    return clauses


def _within(time: sa.ColumnElement[int], span: _Bounds) -> sa.ColumnElement[bool]:
    start, end = span
    return sa.and_(
        sa.true(), *([time >= start] if start is not None else []), *([time < end] if end is not None else [])
    )


def _dimension(table: sa.Table, time: sa.ColumnElement[int], name: str) -> sa.ColumnElement[Any]:
    if name in table.c:
        column = table.c[name]
        # Rollups say '' and 0 where a row has nothing, since their key cannot hold nothing.
        if table is not usage and name == "backend_id":
            return sa.func.nullif(column, sa.literal_column("''"))
        if table is not usage and name == "price_version":
            return sa.func.nullif(column, sa.literal_column("0"))
        return column
    # Written out and not bound: PostgreSQL takes two parameters for two different expressions.
    unit = sa.literal_column(str(HOUR_MS if name == "hour_ms" else DAY_MS), sa.BigInteger)
    return time // unit * unit


def _total(table: sa.Table, name: str) -> sa.ColumnElement[Any]:
    if table is not usage:
        return sa.func.sum(table.c[name])
    if name == "requests":
        return sa.func.count()
    if name == "ttft_requests":
        return sa.func.count(usage.c.ttft_ms)
    return sa.func.coalesce(sa.func.sum(usage.c[name]), sa.literal_column("0"))
