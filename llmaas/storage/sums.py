"""What a key or project has used since an hour began, for limits that begin anew: from the rollup, so whole hours only."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.storage.database import Database
from llmaas.storage.tables import usage_hours


class SqlUsageSums:
    """Implements `domain.ports.UsageSums`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def output_tokens_since(self, scope: str, from_ms: int) -> int:
        kind, _, name = scope.partition(":")
        whose = usage_hours.c.key_id if kind == "key" else usage_hours.c.project_id
        made = sa.func.sum(usage_hours.c.output_tokens + usage_hours.c.reasoning_tokens)
        query = sa.select(made).where(usage_hours.c.hour_ms >= from_ms, whose == name)
        async with self._database.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)
