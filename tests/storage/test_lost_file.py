"""SQLite's file is removed, exchanged, cut or scribbled over under a running ledger: rows wait in the spool, and none is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import structlog

from llmaas.errors import Unavailable
from llmaas.storage.database import Database
from llmaas.storage.ledger import Ledger
from llmaas.storage.row_store import SHARED, StoreAway, Unstorable
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from llmaas.storage.watched_file import is_damaged, log_of
from tests.schema import write_schema
from tests.storage.rows import rows
from tests.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_schema(tmp_path / "data" / "llmaas.db")
    return tmp_path / "data" / "llmaas.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = ledger_of(path)
    yield ledger
    await ledger.stop()


def ledger_of(path: Path) -> Ledger:
    ledger = Ledger(SqliteRows(path, SHARED), Spool(path.parent / "spool"))
    ledger.start()
    return ledger


async def settle(ledger: Ledger, first: int, count: int = 3) -> None:
    await asyncio.wait_for(asyncio.gather(*map(ledger.append, rows(count, first=first))), 10)


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM usage ORDER BY started_ms, id")]


def spent(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT sum(requests) FROM usage_hours").fetchone()[0])


def back_up(path: Path) -> Path:
    """A whole copy, as it is now."""
    copy = path.with_name("copy.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def remove(path: Path) -> None:
    path.unlink()


def remove_all(path: Path) -> None:
    for file in path.parent.glob("llmaas.db*"):
        file.unlink()


def exchange(path: Path) -> None:
    """For something that is no database."""
    path.with_name("other").write_bytes(b"hello " * 10_000)
    path.with_name("other").rename(path)


def exchange_for_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(0)


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"\x5a" * 4096)


def scribble_log(path: Path) -> None:
    with log_of(path).open("r+b") as file:
        file.write(b"\x5a" * 100)


Harm = Callable[[Path], None]
REPLACED: list[Harm] = [remove, remove_all, exchange, exchange_for_a_pipe]
SPOILED: list[Harm] = [cut, cut_in_half, scribble, scribble_log]


async def harmed(ledger: Ledger, path: Path, harm: Harm) -> None:
    """The rows that come right after it come before anybody could have noticed."""
    await settle(ledger, 0)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    await settle(ledger, 3)
    back_up(path)
    with structlog.testing.capture_logs() as logs:
        harm(path)
        await settle(ledger, 6)
        await until(lambda: ledger.away, "it is noticed")
    await settle(ledger, 9)
    assert ledger.accepting
    (told,) = [line for line in logs if line["event"] == "ledger_database_failed"]
    assert told["log_level"] == "error"
    assert str(path) in told["error"]
    assert "restore a backup" in told["hint"]


@pytest.mark.parametrize("harm", REPLACED)
async def test_B07_a_file_that_is_gone_costs_no_row_and_is_taken_when_it_is_back(
    ledger: Ledger, path: Path, harm: Harm
) -> None:
    await harmed(ledger, path, harm)
    if harm in (remove, remove_all):
        assert not path.exists(), "nothing takes the place of what is put back"
    path.with_name("copy.db").rename(path)
    await until(lambda: not ledger.backlog, "the spool is empty")
    await settle(ledger, 12)
    assert ids(path) == [row.id for row in rows(15)]
    assert spent(path) == 15
    assert await check(path) == []


async def check(path: Path) -> list[str]:
    database = Database(path)
    try:
        return await database.faults()
    finally:
        await database.close()


@pytest.mark.parametrize("harm", SPOILED)
async def test_B07_a_file_that_is_spoiled_in_its_place_costs_no_row_and_is_replaced_at_a_start(
    path: Path, harm: Harm
) -> None:
    ledger = ledger_of(path)
    await harmed(ledger, path, harm)
    await ledger.stop()
    assert ledger.away
    remove_all(path)
    path.with_name("copy.db").rename(path)
    ledger = ledger_of(path)
    await until(lambda: not ledger.backlog, "the spool is empty")
    await ledger.stop()
    assert ids(path) == [row.id for row in rows(12)]
    assert spent(path) == 12
    assert await check(path) == []


async def test_B07_a_file_that_is_moved_away_and_back_takes_the_rows_once(ledger: Ledger, path: Path) -> None:
    away = path.with_name("away")

    def move(path: Path) -> None:
        path.rename(away)

    await harmed(ledger, path, move)
    away.rename(path)
    await until(lambda: not ledger.backlog, "the spool is empty")
    assert ids(path) == [row.id for row in rows(12)]
    assert spent(path) == 12


def test_B07_a_copy_that_is_not_finished_is_not_taken(path: Path) -> None:
    store = SqliteRows(path, SHARED)
    store.write(rows(1))
    copy = back_up(path).read_bytes()
    remove_all(path)
    for part in (0, 100, len(copy) // 2):
        path.write_bytes(copy[:part])
        with pytest.raises(StoreAway) as lost:
            store.look()
        assert str(path) in str(lost.value)
        with pytest.raises(StoreAway):
            store.write(rows(1))
    path.write_bytes(copy)
    with pytest.raises(StoreAway, match="exchanged"):
        store.look()
    store.write(rows(2))
    store.close()
    assert ids(path) == [row.id for row in rows(2)]


async def test_B07_a_row_in_doubt_at_the_end_goes_to_the_spool(path: Path) -> None:
    """Nothing comes after it, so only the stop finds out."""
    ledger = ledger_of(path)
    await settle(ledger, 0)
    path.unlink()
    await ledger.stop()
    spool = Spool(path.parent / "spool")
    assert [row.id for file in spool.files() for row in spool.read(file)[0]] == [row.id for row in rows(3)]


async def test_what_is_changed_is_not_written_to_a_file_that_is_gone(path: Path) -> None:
    database = Database(path)
    change = sa.text("UPDATE revisions SET number = number + 1 WHERE name = 'keys'")
    async with database.begin() as connection:
        await connection.execute(change)
    copy = back_up(path)
    path.unlink()
    for block in (database.begin, database.connect):
        with pytest.raises(Unavailable) as refused:
            async with block():
                pass
        assert "restore a backup" in str(refused.value.hint)
    assert not path.exists()
    shutil.move(copy, path)
    async with database.begin() as connection:
        await connection.execute(change)
    async with database.connect() as connection:
        numbers = await connection.execute(sa.text("SELECT number FROM revisions WHERE name = 'keys'"))
        assert numbers.scalar_one() == 3
    await database.close()
    assert path.with_name("llmaas.db-wal.lost").exists(), "it belongs to the file that is gone"


def test_a_log_that_is_whole_or_was_never_begun_is_not_damaged(path: Path) -> None:
    log = log_of(path)
    assert not is_damaged(log)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE one (id)")
        assert log.stat().st_size
        assert not is_damaged(log)
        whole = log.read_bytes()
    for spoiled in (b"\0" * 32, b"", whole):
        log.write_bytes(spoiled)
        assert not is_damaged(log)
    for at in range(28):
        log.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert is_damaged(log), at
    log.write_bytes(whole[:20])
    assert is_damaged(log)
    log.unlink()


def test_a_write_that_failed_half_way_leaves_no_lock(path: Path) -> None:
    """FAIL is the word by which a trigger leaves the transaction open; the traceback is kept, and with it what it refers to."""
    store = SqliteRows(path, SHARED)
    with closing(sqlite3.connect(path, timeout=1)) as other:
        other.execute("CREATE TRIGGER no BEFORE INSERT ON usage_hours BEGIN SELECT RAISE(FAIL, 'no'); END")
        with pytest.raises(Unstorable) as kept:
            store.write(rows(1))
        other.execute("DROP TRIGGER no")
        store.write(rows(1))
    store.close()
    assert kept.value.__traceback__ is not None
    assert ids(path) == ["chatcmpl-0"]
