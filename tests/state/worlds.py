"""What the tests of limits share: callers, a model of the money of all workers, and limiters over each kind of counters."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from llmaas.clock import Clock, ManualClock
from llmaas.domain.access import Caller
from llmaas.domain.keys import Key
from llmaas.domain.limits import Limits
from llmaas.domain.ports import BudgetStanding, BudgetWant, Claim, Grant, Used
from llmaas.domain.projects import Project
from llmaas.errors import Unavailable
from llmaas.state.budgets import BudgetLeases
from llmaas.state.leases import SharedCounters
from llmaas.state.limiter import CountingLimiter
from llmaas.state.memory import MemoryCounters
from llmaas.state.valkey import ValkeyCounters

ONE = Claim(0, 0, 0)
NOTHING = Used(0, 0, 0)


def caller(
    limits: Limits = Limits(),  # noqa: B008 - frozen
    *,
    key: str = "k1",
    project: str = "p1",
    first: str | None = None,
) -> Caller:
    return Caller(Key(key, project, key, b"", 0, limits=limits, first_id=first), Project(project, project, 0))


class Money:
    """Spent and leased of every budget, as the database of all workers has it. Each worker has a door of its own."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, int] = defaultdict(int)
        self.leased: defaultdict[str, int] = defaultdict(int)
        self.credit: defaultdict[str, int] = defaultdict(int)
        self.calls = 0
        self.pause_s = 0.0
        self.called_back: list[Callable[[str], None]] = []
        """Of each worker."""

    async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
        self.calls += 1
        await asyncio.sleep(0)
        return {name: BudgetStanding(self.spent[name], self.leased[name]) for name in budget_ids}

    def door(self) -> MoneyDoor:
        """For one worker."""
        return MoneyDoor(self)

    async def credit_nano(self, project_id: str) -> int:
        return self.credit[project_id]

    def ledger(self, names: Sequence[str], cost: int, *, leased: bool) -> None:
        """What the ledger does in the transaction of a row."""
        for name in names:
            self.spent[name] += cost
            if leased:
                self.leased[name] -= min(cost, self.leased[name])


class MoneyDoor:
    """One worker's way to all money. `lost`: the answers of so many calls do not arrive, though they did happen."""

    def __init__(self, money: Money) -> None:
        self._money = money
        self._nets: defaultdict[str, int] = defaultdict(int)
        self.lost = 0

    async def standing(self, budget_ids: Sequence[str]) -> dict[str, BudgetStanding]:
        return await self._money.standing(budget_ids)

    async def credit_nano(self, project_id: str) -> int:
        return await self._money.credit_nano(project_id)

    async def call_back(self, budget_ids: Sequence[str]) -> None:
        for hear in self._money.called_back:
            for name in budget_ids:
                hear(name)

    async def take(self, wants: Sequence[BudgetWant]) -> list[Grant]:
        money = self._money
        money.calls += 1
        await asyncio.sleep(money.pause_s)
        grants = []
        for want in wants:
            name = want.budget_id
            back = 0 if want.net_nano is None else self._nets[name] - want.net_nano
            assert 0 <= back <= money.leased[name], "more given back than was leased"
            money.leased[name] -= back
            cap = want.cap_nano if want.cap_nano is not None else money.credit[name.split(":")[1]]
            room = max(0, cap - money.spent[name] - money.leased[name])
            granted = min(want.most_nano, room) if room >= want.least_nano else 0
            money.leased[name] += granted
            self._nets[name] += granted - back
            grants.append(Grant(granted, room - granted, self._nets[name]))
        if self.lost:
            self.lost -= 1
            raise Unavailable("The database does not answer.")
        return grants


class Sums:
    """Output tokens by scope."""

    def __init__(self) -> None:
        self.tokens: defaultdict[str, int] = defaultdict(int)
        self.calls = 0

    async def output_tokens_since(self, scope: str, from_ms: int) -> int:
        self.calls += 1
        await asyncio.sleep(0)
        return self.tokens[scope]


async def flushed() -> bool:
    return True


def memory_limiter(
    clock: Clock | None = None, money: Money | None = None, sums: Sums | None = None, max_age_s: float = 60
) -> CountingLimiter:
    source = MemoryCounters((money or Money()).door(), sums or Sums(), flushed)
    return CountingLimiter(source, clock or ManualClock(), max_age_s=max_age_s)


@asynccontextmanager
async def shared_limiter(
    url: str,
    worker: str,
    clock: Clock | None = None,
    money: Money | None = None,
    sums: Sums | None = None,
    *,
    door: MoneyDoor | None = None,
    max_age_s: float = 60,
    workers: int = 1,
    steady: bool = False,
    timeout_s: float = 5,
) -> AsyncIterator[CountingLimiter]:
    """One worker's, over Valkey; its loops run within. `steady`: Valkey has to answer throughout.

    `timeout_s`: long, since a busy machine is not what a test is about that does not name it.
    """
    clock = clock or ManualClock()
    valkey = ValkeyCounters(url, worker, sums or Sums(), workers=workers, timeout_s=timeout_s)
    source = SharedCounters(valkey, BudgetLeases(door or (money or Money()).door()), clock)
    loops = asyncio.get_running_loop().create_task(source.run())
    try:
        yield CountingLimiter(source, clock, max_age_s=max_age_s)
        assert source.together or not steady
    finally:
        loops.cancel()
        with suppress(asyncio.CancelledError):
            await loops
        await valkey.close()
