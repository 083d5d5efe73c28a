"""Reading alerts. Who watches something writes them, in the transaction that looks (`credit.py`)."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.domain.alerts import Alert
from llmaas.storage.database import Database
from llmaas.storage.tables import alerts


class SqlAlertReader:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def latest(self, project_id: str, *, limit: int) -> list[Alert]:
        newest = (alerts.c.created_ms.desc(), alerts.c.id.desc())
        query = sa.select(alerts).where(alerts.c.project_id == project_id).order_by(*newest).limit(limit)
        async with self._database.connect() as connection:
            return [Alert(**row) for row in (await connection.execute(query)).mappings()]
