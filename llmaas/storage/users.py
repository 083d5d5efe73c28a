"""Users in SQL."""

from __future__ import annotations

import sqlalchemy as sa

from llmaas.domain.users import User
from llmaas.errors import Conflict
from llmaas.storage.database import Database
from llmaas.storage.tables import users


class SqlUserStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, user: User) -> None:
        """Raises Conflict when the e-mail address is taken."""
        try:
            async with self._database.begin() as connection:
                await connection.execute(
                    sa.insert(users).values(
                        id=user.id,
                        email=user.email,
                        password_hash=user.password_hash,
                        is_admin=user.is_admin,
                        must_change_password=user.must_change_password,
                        created_ms=user.created_ms,
                    )
                )
        except sa.exc.IntegrityError as error:
            raise Conflict(f"There is a user `{user.email}` already.", param="email") from error

    async def list(self) -> list[User]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(users).order_by(users.c.email))).mappings().all()
        return [User(**row) for row in rows]
