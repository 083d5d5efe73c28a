"""Counters of one process that serves everything: in memory, begun from what SQL knows of windows and budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from weakref import WeakSet, WeakValueDictionary

from llmaas.domain.ports import BudgetStore, UsageSums
from llmaas.domain.rates import Counter, Rate
from llmaas.errors import Unavailable
from llmaas.state.refusals import Needs
from llmaas.state.rules import Kind, Rule

_AGAIN_S = 0.05


class _Known(Counter):
    """A window or a budget. Nothing is free of it until its sums were read."""

    __slots__ = ("known", "rule")

    def __init__(self, rule: Rule) -> None:
        super().__init__(0)
        self.rule = rule
        self.known = False

    def may_have(self, amount: int, now_ms: int) -> bool:
        return not self.known or super().may_have(amount, now_ms)


class MemoryCounters:
    """`flushed`: waits until all rows handed to the ledger so far are in the database; False when they are elsewhere.

    `patience_s`: how long a request waits for that.
    """

    def __init__(
        self,
        budgets: BudgetStore,
        sums: UsageSums,
        flushed: Callable[[], Awaitable[bool]],
        *,
        patience_s: float = 2.0,
    ) -> None:
        self._patience_s = patience_s
        self._budgets = budgets
        self._sums = sums
        self._flushed = flushed
        # Chains and holds own the counters; what no chain and no hold needs is gone.
        self._counters: WeakValueDictionary[str, Counter] = WeakValueDictionary()
        self._money: WeakSet[_Known] = WeakSet()
        self._loading: dict[str, asyncio.Future[None]] = {}

    def counter(self, rule: Rule, now_ms: int) -> Counter:
        counter = self._counters.get(rule.id)
        if counter is None:
            counter = self._counters[rule.id] = self._new(rule, now_ms)
        if isinstance(counter, _Known):
            counter.rule = rule
            if counter.known and rule.limit is not None:
                counter.limit = rule.limit
        elif rule.limit is not None:
            if isinstance(counter, Rate):
                counter.level(now_ms)
            counter.limit = rule.limit
        return counter

    def final(self, counter: Counter, need: int, now_ms: int) -> bool:
        return not isinstance(counter, _Known) or counter.known

    async def obtain(self, needs: Needs, *, patient: bool) -> Collection[Counter]:
        for _, counter, _ in needs:
            while isinstance(counter, _Known) and not counter.known:
                await self._load_once(counter)
        return ()

    async def refresh(self) -> bool:
        """Read budgets and credit again: limits, credit or corrections were changed by others. What is held stays.

        False when what was spent is not known to the last unit, because rows are still on their way to the database or went there
        meanwhile: to be tried again.
        """
        before = {counter: counter.used for counter in self._money if counter.known}
        for counter in before:
            if counter.rule.limit is None:
                counter.limit = await self._credit(counter.rule)
        if not before:
            return True
        if not await self._flushed():
            return False
        standing = await self._budgets.standing([counter.rule.id for counter in before])
        exact = True
        for counter, used_before in before.items():
            # What was settled since `flushed` may or may not be in the sum; as it is counted in addition, no cap is overrun.
            settled = counter.used - used_before
            counter.used = standing[counter.rule.id].spent_nano + settled
            exact = exact and not settled
        return exact

    def _new(self, rule: Rule, now_ms: int) -> Counter:
        if rule.kind in (Kind.REQUESTS, Kind.TOKENS):
            return Rate(rule.limit or 0, now_ms)
        if rule.kind is Kind.SLOTS:
            return Counter(rule.limit or 0)
        counter = _Known(rule)
        if rule.kind is Kind.MONEY:
            self._money.add(counter)
        return counter

    async def _load_once(self, counter: _Known) -> None:
        """Whoever comes first reads; the others wait for it, and try by themselves when it failed."""
        loading = self._loading.get(counter.rule.id)
        if loading is not None:
            await asyncio.wait((loading,))
            return
        done = self._loading[counter.rule.id] = asyncio.get_running_loop().create_future()
        try:
            await self._load(counter)
        finally:
            del self._loading[counter.rule.id]
            done.set_result(None)

    async def _load(self, counter: _Known) -> None:
        rule = counter.rule
        # Rows on their way to the database are spent and not in its sums yet; after an outage there may be many of them.
        await self._wait_flushed()
        if rule.kind is Kind.MONEY:
            used = (await self._budgets.standing((rule.id,)))[rule.id].spent_nano
        else:
            used = await self._sums.output_tokens_since(rule.scope, rule.from_ms or 0)
        limit = await self._credit(rule) if rule.limit is None else None
        counter.used += used
        counter.known = True
        counter.limit = limit if limit is not None else counter.rule.limit or 0

    async def _wait_flushed(self) -> None:
        try:
            async with asyncio.timeout(self._patience_s):
                while not await self._flushed():  # noqa: ASYNC110 -- no database says that it is back
                    await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            raise Unavailable(
                "What was used during an outage is still being counted, so nothing can be held against limits yet.",
                retry_after_s=5,
            ) from None

    async def _credit(self, rule: Rule) -> int:
        return await self._budgets.credit_nano(rule.scope.partition(":")[2])
