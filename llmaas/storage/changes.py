"""Waking up when another process has changed something. The poll of `revisions` is what makes sure of it; this makes it
quick, and on PostgreSQL the same connection holds the lock by which others know that this worker lives.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import asyncpg
import structlog

from llmaas.errors import ConfigurationError
from llmaas.settings import without_password
from llmaas.storage.database import CALL_BACK, CHANGES_CHANNEL, SESSION
from llmaas.storage.workers import life_lock
from llmaas.tasks import end

_CONNECT_S = 3.0
_OUSTED_S = 8.0
"""How long a start waits for the session of a process that is gone to end."""
_COUNTING = 0x6C6C6D616173
"""The number of the lock that whoever counts alone holds by himself, and those who count together share."""
_CROWDED = (
    "state_url: another gateway works on this database, and only gateways that count in one Valkey may share it; stop the other,"
    " or set state_url to valkey://… for each"
)
_AGAIN_S = (0.1, 0.5, 1.0, 2.0)
_PROBE_S = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.changes")


class Changes:
    """What `wait` is on SQLite: a pause. Changes are found by the poll that follows it."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.called_back: Callable[[str], None] = lambda _budget_id: None
        """Called when another worker waits for what this one leased of a budget and may not need."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass

    async def wait(self, limit_s: float) -> None:
        """Until something may have changed, at most `limit_s`."""
        await _wait(self._changed, limit_s)
        self._changed.clear()


class PostgresChanges(Changes):
    """A connection of its own that listens, and is made anew for as long as it takes.

    `alone`: the worker counts limits and budgets in its own memory, so there may be no other.
    """

    def __init__(self, url: str, worker_id: str, *, alone: bool) -> None:
        super().__init__()
        self._url = url
        self._lock = life_lock(worker_id)
        self._counting = "SELECT pg_try_advisory_lock($1)" if alone else "SELECT pg_try_advisory_lock_shared($1)"
        self._task: asyncio.Task[None] | None = None
        self._connected = asyncio.Event()
        self._answered = asyncio.Event()
        self._crowded = False

    async def start(self) -> None:
        """Returns when it listens, or after a first failure, from which it recovers by itself. ConfigurationError when there
        are others with whom it would not count together.
        """
        self._task = asyncio.create_task(self._keep(), name="changes")
        await _wait(self._answered, _CONNECT_S)
        if self._crowded:
            await _wait(self._connected, _OUSTED_S)
        if self._crowded:
            await end(self._task)
            raise ConfigurationError([_CROWDED])

    async def stop(self) -> None:
        if self._task is not None:
            await end(self._task)

    async def _keep(self) -> None:
        failures = 0
        while True:
            try:
                await self._listen()
                failures = 0
            except Exception as error:  # noqa: BLE001 - the driver's edge: nothing that it raises may end the listening
                _log.warning(
                    "changes_not_heard", database=without_password(self._url), error=str(error) or type(error).__name__
                )
            self._connected.clear()
            await asyncio.sleep(_AGAIN_S[min(failures, len(_AGAIN_S) - 1)])
            failures += 1

    async def _listen(self) -> None:
        """Until the connection ends."""
        connection = await asyncpg.connect(
            self._url,
            timeout=_CONNECT_S,
            command_timeout=_CONNECT_S,
            server_settings={**SESSION, "application_name": "llmaas"},
        )
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        try:
            # Shared, so that a session of ours that the server has not missed yet does not keep the next one waiting.
            await connection.execute("SELECT pg_advisory_lock_shared($1)", self._lock)
            self._crowded = not await connection.fetchval(self._counting, _COUNTING)
            self._answered.set()
            if self._crowded:
                _log.error("counting_apart", database=without_password(self._url), hint=_CROWDED)
                return
            await connection.add_listener(CHANGES_CHANNEL, self._heard)
            self._connected.set()
            self._changed.set()  # of what happened meanwhile nobody told us
            while not ended.is_set():
                try:
                    async with asyncio.timeout(_PROBE_S):
                        await ended.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")  # a server that is gone without a word is noticed by asking
        finally:
            connection.terminate()

    def _heard(self, _connection: object, _pid: object, _channel: object, told: Any) -> None:
        if isinstance(told, str) and told.startswith(CALL_BACK):
            self.called_back(told.removeprefix(CALL_BACK))
        else:
            self._changed.set()


async def _wait(event: asyncio.Event, limit_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
