"""Tiers: a named set of limits that a project is on. All limits are optional; money is nano-units."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tier:
    id: str
    requests_per_minute: int | None = None
    concurrent_requests: int | None = None
    output_tokens_per_hour: int | None = None
    output_tokens_per_day: int | None = None
    monthly_cap: int | None = None
