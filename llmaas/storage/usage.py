"""Reading the ledger: sums, single rows, and the check of what must always hold."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import sqlalchemy as sa

from llmaas.domain.prices import Price, TokenCounts, cost_nano
from llmaas.domain.usage import (
    FREE,
    BillingReason,
    Grouping,
    Outcome,
    UsageFilter,
    UsageRow,
    UsageSource,
    UsageSum,
)
from llmaas.storage.database import Database
from llmaas.storage.tables import usage

_GROUP_COLUMNS: dict[Grouping, sa.ColumnElement[str | None]] = {
    Grouping.BACKEND: usage.c.backend_id,
    Grouping.DAY: sa.func.date(usage.c.started_ms / 1000, "unixepoch"),
    Grouping.END_USER: usage.c.end_user,
    Grouping.KEY: usage.c.key_id,
    Grouping.MODEL: usage.c.model_id,
    Grouping.OUTCOME: usage.c.outcome,
    Grouping.PROJECT: usage.c.project_id,
}
_SUMMED = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "cost_nano")


class SqlUsageReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def sums(self, where: UsageFilter, by: Sequence[Grouping]) -> list[UsageSum]:
        """One sum for each value of the groupings and each currency."""
        groups = [_GROUP_COLUMNS[name].label(f"group_{n}") for n, name in enumerate(by)]
        query = (
            sa.select(*groups, usage.c.currency, sa.func.count(), *(sa.func.sum(usage.c[name]) for name in _SUMMED))
            .where(*_clauses(where))
            .group_by(*groups, usage.c.currency)
            .order_by(*groups, usage.c.currency)
        )
        async with self._database.connect() as connection:
            rows: Sequence[Any] = (await connection.execute(query)).all()
        return [UsageSum(tuple(row[: len(by)]), *row[len(by) :]) for row in rows]

    async def rows(self, where: UsageFilter, limit: int | None = None) -> AsyncIterator[UsageRow]:
        """Single rows, newest first."""
        newest_first = (usage.c.started_ms.desc(), usage.c.id.desc())
        query = sa.select(usage).where(*_clauses(where)).order_by(*newest_first).limit(limit)
        async with self._database.connect() as connection:
            async for row in await connection.stream(query):
                yield _to_row(row._mapping)

    async def faults(self, prices: dict[int, Price]) -> AsyncIterator[str]:
        """One line for each row that breaks an invariant; nothing when the ledger is clean."""
        async for row in self.rows(UsageFilter()):
            for fault in row_faults(row, prices):
                yield f"{row.id}: {fault}"


def _clauses(where: UsageFilter) -> list[sa.ColumnElement[bool]]:
    clauses: list[sa.ColumnElement[bool]] = []
    if where.project_id is not None:
        clauses.append(usage.c.project_id == where.project_id)
    if where.from_ms is not None:
        clauses.append(usage.c.started_ms >= where.from_ms)
    if where.to_ms is not None:
        clauses.append(usage.c.started_ms < where.to_ms)
    return clauses


def row_faults(row: UsageRow, prices: dict[int, Price]) -> list[str]:
    """What is wrong with a row by itself: closed sets, token classes, times, and the cost by its own price version."""
    faults: list[str] = []
    for name, closed in (("outcome", Outcome), ("billing_reason", BillingReason), ("usage_source", UsageSource)):
        if getattr(row, name) not in set(closed):
            faults.append(f"{name} is {getattr(row, name)!r}")
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
    return faults


def _to_row(row: Any) -> UsageRow:
    return UsageRow(**row)
