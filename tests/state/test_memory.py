"""Counters in memory after an outage: nothing is held until the rows that waited are counted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from typing_extensions import override

from llmaas.clock import ManualClock
from llmaas.domain.limits import Limits
from llmaas.domain.ports import BudgetStanding, Claim, Used
from llmaas.domain.prices import NANO
from llmaas.domain.tiers import Tier
from llmaas.errors import QuotaExceeded, Unavailable
from llmaas.state.limiter import CountingLimiter
from llmaas.state.memory import MemoryCounters
from tests.state.worlds import NOTHING, Money, Sums, caller

COSTLY = Claim(0, 0, 6 * NANO)


class Ledger:
    """`waiting`: how often it is still asked before all rows are in the database."""

    def __init__(self, waiting: float) -> None:
        self.waiting = waiting

    async def flushed(self) -> bool:
        self.waiting -= 1
        return self.waiting < 0


def counters(money: Money, ledger: Ledger, patience_s: float) -> MemoryCounters:
    return MemoryCounters(money.door(), Sums(), ledger.flushed, patience_s=patience_s)


@pytest.mark.parametrize("limits", [Limits(budget_total=10 * NANO), Limits(output_tokens_per_day=10)])
async def test_B07_nothing_is_held_before_the_rows_of_an_outage_are_counted(limits: Limits) -> None:
    ledger = Ledger(float("inf"))
    limiter = CountingLimiter(counters(Money(), ledger, 0.1), ManualClock())
    with pytest.raises(Unavailable) as refused:
        await limiter.hold(caller(limits), None, Claim(0, 1, 1))
    assert refused.value.retry_after_s == 5
    assert limiter.try_hold(caller(key="k2"), None, Claim(0, 1, 1)) is not None, (
        "who has no such limit is not concerned"
    )
    ledger.waiting = 0
    await limiter.hold(caller(limits), None, Claim(0, 1, 1))


async def test_B07_a_request_waits_for_the_rows_of_an_outage() -> None:
    money = Money()
    money.spent["key:k1:total"] = 5 * NANO
    limiter = CountingLimiter(counters(money, Ledger(2), 60), ManualClock())
    with pytest.raises(QuotaExceeded):
        await limiter.hold(caller(Limits(budget_total=10 * NANO)), None, COSTLY)


async def test_credit_is_seen_while_rows_still_wait_and_what_they_cost_afterwards() -> None:
    money, ledger = Money(), Ledger(0)
    source = counters(money, ledger, 60)
    limiter = CountingLimiter(source, ManualClock())
    who, tier = caller(), Tier("prepaid", prepaid_credit=0)
    money.credit["p1"] = 5 * NANO
    with pytest.raises(QuotaExceeded):
        await limiter.hold(who, tier, COSTLY)
    ledger.waiting = float("inf")
    money.credit["p1"] = 20 * NANO
    assert not await source.refresh(), "to be tried again"
    hold = await limiter.hold(who, tier, COSTLY)
    hold.settle(NOTHING)
    money.spent["project:p1:total"] = 18 * NANO
    ledger.waiting = 0
    assert await source.refresh()
    with pytest.raises(QuotaExceeded):
        await limiter.hold(who, tier, COSTLY)


class _ReadEarly(Money):
    """Answers with what was spent when it was asked."""

    @override
    async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
        found = {name: BudgetStanding(self.spent[name], 0) for name in budget_ids}
        await asyncio.sleep(0)
        return found


@pytest.mark.parametrize("read", [Money, _ReadEarly])
async def test_B01_what_settles_while_a_correction_is_read_is_counted(read: type[Money]) -> None:
    money, budget = read(), "key:k1:total"
    source = counters(money, Ledger(0), 60)
    limiter, who = CountingLimiter(source, ManualClock()), caller(Limits(budget_total=20 * NANO))
    money.spent[budget] = 10 * NANO
    hold = await limiter.hold(who, None, Claim(0, 1, NANO))
    money.spent[budget] += 8 * NANO  # the correction
    refreshing = asyncio.create_task(source.refresh())
    await asyncio.sleep(0)
    hold.settle(Used(0, 1, NANO))
    money.spent[budget] += NANO
    assert not await refreshing, "to be tried again"
    with pytest.raises(QuotaExceeded):
        await limiter.hold(who, None, Claim(0, 1, 2 * NANO))
    assert await source.refresh()
    (await limiter.hold(who, None, Claim(0, 1, NANO))).settle(NOTHING)  # 19 of 20 are spent
