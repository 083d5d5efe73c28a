"""Memberships in SQL. A project that ever had an owner keeps one."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import Act, Actor
from llmaas.domain.members import Member, Role
from llmaas.domain.projects import unknown_project
from llmaas.errors import Conflict, NotFound, Outdated
from llmaas.storage.audit import record
from llmaas.storage.database import Database
from llmaas.storage.tables import invitations, memberships, projects, users

_JOINED = sa.select(memberships, users.c.email, users.c.name).join(users)


class SqlMemberStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def role(self, project_id: str, user_id: str) -> Role | None:
        async with self._database.connect() as connection:
            found = await connection.scalar(sa.select(memberships.c.role).where(*_key(project_id, user_id)))
        return None if found is None else Role(found)

    async def of_project(self, project_id: str, *, after: str | None, limit: int) -> list[Member]:
        query = _JOINED.where(memberships.c.project_id == project_id).order_by(memberships.c.user_id).limit(limit)
        if after is not None:
            query = query.where(memberships.c.user_id > after)
        async with self._database.connect() as connection:
            await require_project(connection, project_id)
            return [_to_member(row) for row in (await connection.execute(query)).mappings()]

    async def of_user(self, user_id: str) -> list[Member]:
        query = _JOINED.where(memberships.c.user_id == user_id).order_by(memberships.c.project_id)
        async with self._database.connect() as connection:
            return [_to_member(row) for row in (await connection.execute(query)).mappings()]

    async def add(self, member: Member, *, by: Actor) -> None:
        async with self._database.begin() as connection:
            await require_project(connection, member.project_id)
            if await connection.scalar(sa.select(users.c.id).where(users.c.id == member.user_id)) is None:
                raise NotFound(f"There is no user `{member.user_id[:64]}`.", param="user_id")
            await add_member(connection, member, by)

    async def change(self, project_id: str, user_id: str, role: Role, *, seen: Role | None, by: Actor) -> Member:
        async with self._database.begin() as connection:
            present = await _read(connection, project_id, user_id)
            if seen is not None and present.role is not seen:
                raise Outdated("The role was changed meanwhile. Read it again.")
            if present.role is Role.OWNER and role is not Role.OWNER:
                await _require_other_owner(connection, project_id)
                await _end_invitations(connection, project_id, user_id, present.created_ms)
            await connection.execute(sa.update(memberships).where(*_key(project_id, user_id)).values(role=role))
            await record(
                connection,
                Act(by, "member.change", "member", user_id, project_id, {"role": present.role}, {"role": role}),
            )
            return await _read(connection, project_id, user_id)

    async def remove(self, project_id: str, user_id: str, *, by: Actor) -> None:
        async with self._database.begin() as connection:
            present = await _read(connection, project_id, user_id)
            if present.role is Role.OWNER:
                await _require_other_owner(connection, project_id)
            await connection.execute(sa.delete(memberships).where(*_key(project_id, user_id)))
            await _end_invitations(connection, project_id, user_id, present.created_ms)
            await record(
                connection, Act(by, "member.remove", "member", user_id, project_id, {"role": present.role}, None)
            )


async def require_project(connection: AsyncConnection, project_id: str) -> None:
    """Raises NotFound."""
    if await connection.scalar(sa.select(projects.c.id).where(projects.c.id == project_id)) is None:
        raise unknown_project(project_id)


async def add_member(connection: AsyncConnection, member: Member, by: Actor) -> None:
    """Within a write transaction. Raises Conflict."""
    if await connection.scalar(sa.select(memberships.c.role).where(*_key(member.project_id, member.user_id))):
        raise Conflict("That user is a member already.", param="user_id")
    values = {
        "project_id": member.project_id,
        "user_id": member.user_id,
        "role": member.role,
        "created_ms": member.created_ms,
    }
    await connection.execute(sa.insert(memberships).values(**values))
    await record(
        connection, Act(by, "member.add", "member", member.user_id, member.project_id, None, {"role": member.role})
    )


async def _read(connection: AsyncConnection, project_id: str, user_id: str) -> Member:
    row = (await connection.execute(_JOINED.where(*_key(project_id, user_id)))).mappings().first()
    if row is None:
        raise NotFound("There is no such member.", param="user_id")
    return _to_member(row)


async def _require_other_owner(connection: AsyncConnection, project_id: str) -> None:
    owners = sa.select(sa.func.count()).where(
        memberships.c.project_id == project_id, memberships.c.role == str(Role.OWNER)
    )
    if await connection.scalar(owners) == 1:
        raise Conflict("A project keeps an owner: make somebody else one first.", param="role")


async def _end_invitations(connection: AsyncConnection, project_id: str, user_id: str, at_ms: int) -> None:
    """Who is no owner any more lets nobody in. `at_ms` only marks them as ended."""
    mine = (
        invitations.c.project_id == project_id,
        invitations.c.invited_by == user_id,
        invitations.c.accepted_ms.is_(None),
        invitations.c.revoked_ms.is_(None),
    )
    await connection.execute(sa.update(invitations).where(*mine).values(revoked_ms=at_ms))


def _key(project_id: str, user_id: str) -> tuple[sa.ColumnElement[bool], ...]:
    return memberships.c.project_id == project_id, memberships.c.user_id == user_id


def _to_member(row: sa.RowMapping) -> Member:
    values: dict[str, Any] = dict(row)
    return Member(**{**values, "role": Role(values["role"])})
