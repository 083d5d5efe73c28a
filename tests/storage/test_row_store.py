"""The ledger's tables on both databases: rows once, and with them, in one transaction, budgets and rollups."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import asyncpg
import msgspec
import pytest
import sqlalchemy as sa

from llmaas.domain.audit import SYSTEM
from llmaas.domain.ports import BudgetWant
from llmaas.domain.usage import UsageRow
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.corrections import SqlCorrections
from llmaas.storage.database import Database, sqlite_path
from llmaas.storage.ledger import Ledger
from llmaas.storage.ledger_check import SqlLedgerCheck
from llmaas.storage.postgres_rows import PostgresRows
from llmaas.storage.row_store import SHARED, RowStore, StoreAway
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows
from llmaas.storage.sums import SqlUsageSums
from llmaas.storage.tables import budget_shares, keys, projects, usage, usage_hours
from tests.postgres import PostgresServer
from tests.storage.rows import row
from tests.waiting import until

MAY_1 = 1_777_593_600_000
"""2026-05-01 00:00 UTC."""


def store_at(place: str | Path, worker_id: str = SHARED) -> RowStore:
    path = sqlite_path(place)
    return PostgresRows(str(place), worker_id) if path is None else SqliteRows(path, worker_id)


@pytest.fixture
def store(place: str | Path) -> Iterator[RowStore]:
    made = store_at(place, "worker-1")
    yield made
    made.close()


@pytest.fixture
async def ledger(place: str | Path, tmp_path: Path) -> AsyncIterator[Ledger]:
    made = Ledger(store_at(place), Spool(tmp_path / "spool"))
    made.start()
    yield made
    await made.stop()


def charged(name: str, cost: int, **fields: object) -> UsageRow:
    return row(**{"id": name, "cost_nano": cost, "started_ms": MAY_1, **fields})


async def budgets(database: Database) -> dict[tuple[str, str], tuple[int, int]]:
    async with database.connect() as connection:
        rows = (await connection.execute(sa.select(budget_shares))).all()
    return {(r.budget_id, r.worker_id): (r.spent_nano, r.leased_nano) for r in rows}


async def count(database: Database, column: sa.Table) -> int:
    async with database.connect() as connection:
        return int((await connection.execute(sa.select(sa.func.count()).select_from(column))).scalar_one())


async def test_B14_rows_of_a_rotated_key_spend_the_budgets_of_the_first(store: RowStore, database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(sa.insert(projects).values(id="p", name="P", created_ms=1))
        common = {"project_id": "p", "name": "k", "secret_hash": b"h", "created_ms": 1}
        lists: dict[str, list[str]] = {"allowed_models": [], "permissions": []}
        for name, first in (("first", None), ("second", "first"), ("third", "first"), ("alone", None)):
            await connection.execute(sa.insert(keys).values(id=name, first_id=first, **common, **lists))
    batch = [charged(f"r-{name}", 10, key_id=name) for name in ("first", "second", "third", "alone")]
    await asyncio.to_thread(store.write, batch)
    await asyncio.to_thread(store.write, [charged("again", 5, key_id="third")])
    spent = {budget: numbers[0] for (budget, _), numbers in (await budgets(database)).items() if "key:" in budget}
    assert spent == {
        **dict.fromkeys(("key:first:total", "key:first:2026-05", "key:first:2026-05-01"), 35),
        **dict.fromkeys(("key:alone:total", "key:alone:2026-05", "key:alone:2026-05-01"), 10),
    }
    made = await SqlUsageSums(database).output_tokens_since("key:first", MAY_1)
    assert made == sum(row.output_tokens + row.reasoning_tokens for row in [*batch[:3], batch[2]])
    await SqlCorrections(database).correct("again", 3, note="n", correction_id="put-right", now_ms=MAY_1 + 5, by=SYSTEM)
    standing = await SqlBudgetStore(database).standing(["key:first:total", "key:third:total"])
    assert [standing[name].spent_nano for name in ("key:first:total", "key:third:total")] == [33, 0]
    assert [fault async for fault in SqlLedgerCheck(database).faults(MAY_1)] == []


async def test_rows_raise_their_budgets_and_hours_once(store: RowStore, database: Database) -> None:
    batch = [charged("a", 5), charged("b", 7, input_tokens=3), charged("a", 5), charged("free", 0)]
    await asyncio.to_thread(store.write, batch)
    await asyncio.to_thread(store.write, [charged("b", 7), charged("c", 1, started_ms=MAY_1 - 1)])
    project, key = batch[0].project_id, batch[0].key_id
    spent = {budget: numbers[0] for (budget, _), numbers in (await budgets(database)).items()}
    assert spent == {
        f"key:{key}:total": 13,
        f"key:{key}:2026-05": 12,
        f"key:{key}:2026-05-01": 12,
        f"key:{key}:2026-04": 1,
        f"key:{key}:2026-04-30": 1,
        f"project:{project}:total": 13,
        f"project:{project}:2026-05": 12,
        f"project:{project}:2026-04": 1,
    }
    async with database.connect() as connection:
        sums = (
            await connection.execute(
                sa.select(sa.func.sum(usage_hours.c.requests), sa.func.sum(usage_hours.c.cost_nano))
            )
        ).one()
        rows = (await connection.execute(sa.select(sa.func.count(), sa.func.sum(usage.c.cost_nano)))).one()
    assert tuple(map(int, sums)) == tuple(map(int, rows)) == (4, 13)


async def test_each_row_of_a_batch_keeps_what_only_some_have(store: RowStore, database: Database) -> None:
    plain, full = (
        charged("a", 1),
        charged("b", 2, end_user="", error_code="x", tier_id="t", streamed=True, usage_suspect=True),
    )
    await asyncio.to_thread(store.write, [plain])
    await asyncio.to_thread(store.write, [full, charged("c", 3, corrects="a"), charged("d", 4)])
    async with database.connect() as connection:
        columns = ("id", "end_user", "error_code", "tier_id", "corrects", "streamed", "usage_suspect")
        found = (await connection.execute(sa.select(*(usage.c[name] for name in columns)).order_by(usage.c.id))).all()
    assert [tuple(one) for one in found] == [
        ("a", None, None, None, None, False, False),
        ("b", "", "x", "t", None, True, True),
        ("c", None, None, None, "a", False, False),
        ("d", None, None, None, None, False, False),
    ]


async def test_a_large_batch_is_one_transaction(store: RowStore, database: Database) -> None:
    await asyncio.to_thread(store.write, [charged(f"row-{n}", n, key_id=f"key-{n % 90}") for n in range(1000)])
    assert await count(database, usage) == 1000
    assert sum(
        spent for (budget, _), (spent, _) in (await budgets(database)).items() if budget.startswith("key:key-1:")
    )


async def test_an_unstorable_row_fails_alone_and_is_kept_aside(
    ledger: Ledger, database: Database, tmp_path: Path
) -> None:
    batch = [charged(f"row-{n}", 1) for n in range(9)]
    batch[4] = msgspec.structs.replace(batch[4], input_tokens=2**70)
    results = await asyncio.gather(*(ledger.append(one) for one in batch), return_exceptions=True)
    assert [type(result).__name__ for result in results] == ["NoneType"] * 4 + ["LedgerUnavailable"] + ["NoneType"] * 4
    assert ledger.accepting
    assert await count(database, usage) == 8
    kept = (tmp_path / "spool" / "unstorable.jsonl").read_text()
    assert json.loads(kept)["row"]["id"] == batch[4].id


async def test_flushed_waits_for_what_was_handed_over(ledger: Ledger, database: Database) -> None:
    appended = ledger.append(charged("a", 1))
    assert await ledger.flushed()
    assert appended.done()
    assert await count(database, usage) == 1


async def test_F11_rows_wait_in_the_spool_while_postgresql_is_away(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    ledger = Ledger(PostgresRows(own_postgres.url(), "worker-1"), Spool(tmp_path / "spool"))
    ledger.start()
    await ledger.append(charged("before", 1))
    await asyncio.to_thread(own_postgres.stop)
    await asyncio.wait_for(asyncio.gather(*(ledger.append(charged(f"away-{n}", 1)) for n in range(5))), 10)
    assert ledger.accepting
    assert ledger.backlog
    assert not await ledger.flushed()
    await asyncio.to_thread(own_postgres.start)
    await until(lambda: not ledger.backlog, "the spool is empty")
    await ledger.append(charged("after", 1))
    await ledger.stop()
    database = Database(own_postgres.url())
    assert await count(database, usage) == 7
    assert (await budgets(database))["project:default:total", "worker-1"] == (7, 0)
    await database.close()


async def test_what_is_settled_leaves_the_lease(postgres_url: str) -> None:
    """On PostgreSQL, where workers have leases."""
    database = Database(postgres_url)
    leases = SqlBudgetStore(database, "worker-1")
    budget = f"project:{row().project_id}:2026-05"
    assert (await leases.take([BudgetWant(budget, 100, 50, 80)]))[0].granted_nano == 80
    store = store_at(postgres_url, "worker-1")
    await asyncio.to_thread(store.write, [charged("a", 30, hold_nano=40), charged("b", 5, hold_nano=0)])
    assert (await budgets(database))[budget, "worker-1"] == (35, 50)
    await asyncio.to_thread(store.write, [charged("c", 70, hold_nano=70)])
    assert (await budgets(database))[budget, "worker-1"] == (105, 0)
    await asyncio.to_thread(store.close)
    await database.close()


async def test_rows_of_an_earlier_process_leave_the_leases_of_this_one_alone(postgres_url: str) -> None:
    database = Database(postgres_url)
    leases = SqlBudgetStore(database, "worker-1")
    budget = f"project:{row().project_id}:2026-05"
    await leases.take([BudgetWant(budget, 100, 50, 80)])
    store = store_at(postgres_url, "worker-1")
    await asyncio.to_thread(store.write, [charged("a", 30, hold_nano=40)], foreign=True)
    found = await budgets(database)
    assert (found[budget, "worker-1"], found[budget, SHARED]) == ((0, 80), (30, 0))
    await asyncio.to_thread(store.close)
    await database.close()


async def test_B06_an_answer_of_the_database_that_is_lost_adds_nothing_twice(own_postgres: PostgresServer) -> None:
    """The server waits for a lock in the midst of the batch, so whether it is in is not known; it is told again."""
    store = store_at(own_postgres.url(), "worker-1")
    await asyncio.to_thread(store.write, [charged("before", 1)])
    blocker = await asyncpg.connect(own_postgres.url())
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE usage_hours IN EXCLUSIVE MODE")
    started_s = time.monotonic()
    with pytest.raises(StoreAway):
        await asyncio.to_thread(store.write, [charged("a", 5)])
    assert time.monotonic() - started_s < 3
    await transaction.rollback()
    await asyncio.to_thread(store.write, [charged("a", 5)])
    database = Database(own_postgres.url())
    assert await count(database, usage) == 2
    assert (await budgets(database))["project:default:total", "worker-1"] == (6, 0)
    await database.close()
    await blocker.close()
    await asyncio.to_thread(store.close)


async def test_F11_a_frozen_database_is_not_waited_for_beyond_the_deadline(
    own_postgres: PostgresServer, tmp_path: Path
) -> None:
    ledger = Ledger(store_at(own_postgres.url(), "worker-1"), Spool(tmp_path / "spool"))
    ledger.start()
    await ledger.append(charged("before", 1))
    own_postgres.freeze()
    started_s = time.monotonic()
    await asyncio.wait_for(ledger.append(charged("a", 5)), 10)
    assert time.monotonic() - started_s < 3
    assert ledger.backlog
    own_postgres.thaw()
    await until(lambda: not ledger.backlog, "the spool is empty")
    await ledger.stop()
    database = Database(own_postgres.url())
    assert await count(database, usage) == 2
    assert (await budgets(database))["project:default:total", "worker-1"] == (6, 0)
    await database.close()


async def test_an_unstorable_row_in_the_spool_holds_nothing_up(
    place: str | Path, database: Database, tmp_path: Path
) -> None:
    """What can be put into words can still be too large for a column."""
    spool = Spool(tmp_path / "spool")
    spool.write([charged("a", 1), charged("huge", 2**63), charged("b", 1)])
    spool.close()
    ledger = Ledger(store_at(place), Spool(tmp_path / "spool"))
    ledger.start()
    await until(lambda: not ledger.backlog, "the spool is empty")
    await ledger.append(charged("c", 1))
    await ledger.stop()
    assert await count(database, usage) == 3
    assert "huge" in (tmp_path / "spool" / "unstorable.jsonl").read_text()


def test_a_database_that_is_not_there_is_away(tmp_path: Path) -> None:
    stores: Sequence[RowStore] = [
        SqliteRows(tmp_path / "no" / "such.db", SHARED),
        PostgresRows("postgresql://llmaas@127.0.0.1:1/none", "w"),
    ]
    for store in stores:
        with pytest.raises(StoreAway):
            store.write([row()])
        with pytest.raises(StoreAway):
            store.probe()
        store.close()
