"""Rates against a naive simulator, and counters against the promise that they make."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.domain.rates import SCALE, Counter, Rate

LIMITS = st.integers(1, 300)
STEPS = st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 60)), max_size=80)


@given(limit=LIMITS, steps=STEPS)
def test_B12_a_rate_admits_what_the_naive_simulator_admits(limit: int, steps: list[tuple[int, int]]) -> None:
    rate = Rate(limit, 0)
    level, at, now = Fraction(0), 0, 0
    for pause_ms, amount in steps:
        now += pause_ms
        level, at = max(Fraction(0), level - Fraction(limit * (now - at), 60_000)), now
        admits = level + amount <= limit
        assert (rate.free(now) >= amount) is admits
        if admits:
            rate.take(amount)
            rate.settle(amount, amount, now)
            level += amount


@given(limit=LIMITS, steps=st.lists(st.tuples(st.integers(0, 9_000), st.integers(1, 60), st.booleans()), max_size=60))
def test_B12_no_window_sees_more_than_the_burst_and_what_drained_in_it(
    limit: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Holds that end later and use less than they held are among them."""
    rate, now = Rate(limit, 0), 0
    running: list[int] = []
    uses: list[tuple[int, int]] = []
    for pause_ms, amount, ends in steps:
        now += pause_ms
        if rate.free(now) >= amount:
            rate.take(amount)
            running.append(amount)
        if ends and running:
            held = running.pop(0)
            used = (held + 1) // 2
            rate.settle(held, used, now)
            uses.append((now, used))
    for first, (start, _) in enumerate(uses):
        total = 0
        for at, used in uses[first:]:
            total += used
            assert total * 60_000 <= limit * 60_000 + limit * (at - start)


@given(limit=LIMITS, amount=st.integers(1, 300), pause_ms=st.integers(0, 60_000))
def test_the_wait_is_exact(limit: int, amount: int, pause_ms: int) -> None:
    rate = Rate(limit, 0)
    rate.take(limit)
    rate.settle(limit, limit, 0)
    wait_ms = rate.wait_ms(amount, pause_ms)
    if amount > limit:
        assert wait_ms is None
        return
    assert wait_ms is not None
    assert rate.free(pause_ms + wait_ms) >= amount
    if wait_ms:
        earlier = Rate(limit, 0)
        earlier.take(limit)
        earlier.settle(limit, limit, 0)
        assert earlier.free(pause_ms + wait_ms - 1) < amount


@pytest.mark.parametrize("jump_ms", [-3_600_000, -1])
def test_F13_a_clock_that_jumps_back_frees_nothing_and_locks_nobody_out(jump_ms: int) -> None:
    start = 10_000_000
    rate = Rate(60, start)
    rate.take(60)
    rate.settle(60, 60, start)
    assert rate.free(start + jump_ms) == 0
    assert rate.free(start + jump_ms + 60_000) == 60


def test_what_is_held_does_not_drain() -> None:
    rate = Rate(60, 0)
    rate.take(60)
    assert rate.free(120_000) == 0
    rate.settle(60, 30, 120_000)
    assert rate.free(120_000) == 30
    assert rate.free(150_000) == 60
    assert rate.level(150_000) == 0
    assert rate.full(150_000)


def test_a_lowered_limit_refuses_until_it_fits_again() -> None:
    rate = Rate(100, 0)
    rate.take(100)
    rate.settle(100, 100, 0)
    rate.limit = 10
    assert rate.free(0) == -90
    assert rate.reset_ms(0) == 100 * SCALE // 10
    counter = Counter(5)
    counter.take(5)
    counter.limit = 3
    assert counter.free(0) == -2
    assert counter.left(0) == 0
    counter.settle(5, 2, 0)
    assert counter.free(0) == 1
