"""A worker among the others: its heartbeat, its ear for changes, and the duties that it takes its turn in."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from llmaas.clock import Clock
from llmaas.domain.workers import Worker
from llmaas.errors import Unavailable
from llmaas.storage.changes import Changes, PostgresChanges
from llmaas.storage.database import Database
from llmaas.storage.duties import Duty, DutyRunner, SqlDutyRoster
from llmaas.storage.workers import HEARTBEAT_S, SqlWorkerStore
from llmaas.tasks import TaskSet, for_ever

_STEADY_MS = 15_000
"""Whoever was cut off from the database, as all are while it is away, may judge nobody's silence sooner than that."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.presence")


class Presence:
    """`changes.wait` is how the worker learns that there may be something new."""

    def __init__(
        self,
        place: str | Path,
        database: Database,
        worker_id: str,
        clock: Clock,
        duties: Sequence[Duty],
        *,
        alone: bool,
        silence_s: float,
    ) -> None:
        """`alone`: whether it counts for itself; `silence_s`: how long a worker of another machine is waited for."""
        self._shared = database.file is None
        self._silence_ms = round(silence_s * 1000)
        self._clock = clock
        self._workers = SqlWorkerStore(database)
        self._me = Worker(worker_id, socket.gethostname(), os.getpid(), clock.now_ms(), clock.now_ms(), 0)
        self._runner = DutyRunner(SqlDutyRoster(database), worker_id, clock, duties)
        self._heard_since_ms: int | None = None
        self._heard_s = clock.monotonic_s()
        self.changes = PostgresChanges(str(place), worker_id, alone=alone) if self._shared else Changes()

    @property
    def silent_s(self) -> float:
        """How long nobody has heard of this worker, where others would."""
        return self._clock.monotonic_s() - self._heard_s if self._shared else 0.0

    async def start(self, tasks: TaskSet, revision: Callable[[], int]) -> None:
        """`revision` gives the catalogue revision that this worker runs. ConfigurationError when others work on the database
        with whom it would not count together.
        """
        await self.changes.start()
        await self._try_to_beat(revision())
        tasks.spawn(self._keep_beating(revision), name="heartbeat")
        tasks.spawn(self._runner.run(), name="duties")

    async def stop(self, *, leave: bool) -> None:
        """After the tasks have ended. `leave`: all its rows are in the database, so it counts as gone."""
        try:
            if leave:
                await self._workers.leave(self._me.id)
        except Unavailable as error:
            _log.warning("worker_not_signed_off", hint=error.hint)
        await self.changes.stop()

    async def gone(self) -> Sequence[str]:
        """Other workers that signed off or were silent for too long, and are not forgotten yet."""
        now_ms, since_ms = self._clock.now_ms(), self._heard_since_ms
        steady = since_ms is not None and now_ms - since_ms >= _STEADY_MS
        return await self._workers.gone(self._me.id, now_ms - self._silence_ms if steady else 0)

    async def forget(self, worker_id: str) -> None:
        await self._workers.forget(worker_id)

    async def _beat(self, revision: int) -> None:
        self._me = dataclasses.replace(self._me, seen_ms=self._clock.now_ms(), catalogue_revision=revision)
        await self._workers.beat(self._me)

    async def _keep_beating(self, revision: Callable[[], int]) -> None:
        """On SQLite only to tell a new revision: there is nobody else whom the rest could matter to."""

        async def beat() -> None:
            await asyncio.sleep(HEARTBEAT_S)
            if self._shared or revision() != self._me.catalogue_revision:
                await self._try_to_beat(revision())

        await for_ever(beat, name="heartbeat")

    async def _try_to_beat(self, revision: int) -> None:
        """Also the first time: a database that takes no rows keeps nobody from serving, usage goes to the spool."""
        try:
            await self._beat(revision)
        except Unavailable as error:
            self._heard_since_ms = None
            _log.warning("heartbeat_failed", hint=error.hint)
        else:
            self._heard_s = self._clock.monotonic_s()
            self._heard_since_ms = self._heard_since_ms or self._me.seen_ms
