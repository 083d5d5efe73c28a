"""Changing the master key: all that is sealed is sealed anew in one transaction, while the service runs.

Hashes of API keys depend on the pepper, which is made from the first master key. It is kept in the database from the first
start on, sealed like the rest: so every API key goes on working, and whoever comes with another master key is refused.

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
_KEPT = sa.select(vault.c.sealed).where(vault.c.name == _PEPPER)


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


async def check_master_key(database: Database, box: SecretBox) -> bytes | None:
    """The pepper; None: no master key is known to the database yet. Raises ConfigurationError when another one is."""
    async with database.connect() as connection:
        return await _pepper(connection, box)


async def read_pepper(database: Database, box: SecretBox, first: bytes) -> bytes:
    """As `check_master_key`; where none is known yet, the master key at hand is from now on, with the pepper `first`."""
    pepper = await check_master_key(database, box)
    if pepper is not None:
        return pepper
    async with database.begin() as connection:
        pepper = await _pepper(connection, box)  # another process may have been faster
        if pepper is None:
            kept = box.seal(_PEPPER, base64.b64encode(first).decode())
            await connection.execute(sa.insert(vault).values(name=_PEPPER, sealed=kept))
    return pepper or first


async def _pepper(connection: AsyncConnection, box: SecretBox) -> bytes | None:
    sealed = await connection.scalar(_KEPT)
    if sealed is not None:
        if not _opens(box, _PEPPER, sealed):
            raise _foreign(box)
        return base64.b64decode(box.open(_PEPPER, sealed))
    # A version before this one kept it from the first rotation on only, so what else is sealed has to tell.
    others = [thing async for thing in _everything(connection)]
    if others and not any(_opens(box, thing.owner, thing.sealed) for thing in others):
        raise _foreign(box)
    return None


def _opens(box: SecretBox, owner: str, sealed: bytes) -> bool:
    try:
        box.open(owner, sealed)
    except ValueError:
        return False
    return True


def _foreign(box: SecretBox) -> ConfigurationError:
    problem = "it is not the one of this database, so no API key would work and no credential would open"
    fix = (
        "it comes from LLMAAS_MASTER_KEY or the settings file, not from master.key in the data directory; correct it, or take it away"
        " where that file is right"
        if box.path is None
        else "put the database's own master.key back (a backup or another host may have it), or set LLMAAS_MASTER_KEY to it"
    )
    return ConfigurationError([f"master_key: {problem}; {fix}"])


async def rotate_key_file(database: Database, box: SecretBox, path: Path, *, pepper: bytes, by: Actor) -> Rotation:
    """A new key takes the place of the file. Raises ConfigurationError when the file cannot be written."""
    new_key = await asyncio.to_thread(make_next_key, path)
    async with database.connect() as connection:
        in_use = await connection.scalar(_KEPT)
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
