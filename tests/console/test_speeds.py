"""How fast models are said to be."""

from __future__ import annotations

import pytest

from llmaas.control.status.speeds import speed_of
from llmaas.domain.usage import UsageSum


@pytest.mark.parametrize(
    ("ttft_ms", "rate"),
    [
        (2_000, 125),  # 1,000 tokens in the 8 s after the first
        (0, 100),
        (10_000, 100),  # the first byte was the last: the whole time is all that is known
        (9_990, 100),
    ],
)
def test_a_rate_is_of_the_time_that_an_answer_took(ttft_ms: int, rate: int) -> None:
    numbers = dict.fromkeys(("input_tokens", "cached_input_tokens", "reasoning_tokens", "cost_nano"), 0)
    part = UsageSum(
        ("m",),
        "EUR",
        requests=10,
        output_tokens=1_000,
        duration_ms=10_000,
        ttft_ms=ttft_ms,
        ttft_requests=10,
        **numbers,
    )
    assert speed_of(part).tokens_per_s == rate
