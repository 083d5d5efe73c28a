"""Credit entries and balances in SQL. A new entry bumps the `money` revision."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import Act, Actor
from llmaas.domain.budgets import project_total
from llmaas.domain.credit import Balance, CreditEntry, CreditKind
from llmaas.domain.projects import unknown_project
from llmaas.errors import Conflict
from llmaas.storage.audit import record
from llmaas.storage.budgets import lock_budgets
from llmaas.storage.database import Database, bump
from llmaas.storage.tables import budget_shares, credit_entries, projects


class SqlCreditStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, entry: CreditEntry, *, by: Actor, below_zero: bool = False) -> CreditEntry:
        """Gives the entry, or the one that has its idempotency key already. Raises NotFound, Conflict when that one is another
        project's or amount, and when more is taken than is free unless it may go `below_zero`.
        """
        async with self._database.begin() as connection:
            # Locked, so that two who take at once do not both find enough.
            project = sa.select(projects.c.id).where(projects.c.id == entry.project_id).with_for_update(key_share=True)
            if await connection.scalar(project) is None:
                raise unknown_project(entry.project_id)
            if entry.idempotency_key is not None:
                same = sa.select(credit_entries).where(credit_entries.c.idempotency_key == entry.idempotency_key)
                found = (await connection.execute(same)).mappings().first()
                if found is not None:
                    present = _to_entry(found)
                    if (present.project_id, present.amount_nano) != (entry.project_id, entry.amount_nano):
                        raise Conflict("This idempotency key was used for another entry.", param="idempotency_key")
                    return present
            if entry.amount_nano < 0 and not below_zero:
                await lock_budgets(connection, [project_total(entry.project_id)])
                await _check_free(connection, entry)
            values = dataclasses.asdict(entry)
            await connection.execute(sa.insert(credit_entries).values(**values))
            after = {"amount_nano": entry.amount_nano, "kind": str(entry.kind), "note": entry.note}
            await record(connection, Act(by, "credit.add", "credit", entry.id, entry.project_id, None, after))
            await bump(connection, "money")
        return entry

    async def page(self, project_id: str, *, before: str | None = None, limit: int = 100) -> list[CreditEntry]:
        """Newest first; `before`: the id of an entry."""
        query = sa.select(credit_entries).where(credit_entries.c.project_id == project_id)
        if before is not None:
            query = query.where(credit_entries.c.id < before)
        async with self._database.connect() as connection:
            rows = await connection.execute(query.order_by(credit_entries.c.id.desc()).limit(limit))
            return [_to_entry(row) for row in rows.mappings()]

    async def balance(self, project_id: str) -> Balance:
        async with self._database.connect() as connection:
            return (await balances_of(connection, [project_id]))[project_id]


async def balances_of(connection: AsyncConnection, project_ids: list[str]) -> dict[str, Balance]:
    """One for each, also where nothing was put in or spent."""
    amount = sa.func.sum(credit_entries.c.amount_nano)
    entered = sa.select(credit_entries.c.project_id, amount).where(credit_entries.c.project_id.in_(project_ids))
    credited: dict[str, Any] = dict((await connection.execute(entered.group_by(credit_entries.c.project_id))).all())
    shares = sa.select(
        budget_shares.c.budget_id, sa.func.sum(budget_shares.c.spent_nano), sa.func.sum(budget_shares.c.leased_nano)
    ).where(budget_shares.c.budget_id.in_([f"project:{project_id}:total" for project_id in project_ids]))
    used = {
        budget_id: (int(spent), int(leased))
        for budget_id, spent, leased in await connection.execute(shares.group_by(budget_shares.c.budget_id))
    }
    return {
        project_id: Balance(int(credited.get(project_id, 0)), *used.get(f"project:{project_id}:total", (0, 0)))
        for project_id in project_ids
    }


async def _check_free(connection: AsyncConnection, entry: CreditEntry) -> None:
    balance = (await balances_of(connection, [entry.project_id]))[entry.project_id]
    if balance.free_nano + entry.amount_nano < 0:
        said = "That is more than the project has left. Take less, or allow a balance below zero."
        raise Conflict(said, param="below_zero")


def _to_entry(row: sa.RowMapping) -> CreditEntry:
    return CreditEntry(**{**row, "kind": CreditKind(row["kind"])})
