"""The check of the ledger: silent when all agrees, and a line for each thing that does not."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from random import Random

import msgspec
import pytest
import sqlalchemy as sa

from llmaas.domain.audit import SYSTEM
from llmaas.domain.budgets import day_name
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Model, ModelKind
from llmaas.domain.ports import BudgetWant
from llmaas.domain.prices import Price, TokenCounts, cost_nano
from llmaas.domain.projects import Project
from llmaas.domain.usage import FREE, BillingReason, Outcome, UsageFilter, UsageRow, UsageSource
from llmaas.errors import Conflict, NotFound
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.corrections import SqlCorrections
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database
from llmaas.storage.ledger_check import SqlLedgerCheck
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.retention import SqlRetention
from llmaas.storage.rollups import DAY_MS, HOUR_MS, SqlRollups
from llmaas.storage.row_store import SHARED
from llmaas.storage.tables import budget_shares, keys, prices, tiers, usage, usage_hours
from llmaas.storage.usage import SqlUsageReader, row_faults
from tests.storage.rows import row
from tests.storage.test_row_store import store_at

NOON = 1_777_636_800_000
"""2026-05-01 12:00 UTC."""
PRICE = Price(1, "m", 0, input=1_000_000, output=2_000_000)
COST = 3 + 2 * 5
MINE = row().project_id
KEY = row().key_id


@pytest.fixture
async def filled(place: str | Path, database: Database) -> Database:
    """Two days of two keys, with hours that are folded and hours that are not."""
    store = store_at(place, "worker")
    batch = [
        row(
            id=f"row-{n}",
            key_id=KEY if n % 3 else "other",
            started_ms=NOON + n * HOUR_MS // 2,
            price_version=1,
            cost_nano=COST,
            hold_nano=COST + n,
            ttft_ms=None if n % 5 else 7,
        )
        for n in range(50)
    ]
    await asyncio.to_thread(store.write, batch[:30])
    await SqlRollups(database).fold(NOON + DAY_MS)
    await asyncio.to_thread(store.write, batch[30:])
    await asyncio.to_thread(store.close)
    return database


async def faults(database: Database) -> list[str]:
    check = SqlLedgerCheck(database)
    reader = SqlUsageReader(database)
    return [f async for f in reader.faults({1: PRICE})] + [f async for f in check.faults(NOON + 2 * DAY_MS)]


async def execute(database: Database, statement: sa.Executable) -> None:
    async with database.begin() as connection:
        await connection.execute(statement)


async def test_a_ledger_that_agrees_has_no_faults(filled: Database) -> None:
    assert await faults(filled) == []


async def test_an_empty_ledger_has_no_faults(database: Database) -> None:
    assert await faults(database) == []
    assert await SqlLedgerCheck(database).overdrawn(NOON) == []


async def test_a_row_that_is_gone_is_missed(filled: Database) -> None:
    await execute(filled, sa.delete(usage).where(usage.c.id == "row-10"))
    (fault,) = await faults(filled)
    assert fault.startswith(f"hour {NOON + 5 * HOUR_MS} of {MINE}: usage_hours differs from the rows: requests by -1,")
    assert f"cost_nano by -{COST}" in fault


async def test_a_cost_that_was_changed_is_seen_everywhere(filled: Database) -> None:
    await execute(filled, sa.update(usage).where(usage.c.id == "row-10").values(cost_nano=COST + 1))
    of_row, of_hour = await faults(filled)
    assert of_row == f"row-10: it costs {COST + 1}, its tokens and price version make {COST}"
    assert of_hour.endswith("usage_hours differs from the rows: cost_nano by 1")


async def test_spent_is_what_rows_cost(filled: Database) -> None:
    budget = f"key:{KEY}:{day_name(NOON // DAY_MS)}"
    share = (budget_shares.c.budget_id == budget) & (budget_shares.c.worker_id == "worker")
    more = sa.update(budget_shares).where(share).values(spent_nano=budget_shares.c.spent_nano + 4)
    await execute(filled, more)
    assert await faults(filled) == [f"budget {budget}: its shares differ from what the rows cost by 4"]
    await execute(filled, sa.delete(budget_shares).where(budget_shares.c.budget_id == budget))
    (fault,) = await faults(filled)
    assert fault.startswith(f"budget {budget}: its shares differ from what the rows cost by -")


async def test_an_hour_that_is_not_of_rows_is_seen(filled: Database) -> None:
    one = usage_hours.c.hour_ms == NOON + 20 * HOUR_MS
    await execute(filled, sa.update(usage_hours).where(one).values(output_tokens=usage_hours.c.output_tokens + 1))
    assert any("output_tokens by -" in fault for fault in await faults(filled))


async def test_what_costs_more_than_was_held_is_seen() -> None:
    assert row_faults(row(price_version=1, cost_nano=COST, hold_nano=COST), {1: PRICE}) == []
    assert row_faults(row(price_version=1, cost_nano=COST, hold_nano=COST - 1), {1: PRICE}) == [
        f"it costs {COST}, {COST - 1} was held for it"
    ]


async def test_rows_that_retention_took_are_not_missed(filled: Database) -> None:
    await SqlProjectStore(filled).add(Project(MINE, "Mine", 0, retention_days=1), by=SYSTEM)
    assert await SqlRetention(filled).sweep(NOON + 2 * DAY_MS) > 0
    assert await faults(filled) == []


async def test_more_leased_than_a_cap_allows_is_a_fault_and_less_is_none(database: Database) -> None:
    await SqlProjectStore(database).add(Project(MINE, "Mine", 0), by=SYSTEM)
    await add_key(database, {"budget_total": 100})
    store, budget = SqlBudgetStore(database, "worker"), f"key:{KEY}:total"
    await store.take([BudgetWant(budget, 100, 1, 100)])
    assert await faults(database) == []
    await store.take([BudgetWant(budget, 101, 1, 100)])
    assert await faults(database) == [f"budget {budget}: 0 spent and 101 leased are more than its cap 100"]


async def test_a_cap_below_what_is_spent_is_told_apart_from_faults(filled: Database) -> None:
    await execute(filled, sa.insert(tiers).values(id="t", limits={"monthly_cap": 5, "prepaid_credit": 1}))
    await SqlProjectStore(filled).add(Project(MINE, "Mine", 0, tier_id="t"), by=SYSTEM)
    await add_key(filled, {"budget_per_day": 10**9})
    entry = CreditEntry("c", MINE, 0, 10**9, CreditKind.TOP_UP, "", "test")
    await SqlCreditStore(filled).add(entry, by=SYSTEM)
    assert await faults(filled) == []
    assert await SqlLedgerCheck(filled).overdrawn(NOON) == [
        f"budget project:{MINE}:2026-05: 0.00000065 spent, its cap is 0.000000005"
    ]


async def add_key(database: Database, limits: dict[str, int]) -> None:
    values = {"id": KEY, "project_id": MINE, "name": "k", "secret_hash": b"", "created_ms": 0, "limits": limits}
    await execute(database, sa.insert(keys).values(**values, allowed_models=[], permissions=[], networks=[]))


async def test_B11_a_correction_is_a_new_row_and_the_old_one_stays(filled: Database) -> None:
    corrections, reader = SqlCorrections(filled), SqlUsageReader(filled)
    old = [one async for one in reader.rows(UsageFilter(id="row-7"))]
    for number, (cost, difference) in enumerate(((5, 5 - COST), (20, 15))):
        made = await corrections.correct(
            "row-7", cost, note="agreed", correction_id=f"fix-{number}", now_ms=NOON + 3 * DAY_MS, by=SYSTEM
        )
        assert (made.corrects, made.cost_nano, made.output_tokens) == ("row-7", difference, 0)
    assert [one async for one in reader.rows(UsageFilter(id="row-7"))] == old
    assert await faults(filled) == []
    standing = await SqlBudgetStore(filled).standing([f"project:{MINE}:total", f"key:{KEY}:2026-05-04"])
    assert [one.spent_nano for one in standing.values()] == [50 * COST + 20 - COST, 20 - COST]
    async with filled.connect() as connection:
        share = sa.select(budget_shares.c.spent_nano).where(
            budget_shares.c.worker_id == SHARED, budget_shares.c.budget_id == f"project:{MINE}:total"
        )
        assert (await connection.execute(share)).scalar_one() == 20 - COST


async def test_a_correction_of_what_is_not_there_or_not_to_be_changed_is_refused(filled: Database) -> None:
    corrections = SqlCorrections(filled)

    async def correct(row_id: str, cost: int) -> None:
        await corrections.correct(row_id, cost, note="", correction_id=f"fix-{row_id}", now_ms=NOON, by=SYSTEM)

    with pytest.raises(NotFound):
        await correct("row-99", 1)
    with pytest.raises(Conflict):
        await correct("row-7", COST)
    await correct("row-7", 0)
    with pytest.raises(Conflict):
        await correct("fix-row-7", 1)
    assert await faults(filled) == []


async def test_a_correction_without_its_row_is_seen(filled: Database) -> None:
    corrections = SqlCorrections(filled)
    await corrections.correct("row-7", 0, note="", correction_id="fix", now_ms=NOON, by=SYSTEM)
    await execute(filled, sa.delete(usage).where(usage.c.id == "row-7"))
    assert "fix: it corrects row-7, which is not there" in await faults(filled)


async def test_the_database_finds_each_row_that_is_wrong_by_itself(place: str | Path, database: Database) -> None:
    """As the check of each row does, also where products leave 64 bits."""
    random = Random(7)
    known = [
        Price(1, "m", 0, input=1_000_001, cached_input=3, output=2_000_003, reasoning=1, request=5),
        Price(2, "m", 0, output=10**15),
    ]
    await SqlCatalogueStore(database).apply(Fleet(models=(Model("m", ModelKind.CHAT, 0),)), now_ms=1, prune=False)
    async with database.begin() as connection:
        await connection.execute(sa.insert(prices), [dataclasses.asdict(price) for price in known])

    def some(number: int) -> UsageRow:
        one = row(
            id=f"row-{number}",
            price_version=random.choice([None, 1, 1, 2, 3]),
            billing_reason=random.choice([*BillingReason, "unheard of"]),
            outcome=random.choice([*Outcome, "unheard of"]),
            usage_source=random.choice([*UsageSource, "unheard of"]) if number % 9 == 0 else UsageSource.ENGINE,
            corrects=random.choice([None, None, "row-1"]),
            input_tokens=random.choice([0, 1, 999_999, -1, 10**9]),
            cached_input_tokens=random.choice([0, 7]),
            output_tokens=random.choice([0, 3, 10**9]),
            reasoning_tokens=random.choice([0, 11]),
            duration_ms=random.choice([20, 20, -1]),
            ttft_ms=random.choice([None, 10, 21]),
            attempts=random.choice([1, 1, 0]),
        )
        price = next((p for p in known if p.version == one.price_version), None)
        tokens = TokenCounts(one.input_tokens, one.cached_input_tokens, one.output_tokens, one.reasoning_tokens)
        cost = cost_nano(price, tokens) if price is not None and one.billing_reason not in FREE else 0
        cost = min(cost, 2**63 - 2) + random.choice([0, 0, 0, 1])
        return msgspec.structs.replace(one, cost_nano=cost, hold_nano=random.choice([0, cost, max(0, cost - 1)]))

    rows = [some(number) for number in range(600)]
    versions = {price.version: price for price in known}
    async with database.begin() as connection:
        for one in rows:
            await connection.execute(sa.insert(usage).values(msgspec.structs.asdict(one)))
    wanted = {one.id for one in rows if row_faults(one, versions)}
    found = {fault.split(":")[0] async for fault in SqlUsageReader(database).faults(versions)}
    assert found == wanted
    assert 0 < len(wanted) < len(rows)
