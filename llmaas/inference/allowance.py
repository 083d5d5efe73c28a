"""The allowance of a running request: what is held for it on the limits of its key and project, grown in steps as it runs."""

from __future__ import annotations

from llmaas.domain.ports import Claim, Hold, Limiter, Used
from llmaas.domain.prices import Price, TokenCounts, bound_nano
from llmaas.inference.admission import Bounds

_MARGIN_TOKENS = 512
"""So much before the end of what is held the next step is asked for: engines go on while we ask."""


class Allowance:
    """`enough_until`: output tokens at which `grow()` has to be called. `output_tokens`: what is held by now.

    `cap`: output tokens for each choice that an engine has to be told when it does not say how many it has made until its
    end; None: it is told enough already.
    """

    __slots__ = ("_limiter", "bounds", "enough_until", "hold", "output_tokens", "price")

    def __init__(self, limiter: Limiter, hold: Hold, price: Price | None, bounds: Bounds) -> None:
        self._limiter = limiter
        self.hold = hold
        self.price = price
        self.bounds = bounds
        self.output_tokens = bounds.first_step
        self.enough_until = self._next_limit()

    async def grow(self) -> bool:
        """Hold another step. False: a limit says no, and the answer has to end here."""
        more, most = self.bounds.first_step, self.bounds.output_tokens
        if most is not None:
            more = min(more, most - self.output_tokens)
        claim = Claim(0, more, bound_nano(self.price, 0, more))
        if not self.hold.extend(claim) and not await self._limiter.extend(self.hold, claim):
            return False
        self.output_tokens += more
        self.enough_until = self._next_limit()
        return True

    @property
    def cap(self) -> int | None:
        most = self.bounds.output_tokens
        if not self.hold.limited or (most is not None and self.output_tokens >= most):
            return None
        return max(1, self.output_tokens // self.bounds.choices)

    def settle(self, tokens: TokenCounts, cost_nano: int) -> None:
        self.hold.settle(Used(tokens.prompt, tokens.completion, cost_nano))

    def _next_limit(self) -> int:
        most = self.bounds.output_tokens
        if not self.hold.limited or (most is not None and self.output_tokens >= most):
            return 2**62  # all that it may make is held
        return self.output_tokens - min(_MARGIN_TOKENS, self.output_tokens // 8)


def first_claim(price: Price | None, bounds: Bounds) -> Claim:
    """What is held before a request starts."""
    fixed = 0 if price is None else price.request
    return Claim(
        bounds.input_tokens,
        bounds.first_step,
        bound_nano(price, bounds.input_tokens, bounds.first_step) + fixed,
    )
