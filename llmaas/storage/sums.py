"""What a key or project has used since an hour began, for limits that begin anew: from the rollup, so whole hours only."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.storage.database import Database, again_when_cut
from llmaas.storage.tables import keys, usage_hours


class SqlUsageSums:
    """Implements `domain.ports.UsageSums`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @again_when_cut
    async def output_tokens_since(self, scope: str, from_ms: int) -> int:
        kind, _, name = scope.partition(":")
        if kind == "key":
            rotated = sa.select(keys.c.id).where(keys.c.first_id == name)
            whose = sa.or_(usage_hours.c.key_id == name, usage_hours.c.key_id.in_(rotated))
        else:
            whose = usage_hours.c.project_id == name
        made = sa.func.sum(usage_hours.c.output_tokens + usage_hours.c.reasoning_tokens)
        query = sa.select(made).where(usage_hours.c.hour_ms >= from_ms, whose)
        async with self._database.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)
