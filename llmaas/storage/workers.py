"""Gateway processes, as all of them see each other.

On PostgreSQL a worker is dead when it has not been heard of for a while and the session lock that it holds for its life
(`storage/changes.py`) is free: one that stands still, or whose clock is wrong, is not taken for dead. SQLite has one
worker at a time, so all others are dead.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.workers import Worker
from llmaas.storage.database import Database, upsert
from llmaas.storage.tables import workers

HEARTBEAT_S = 3.0
SILENT_MS = 15_000


class SqlWorkerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, worker: Worker) -> None:
        """Say that a worker lives, the first time and each time after."""
        values = {name: getattr(worker, name) for name in Worker.__slots__}
        async with self._database.begin(one_at_a_time=False) as connection:
            statement = upsert(connection, workers).values(values)
            later = {"seen_ms": worker.seen_ms, "catalogue_revision": worker.catalogue_revision}
            await connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=later))

    async def leave(self, worker_id: str) -> None:
        """A worker ends in an orderly way: it need not be waited for."""
        async with self._database.begin(one_at_a_time=False) as connection:
            await connection.execute(sa.update(workers).where(workers.c.id == worker_id).values(seen_ms=0))

    async def list(self) -> list[Worker]:
        async with self._database.connect() as connection:
            rows = (
                await connection.execute(sa.select(workers).order_by(workers.c.started_ms, workers.c.id))
            ).mappings()
            return [Worker(**row) for row in rows]

    async def dead(self, asking: str, now_ms: int) -> Sequence[str]:
        """Workers other than the one who asks whose process is gone and which nobody has forgotten yet."""
        query = sa.select(workers.c.id).where(workers.c.id != asking).order_by(workers.c.id)
        if self._database.file is None:
            query = query.where(workers.c.seen_ms < now_ms - SILENT_MS)
        async with self._database.begin(one_at_a_time=False) as connection:
            found = list((await connection.execute(query)).scalars())
            if self._database.file is not None:
                return found
            return [worker_id for worker_id in found if await _lock_is_free(connection, worker_id)]

    async def forget(self, worker_id: str) -> None:
        async with self._database.begin(one_at_a_time=False) as connection:
            await connection.execute(sa.delete(workers).where(workers.c.id == worker_id))


def life_lock(worker_id: str) -> int:
    """The number of the advisory lock that a worker holds for its life."""
    return int.from_bytes(blake2b(worker_id.encode(), digest_size=8).digest(), "big", signed=True)


async def _lock_is_free(connection: AsyncConnection, worker_id: str) -> bool:
    query = sa.select(sa.func.pg_try_advisory_xact_lock(life_lock(worker_id)))
    return bool((await connection.execute(query)).scalar())
