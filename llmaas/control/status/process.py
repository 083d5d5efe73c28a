"""How the parts that this process leans on are at this moment: database, counters, ledger, spool, disk."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from llmaas.clock import Clock
from llmaas.errors import Unavailable


@dataclass(frozen=True, slots=True)
class Answered:
    """`took_ms` None: it did not answer."""

    took_ms: float | None


@dataclass(frozen=True, slots=True)
class SystemHealth:
    """`counters` None: limits are counted in memory. `spooled`: rows that wait for the database. Sizes in bytes."""

    database: Answered
    counters: Answered | None
    accepting: bool
    draining: bool
    in_flight: int
    spooled: int
    disk_free: int
    disk_size: int

    @property
    def ok(self) -> bool:
        answered = self.database.took_ms is not None and (self.counters is None or self.counters.took_ms is not None)
        return answered and self.accepting and not self.draining and not self.spooled


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """`database_place`, `counters_place`: as they may be shown. `ask_…` raises Unavailable."""

    worker_id: str
    host: str
    started_ms: int
    database_place: str
    counters_place: str
    data_dir: Path
    ask_database: Callable[[], Awaitable[object]]
    ask_counters: Callable[[], Awaitable[object]] | None
    accepting: Callable[[], bool]
    draining: Callable[[], bool]
    in_flight: Callable[[], int]
    count_spooled: Callable[[], int]
    clock: Clock

    async def look(self) -> SystemHealth:
        database = await self._ask(self.ask_database)
        counters = None if self.ask_counters is None else await self._ask(self.ask_counters)
        spooled, disk = await asyncio.gather(
            asyncio.to_thread(self.count_spooled), asyncio.to_thread(shutil.disk_usage, self.data_dir)
        )
        return SystemHealth(
            database=database,
            counters=counters,
            accepting=self.accepting(),
            draining=self.draining(),
            in_flight=self.in_flight(),
            spooled=spooled,
            disk_free=disk.free,
            disk_size=disk.total,
        )

    async def _ask(self, ask: Callable[[], Awaitable[object]]) -> Answered:
        began_s = self.clock.monotonic_s()
        try:
            await ask()
        except Unavailable:
            return Answered(None)
        return Answered((self.clock.monotonic_s() - began_s) * 1000)
