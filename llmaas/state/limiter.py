"""The limiter: it finds the counters of a caller, takes them together, and remembers each open hold until it is settled or too
old. Where counters live is the matter of its `Source`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from msgspec import Struct

from llmaas.clock import Clock
from llmaas.domain.access import Caller
from llmaas.domain.ports import Claim, Hold, Standing, Used
from llmaas.domain.rates import Counter
from llmaas.domain.tiers import Tier
from llmaas.state.chain import NO_RATES, Chain
from llmaas.state.refusals import Needs, refusal
from llmaas.state.rules import Rule, rules

_FORGET_MS = 600_000
_NOTHING = Claim(0, 0, 0)
_UNUSED = Used(0, 0, 0)


class Source(Protocol):
    """Where counters come from. The same id gives the same counter as long as anybody holds it."""

    def counter(self, rule: Rule, now_ms: int) -> Counter:
        """The counter of that rule, with the rule's present limit."""
        ...

    def final(self, counter: Counter, need: int, now_ms: int) -> bool:
        """Whether its refusal of so much stands without asking a store."""
        ...

    async def obtain(self, needs: Needs, *, patient: bool) -> Collection[Counter]:
        """Ask for what is short of the needs, which are to be had together; gives those whose refusal stands from now on.

        Raises Unavailable.
        `patient`: wait a little where others may give something back, instead of calling that a refusal.
        """
        ...


class FreeHold(Struct, frozen=True):
    """For a caller without limits: there is nothing to hold."""

    limited: bool = False
    standing: Standing = NO_RATES
    held_nano: int = 0

    def extend(self, more: Claim) -> bool:
        return True

    def settle(self, used: Used) -> None:
        pass


FREE_HOLD = FreeHold()


class ChainHold:
    """One request's part of the counters of its chain."""

    limited = True
    __slots__ = ("_limiter", "_settled", "chain", "held", "running", "standing", "taken_ms")

    def __init__(self, limiter: CountingLimiter, chain: Chain, claim: Claim, standing: Standing, taken_ms: int) -> None:
        self._limiter = limiter
        self._settled = False
        self.chain = chain
        self.held = claim
        self.running = True
        self.standing = standing
        self.taken_ms = taken_ms

    @property
    def held_nano(self) -> int:
        return self.held.cost_nano

    def extend(self, more: Claim) -> bool:
        """An expired hold cannot be extended."""
        if not self.running or not self.chain.fits_more(more, self._limiter.now_ms()):
            return False
        self.chain.take_more(more)
        held = self.held
        self.held = Claim(
            held.input_tokens + more.input_tokens,
            held.output_tokens + more.output_tokens,
            held.cost_nano + more.cost_nano,
        )
        return True

    def settle(self, used: Used) -> None:
        if not self._settled:
            self._settled = True
            self.end(used)

    def end(self, used: Used) -> None:
        """Also for a hold that is too old: then with nothing, and what was used counts when it is settled after all."""
        now_ms = self._limiter.now_ms()
        self.chain.settle(self.held, used, now_ms)
        self.held = _NOTHING
        if self.running:
            self.running = False
            self.chain.release_slots(now_ms)
            self._limiter.ended(self)


class CountingLimiter:
    """`max_age_s`: a hold that nobody settled by then is given up; longer than any request may run."""

    def __init__(self, source: Source, clock: Clock, *, max_age_s: float = 7200, patience_s: float = 1.5) -> None:
        self._source = source
        self._clock = clock
        self._max_age_ms = round(max_age_s * 1000)
        self._patience_s = patience_s
        self._chains: dict[str, Chain] = {}
        self._open: dict[ChainHold, None] = {}

    def now_ms(self) -> int:
        return int(self._clock.monotonic_s() * 1000)

    def try_hold(self, caller: Caller, tier: Tier | None, claim: Claim, started_ms: int | None = None) -> Hold | None:
        at_ms = self._clock.now_ms() if started_ms is None else started_ms
        now_ms = self.now_ms()
        chain = self._chain(caller, tier, at_ms, now_ms)
        if not chain.limits:
            return FREE_HOLD
        self._expire(now_ms)
        if chain.fits(claim, now_ms):
            return self._take(chain, claim, now_ms)
        self._refuse_if_final(chain, claim, at_ms, now_ms)
        return None

    async def hold(
        self, caller: Caller, tier: Tier | None, claim: Claim, started_ms: int | None = None, *, patient: bool = True
    ) -> Hold:
        at_ms = self._clock.now_ms() if started_ms is None else started_ms
        until_s = asyncio.get_running_loop().time() + self._patience_s
        while True:
            hold = self.try_hold(caller, tier, claim, started_ms=at_ms)
            if hold is not None:
                return hold
            chain = self._chains[caller.key.id]
            final = await self._source.obtain(
                chain.needs(claim, more=False), patient=patient and asyncio.get_running_loop().time() < until_s
            )
            now_ms = self.now_ms()
            if final and not chain.fits(claim, now_ms):
                self._refuse_among(final, chain, claim, at_ms, now_ms)

    async def extend(self, hold: Hold, more: Claim) -> bool:
        self._expire(self.now_ms())
        until_s = asyncio.get_running_loop().time() + self._patience_s
        while not hold.extend(more):
            if not isinstance(hold, ChainHold) or not hold.running:
                return False
            short = hold.chain.short(more, self.now_ms(), more=True)
            if any(self._source.final(counter, need, self.now_ms()) for _, counter, need in short):
                return False
            needs = hold.chain.needs(more, more=True)
            final = await self._source.obtain(needs, patient=asyncio.get_running_loop().time() < until_s)
            if any(counter in final for _, counter, _ in hold.chain.short(more, self.now_ms(), more=True)):
                return False
        return True

    def room(
        self,
        caller: Caller,
        tier: Tier | None,
        claim: Callable[[int], Claim],
        least: int,
        most: int,
        started_ms: int | None = None,
    ) -> int:
        at_ms = self._clock.now_ms() if started_ms is None else started_ms
        now_ms = self.now_ms()
        return _largest(self._chain(caller, tier, at_ms, now_ms), claim, least, most, now_ms, more=False)

    def room_for_more(self, hold: Hold, claim: Callable[[int], Claim], least: int, most: int) -> int:
        if not isinstance(hold, ChainHold) or not hold.running:
            return 0
        return _largest(hold.chain, claim, least, most, self.now_ms(), more=True)

    def ended(self, hold: ChainHold) -> None:
        del self._open[hold]

    def _take(self, chain: Chain, claim: Claim, now_ms: int) -> ChainHold:
        chain.take(claim, now_ms)
        chain.used_ms = now_ms
        hold = ChainHold(self, chain, claim, chain.standing(now_ms), now_ms)
        self._open[hold] = None
        return hold

    def _refuse_if_final(self, chain: Chain, claim: Claim, at_ms: int, now_ms: int) -> None:
        short = chain.short(claim, now_ms, more=False)
        final = [part for part in short if self._source.final(part[1], part[2], now_ms)]
        if final:
            raise refusal(final, chain.standing(now_ms), at_ms=at_ms, now_ms=now_ms)

    def _refuse_among(self, final: Collection[Counter], chain: Chain, claim: Claim, at_ms: int, now_ms: int) -> None:
        short = [part for part in chain.short(claim, now_ms, more=False) if part[1] in final]
        if short:
            raise refusal(short, chain.standing(now_ms), at_ms=at_ms, now_ms=now_ms)

    def _expire(self, now_ms: int) -> None:
        while self._open:
            oldest = next(iter(self._open))
            if now_ms - oldest.taken_ms < self._max_age_ms:
                break
            oldest.end(_UNUSED)

    def _chain(self, caller: Caller, tier: Tier | None, at_ms: int, now_ms: int) -> Chain:
        chain = self._chains.get(caller.key.id)
        if (
            chain is not None
            and chain.caller is caller
            and chain.tier is tier
            and chain.from_ms <= at_ms < chain.until_ms
        ):
            return chain
        self._forget_some(now_ms)
        limits = [(rule, self._source.counter(rule, now_ms)) for rule in rules(caller, tier, at_ms)]
        chain = Chain(caller, tier, at_ms, limits, now_ms)
        # Last in the order of the dictionary: the first ones are looked at for forgetting.
        self._chains.pop(caller.key.id, None)
        self._chains[caller.key.id] = chain
        return chain

    def _forget_some(self, now_ms: int) -> None:
        """Two looks for each new chain: chains of callers that went away cannot pile up."""
        for _ in range(min(2, len(self._chains))):
            key_id = next(iter(self._chains))
            chain = self._chains.pop(key_id)
            if not chain.idle(now_ms, _FORGET_MS):
                self._chains[key_id] = chain


def _largest(chain: Chain, claim: Callable[[int], Claim], least: int, most: int, now_ms: int, *, more: bool) -> int:
    """The largest of `least` … `most` whose claim all counters have left, by bisection; 0: none of them."""
    if not chain.leaves(claim(least), now_ms, more=more):
        return 0
    while least < most:
        middle = (least + most + 1) // 2
        if chain.leaves(claim(middle), now_ms, more=more):
            least = middle
        else:
            most = middle - 1
    return least
