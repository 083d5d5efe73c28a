"""Personal access tokens in SQL."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from llmaas.domain.audit import Act, Actor
from llmaas.domain.tokens import Token
from llmaas.domain.users import User
from llmaas.errors import NotFound
from llmaas.storage.audit import record
from llmaas.storage.database import Database
from llmaas.storage.readable import all_readable, readable
from llmaas.storage.tables import tokens, users


class SqlTokenStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, token_id: str) -> tuple[Token, User] | None:
        joined = sa.select(tokens, *(c.label(f"its_{c.name}") for c in users.c)).join(users)
        async with self._database.connect() as connection:
            row = (await connection.execute(joined.where(tokens.c.id == token_id))).mappings().first()
        if row is None:
            return None
        token = readable(Token, {c.name: row[c.name] for c in tokens.c})
        user = readable(User, {c.name: row[f"its_{c.name}"] for c in users.c})
        return None if token is None or user is None else (token, user)

    async def of_user(self, user_id: str, *, after: str | None, limit: int) -> list[Token]:
        query = sa.select(tokens).where(tokens.c.user_id == user_id, tokens.c.revoked_ms.is_(None))
        query = query.order_by(tokens.c.id).limit(limit)
        if after is not None:
            query = query.where(tokens.c.id > after)
        async with self._database.connect() as connection:
            return all_readable(Token, (await connection.execute(query)).mappings())

    async def add(self, token: Token, *, by: Actor) -> None:
        async with self._database.begin() as connection:
            await connection.execute(sa.insert(tokens).values(**dataclasses.asdict(token)))
            after = {"name": token.name, "user_id": token.user_id, "expires_ms": token.expires_ms}
            await record(connection, Act(by, "token.create", "token", token.id, None, None, after))

    async def used(self, token_id: str, at_ms: int) -> None:
        async with self._database.begin() as connection:
            await connection.execute(sa.update(tokens).where(tokens.c.id == token_id).values(used_ms=at_ms))

    async def revoke(self, user_id: str, token_id: str, at_ms: int, *, by: Actor) -> None:
        own = (tokens.c.user_id == user_id, tokens.c.id == token_id, tokens.c.revoked_ms.is_(None))
        async with self._database.begin() as connection:
            revoked = await connection.execute(sa.update(tokens).where(*own).values(revoked_ms=at_ms))
            if revoked.rowcount == 0:
                raise NotFound("There is no such token.", param="token_id")
            await record(connection, Act(by, "token.revoke", "token", token_id))
