"""What pages show of API keys: lines of a list with their last 30 days, and one key with its budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from llmaas.admin_api.access import Principal
from llmaas.admin_api.keys import may_change
from llmaas.console.charts import sparkline
from llmaas.console.pages.key_forms import BUDGETS, RATES
from llmaas.console.pages.terms import percent_of
from llmaas.control.context import Services
from llmaas.control.spans import day_of, last_days
from llmaas.domain.budgets import DAY_MS, budget_ids, day_name
from llmaas.domain.keys import Key, masked
from llmaas.domain.members import Role
from llmaas.domain.usage import Grouping, UsageFilter, UsageSum

DAYS = 30


@dataclass(frozen=True, slots=True)
class Recent:
    """Of one key in the last 30 days. `last_day`: `2026-11-23`, None when it was not used; `days_ago`: how long that is."""

    requests: int
    cost_nano: int
    last_day: str | None
    days_ago: int
    by_day: tuple[int, ...]
    spark: Markup


@dataclass(frozen=True, slots=True)
class KeyLine:
    """`replaces`: the key that it was rotated from; "" for none. `owner` "": nobody, as of keys that the command line made."""

    key: Key
    shown: str
    replaces: str
    state: str
    owner: str
    may_change: bool
    recent: Recent


@dataclass(frozen=True, slots=True)
class Budget:
    name: str
    spent_nano: int
    cap_nano: int

    @property
    def percent(self) -> int:
        return percent_of(self.spent_nano, self.cap_nano)


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """Those that are set."""

    rates: list[tuple[str, int]]
    budgets: list[Budget]


def may_make(principal: Principal) -> bool:
    """Whether they may make keys, and change those that are their own."""
    return principal.user.is_admin or principal.role in {Role.DEVELOPER, Role.OWNER}


def is_playground(key: Key) -> bool:
    """Keys that the playground made for itself, one for each tab: they stand together. Anybody may call a key so, but
    only one that ends soon is left out of lists.
    """
    lives_ms = None if key.expires_ms is None else key.expires_ms - key.created_ms
    return key.name == "playground" and lives_ms is not None and lives_ms <= DAY_MS


async def key_lines(
    services: Services, principal: Principal, project_id: str, keys: Sequence[Key], spark_title: str
) -> list[KeyLine]:
    """In the order of `keys`."""
    owners = await services.users.names_in(project_id)
    recent = await recent_of(services, project_id, spark_title)
    now_ms = services.clock.now_ms()
    unused = Recent(0, 0, None, 0, (0,) * DAYS, sparkline(spark_title, [0] * DAYS))
    return [
        KeyLine(
            key=key,
            shown=masked(key.id),
            replaces=masked(key.rotated_from) if key.rotated_from else "",
            state=key.state_at(now_ms),
            owner=owners.get(key.owner_id or "", ""),
            may_change=may_make(principal) and may_change(principal, key),
            recent=recent.get(key.id, unused),
        )
        for key in keys
    ]


async def recent_of(
    services: Services, project_id: str, spark_title: str, key_id: str | None = None
) -> Mapping[str | None, Recent]:
    """By key, those that were used."""
    span = last_days(day_of(services.clock.now_ms()), DAYS)
    where = UsageFilter(project_id=project_id, key_id=key_id, from_ms=span.from_ms)
    parts: dict[str | None, list[UsageSum]] = {}
    for part in await services.usage.sums(where, [Grouping.KEY, Grouping.DAY]):
        parts.setdefault(part.group[0], []).append(part)
    return {name: _recent(found, span.days, spark_title) for name, found in parts.items()}


async def limits_of(services: Services, key: Key) -> KeyLimits:
    """With what is spent of each budget in its present day, month or ever."""
    total, month, day, *_ = budget_ids(key.limits_id, key.project_id, day_name(services.clock.now_ms() // DAY_MS))
    ids = {"budget_per_day": day, "budget_per_month": month, "budget_total": total}
    caps = {name: cap for name in BUDGETS if (cap := getattr(key.limits, name)) is not None}
    standing = await services.budgets.standing([ids[name] for name in caps]) if caps else {}
    return KeyLimits(
        rates=[(name, limit) for name in RATES if (limit := getattr(key.limits, name)) is not None],
        budgets=[Budget(name, standing[ids[name]].spent_nano, cap) for name, cap in caps.items()],
    )


def _recent(parts: Sequence[UsageSum], days: Sequence[str], spark_title: str) -> Recent:
    by_day: dict[str, int] = {}
    for part in parts:
        day = part.group[1] or ""
        by_day[day] = by_day.get(day, 0) + part.requests
    last = max((n for n, day in enumerate(days) if by_day.get(day)), default=None)
    counts = tuple(by_day.get(day, 0) for day in days)
    return Recent(
        requests=sum(part.requests for part in parts),
        cost_nano=sum(part.cost_nano for part in parts),
        last_day=None if last is None else days[last],
        days_ago=0 if last is None else len(days) - 1 - last,
        by_day=counts,
        spark=sparkline(spark_title, counts),
    )
