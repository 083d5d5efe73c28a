"""Filling a ledger's tables as its writer does: rows, and their hours in a shard, in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from llmaas.domain.usage import UsageRow
from llmaas.storage.database import Database
from llmaas.storage.rollups import HOUR_MS
from llmaas.storage.tables import usage, usage_hours


async def keep(database: Database, rows: Sequence[UsageRow], *, shard: int = 0) -> None:
    """A shard takes the same hour and dimensions once only."""
    hours: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        key = {
            "hour_ms": row.started_ms // HOUR_MS * HOUR_MS,
            **{name: getattr(row, name) for name in ("project_id", "key_id", "model_id", "outcome", "currency")},
            "backend_id": row.backend_id or "",
            "price_version": row.price_version or 0,
        }
        hour = hours.setdefault(tuple(key.values()), {**key, "shard": shard})
        for name, number in _numbers(row).items():
            hour[name] = hour.get(name, 0) + number
    async with database.begin() as connection:
        await connection.execute(sa.insert(usage), [msgspec.structs.asdict(row) for row in rows])
        await connection.execute(sa.insert(usage_hours), list(hours.values()))


def _numbers(row: UsageRow) -> dict[str, int]:
    names = ("input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens", "documents", "cost_nano")
    return {
        "requests": 1,
        **{name: getattr(row, name) for name in (*names, "energy_uwh", "duration_ms")},
        "ttft_ms": row.ttft_ms or 0,
        "ttft_requests": int(row.ttft_ms is not None),
    }
