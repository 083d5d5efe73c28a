"""Usage rows for tests."""

from __future__ import annotations

from typing import Any

from llmaas.domain.usage import UsageRow

_PLAIN: dict[str, Any] = {
    "id": "chatcmpl-1",
    "request_id": "r-1",
    "project_id": "default",
    "key_id": "k" * 12,
    "end_user": None,
    "endpoint": "chat",
    "streamed": False,
    "started_ms": 1_760_000_000_000,
    "duration_ms": 20,
    "ttft_ms": 10,
    "model_id": "m",
    "requested_model": "m",
    "provider_id": "p",
    "backend_id": "b",
    "engine_type": "vllm",
    "machine_name": "ma01",
    "routing_reason": "only",
    "attempts": 1,
    "catalogue_revision": 1,
    "outcome": "completed",
    "error_code": None,
    "finish_reason": "stop",
    "input_tokens": 3,
    "cached_input_tokens": 0,
    "output_tokens": 5,
    "reasoning_tokens": 0,
    "usage_source": "engine",
    "usage_suspect": False,
    "billing_reason": "answered",
    "price_version": None,
    "currency": "EUR",
    "cost_nano": 0,
}


def row(**fields: Any) -> UsageRow:
    return UsageRow(**{**_PLAIN, **fields})


def rows(count: int, first: int = 0) -> list[UsageRow]:
    return [row(id=f"chatcmpl-{n}", started_ms=n) for n in range(first, first + count)]
