"""PostgreSQL stands still for seconds: its connections are open and nothing answers. Keys with a budget are served on."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmaas.domain.limits import Limits
from llmaas.domain.models import Model, ModelKind
from llmaas.domain.prices import NANO, Price
from llmaas.domain.usage import UsageFilter
from tests.fakes.upstream import FakeUpstream
from tests.faults.fleet_of_workers import Job, Told, Workers, call, workers
from tests.gateway import fleet_of
from tests.postgres import PostgresServer
from tests.waiting import until

FROZEN_S = 8.0
_CALLERS = 8


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
async def two(
    tmp_path: Path, own_postgres: PostgresServer, valkey_url: str, upstream: FakeUpstream
) -> AsyncIterator[Workers]:
    async with workers(tmp_path, own_postgres.url(), valkey_url, 2) as running:
        fleet = fleet_of(upstream.base_url, ["one"])
        model = Model("one", ModelKind.CHAT, 0, price=Price(0, "one", 0, request=NANO))
        await running.apply(type(fleet)((), fleet.providers, fleet.backends, (model,), fleet.deployments))
        yield running


async def test_F21_a_database_that_stands_still_does_not_slow_down_keys_with_a_budget(
    two: Workers, own_postgres: PostgresServer
) -> None:
    """One stop of two seconds, in which it is found out; then usage goes to the spool, and money comes from what is leased."""
    limits = Limits(budget_total=1_000_000 * NANO)
    key, _ = await two.installation.create_key(project_id="default", name="limited", limits=limits)
    told: list[Told] = []
    done = asyncio.Event()

    async def caller(number: int) -> None:
        body = {"model": "one", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
        turn = 0
        while not done.is_set():
            turn += 1
            await call(two.serving.port, [Job(key, body, f"r-{number}-{turn}")], 1, told)
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
    rows = [row.request_id async for row in two.installation.usage.rows(UsageFilter())]
    assert Counter(rows) == Counter(one.request_id for one in told)
    assert [fault async for fault in two.installation.ledger_check.faults(two.installation.clock.now_ms())] == []
