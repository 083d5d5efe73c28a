"""PostgreSQL stands still for seconds: its connections are open and nothing answers. Keys with a budget are served on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from llmaas.domain.limits import Limits
from llmaas.domain.prices import NANO
from tests.faults.fleet_of_workers import OneModel, Told, call, jobs
from tests.postgres import PostgresServer
from tests.waiting import until

FROZEN_S = 8.0
_CALLERS = 8


@pytest.fixture
def postgres_url(own_postgres: PostgresServer) -> str:
    return own_postgres.url()


async def test_F21_a_database_that_stands_still_does_not_slow_down_keys_with_a_budget(
    two: OneModel, own_postgres: PostgresServer
) -> None:
    """One stop of two seconds, in which it is found out; then usage goes to the spool, and money comes from what is leased."""
    key = await two.key_with(Limits(budget_total=1_000_000 * NANO))
    told: list[Told] = []
    done = asyncio.Event()

    async def caller(number: int) -> None:
        turn = number
        while not done.is_set():
            turn += _CALLERS
            await call(two.serving.port, jobs(key, 1, turn), 1, told)
            await asyncio.sleep(0.05)

    calling = [asyncio.create_task(caller(n)) for n in range(_CALLERS)]
    await until(lambda: len(told) >= 50, "calls are answered", 30)
    started_s, before = time.monotonic(), len(told)
    await until(lambda: time.monotonic() >= started_s + 3, "time goes on")
    usual_per_s = (len(told) - before) / (time.monotonic() - started_s)
    own_postgres.freeze()
    started_s, before = time.monotonic(), len(told)
    await until(lambda: time.monotonic() >= started_s + FROZEN_S, "time goes on")
    frozen_per_s = (len(told) - before) / (time.monotonic() - started_s)
    own_postgres.thaw()
    done.set()
    await asyncio.gather(*calling)
    assert Counter((one.status, one.whole) for one in told) == {(200, True): len(told)}
    assert frozen_per_s > usual_per_s / 3, (usual_per_s, frozen_per_s)
    await until(lambda: not two.installation.spooling(), "the spools are empty", 60)
    assert Counter(row.request_id for row in await two.rows()) == Counter(one.request_id for one in told)
    assert await two.ledger_faults() == []
