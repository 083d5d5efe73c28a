"""A row that somebody spoiled in an SQLite file costs itself, and not those that are read together with it."""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.keys import Key
from llmaas.domain.projects import Project
from llmaas.domain.users import User
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.database import Database
from llmaas.storage.keys import SqlKeyStore
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.secrets import SecretBox
from llmaas.storage.tables import keys, projects, providers, users
from llmaas.storage.users import SqlUserStore
from tests.schema import write_schema

NO_TEXT = "CAST(x'42c328' AS TEXT)"
VALUES = [NO_TEXT, "x'fffe00'", "'garbage{'", "''", str(2**63 - 1), "-1", "1.5", "'[1,{\"a\":null}]'", "'null'"]
GOOD, BAD = Key("g" * 12, "lab", "good", bytes(32), 1), Key("b" * 12, "other", "bad", bytes(32), 2)
ANA = User("user-ana", "ana@example.org", "hash", is_admin=False, must_change_password=False, created_ms=1)
BOB = dataclasses.replace(ANA, id="user-bob", email="bob@example.org", totp_secret=b"s", totp_last_step=1)


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[Database]:
    write_schema(tmp_path / "llmaas.db")
    database = Database(tmp_path / "llmaas.db")
    for name in ("lab", "other"):
        await SqlProjectStore(database).add(Project(name, name, 1))
    for key in (GOOD, BAD):
        await SqlKeyStore(database).add(key)
    for user in (ANA, BOB):
        await SqlUserStore(database).add(user)
    yield database
    await database.close()


def spoil(database: Database, table: sa.Table, row_id: str, column: str, value: str) -> None:
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        _spoil(connection, table, row_id, column, value)


def _spoil(connection: sqlite3.Connection, table: sa.Table, row_id: str, column: str, value: str) -> None:
    connection.execute("PRAGMA foreign_keys=OFF")
    connection.execute("PRAGMA ignore_check_constraints=ON")
    connection.execute("PRAGMA synchronous=OFF")
    connection.execute(f"UPDATE {table.name} SET {column} = {value} WHERE id = ?", (row_id,))


def each_spoiled(database: Database, table: sa.Table, row_id: str) -> Iterator[tuple[str, str]]:
    """Each column of the row with each value, one after the other."""
    with closing(sqlite3.connect(database.path, isolation_level=None)) as connection:
        (number,) = connection.execute(f"SELECT rowid FROM {table.name} WHERE id = ?", (row_id,)).fetchone()
        for column in table.columns:
            where = f"FROM {table.name} WHERE rowid = {number}"
            (before,) = connection.execute(f"SELECT {column.name} {where}").fetchone()
            for value in VALUES:
                _spoil(connection, table, row_id, column.name, value)
                yield column.name, value
                back = f"UPDATE {table.name} SET {column.name} = ? WHERE rowid = {number}"
                connection.execute(back, (before,))


@pytest.mark.parametrize(("table", "row_id"), [(keys, BAD.id), (projects, "other")], ids=["key", "project"])
async def test_F15_a_spoiled_key_is_read_beside_good_ones(file: Database, table: sa.Table, row_id: str) -> None:
    store, tried = SqlKeyStore(file), 0
    for column, value in each_spoiled(file, table, row_id):
        found = await store.callers([BAD.id, GOOD.id])
        assert found[GOOD.id].key == GOOD, (column, value)
        assert GOOD in await store.list(), (column, value)
        assert GOOD in await store.page("lab", after=None, limit=5), (column, value)
        assert "lab" in [project.id for project in await SqlProjectStore(file).list()], (column, value)
        bad = found.get(BAD.id)
        if bad is not None and column == "secret_hash":
            assert bad.key.secret_hash in {b"", b"\xff\xfe\x00"}, (column, value)
        tried += 1
    assert tried == len(VALUES) * len(table.columns)


async def test_F15_a_spoiled_user_is_read_beside_good_ones(file: Database) -> None:
    store = SqlUserStore(file)
    for column, value in each_spoiled(file, users, BOB.id):
        assert ANA in await store.list(), (column, value)
        assert ANA in await store.page(after=None, limit=5), (column, value)
        assert await store.by_email(ANA.email) == ANA, (column, value)
        await store.get(BOB.id)
        await store.by_email(BOB.email)


async def test_F15_a_name_that_is_no_text_is_shown_as_far_as_it_is_one(file: Database) -> None:
    spoil(file, keys, BAD.id, "name", NO_TEXT)
    assert (await SqlKeyStore(file).list())[1] == dataclasses.replace(BAD, name="B�(")


@pytest.mark.parametrize("networks", ["'[\"nowhere\"]'", "'[\"10.0.0.0/\ufffd\"]'", "'[167772160]'", "'null'"])
async def test_F15_a_key_whose_networks_cannot_be_read_is_none(file: Database, networks: str) -> None:
    spoil(file, keys, BAD.id, "networks", networks)
    assert await SqlKeyStore(file).get(BAD.id) is None


async def test_F15_a_spoiled_secret_opens_nothing(file: Database) -> None:
    columns: dict[str, Any] = {"kind": "openai", "cancel_stops_billing": True, "extra_parameters": {}}
    async with file.begin() as connection:
        await connection.execute(sa.insert(providers).values(id="p", secret=b"x", **columns))
        await connection.execute(sa.insert(providers).values(id="q", secret=b"y", **columns))
    for value in VALUES:
        spoil(file, providers, "p", "secret", value)
        sealed = await SqlCatalogueStore(file).sealed_secrets()
        assert sealed["q"] == b"y"
        with pytest.raises(ValueError, match="does not open"):
            SecretBox(bytes(32)).open("p", sealed["p"])


@pytest.mark.parametrize("number", [NO_TEXT, "'garbage'", "1.5"])
async def test_A19_a_change_number_that_is_none_is_no_word_that_nothing_changed(file: Database, number: str) -> None:
    async with file.begin() as connection:
        await connection.exec_driver_sql(f"UPDATE revisions SET number = {number} WHERE name = 'keys'")
    with pytest.raises(ValueError, match="revisions"):
        await SqlRevisionStore(file).read()
