"""PostgreSQL ends every connection of four gateway processes, again and again, while calls of keys with and without a budget run."""

from __future__ import annotations

import asyncio
from collections import Counter

from llmaas.domain.limits import Limits
from llmaas.domain.prices import NANO
from tests.faults.fleet_of_workers import OneModel, Told, call, jobs
from tests.postgres import execute
from tests.waiting import until

END_ALL = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'llmaas%'"
)


async def test_F21_goodbyes_to_a_fleet_refuse_no_call_and_lose_no_row(four: OneModel, postgres_url: str) -> None:
    keys = [await four.key_with(limits) for limits in (Limits(), Limits(budget_total=1_000_000 * NANO))]
    told: list[Told] = []
    done = asyncio.Event()

    async def caller(number: int) -> None:
        turn = number
        while not done.is_set():
            turn += 4
            (job,) = jobs(keys[number % 2], 1, turn)
            job.body["stream"] = number > 1
            await call(four.serving.port, [job], 1, told)

    calling = [asyncio.create_task(caller(n)) for n in range(4)]
    for _ in range(100):
        before = len(told)
        await until(lambda least=before + 20: len(told) >= least, "calls are answered", 30)  # type: ignore[misc]
        await asyncio.to_thread(execute, postgres_url, END_ALL)
    done.set()
    await asyncio.gather(*calling)
    assert Counter((one.status, one.whole) for one in told) == {(200, True): len(told)}
    await until(lambda: not four.installation.spooling(), "the spools are empty", 60)
    assert Counter(row.request_id for row in await four.rows()) == Counter(one.request_id for one in told)
    assert await four.ledger_faults() == []
