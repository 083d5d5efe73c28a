"""Changing the master key: all that is sealed is sealed anew in one transaction, while the service runs.

Hashes of API keys depend on the pepper, which is made from the first master key. From the first rotation on it is kept in
the database, sealed like the rest, so every API key goes on working.

With a key file: the new key lies beside the old one before anything is sealed with it, and takes its place afterwards, so
whenever a rotation breaks off, each thing opens with a key that is there.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.domain.audit import Act, Actor
from llmaas.errors import ConfigurationError
from llmaas.storage.audit import record
from llmaas.storage.database import Database, upsert
from llmaas.storage.secrets import (
    SecretBox,
    key_id,
    make_next_key,
    promote_next_key,
    seal_with,
    sealed_by,
)
from llmaas.storage.tables import providers, users, vault

_PEPPER = "pepper"


@dataclass(frozen=True, slots=True)
class Rotation:
    """`unreadable`: owners of what opened with no key that is here; it stays as it is."""

    sealed_anew: int
    unreadable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Sealed:
    table: sa.Table
    row_id: str
    column: str
    owner: str
    sealed: bytes


async def read_pepper(database: Database, box: SecretBox) -> bytes | None:
    """None: the master key is still the first one. Raises ConfigurationError when it is not the one of this database."""
    async with database.connect() as connection:
        sealed = await connection.scalar(sa.select(vault.c.sealed).where(vault.c.name == _PEPPER))
    if sealed is None:
        return None
    try:
        return base64.b64decode(box.open(_PEPPER, sealed))
    except ValueError as error:
        raise ConfigurationError(
            ["master_key: it is not the one of this database; restore master.key, or set LLMAAS_MASTER_KEY"]
        ) from error


async def rotate_key_file(database: Database, box: SecretBox, path: Path, *, pepper: bytes, by: Actor) -> Rotation:
    """A new key takes the place of the file. Raises ConfigurationError when the file cannot be written."""
    new_key = await asyncio.to_thread(make_next_key, path)
    async with database.connect() as connection:
        in_use = await connection.scalar(sa.select(vault.c.sealed).where(vault.c.name == _PEPPER))
    if in_use is not None and sealed_by(in_use, new_key):
        # A rotation broke off after its transaction: its key is in force and only has to be put in its place.
        await asyncio.to_thread(promote_next_key, path)
        new_key = await asyncio.to_thread(make_next_key, path)
    rotation = await seal_anew(database, box, new_key, pepper=pepper, by=by)
    await asyncio.to_thread(promote_next_key, path)
    return rotation


async def seal_anew(database: Database, box: SecretBox, new_key: bytes, *, pepper: bytes, by: Actor) -> Rotation:
    """Everything in one transaction, so that all of it opens with the new key, or all of it with the old one."""
    count, unreadable = 0, []
    async with database.begin(long=True) as connection:
        async for thing in _everything(connection):
            try:
                text = box.open(thing.owner, thing.sealed)
            except ValueError:
                unreadable.append(thing.owner)
                continue
            sealed = seal_with(new_key, thing.owner, text)
            row = thing.table.c.id == thing.row_id
            await connection.execute(sa.update(thing.table).where(row).values({thing.column: sealed}))
            count += 1
        kept = seal_with(new_key, _PEPPER, base64.b64encode(pepper).decode())
        put = upsert(connection, vault).values(name=_PEPPER, sealed=kept)
        await connection.execute(put.on_conflict_do_update(index_elements=["name"], set_={"sealed": kept}))
        after = {"key": key_id(new_key).hex(), "sealed_anew": count}
        await record(connection, Act(by, "master-key.rotate", "installation", "master-key", None, None, after))
    return Rotation(count, tuple(unreadable))


async def _everything(connection: AsyncConnection) -> AsyncIterator[_Sealed]:
    """All that is sealed for good. What is sealed for minutes (sign-ins under way) is not here: it is done again."""
    for table, column, prefix in ((providers, "secret", ""), (users, "totp_secret", "totp:")):
        query = sa.select(table.c.id, table.c[column]).where(table.c[column].is_not(None)).order_by(table.c.id)
        for row_id, sealed in (await connection.execute(query)).all():
            yield _Sealed(table, row_id, column, f"{prefix}{row_id}", sealed)
