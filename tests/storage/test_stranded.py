"""Transactions that a block could not end: the next writer of the same process does not wait for their lock in vain."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import CoroutineType
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from llmaas.errors import Unavailable
from llmaas.storage import database as module
from llmaas.storage.database import BUSY_TIMEOUT_MS, Database, bump
from tests.schema import write_schema

SOON_S = BUSY_TIMEOUT_MS / 1000 - 1
"""Well before a writer gives up on the lock."""


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    write_schema(tmp_path / "llmaas.db")
    opened = Database(tmp_path / "llmaas.db")
    yield opened
    await opened.close()


async def driver_of(connection: AsyncConnection) -> aiosqlite.Connection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, aiosqlite.Connection)
    return driver


async def write(database: Database) -> None:
    began_s = time.monotonic()
    async with database.begin() as connection:
        await bump(connection, "keys")
    assert time.monotonic() - began_s < SOON_S


def number(database: Database) -> int:
    with sqlite3.connect(database.path) as connection:
        found = connection.execute("SELECT number FROM revisions WHERE name = 'keys'").fetchone()[0]
    connection.close()
    return int(found)


def no_rollback(action: int, what: str | None, *_: str | None) -> int:
    return sqlite3.SQLITE_DENY if (action, what) == (sqlite3.SQLITE_TRANSACTION, "ROLLBACK") else sqlite3.SQLITE_OK


async def test_a_rollback_that_the_driver_refuses_locks_nobody_out(database: Database) -> None:
    before = number(database)

    async def fail() -> None:
        async with database.begin() as connection:
            await bump(connection, "keys")
            await (await driver_of(connection)).set_authorizer(no_rollback)
            raise RuntimeError("half way")

    for _ in range(20):  # more often than the pool has connections
        with pytest.raises((RuntimeError, Unavailable)):
            await fail()
        await write(database)
    assert number(database) == before + 20


@pytest.mark.parametrize("again", [False, True])
async def test_a_connection_that_could_not_be_given_back_for_want_of_memory_locks_nobody_out(
    database: Database, monkeypatch: pytest.MonkeyPatch, *, again: bool
) -> None:
    """`again`: memory is short for the first try to mend it, too."""
    before = number(database)
    kept: list[AsyncConnection] = []

    async def short(work: CoroutineType[Any, Any, Any]) -> Any:
        if work.cr_code.co_name == "close":
            work.close()
            raise MemoryError
        return await work

    async def fail() -> None:
        async with database.begin() as connection:
            kept.append(connection)
            await bump(connection, "keys")
            driver = await driver_of(connection)
            if again:
                await driver.set_authorizer(no_rollback)
            raise RuntimeError("half way")

    with monkeypatch.context() as patched:
        patched.setattr(module, "to_its_end", short)
        patched.setattr(sa.engine.RootTransaction, "_do_rollback", lambda _: None)
        with pytest.raises(MemoryError):
            await fail()
    assert (await driver_of(kept[0])).in_transaction
    await write(database)
    assert number(database) == before + 1
    await kept[0].close()
    gc.collect()


async def test_a_transaction_of_a_block_that_runs_is_left_alone(database: Database) -> None:
    before = number(database)
    async with database.begin() as connection:
        await bump(connection, "keys")
        writing = asyncio.create_task(write(database))
        await asyncio.sleep(0.2)
        assert not writing.done()
        await bump(connection, "keys")
    await writing
    assert number(database) == before + 3
