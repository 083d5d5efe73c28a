"""What engines say of tokens, made safe."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.protocol.engine import NOTHING, EngineAnswer, EngineChoice
from llmaas.protocol.usage import (
    NAMES,
    ChoiceReports,
    Reported,
    add_usage,
    later_usage,
    read_input_usage,
    read_timings,
    read_usage,
    usage_json,
)


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else msgspec.json.encode(value))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 5}, Reported(3, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}, Reported(3, 5)),
        ({"prompt_tokens": 3.0, "completion_tokens": 5.0}, Reported(3, 5)),
        ({"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}, Reported(3, None, 2)),
        ({"prompt_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}, Reported(3, None, 0, 2)),
        ({"prompt_tokens": 3, "reasoning_tokens": 2}, Reported(3, None, 0, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 5}, Reported(0, 5)),
        ({"prompt_tokens": None, "completion_tokens": 5}, Reported(None, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "prompt_tokens_details": 7}, Reported(3, 5)),
        ({"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": None}, Reported(3, 5)),
        ({"total_tokens": 14}, Reported(None, None, total=14)),
        ({}, Reported(None, None)),
        ([], Reported(None, None)),
        (5, Reported(None, None)),
        (b'{"x":"\xff"}', Reported(None, None)),
        (b"[" * 100_000, Reported(None, None)),
        (b'{"prompt_tokens":3,"completion_tokens":5,"x\xff":2}', Reported(3, 5)),
        (b'{"prompt_tokens":3,"completion_tokens":5,"prompt_tokens_details":{"\xff":1}}', Reported(3, 5)),
        (b'{"prompt_tokens":3,"completion_tokens":"\xff"}', Reported(3, None, suspect=True)),
        (b'{"prompt_tokens":3,"completion_tokens\xff":5}', Reported(3, None)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_usage(said: Any, read: Reported) -> None:
    assert read_usage(raw(said)) == read


@pytest.mark.parametrize(
    "bad", [-7, 12.7, True, "twelve", "-3", "1e3", [], {}, 10**15, 10**30, b"1e400", b"-1e999"], ids=repr
)
def test_B15_a_side_that_is_no_count_is_the_total_less_the_other(bad: Any) -> None:
    text = bad if isinstance(bad, bytes) else msgspec.json.encode(bad)
    assert read_usage(raw(b'{"prompt_tokens":%b,"completion_tokens":5,"total_tokens":14}' % text)) == suspect(9, 5)
    assert read_usage(raw(b'{"prompt_tokens":9,"completion_tokens":%b,"total_tokens":14}' % text)) == suspect(9, 5)
    assert read_usage(raw(b'{"prompt_tokens":%b,"completion_tokens":5}' % text)) == suspect(None, 5)
    assert read_usage(raw(b'{"prompt_tokens":9,"completion_tokens":5,"total_tokens":%b}' % text)) == suspect(9, 5)
    neither = read_usage(raw(b'{"prompt_tokens":%b,"completion_tokens":null,"total_tokens":14}' % text))
    assert neither == Reported(None, None, suspect=True, total=14)


def suspect(prompt: int | None, completion: int | None) -> Reported:
    return Reported(prompt, completion, suspect=True)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"completion_tokens": 5, "total_tokens": 14}, suspect(9, 5)),
        ({"prompt_tokens": 9, "total_tokens": 14}, suspect(9, 5)),
        ({"prompt_tokens": 9, "total_tokens": 9}, suspect(9, 0)),
        ({"prompt_tokens": 0, "completion_tokens": 5, "total_tokens": 14}, suspect(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 14}, suspect(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 99}, Reported(9, 90, 0, 85, suspect=True)),
        ({"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 3}, suspect(9, 5)),
        ({"completion_tokens": 5, "total_tokens": 3}, Reported(None, 5)),
        ({"prompt_tokens": "12", "completion_tokens": "5"}, suspect(12, 5)),
        ({"prompt_tokens": "9", "total_tokens": "14"}, suspect(9, 5)),
    ],
    ids=str,
)
def test_B15_what_is_missing_or_zero_is_concluded_from_the_total_and_marked(said: Any, read: Reported) -> None:
    assert read_usage(raw(said)) == read


@pytest.mark.parametrize(
    ("said", "read"),
    [
        # DeepSeek
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 5,
                "total_tokens": 1005,
                "prompt_cache_hit_tokens": 800,
                "prompt_cache_miss_tokens": 200,
            },
            Reported(1000, 5, 800),
        ),
        (
            {"completion_tokens": 5, "prompt_cache_hit_tokens": 800, "prompt_cache_miss_tokens": 200},
            Reported(1000, 5, 800),
        ),
        # Anthropic: the input is what the cache neither had nor took
        ({"input_tokens": 200, "output_tokens": 5, "cache_read_input_tokens": 800}, Reported(1000, 5, 800)),
        (
            {
                "input_tokens": 50,
                "output_tokens": 5,
                "cache_read_input_tokens": 800,
                "cache_creation_input_tokens": 150,
            },
            Reported(1000, 5, 800),
        ),
        ({"input_tokens": 200, "output_tokens": 5, "cache_read_input_tokens": 0}, Reported(200, 5)),
        # Bedrock
        (
            {"inputTokens": 200, "outputTokens": 5, "totalTokens": 1005, "cacheReadInputTokens": 800},
            Reported(1000, 5, 800),
        ),
        # OpenAI's Responses
        (
            {
                "input_tokens": 1000,
                "input_tokens_details": {"cached_tokens": 800},
                "output_tokens": 5,
                "output_tokens_details": {"reasoning_tokens": 3},
                "total_tokens": 1005,
            },
            Reported(1000, 5, 800, 3),
        ),
        # LiteLLM, before Anthropic
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 5,
                "total_tokens": 1005,
                "prompt_tokens_details": {"cached_tokens": 800},
                "cache_read_input_tokens": 800,
                "cache_creation_input_tokens": 0,
            },
            Reported(1000, 5, 800),
        ),
        ({"prompt_tokens": 200, "completion_tokens": 5, "cache_read_input_tokens": 800}, Reported(1000, 5, 800)),
        # Moonshot, Together; Mistral; OpenAI with what it has besides
        ({"prompt_tokens": 1000, "completion_tokens": 5, "cached_tokens": 800}, Reported(1000, 5, 800)),
        ({"prompt_tokens": 1000, "completion_tokens": 5, "num_cached_tokens": 800}, Reported(1000, 5, 800)),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 800, "audio_tokens": 0, "cache_write_tokens": 100},
            },
            Reported(1000, 5, 800),
        ),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 5,
                "prompt_tokens_details": {"cached_tokens": 0},
                "cached_tokens": 800,
            },
            Reported(1000, 5, 800),
        ),
        # Gemini: the candidates leave out the thoughts
        (
            {
                "promptTokenCount": 1000,
                "candidatesTokenCount": 2,
                "thoughtsTokenCount": 3,
                "cachedContentTokenCount": 800,
                "totalTokenCount": 1005,
            },
            Reported(1000, 5, 800, 3),
        ),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 5, "thoughtsTokenCount": 3, "totalTokenCount": 14},
            Reported(9, 5, 0, 3),
        ),
        # xAI leaves reasoning out of the completion
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 2,
                "total_tokens": 1005,
                "prompt_tokens_details": {"cached_tokens": 800},
                "completion_tokens_details": {"reasoning_tokens": 3},
            },
            Reported(1000, 5, 800, 3),
        ),
        # Groq has times beside its counts
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "queue_time": 0.1, "total_time": 0.2},
            Reported(9, 5),
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_B15_usage_in_others_words_is_read(said: Any, read: Reported) -> None:
    assert read_usage(raw(said)) == read


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"prompt_tokens": 9, "total_tokens": 9}, Reported(9, 0)),
        ({"total_tokens": 9}, suspect(9, 0)),
        ({"prompt_tokens": -1, "total_tokens": 9}, suspect(9, 0)),
        ({"prompt_tokens": 0, "total_tokens": 9}, suspect(9, 0)),
        ({"prompt_tokens": 0, "total_tokens": 0}, Reported(0, 0)),
        ({"prompt_tokens": None}, Reported(None, 0)),
        ({"input_tokens": 9}, Reported(9, 0)),
    ],
    ids=str,
)
def test_B15_all_that_embeddings_use_is_input(said: Any, read: Reported) -> None:
    assert read_input_usage(raw(said)) == read


@pytest.mark.parametrize(
    "details", [{}, {"reasoning_tokens": 0}, {"reasoning_tokens": None}, {"audio_tokens": 0}, None], ids=str
)
def test_reasoning_beside_details_that_tell_none_counts(details: Any) -> None:
    said = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14, "reasoning_tokens": 4}
    assert read_usage(raw({**said, "completion_tokens_details": details})) == Reported(9, 5, 0, 4)


@pytest.mark.parametrize(
    ("said", "read"),
    [
        (
            {"prompt_tokens": 9, "completion_tokens": 10, "completion_tokens_details": {"reasoning_tokens": 40}},
            Reported(9, 50, 0, 40, suspect=True),
        ),
        ({"prompt_tokens": 9, "completion_tokens": 10, "reasoning_tokens": 40}, Reported(9, 50, 0, 40, suspect=True)),
        (
            {"prompt_tokens": 9, "completion_tokens": 10, "total_tokens": 19, "reasoning_tokens": 40},
            Reported(9, 10, 0, 40),
        ),
        (
            {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 150},
            Reported(100, 50, 0, 40, suspect=True),
        ),
        (
            {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22, "cache_read_input_tokens": 80},
            Reported(100, 2, 80, suspect=True),
        ),
        (
            {"promptTokenCount": 9, "candidatesTokenCount": 5, "toolUsePromptTokenCount": 30, "totalTokenCount": 44},
            suspect(9, 5),
        ),
    ],
    ids=str,
)
def test_reasoning_and_cache_that_cannot_be_a_part_of_a_side_stand_beside_it(said: Any, read: Reported) -> None:
    assert read_usage(raw(said)) == read


@pytest.mark.parametrize(
    ("first", "second", "read"),
    [
        ({"prompt_tokens": 100}, {"completion_tokens": 2}, Reported(100, 2)),
        ({"completion_tokens": 2}, {"prompt_tokens": 100}, Reported(100, 2)),
        (
            {"prompt_tokens": 100, "completion_tokens": 0, "total_tokens": 100},
            {"prompt_tokens": 0, "completion_tokens": 2, "total_tokens": 2},
            Reported(100, 2),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 8}},
            {"prompt_tokens": 9, "completion_tokens": 5},
            Reported(9, 5, 8),
        ),
        (
            {"prompt_tokens": 9, "completion_tokens": 5, "reasoning_tokens": 3},
            {"prompt_tokens": 9, "completion_tokens": 6},
            Reported(9, 6, 0, 3),
        ),
        ({"input_tokens": 20, "cache_read_input_tokens": 80}, {"output_tokens": 2}, Reported(100, 2, 80)),
        ({"prompt_tokens": 9, "completion_tokens": 5}, {}, Reported(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 0, "completion_tokens": 0}, Reported(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": "x"}, Reported(9, 5)),
        ({"prompt_tokens": 9, "completion_tokens": 5}, {"prompt_tokens": 9, "completion_tokens": 3}, Reported(9, 5)),
        ({"total_tokens": 14}, {"prompt_tokens": 9}, suspect(9, 5)),
        ({}, {"prompt_tokens": 9, "completion_tokens": 5}, Reported(9, 5)),
    ],
    ids=str,
)
def test_several_reports_on_one_answer_are_the_largest_of_each_count(first: Any, second: Any, read: Reported) -> None:
    assert read_usage(later_usage(raw(first), raw(second))) == read


def test_none_is_none() -> None:
    assert read_usage(NOTHING) is None
    assert read_usage(raw(None)) is None
    assert read_timings(NOTHING) is None


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"prompt_n": 3, "cache_n": 4, "predicted_n": 5}, Reported(7, 5, 4)),
        ({"prompt_n": 3, "predicted_n": 5}, Reported(3, 5)),
        ({"prompt_n": 3, "cache_n": -4, "predicted_n": 5}, Reported(3, 5)),
        ({"prompt_n": -3, "predicted_n": 5}, suspect(None, 5)),
        ({"predicted_n": 5}, suspect(None, 5)),
        ({"prompt_n": 3, "predicted_n": "5"}, suspect(3, None)),
        ({}, None),
    ],
    ids=str,
)
def test_timings(said: Any, read: Reported | None) -> None:
    assert read_timings(raw(said)) == read


def test_sums() -> None:
    one = raw({"prompt_tokens": 3, "completion_tokens": 5, "completion_tokens_details": {"reasoning_tokens": 1}})
    other = raw({"prompt_tokens": 4, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 2}})
    assert read_usage(add_usage(one, other)) == Reported(7, 6, 2, 1)
    assert add_usage(NOTHING, one) is one
    assert add_usage(one, NOTHING) is one


def test_B15_a_sum_knows_no_side_that_a_part_lacks_and_stays_marked() -> None:
    one, bad = raw({"prompt_tokens": 3, "completion_tokens": 5}), raw({"prompt_tokens": -4, "completion_tokens": 1})
    assert read_usage(add_usage(one, bad)) == suspect(None, 6)
    concluded = raw({"completion_tokens": 1, "total_tokens": 5})
    assert read_usage(add_usage(one, concluded)) == suspect(7, 6)


def reports(*said: tuple[int, ...]) -> Reported | None:
    """What a stream of two choices comes to that says (choice that ends, prompt, completion), or (prompt, completion) alone."""
    heard, last = ChoiceReports(), NOTHING
    for *ends, prompt, completion in said:
        choices = [EngineChoice(index, finish_reason="stop") for index in ends]
        answer = EngineAnswer(choices, raw({"prompt_tokens": prompt, "completion_tokens": completion}))
        heard.feed(answer)
        last = answer.usage
    return read_usage(last)


def test_running_totals_of_several_choices_are_not_added_up() -> None:
    assert reports((10, 1), (10, 2), (10, 3)) == Reported(10, 3)
    assert reports((10, 1), (10, 2), (0, 10, 3), (1, 10, 3)) == Reported(10, 3)
    assert reports((0, 10, 1), (1, 10, 2), (10, 3)) == Reported(10, 3), "more reports than choices"


def test_one_report_for_each_choice_is_added_up() -> None:
    assert reports((0, 10, 4), (1, 10, 5)) == Reported(10, 9)
    assert reports((1, 10, 5), (0, 10, 4)) == Reported(10, 9)


def choice_stream(*answers: EngineAnswer) -> Reported | None:
    """What is told of two choices by the reports that replace each other in a stream."""
    heard, last = ChoiceReports(), NOTHING
    for answer in answers:
        heard.feed(answer)
        last = later_usage(last, answer.usage)
    return read_usage(last)


def test_timings_of_each_choice_are_added_up_where_there_is_no_usage() -> None:
    def ends() -> list[EngineAnswer]:
        first, second = (EngineChoice(index, finish_reason="stop") for index in (0, 1))
        return [
            EngineAnswer([EngineChoice(0)], timings=raw({"prompt_n": 10, "predicted_n": 3})),
            EngineAnswer([first], timings=raw({"prompt_n": 10, "cache_n": 0, "predicted_n": 4})),
            EngineAnswer([second], timings=raw({"prompt_n": 1, "cache_n": 9, "predicted_n": 5})),
        ]

    assert choice_stream(*ends()) == Reported(10, 9)
    usage = EngineAnswer([], usage=raw({"prompt_tokens": 10, "completion_tokens": 8}))
    assert choice_stream(*ends(), usage) == Reported(10, 8)


def test_a_report_of_zeros_leaves_the_sum_of_all_choices() -> None:
    def report(prompt: int, completion: int, *ends: int) -> EngineAnswer:
        usage = raw({"prompt_tokens": prompt, "completion_tokens": completion})
        return EngineAnswer([EngineChoice(index, finish_reason="stop") for index in ends], usage)

    assert choice_stream(report(10, 4, 0), report(10, 5, 1), report(0, 0)) == Reported(10, 9)
    assert choice_stream(report(10, 4, 0), report(10, 5, 1), report(10, 6)) == Reported(10, 6), "a total of all"


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_the_total_is_the_sum(prompt: int, completion: int) -> None:
    usage = msgspec.json.decode(usage_json(prompt=prompt, cached=0, completion=completion, reasoning=0))
    assert usage["total_tokens"] == prompt + completion


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)
_NAMES = sorted({name.partition(".")[0] for names in NAMES.values() for name in names})
_DETAILS = st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens"]), _json)


@given(st.dictionaries(st.sampled_from([*_NAMES, "prompt_n", "cache_n", "predicted_n"]), _json | _DETAILS) | _json)
def test_nothing_makes_it_fail_or_negative(said: Any) -> None:
    for read in (read_usage(raw(said)), read_input_usage(raw(said)), read_timings(raw(said))):
        if read is not None:
            assert min(read.prompt or 0, read.completion or 0, read.cached, read.reasoning or 0, read.total or 0) >= 0
