"""Money and limits over four processes on PostgreSQL and Valkey: exact to the last request."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence

from llmaas.domain.limits import Limits
from llmaas.domain.prices import NANO
from llmaas.storage.workers import SqlWorkerStore
from tests.faults.fleet_of_workers import OneModel, call, jobs


async def spent_and_leased(four: OneModel, budget: str) -> tuple[int, int]:
    async with four.installation.database.connect() as connection:
        rows = await connection.exec_driver_sql(
            f"SELECT coalesce(sum(spent_nano), 0), coalesce(sum(leased_nano), 0) FROM budget_shares WHERE budget_id = '{budget}'"
        )
        sums: Sequence[int] = rows.one()
    return int(sums[0]), int(sums[1])


async def test_B01_four_processes_spend_exactly_the_cap(four: OneModel) -> None:
    cap = 137 * NANO
    key = await four.key_with(Limits(budget_total=cap))
    budget = f"key:{key.split('_')[1]}:total"
    over: list[tuple[int, int]] = []
    done = asyncio.Event()

    async def sample() -> None:
        while not done.is_set():
            spent, leased = await spent_and_leased(four, budget)
            if spent + leased > cap:
                over.append((spent, leased))
            await asyncio.sleep(0.005)

    sampling = asyncio.create_task(sample())
    told = await call(four.serving.port, jobs(key, 800), 800)
    done.set()
    await sampling
    assert Counter(one.status for one in told) == {200: 137, 429: 663}
    assert over == []
    assert (await spent_and_leased(four, budget))[0] == cap


async def test_B12_four_processes_keep_a_rate(four: OneModel) -> None:
    key = await four.key_with(Limits(requests_per_minute=100))
    began_s = time.monotonic()
    told = await call(four.serving.port, jobs(key, 1000), 100)
    drained = (time.monotonic() - began_s) * 100 / 60
    admitted = sum(one.status == 200 for one in told)
    assert 100 <= admitted <= 100 + drained
    assert admitted + sum(one.status == 429 for one in told) == 1000


async def test_F12_no_money_is_lost_or_made_by_kills(four: OneModel) -> None:
    listed = SqlWorkerStore(four.installation.database)
    cap = 1000 * NANO
    key = await four.key_with(Limits(budget_total=cap))
    kid = key.split("_")[1]
    calling = asyncio.create_task(call(four.serving.port, jobs(key, 600), 40))
    for count in (150, 300):
        await four.upstream.wait_requests(count, 30)
        four.kill_one()
    told = await calling
    assert len(four.serving.gateways()) >= 2
    rows = {row.request_id: row for row in await four.rows(kid)}
    assert {one.request_id for one in told if one.whole and one.status == 200} <= set(rows)
    spent, leased = await spent_and_leased(four, f"key:{kid}:total")
    assert spent == sum(row.cost_nano for row in rows.values())
    assert spent + leased <= cap
    async with asyncio.timeout(60):  # what the killed leased is free again, and can be spent
        while not {worker.pid for worker in await listed.list()} <= set(four.serving.gateways()):
            await asyncio.sleep(0.1)
    await call(four.serving.port, jobs(key, 1000), 40)
    assert (await spent_and_leased(four, f"key:{kid}:total"))[0] == cap
