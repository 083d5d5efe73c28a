"""The counters of one request: of its key, then of its project, grouped by what moves them. All are taken, or none."""

from __future__ import annotations

from collections.abc import Sequence

from llmaas.domain.access import Caller
from llmaas.domain.ports import Claim, Standing, Used
from llmaas.domain.rates import Counter
from llmaas.domain.tiers import Tier
from llmaas.state.rules import HOUR_MS, Kind, Rule

NO_RATES = Standing()


class Chain:
    """Made of one key and one tier, for requests that start within `from_ms` … `until_ms`. All times but those: monotonic ms."""

    __slots__ = (
        "caller",
        "from_ms",
        "limits",
        "money",
        "output",
        "requests",
        "slots",
        "tier",
        "tokens",
        "until_ms",
        "used_ms",
    )

    def __init__(
        self, caller: Caller, tier: Tier | None, at_ms: int, limits: Sequence[tuple[Rule, Counter]], now_ms: int
    ) -> None:
        self.caller = caller
        self.tier = tier
        self.from_ms = at_ms - at_ms % HOUR_MS
        self.until_ms = self.from_ms + HOUR_MS
        self.used_ms = now_ms
        self.limits = limits

        def of(kind: Kind) -> tuple[Counter, ...]:
            return tuple(counter for rule, counter in limits if rule.kind is kind)

        self.requests, self.slots, self.tokens = of(Kind.REQUESTS), of(Kind.SLOTS), of(Kind.TOKENS)
        self.output, self.money = of(Kind.OUTPUT), of(Kind.MONEY)

    def fits(self, claim: Claim, now_ms: int) -> bool:
        """Whether a request may begin with that claim. What a claim needs nothing of cannot refuse it."""
        for counter in self.requests:
            if counter.free(now_ms) < 1:
                return False
        for counter in self.slots:
            if counter.free(now_ms) < 1:
                return False
        return self.fits_more(claim, now_ms)

    def fits_more(self, claim: Claim, now_ms: int) -> bool:
        """Whether a request that runs already may go on with that claim on top."""
        output = claim.output_tokens
        tokens = claim.input_tokens + output
        if tokens:
            for counter in self.tokens:
                if counter.free(now_ms) < tokens:
                    return False
        if output:
            for counter in self.output:
                if counter.free(now_ms) < output:
                    return False
        cost = claim.cost_nano
        if cost:
            for counter in self.money:
                if counter.free(now_ms) < cost:
                    return False
        return True

    def take(self, claim: Claim, now_ms: int) -> None:
        """A request counts from now on, however it ends; the rest is held until it is settled."""
        for counter in self.requests:
            counter.take(1)
            counter.settle(1, 1, now_ms)
        for counter in self.slots:
            counter.take(1)
        self.take_more(claim)

    def take_more(self, claim: Claim) -> None:
        output = claim.output_tokens
        tokens = claim.input_tokens + output
        for counter in self.tokens:
            counter.take(tokens)
        for counter in self.output:
            counter.take(output)
        cost = claim.cost_nano
        for counter in self.money:
            counter.take(cost)

    def settle(self, held: Claim, used: Used, now_ms: int) -> None:
        """Exchange all that is still held for what was used."""
        tokens, total = held.input_tokens + held.output_tokens, used.input_tokens + used.output_tokens
        for counter in self.tokens:
            counter.settle(tokens, total, now_ms)
        for counter in self.output:
            counter.settle(held.output_tokens, used.output_tokens, now_ms)
        for counter in self.money:
            counter.settle(held.cost_nano, used.cost_nano, now_ms)

    def release_slots(self, now_ms: int) -> None:
        for counter in self.slots:
            counter.settle(1, 0, now_ms)

    def needs(self, claim: Claim, *, more: bool) -> list[tuple[Rule, Counter, int]]:
        """What the claim takes of each counter that it takes anything of. `more`: the request runs already."""
        once = 0 if more else 1
        needs = {
            Kind.REQUESTS: once,
            Kind.SLOTS: once,
            Kind.TOKENS: claim.input_tokens + claim.output_tokens,
            Kind.OUTPUT: claim.output_tokens,
            Kind.MONEY: claim.cost_nano,
        }
        return [(rule, counter, need) for rule, counter in self.limits if (need := needs[rule.kind])]

    def short(self, claim: Claim, now_ms: int, *, more: bool) -> list[tuple[Rule, Counter, int]]:
        """Those of the needs that refuse."""
        return [part for part in self.needs(claim, more=more) if part[1].free(now_ms) < part[2]]

    def leaves(self, claim: Claim, now_ms: int, *, more: bool) -> bool:
        """Whether the claim can be had by asking, as far as is known."""
        return all(counter.may_have(need, now_ms) for _, counter, need in self.needs(claim, more=more))

    def idle(self, now_ms: int, forget_ms: int) -> bool:
        """Whether nothing is lost when the counters are made anew."""
        if now_ms - self.used_ms > forget_ms:
            return True
        return all(counter.full(now_ms) for _, counter in self.limits)

    def standing(self, now_ms: int) -> Standing:
        """Of the counters with the least left."""
        if not self.requests and not self.tokens:
            return NO_RATES
        return Standing(*_tightest(self.requests, now_ms), *_tightest(self.tokens, now_ms))


def _tightest(counters: Sequence[Counter], now_ms: int) -> tuple[int | None, int | None, float | None]:
    """Limit, what is left of it, and seconds until nothing of it is used."""
    if not counters:
        return None, None, None
    counter = counters[0] if len(counters) == 1 else min(counters, key=lambda counter: counter.left(now_ms))
    return counter.limit, counter.left(now_ms), counter.reset_ms(now_ms) / 1000
