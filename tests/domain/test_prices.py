"""Costs are exact: rational arithmetic is the judge."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.domain.prices import NANO, Price, TokenCounts, cost_nano, format_amount, parse_amount

AMOUNT = st.integers(0, 1_000_000 * NANO)
TOKENS = st.integers(0, 2**28)
CLASSES = ("input", "cached_input", "output", "reasoning")


@given(
    prices=st.tuples(AMOUNT, AMOUNT, AMOUNT, AMOUNT), request=AMOUNT, counts=st.tuples(TOKENS, TOKENS, TOKENS, TOKENS)
)
def test_a_cost_is_the_exact_sum_rounded_half_up_once(
    prices: tuple[int, ...], request: int, counts: tuple[int, ...]
) -> None:
    amounts: dict[str, Any] = dict(zip(CLASSES, prices, strict=True))
    price = Price(1, "m", 0, **amounts, request=request)
    tokens = TokenCounts(**dict(zip(CLASSES, counts, strict=True)))
    exact = sum(Fraction(p * n, 1_000_000) for p, n in zip(prices, counts, strict=True)) + request
    assert cost_nano(price, tokens) == math.floor(exact + Fraction(1, 2))


def test_a_half_is_rounded_up() -> None:
    price = Price(1, "m", 0, input=500_000, output=499_999)
    assert cost_nano(price, TokenCounts(input=1)) == 1
    assert cost_nano(price, TokenCounts(output=1)) == 0
    assert cost_nano(price, TokenCounts()) == 0


@given(AMOUNT)
def test_amounts_are_written_as_they_are_read(nano: int) -> None:
    assert parse_amount(format_amount(nano)) == nano


@pytest.mark.parametrize(
    "text",
    ["", "-1", "+1", "1e3", ".5", "1.", "1,5", " 1", "0x1", "NaN", "1.0000000001", "1000000.000000001", "\u0661"],
)
def test_what_is_no_plain_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"must be|places"):
        parse_amount(text)
