"""The meter: whatever an engine claims, the counts stay within what was seen and what was allowed."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmaas.domain.prices import TokenCounts
from llmaas.domain.usage import UsageSource
from llmaas.engines.contract import Take
from llmaas.engines.in_turn import InTurn
from llmaas.errors import LlmaasError
from llmaas.inference.admission import Bounds
from llmaas.inference.meter import Meter, part_of, settle_counts
from llmaas.protocol.engine import EngineAnswer, answer_decoder
from llmaas.protocol.pieces import Pieces
from llmaas.protocol.requests import ChatRequest, CompletionRequest, Message
from llmaas.protocol.usage import Reported

PROMPT_BYTES = 100
ASKED = ChatRequest(model="m", messages=[Message(role="user", content="x" * PROMPT_BYTES)])
NUMBERS = st.one_of(
    st.integers(-5, 50), st.integers(0, 2**70), st.floats(), st.text(max_size=3), st.none(), st.booleans()
)


def meter(*, bound: int | None = 20, whole: bool = False) -> Meter:
    step = 4096 if bound is None else bound
    bounds = Bounds(PROMPT_BYTES + 512, bound, step, False, 1, 1)
    return Meter(bounds, Pieces(1, split_thinking=False), whole, replace(ASKED))


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
        assert total(tokens) == min(seen, most) or tokens.input + tokens.cached_input == PROMPT_BYTES // 4


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
    bound=st.integers(0, 1000),
)
def test_classes_are_disjoint_and_add_up(reported: Reported, seen: int, bound: int) -> None:
    tokens, bent = settle_counts(reported, seen=seen, prompt_bound=5_000, completion_bound=bound)
    assert min(seen, bound) <= total(tokens) <= bound
    assert tokens.input + tokens.cached_input == min(reported.prompt or 0, 5_000)
    if total(tokens) != reported.completion or tokens.input + tokens.cached_input != reported.prompt:
        assert bent


def test_A16_an_engine_that_goes_on_past_its_bound_is_to_be_stopped_and_charged() -> None:
    counting = meter(bound=20)
    counting.feed([piece() for _ in range(8 * 20 + 64)])
    assert (counting.fault, counting.look_further()) == (None, None), "an engine may send each character by itself"
    counting.feed([piece()])
    assert counting.pieces.seen > counting.look_at
    assert counting.look_further() == counting.fault == "The engine went on past the requested length."
    assert counting.last_pieces(cut=True)[-1].finish == "length"
    tokens, source, suspect = counting.counts()
    assert (tokens.output, source, suspect) == (20, UsageSource.COUNTED, True), "no more than was asked for and held"


def test_A16_an_engine_that_goes_on_after_its_end_is_to_be_stopped_and_charged() -> None:
    counting = meter(bound=None)
    counting.feed([piece(), answer(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])])
    counting.feed([piece() for _ in range(64)])
    assert counting.look_further() is None
    counting.feed([piece()])
    assert counting.look_further() == "The engine went on after its end."
    assert counting.last_pieces(cut=True)[-1].finish == "stop"
    assert counting.counts()[0].output == 66


def test_a_whole_answer_without_counts_is_estimated_from_its_size() -> None:
    counting = meter(bound=20, whole=True)
    counting.feed([answer(choices=[{"index": 0, "message": {"content": "x" * 33}, "finish_reason": "stop"}])])
    tokens, source, suspect = counting.counts()
    assert (tokens, source, suspect) == (TokenCounts(input=25, output=9), UsageSource.COUNTED, True)
    endless = meter(bound=20, whole=True)
    endless.feed([answer(choices=[{"index": 0, "message": {"content": "x" * 1_000}, "finish_reason": "stop"}])])
    assert endless.counts()[0].output == 20


def read(
    *, whole: bool = True, bound: int | None = None, text: str = "x" * 33, **fields: Any
) -> tuple[int, int, str, bool]:
    """Prompt, output, source and mark of an answer with that text."""
    counting = meter(bound=bound, whole=whole)
    said = {"message" if whole else "delta": {"content": text}}
    counting.feed([answer(choices=[{"index": 0, **said, "finish_reason": "stop"}], **fields)])
    tokens, source, suspect = counting.counts()
    return tokens.prompt, tokens.completion, str(source), suspect


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        ({"completion_tokens": 5}, (25, 5, "counted", True)),
        ({"prompt_tokens": None, "completion_tokens": 5}, (25, 5, "counted", True)),
        ({"prompt_tokens": -7, "completion_tokens": 5}, (25, 5, "counted", True)),
        ({"prompt_tokens": 12.7, "completion_tokens": 5}, (25, 5, "counted", True)),
        ({"prompt_tokens": True, "completion_tokens": 5}, (25, 5, "counted", True)),
        ({"prompt_tokens": "12", "completion_tokens": 5}, (12, 5, "engine", True)),
        ({"prompt_tokens": 12}, (12, 9, "counted", True)),
        ({"prompt_tokens": 12, "completion_tokens": -5}, (12, 9, "counted", True)),
        ({"prompt_tokens": 12, "completion_tokens": 0}, (12, 9, "counted", True)),
        ({"prompt_tokens": 9, "total_tokens": 14}, (9, 5, "engine", True)),
        ({"prompt_tokens": 0, "completion_tokens": 5}, (0, 5, "engine", True)),
        ({"total_tokens": 30}, (21, 9, "counted", True)),
        ({"total_tokens": 3}, (25, 9, "counted", True)),
        ({"prompt_tokens": 10**15, "completion_tokens": 10**15}, (25, 9, "counted", True)),
        ({}, (25, 9, "counted", True)),
        (None, (25, 9, "counted", True)),
        ({"prompt_tokens": 12, "completion_tokens": 5}, (12, 5, "engine", False)),
    ],
    ids=str,
)
def test_B15_each_side_is_the_engines_or_the_totals_or_our_own(usage: Any, counted: tuple[int, int, str, bool]) -> None:
    assert read(usage=usage) == counted


def test_B15_timings_stand_in_for_a_side_of_usage() -> None:
    timings = {"prompt_n": 10, "cache_n": 2, "predicted_n": 5}
    assert read(whole=False, timings=timings) == (12, 5, "engine", False)
    assert read(whole=False, timings=timings, usage={"prompt_tokens": -1, "completion_tokens": 4}) == (
        12,
        4,
        "engine",
        True,
    )
    assert read(whole=False, timings={"predicted_n": 5}) == (25, 5, "counted", True)


def test_B15_the_estimate_of_a_whole_answer_has_its_calls_and_its_thoughts() -> None:
    counting = meter(bound=None, whole=True)
    call = {"id": "c", "function": {"name": "f" * 4, "arguments": "x" * 36}}
    message = {"content": "\u65e5" * 8, "reasoning_content": "t" * 64, "tool_calls": [call]}
    counting.feed([answer(choices=[{"index": 0, "message": message, "finish_reason": "tool_calls"}])])
    tokens, _, _ = counting.counts()
    assert tokens.completion == (24 + 64 + 40) // 4
    assert tokens.reasoning == 32 * 64 // (64 + 48), "its part of the text"


def test_B15_reasoning_that_the_engine_does_not_tell_is_its_part_of_the_text() -> None:
    counting = meter(bound=None, whole=True)
    message = {"content": "x" * 100, "reasoning_content": "t" * 300}
    usage = {"prompt_tokens": 9, "completion_tokens": 80}
    counting.feed([answer(choices=[{"index": 0, "message": message, "finish_reason": "stop"}], usage=usage)])
    assert counting.counts() == (TokenCounts(9, 0, 20, 60), UsageSource.ENGINE, False)


def test_B02_a_part_of_what_was_made_has_its_thoughts_first() -> None:
    made = TokenCounts(9, 3, output=500, reasoning=400)
    assert part_of(made, 128) == TokenCounts(9, 3, output=0, reasoning=128)
    assert part_of(made, 450) == TokenCounts(9, 3, output=50, reasoning=400)


def test_B15_what_is_told_on_the_way_stays_within_what_is_possible() -> None:
    for bound, most in ((20, 20), (None, 2**21)):
        counting = meter(bound=bound)
        counting.feed([answer(choices=[{"index": 0, "delta": {"content": "x"}}], usage={"completion_tokens": 2**27})])
        assert counting.output_so_far() == most


def test_reports_split_over_a_stream_are_read_together() -> None:
    counting = meter(bound=None)
    first = {"prompt_tokens": 100, "prompt_tokens_details": {"cached_tokens": 80}}
    counting.feed([answer(choices=[{"index": 0, "delta": {"content": "x"}}], usage=first), piece()])
    counting.feed([answer(choices=[], usage={"completion_tokens": 2}), answer(choices=[], usage={})])
    tokens, source, suspect = counting.counts()
    assert (tokens, source, suspect) == (TokenCounts(20, 80, 2, 0), UsageSource.ENGINE, False)


class _OneOfSeveral:
    """An engine's answer to one prompt, which it counts at its end."""

    complete = False
    heard: Sequence[EngineAnswer] = ()

    def __init__(self, *answers: EngineAnswer) -> None:
        self._answers = answers

    async def first(self) -> Sequence[EngineAnswer]:
        return self._answers[:1]

    async def each(self, take: Take) -> bool:
        return take(self._answers[1:])

    async def ended(self) -> bool:
        return True

    def abort(self, error: LlmaasError) -> None:
        raise error


async def test_a_prompt_that_has_begun_and_told_nothing_is_estimated_with_those_before_it() -> None:
    def told() -> EngineAnswer:
        return answer(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 1})

    counting = Meter(
        Bounds(PROMPT_BYTES + 512, None, 4096, False, 2, 2), Pieces(2, split_thinking=False), whole=False, request=ASKED
    )
    found: list[tuple[int, int, str]] = []

    def take(answers: Sequence[EngineAnswer]) -> bool:
        counting.feed(answers)
        tokens, source, _ = counting.counts()
        found.append((tokens.prompt, tokens.completion, str(source)))
        return True

    both = InTurn([partial(_OneOfSeveral, piece(), told()) for _ in range(2)], 1)
    take(await both.first())
    await both.each(take)
    assert found == [(25, 1, "counted"), (7, 1, "engine"), (25, 2, "counted"), (14, 2, "engine")]


@pytest.mark.parametrize("details", [{}, {"prompt_tokens_details": {"cached_tokens": 0}}], ids=str)
def test_what_the_cache_had_is_read_from_timings_where_usage_tells_none(details: dict[str, Any]) -> None:
    counting = meter(bound=None)
    usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102, **details}
    timings = {"prompt_n": 20, "cache_n": 80, "predicted_n": 2}
    counting.feed([piece(), piece(), answer(choices=[], usage=usage, timings=timings)])
    tokens, _, suspect = counting.counts()
    assert (tokens, suspect) == (TokenCounts(20, 80, 2, 0), False)


def test_A08_many_choices_cost_what_each_of_them_does() -> None:
    """Texts that are put together anew with each choice would take minutes."""
    choices = 8192
    bounds = Bounds(PROMPT_BYTES, choices * 1000, choices * 1000, False, choices, choices)
    counting = Meter(bounds, Pieces(choices, split_thinking=False), True, CompletionRequest(model="m", prompt="x"))
    text = "y" * 4000
    said = answer(choices=[{"index": at, "text": text, "finish_reason": "stop"} for at in range(choices)])
    before_s = time.process_time()
    begun = counting.begin([said])
    assert time.process_time() - before_s < 2
    assert len(begun) == 2 * choices
    assert counting.counts()[0].output == choices * 1000
