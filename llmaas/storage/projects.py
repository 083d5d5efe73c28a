"""Projects in SQL."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.domain.projects import Project
from llmaas.errors import Conflict
from llmaas.storage.database import Database
from llmaas.storage.tables import projects


class SqlProjectStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, project: Project) -> None:
        """Raises Conflict when the id is taken."""
        try:
            async with self._database.begin() as connection:
                await connection.execute(
                    sa.insert(projects).values(
                        id=project.id, name=project.name, tier_id=project.tier_id, created_ms=project.created_ms
                    )
                )
        except sa.exc.IntegrityError as error:
            raise Conflict(f"There is a project `{project.id}` already.", param="id") from error

    async def list(self) -> list[Project]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(projects).order_by(projects.c.id))).mappings().all()
        return [Project(**row) for row in rows]
