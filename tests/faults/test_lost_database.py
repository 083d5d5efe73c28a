"""PostgreSQL is away for seconds, as in a restart, and a gateway process ends meanwhile: the others go on, and it comes back."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from llmaas.domain.limits import UNLIMITED
from tests.faults.fleet_of_workers import OneModel, call, jobs
from tests.postgres import PostgresServer
from tests.waiting import until


@pytest.fixture
def postgres_url(own_postgres: PostgresServer) -> str:
    return own_postgres.url()


async def test_F12_a_process_that_ends_while_the_database_is_away_ends_no_other(
    two: OneModel, own_postgres: PostgresServer
) -> None:
    key = await two.key_with(UNLIMITED)
    told = await call(two.serving.port, jobs(key, 20), 4)
    await asyncio.to_thread(own_postgres.shut_down)
    two.kill_one()
    await until(lambda: '"code": 3' in two.serving.err, "it cannot start without a database", 30)
    told += await call(two.serving.port, jobs(key, 20, 20), 4)
    assert two.serving.process is not None
    assert two.serving.process.returncode is None
    await asyncio.to_thread(own_postgres.start)
    await until(lambda: len(two.serving.gateways()) == 2 and not two.installation.spooling(), "both are back", 60)
    told += await call(two.serving.port, jobs(key, 20, 40), 4)
    assert Counter((one.status, one.whole) for one in told) == {(200, True): 60}
    assert Counter(row.request_id for row in await two.rows()) == Counter(one.request_id for one in told)
    assert await two.ledger_faults() == []
