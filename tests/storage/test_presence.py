"""Who judges that others are gone, and when."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmaas.clock import ManualClock
from llmaas.domain.workers import Worker
from llmaas.storage.database import Database
from llmaas.storage.presence import Presence
from llmaas.storage.workers import SqlWorkerStore
from llmaas.tasks import TaskSet

SILENCE_S = 1_200


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def test_silence_is_judged_only_by_who_is_heard_itself(
    database: Database, place: str | Path, clock: ManualClock
) -> None:
    store, tasks = SqlWorkerStore(database), TaskSet()
    silent_ms = clock.now_ms() - SILENCE_S * 1000
    await store.beat(Worker("silent", "other", 7, silent_ms, silent_ms, 1))
    await store.beat(Worker("heard", "other", 8, silent_ms, clock.now_ms(), 1))
    await store.beat(Worker("left", "other", 9, silent_ms, clock.now_ms(), 1))
    await store.leave("left")
    presence = Presence(place, database, "me", clock, (), alone=False, silence_s=SILENCE_S)
    await presence.start(tasks, lambda: 1)
    try:
        shared = not isinstance(place, Path)
        everybody = ["heard", "left", "silent"]
        assert await presence.gone() == (["left"] if shared else everybody)
        clock.advance(15)
        assert await presence.gone() == (["left", "silent"] if shared else everybody)
        assert presence.silent_s == (15 if shared else 0)
    finally:
        await tasks.cancel_all()
        await presence.stop(leave=False)
    assert {worker.id for worker in await store.list() if worker.seen_ms} == {"heard", "me", "silent"}


async def test_who_leaves_is_gone_for_others(database: Database, place: str | Path, clock: ManualClock) -> None:
    store, tasks = SqlWorkerStore(database), TaskSet()
    presence = Presence(place, database, "me", clock, (), alone=False, silence_s=SILENCE_S)
    await presence.start(tasks, lambda: 1)
    await tasks.cancel_all()
    await presence.stop(leave=True)
    assert list(await store.gone("other", 0)) == ["me"]
