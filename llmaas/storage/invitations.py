"""Invitations in SQL."""

from __future__ import annotations

import dataclasses
from typing import Any

import sqlalchemy as sa

from llmaas.domain.audit import Act, Actor
from llmaas.domain.invitations import Invitation
from llmaas.domain.members import Member, Role
from llmaas.domain.users import User
from llmaas.errors import Conflict, NotFound
from llmaas.storage.audit import record
from llmaas.storage.database import Database
from llmaas.storage.members import add_member, require_project
from llmaas.storage.tables import invitations, memberships, users
from llmaas.storage.users import add_user

_OPEN = (invitations.c.accepted_ms.is_(None), invitations.c.revoked_ms.is_(None))


class SqlInvitationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, token_hash: bytes) -> Invitation | None:
        query = sa.select(invitations).where(invitations.c.token_hash == token_hash)
        async with self._database.connect() as connection:
            row = (await connection.execute(query)).mappings().first()
        return None if row is None else _to_invitation(row)

    async def of_project(self, project_id: str, *, after: str | None, limit: int) -> list[Invitation]:
        query = sa.select(invitations).where(invitations.c.project_id == project_id, *_OPEN)
        query = query.order_by(invitations.c.id).limit(limit)
        if after is not None:
            query = query.where(invitations.c.id > after)
        async with self._database.connect() as connection:
            await require_project(connection, project_id)
            return [_to_invitation(row) for row in (await connection.execute(query)).mappings()]

    async def add(self, invitation: Invitation, *, by: Actor) -> None:
        member = (
            sa.select(users.c.id)
            .join(memberships)
            .where(memberships.c.project_id == invitation.project_id, users.c.email == invitation.email)
        )
        async with self._database.begin() as connection:
            await require_project(connection, invitation.project_id)
            if await connection.scalar(member) is not None:
                raise Conflict("That address belongs to a member already.", param="email")
            await connection.execute(sa.insert(invitations).values(**dataclasses.asdict(invitation)))
            after = {"email": invitation.email, "role": invitation.role, "expires_ms": invitation.expires_ms}
            act = Act(by, "invitation.create", "invitation", invitation.id, invitation.project_id, None, after)
            await record(connection, act)

    async def revoke(self, project_id: str, invitation_id: str, at_ms: int, *, by: Actor) -> None:
        this = (invitations.c.project_id == project_id, invitations.c.id == invitation_id, *_OPEN)
        async with self._database.begin() as connection:
            revoked = await connection.execute(sa.update(invitations).where(*this).values(revoked_ms=at_ms))
            if revoked.rowcount == 0:
                raise NotFound("There is no such invitation.", param="invitation_id")
            await record(connection, Act(by, "invitation.revoke", "invitation", invitation_id, project_id))

    async def accept(self, invitation: Invitation, user: User, at_ms: int, *, is_new: bool, by: Actor) -> None:
        this = (invitations.c.id == invitation.id, invitations.c.expires_ms > at_ms, *_OPEN)
        async with self._database.begin() as connection:
            accepted = await connection.execute(sa.update(invitations).where(*this).values(accepted_ms=at_ms))
            if accepted.rowcount == 0:
                raise NotFound("There is no such invitation.", param="token")
            if is_new:
                await add_user(connection, user, by)
            await add_member(connection, Member(invitation.project_id, user.id, invitation.role, at_ms), by)
            await record(connection, Act(by, "invitation.accept", "invitation", invitation.id, invitation.project_id))


def _to_invitation(row: sa.RowMapping) -> Invitation:
    values: dict[str, Any] = dict(row)
    return Invitation(**{**values, "role": Role(values["role"])})
