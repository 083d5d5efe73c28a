"""The allowance of a running request: what is held for it on the limits of its key and project, grown in steps as it runs."""

from __future__ import annotations

from msgspec import Struct

from llmaas.domain.ports import Claim, Hold, Limiter, Used
from llmaas.domain.prices import Price, TokenCounts, bound_nano
from llmaas.inference.admission import Bounds

_MARGIN_TOKENS = 512
"""So much before the end of what is held the next step is asked for: engines go on while we ask."""


class Allowance(Struct, eq=False):
    """`enough_until`: output tokens at which `grow()` has to be called. `output_tokens`: what is held by now."""

    _limiter: Limiter
    hold: Hold
    price: Price | None
    bounds: Bounds
    output_tokens: int
    enough_until: int

    async def grow(self) -> bool:
        """Hold another step. False: a limit says no, and the answer has to end here."""
        more, most = self.bounds.first_step, self.bounds.output_tokens
        if most is not None:
            more = min(more, most - self.output_tokens)
        claim = Claim(0, more, bound_nano(self.price, 0, more))
        if not self.hold.extend(claim) and not await self._limiter.extend(self.hold, claim):
            return False
        self.output_tokens += more
        self.enough_until = _enough_until(self.hold, self.bounds, self.output_tokens)
        return True

    def cap(self) -> int | None:
        """Output tokens for each choice that an engine has to be told when it does not say how many it has made until its end;
        None: it is told enough already.
        """
        most = self.bounds.output_tokens
        if not self.hold.limited or (most is not None and self.output_tokens >= most):
            return None
        return max(1, self.output_tokens // self.bounds.choices)

    def settle(self, tokens: TokenCounts, cost_nano: int) -> None:
        if self.hold.limited:
            self.hold.settle(Used(tokens.prompt, tokens.completion, cost_nano))


def first_allowance(limiter: Limiter, hold: Hold, price: Price | None, bounds: Bounds) -> Allowance:
    """What a hold for the first claim allows."""
    held = bounds.first_step
    return Allowance(limiter, hold, price, bounds, held, _enough_until(hold, bounds, held))


def _enough_until(hold: Hold, bounds: Bounds, held: int) -> int:
    most = bounds.output_tokens
    if not hold.limited or (most is not None and held >= most):
        return 2**62  # all that it may make is held
    return held - min(_MARGIN_TOKENS, held // 8)


def first_claim(price: Price | None, bounds: Bounds) -> Claim:
    """What is held before a request starts."""
    fixed = 0 if price is None else price.request
    return Claim(
        bounds.input_tokens,
        bounds.first_step,
        bound_nano(price, bounds.input_tokens, bounds.first_step) + fixed,
    )
