"""Tiers: a named set of limits and a price list that a project is on. All limits are optional; money is nano-units."""

from __future__ import annotations

from dataclasses import dataclass

from llmaas.domain.limits import Limits
from llmaas.domain.prices import Price


@dataclass(frozen=True, slots=True)
class Tier:
    """`prepaid_credit`: projects on it pay from credit, of which this is a usual top-up; None: they pay afterwards.

    `prices`: what its projects pay for a model in place of the model's own price.
    """

    id: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent_requests: int | None = None
    output_tokens_per_hour: int | None = None
    output_tokens_per_day: int | None = None
    monthly_cap: int | None = None
    prepaid_credit: int | None = None
    prices: tuple[Price, ...] = ()

    @property
    def limits(self) -> Limits:
        """What holds for each project on it, over all its keys."""
        return Limits(
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
            concurrent_requests=self.concurrent_requests,
            output_tokens_per_hour=self.output_tokens_per_hour,
            output_tokens_per_day=self.output_tokens_per_day,
            budget_per_month=self.monthly_cap,
        )
