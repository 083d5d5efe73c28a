"""Which limits hold for a request, each with the id of its counter. Hours, days and months are those of UTC."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from llmaas.domain.access import Caller
from llmaas.domain.limits import Limits
from llmaas.domain.tiers import Tier

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


class Kind(StrEnum):
    """What a counter counts, and so when and by how much a request moves it."""

    MONEY = "money"
    OUTPUT = "output"
    REQUESTS = "requests"
    SLOTS = "slots"
    TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Rule:
    """`limit`: requests, tokens or nano-units; None: the project's credit. `text`: for the caller, with the number left out.

    `scope`: `key:ID`, of the first key of a rotation, or `project:ID`. `from_ms`, `until_ms`: the window of
    time, None where there is none.
    """

    id: str
    kind: Kind
    limit: int | None
    scope: str
    text: str
    from_ms: int | None = None
    until_ms: int | None = None


def rules(caller: Caller, tier: Tier | None, at_ms: int) -> Iterator[Rule]:
    """Everything that limits a request of the caller that starts at `at_ms`, in the order in which counters are taken."""
    yield from _rules_of(f"key:{caller.key.limits_id}", caller.key.limits, at_ms)
    if tier is not None:
        scope = f"project:{caller.project.id}"
        yield from _rules_of(scope, tier.limits, at_ms)
        if tier.prepaid_credit is not None:
            yield Rule(f"{scope}:total", Kind.MONEY, None, scope, "credit")


def _rules_of(scope: str, limits: Limits, at_ms: int) -> Iterator[Rule]:
    for name, kind, limit, text in (
        ("rpm", Kind.REQUESTS, limits.requests_per_minute, "requests per minute"),
        ("tpm", Kind.TOKENS, limits.tokens_per_minute, "tokens per minute"),
        ("slots", Kind.SLOTS, limits.concurrent_requests, "requests at once"),
    ):
        if limit is not None:
            yield Rule(f"{scope}:{name}", kind, limit, scope, text)
    for length_ms, limit, text in (
        (HOUR_MS, limits.output_tokens_per_hour, "output tokens per hour"),
        (DAY_MS, limits.output_tokens_per_day, "output tokens per day"),
    ):
        if limit is not None:
            start = at_ms - at_ms % length_ms
            name = f"{scope}:output:{length_ms // HOUR_MS}h:{start}"
            yield Rule(name, Kind.OUTPUT, limit, scope, text, start, start + length_ms)
    if limits.budget_per_day is None and limits.budget_per_month is None and limits.budget_total is None:
        return
    day = datetime.fromtimestamp(at_ms // 1000, UTC).replace(hour=0, minute=0, second=0)
    month = day.replace(day=1)
    for name, limit, text, start_at, end_at in (
        (f"{day:%Y-%m-%d}", limits.budget_per_day, "budget per day", day, day + timedelta(days=1)),
        (f"{month:%Y-%m}", limits.budget_per_month, "budget per month", month, (month + timedelta(32)).replace(day=1)),
    ):
        if limit is not None:
            yield Rule(f"{scope}:{name}", Kind.MONEY, limit, scope, text, _ms(start_at), _ms(end_at))
    if limits.budget_total is not None:
        yield Rule(f"{scope}:total", Kind.MONEY, limits.budget_total, scope, "budget")


def _ms(time: datetime) -> int:
    return int(time.timestamp()) * 1000
