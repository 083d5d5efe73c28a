"""Corrections of what a request costs: new rows with the difference, written with all that a row adds elsewhere."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import Act, Actor
from llmaas.domain.usage import UsageRow, correction_of
from llmaas.errors import Conflict, NotFound
from llmaas.storage.audit import record
from llmaas.storage.database import Database, bump, upsert
from llmaas.storage.row_store import SHARED, shard_of
from llmaas.storage.tables import budget_shares, keys, usage, usage_hours
from llmaas.storage.tally import HOUR_KEY, HOUR_SUMS, Tally


class SqlCorrections:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def correct(
        self, row_id: str, cost_nano: int, *, note: str, correction_id: str, now_ms: int, by: Actor
    ) -> UsageRow:
        """Make a request cost this much, whatever it cost before; gives the new row.

        Raises NotFound, Conflict when it costs that already or is a correction itself.
        """
        async with self._database.begin() as connection:
            found = (await connection.execute(sa.select(usage).where(usage.c.id == row_id))).mappings().first()
            if found is None:
                raise NotFound(f"There is no usage row `{row_id}`.", param="id")
            row = UsageRow(**found)
            if row.corrects is not None:
                raise Conflict(f"`{row_id}` is a correction; correct `{row.corrects}`.", param="id")
            earlier = sa.select(sa.func.coalesce(sa.func.sum(usage.c.cost_nano), 0)).where(
                usage.c.corrects == row_id, usage.c.project_id == row.project_id
            )
            before = row.cost_nano + int((await connection.execute(earlier)).scalar_one())
            if before == cost_nano:
                raise Conflict(f"`{row_id}` costs that already.", param="cost")
            correction = correction_of(row, row_id=correction_id, difference_nano=cost_nano - before, now_ms=now_ms)
            await _write(connection, correction)
            after = {"cost_nano": cost_nano, "note": note}
            act = Act(by, "usage.correct", "usage", row_id, row.project_id, {"cost_nano": before}, after)
            await record(connection, act)
            await bump(connection, "money")
        return correction


async def _write(connection: AsyncConnection, row: UsageRow) -> None:
    """What the ledger's writer does for a row, for one that nothing was leased for."""
    await connection.execute(sa.insert(usage).values(msgspec.structs.asdict(row)))
    tally = Tally()
    raise_share = upsert(connection, budget_shares)
    raise_share = raise_share.on_conflict_do_update(
        index_elements=["budget_id", "worker_id"],
        set_={"spent_nano": budget_shares.c.spent_nano + raise_share.excluded.spent_nano},
    )
    first_id = await connection.scalar(sa.select(keys.c.first_id).where(keys.c.id == row.key_id))
    first_ids = {} if first_id is None else {row.key_id: first_id}
    shares = [
        {"budget_id": budget_id, "worker_id": SHARED, "spent_nano": nano, "leased_nano": 0}
        for budget_id, nano in tally.shares([row], first_ids)
    ]
    await connection.execute(raise_share, shares)
    raise_hour = upsert(connection, usage_hours)
    raise_hour = raise_hour.on_conflict_do_update(
        index_elements=[*HOUR_KEY, "shard"],
        set_={name: usage_hours.c[name] + raise_hour.excluded[name] for name in HOUR_SUMS},
    )
    ((key, sums),) = tally.hours([row])
    hour = dict(zip((*HOUR_KEY, *HOUR_SUMS), (*key, *sums), strict=True))
    await connection.execute(raise_hour, [{**hour, "shard": shard_of(SHARED)}])
