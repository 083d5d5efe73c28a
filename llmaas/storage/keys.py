"""Keys in SQL. Every change bumps the `keys` revision, so that caches drop what they hold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from llmaas.domain.access import Caller
from llmaas.domain.keys import Key, Permission
from llmaas.domain.limits import Limits
from llmaas.domain.projects import Project
from llmaas.errors import Conflict, NotFound
from llmaas.storage.database import Database, bump
from llmaas.storage.tables import keys, projects

_IN_CHUNK = 500


class SqlKeyStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, kid: str) -> Key | None:
        return (await self.get_many([kid])).get(kid)

    async def get_many(self, kids: Sequence[str]) -> dict[str, Key]:
        found: dict[str, Key] = {}
        for kid, caller in (await self.callers(kids)).items():
            found[kid] = caller.key
        return found

    async def callers(self, kids: Sequence[str]) -> dict[str, Caller]:
        found: dict[str, Caller] = {}
        joined = sa.select(keys, *(c.label(f"its_{c.name}") for c in projects.c)).join(projects)
        async with self._database.connect() as connection:
            for start in range(0, len(kids), _IN_CHUNK):
                query = joined.where(keys.c.id.in_(kids[start : start + _IN_CHUNK]))
                for row in (await connection.execute(query)).mappings():
                    project = Project(**{c.name: row[f"its_{c.name}"] for c in projects.c})
                    found[row["id"]] = Caller(_to_key(row), project)
        return found

    async def list(self, project_id: str | None = None) -> list[Key]:
        query = sa.select(keys).order_by(keys.c.created_ms, keys.c.id)
        if project_id is not None:
            query = query.where(keys.c.project_id == project_id)
        async with self._database.connect() as connection:
            return [_to_key(row) for row in (await connection.execute(query)).mappings()]

    async def add(self, key: Key) -> None:
        """Raises NotFound when the project is not there."""
        async with self._database.begin() as connection:
            known = await connection.scalar(sa.select(projects.c.id).where(projects.c.id == key.project_id))
            if known is None:
                raise NotFound(f"There is no project `{key.project_id}`.", param="project")
            await connection.execute(sa.insert(keys).values(_from_key(key)))
            await bump(connection, "keys")

    async def revoke(self, kid: str, at_ms: int) -> Key:
        """Stop a key at an instant; an earlier stop stays. Raises NotFound."""
        async with self._database.begin() as connection:
            row = (await connection.execute(sa.select(keys).where(keys.c.id == kid))).mappings().first()
            if row is None:
                raise NotFound(f"There is no key `{kid}`.", param="key")
            if row["revoked_ms"] is None or row["revoked_ms"] > at_ms:
                await connection.execute(sa.update(keys).where(keys.c.id == kid).values(revoked_ms=at_ms))
                await bump(connection, "keys")
            changed = (await connection.execute(sa.select(keys).where(keys.c.id == kid))).mappings().one()
            return _to_key(changed)

    async def rotate(self, kid: str, successor: Key, stop_ms: int) -> None:
        """Add the successor and stop the old key at `stop_ms`, together.

        Raises NotFound, Conflict when the old key is stopped already.
        """
        async with self._database.begin() as connection:
            row = (await connection.execute(sa.select(keys).where(keys.c.id == kid))).mappings().first()
            if row is None:
                raise NotFound(f"There is no key `{kid}`.", param="key")
            if row["revoked_ms"] is not None:
                raise Conflict(f"Key `{kid}` is revoked or rotated already.", param="key")
            await connection.execute(sa.update(keys).where(keys.c.id == kid).values(revoked_ms=stop_ms))
            await connection.execute(sa.insert(keys).values(_from_key(successor)))
            await bump(connection, "keys")


def _to_key(row: sa.RowMapping) -> Key:
    values: dict[str, Any] = {c.name: row[c.name] for c in keys.c}
    values["limits"] = Limits(**values["limits"])
    values["networks"] = tuple(values["networks"])
    values["allowed_models"] = frozenset(values["allowed_models"])
    values["permissions"] = frozenset(Permission(p) for p in values["permissions"])
    return Key(**values)


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
    }
