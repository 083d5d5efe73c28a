"""Filling a ledger through its own writer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmaas.domain.usage import UsageRow
from llmaas.settings import load
from llmaas.storage.ledger import Ledger
from llmaas.storage.row_store import SHARED
from llmaas.storage.spool import Spool
from llmaas.storage.sqlite_rows import SqliteRows

NOON_MS = 1_780_056_000_000  # 2026-05-29T12:00:00Z


def usage_row(number: int, **changes: Any) -> UsageRow:
    values: dict[str, Any] = {
        "id": f"chatcmpl-{number:032x}",
        "request_id": f"{number:032x}",
        "project_id": "default",
        "key_id": "k1",
        "end_user": None,
        "endpoint": "chat",
        "streamed": True,
        "started_ms": NOON_MS + number * 1000,
        "duration_ms": 900,
        "ttft_ms": 250,
        "model_id": "granite",
        "requested_model": "granite",
        "provider_id": "lab",
        "backend_id": "b1",
        "engine_type": "vllm",
        "machine_name": "ma02",
        "routing_reason": "only",
        "attempts": 1,
        "catalogue_revision": 1,
        "outcome": "completed",
        "error_code": None,
        "finish_reason": "stop",
        "input_tokens": 10,
        "cached_input_tokens": 1,
        "output_tokens": 100,
        "reasoning_tokens": 7,
        "usage_source": "engine",
        "usage_suspect": False,
        "billing_reason": "answered",
        "price_version": None,
        "currency": "EUR",
        "cost_nano": 0,
    }
    return UsageRow(**{**values, **changes})


def record(data_dir: Path, rows: Sequence[UsageRow]) -> None:
    settings = load({"data_dir": data_dir}, {}).settings

    async def write() -> None:
        ledger = Ledger(SqliteRows(settings.database_path, SHARED), Spool(settings.spool_path))
        ledger.start()
        await asyncio.gather(*(ledger.append(row) for row in rows))
        await ledger.stop()

    asyncio.run(write())


def spool(data_dir: Path, rows: Sequence[UsageRow]) -> None:
    """As when the database is away."""
    waiting = Spool(load({"data_dir": data_dir}, {}).settings.spool_path)
    waiting.write(rows)
    waiting.close()
