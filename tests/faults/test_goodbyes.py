"""PostgreSQL ends every connection of four gateway processes, again and again, while calls of keys with and without a budget run."""

from __future__ import annotations

import asyncio
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
from tests.postgres import execute
from tests.waiting import until

END_ALL = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'llmaas%'"
)


@pytest.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as server:
        yield server


@pytest.fixture
async def four(tmp_path: Path, postgres_url: str, valkey_url: str, upstream: FakeUpstream) -> AsyncIterator[Workers]:
    async with workers(tmp_path, postgres_url, valkey_url) as running:
        fleet = fleet_of(upstream.base_url, ["one"])
        model = Model("one", ModelKind.CHAT, 0, price=Price(0, "one", 0, request=NANO))
        await running.apply(type(fleet)((), fleet.providers, fleet.backends, (model,), fleet.deployments))
        yield running


async def test_F21_goodbyes_to_a_fleet_refuse_no_call_and_lose_no_row(four: Workers, postgres_url: str) -> None:
    keys = [
        (await four.installation.create_key(project_id="default", name=f"key-{n}", limits=limits))[0]
        for n, limits in enumerate([Limits(), Limits(budget_total=1_000_000 * NANO)])
    ]
    told: list[Told] = []
    done = asyncio.Event()

    async def caller(number: int) -> None:
        body = {
            "model": "one",
            "messages": [{"role": "user", "content": "hello"}],
            "max_tokens": 5,
            "stream": number > 1,
        }
        turn = 0
        while not done.is_set():
            turn += 1
            await call(four.serving.port, [Job(keys[number % 2], body, f"r-{number}-{turn}")], 1, told)

    calling = [asyncio.create_task(caller(n)) for n in range(4)]
    for _ in range(15):
        before = len(told)
        await until(lambda least=before + 5: len(told) >= least, "calls are answered", 30)  # type: ignore[misc]
        await asyncio.to_thread(execute, postgres_url, END_ALL)
    done.set()
    await asyncio.gather(*calling)
    assert Counter((one.status, one.whole) for one in told) == {(200, True): len(told)}
    await until(lambda: not four.installation.spooling(), "the spools are empty", 60)
    rows = Counter([row.request_id async for row in four.installation.usage.rows(UsageFilter())])
    assert rows == Counter(one.request_id for one in told)
    assert [fault async for fault in four.installation.ledger_check.faults(four.installation.clock.now_ms())] == []
