"""Workers: heard of while they live, and forgotten only when they are gone."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from llmaas.domain.workers import Worker
from llmaas.storage.database import Database
from llmaas.storage.workers import SqlWorkerStore, life_lock

NOW_MS = 1_760_000_000_000
SINCE_MS = NOW_MS - 15_000


def worker(name: str, seen_ms: int = NOW_MS) -> Worker:
    return Worker(name, "host", 7, NOW_MS, seen_ms, 1)


@pytest.fixture
def store(database: Database) -> SqlWorkerStore:
    return SqlWorkerStore(database)


@pytest.fixture
async def alive(place: str | Path) -> AsyncIterator[None]:
    """The session of the worker `standing` is there, where the database has sessions."""
    if isinstance(place, Path):
        yield
        return
    connection = await asyncpg.connect(place)
    await connection.execute(f"SELECT pg_advisory_lock_shared({life_lock('standing')})")
    yield
    await connection.close()


async def test_a_worker_is_listed_as_it_was_last_heard(store: SqlWorkerStore) -> None:
    await store.beat(worker("b"))
    await store.beat(worker("a"))
    later = dataclasses.replace(worker("b", NOW_MS + 3_000), catalogue_revision=9)
    await store.beat(later)
    assert await store.list() == [worker("a"), later]


async def test_those_who_left_and_the_silent_are_gone_until_they_are_forgotten(
    store: SqlWorkerStore, place: str | Path
) -> None:
    await store.beat(worker("silent", SINCE_MS - 1))
    await store.beat(worker("left"))
    await store.leave("left")
    await store.beat(worker("asking", NOW_MS - 60_000))
    assert await store.gone("asking", 0) == (["left"] if isinstance(place, str) else ["left", "silent"])
    assert await store.gone("asking", SINCE_MS) == ["left", "silent"]
    await store.forget("left")
    assert await store.gone("asking", SINCE_MS) == ["silent"]
    await store.beat(worker("silent", SINCE_MS))
    assert await store.gone("asking", SINCE_MS) == ([] if isinstance(place, str) else ["silent"])


async def test_F12_a_worker_that_stands_still_is_not_taken_for_gone(
    store: SqlWorkerStore, place: str | Path, alive: None
) -> None:
    await store.beat(worker("standing", NOW_MS - 60_000))
    assert await store.gone("asking", SINCE_MS) == ([] if isinstance(place, str) else ["standing"])
