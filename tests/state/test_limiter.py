"""The contract of the limiter, over memory and over leases from Valkey."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from llmaas.clock import ManualClock
from llmaas.domain.access import Caller
from llmaas.domain.limits import Limits
from llmaas.domain.ports import Claim, Hold, Limiter, Standing, Used
from llmaas.domain.prices import Price
from llmaas.domain.tiers import Tier
from llmaas.errors import QuotaExceeded, RateLimited
from llmaas.inference.admission import Bounds
from llmaas.inference.allowance import first_hold
from tests.state.worlds import NOTHING, ONE, Money, Sums, caller, memory_limiter, shared_limiter

NANO = 10**9
NOON_MS = 1_793_620_800_000
MONTH, DAY = "2026-11", "2026-11-02"


@dataclass
class World:
    limiter: Limiter
    clock: ManualClock
    money: Money
    sums: Sums
    shared: bool


@pytest.fixture(params=["memory", "valkey"])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    clock, money, sums = ManualClock(NOON_MS), Money(), Sums()
    if request.param == "memory":
        yield World(memory_limiter(clock, money, sums), clock, money, sums, shared=False)
        return
    async with shared_limiter(request.getfixturevalue("valkey_url"), "w1", clock, money, sums, steady=True) as limiter:
        yield World(limiter, clock, money, sums, shared=True)


async def admitted(limiter: Limiter, who: Caller, tier: Tier | None, claim: Claim, times: int) -> list[Hold]:
    holds = []
    for _ in range(times):
        try:
            holds.append(await limiter.hold(who, tier, claim))
        except (RateLimited, QuotaExceeded):
            break
    return holds


async def test_a_caller_without_limits_shares_one_hold(world: World) -> None:
    who = caller()
    hold = world.limiter.try_hold(who, None, Claim(10, 10, 10))
    assert hold is not None
    assert hold is world.limiter.try_hold(caller(key="k2"), Tier("t"), ONE)
    assert hold.standing == Standing()
    assert hold.extend(Claim(1, 1, 1))
    hold.settle(NOTHING)


async def test_a_rate_admits_its_burst_and_says_what_is_left(world: World) -> None:
    who = caller(Limits(requests_per_minute=10))
    holds = await admitted(world.limiter, who, None, ONE, 11)
    assert len(holds) == 10
    assert holds[0].standing.limit_requests == 10
    assert holds[0].standing.remaining_requests == 9
    assert holds[-1].standing.remaining_requests == 0
    with pytest.raises(RateLimited, match="The key's limit of 10 requests per minute is reached") as refused:
        await world.limiter.hold(who, None, ONE)
    assert refused.value.retry_after_s == pytest.approx(6, abs=0.6)
    assert isinstance(refused.value.standing, Standing)
    assert refused.value.standing.remaining_requests == 0


async def test_requests_at_once_come_free_when_they_end(world: World) -> None:
    who = caller(Limits(concurrent_requests=2))
    holds = await admitted(world.limiter, who, None, ONE, 3)
    assert len(holds) == 2
    holds[0].settle(NOTHING)
    holds[0].settle(NOTHING)
    assert len(await admitted(world.limiter, who, None, ONE, 3)) == 1


async def test_a_refusal_takes_nothing(world: World) -> None:
    tier = Tier("t", concurrent_requests=1)
    who = caller(Limits(requests_per_minute=2, concurrent_requests=5))
    hold = await world.limiter.hold(who, tier, ONE)
    for _ in range(3):
        with pytest.raises(RateLimited, match="The project's limit of 1 requests at once"):
            await world.limiter.hold(who, tier, ONE)
    hold.settle(NOTHING)
    await world.limiter.hold(who, tier, ONE)


async def test_B14_keys_of_a_rotation_share_rates_slots_and_budgets(world: World) -> None:
    for limits, most in (
        (Limits(requests_per_minute=3), 3),
        (Limits(tokens_per_minute=30), 3),
        (Limits(concurrent_requests=3), 3),
        (Limits(output_tokens_per_day=30), 3),
        (Limits(budget_per_day=30), 3),
        (Limits(budget_per_month=30), 3),
        (Limits(budget_total=30), 3),
    ):
        name = str(limits)
        first, second = caller(limits, key=name), caller(limits, key=f"{name}-2", first=name)
        third = caller(limits, key=f"{name}-3", first=name)
        claim = Claim(0, 10, 10)
        admitted_all = [len(await admitted(world.limiter, who, None, claim, 1)) for who in (first, second, third)]
        assert admitted_all == [1] * most, limits
        assert [len(await admitted(world.limiter, who, None, claim, 1)) for who in (first, second, third)] == [0] * 3


async def test_keys_of_a_project_share_its_limit(world: World) -> None:
    tier = Tier("t", requests_per_minute=3)
    first, second = caller(), caller(key="k2")
    assert len(await admitted(world.limiter, first, tier, ONE, 2)) == 2
    assert len(await admitted(world.limiter, second, tier, ONE, 2)) == 1
    assert len(await admitted(world.limiter, caller(project="p2", key="k3"), tier, ONE, 2)) == 2


async def test_tokens_that_were_not_used_come_back(world: World) -> None:
    who = caller(Limits(tokens_per_minute=1000))
    hold = await world.limiter.hold(who, None, Claim(300, 600, 0))
    with pytest.raises(RateLimited, match="1000 tokens per minute"):
        await world.limiter.hold(who, None, Claim(300, 600, 0))
    hold.settle(Used(100, 0, 0))
    hold = await world.limiter.hold(who, None, Claim(300, 600, 0))
    hold.settle(Used(300, 600, 0))
    with pytest.raises(RateLimited):
        await world.limiter.hold(who, None, Claim(1, 0, 0))


async def test_what_can_never_fit_is_told_so(world: World) -> None:
    who = caller(Limits(tokens_per_minute=1000))
    with pytest.raises(RateLimited, match="may use up to 1001 tokens, more than the key's limit") as refused:
        await world.limiter.hold(who, None, Claim(1, 1000, 0))
    assert refused.value.retry_after_s is None


async def test_output_windows_begin_from_the_ledger_and_end_with_the_hour(world: World) -> None:
    world.sums.tokens["key:k1"] = 900
    who = caller(Limits(output_tokens_per_hour=1000))
    world.clock.advance(60)
    hold = await world.limiter.hold(who, None, Claim(5000, 100, 0))
    with pytest.raises(RateLimited, match="1000 output tokens per hour") as refused:
        await world.limiter.hold(who, None, Claim(0, 200, 0))
    assert refused.value.retry_after_s == pytest.approx(3540)
    world.sums.tokens["key:k1"] = 0
    world.clock.advance(3540)
    await world.limiter.hold(who, None, Claim(0, 1000, 0))
    hold.settle(Used(1, 100, 0))
    with pytest.raises(RateLimited):
        await world.limiter.hold(who, None, Claim(0, 1, 0))


async def test_budgets_hold_the_bound_and_keep_the_cost(world: World) -> None:
    world.money.spent[f"key:k1:{MONTH}"] = 400
    who = caller(Limits(budget_per_month=1000))
    hold = await world.limiter.hold(who, None, Claim(1, 1, 500))
    assert hold.held_nano == 500
    with pytest.raises(QuotaExceeded, match="reserved for requests that are running"):
        await world.limiter.hold(who, None, Claim(1, 1, 101))
    hold.settle(Used(1, 1, 50))
    world.money.ledger([f"key:k1:{MONTH}"], 50, leased=world.shared)
    await world.limiter.hold(who, None, Claim(1, 1, 550))
    with pytest.raises(QuotaExceeded, match=r"budget of 0\.000001 per month"):
        await world.limiter.hold(who, None, Claim(1, 1, 551))


async def test_all_budgets_of_the_chain_must_suffice(world: World) -> None:
    world.money.credit["p1"] = 1000
    tier = Tier("t", monthly_cap=800, prepaid_credit=1)
    who = caller(Limits(budget_per_day=600, budget_total=700))
    with pytest.raises(QuotaExceeded, match="per day"):
        await world.limiter.hold(who, tier, Claim(0, 0, 601))
    hold = await world.limiter.hold(who, tier, Claim(0, 0, 600))
    hold.settle(Used(0, 0, 600))
    names = [f"key:k1:{DAY}", "key:k1:total", f"project:p1:{MONTH}", "project:p1:total"]
    world.money.ledger(names, 600, leased=world.shared)
    other = caller(key="k2")
    with pytest.raises(QuotaExceeded, match="project's budget"):
        await world.limiter.hold(other, tier, Claim(0, 0, 201))
    await world.limiter.hold(other, tier, Claim(0, 0, 200))
    no_cap = Tier("t", prepaid_credit=1)
    with pytest.raises(QuotaExceeded, match="project's credit"):
        await world.limiter.hold(other, no_cap, Claim(0, 0, 201))
    await world.limiter.hold(other, no_cap, Claim(0, 0, 200))


async def refusal_of(world: World, who: Caller, tier: Tier | None, claim: Claim) -> str:
    with pytest.raises((RateLimited, QuotaExceeded)) as refused:
        await world.limiter.hold(who, tier, claim)
    return str(refused.value)


@pytest.mark.parametrize(
    ("limits", "tier", "name", "amount", "anew"),
    [
        (Limits(budget_per_day=5 * NANO), None, f"key:k1:{DAY}", "key's budget of 5.00 per day", "2026-11-03"),
        (Limits(budget_per_month=5 * NANO), None, f"key:k1:{MONTH}", "key's budget of 5.00 per month", "2026-12-01"),
        (Limits(budget_total=5 * NANO), None, "key:k1:total", "key's budget of 5.00", None),
        (
            Limits(),
            Tier("t", monthly_cap=5 * NANO),
            f"project:p1:{MONTH}",
            "project's budget of 5.00 per month",
            "2026-12-01",
        ),
        (Limits(), Tier("t", prepaid_credit=0), "project:p1:total", "project's credit", None),
    ],
)
async def test_a_refusal_for_money_says_what_is_left_and_when_it_begins_anew(
    world: World, limits: Limits, tier: Tier | None, name: str, amount: str, anew: str | None
) -> None:
    told = "" if anew is None else f" It begins anew at {anew} 00:00 UTC."
    world.money.credit["p1"], world.money.spent[name] = 5 * NANO, 3 * NANO
    assert await refusal_of(world, caller(limits), tier, Claim(1, 1, 3 * NANO)) == (
        f"The {amount} does not suffice for this request, which may cost up to 3.00, and 2.00 is left. "
        f"A smaller max_tokens or a shorter prompt needs less.{told}"
    )
    hold = await world.limiter.hold(caller(limits), tier, Claim(1, 1, 2 * NANO))
    hold.settle(Used(1, 1, 2 * NANO))
    world.money.ledger([name], 2 * NANO, leased=world.shared)
    assert await refusal_of(world, caller(limits), tier, Claim(1, 1, NANO)) == f"Nothing is left of the {amount}.{told}"


@pytest.mark.parametrize(
    ("limits", "text", "anew"),
    [
        (Limits(tokens_per_minute=100), "100 tokens per minute", ""),
        (Limits(output_tokens_per_hour=100), "100 output tokens per hour", " It begins anew at 2026-11-02 13:00 UTC."),
        (Limits(output_tokens_per_day=100), "100 output tokens per day", " It begins anew at 2026-11-03 00:00 UTC."),
    ],
)
async def test_a_refusal_for_tokens_says_what_is_left_and_when_it_begins_anew(
    world: World, limits: Limits, text: str, anew: str
) -> None:
    hold = await world.limiter.hold(caller(limits), None, Claim(0, 70, 0))
    hold.settle(Used(0, 70, 0))
    assert await refusal_of(world, caller(limits), None, Claim(0, 31, 0)) == (
        f"The key's limit of {text} is reached. 30 are left, and this request may use up to 31.{anew}"
    )


async def test_what_costs_nothing_runs_without_money(world: World) -> None:
    who = caller(Limits(budget_total=0))
    await world.limiter.hold(who, None, Claim(10, 10, 0))


async def test_a_long_stream_extends_its_hold_until_the_money_ends(world: World) -> None:
    who = caller(Limits(budget_total=100))
    hold = await world.limiter.hold(who, None, Claim(0, 10, 40))
    assert await world.limiter.extend(hold, Claim(0, 10, 40))
    assert hold.held_nano == 80
    assert not await world.limiter.extend(hold, Claim(0, 10, 40))
    assert hold.held_nano == 80
    hold.settle(Used(0, 20, 60))
    world.money.ledger(["key:k1:total"], 60, leased=world.shared)
    await world.limiter.hold(who, None, Claim(0, 0, 40))


async def test_B08_a_hold_that_nobody_settles_is_gone_by_its_expiry(world: World) -> None:
    who = caller(Limits(concurrent_requests=1, tokens_per_minute=100, budget_total=100))
    forgotten = await world.limiter.hold(who, None, Claim(0, 100, 100))
    world.clock.advance(59)
    with pytest.raises((RateLimited, QuotaExceeded)):
        await world.limiter.hold(who, None, Claim(0, 1, 1))
    world.clock.advance(1)
    hold = await world.limiter.hold(who, None, Claim(0, 100, 100))
    assert not forgotten.extend(ONE)
    hold.settle(Used(0, 10, 10))
    forgotten.settle(Used(0, 20, 20))
    hold = await world.limiter.hold(who, None, Claim(0, 70, 70))
    with pytest.raises((RateLimited, QuotaExceeded)):
        await world.limiter.hold(who, None, Claim(0, 1, 1))


async def test_B08_a_cancelled_wait_holds_nothing(world: World) -> None:
    who = caller(Limits(concurrent_requests=1, budget_total=100, output_tokens_per_hour=10))
    for steps in range(12):
        task = asyncio.get_running_loop().create_task(world.limiter.hold(who, None, Claim(0, 10, 100)))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        for outcome in await asyncio.gather(task, return_exceptions=True):
            if not isinstance(outcome, BaseException):
                outcome.settle(NOTHING)
    await world.limiter.hold(who, None, Claim(0, 10, 100))


async def test_a_changed_limit_holds_from_the_next_request_on(world: World) -> None:
    assert len(await admitted(world.limiter, caller(Limits(requests_per_minute=5)), None, ONE, 9)) == 5
    assert len(await admitted(world.limiter, caller(Limits(requests_per_minute=8)), None, ONE, 9)) == 3
    with pytest.raises(RateLimited):
        await world.limiter.hold(caller(Limits(requests_per_minute=2)), None, ONE)


async def test_B01_parallel_holds_are_exact(world: World) -> None:
    who = caller(Limits(budget_total=100))
    outcomes = await asyncio.gather(
        *(world.limiter.hold(who, None, Claim(1, 1, 5)) for _ in range(50)), return_exceptions=True
    )
    assert sum(isinstance(outcome, QuotaExceeded) for outcome in outcomes) == 30
    assert sum(not isinstance(outcome, BaseException) for outcome in outcomes) == 20


async def test_callers_that_went_away_are_forgotten() -> None:
    clock = ManualClock(NOON_MS)
    limiter = memory_limiter(clock)
    limits = Limits(requests_per_minute=10, concurrent_requests=2, budget_total=100)
    tracemalloc.start()
    for at in range(6_000):
        if at == 2_000:
            before = tracemalloc.get_traced_memory()[0]
        hold = await limiter.hold(caller(limits, key=f"k{at}"), None, Claim(1, 1, 0))
        hold.settle(NOTHING)
        clock.advance(1)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 4_000 * 100


async def test_F13_each_hour_has_a_window_of_its_own_in_whatever_order_it_is_asked_for(world: World) -> None:
    who = caller(Limits(output_tokens_per_hour=100, budget_per_month=1000))
    later = await world.limiter.hold(who, None, Claim(0, 100, 10), started_ms=NOON_MS)
    earlier = await world.limiter.hold(who, None, Claim(0, 60, 10), started_ms=NOON_MS - 1)
    for started_ms in (NOON_MS, NOON_MS - 1, NOON_MS + 3_599_999, NOON_MS - 3_600_000):
        with pytest.raises(RateLimited, match="per hour"):
            await world.limiter.hold(who, None, Claim(0, 41, 10), started_ms=started_ms)
    earlier.settle(NOTHING)
    later.settle(Used(0, 100, 10))
    # As the ledger has it by now, if the window has to be read again.
    world.sums.tokens["key:k1"] = 100
    with pytest.raises(RateLimited):
        await world.limiter.hold(who, None, Claim(0, 1, 0), started_ms=NOON_MS)


async def test_the_room_of_a_caller_is_what_its_tightest_limit_has_left(world: World) -> None:
    who = caller(Limits(tokens_per_minute=1_000, output_tokens_per_hour=700))

    def claim(output_tokens: int) -> Claim:
        return Claim(100, output_tokens, 0)

    held = await world.limiter.hold(who, None, claim(300), NOON_MS)
    with pytest.raises(RateLimited):
        await world.limiter.hold(who, None, claim(600), NOON_MS, patient=False)
    assert world.limiter.room(who, None, claim, 1, 600, NOON_MS) == 400, "of the hour"
    assert world.limiter.room(who, None, claim, 1, 50, NOON_MS) == 50
    assert world.limiter.room(who, None, claim, 401, 600, NOON_MS) == 0
    assert world.limiter.room_for_more(held, claim, 1, 600) == 400
    second = await world.limiter.hold(who, None, claim(400), NOON_MS)
    assert world.limiter.room(who, None, claim, 1, 600, NOON_MS) == 0
    for hold in (held, second):
        hold.settle(NOTHING)


@pytest.mark.parametrize(
    "limits", [Limits(budget_total=10_000), Limits(output_tokens_per_hour=10_000)], ids=["money", "tokens"]
)
async def test_B02_an_allowance_reaches_beyond_what_was_made_to_the_end_of_the_limits(
    world: World, limits: Limits
) -> None:
    price = Price(0, "m", 0, output=1_000_000)  # a nano-unit each
    bounds = Bounds(100, None, 4_096, flexible=True, choices=1, made=1)
    running = await first_hold(world.limiter, caller(limits, key="running"), None, price, bounds, NOON_MS)
    for made, goes_on, held in (
        (100, True, 4_096),
        (5_000, True, 4_096 + 904 + 4_096),
        (9_500, True, 10_000),
        (9_999, True, 10_000),
        (10_000, False, 10_000),
        (12_000, False, 10_000),
    ):
        assert await running.keep_ahead(made) is goes_on
        assert (running.output_tokens, running.charged_at_most) == (held, held)
    running.hold.settle(NOTHING)
    ended = await first_hold(world.limiter, caller(limits, key="ended"), None, price, bounds, NOON_MS)
    for made, held in ((4_000, 4_096), (9_990, 9_990), (30_000, 10_000)):
        await ended.cover(made)
        assert (ended.output_tokens, ended.charged_at_most) == (held, held)
    ended.hold.settle(NOTHING)
    free = await first_hold(world.limiter, caller(Limits(), key="free"), None, price, bounds, NOON_MS)
    await free.cover(30_000)
    assert (free.output_tokens, free.charged_at_most) == (4_096, None)


async def test_B02_a_first_step_takes_what_is_left_and_no_less_than_will_do(world: World) -> None:
    price = Price(0, "m", 0, output=1_000_000)  # a nano-unit each
    bounds = Bounds(100, None, 4_096, flexible=True, choices=1, made=1)
    for limits, held in (
        (Limits(tokens_per_minute=1_000), 900),
        (Limits(output_tokens_per_hour=700), 700),
        (Limits(budget_total=600), 600),
        (Limits(tokens_per_minute=1_000, budget_total=600, output_tokens_per_day=500), 500),
    ):
        who = caller(limits, key=f"k{held}")
        allowance = await first_hold(world.limiter, who, None, price, bounds, NOON_MS)
        assert (allowance.output_tokens, allowance.charged_at_most, allowance.cap()) == (held, held, held)
        with pytest.raises((RateLimited, QuotaExceeded)):
            await first_hold(world.limiter, who, None, price, bounds, NOON_MS)
        allowance.hold.settle(NOTHING)
