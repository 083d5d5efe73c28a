"""Change numbers, by which a worker notices what other processes committed."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.domain.ports import Revisions
from llmaas.storage.database import Database, again_when_cut
from llmaas.storage.tables import revisions


class SqlRevisionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    @again_when_cut
    async def read(self) -> Revisions:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(revisions.c.name, revisions.c.number))).all()
        numbers = {row.name: row.number for row in rows}
        if not all(isinstance(numbers.get(name), int) for name in ("catalogue", "keys", "money")):
            raise ValueError(f"the change numbers in the table `revisions` cannot be read: {numbers}")
        return Revisions(catalogue=numbers["catalogue"], keys=numbers["keys"], money=numbers["money"])
