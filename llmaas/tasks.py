"""Background tasks with an owner: they are kept alive, their failures are logged, and shutdown waits for them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import structlog

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.tasks")


_AGAIN_S = 8.0
"""Longer than closing a connection takes that waits for a lock."""

_PAUSE_S = 1.0
T = TypeVar("T")


async def end(*tasks: asyncio.Task[Any], again_s: float = _AGAIN_S) -> None:
    """Cancel, and wait until they have ended, whatever they end with.

    Again, but not soon: a cancellation that arrives together with an answer can be lost in a library (`asyncio.wait_for` before
    Python 3.12), and a loop would then go on for ever; a second one while a connection is being closed keeps it from closing.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=again_s)


async def for_ever(turn: Callable[[], Awaitable[None]], *, name: str) -> None:
    """Turn after turn. What one raises is logged, and the next one comes after a pause: memory or descriptors may be short for a
    while, and what would end then for good is missed only later.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - coroutines run in tasks
    while not task.cancelling():  # a library can lose the cancellation that comes with its answer
        try:
            await turn()
        except Exception:  # noqa: BLE001 - the task's edge
            with contextlib.suppress(Exception):  # not even for a line in the log there may be memory
                _log.exception("turn_failed", task=name)
            await asyncio.sleep(_PAUSE_S)


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for work that must not be broken off: a cancellation takes effect when it is done."""
    task = asyncio.get_running_loop().create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()  # it is heard of, whatever it was
        raise cancelled
    return task.result()


class TaskSet:
    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> None:
        """Start work that nobody awaits."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("task_failed", task=task.get_name(), exc_info=error)

    async def cancel_all(self) -> None:
        await end(*self._tasks)
