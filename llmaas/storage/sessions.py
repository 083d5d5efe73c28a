"""Sessions in SQL. What has ended is deleted; the audit log remembers."""

from __future__ import annotations

import dataclasses

import sqlalchemy as sa

from llmaas.domain.audit import Act, Actor
from llmaas.domain.sessions import Session
from llmaas.domain.users import User
from llmaas.errors import NotFound
from llmaas.storage.audit import record
from llmaas.storage.database import Database
from llmaas.storage.readable import all_readable, readable
from llmaas.storage.tables import sessions, users
from llmaas.storage.users import require_unchanged


class SqlSessionStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, token_hash: bytes) -> tuple[Session, User] | None:
        joined = sa.select(sessions, *(c.label(f"its_{c.name}") for c in users.c)).join(users)
        async with self._database.connect() as connection:
            found = await connection.execute(joined.where(sessions.c.token_hash == token_hash))
            row = found.mappings().first()
        if row is None:
            return None
        session = readable(Session, {c.name: row[c.name] for c in sessions.c})
        user = readable(User, {c.name: row[f"its_{c.name}"] for c in users.c})
        return None if session is None or user is None else (session, user)

    async def of_user(self, user_id: str) -> list[Session]:
        query = sa.select(sessions).where(sessions.c.user_id == user_id).order_by(sessions.c.id)
        async with self._database.connect() as connection:
            return all_readable(Session, (await connection.execute(query)).mappings())

    async def add(self, session: Session, *, verified: User, replaces: bytes | None, by: Actor) -> None:
        own = sessions.c.user_id == session.user_id
        over = sa.and_(own, sessions.c.expires_ms <= session.created_ms)
        async with self._database.begin() as connection:
            await require_unchanged(connection, verified)
            ended = over if replaces is None else sa.or_(over, sessions.c.token_hash == replaces)
            await connection.execute(sa.delete(sessions).where(ended))
            await connection.execute(sa.insert(sessions).values(**dataclasses.asdict(session)))
            await record(connection, Act(by, "session.create", "session", session.id))

    async def seen(self, session_id: str, at_ms: int) -> None:
        async with self._database.begin() as connection:
            await connection.execute(sa.update(sessions).where(sessions.c.id == session_id).values(seen_ms=at_ms))

    async def end(self, user_id: str, session_id: str, *, by: Actor) -> None:
        own = (sessions.c.user_id == user_id, sessions.c.id == session_id)
        async with self._database.begin() as connection:
            ended = await connection.execute(sa.delete(sessions).where(*own))
            if ended.rowcount == 0:
                raise NotFound("There is no such session.", param="session_id")
            await record(connection, Act(by, "session.end", "session", session_id))
