"""The allowance of a running request: what is held for it on the limits of its key and project, grown in steps as it runs."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.access import Caller
from llmaas.domain.ports import Claim, Hold, Limiter, Used
from llmaas.domain.prices import Price, TokenCounts, bound_nano
from llmaas.domain.tiers import Tier
from llmaas.errors import QuotaExceeded, RateLimited
from llmaas.inference.admission import Bounds

_MARGIN_TOKENS = 512
"""So much before the end of what is held the next step is asked for: engines go on while we ask."""


class Allowance(Struct, eq=False):
    """`enough_until`: output tokens at which `keep_ahead()` has to be called. `output_tokens`: what is held by now. `charged_at_most`:
    output tokens that the caller pays for, however many were made; None: all, since nothing limits them.
    """

    _limiter: Limiter
    hold: Hold
    price: Price | None
    bounds: Bounds
    output_tokens: int
    enough_until: int
    charged_at_most: int | None

    async def keep_ahead(self, made: int) -> bool:
        """Hold further steps until they reach beyond so many output tokens, the last one as far as the limits have it left; then it may
        go on to the end of what is held. False: it is there, and the answer has to end.
        """
        most = self.bounds.output_tokens
        while made >= self.enough_until:
            step = self.bounds.first_step + max(0, made - self.output_tokens)
            if most is not None:
                step = min(step, most - self.output_tokens)
            if not await self._hold_more(step, min(self.bounds.least_step, step)):
                self.enough_until = self.output_tokens
                return made < self.output_tokens
            self.enough_until = _enough_until(self.hold, self.bounds, self.output_tokens)
        return True

    async def cover(self, made: int) -> None:
        """Hold what was made in the end, or as much of it as the limits have left: an engine may make more in one piece than anybody
        could see coming.
        """
        if self.hold.limited and made > self.output_tokens:
            await self._hold_more(made - self.output_tokens, 1)

    async def _hold_more(self, output_tokens: int, least: int) -> bool:
        """So many more, or what is left of them; False: less than `least` is left, and nothing was taken."""
        if not await self._extend(output_tokens):
            output_tokens = self._limiter.room_for_more(self.hold, self._claim, least, output_tokens)
            if not output_tokens or not await self._extend(output_tokens):
                return False
        self.output_tokens += output_tokens
        self.charged_at_most = self.output_tokens if self.hold.limited else None
        return True

    async def _extend(self, output_tokens: int) -> bool:
        claim = self._claim(output_tokens)
        return self.hold.extend(claim) or await self._limiter.extend(self.hold, claim)

    def _claim(self, output_tokens: int) -> Claim:
        return Claim(0, output_tokens, bound_nano(self.price, 0, output_tokens))

    def cap(self) -> int | None:
        """Output tokens for each choice that an engine has to be told when it does not say how many it has made until its end;
        None: it is told enough already.
        """
        most = self.bounds.output_tokens
        if not self.hold.limited or (most is not None and self.output_tokens >= most):
            return None
        return max(1, self.output_tokens // self.bounds.made)

    def settle(self, tokens: TokenCounts, cost_nano: int) -> None:
        if self.hold.limited:
            self.hold.settle(Used(tokens.prompt, tokens.completion, cost_nano))


def first_claim(price: Price | None, bounds: Bounds, output_tokens: int) -> Claim:
    """What is held before a request starts."""
    fixed = 0 if price is None else price.request
    return Claim(bounds.input_tokens, output_tokens, bound_nano(price, bounds.input_tokens, output_tokens) + fixed)


def first_allowance(limiter: Limiter, hold: Hold, price: Price | None, bounds: Bounds, held: int) -> Allowance:
    """What a hold for a first claim of so many output tokens allows."""
    charged_at_most = held if hold.limited else None
    return Allowance(limiter, hold, price, bounds, held, _enough_until(hold, bounds, held), charged_at_most)


async def first_hold(
    limiter: Limiter, caller: Caller, tier: Tier | None, price: Price | None, bounds: Bounds, started_ms: int
) -> Allowance:
    """Hold the first step, or what is left of it where that will do, asking for what is short. Raises RateLimited, QuotaExceeded,
    Unavailable.
    """
    held = bounds.first_step
    while held > bounds.least_step:
        try:
            hold = await limiter.hold(caller, tier, first_claim(price, bounds, held), started_ms, patient=False)
        except (RateLimited, QuotaExceeded):
            # Less each time, so that it ends: others take from what is left meanwhile.
            held = min(held - held // 8, step_left(limiter, caller, tier, price, bounds, started_ms))
        else:
            break
    else:
        held = bounds.least_step
        hold = await limiter.hold(caller, tier, first_claim(price, bounds, held), started_ms)
    return first_allowance(limiter, hold, price, bounds, held)


def step_left(
    limiter: Limiter, caller: Caller, tier: Tier | None, price: Price | None, bounds: Bounds, started_ms: int
) -> int:
    """Output tokens of the first step that all limits have left, as far as is known; the least step where they have not even that."""

    def claim(output_tokens: int) -> Claim:
        return first_claim(price, bounds, output_tokens)

    least = bounds.least_step
    return limiter.room(caller, tier, claim, least, bounds.first_step, started_ms) or least


def _enough_until(hold: Hold, bounds: Bounds, held: int) -> int:
    most = bounds.output_tokens
    if not hold.limited or (most is not None and held >= most):
        return 2**62  # all that it may make is held
    return held - min(_MARGIN_TOKENS, held // 8)
