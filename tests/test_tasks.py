from __future__ import annotations

import asyncio

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
