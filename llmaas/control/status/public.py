"""What everybody may know of this service: which models work, and how fast they were in traffic that they really had.

Nobody has to sign in for it, so it is read at most once in a few seconds, however often it is asked for. It also answers
while the database does not, then without speeds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from llmaas.clock import Clock
from llmaas.control.status.models import Live, State
from llmaas.control.status.speeds import Speed, model_speeds
from llmaas.domain.models import ModelKind
from llmaas.domain.usage import Outcome, UsageFilter, UsageReader
from llmaas.errors import Unavailable

_KEPT_S = 5.0
_DAY_MS = 86_400_000
_NEWEST_ROWS = 200
_NOTHING = Speed(0, None, None)


class PlatformState(StrEnum):
    DEGRADED = "degraded"
    """Some models do not work, or not on all machines."""
    DOWN = "down"
    """No model works."""
    OPERATIONAL = "operational"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """`last_ttft_ms`: of its newest complete answer, else the mean of a day. None: nothing was asked of it lately."""

    id: str
    kind: ModelKind
    state: State
    last_ttft_ms: int | None
    tokens_per_s: int | None

    @property
    def ok(self) -> bool:
        return self.state in {State.OPERATIONAL, State.DEGRADED}


@dataclass(frozen=True, slots=True)
class PlatformStatus:
    state: PlatformState
    at_ms: int
    models: tuple[ModelStatus, ...]

    @property
    def operational(self) -> int:
        return sum(model.ok for model in self.models)


@dataclass(frozen=True, slots=True)
class _Speeds:
    read_s: float
    by_model: Mapping[str | None, Speed]
    last_ttft_ms: Mapping[str, int]


class Platform:
    def __init__(self, live: Live, usage: UsageReader, clock: Clock) -> None:
        self._live = live
        self._usage = usage
        self._clock = clock
        self._speeds: _Speeds | None = None
        self._reading = asyncio.Lock()

    async def status(self) -> PlatformStatus:
        """Of all models that are listed, by their ids. States are of this moment, speeds some seconds old at most."""
        speeds = await self._fresh_speeds()
        models = []
        for entry in sorted(self._live.catalogue.listed(), key=lambda entry: entry.model.id):
            model = entry.model
            speed = speeds.by_model.get(model.id, _NOTHING)
            ttft_ms = speeds.last_ttft_ms.get(model.id, speed.ttft_ms)
            models.append(ModelStatus(model.id, model.kind, self._live.state(entry), ttft_ms, speed.tokens_per_s))
        return PlatformStatus(_state(models), self._clock.now_ms(), tuple(models))

    async def _fresh_speeds(self) -> _Speeds:
        async with self._reading:
            known = self._speeds
            if known is None or self._clock.monotonic_s() - known.read_s >= _KEPT_S:
                try:
                    known = await self._read_speeds()
                except Unavailable:
                    known = _Speeds(self._clock.monotonic_s(), {}, {})
                self._speeds = known
            return known

    async def _read_speeds(self) -> _Speeds:
        since_ms = self._clock.now_ms() - _DAY_MS
        newest: dict[str, int] = {}
        where = UsageFilter(from_ms=since_ms, outcome=Outcome.COMPLETED.value)
        for row in await self._usage.page(where, limit=_NEWEST_ROWS):
            if row.ttft_ms is not None:
                newest.setdefault(row.model_id, row.ttft_ms)
        return _Speeds(self._clock.monotonic_s(), await model_speeds(self._usage, since_ms), newest)


def _state(models: list[ModelStatus]) -> PlatformState:
    if all(model.state is State.OPERATIONAL for model in models):
        return PlatformState.OPERATIONAL
    return PlatformState.DEGRADED if any(model.ok for model in models) else PlatformState.DOWN
