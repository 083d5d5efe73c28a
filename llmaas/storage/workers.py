"""Gateway processes, as all of them see each other.

A worker that is merely cut off from the database still has requests that cost what it leased, so silence proves nothing. It
is gone when it has signed off, or when the file that it locked for its life is free (`storage/file_locks.py`), which those of
its data directory see. Of other machines it is believed only after as long as requests can last, and while the session lock
that it holds on PostgreSQL (`storage/changes.py`) is free. SQLite has one worker at a time, so all others are gone.
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


class SqlWorkerStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def beat(self, worker: Worker) -> None:
        """Say that a worker lives, the first time and each time after."""
        values = {name: getattr(worker, name) for name in Worker.__slots__}
        async with self._database.begin(one_at_a_time=False) as connection:
            statement = upsert(connection, workers).values(values)
            later = {"seen_ms": worker.seen_ms, "catalogue_revision": worker.catalogue_revision}
            # A heartbeat that was cancelled on its way may arrive behind the word that the worker has left, and must not undo it.
            statement = statement.on_conflict_do_update(index_elements=["id"], set_=later, where=workers.c.seen_ms > 0)
            await connection.execute(statement)

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

    async def gone(self, asking: str, silent_since_ms: int) -> Sequence[str]:
        """Workers other than the one who asks that signed off or that nobody heard of since then, and that are not forgotten."""
        query = sa.select(workers.c.id).where(workers.c.id != asking).order_by(workers.c.id)
        if self._database.file is None:
            query = query.where(workers.c.seen_ms < max(1, silent_since_ms))
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
