"""The limiter against a naive model in memory, over whole lives: hold, extend, settle, expire, restart, change of limits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from llmaas.clock import ManualClock
from llmaas.domain.access import Caller
from llmaas.domain.limits import Limits
from llmaas.domain.ports import Claim, Hold, Used
from llmaas.errors import QuotaExceeded, RateLimited
from llmaas.state.limiter import CountingLimiter
from llmaas.state.memory import MemoryCounters
from tests.state.worlds import Money, Sums, caller, flushed

MAX_AGE_S = 600
NAME = "key:k1:total"
CLAIMS = st.builds(Claim, st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))


@dataclass
class Running:
    hold: Hold
    claim: Claim
    since_s: float
    alive: bool = True


class Machine(RuleBasedStateMachine):
    """The model knows sums only; it forgets rates at a restart, as the limiter may."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock, self.money, self.sums = ManualClock(1_793_620_800_000), Money(), Sums()
        self.running: list[Running] = []
        self.rate = Fraction(0)
        self.tokens = Fraction(0)
        self.rated_s = 0.0

    @initialize(cap=st.integers(50, 400), slots=st.integers(1, 5), rpm=st.integers(5, 30))
    def begin(self, cap: int, slots: int, rpm: int) -> None:
        self.limits = Limits(rpm, 200, slots, 500, None, None, None, cap)
        self.who: Caller = caller(self.limits)
        self.start()

    def start(self) -> None:
        self.source = MemoryCounters(self.money.door(), self.sums, flushed)
        self.limiter = CountingLimiter(self.source, self.clock, max_age_s=MAX_AGE_S)

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @property
    def alive(self) -> list[Running]:
        return [running for running in self.running if running.alive]

    def held(self, field: str) -> int:
        return sum(getattr(running.claim, field) for running in self.alive)

    def pass_time(self) -> None:
        now_s = self.clock.monotonic_s()
        elapsed = Fraction(round((now_s - self.rated_s) * 1000), 60_000)
        self.rate = max(Fraction(0), self.rate - elapsed * (self.limits.requests_per_minute or 0))
        self.tokens = max(Fraction(0), self.tokens - elapsed * (self.limits.tokens_per_minute or 0))
        self.rated_s = now_s
        for running in self.alive:
            running.alive = now_s - running.since_s < MAX_AGE_S

    def fits(self, claim: Claim) -> bool:
        """Money, output and tokens: what a running request's next step needs too."""
        cost, output = claim.cost_nano, claim.output_tokens
        tokens = claim.input_tokens + output
        held_tokens = self.held("input_tokens") + self.held("output_tokens")
        return (
            (not cost or self.money.spent[NAME] + self.held("cost_nano") + cost <= (self.limits.budget_total or 0))
            and (not output or self.sums.tokens["key:k1"] + self.held("output_tokens") + output <= 500)
            and (not tokens or self.tokens + held_tokens + tokens <= (self.limits.tokens_per_minute or 0))
        )

    @rule(claim=CLAIMS)
    def hold(self, claim: Claim) -> None:
        self.pass_time()
        admits = (
            self.fits(claim)
            and self.rate + 1 <= (self.limits.requests_per_minute or 0)
            and len(self.alive) < (self.limits.concurrent_requests or 0)
        )
        try:
            hold = self.wait(self.limiter.hold(self.who, None, claim))
        except (RateLimited, QuotaExceeded):
            assert not admits
            return
        assert admits
        self.rate += 1
        self.running.append(Running(hold, claim, self.clock.monotonic_s()))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), more=CLAIMS)
    def extend(self, data: st.DataObject, more: Claim) -> None:
        self.pass_time()
        running = data.draw(st.sampled_from(self.alive)) if self.alive else None
        if running is None:
            return
        admits = self.fits(more)
        assert self.wait(self.limiter.extend(running.hold, more)) is admits
        if admits:
            was = running.claim
            running.claim = Claim(
                was.input_tokens + more.input_tokens,
                was.output_tokens + more.output_tokens,
                was.cost_nano + more.cost_nano,
            )

    @precondition(lambda self: self.running)
    @rule(data=st.data(), part=st.integers(0, 100), again=st.booleans())
    def settle(self, data: st.DataObject, part: int, again: bool) -> None:
        """Also of holds that are too old by now."""
        self.pass_time()
        running = data.draw(st.sampled_from(self.running))
        claim = running.claim
        used = Used(*(amount * part // 100 for amount in (claim.input_tokens, claim.output_tokens, claim.cost_nano)))
        for _ in range(1 + again):
            running.hold.settle(used)
        self.running.remove(running)
        self.money.spent[NAME] += used.cost_nano
        self.sums.tokens["key:k1"] += used.output_tokens
        self.tokens += used.input_tokens + used.output_tokens

    @rule(seconds=st.sampled_from([0, 0.25, 1, 7, 61, MAX_AGE_S]))
    def time_passes(self, seconds: float) -> None:
        hour = self.clock.now_ms() // 3_600_000
        self.clock.advance(seconds)
        if self.clock.now_ms() // 3_600_000 != hour:
            self.drop()
            self.sums.tokens.clear()
            self.restart()

    @rule()
    def restart(self) -> None:
        """Killed: what ran is not settled, and counters begin from what the database knows."""
        self.drop()
        self.start()
        self.rate = self.tokens = Fraction(0)
        self.pass_time()

    @rule(cap=st.integers(0, 400), slots=st.integers(1, 5), rpm=st.integers(5, 30))
    def limits_change(self, cap: int, slots: int, rpm: int) -> None:
        self.pass_time()
        self.limits = Limits(rpm, 200, slots, 500, None, None, None, cap)
        self.who = caller(self.limits)
        # Limits are seen with the next request; this one is refused, and takes nothing.
        with suppress(RateLimited, QuotaExceeded):
            self.wait(self.limiter.hold(self.who, None, Claim(10**6, 0, 0)))

    @rule()
    def refresh(self) -> None:
        """After a correction that gave something back."""
        self.money.spent[NAME] -= min(3, self.money.spent[NAME])
        self.wait(self.source.refresh())

    def drop(self) -> None:
        self.running.clear()

    @invariant()
    def nothing_is_held_for_nobody(self) -> None:
        assert sum(running.hold.held_nano for running in self.alive) == self.held("cost_nano")

    def teardown(self) -> None:
        self.loop.close()


def test_B03_the_limiter_does_what_the_model_does() -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        ),
    )
