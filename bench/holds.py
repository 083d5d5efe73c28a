"""CPU of a hold and its settlement with every limit of key and project set: in memory, and through leases from Valkey.

usage: python -m bench.holds [--pairs N] [--rate N]
Budgets of the leases are kept by a store in memory; Valkey is a real one. The process's own CPU time is divided by the pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable

import uvloop

from llmaas.clock import SystemClock
from llmaas.domain.access import Caller
from llmaas.domain.limits import Limits
from llmaas.domain.ports import Claim, Used
from llmaas.domain.tiers import Tier
from llmaas.state.limiter import CountingLimiter
from tests.state.worlds import Money, caller, memory_limiter, shared_limiter
from tests.valkey import ValkeyServer

MUCH = 10**9
LIMITS = Limits(MUCH, MUCH, 10_000, MUCH, MUCH, MUCH * MUCH, MUCH * MUCH, MUCH * MUCH)
TIER = Tier("t", MUCH, MUCH, 10_000, MUCH, MUCH, MUCH * MUCH, 1)
CLAIM, USED = Claim(1_000, 500, 2_000_000), Used(900, 200, 900_000)


async def pairs(limiter: CountingLimiter, who: Caller, count: int, rate: int | None) -> tuple[float, int]:
    """CPU µs for each pair, and how many had to ask. `rate`: pairs a second; each stays open for some that follow."""
    asked = 0
    open_holds = []
    await limiter.hold(who, TIER, CLAIM)
    began, wall = time.process_time(), time.monotonic()
    for at in range(count):
        hold = limiter.try_hold(who, TIER, CLAIM)
        if hold is None:
            asked += 1
            hold = await limiter.hold(who, TIER, CLAIM)
        open_holds.append(hold)
        if len(open_holds) > 20:
            open_holds.pop(0).settle(USED)
        if rate is not None and at % 5 == 4:
            await asyncio.sleep(max(0, wall + at / rate - time.monotonic()))
    for hold in open_holds:
        hold.settle(USED)
    return (time.process_time() - began) / count * 1e6, asked


async def pacing(count: int, rate: int) -> float:
    """CPU µs that the pace by itself costs, for each pair."""
    began, wall = time.process_time(), time.monotonic()
    for at in range(count):
        if at % 5 == 4:
            await asyncio.sleep(max(0, wall + at / rate - time.monotonic()))
    return (time.process_time() - began) / count * 1e6


async def main(count: int, rate: int) -> None:
    money = Money()
    money.credit["p1"] = MUCH * MUCH
    who = caller(LIMITS)
    cost, _ = await pairs(memory_limiter(SystemClock(), money), who, count, None)
    print(f"memory: {cost:.1f} µs a pair")
    server = ValkeyServer()
    server.start()
    try:
        async with shared_limiter(server.url, "bench", SystemClock(), money) as limiter:
            cost, asked = await pairs(limiter, who, count, rate)
            floor = await pacing(count // 5, rate)
            print(
                f"leases at {rate}/s: {cost - floor:.1f} µs a pair ({floor:.1f} µs of pacing left out), {asked} of {count} had to ask"
            )
    finally:
        server.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--rate", type=int, default=1_000)
    arguments = parser.parse_args()
    run: Callable[..., None] = uvloop.run
    run(main(arguments.pairs, arguments.rate))
