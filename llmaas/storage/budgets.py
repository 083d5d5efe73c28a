"""Budgets in SQL: what each worker has spent and leased of them. Σ spent + Σ leased ≤ cap, at every moment.

Money is spent by the ledger's transactions alone (`storage/row_store.py`); here it is leased and given back. Whoever takes
locks the budget's row first, so two workers cannot both take the last of it. A worker states the total of what it took and gave
back, not changes: a call of which nobody knows whether it happened is made good by the next one. For the first call of all the
store remembers what it found before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.ports import BudgetStanding, BudgetWant, Grant
from llmaas.storage.database import CALL_BACK, CHANGES_CHANNEL, Database, again_when_cut, upsert
from llmaas.storage.tables import budget_shares, budgets, credit_entries

_NOTHING = BudgetStanding(0, 0)
_FOLDED = ""
"""The share of workers that are gone."""


class SqlBudgetStore:
    """Implements `domain.ports.BudgetStore` for one worker."""

    def __init__(self, database: Database, worker_id: str = _FOLDED) -> None:
        self._database = database
        self._worker_id = worker_id
        self._found: dict[str, int] = {}
        """Nets as they were before a call whose caller knew none, until one is known to have happened."""

    @again_when_cut
    async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
        async with self._database.connect() as connection:
            found = await _standing(connection, budget_ids)
        return {budget_id: found.get(budget_id, _NOTHING) for budget_id in budget_ids}

    @again_when_cut
    async def take(self, wants: Sequence[BudgetWant]) -> list[Grant]:
        ids = sorted({want.budget_id for want in wants})
        found: dict[str, int] = {}
        try:
            grants = await self._take(wants, ids, found)
        except BaseException:
            self._found |= found  # it may have happened
            raise
        for budget_id in ids:
            self._found.pop(budget_id, None)
        return grants

    async def _take(self, wants: Sequence[BudgetWant], ids: Sequence[str], found: dict[str, int]) -> list[Grant]:
        """Puts into `found` the nets before it, of those that nobody knows."""
        async with self._database.begin(one_at_a_time=False) as connection:
            await lock_budgets(connection, ids)
            stated = {
                want.budget_id: self._found.get(want.budget_id) if want.net_nano is None else want.net_nano
                for want in wants
            }
            nets = await self._state(connection, stated)
            found |= {want.budget_id: nets.get(want.budget_id, 0) for want in wants if want.net_nano is None}
            standing = await _standing(connection, ids)
            left: dict[str, int] = {}
            taken: dict[str, int] = {}
            grants = []
            for want in wants:
                if want.budget_id not in left:
                    now = standing.get(want.budget_id, _NOTHING)
                    cap = want.cap_nano if want.cap_nano is not None else await _credit(connection, want.budget_id)
                    left[want.budget_id] = max(0, cap - now.spent_nano - now.leased_nano)
                granted = min(want.most_nano, left[want.budget_id]) if left[want.budget_id] >= want.least_nano else 0
                left[want.budget_id] -= granted
                taken[want.budget_id] = taken.get(want.budget_id, 0) + granted
                net = nets.get(want.budget_id, stated[want.budget_id] or 0) + taken[want.budget_id]
                grants.append(Grant(granted, left[want.budget_id], net))
            await self._raise_leases(connection, taken, nets)
        return grants

    async def call_back(self, budget_ids: Sequence[str]) -> None:
        """By a notification of PostgreSQL. On SQLite there is no worker besides this one."""
        if self._database.file is not None:
            return
        async with self._database.begin(one_at_a_time=False) as connection:
            for budget_id in budget_ids:
                await connection.execute(sa.select(sa.func.pg_notify(CHANGES_CHANNEL, f"{CALL_BACK}{budget_id}")))

    @again_when_cut
    async def credit_nano(self, project_id: str) -> int:
        async with self._database.connect() as connection:
            return await _credit(connection, f"project:{project_id}:total")

    async def fold(self, worker_id: str) -> None:
        """A worker is gone: what it spent goes to the share of all that are gone, its leases are free again. A row of its
        spool that comes later is counted by whoever writes it.
        """
        gone = sa.delete(budget_shares).where(budget_shares.c.worker_id == worker_id)
        async with self._database.begin() as connection:
            shares = (
                await connection.execute(gone.returning(budget_shares.c.budget_id, budget_shares.c.spent_nano))
            ).all()
            records = [
                {"budget_id": budget_id, "worker_id": _FOLDED, "spent_nano": spent, "leased_nano": 0}
                for budget_id, spent in sorted(tuple(share) for share in shares)
            ]
            if records:
                insert = upsert(connection, budget_shares)
                together = budget_shares.c.spent_nano + insert.excluded.spent_nano
                await connection.execute(
                    insert.on_conflict_do_update(
                        index_elements=["budget_id", "worker_id"], set_={"spent_nano": together}
                    ),
                    records,
                )

    async def _state(self, connection: AsyncConnection, stated: Mapping[str, int | None]) -> dict[str, int]:
        """Put this worker's leases right by what it states of them, and lock them; gives each net, where there is a share.

        Never below nothing, also when its share was folded meanwhile. The ledger's writer spends of leases at the same time, so
        the arithmetic is the database's.
        """
        shares = budget_shares.c
        nets: dict[str, int] = {}
        for budget_id, net in sorted(stated.items()):
            told: sa.ColumnElement[int] = shares.net_nano if net is None else sa.literal(net, sa.BigInteger)
            right = shares.leased_nano + told - shares.net_nano
            update = (
                sa.update(budget_shares)
                .where(shares.budget_id == budget_id, shares.worker_id == self._worker_id)
                .values(leased_nano=sa.case((right > 0, right), else_=0), net_nano=told)
                .returning(shares.net_nano)
            )
            found = (await connection.execute(update)).scalar()
            if found is not None:
                nets[budget_id] = found
        return nets

    async def _raise_leases(
        self, connection: AsyncConnection, taken: Mapping[str, int], nets: Mapping[str, int]
    ) -> None:
        for budget_id, amount in sorted(taken.items()):
            if not amount:
                continue
            record = {
                "budget_id": budget_id,
                "worker_id": self._worker_id,
                "spent_nano": 0,
                "leased_nano": amount,
                "net_nano": nets.get(budget_id, 0) + amount,
            }
            insert = upsert(connection, budget_shares).values(record)
            raised = {
                "leased_nano": budget_shares.c.leased_nano + insert.excluded.leased_nano,
                "net_nano": insert.excluded.net_nano,
            }
            await connection.execute(
                insert.on_conflict_do_update(index_elements=["budget_id", "worker_id"], set_=raised)
            )


async def lock_budgets(connection: AsyncConnection, sorted_ids: Sequence[str]) -> None:
    """Until the transaction ends, nobody else leases of these budgets."""
    insert = upsert(connection, budgets).on_conflict_do_nothing()
    await connection.execute(insert, [{"id": budget_id} for budget_id in sorted_ids])
    lock = sa.select(budgets.c.id).where(budgets.c.id.in_(sorted_ids)).order_by(budgets.c.id)
    await connection.execute(lock.with_for_update())


async def _standing(connection: AsyncConnection, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
    query = (
        sa.select(
            budget_shares.c.budget_id, sa.func.sum(budget_shares.c.spent_nano), sa.func.sum(budget_shares.c.leased_nano)
        )
        .where(budget_shares.c.budget_id.in_(budget_ids))
        .group_by(budget_shares.c.budget_id)
    )
    # PostgreSQL's sums of bigints are numerics.
    return {
        budget_id: BudgetStanding(int(spent), int(leased))
        for budget_id, spent, leased in await connection.execute(query)
    }


async def _credit(connection: AsyncConnection, budget_id: str) -> int:
    """What was ever put in for the project of a `project:ID:total`."""
    project_id = budget_id.removeprefix("project:").removesuffix(":total")
    total = sa.select(sa.func.sum(credit_entries.c.amount_nano)).where(credit_entries.c.project_id == project_id)
    return int((await connection.execute(total)).scalar() or 0)
