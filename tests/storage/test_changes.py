"""Noticing changes: at once on PostgreSQL, again after its restart, and at the latest with the next poll anyway."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from llmaas.domain.workers import Worker
from llmaas.errors import ConfigurationError
from llmaas.storage import changes as changes_module
from llmaas.storage.budgets import SqlBudgetStore
from llmaas.storage.changes import Changes, PostgresChanges
from llmaas.storage.database import Database, bump
from llmaas.storage.workers import SqlWorkerStore
from tests.postgres import PostgresServer
from tests.waiting import until

FAR_S = 20.0


@asynccontextmanager
async def listening(url: str, worker_id: str = "w", *, alone: bool = False) -> AsyncIterator[PostgresChanges]:
    changes = PostgresChanges(url, worker_id, alone=alone)
    await changes.start()
    await changes.wait(FAR_S)  # it begins with a look at what happened before it listened
    yield changes
    await changes.stop()


async def change(url: str) -> None:
    database = Database(url)
    async with database.begin() as connection:
        await bump(connection, "keys")
    await database.close()


async def waited_s(changes: Changes, limit_s: float) -> float:
    begun_s = time.monotonic()
    await changes.wait(limit_s)
    return time.monotonic() - begun_s


async def test_without_news_a_wait_ends_with_its_limit() -> None:
    assert 0.05 <= await waited_s(Changes(), 0.05) < 5


async def test_a_change_wakes_the_waiting_at_once(postgres_url: str) -> None:
    async with listening(postgres_url) as changes:
        waiting = asyncio.create_task(waited_s(changes, FAR_S))
        await change(postgres_url)
        assert await waiting < 2
        await change(postgres_url)
        await until(changes._changed.is_set, "it was told")  # noqa: SLF001 - a change between two waits
        assert await waited_s(changes, FAR_S) < 2
        assert await waited_s(changes, 0.1) >= 0.1


async def test_who_waits_for_idle_money_is_heard_by_others(postgres_url: str) -> None:
    database, called = Database(postgres_url), list[str]()
    async with listening(postgres_url) as changes:
        changes.called_back = called.append
        await SqlBudgetStore(database, "other").call_back(["key:one:total", "project:two:2026-12"])
        await until(lambda: len(called) == 2, "both are heard")
        assert called == ["key:one:total", "project:two:2026-12"]
        assert await waited_s(changes, 0.1) >= 0.1, "nothing has changed"
    await database.close()


async def test_a_change_that_is_taken_back_wakes_nobody(postgres_url: str) -> None:
    database = Database(postgres_url)

    async def half_way() -> None:
        async with database.begin() as connection:
            await bump(connection, "keys")
            raise RuntimeError("half way")

    async with listening(postgres_url) as changes:
        with pytest.raises(RuntimeError):
            await half_way()
        assert await waited_s(changes, 0.2) >= 0.2
    await database.close()


async def test_F11_after_a_restart_of_postgresql_it_listens_again(own_postgres: PostgresServer) -> None:
    async with listening(own_postgres.url()) as changes:
        own_postgres.stop()
        assert await waited_s(changes, 0.3) >= 0.3
        own_postgres.start()
        assert await waited_s(changes, FAR_S) < 10  # it looks again after a gap
        await change(own_postgres.url())
        assert await waited_s(changes, FAR_S) < 2


async def test_a_server_that_is_away_at_the_start_is_no_hindrance(own_postgres: PostgresServer) -> None:
    own_postgres.stop()
    changes = PostgresChanges(own_postgres.url(), "w", alone=True)
    await changes.start()
    own_postgres.start()
    assert await waited_s(changes, FAR_S) < 10
    await changes.stop()


async def test_a_worker_is_alive_as_long_as_it_listens(postgres_url: str) -> None:
    database = Database(postgres_url)
    store = SqlWorkerStore(database)
    await store.beat(Worker("w", "host", 1, 1, 1, 1))
    async with listening(postgres_url, "w"):
        assert await store.gone("asking", 10**12) == []

    async def gone() -> bool:
        return list(await store.gone("asking", 10**12)) == ["w"]

    await until(gone, "the lock is free")
    await database.close()


async def test_who_counts_alone_shares_the_database_with_nobody(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes_module, "_OUSTED_S", 0.3)
    for first, second in ((True, True), (True, False), (False, True)):
        async with listening(postgres_url, "a", alone=first):
            with pytest.raises(ConfigurationError, match="state_url: another gateway works on this database"):
                await PostgresChanges(postgres_url, "b", alone=second).start()
    async with listening(postgres_url, "a"), listening(postgres_url, "b"):
        pass


async def test_who_counts_alone_waits_for_the_one_before_to_end(postgres_url: str) -> None:
    async with AsyncExitStack() as before:
        await before.enter_async_context(listening(postgres_url, "a", alone=True))
        successor = PostgresChanges(postgres_url, "b", alone=True)
        starting = asyncio.create_task(successor.start())
        await until(lambda: successor._crowded, "it was refused once")  # noqa: SLF001 - nobody is told before the end
    await starting
    await successor.stop()
