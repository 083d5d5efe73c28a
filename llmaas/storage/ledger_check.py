"""Whether the parts of the ledger agree: rows with hours, hours with budgets, corrections with what they correct, caps with
what is spent and leased. The databases do the sums, so nothing is read whole. A row by itself: `usage.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.budgets import DAY_MS, budget_ids, day_name, project_total
from llmaas.domain.prices import format_amount
from llmaas.storage.database import Database
from llmaas.storage.rollups import HOUR_MS, NUMBERS
from llmaas.storage.tables import (
    budget_shares,
    credit_entries,
    keys,
    projects,
    tiers,
    usage,
    usage_hours,
    usage_removed,
)

_AT_ONCE = 500
_DAYS = {
    "sqlite": "strftime('%Y-%m-%d', hour_ms / 1000, 'unixepoch')",
    "postgresql": "to_char(to_timestamp(hour_ms / 1000) AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
}
_Standing = tuple[str, int, int, int]


class SqlLedgerCheck:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def faults(self, now_ms: int) -> AsyncIterator[str]:
        """One line for each disagreement; nothing when all is well."""
        async with self._database.connect(long=True) as connection:
            async for hour_ms, project_id, *amounts in await connection.stream(_hours_differ()):
                wrong = ", ".join(f"{n} by {int(a)}" for n, a in zip(NUMBERS, amounts, strict=True) if a)
                yield f"hour {hour_ms} of {project_id}: usage_hours differs from the rows: {wrong}"
            async for budget_id, amount in await connection.stream(_shares_differ(connection.dialect.name)):
                yield f"budget {budget_id}: its shares differ from what the rows cost by {int(amount)}"
            async for row_id, corrects in await connection.stream(_lost_originals()):
                yield f"{row_id}: it corrects {corrects}, which is not there"
            for budget_id, cap, spent, leased in await _capped(connection, now_ms):
                if leased and spent + leased > cap:
                    yield f"budget {budget_id}: {spent} spent and {leased} leased are more than its cap {cap}"

    async def overdrawn(self, now_ms: int) -> list[str]:
        """Present budgets on which more is spent than their caps allow; it may be that a cap was lowered afterwards."""
        async with self._database.connect(long=True) as connection:
            return [
                f"budget {budget_id}: {format_amount(spent)} spent, its cap is {format_amount(cap)}"
                for budget_id, cap, spent, _ in await _capped(connection, now_ms)
                if spent > cap
            ]


def _hours_differ() -> sa.Select[Any]:
    """Where retention has taken rows away there is nothing to compare."""
    hour = usage.c.started_ms // _literal(HOUR_MS) * _literal(HOUR_MS)
    counted = {"requests": sa.func.count(), "ttft_requests": sa.func.count(usage.c.ttft_ms)}
    sums = [counted[n] if n in counted else sa.func.coalesce(sa.func.sum(usage.c[n]), 0) for n in NUMBERS]
    rows = sa.select(
        hour.label("hour_ms"), usage.c.project_id, *(s.label(n) for s, n in zip(sums, NUMBERS, strict=True))
    )
    hours = sa.select(
        usage_hours.c.hour_ms, usage_hours.c.project_id, *((-sa.func.sum(usage_hours.c[n])).label(n) for n in NUMBERS)
    )
    both = sa.union_all(
        rows.where(_kept(usage.c.project_id, usage.c.started_ms)).group_by(hour, usage.c.project_id),
        hours.where(_kept(usage_hours.c.project_id, usage_hours.c.hour_ms)).group_by(
            usage_hours.c.hour_ms, usage_hours.c.project_id
        ),
    ).subquery()
    differences = [sa.func.sum(both.c[name]) for name in NUMBERS]
    of = (both.c.hour_ms, both.c.project_id)
    return sa.select(*of, *differences).group_by(*of).having(sa.or_(*(d != 0 for d in differences))).order_by(*of)


def _shares_differ(dialect: str) -> sa.Select[Any]:
    """Hours stand in for the rows here, since they stay when retention takes these."""
    costs = (
        sa.select(
            sa.func.coalesce(keys.c.first_id, usage_hours.c.key_id).label("limits_id"),
            usage_hours.c.project_id,
            sa.literal_column(_DAYS[dialect], sa.String).label("day"),
            sa.func.sum(usage_hours.c.cost_nano).label("nano"),
        )
        .select_from(usage_hours.outerjoin(keys, keys.c.id == usage_hours.c.key_id))
        .where(usage_hours.c.cost_nano != 0)
        .group_by(sa.literal_column("1"), usage_hours.c.project_id, sa.literal_column("3"))
        .cte("costs")
    )
    month = sa.func.substr(costs.c.day, 1, 7)
    key, project = sa.literal("key:") + costs.c.limits_id, sa.literal("project:") + costs.c.project_id
    names = [key + ":total", key + ":" + month, key + ":" + costs.c.day, project + ":total", project + ":" + month]
    spent = [sa.select(name.label("id"), costs.c.nano.label("nano")) for name in names]
    shares = sa.select(budget_shares.c.budget_id, -budget_shares.c.spent_nano)
    both = sa.union_all(*spent, shares).subquery()
    difference = sa.func.sum(both.c.nano)
    return sa.select(both.c.id, -difference).group_by(both.c.id).having(difference != 0).order_by(both.c.id)


def _lost_originals() -> sa.Select[Any]:
    original = usage.alias()
    return (
        sa.select(usage.c.id, usage.c.corrects)
        .outerjoin(original, original.c.id == usage.c.corrects)
        .where(usage.c.corrects.is_not(None), original.c.id.is_(None))
        .where(usage.c.project_id.not_in(sa.select(usage_removed.c.project_id)))
    )


async def _capped(connection: AsyncConnection, now_ms: int) -> list[_Standing]:
    """Id, cap, spent and leased of the budgets that have a cap now."""
    caps = [pair async for pair in _caps(connection, day_name(now_ms // DAY_MS))]
    found: list[_Standing] = []
    for start in range(0, len(caps), _AT_ONCE):
        some = dict(caps[start : start + _AT_ONCE])
        sums = (sa.func.sum(budget_shares.c.spent_nano), sa.func.sum(budget_shares.c.leased_nano))
        of = budget_shares.c.budget_id
        shares = await connection.execute(sa.select(of, *sums).where(of.in_(list(some))).group_by(of).order_by(of))
        found += [(budget_id, some[budget_id], int(spent), int(leased)) for budget_id, spent, leased in shares]
    return found


async def _caps(connection: AsyncConnection, day: str) -> AsyncIterator[tuple[str, int]]:
    limits_id = sa.func.coalesce(keys.c.first_id, keys.c.id)
    for key_id, limits in (await connection.execute(sa.select(limits_id, keys.c.limits).order_by(keys.c.id))).all():
        total, month, today, _, _ = budget_ids(key_id, "", day)
        named = {"budget_total": total, "budget_per_month": month, "budget_per_day": today}
        for pair in _given(limits, named):
            yield pair
    credit = sa.select(sa.func.coalesce(sa.func.sum(credit_entries.c.amount_nano), 0)).where(
        credit_entries.c.project_id == projects.c.id
    )
    query = sa.select(projects.c.id, tiers.c.limits, credit.scalar_subquery()).join(
        tiers, tiers.c.id == projects.c.tier_id
    )
    for project_id, limits, credited in (await connection.execute(query)).all():
        *_, month = budget_ids("", project_id, day)
        for pair in _given(limits, {"monthly_cap": month}):
            yield pair
        if limits.get("prepaid_credit") is not None:
            yield project_total(project_id), int(credited)


def _given(limits: Mapping[str, Any], named: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    return ((budget_id, int(limits[name])) for name, budget_id in named.items() if limits.get(name) is not None)


def _kept(project: sa.ColumnElement[str], time: sa.ColumnElement[int]) -> sa.ColumnElement[bool]:
    removed = sa.select(usage_removed.c.project_id).where(
        usage_removed.c.project_id == project, usage_removed.c.before_ms > time
    )
    return ~removed.exists()


def _literal(number: int) -> sa.ColumnElement[int]:
    """Written out and not bound: PostgreSQL takes two parameters for two different expressions."""
    return sa.literal_column(str(number), sa.BigInteger)
