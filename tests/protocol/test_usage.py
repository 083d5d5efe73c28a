"""What engines say of tokens, made safe."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.protocol.engine import NOTHING
from llmaas.protocol.usage import Reported, add_usage, read_timings, read_usage, usage_json


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, Reported(3, 5, 0, None, False)),
        ({"prompt_tokens": 3.0, "completion_tokens": 5.0}, Reported(3, 5, 0, None, False)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}, Reported(3, 0, 2, None, False)),
        ({"prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}, Reported(3, 0, 0, 2, False)),
        ({"prompt_tokens": 3, "reasoning_tokens": 2}, Reported(3, 0, 0, 2, False)),
        ({"prompt_tokens": -3, "completion_tokens": 5}, Reported(0, 5, 0, None, True)),
        ({"prompt_tokens": "3", "completion_tokens": "5"}, Reported(0, 0, 0, None, True)),
        ({"prompt_tokens": True, "completion_tokens": 5}, Reported(0, 5, 0, None, True)),
        ({"prompt_tokens": 1.5, "completion_tokens": 5}, Reported(0, 5, 0, None, True)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": 7}, Reported(3, 5, 0, None, False)),
        ({}, Reported(0, 0, 0, None, True)),
        ([], Reported(0, 0, 0, None, True)),
        (5, Reported(0, 0, 0, None, True)),
        (b'{"x":"\xff"}', Reported(0, 0, 0, None, True)),
        (b'{"prompt_tokens":1e400}', Reported(0, 0, 0, None, True)),
        (b"[" * 100_000, Reported(0, 0, 0, None, True)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_usage(said: Any, read: Reported) -> None:
    assert read_usage(raw(said)) == read


def test_none_is_none() -> None:
    assert read_usage(NOTHING) is None
    assert read_usage(raw(None)) is None
    assert read_timings(NOTHING) is None


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"prompt_n": 3, "cache_n": 4, "predicted_n": 5}, Reported(7, 5, 4, None, False)),
        ({"prompt_n": 3, "predicted_n": 5}, Reported(3, 5, 0, None, False)),
        ({"prompt_n": 3, "cache_n": -4, "predicted_n": 5}, Reported(3, 5, 0, None, False)),
        ({"prompt_n": -3, "predicted_n": 5}, None),
        ({"predicted_n": 5}, None),
        ({}, None),
    ],
    ids=str,
)
def test_timings(said: Any, read: Reported | None) -> None:
    assert read_timings(raw(said)) == read


def test_sums() -> None:
    one = raw({"prompt_tokens": 3, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 1}})
    other = raw({"prompt_tokens": 4, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}})
    assert read_usage(add_usage(one, other)) == Reported(7, 6, 2, 1, False)
    assert add_usage(NOTHING, one) is one
    assert add_usage(one, NOTHING) is one


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_total_is_the_sum(prompt: int, completion: int) -> None:
    usage = msgspec.json.decode(usage_json(prompt=prompt, cached=0, completion=completion, reasoning=0))
    assert usage["total_tokens"] == prompt + completion


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_NAMES = [
    "prompt_tokens",
    "completion_tokens",
    "prompt_tokens_details",
    "completion_tokens_details",
    "reasoning_tokens",
]
_DETAILS = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), _json)


@given(st.dictionaries(st.sampled_from([*_NAMES, "prompt_n", "cache_n", "predicted_n"]), _json | _DETAILS) | _json)
def test_nothing_makes_it_fail_or_negative(said: Any) -> None:
    for read in (read_usage(raw(said)), read_timings(raw(said))):
        if read is not None:
            assert min(read.prompt, read.completion, read.cached, read.reasoning or 0) >= 0
