"""Credit: entries are added once and never change, and a low balance is told once."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmaas.domain.audit import Actor
from llmaas.domain.budgets import project_total
from llmaas.domain.credit import Balance, CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.ports import BudgetWant
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.errors import Conflict, NotFound
from llmaas.ids import IdSource
from llmaas.storage.alerts import SqlAlertStore
from llmaas.storage.budgets import SqlBudgetStore, lock_budgets
from llmaas.storage.catalogue import SqlCatalogueStore
from llmaas.storage.credit import SqlCreditStore
from llmaas.storage.database import Database
from llmaas.storage.projects import SqlProjectStore
from llmaas.storage.revisions import SqlRevisionStore
from llmaas.storage.tables import alerts, audit, budget_shares
from tests.postgres import execute
from tests.storage.rows import row
from tests.storage.test_row_store import store_at
from tests.waiting import until

ANA = Actor("user", "ana")


def entry(name: str, amount: int, **changes: Any) -> CreditEntry:
    values = {"project_id": "default", "created_ms": 1, "kind": CreditKind.TOP_UP, "note": "", "actor": "user:ana"}
    return CreditEntry(**{"id": name, "amount_nano": amount, **values, **changes})


@pytest.fixture
async def store(database: Database) -> SqlCreditStore:
    projects = SqlProjectStore(database)
    await projects.add(Project("default", "Default", 0, low_credit_nano=50), by=ANA)
    await projects.add(Project("other", "Other", 0), by=ANA)
    return SqlCreditStore(database)


async def spend(place: str | Path, name: str, nano: int) -> None:
    rows = store_at(place)
    await asyncio.to_thread(rows.write, [row(id=name, project_id="default", cost_nano=nano)])
    await asyncio.to_thread(rows.close)


async def test_a_balance_is_what_was_put_in_less_what_was_spent(
    store: SqlCreditStore, database: Database, place: str | Path
) -> None:
    assert await store.balance("default") == Balance(0, 0, 0)
    await store.add(entry("c1", 200), by=ANA)
    await store.add(entry("c2", -30, kind=CreditKind.REFUND), by=ANA)
    await store.add(entry("c3", 7, project_id="other"), by=ANA)
    await spend(place, "a", 60)
    await SqlBudgetStore(database, "w").take([BudgetWant("project:default:total", None, 1, 10)])
    balance = await store.balance("default")
    assert (balance, balance.left_nano) == (Balance(170, 60, 10), 110)
    assert [one.id for one in await store.page("default")] == ["c2", "c1"]
    assert [one.id for one in await store.page("default", before="c2", limit=1)] == ["c1"]


async def test_the_same_idempotency_key_is_one_entry(store: SqlCreditStore, database: Database) -> None:
    first = await store.add(entry("c1", 200, idempotency_key="bill-1"), by=ANA)
    before = await SqlRevisionStore(database).read()
    assert await store.add(entry("c2", 200, idempotency_key="bill-1"), by=ANA) == first
    for other in (entry("c3", 100), entry("c3", 200, project_id="other")):
        with pytest.raises(Conflict):
            await store.add(CreditEntry(**{**_fields(other), "idempotency_key": "bill-1"}), by=ANA)
    assert (await store.balance("default")).credited_nano == 200
    assert (await SqlRevisionStore(database).read()).money == before.money


async def test_no_more_is_taken_than_is_left(store: SqlCreditStore, place: str | Path) -> None:
    await store.add(entry("c1", 200), by=ANA)
    await spend(place, "a", 60)
    with pytest.raises(Conflict):
        await store.add(entry("c2", -141, kind=CreditKind.CORRECTION), by=ANA)
    tries = (store.add(entry(f"d{n}", -70, kind=CreditKind.CORRECTION), by=ANA) for n in range(4))
    made = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(one, Conflict) for one in made) == 2
    assert (await store.balance("default")).left_nano == 0
    await store.add(entry("e1", -1, kind=CreditKind.CORRECTION), by=ANA, below_zero=True)
    assert (await store.balance("default")).left_nano == -1


async def test_parallel_entries_with_one_idempotency_key_are_one(store: SqlCreditStore) -> None:
    made = await asyncio.gather(*(store.add(entry(f"c{n}", 200, idempotency_key="bill-1"), by=ANA) for n in range(8)))
    assert len({one.id for one in made}) == 1
    assert (await store.balance("default")).credited_nano == 200


async def test_an_entry_is_told_to_workers_and_audited(store: SqlCreditStore, database: Database) -> None:
    before = (await SqlRevisionStore(database).read()).money
    await store.add(entry("c1", 200, note="invoice 7"), by=ANA)
    assert (await SqlRevisionStore(database).read()).money == before + 1
    async with database.connect() as connection:
        last = (await connection.execute(sa.select(audit).order_by(audit.c.seq.desc()).limit(1))).mappings().one()
    assert (last["action"], last["subject_id"], last["actor_id"]) == ("credit.add", "c1", "ana")
    assert last["after"]["note"] == "invoice 7"


async def test_a_project_that_is_not_there_has_no_credit(store: SqlCreditStore) -> None:
    with pytest.raises(NotFound):
        await store.add(entry("c1", 200, project_id="nobody"), by=ANA)


async def test_a_low_balance_is_told_once_until_it_was_above_again(
    store: SqlCreditStore, database: Database, place: str | Path
) -> None:
    ids = IdSource()

    async def look(now_ms: int) -> list[str]:
        return await SqlAlertStore(database).watch_credit(ids, now_ms)

    await store.add(entry("c1", 100), by=ANA)
    assert await look(1) == []
    await spend(place, "a", 51)
    assert await look(2) == ["default"]
    assert await look(3) == []
    await store.add(entry("c2", 1), by=ANA)
    assert await look(4) == [], "at the threshold it is not low"
    await spend(place, "b", 1)
    assert await look(5) == ["default"]
    async with database.connect() as connection:
        told = (await connection.execute(sa.select(alerts).order_by(alerts.c.created_ms))).mappings().all()
    assert [(one["created_ms"], one["resolved_ms"]) for one in told] == [(2, 4), (5, None)]
    assert told[0]["detail"] == {"balance_nano": 49, "threshold_nano": 50}


def _fields(one: CreditEntry) -> dict[str, Any]:
    return {name: getattr(one, name) for name in CreditEntry.__slots__}


async def test_a_project_that_has_spent_pays_in_advance_only_with_open_eyes(
    store: SqlCreditStore, database: Database, place: str | Path
) -> None:
    tiers = (Tier("early", prepaid_credit=100), Tier("late"))
    await SqlCatalogueStore(database).apply(Fleet(tiers=tiers), now_ms=1, prune=False, by=ANA)
    await spend(place, "one", 30_000_000_000)
    await store.add(entry("e", 10_000_000_000), by=ANA)
    projects = SqlProjectStore(database)
    seen = await projects.get("default")
    assert seen is not None
    late, early = (dataclasses.replace(seen, tier_id=name) for name in ("late", "early"))
    await projects.change(seen, late, by=ANA)
    with pytest.raises(Conflict, match=r"-20\.00 left") as refused:
        await projects.change(late, early, by=ANA)
    assert refused.value.param == "below_zero"
    await projects.change(late, early, by=ANA, below_zero=True)
    assert await projects.get("default") == early


async def test_B01_credit_that_is_leased_meanwhile_is_not_taken(postgres_url: str) -> None:
    """Whoever leases and whoever takes credit wait for each other, so both cannot find the same money."""
    database, budget = Database(postgres_url), project_total("default")
    await SqlProjectStore(database).add(Project("default", "Default", 0), by=ANA)
    store = SqlCreditStore(database)
    await store.add(entry("c1", 100), by=ANA)
    async with database.begin(one_at_a_time=False) as connection:
        await lock_budgets(connection, [budget])
        taking = asyncio.create_task(store.add(entry("c2", -100), by=ANA))
        waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        await until(lambda: bool(execute(postgres_url, waiting)), "it waits")
        lease = {"budget_id": budget, "worker_id": "a", "spent_nano": 0, "leased_nano": 80, "net_nano": 80}
        await connection.execute(sa.insert(budget_shares).values(**lease))
    with pytest.raises(Conflict):
        await taking
    await store.add(entry("c3", -20), by=ANA)
    assert await store.balance("default") == Balance(80, 0, 80)
    await database.close()
