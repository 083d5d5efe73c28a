"""Four gateway processes on PostgreSQL and Valkey while keys are revoked, Valkey goes and the service is stopped."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from llmaas.domain.limits import Limits
from llmaas.domain.prices import NANO
from tests.fakes.behaviour import Behaviour
from tests.faults.fleet_of_workers import OneModel, Told, call, jobs
from tests.valkey import ValkeyServer
from tests.waiting import until


@pytest.fixture
def valkey_url(mortal_valkey: ValkeyServer) -> str:
    return mortal_valkey.url


async def cut_the_bus(four: OneModel) -> None:
    """End the connections by which workers hear of changes."""
    async with four.installation.database.connect() as connection:
        await connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = 'SELECT 1'"
        )


async def test_A10_a_revoked_key_is_refused_everywhere(four: OneModel) -> None:
    await revoked_and_refused(four, cut=False)
    await revoked_and_refused(four, cut=True)


async def revoked_and_refused(four: OneModel, *, cut: bool) -> None:
    key = await four.key_with(Limits())
    seen: list[tuple[float, int]] = []
    done = asyncio.Event()

    async def caller() -> None:
        while not done.is_set():
            (told,) = await call(four.serving.port, jobs(key, 1), 1)
            seen.append((time.monotonic(), told.status))

    calling = [asyncio.create_task(caller()) for _ in range(8)]
    await until(lambda: len(seen) > 50, "requests run")
    if cut:
        await cut_the_bus(four)
    await four.installation.keys.revoke(key.split("_")[1], four.installation.clock.now_ms())
    revoked_s = time.monotonic()
    limit_s = 5.0 if cut else 1.5  # of which half a second is for the requests that were under way
    await until(lambda: seen[-1][0] > revoked_s + limit_s + 1, "time went on", 20)
    done.set()
    await asyncio.gather(*calling)
    last_good_s = max(at for at, status in seen if status == 200)
    assert last_good_s - revoked_s <= limit_s
    assert {status for at, status in seen if at > last_good_s} == {401}


async def test_F10_money_is_exact_and_requests_go_on_while_valkey_is_away(
    four: OneModel, mortal_valkey: ValkeyServer
) -> None:
    cap = 150 * NANO
    key = await four.key_with(Limits(budget_total=cap, requests_per_minute=100_000))
    told = await call(four.serving.port, jobs(key, 50), 10)
    mortal_valkey.kill()
    told += await call(four.serving.port, jobs(key, 50, 50), 10)
    mortal_valkey.start()
    told += await call(four.serving.port, jobs(key, 100, 100), 10)
    # Who waits for parts of the last units gives up after a while, which a busy machine may not keep to: it is never more than the cap.
    counted = Counter(one.status for one in told)
    assert set(counted) == {200, 429}
    assert 148 <= counted[200] <= 150
    rows = await four.rows(key.split("_")[1])
    assert sum(row.cost_nano for row in rows) == counted[200] * NANO


async def test_B13_a_stop_of_four_workers_loses_no_row(four: OneModel) -> None:
    four.upstream.always(Behaviour(tokens=20, chunk_pause_ms=30))
    key = await four.key_with(Limits())
    heard: list[Told] = []
    calling = asyncio.create_task(call(four.serving.port, jobs(key, 40), 20, heard))
    await four.upstream.wait_requests(15)
    assert four.serving.process is not None
    four.serving.process.terminate()
    assert await four.serving.ended() == 0
    await calling
    rows = {row.request_id: row for row in await four.rows()}
    whole = [one for one in heard if one.whole and one.status == 200]
    assert len(whole) >= 15
    assert {one.request_id for one in whole} <= set(rows)
    assert all(rows[one.request_id].outcome == "completed" for one in whole)
