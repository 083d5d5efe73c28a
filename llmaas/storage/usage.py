"""Reading the ledger: sums over any span and dimension, single rows page by page, and the check of a row by itself.

Sums take whole days and hours from the rollups (`rollups.py`) and only the ragged edges of a span from rows, in one
statement and so at one moment. End users have sums of their own (`end_users.py`). What none of them holds (tiers, single
ids, end users together with other dimensions) is summed from rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.prices import Price, TokenCounts, cost_nano
from llmaas.domain.usage import (
    FREE,
    MAY_COST,
    BillingReason,
    ClassSum,
    Cursor,
    Grouping,
    Largest,
    Outcome,
    Ranked,
    TokenClass,
    UsageFilter,
    UsageRow,
    UsageSource,
    UsageSum,
)
from llmaas.storage.database import Database
from llmaas.storage.end_users import EndUserParts, end_user_parts
from llmaas.storage.rollups import READ, UNPRICED
from llmaas.storage.spans import (
    Only,
    group_text,
    in_the_calendar,
    knows_end_users,
    ranked_query,
    row_clauses,
    sums_query,
)
from llmaas.storage.tables import prices, usage

_PAGE_ROWS = 1_000
_MTOK = 1_000_000
_SUMMED = ("requests", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nano")
_ALSO = ("documents", "energy_uwh", "duration_ms", "ttft_ms", "ttft_requests", UNPRICED)
_CLASSES = (TokenClass.INPUT, TokenClass.CACHED_INPUT, TokenClass.OUTPUT, TokenClass.REASONING)
_RANKED = {
    Ranked.TOKENS: ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens"),
    Ranked.COST: ("cost_nano",),
    Ranked.REQUESTS: ("requests",),
}
_Group = tuple[tuple[str | None, ...], str]


class SqlUsageReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[UsageSum]:
        """One sum for each value of the groupings and each currency, in order."""
        async with self._database.connect() as connection:
            parts = await _parts(connection, where, by)
            found = await _read(connection, sums_query(where, by, parts=parts))
        return _sums(by, found)

    async def largest(
        self, where: UsageFilter, by: Grouping, ranked: Ranked, time: Grouping, *, limit: int, drawn: int
    ) -> Largest:
        """The database ranks, so that only those groups are read. `by`: end user or key."""
        async with self._database.connect() as connection:
            parts = await _parts(connection, where, [time, by])
            query = ranked_query(where, by, _RANKED[ranked], parts, limit)
            ranks: Sequence[Any] = (await connection.execute(query)).all()
            values = list(dict.fromkeys(value or "" for value, _, _ in ranks))
            only, shown = Only(by, tuple(values)), Only(by, tuple(values[:drawn]))
            lines = _sums([by], await _read(connection, sums_query(where, [by], parts=parts, only=only)))
            columns_query = sums_query(where, [time, by], parts=parts, only=shown)
            columns = _sums([time, by], await _read(connection, columns_query))
            # All of them together are in the rollups, but for those of one end user.
            total_parts = parts if where.end_user is not None else None
            every = _sums([time], await _read(connection, sums_query(where, [time], parts=total_parts)))
        place = {(group_text(by, value), currency): n for n, (value, currency, _) in enumerate(ranks)}
        found = [line for line in lines if (line.group[0], line.currency) in place]
        found.sort(key=lambda line: place[line.group[0], line.currency])
        return Largest(found, columns, every, ranks[0][2] if ranks else 0)

    async def requests_from_rows(self, where: UsageFilter, by: Sequence[Grouping]) -> dict[str, int]:
        """How many requests of each day `sums` of end users read row by row; days of which they read none are left out."""
        async with self._database.connect() as connection:
            parts = await _parts(connection, where, by)
        plain = dataclasses.replace(where, end_user=None)
        spans = [(where.from_ms, where.to_ms)] if parts is None else parts.rows
        counts: dict[str, int] = {}
        for from_ms, to_ms in spans:
            within = dataclasses.replace(plain, from_ms=from_ms, to_ms=to_ms)
            for total in await self.sums(within, [Grouping.DAY]):
                day = total.group[0] or ""
                counts[day] = counts.get(day, 0) + total.requests
        return counts

    async def class_sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[ClassSum]:
        """The same by class of tokens, each with what it costs by the price versions of its rows."""
        bills: dict[_Group, _Bill] = {}
        known = await self._prices()
        async with self._database.connect() as connection:
            found = await _read(connection, sums_query(where, by, with_price=True))
        for row in found:
            currency, version, outcome, *numbers = row[len(by) :]
            group = _texts(by, row), currency
            charged = known.get(version) if version is not None and outcome in MAY_COST else None
            bills.setdefault(group, _Bill()).add(charged, dict(zip(READ, map(int, numbers), strict=True)))
        return [
            one
            for (values, currency), bill in sorted(bills.items(), key=lambda item: _order_of(*item[0]))
            for one in bill.classes(values, currency)
        ]

    async def rows(self, where: UsageFilter, limit: int | None = None) -> AsyncIterator[UsageRow]:
        """Single rows, newest first, in constant memory. Rows that arrive meanwhile are not among them."""
        cursor: Cursor | None = None
        left = limit
        while left is None or left > 0:
            size = _PAGE_ROWS if left is None else min(left, _PAGE_ROWS)
            page = await self.page(where, limit=size, after=cursor)
            for row in page:
                yield row
            if len(page) < size:
                return
            cursor = Cursor.after(page[-1])
            left = None if left is None else left - size

    async def page(self, where: UsageFilter, *, limit: int, after: Cursor | None = None) -> list[UsageRow]:
        """At most `limit` rows, newest first, from the place after a row on."""
        clauses = row_clauses(where)
        if after is not None:
            # The first clause alone lets an index find the place.
            clauses.append(usage.c.started_ms <= after.started_ms)
            clauses.append(sa.or_(usage.c.started_ms < after.started_ms, usage.c.id < after.id))
        query = sa.select(usage).where(*clauses).order_by(usage.c.started_ms.desc(), usage.c.id.desc()).limit(limit)
        async with self._database.connect() as connection:
            return [UsageRow(**row) for row in (await connection.execute(query)).mappings()]

    async def faults(self, prices: dict[int, Price]) -> AsyncIterator[str]:
        """One line for each row that breaks an invariant; nothing when the ledger is clean.

        The database looks for those that may, since reading a million rows takes a minute.
        """
        async with self._database.connect(long=True) as connection:
            doubtful = _doubtful(connection.dialect.name)
            async for found in (await connection.stream(doubtful)).mappings():
                row = UsageRow(**found)
                for fault in row_faults(row, prices):
                    yield f"{row.id}: {fault}"

    async def _prices(self) -> dict[int, Price]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(prices))).mappings().all()
        return {row["version"]: Price(**row) for row in rows}


class _Bill:
    """The classes of one group; costs are kept in millionths of a nano-unit until the end."""

    def __init__(self) -> None:
        self._requests = 0
        self._unpriced = 0
        self._cost_nano = 0
        self._tokens = dict.fromkeys(_CLASSES, 0)
        self._scaled = dict.fromkeys(_CLASSES, 0)

    def add(self, price: Price | None, numbers: dict[str, int]) -> None:
        self._requests += numbers["requests"]
        self._unpriced += numbers[UNPRICED]
        self._cost_nano += numbers["cost_nano"]
        for name in _CLASSES:
            tokens = numbers[f"{name}_tokens"]
            self._tokens[name] += tokens
            self._scaled[name] += tokens * int(getattr(price, name)) if price is not None else 0

    def classes(self, values: tuple[str | None, ...], currency: str) -> list[ClassSum]:
        costs = {name: (scaled + _MTOK // 2) // _MTOK for name, scaled in self._scaled.items()}
        classes = [
            ClassSum(values, currency, name, self._requests, self._tokens[name], costs[name], self._unpriced)
            for name in _CLASSES
        ]
        rest = self._cost_nano - sum(costs.values())
        if rest:
            classes.append(ClassSum(values, currency, TokenClass.OTHER, self._requests, 0, rest, self._unpriced))
        return classes


async def _parts(connection: AsyncConnection, where: UsageFilter, by: Sequence[Grouping]) -> EndUserParts | None:
    if not knows_end_users(where, by):
        return None
    return await end_user_parts(connection, in_the_calendar(where.from_ms), in_the_calendar(where.to_ms))


async def _read(connection: AsyncConnection, query: sa.Select[Any]) -> Sequence[Any]:
    rows: Sequence[Any] = (await connection.execute(query)).all()
    return rows


def _sums(by: Sequence[Grouping], rows: Sequence[Any]) -> list[UsageSum]:
    """In order. Days of a month come one by one, and are one here."""
    totals: dict[_Group, list[int]] = {}
    for row in rows:
        currency, *numbers = row[len(by) :]
        total = totals.setdefault((_texts(by, row), currency), [0] * len(READ))
        for n, number in enumerate(numbers):
            total[n] += int(number)
    named = [(group, dict(zip(READ, total, strict=True))) for group, total in totals.items()]
    sums = [UsageSum(*group, *(total[name] for name in (*_SUMMED, *_ALSO))) for group, total in named]
    return sorted(sums, key=_order)


def _texts(by: Sequence[Grouping], row: Any) -> tuple[str | None, ...]:
    return tuple(group_text(name, value) for name, value in zip(by, row, strict=False))


def _order(total: UsageSum) -> tuple[object, ...]:
    return _order_of(total.group, total.currency)


def _order_of(values: tuple[str | None, ...], currency: str) -> tuple[object, ...]:
    """Nothing comes before any text, on every database alike."""
    return (*((value is not None, value or "") for value in values), currency)


def _doubtful(dialect: str) -> sa.Select[Any]:
    """All rows that `row_faults` finds something wrong with, and perhaps others."""
    row, price = usage.c, prices.c
    tokens = {name: row[f"{name}_tokens"] for name in _CLASSES}
    # PostgreSQL fails where a product is beyond 64 bits; SQLite goes on with a float, which is no exact cost, so it is doubtful.
    exact: Callable[[sa.ColumnElement[int]], sa.ColumnElement[Any]] = (
        (lambda column: sa.cast(column, sa.Numeric(asdecimal=False)))
        if dialect == "postgresql"
        else lambda column: column
    )
    scaled = sum((exact(tokens[name]) * exact(price[name]) for name in _CLASSES), start=_number(_MTOK // 2))
    # PostgreSQL's `/` rounds a long quotient, at times up to the next whole number.
    whole = sa.func.div(scaled, exact(_number(_MTOK))) if dialect == "postgresql" else scaled // _number(_MTOK)
    free = sa.or_(row.price_version.is_(None), row.billing_reason.in_(sorted(FREE)))
    expected = sa.case((free, _number(0)), else_=whole + price.request)
    corrects = row.corrects.is_not(None)
    closed = ((row.outcome, Outcome), (row.billing_reason, BillingReason), (row.usage_source, UsageSource))
    wrong_numbers = sa.or_(
        *(column < 0 for column in tokens.values()),
        row.duration_ms < 0,
        row.ttft_ms > row.duration_ms,
        sa.and_(row.attempts < 1, row.outcome == Outcome.COMPLETED),
        row.cost_nano != expected,
        expected.is_(None),
        sa.and_(row.hold_nano != 0, row.cost_nano > row.hold_nano),
    )
    return (
        sa.select(usage)
        .outerjoin(prices, price.version == row.price_version)
        .where(
            sa.or_(
                *(column.not_in([str(word) for word in words]) for column, words in closed),
                corrects != (row.billing_reason == BillingReason.CORRECTED),
                sa.and_(~corrects, wrong_numbers),
            )
        )
        .order_by(row.started_ms.desc(), row.id.desc())
    )


def _number(number: int) -> sa.ColumnElement[Any]:
    return sa.literal_column(str(number), sa.BigInteger)


def row_faults(row: UsageRow, prices: dict[int, Price]) -> list[str]:
    """What is wrong with a row by itself: closed sets, token classes, times, and the cost by its own price version.

    A correction's numbers are differences, so they may be anything.
    """
    faults: list[str] = []
    for name, closed in (("outcome", Outcome), ("billing_reason", BillingReason), ("usage_source", UsageSource)):
        if getattr(row, name) not in set(closed):
            faults.append(f"{name} is {getattr(row, name)!r}")
    if (row.corrects is not None) != (row.billing_reason == BillingReason.CORRECTED):
        faults.append("it is half a correction")
    if row.corrects is not None:
        return faults
    tokens = TokenCounts(row.input_tokens, row.cached_input_tokens, row.output_tokens, row.reasoning_tokens)
    if min(tokens.input, tokens.cached_input, tokens.output, tokens.reasoning) < 0:
        faults.append("a token class is negative")
    if row.duration_ms < 0 or (row.ttft_ms is not None and row.ttft_ms > row.duration_ms):
        faults.append("its times contradict each other")
    if row.attempts < 1 and row.outcome == Outcome.COMPLETED:
        faults.append("it completed without an attempt")
    expected = 0
    if row.price_version is not None and row.billing_reason not in FREE:
        price = prices.get(row.price_version)
        if price is None:
            return [*faults, f"its price version {row.price_version} does not exist"]
        expected = cost_nano(price, tokens)
    if row.cost_nano != expected:
        faults.append(f"it costs {row.cost_nano}, its tokens and price version make {expected}")
    if row.hold_nano and row.cost_nano > row.hold_nano:
        faults.append(f"it costs {row.cost_nano}, {row.hold_nano} was held for it")
    return faults
