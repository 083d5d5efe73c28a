"""Users in SQL. There is always an admin who can sign in, once there was one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import SYSTEM, Act, Actor
from llmaas.domain.members import Role
from llmaas.domain.users import User, changed_meanwhile
from llmaas.errors import Conflict, NotFound, Outdated
from llmaas.storage.audit import record
from llmaas.storage.database import Database
from llmaas.storage.readable import all_readable, readable
from llmaas.storage.tables import invitations, keys, memberships, recovery_codes, sessions, users

_CHANGEABLE = ("name", "is_admin", "disabled_ms")


class SqlUserStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, user_id: str) -> User | None:
        return await self._find(users.c.id == user_id)

    async def by_email(self, email: str) -> User | None:
        return await self._find(users.c.email == email)

    async def by_identity(self, issuer: str, subject: str) -> User | None:
        return await self._find(users.c.oidc_issuer == issuer, users.c.oidc_subject == subject)

    async def names_in(self, project_id: str) -> dict[str, str]:
        own = sa.union(
            sa.select(memberships.c.user_id).where(memberships.c.project_id == project_id),
            sa.select(keys.c.owner_id).where(keys.c.project_id == project_id, keys.c.owner_id.is_not(None)),
        )
        query = sa.select(users.c.id, users.c.name, users.c.email).where(users.c.id.in_(own))
        async with self._database.connect() as connection:
            rows = (await connection.execute(query)).all()
        return {user_id: name or email for user_id, name, email in rows}

    async def list(self) -> list[User]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(users).order_by(users.c.email))).mappings().all()
        return all_readable(User, rows)

    async def page(self, *, after: str | None, limit: int) -> Sequence[User]:
        query = sa.select(users).order_by(users.c.id).limit(limit)
        if after is not None:
            query = query.where(users.c.id > after)
        async with self._database.connect() as connection:
            return all_readable(User, (await connection.execute(query)).mappings())

    async def add(self, user: User, *, by: Actor = SYSTEM) -> None:
        async with self._database.begin() as connection:
            await add_user(connection, user, by)

    async def change(self, seen: User, changed: User, *, by: Actor) -> None:
        async with self._database.begin() as connection:
            present = await _read(connection, seen.id)
            if _shown(present) != _shown(seen):
                raise Outdated("The user was changed meanwhile. Read it again.")
            if _rules(present) and not _rules(changed):
                await _require_other_admin(connection, seen.id)
            await _update(connection, seen.id, **_shown(changed))
            if changed.disabled_ms is not None:
                await connection.execute(sa.delete(sessions).where(sessions.c.user_id == seen.id))
            if changed.disabled_ms is not None or not changed.is_admin:
                await _end_invitations(connection, changed)
            await record(connection, Act(by, "user.change", "user", seen.id, None, _shown(seen), _shown(changed)))

    async def set_password(
        self,
        user_id: str,
        password_hash: str,
        *,
        must_change: bool,
        keep_session: str | None,
        by: Actor,
        verified: User | None = None,
    ) -> None:
        async with self._database.begin() as connection:
            await _read(connection, user_id)
            if verified is not None:
                await require_unchanged(connection, verified)
            await _update(connection, user_id, password_hash=password_hash, must_change_password=must_change)
            await _end_sessions(connection, user_id, keep_session)
            await record(connection, Act(by, "user.set-password", "user", user_id))

    async def link(self, user_id: str, issuer: str, subject: str, *, by: Actor) -> None:
        taken = sa.select(users.c.id).where(users.c.oidc_issuer == issuer, users.c.oidc_subject == subject)
        async with self._database.begin() as connection:
            present = await _read(connection, user_id)
            if present.oidc_subject is not None or await connection.scalar(taken) is not None:
                raise Conflict("That user or that identity is linked already.")
            await _update(connection, user_id, oidc_issuer=issuer, oidc_subject=subject)
            after = {"oidc_issuer": issuer, "oidc_subject": subject}
            await record(connection, Act(by, "user.link", "user", user_id, None, None, after))

    async def begin_second_factor(self, verified: User, sealed: bytes, *, by: Actor) -> None:
        async with self._database.begin() as connection:
            if (await require_unchanged(connection, verified)).has_second_factor:
                raise Conflict("There is a second factor already. Remove it first.")
            await _update(connection, verified.id, totp_secret=sealed)
            await record(connection, Act(by, "user.begin-second-factor", "user", verified.id))

    async def confirm_second_factor(
        self, verified: User, sealed: bytes, step: int, recovery: Sequence[bytes], *, keep_session: str, by: Actor
    ) -> None:
        user_id = verified.id
        async with self._database.begin() as connection:
            present = await require_unchanged(connection, verified)
            if present.has_second_factor or present.totp_secret != sealed:
                raise Conflict("Another second factor was set up meanwhile. Start again.")
            await _update(connection, user_id, totp_last_step=step)
            await connection.execute(sa.delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
            rows = [{"user_id": user_id, "code_hash": code_hash} for code_hash in recovery]
            await connection.execute(sa.insert(recovery_codes), rows)
            await _end_sessions(connection, user_id, keep_session)
            await record(connection, Act(by, "user.confirm-second-factor", "user", user_id))

    async def end_second_factor(self, user_id: str, *, by: Actor, verified: User | None = None) -> None:
        async with self._database.begin() as connection:
            await _read(connection, user_id)
            if verified is not None:
                await require_unchanged(connection, verified)
            await _update(connection, user_id, totp_secret=None, totp_last_step=None)
            await connection.execute(sa.delete(recovery_codes).where(recovery_codes.c.user_id == user_id))
            await record(connection, Act(by, "user.end-second-factor", "user", user_id))

    async def spend_step(self, user_id: str, step: int) -> bool:
        this = (users.c.id == user_id, users.c.totp_last_step < step)
        async with self._database.begin() as connection:
            spent = await connection.execute(sa.update(users).where(*this).values(totp_last_step=step))
            return spent.rowcount == 1

    async def spend_recovery_code(self, user_id: str, code_hash: bytes) -> bool:
        this = (recovery_codes.c.user_id == user_id, recovery_codes.c.code_hash == code_hash)
        async with self._database.begin() as connection:
            spent = await connection.execute(sa.delete(recovery_codes).where(*this))
            if spent.rowcount == 1:
                await record(connection, Act(Actor("user", user_id, ""), "user.spend-recovery-code", "user", user_id))
            return spent.rowcount == 1

    async def _find(self, *conditions: sa.ColumnElement[bool]) -> User | None:
        async with self._database.connect() as connection:
            row = (await connection.execute(sa.select(users).where(*conditions))).mappings().first()
        return None if row is None else readable(User, row)


async def add_user(connection: AsyncConnection, user: User, by: Actor) -> None:
    """Within a write transaction. Raises Conflict when the e-mail address is taken."""
    if await connection.scalar(sa.select(users.c.id).where(users.c.email == user.email)) is not None:
        raise Conflict(f"There is a user `{user.email}` already.", param="email")
    await connection.execute(sa.insert(users).values(**dataclasses.asdict(user)))
    after = {"email": user.email, **_shown(user)}
    await record(connection, Act(by, "user.create", "user", user.id, None, None, after))


async def require_unchanged(connection: AsyncConnection, verified: User) -> User:
    """The user as stored now, within a write transaction. Raises NotAuthenticated when the credentials are not those that were
    verified: checking a password takes long enough for it to be changed meanwhile.
    """
    row = (await connection.execute(sa.select(users).where(users.c.id == verified.id))).mappings().first()
    present = None if row is None else readable(User, row)
    if present is None or present.credentials != verified.credentials:
        raise changed_meanwhile()
    return present


async def _read(connection: AsyncConnection, user_id: str) -> User:
    row = (await connection.execute(sa.select(users).where(users.c.id == user_id))).mappings().first()
    user = None if row is None else readable(User, row)
    if user is None:
        raise NotFound(f"There is no user `{user_id[:64]}`.", param="user_id")
    return user


async def _update(connection: AsyncConnection, user_id: str, **values: object) -> None:
    await connection.execute(sa.update(users).where(users.c.id == user_id).values(**values))


async def _end_sessions(connection: AsyncConnection, user_id: str, keep_session: str | None) -> None:
    others = sa.delete(sessions).where(sessions.c.user_id == user_id)
    await connection.execute(others if keep_session is None else others.where(sessions.c.id != keep_session))


async def _end_invitations(connection: AsyncConnection, user: User) -> None:
    """Who may no longer invite lets nobody in by what they sent before."""
    mine = [
        invitations.c.invited_by == user.id,
        invitations.c.accepted_ms.is_(None),
        invitations.c.revoked_ms.is_(None),
    ]
    if user.disabled_ms is None:
        owned = sa.select(memberships.c.project_id).where(
            memberships.c.user_id == user.id, memberships.c.role == str(Role.OWNER)
        )
        mine.append(invitations.c.project_id.not_in(owned))
    await connection.execute(sa.update(invitations).where(*mine).values(revoked_ms=invitations.c.created_ms))


async def _require_other_admin(connection: AsyncConnection, user_id: str) -> None:
    others = sa.select(users.c.id).where(
        users.c.is_admin.is_(sa.true()), users.c.disabled_ms.is_(None), users.c.id != user_id
    )
    if await connection.scalar(others.limit(1)) is None:
        raise Conflict("There must be another admin first.")


def _rules(user: User) -> bool:
    return user.is_admin and user.disabled_ms is None


def _shown(user: User) -> dict[str, object]:
    return {name: getattr(user, name) for name in _CHANGEABLE}
