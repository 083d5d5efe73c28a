"""Budgets in SQL: whoever takes and spends, Σ spent + Σ leased never exceeds the cap."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection
from typing_extensions import override

from llmaas.domain.budgets import project_total
from llmaas.domain.ports import BudgetStanding, BudgetWant, Grant
from llmaas.errors import Unavailable
from llmaas.storage.budgets import SqlBudgetStore, lock_budgets
from llmaas.storage.database import Database
from llmaas.storage.postgres_rows import PostgresRows
from llmaas.storage.tables import credit_entries, projects
from tests.storage.rows import row

KEY = f"key:{row().key_id}:total"
COST = 5


async def credit(database: Database, amount: int) -> None:
    async with database.begin() as connection:
        found = await connection.scalar(sa.select(projects.c.id))
        if found is None:
            await connection.execute(sa.insert(projects).values(id="default", name="Default", created_ms=0))
        values = {"id": f"c{amount}", "project_id": "default", "created_ms": 0, "amount_nano": amount}
        await connection.execute(sa.insert(credit_entries).values(**values, kind="top-up", note="", actor=""))


async def test_all_that_is_wanted_then_what_there_is_then_nothing(database: Database) -> None:
    store = SqlBudgetStore(database, "a")
    assert await store.standing([KEY]) == {KEY: BudgetStanding(0, 0)}
    assert await store.take([BudgetWant(KEY, 100, 10, 60)]) == [Grant(60, 40, 60)]
    assert await store.take([BudgetWant(KEY, 100, 10, 60)]) == [Grant(40, 0, 100)]
    assert await store.take([BudgetWant(KEY, 100, 10, 60)]) == [Grant(0, 0, 100)]
    assert await store.standing([KEY]) == {KEY: BudgetStanding(0, 100)}


async def test_a_cap_that_was_lowered_gives_nothing(database: Database) -> None:
    store = SqlBudgetStore(database, "a")
    await store.take([BudgetWant(KEY, 100, 50, 50)])
    assert await store.take([BudgetWant(KEY, 20, 1, 10)]) == [Grant(0, 0, 50)]


async def test_one_budget_twice_in_one_call_is_taken_from_once_each(database: Database) -> None:
    store = SqlBudgetStore(database, "a")
    grants = await store.take(
        [BudgetWant(KEY, 15, 10, 10), BudgetWant("key:other:total", 9, 1, 1), BudgetWant(KEY, 15, 5, 10)]
    )
    assert [grant.granted_nano for grant in grants] == [10, 1, 5]


async def test_less_than_is_of_use_is_left_to_others(database: Database) -> None:
    store = SqlBudgetStore(database, "a")
    await store.take([BudgetWant(KEY, 15, 10, 10)])
    assert await store.take([BudgetWant(KEY, 15, 6, 10)]) == [Grant(0, 5, 10)]
    assert await store.take([BudgetWant(KEY, 15, 5, 10)]) == [Grant(5, 0, 15)]


async def test_what_is_given_back_can_be_taken_by_others(database: Database) -> None:
    one, other = SqlBudgetStore(database, "a"), SqlBudgetStore(database, "b")
    assert await one.take([BudgetWant(KEY, 100, 100, 100)]) == [Grant(100, 0, 100)]
    assert await one.take([BudgetWant(KEY, 100, 0, 0, net_nano=70)]) == [Grant(0, 30, 70)]
    assert await other.take([BudgetWant(KEY, 100, 10, 100)]) == [Grant(30, 0, 30)]
    await other.take([BudgetWant(KEY, 100, 0, 0, net_nano=-1_000)])
    assert (await one.standing([KEY]))[KEY] == BudgetStanding(0, 70), "nobody returns more than he has"


async def test_what_a_worker_states_puts_right_what_it_never_heard_of(database: Database) -> None:
    store = SqlBudgetStore(database, "a")
    (first,) = await store.take([BudgetWant(KEY, 100, 10, 40)])
    await store.take([BudgetWant(KEY, 100, 10, 50, net_nano=first.net_nano)])  # its answer is lost
    assert await store.take([BudgetWant(KEY, 100, 10, 20, net_nano=first.net_nano)]) == [Grant(20, 40, 60)]
    for _ in range(2):  # said twice because the first answer was lost: given back once
        assert await store.take([BudgetWant(KEY, 100, 0, 0, net_nano=25)]) == [Grant(0, 75, 25)]
    assert (await store.standing([KEY]))[KEY] == BudgetStanding(0, 25)
    assert await store.take([BudgetWant(KEY, 100, 1, 5)]) == [Grant(5, 70, 30)], "who does not know is told"


class _Unheard(Database):
    """Commits, and then loses the connection over which the answer would have come."""

    def __init__(self, place: str | Path, *, cut: bool) -> None:
        super().__init__(place)
        self._lost: Exception = sa.exc.DBAPIError("COMMIT", None, Exception(), connection_invalidated=cut)
        self.losses = 1

    @override
    @contextlib.asynccontextmanager
    async def begin(self, *, one_at_a_time: bool = True, long: bool = False) -> AsyncIterator[AsyncConnection]:
        async with super().begin(one_at_a_time=one_at_a_time, long=long) as connection:
            yield connection
        if self.losses:
            self.losses -= 1
            raise Unavailable("The database does not answer.") from self._lost


async def test_F21_a_first_lease_whose_commit_is_not_heard_is_taken_once(database: Database, place: str | Path) -> None:
    unheard = _Unheard(place, cut=True)
    store = SqlBudgetStore(unheard, "a")
    assert await store.take([BudgetWant(KEY, 100, 10, 40)]) == [Grant(40, 60, 40)]
    assert (await store.standing([KEY]))[KEY] == BudgetStanding(0, 40)
    unheard.losses = 1
    assert await store.take([BudgetWant(KEY, 100, 10, 20)]) == [Grant(20, 40, 60)], "nor by one that has forgotten"
    assert (await store.standing([KEY]))[KEY] == BudgetStanding(0, 60)
    await unheard.close()


async def test_F21_a_first_lease_of_which_nobody_knows_is_put_right_by_the_next_call(
    database: Database, place: str | Path
) -> None:
    unheard = _Unheard(place, cut=False)
    store = SqlBudgetStore(unheard, "a")
    with pytest.raises(Unavailable):
        await store.take([BudgetWant(KEY, 100, 10, 40)])
    assert await store.take([BudgetWant(KEY, 100, 10, 20)]) == [Grant(20, 80, 20)]
    assert (await store.standing([KEY]))[KEY] == BudgetStanding(0, 20)
    await unheard.close()


async def test_F12_a_host_that_stands_still_while_it_takes_stops_nobody_for_long(postgres_url: str) -> None:
    """Its transaction has locked a budget, and never goes on."""
    locked, over = threading.Event(), threading.Event()

    def stand_still() -> None:
        async def take() -> None:
            dark = Database(postgres_url, limit_s=3.0)
            async with dark.begin(one_at_a_time=False) as connection:
                await lock_budgets(connection, [KEY])
                locked.set()
                over.wait(30)  # the whole event loop
            await dark.close()

        with contextlib.suppress(Unavailable):
            asyncio.run(take())

    database = Database(postgres_url)
    store = SqlBudgetStore(database, "living")
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(stand_still))
        await asyncio.to_thread(locked.wait, 30)
        assert await store.take([BudgetWant(KEY, 100, 10, 40)]) == [Grant(40, 60, 40)]
        over.set()
    await database.close()


async def test_a_report_may_pause_for_as_long_as_its_reader_does(postgres_url: str) -> None:
    database = Database(postgres_url)
    show = sa.text("SHOW idle_in_transaction_session_timeout")
    async with database.begin(one_at_a_time=False) as connection:
        assert await connection.scalar(show) == "3s"
    async with database.begin(one_at_a_time=False, long=True) as connection:
        assert await connection.scalar(show) == "0"
    async with database.connect(long=True) as connection:
        assert await connection.scalar(show) == "0"
    async with database.connect() as connection:
        assert await connection.scalar(show) == "3s"
    await database.close()


async def test_credit_is_the_cap_of_a_project_without_another(database: Database) -> None:
    store, budget = SqlBudgetStore(database, "a"), project_total("default")
    assert await store.take([BudgetWant(budget, None, 1, 10)]) == [Grant(0, 0, 0)]
    await credit(database, 25)
    await credit(database, -5)
    assert await store.credit_nano("default") == 20
    assert await store.take([BudgetWant(budget, None, 1, 15)]) == [Grant(15, 5, 15)]
    assert await store.take([BudgetWant(budget, None, 1, 15)]) == [Grant(5, 0, 20)]


async def test_the_share_of_the_dead_is_folded_once(postgres_url: str) -> None:
    database = Database(postgres_url)
    dead, living = SqlBudgetStore(database, "dead"), SqlBudgetStore(database, "living")
    await dead.take([BudgetWant(KEY, 100, 80, 80)])
    await spend(postgres_url, "dead", [30])
    for _ in range(2):
        await living.fold("dead")
        assert (await living.standing([KEY]))[KEY] == BudgetStanding(30, 0)
    assert await living.take([BudgetWant(KEY, 100, 1, 80)]) == [Grant(70, 0, 70)]
    await spend(postgres_url, "dead", [7], first=10)
    assert (await living.standing([KEY]))[KEY] == BudgetStanding(37, 70), "it was not dead, and its row counts"
    await database.close()


async def spend(url: str, worker_id: str, costs: Sequence[int], first: int = 0) -> None:
    store = PostgresRows(url, worker_id)
    batch = [row(id=f"{worker_id}-{first + n}", cost_nano=cost, hold_nano=cost) for n, cost in enumerate(costs)]
    await asyncio.to_thread(store.write, batch)
    await asyncio.to_thread(store.close)


async def take_each(place: str | Path, worker_id: str, cap: int, times: int) -> int:
    """So many parallel requests of one cost; how many of them got it. On PostgreSQL each second one is spent at once."""
    database = Database(place, limit_s=60)
    store = SqlBudgetStore(database, worker_id)

    async def taken() -> Grant:
        while True:
            with contextlib.suppress(Unavailable):  # those who wait for SQLite have no queue: some may wait too long
                (grant,) = await store.take([BudgetWant(KEY, cap, COST, COST)])
                return grant

    async def once(number: int) -> bool:
        grant = await taken()
        if grant.granted_nano == COST and number % 2 and database.file is None:
            await spend(str(place), worker_id, [COST], first=number)
        return grant.granted_nano == COST

    admitted = await asyncio.gather(*(once(number) for number in range(times)))
    await database.close()
    return sum(admitted)


def take_in_process(place: str | Path, worker_id: str, cap: int, times: int) -> int:
    return asyncio.run(take_each(place, worker_id, cap, times))


async def test_B01_fifty_parallel_requests_on_a_cap_for_twenty(place: str | Path) -> None:
    assert await take_each(place, "a", 20 * COST, 50) == 20


@pytest.mark.slow
async def test_B01_four_processes_share_a_cap_to_the_last_unit(place: str | Path) -> None:
    cap = 137 * COST
    database = Database(place, limit_s=60)
    store = SqlBudgetStore(database)
    loop = asyncio.get_running_loop()
    seen = []
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as processes:
        work = [loop.run_in_executor(processes, take_in_process, place, f"w{n}", cap, 80) for n in range(4)]
        while not all(one.done() for one in work):
            now = (await store.standing([KEY]))[KEY]
            seen.append(now.spent_nano + now.leased_nano)
            await asyncio.wait(work, timeout=0.02, return_when=asyncio.ALL_COMPLETED)
        assert sum([await one for one in work]) == 137
    assert max(seen) <= cap
    now = (await store.standing([KEY]))[KEY]
    assert now.spent_nano + now.leased_nano == cap
    assert (now.spent_nano > 0) == (database.file is None)
    await database.close()
