"""Retention: a project's usage rows go when they are older than its `retention_days`; sums, budgets and credit stay.

Sums by end user go with the rows, whole days of them, since they tell of persons.

`usage_removed` says up to which hour a project's rows may be gone, and says so before the first of them goes. Whoever
compares rows with rollups or budgets leaves out what lies before that mark.
"""

from __future__ import annotations

import asyncio

import sqlalchemy as sa

from llmaas.storage.database import Database, upsert
from llmaas.storage.rollups import DAY_MS, HOUR_MS
from llmaas.storage.tables import projects, usage, usage_end_users, usage_removed

_BATCH_ROWS = 1_000
_PAUSE_S = 0.02
"""Between batches, so that the ledger's writer gets its turn on SQLite."""


class SqlRetention:
    def __init__(self, database: Database, *, batch_rows: int = _BATCH_ROWS) -> None:
        self._database = database
        self._batch_rows = batch_rows

    async def sweep(self, now_ms: int) -> int:
        """Remove what is too old, whole hours of it, in short transactions; gives the number of rows. Can be cut short."""
        query = sa.select(projects.c.id, projects.c.retention_days).where(projects.c.retention_days.is_not(None))
        async with self._database.connect() as connection:
            kept = (await connection.execute(query)).all()
        gone = 0
        for project_id, days in kept:
            before_ms = (now_ms - days * DAY_MS) // HOUR_MS * HOUR_MS
            if await self._oldest(project_id, before_ms):
                await self._mark(project_id, before_ms)
                gone += await self._remove(project_id, before_ms)
        # Those that a worker was making while the rows went are removed by the next sweep.
        marks = await self.removed()
        for project_id, days in kept:
            marks[project_id] = max(marks.get(project_id, 0), (now_ms - days * DAY_MS) // HOUR_MS * HOUR_MS)
        for project_id, before_ms in marks.items():
            await self._forget_end_users(project_id, before_ms // DAY_MS * DAY_MS)
        return gone

    async def removed(self) -> dict[str, int]:
        """For each project that lost rows: the start of the first hour that has all of them, in ms."""
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(usage_removed))).all()
        return {row.project_id: row.before_ms for row in rows}

    async def _oldest(self, project_id: str, before_ms: int) -> bool:
        query = sa.select(usage.c.id).where(*_too_old(project_id, before_ms)).limit(1)
        async with self._database.connect() as connection:
            return (await connection.execute(query)).first() is not None

    async def _mark(self, project_id: str, before_ms: int) -> None:
        """The mark only ever rises: what is gone stays gone when a project's retention grows."""
        async with self._database.begin() as connection:
            insert = upsert(connection, usage_removed)
            raised = insert.on_conflict_do_update(
                index_elements=[usage_removed.c.project_id],
                set_={"before_ms": insert.excluded.before_ms},
                where=usage_removed.c.before_ms < insert.excluded.before_ms,
            )
            await connection.execute(raised, {"project_id": project_id, "before_ms": before_ms})

    async def _remove(self, project_id: str, before_ms: int) -> int:
        some = sa.select(usage.c.id).where(*_too_old(project_id, before_ms)).limit(self._batch_rows)
        gone = 0
        while True:
            async with self._database.begin(one_at_a_time=False) as connection:
                batch = (await connection.execute(sa.delete(usage).where(usage.c.id.in_(some)))).rowcount
            gone += batch
            if batch < self._batch_rows:
                return gone
            await asyncio.sleep(_PAUSE_S)

    async def _forget_end_users(self, project_id: str, before_ms: int) -> None:
        """Of one hour or day after the other: their key begins with that."""
        columns = usage_end_users.c
        part = (columns.unit_ms, columns.start_ms)
        old = sa.select(*part).where(columns.project_id == project_id, columns.start_ms < before_ms).distinct()
        async with self._database.connect() as connection:
            parts = (await connection.execute(old)).all()
        for unit_ms, start_ms in parts:
            mine = (columns.project_id == project_id, columns.unit_ms == unit_ms, columns.start_ms == start_ms)
            some = sa.select(columns.end_user).where(*mine).limit(self._batch_rows)
            batch = self._batch_rows
            while batch >= self._batch_rows:
                async with self._database.begin(one_at_a_time=False) as connection:
                    gone = sa.delete(usage_end_users).where(*mine, columns.end_user.in_(some))
                    batch = (await connection.execute(gone)).rowcount
                await asyncio.sleep(_PAUSE_S)


def _too_old(project_id: str, before_ms: int) -> tuple[sa.ColumnElement[bool], ...]:
    return usage.c.project_id == project_id, usage.c.started_ms < before_ms
