"""Limits: what a key or a project may use in a time, at once, and for how much money. None: no such limit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Whole requests and tokens; budgets are nano-units of money. Days and months are those of UTC.

    `tokens_per_minute` counts input and output. A budget counts what a request costs, held while it runs.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    output_tokens_per_hour: int | None = None
    output_tokens_per_day: int | None = None
    budget_per_day: int | None = None
    budget_per_month: int | None = None
    budget_total: int | None = None


UNLIMITED = Limits()
