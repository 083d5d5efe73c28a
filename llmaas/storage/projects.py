"""Projects in SQL. A change bumps the `keys` revision, since what is held of a key holds its project too."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import SYSTEM, Act, Actor
from llmaas.domain.prices import format_amount
from llmaas.domain.projects import Project, unknown_project
from llmaas.errors import Conflict, NotFound, Outdated
from llmaas.storage.audit import record
from llmaas.storage.credit import balances_of
from llmaas.storage.database import Database, bump
from llmaas.storage.readable import all_readable, readable
from llmaas.storage.tables import memberships, projects, tiers

_AUDITED = ("name", "tier_id", "retention_days", "low_credit_nano", "archived_ms")


class SqlProjectStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, project_id: str) -> Project | None:
        async with self._database.connect() as connection:
            return await _read(connection, project_id)

    async def list(self) -> list[Project]:
        async with self._database.connect() as connection:
            rows = (await connection.execute(sa.select(projects).order_by(projects.c.id))).mappings().all()
        return all_readable(Project, rows)

    async def page(self, *, of_user: str | None, after: str | None, limit: int) -> Sequence[Project]:
        query = sa.select(projects).order_by(projects.c.id).limit(limit)
        if of_user is not None:
            query = query.join(memberships).where(memberships.c.user_id == of_user)
        if after is not None:
            query = query.where(projects.c.id > after)
        async with self._database.connect() as connection:
            return all_readable(Project, (await connection.execute(query)).mappings())

    async def add(self, project: Project, *, by: Actor = SYSTEM) -> None:
        async with self._database.begin() as connection:
            if await _read(connection, project.id) is not None:
                raise Conflict(f"There is a project `{project.id}` already.", param="id")
            await _check_tier(connection, project.tier_id)
            await connection.execute(sa.insert(projects).values(**dataclasses.asdict(project)))
            act = Act(by, "project.create", "project", project.id, project.id, None, _audited(project))
            await record(connection, act)
            await bump(connection, "keys")

    async def change(self, seen: Project, changed: Project, *, by: Actor, below_zero: bool = False) -> None:
        async with self._database.begin() as connection:
            present = await _read(connection, seen.id)
            if present is None:
                raise unknown_project(seen.id)
            if present != seen:
                raise Outdated("The project was changed meanwhile. Read it again.")
            if changed.tier_id != seen.tier_id:
                await _check_tier(connection, changed.tier_id)
                if not below_zero:
                    await _check_credit(connection, seen, changed)
            values = _audited(changed)
            await connection.execute(sa.update(projects).where(projects.c.id == seen.id).values(**values))
            await record(connection, Act(by, "project.change", "project", seen.id, seen.id, _audited(seen), values))
            await bump(connection, "keys")

    async def without_credit(self, tier_id: str) -> int:
        on_it = sa.select(projects.c.id).where(projects.c.tier_id == tier_id, projects.c.archived_ms.is_(None))
        async with self._database.connect() as connection:
            ids = list((await connection.execute(on_it)).scalars())
            balances = await balances_of(connection, ids)
        return sum(balance.left_nano <= 0 for balance in balances.values())


async def _read(connection: AsyncConnection, project_id: str) -> Project | None:
    row = (await connection.execute(sa.select(projects).where(projects.c.id == project_id))).mappings().first()
    return None if row is None else readable(Project, row)


async def _check_tier(connection: AsyncConnection, tier_id: str | None) -> None:
    if tier_id is not None and await connection.scalar(sa.select(tiers.c.id).where(tiers.c.id == tier_id)) is None:
        raise NotFound(f"There is no tier `{tier_id}`.", param="tier")


async def _check_credit(connection: AsyncConnection, seen: Project, changed: Project) -> None:
    rows = (await connection.execute(sa.select(tiers.c.id, tiers.c.limits))).all()
    prepaid = {tier_id for tier_id, limits in rows if "prepaid_credit" in limits}
    if changed.tier_id in prepaid and seen.tier_id not in prepaid:
        left = (await balances_of(connection, [seen.id]))[seen.id].left_nano
        if left < 0:
            raise Conflict(
                f"On tier `{changed.tier_id}` the project pays from its credit, of which it would have {format_amount(left)} left:"
                " its requests are refused until credit is added. Add credit first, or allow a balance below zero.",
                param="below_zero",
            )


def _audited(project: Project) -> dict[str, object]:
    return {name: getattr(project, name) for name in _AUDITED}
