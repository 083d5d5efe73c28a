"""The meter: whatever an engine claims, the counts stay within what was seen and what was allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.domain.prices import TokenCounts
from llmaas.domain.usage import UsageSource
from llmaas.errors import EngineFailed
from llmaas.inference.admission import Bounds
from llmaas.inference.meter import Meter, settle_counts
from llmaas.protocol.engine import EngineAnswer, answer_decoder
from llmaas.protocol.pieces import Pieces
from llmaas.protocol.usage import Reported

PROMPT_BYTES = 100
NUMBERS = st.one_of(
    st.integers(-5, 50), st.integers(0, 2**70), st.floats(), st.text(max_size=3), st.none(), st.booleans()
)


def meter(*, bound: int | None = 20, whole: bool = False) -> Meter:
    bounds = Bounds(PROMPT_BYTES, PROMPT_BYTES + 512, bound, 4096 if bound is None else bound, 1)
    return Meter(bounds, Pieces(1, split_thinking=False), whole)


def answer(**fields: Any) -> EngineAnswer:
    return answer_decoder.decode(json.dumps(fields).replace("NaN", "null").replace("Infinity", "1e999"))


def piece(text: str = "x") -> EngineAnswer:
    return answer(choices=[{"index": 0, "delta": {"content": text}}])


def total(tokens: TokenCounts) -> int:
    return tokens.output + tokens.reasoning


@given(
    seen=st.integers(0, 20),
    prompt=NUMBERS,
    completion=NUMBERS,
    cached=NUMBERS,
    reasoning=NUMBERS,
    bound=st.one_of(st.none(), st.integers(1, 20)),
)
def test_B10_counts_stay_between_what_was_seen_and_what_was_allowed(
    seen: int, prompt: Any, completion: Any, cached: Any, reasoning: Any, bound: int | None
) -> None:
    counting = meter(bound=bound)
    counting.feed([piece() for _ in range(seen)])
    usage = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
    try:
        counting.feed([answer(choices=[], usage=usage)])
    except ValueError:
        return
    tokens, source, suspect = counting.counts()
    assert min(tokens.input, tokens.cached_input, tokens.output, tokens.reasoning) >= 0
    most = 2**21 if bound is None else bound
    assert min(seen, most) <= total(tokens) <= most, "never more than was held, whatever came"
    assert tokens.input + tokens.cached_input <= PROMPT_BYTES + 4096
    honest = type(prompt) is int and type(completion) is int and prompt >= 0 and completion >= 0
    if source is UsageSource.ENGINE and not suspect:
        assert not honest or (tokens.input + tokens.cached_input, total(tokens)) == (prompt, completion)
    if source is UsageSource.COUNTED:
        assert suspect
        assert total(tokens) == min(seen, most)


@given(
    reported=st.builds(
        Reported,
        prompt=st.integers(0, 2**60),
        completion=st.integers(0, 2**60),
        cached=st.integers(0, 2**60),
        reasoning=st.one_of(st.none(), st.integers(0, 2**60)),
        suspect=st.booleans(),
    ),
    seen=st.integers(0, 1000),
    thought=st.integers(0, 1000),
    bound=st.integers(0, 1000),
)
def test_classes_are_disjoint_and_add_up(reported: Reported, seen: int, thought: int, bound: int) -> None:
    tokens, bent = settle_counts(
        reported, seen=seen, seen_reasoning=thought, prompt_bound=5_000, completion_bound=bound
    )
    assert min(seen, bound) <= total(tokens) <= bound
    assert tokens.input + tokens.cached_input == min(reported.prompt, 5_000)
    if total(tokens) != reported.completion or tokens.input + tokens.cached_input != reported.prompt:
        assert bent


def test_A16_an_engine_that_goes_on_past_its_bound_is_stopped() -> None:
    counting = meter(bound=20)
    with pytest.raises(EngineFailed):
        counting.feed([piece() for _ in range(1_000)])


def test_a_whole_answer_without_counts_is_estimated_from_its_size() -> None:
    counting = meter(bound=20, whole=True)
    counting.feed([answer(choices=[{"index": 0, "message": {"content": "x" * 33}, "finish_reason": "stop"}])])
    tokens, source, suspect = counting.counts()
    assert (tokens, source, suspect) == (TokenCounts(input=25, output=9), UsageSource.COUNTED, True)
    endless = meter(bound=20, whole=True)
    endless.feed([answer(choices=[{"index": 0, "message": {"content": "x" * 1_000}, "finish_reason": "stop"}])])
    assert endless.counts()[0].output == 20
