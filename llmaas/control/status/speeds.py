"""How fast models are, from the traffic that they really had: sums of the ledger, and never a request of our own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmaas.domain.usage import Grouping, Outcome, UsageFilter, UsageReader, UsageSum

_LEAST_REQUESTS = 3
"""Of fewer nothing is said: one slow start would be the figure."""


_BARELY = 20


@dataclass(frozen=True, slots=True)
class Speed:
    """`ttft_ms`: mean time to the first piece. `tokens_per_s`: mean output of one request after it. None: not known."""

    requests: int
    ttft_ms: int | None
    tokens_per_s: int | None


def speed_of(part: UsageSum) -> Speed:
    """Of answers that were made in full."""
    known = part.requests >= _LEAST_REQUESTS
    ttft = part.ttft_ms // part.ttft_requests if known and part.ttft_requests else None
    made, took_ms = part.output_tokens + part.reasoning_tokens, part.duration_ms - part.ttft_ms
    if took_ms * _BARELY < part.duration_ms:
        took_ms = (
            part.duration_ms
        )  # whole answers of servers that do not say when they began: the first byte is the last
    rate = made * 1000 // took_ms if known and made and took_ms > 0 else None
    return Speed(part.requests, ttft, rate)


async def model_speeds(usage: UsageReader, from_ms: int) -> Mapping[str | None, Speed]:
    """By model, over all projects: machines are shared, so their speed is no project's own."""
    where = UsageFilter(from_ms=from_ms, outcome=Outcome.COMPLETED.value)
    return {part.group[0]: speed_of(part) for part in await usage.sums(where, [Grouping.MODEL])}


async def daily_speeds(usage: UsageReader, model_id: str, from_ms: int) -> Mapping[str | None, Speed]:
    """By UTC day, of one model."""
    where = UsageFilter(from_ms=from_ms, model_id=model_id, outcome=Outcome.COMPLETED.value)
    return {part.group[0]: speed_of(part) for part in await usage.sums(where, [Grouping.DAY])}
