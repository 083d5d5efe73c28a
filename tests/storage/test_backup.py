"""Backup and restore: what comes back is what was there, on either database; anything else is refused and changes nothing."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.usage import UsageFilter
from llmaas.errors import Conflict, InvalidRequest, LlmaasError
from llmaas.storage.backup import master_key_id, restore_backup, write_backup
from llmaas.storage.database import SCHEMA, Database, prepare
from llmaas.storage.rollups import DAY_MS, SqlRollups
from llmaas.storage.tables import metadata, prices
from llmaas.storage.usage import SqlUsageReader
from tests.storage.recording import keep
from tests.storage.rows import row

MASTER_KEY = bytes(range(32))
AWKWARD = "a\u202eb 'x' \U0001f600 \\ \" \r\n"


@pytest.fixture(params=["to-sqlite", "to-postgresql"])
async def empty(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Another database, with the schema and nothing in it."""
    postgres = request.param == "to-postgresql"
    place = str(request.getfixturevalue("empty_postgres_url")) if postgres else tmp_path / "restored.db"
    await asyncio.to_thread(prepare, place)
    opened = Database(place, limit_s=60)
    yield opened
    await opened.close()


def made_up(table: sa.Table, number: int) -> dict[str, Any]:
    """A row that fits the types of its columns and refers to the rows of the same number elsewhere."""
    return {column.name: _value(column, number) for column in table.columns if _given(table, column, number)}


def _given(table: sa.Table, column: sa.Column[Any], number: int) -> bool:
    if table is prices and column is prices.c.version:
        return False
    return not column.nullable or number % 2 == 0


def _value(column: sa.Column[Any], number: int) -> Any:
    if isinstance(column.type, sa.Boolean):
        return number % 2 == 0
    if isinstance(column.type, sa.LargeBinary):
        return bytes([0, 255, number])
    if isinstance(column.type, sa.JSON):
        return {"n": number, "deep": [None, 1.5, AWKWARD]}
    if isinstance(column.type, sa.BigInteger):
        return 2**62 + number
    if isinstance(column.type, sa.Integer):
        return number
    return f"{AWKWARD}{number}"


async def fill(database: Database) -> None:
    async with database.begin() as connection:
        for table in metadata.sorted_tables:
            if table.name != "revisions":
                for number in (1, 2, 3):
                    await connection.execute(sa.insert(table).values(made_up(table, number)))


async def everything(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    async with database.connect() as connection:
        for table in metadata.sorted_tables:
            rows = (await connection.execute(sa.select(table))).all()
            found[table.name] = sorted((tuple(each) for each in rows), key=repr)
    return found


async def written(database: Database, tmp_path: Path) -> Path:
    path = tmp_path / "all.backup"
    await write_backup(database, path, made_ms=5, master_key=MASTER_KEY, with_master_key=False)
    return path


async def test_what_comes_back_is_what_was_there(database: Database, empty: Database, tmp_path: Path) -> None:
    await fill(database)
    path = tmp_path / "all.backup"
    made = await write_backup(database, path, made_ms=5, master_key=MASTER_KEY, with_master_key=False)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".all")] == []
    assert await restore_backup(empty, path) == made
    before, after = await everything(database), await everything(empty)
    for name in ("workers", "duties"):
        assert (len(before.pop(name)), after.pop(name)) == (3, []), "these are of running processes"
    shares = before.pop("budget_shares")
    assert [share[:3] for share in after.pop("budget_shares")] == [share[:3] for share in shares]
    assert after == before
    assert made.rows["usage"] == 3


async def test_leases_end_and_numbers_go_on(database: Database, empty: Database, tmp_path: Path) -> None:
    await fill(database)
    await restore_backup(empty, await written(database, tmp_path))
    async with empty.begin() as connection:
        shares = metadata.tables["budget_shares"]
        assert set((await connection.execute(sa.select(shares.c.leased_nano))).scalars()) == {0}
        new = await connection.execute(sa.insert(prices).values(made_up(prices, 9)).returning(prices.c.version))
        assert new.scalar_one() == 4


async def test_the_master_key_is_in_it_only_when_that_was_asked_for(database: Database, tmp_path: Path) -> None:
    for wanted in (False, True):
        path = tmp_path / f"{wanted}.backup"
        made = await write_backup(database, path, made_ms=5, master_key=MASTER_KEY, with_master_key=wanted)
        assert made.master_key == (MASTER_KEY if wanted else None)
        heading = gzip.decompress(path.read_bytes()).splitlines()[0]
        assert (b"AAECAwQFBgcICQ" in heading) is wanted
        assert master_key_id(MASTER_KEY).encode() in heading


async def test_a_backup_under_load_is_of_one_moment(database: Database, empty: Database, tmp_path: Path) -> None:
    """Rows and their hours are written together, so in the copy they have to agree, and no batch may be in part."""
    stop = asyncio.Event()

    async def write() -> int:
        batch = 0
        while not stop.is_set():
            made = [row(id=f"{batch}-{n}", started_ms=batch * DAY_MS, cost_nano=batch + n) for n in range(10)]
            await keep(database, made)
            batch += 1
        return batch

    writer = asyncio.create_task(write())
    try:
        async with asyncio.timeout(20):
            while len(await SqlUsageReader(database).page(UsageFilter(), limit=100)) < 100:
                await asyncio.sleep(0)
        path = await written(database, tmp_path)
        async with asyncio.timeout(20):
            before = await _count(database)
            while await _count(database) == before:
                await asyncio.sleep(0)
    finally:
        stop.set()
        batches = await writer
    await restore_backup(empty, path)
    (total,) = await SqlUsageReader(empty).sums(UsageFilter(), [])
    rows = [one async for one in SqlUsageReader(empty).rows(UsageFilter())]
    assert len(rows) == total.requests
    assert len(rows) % 10 == 0
    assert sum(one.cost_nano for one in rows) == total.cost_nano
    assert 100 <= len(rows) < batches * 10
    assert [fault async for fault in SqlRollups(empty).faults()] == []


async def _count(database: Database) -> int:
    async with database.connect() as connection:
        count: int = (await connection.execute(sa.text("SELECT count(*) FROM usage"))).scalar_one()
        return count


async def test_only_an_empty_database_is_filled(database: Database, empty: Database, tmp_path: Path) -> None:
    path = await written(database, tmp_path)
    await keep(empty, [row()])
    before = await everything(empty)
    with pytest.raises(Conflict, match="not empty"):
        await restore_backup(empty, path)
    assert await everything(empty) == before


async def test_a_file_that_is_there_is_not_overwritten(database: Database, tmp_path: Path) -> None:
    path = await written(database, tmp_path)
    before = path.read_bytes()
    with pytest.raises(Conflict, match="is there already"):
        await written(database, tmp_path)
    assert path.read_bytes() == before


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut in the middle": lambda text: text[: len(text) // 2],
    "cut before its end": lambda text: text[: text.rstrip().rindex(b"\n") + 1],
    "another number": lambda text: text.replace(b"1760000000000", b"1760000000001", 1),
    "a line twice": lambda text: text.replace(b'["chatcmpl-1"', b'["chatcmpl-2"', 1),
    "a line less": lambda text: b"".join(
        line for line in text.splitlines(True) if not line.startswith(b'["chatcmpl-1"')
    ),
    "no backup": lambda _: b'{"some": "JSON"}\n',
    "no JSON": lambda _: b"hello\n",
    "nothing": lambda _: b"",
    "another schema": lambda text: text.replace(f'"schema":"{SCHEMA}"'.encode(), b'"schema":"0001"', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_bad_file_changes_nothing(database: Database, tmp_path: Path, damage: str) -> None:
    await keep(database, [row()])
    path = await written(database, tmp_path)
    bad = tmp_path / "bad.backup"
    bad.write_bytes(gzip.compress(DAMAGES[damage](gzip.decompress(path.read_bytes()))))
    await _empty_again(database)
    before = await everything(database)
    with pytest.raises(LlmaasError) as refused:
        await restore_backup(database, bad)
    assert isinstance(refused.value, InvalidRequest), refused.value
    assert await everything(database) == before
    await restore_backup(database, path)


async def test_what_is_no_gzip_file_is_refused(database: Database, tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_text("plain")
    with pytest.raises(InvalidRequest, match="damaged"):
        await restore_backup(database, path)
    whole = await written(database, tmp_path)
    path.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InvalidRequest, match="damaged"):
        await restore_backup(database, path)


async def _empty_again(database: Database) -> None:
    async with database.begin() as connection:
        await connection.exec_driver_sql("DELETE FROM usage")
        await connection.exec_driver_sql("DELETE FROM usage_hours")
