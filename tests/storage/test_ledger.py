"""The ledger's writer: group commits, rows only once, the spool as a second place, and a thread that never dies."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas.domain.usage import UsageRow
from llmaas.errors import LedgerUnavailable
from llmaas.storage.ledger import Inbox, Ledger
from llmaas.storage.row_store import SHARED
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from tests.schema import write_schema
from tests.storage.rows import row, rows
from tests.waiting import until


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_schema(tmp_path / "llmaas.db")
    return tmp_path / "llmaas.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger(SqliteRows(path, SHARED), Spool(path.parent / "spool"))
    ledger.start()
    yield ledger
    await ledger.stop()


def stored(path: Path) -> list[str]:
    """As another process sees it."""
    with sqlite3.connect(path) as connection:
        found = [row[0] for row in connection.execute("SELECT id FROM usage ORDER BY started_ms, id")]
    connection.close()
    return found


def commits(path: Path) -> int:
    """Transactions in the write-ahead log: each ends with a frame that says how large the database is then."""
    data = path.with_name(path.name + "-wal").read_bytes()
    page = struct.unpack(">I", data[8:12])[0]
    salts = data[16:24]
    heads = [data[at : at + 24] for at in range(32, len(data), 24 + page)]
    return sum(head[8:16] == salts and head[4:8] != b"\0\0\0\0" for head in heads)


async def settle(ledger: Ledger, batch: list[UsageRow]) -> None:
    await asyncio.wait_for(asyncio.gather(*(ledger.append(one) for one in batch)), 10)


async def test_a_row_is_durable_when_its_future_is_done(ledger: Ledger, path: Path) -> None:
    for one in rows(5):
        await ledger.append(one)
        assert one.id in stored(path)


async def test_rows_that_come_together_share_a_transaction(ledger: Ledger, path: Path) -> None:
    with sqlite3.connect(path) as keep_open:
        await settle(ledger, rows(1))
        before = commits(path)
        await settle(ledger, rows(500, first=1))
        assert commits(path) - before <= 3
        assert len(stored(path)) == 501
    keep_open.close()


async def test_B06_a_row_that_is_appended_twice_is_there_once(ledger: Ledger, path: Path) -> None:
    one = row(output_tokens=5)
    await settle(ledger, [one, one])
    await settle(ledger, [one, row(output_tokens=99)])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT id, output_tokens FROM usage").fetchall() == [(one.id, 5)]
    connection.close()


async def test_B06_a_spool_that_holds_what_the_database_has_adds_nothing(path: Path) -> None:
    batch = rows(10)
    for _ in range(2):
        spool = Spool(path.parent / "spool")
        spool.write(batch)
        spool.write(batch[:3])
        spool.close()
        ledger = Ledger(SqliteRows(path, SHARED), Spool(path.parent / "spool"))
        ledger.start()
        await settle(ledger, rows(1, first=50))
        await ledger.stop()
        assert stored(path) == [one.id for one in [*batch, *rows(1, first=50)]]
        assert not Spool(path.parent / "spool").files()


async def test_B07_a_locked_database_sends_rows_to_the_spool_and_back(ledger: Ledger, path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    await settle(ledger, rows(5))
    assert ledger.accepting
    assert ledger.backlog
    other.execute("ROLLBACK")
    await until(lambda: not ledger.backlog, "the spool is empty")
    assert stored(path) == [one.id for one in rows(5)]
    other.close()


async def test_B07_no_place_fails_the_future_and_stops_new_work(ledger: Ledger, path: Path) -> None:
    (path.parent / "spool").write_text("no directory")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(LedgerUnavailable) as refused:
        await asyncio.wait_for(ledger.append(row()), 10)
    assert refused.value.retry_after_s
    assert not ledger.accepting
    other.execute("ROLLBACK")
    other.close()
    await until(lambda: ledger.accepting, "it takes rows")
    await settle(ledger, [row(id="later")])
    assert stored(path) == ["later"]


async def test_a_row_that_no_database_can_hold_does_not_end_the_writer(ledger: Ledger, path: Path) -> None:
    with pytest.raises(LedgerUnavailable):
        await asyncio.wait_for(ledger.append(row(id="monster", cost_nano=2**70)), 10)
    await until(lambda: ledger.accepting, "it takes rows")
    await settle(ledger, [row(id="later")])
    assert stored(path) == ["later"]


async def test_a_stop_writes_what_was_handed_over(path: Path) -> None:
    ledger = Ledger(SqliteRows(path, SHARED), Spool(path.parent / "spool"))
    ledger.start()
    futures = [ledger.append(one) for one in rows(50)]
    await ledger.stop()
    assert len(stored(path)) == 50
    await asyncio.gather(*futures)


async def test_B13_a_row_that_comes_after_the_stop_is_refused_at_once(path: Path) -> None:
    ledger = Ledger(SqliteRows(path, SHARED), Spool(path.parent / "spool"))
    ledger.start()
    await ledger.stop()
    with pytest.raises(LedgerUnavailable):
        await ledger.append(row())


async def test_the_writer_is_woken_once_for_as_many_rows_as_it_waits_for() -> None:
    inbox, loop = Inbox(), asyncio.get_running_loop()
    items = [(one, loop.create_future()) for one in rows(5)]
    waiting = asyncio.create_task(asyncio.to_thread(inbox.wait, 2, None))
    for item in items[:2]:
        inbox.put(item)
    assert await asyncio.wait_for(waiting, 10)
    assert inbox.wait(2, 0)
    assert not inbox.wait(3, 0)
    for item in items[2:]:
        inbox.put(item)
    assert inbox.take(3) == (items[:3], False)
    assert inbox.wait(2, 0)
    assert inbox.take(3) == (items[3:], False)
    assert not inbox.wait(1, 0), "that it was woken for rows that it has taken since is no news"


async def test_a_writer_that_waits_for_more_is_woken_by_the_end() -> None:
    inbox = Inbox()
    item = (row(), asyncio.get_running_loop().create_future())
    waiting = asyncio.create_task(asyncio.to_thread(inbox.wait, 9, None))
    inbox.put(item)
    inbox.close()
    assert await asyncio.wait_for(waiting, 10)
    assert inbox.wait(9, None)
    assert inbox.take(9) == ([item], True)
