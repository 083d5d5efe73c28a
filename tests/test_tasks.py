from __future__ import annotations

import asyncio

import pytest

from llmaas import tasks
from llmaas.tasks import TaskSet, end


async def test_a_task_that_loses_its_cancellation_is_ended_all_the_same() -> None:
    lost = asyncio.Event()

    async def deaf() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            lost.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(end(task, again_s=0.05), 10)
    assert lost.is_set()
    assert task.cancelled()


async def test_ending_nothing_returns_at_once() -> None:
    await end()
    await TaskSet().cancel_all()


async def test_what_goes_on_for_ever_survives_whatever_a_turn_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_PAUSE_S", 0.0)
    turns = 0
    done = asyncio.Event()

    async def turn() -> None:
        nonlocal turns
        turns += 1
        if turns < 3:
            raise MemoryError if turns == 1 else OSError
        done.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(tasks.for_ever(turn, name="t"))
    await asyncio.wait_for(done.wait(), 5)
    await end(task)
    assert turns == 3
