"""The terms of a project as they stand: limits with their present use, the forecast of a month, how long credit lasts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmaas.control.context import Services
from llmaas.control.spans import DAY_MS, day_of, last_days, month_of
from llmaas.domain.budgets import day_name
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import Grouping, UsageFilter, UsageSum

_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
PACE_DAYS = 7
_MOST_DAYS = 366


def percent_of(used: int, limit: int) -> int:
    """0 to 100; what is used at all can be seen."""
    if used <= 0:
        return 0 if limit else 100
    return max(1, min(100, used * 100 // limit)) if limit else 100


@dataclass(frozen=True, slots=True)
class Bar:
    """`used` None: nobody counts it for a page. `is_money`: nano-units."""

    name: str
    used: int | None
    limit: int
    is_money: bool = False

    @property
    def percent(self) -> int:
        return percent_of(self.used or 0, self.limit)


@dataclass(frozen=True, slots=True)
class Pace:
    """Nano-units. `unpriced_requests`: of this month. `forecast_nano`: what the month comes to if the rest of it is as the
    days of the last week.
    """

    month_nano: int
    forecast_nano: int
    week_nano: int
    unpriced_requests: int = 0

    def days_left(self, credit_nano: int) -> int | None:
        """How long credit lasts so, in whole days; None: nothing is spent. More than a year is said as 366."""
        if self.week_nano <= 0:
            return None
        return min(_MOST_DAYS, max(0, credit_nano) * PACE_DAYS // self.week_nano)


async def bars_of(services: Services, project_id: str, tier: Tier | None) -> list[Bar]:
    if tier is None:
        return []
    limits, now_ms = tier.limits, services.clock.now_ms()
    bars = []
    if limits.budget_per_month is not None:
        budget = f"project:{project_id}:{day_name(now_ms // DAY_MS)[:7]}"
        spent = (await services.budgets.standing([budget]))[budget].spent_nano
        bars.append(Bar("budget_per_month", spent, limits.budget_per_month, is_money=True))
    for name, unit_ms in (("output_tokens_per_day", DAY_MS), ("output_tokens_per_hour", _HOUR_MS)):
        limit = getattr(limits, name)
        if limit is not None:
            parts = await _since(services, project_id, now_ms // unit_ms * unit_ms)
            bars.append(Bar(name, sum(part.output_tokens + part.reasoning_tokens for part in parts), limit))
    if limits.requests_per_minute is not None or limits.tokens_per_minute is not None:
        parts = await _since(services, project_id, now_ms - _MINUTE_MS)
        if limits.requests_per_minute is not None:
            requests = sum(part.requests for part in parts)
            bars.append(Bar("requests_per_minute", requests, limits.requests_per_minute))
        if limits.tokens_per_minute is not None:
            bars.append(Bar("tokens_per_minute", sum(p.total_tokens for p in parts), limits.tokens_per_minute))
    if limits.concurrent_requests is not None:
        bars.append(Bar("concurrent_requests", None, limits.concurrent_requests))
    return bars


async def pace_of(services: Services, project_id: str) -> Pace:
    """Of the currency of this installation."""
    today = day_of(services.clock.now_ms())
    month, week = month_of(today), last_days(today, PACE_DAYS + 1)
    where = UsageFilter(project_id=project_id, from_ms=min(month.from_ms, week.from_ms))
    by_day: dict[str, int] = {}
    unpriced = 0
    for part in await services.usage.sums(where, [Grouping.DAY]):
        unpriced += part.unpriced_requests if (part.group[0] or "") >= str(month.first) else 0
        if part.currency == services.currency:
            by_day[part.group[0] or ""] = part.cost_nano
    spent = sum(cost for day, cost in by_day.items() if day >= str(month.first))
    lately = sum(by_day.get(day, 0) for day in week.days[:-1])
    # What is left of today runs as the days of the last week did, too.
    left_ms = (month.last - today).days * DAY_MS + DAY_MS - services.clock.now_ms() % DAY_MS
    return Pace(spent, spent + lately * left_ms // (PACE_DAYS * DAY_MS), lately, unpriced)


async def _since(services: Services, project_id: str, from_ms: int) -> Sequence[UsageSum]:
    return await services.usage.sums(UsageFilter(project_id=project_id, from_ms=from_ms), [])
