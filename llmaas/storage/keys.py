"""Keys in SQL. Every change bumps the `keys` revision, so that caches drop what they hold.

A key whose row cannot be read is none: it is skipped with an error in the log, and those beside it go on.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.access import Caller
from llmaas.domain.audit import SYSTEM, Act, Actor
from llmaas.domain.keys import CHANGEABLE, Key, in_place_of
from llmaas.domain.limits import Limits
from llmaas.domain.prices import format_amount
from llmaas.domain.projects import Project, unknown_project
from llmaas.errors import Conflict, NotFound, Outdated
from llmaas.storage.audit import record
from llmaas.storage.database import Database, again_when_cut, bump
from llmaas.storage.readable import readable
from llmaas.storage.tables import keys, projects

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.keys")
_IN_CHUNK = 500
_JSON = frozenset(column.name for column in keys.columns if isinstance(column.type, sa.JSON))
_COLUMNS = [sa.cast(c, sa.Text).label(c.name) if c.name in _JSON else c for c in keys.columns]
_LIMITS = frozenset(field.name for field in dataclasses.fields(Limits))
_NOT_AUDITED = frozenset({"id", "secret_hash"})


class SqlKeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, kid: str) -> Key | None:
        return (await self.get_many([kid])).get(kid)

    async def get_many(self, kids: Sequence[str]) -> dict[str, Key]:
        return {kid: caller.key for kid, caller in (await self.callers(kids)).items()}

    @again_when_cut
    async def callers(self, kids: Sequence[str]) -> dict[str, Caller]:
        found: dict[str, Caller] = {}
        joined = sa.select(*_COLUMNS, *(c.label(f"its_{c.name}") for c in projects.c)).join(projects)
        async with self._database.connect() as connection:
            for start in range(0, len(kids), _IN_CHUNK):
                query = joined.where(keys.c.id.in_(kids[start : start + _IN_CHUNK]))
                for row in (await connection.execute(query)).mappings():
                    key = _to_key(row)
                    project = readable(Project, {c.name: row[f"its_{c.name}"] for c in projects.c})
                    if key is not None and project is not None:
                        found[key.id] = Caller(key, project)
        return found

    async def list(self, project_id: str | None = None) -> list[Key]:
        query = sa.select(*_COLUMNS).order_by(keys.c.created_ms, keys.c.id)
        if project_id is not None:
            query = query.where(keys.c.project_id == project_id)
        async with self._database.connect() as connection:
            return _readable((await connection.execute(query)).mappings().all())

    async def page(
        self, project_id: str, *, after: str | None, limit: int, working_at: int | None = None
    ) -> Sequence[Key]:
        query = sa.select(*_COLUMNS).where(keys.c.project_id == project_id).order_by(keys.c.id).limit(limit)
        if after is not None:
            query = query.where(keys.c.id > after)
        if working_at is not None:
            ends = (keys.c.expires_ms, keys.c.revoked_ms)
            query = query.where(*(sa.or_(end.is_(None), end > working_at) for end in ends))
        async with self._database.connect() as connection:
            if await connection.scalar(sa.select(projects.c.id).where(projects.c.id == project_id)) is None:
                raise unknown_project(project_id)
            return _readable((await connection.execute(query)).mappings().all())

    async def add(self, key: Key, *, by: Actor = SYSTEM) -> None:
        async with self._database.begin() as connection:
            project = (await connection.execute(sa.select(projects).where(projects.c.id == key.project_id))).first()
            if project is None:
                raise unknown_project(key.project_id)
            if project.archived_ms is not None:
                raise Conflict(f"Project `{key.project_id}` is archived.", param="project")
            await _insert(connection, key, by)
            await bump(connection, "keys")

    async def change(self, seen: Key, changes: Mapping[str, Any], *, by: Actor) -> Key:
        if not changes.keys() <= CHANGEABLE:
            raise TypeError(f"fields that never change: {changes.keys() - CHANGEABLE}")
        changed = dataclasses.replace(seen, **changes)
        async with self._database.begin() as connection:
            if await _read(connection, seen.id) != seen:
                raise Outdated("The key was changed meanwhile. Read it again.")
            if changed != seen:
                row = _from_key(changed)
                values = {name: row[name] for name in changes}
                await connection.execute(sa.update(keys).where(keys.c.id == seen.id).values(**values))
                await _record(connection, "key.change", by, seen, changed)
                if changed.limits != seen.limits:
                    await _change_of_rotation(connection, changed, by)
                await bump(connection, "keys")
        return changed

    async def revoke(self, kid: str, at_ms: int, *, by: Actor = SYSTEM) -> Key:
        async with self._database.begin() as connection:
            key = await _read(connection, kid)
            if key.revoked_ms is not None and key.revoked_ms <= at_ms:
                return key
            stopped = await _stop(connection, key, at_ms)
            await _record(connection, "key.revoke", by, key, stopped)
            await bump(connection, "keys")
            return stopped

    async def rotate(self, kid: str, fresh: Key, stop_ms: int, *, by: Actor = SYSTEM) -> Key:
        async with self._database.begin() as connection:
            key = await _read(connection, kid)
            if key.revoked_ms is not None:
                raise Conflict(f"Key `{kid}` is revoked or rotated already.", param="key")
            successor = in_place_of(key, fresh)
            stopped = await _stop(connection, key, stop_ms)
            await _record(connection, "key.rotate", by, key, stopped)
            await _insert(connection, successor, by)
            await bump(connection, "keys")
        return successor


async def _read(connection: AsyncConnection, kid: str) -> Key:
    row = (await connection.execute(sa.select(*_COLUMNS).where(keys.c.id == kid))).mappings().first()
    key = None if row is None else _to_key(row)
    if key is None:
        raise NotFound(f"There is no key `{kid}`.", param="key")
    return key


async def _insert(connection: AsyncConnection, key: Key, by: Actor) -> None:
    await connection.execute(sa.insert(keys).values(_from_key(key)))
    await _record(connection, "key.create", by, None, key)


async def _stop(connection: AsyncConnection, key: Key, at_ms: int) -> Key:
    await connection.execute(sa.update(keys).where(keys.c.id == key.id).values(revoked_ms=at_ms))
    return dataclasses.replace(key, revoked_ms=at_ms)


async def _change_of_rotation(connection: AsyncConnection, changed: Key, by: Actor) -> None:
    """Give the other keys of a rotation the same limits: they count together, so one number has to hold for all."""
    of = sa.func.coalesce(keys.c.first_id, keys.c.id)
    query = sa.select(*_COLUMNS).where(of == changed.limits_id, keys.c.id != changed.id).order_by(keys.c.id)
    others = _readable((await connection.execute(query)).mappings().all())
    for other in others:
        after = dataclasses.replace(other, limits=changed.limits)
        if after != other:
            limits = _from_key(after)["limits"]
            await connection.execute(sa.update(keys).where(keys.c.id == other.id).values(limits=limits))
            await _record(connection, "key.change", by, other, after)


async def _record(connection: AsyncConnection, action: str, by: Actor, before: Key | None, after: Key) -> None:
    old, new = (None if key is None else _audited(key) for key in (before, after))
    await record(connection, Act(by, action, "key", after.id, after.project_id, old, new))


def _audited(key: Key) -> dict[str, Any]:
    values = {name: value for name, value in _from_key(key).items() if name not in _NOT_AUDITED}
    limits = {k: format_amount(v) if k.startswith("budget_") else v for k, v in values["limits"].items()}
    return {**values, "limits": limits}


def _readable(rows: Sequence[sa.RowMapping]) -> list[Key]:
    return [key for row in rows if (key := _to_key(row)) is not None]


def _to_key(row: sa.RowMapping) -> Key | None:
    try:
        values = {str(c.name): json.loads(row[c.name]) if c.name in _JSON else row[c.name] for c in keys.c}
        if unknown := values["limits"].keys() - _LIMITS:
            raise ValueError(f"unknown limits {', '.join(sorted(unknown))}")
        for network in values["networks"]:
            ip_network(network)
        return msgspec.convert(values, Key, builtin_types=(bytes,))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        _log.error("key_row_skipped", key=str(row["id"]), reason=str(error))
        return None


def _from_key(key: Key) -> dict[str, Any]:
    return {
        "id": key.id,
        "project_id": key.project_id,
        "name": key.name,
        "secret_hash": key.secret_hash,
        "created_ms": key.created_ms,
        "expires_ms": key.expires_ms,
        "revoked_ms": key.revoked_ms,
        "allowed_models": sorted(key.allowed_models),
        "permissions": sorted(key.permissions),
        "rotated_from": key.rotated_from,
        "owner_id": key.owner_id,
        "limits": {k: v for k, v in dataclasses.asdict(key.limits).items() if v is not None},
        "networks": list(key.networks),
        "first_id": key.first_id,
    }
