"""The second look at what an engine sent: what can be kept is kept, and what goes out is valid."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.errors import EngineFailed
from llmaas.protocol.engine import NOTHING, EngineAnswer, is_fault
from llmaas.protocol.lenient import (
    MAX_BYTES,
    Halves,
    clean,
    fault_in,
    lenient_answer,
    lenient_embeddings,
    read_json,
    text_of,
    to_raw,
    whole_number,
    word_of,
)


def only(data: bytes) -> Any:
    answer = Halves().join(lenient_answer(data), whole=True)
    assert answer.choices is not None
    assert len(answer.choices) == 1
    return answer.choices[0]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'"a\\ud800b"', "a\ufffdb"),
        (b'"a\\udc00b"', "a\ufffdb"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b'"a\xffb"', "a\ufffdb"),
        (b'"a\xf0\x9f"', "a\ufffd"),
        (b'"\xed\xa0\xbd\xed\xb8\x80"', "😀"),
        (b'"a\x01\tb"', "a\x01\tb"),
        (b'[{"type":"text","text":"a"},{"type":"text","text":"b"},"c",null,5.5]', "abc5.5"),
        (b'{"type":"text","text":"a"}', "a"),
        (b'{"type":"text","text":{"value":"a"}}', "a"),
        (b"42", "42"),
    ],
)
def test_texts_are_kept_as_far_as_they_are_text(content: bytes, text: str) -> None:
    assert only(b'{"choices":[{"index":null,"delta":{"content":%b}}]}' % content).delta.content == text


@pytest.mark.parametrize(
    "choice",
    [
        b'"index":"0","delta":{"content":"a"},"finish_reason":"stop"',
        b'"index":0.0,"delta":{"content":"a"},"finish_reason":{"type":"stop"}',
        b'"index":null,"delta":{"content":"a","tool_calls":{}},"finish_reason":["stop"]',
        b'"index":[],"delta":{"content":"a","tool_calls":"none","reasoning_content":false},"finish_reason":"stop"',
        b'"delta":"a","finish_reason":"stop","logprobs":null,"finish_details":NaN',
        b'"delta":["a"],"finish_reason":"stop","stop_reason":-Infinity',
    ],
)
def test_members_of_other_types_are_read_for_what_they_mean(choice: bytes) -> None:
    one = only(b"\xef\xbb\xbf" + b'{"choices":[{%b}]}' % choice)
    assert (one.index, one.delta.content, one.delta.tool_calls, one.finish_reason) == (0, "a", None, "stop")


@pytest.mark.parametrize("nothing", [b'""', b"[]", b"{}", b"false", b"5", b"null"])
def test_what_says_nothing_is_left_out(nothing: bytes) -> None:
    one = only(b'{"choices":[{"index":null,"delta":%b,"finish_reason":false}]}' % nothing)
    assert (one.delta and one.delta.content, one.finish_reason) == (None, None)


def test_a_single_choice_need_not_be_in_a_list_and_none_is_none() -> None:
    assert only(b'{"choices":{"index":0,"delta":{"content":"a"}},"x":NaN}').delta.content == "a"
    for none in (b"{}", b'""', b"5"):
        assert not lenient_answer(b'{"choices":%b}' % none).choices


def test_tool_calls_of_other_shapes_are_calls() -> None:
    call = only(
        b'{"choices":[{"message":{"tool_calls":{"id":7,"index":"1","function":{"name":"f","arguments":{"a":"\\ud800"}}}}}]}'
    ).message.tool_calls[0]
    assert (call.id, call.index, call.function.name, call.function.arguments) == ("7", 1, "f", '{"a":"\ufffd"}')
    beside = only(b'{"choices":[{"message":{"tool_calls":[{"name":"f","arguments":"{}"},5]}}]}').message.tool_calls
    assert [(call.function.name, call.function.arguments) for call in beside] == [("f", "{}")]


def test_numbers_that_are_none_are_null_in_what_is_kept_raw() -> None:
    data = b'{"choices":[],"usage":{"a":NaN,"b":-Infinity,"c":1e999,"d":%b,"e":"\xff\\ud83d","f":1.5}}' % (b"9" * 5_000)
    assert msgspec.json.decode(lenient_answer(data).usage) == {
        **dict.fromkeys("abcd"),
        "e": "\ufffd\ufffd",
        "f": 1.5,
    }


@pytest.mark.parametrize(
    "data", [b"", b"no", b"[]", b"5", b'"a"', b"[" * 100_000, b'{"choices":[', b" " * MAX_BYTES + b"{}"]
)
def test_A16_what_is_no_object_or_too_long_to_mend_is_the_engines_failure(data: bytes) -> None:
    with pytest.raises(EngineFailed):
        lenient_answer(data)


@given(
    st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\U000268c2😀é日"), min_size=1, max_size=30),
    st.data(),
)
def test_a_text_cut_into_halves_anywhere_is_whole_again(text: str, data: st.DataObject) -> None:
    """Cut between the two halves of surrogate pairs, as engines do that count in UTF-16, or between bytes of UTF-8."""
    by_pairs = data.draw(st.booleans())
    raw = text.encode("utf-16-be") if by_pairs else text.encode()
    step = 2 if by_pairs else 1
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, len(raw) // step - 1)), max_size=5)))
    halves, told, at = Halves(), "", 0
    for cut in [*(cut * step for cut in cuts), len(raw)]:
        part = (
            raw[at:cut].decode("utf-16-be", "surrogatepass")
            if by_pairs
            else raw[at:cut].decode("utf-8", "surrogateescape")
        )
        at = cut
        written = (
            json.dumps(part).encode()
            if by_pairs
            else json.dumps(part, ensure_ascii=False).encode("utf-8", "surrogateescape")
        )
        answer = halves.join(lenient_answer(b'{"choices":[{"delta":{"content":%b}}]}' % written))
        assert answer.choices
        assert answer.choices[0].delta
        told += answer.choices[0].delta.content or ""
    assert told == text


def test_a_half_without_its_other_is_told_at_the_end_of_its_choice_and_no_other() -> None:
    halves = Halves()

    def texts(data: bytes) -> list[str | None]:
        return [c.delta.content if c.delta else None for c in halves.join(lenient_answer(data)).choices or ()]

    assert texts(
        b'{"choices":[{"index":0,"delta":{"content":"a\\ud83d"}},{"index":1,"delta":{"content":"b\\ud83d"}}]}'
    ) == ["a", "b"]
    assert texts(b'{"choices":[{"index":1,"delta":{"content":"\\ude00"}}]}') == ["😀"]
    assert texts(b'{"choices":[{"index":0,"delta":{"role":"assistant"}}]}') == [None]
    assert texts(b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}') == ["\ufffd"]


def test_arguments_in_halves_are_joined_for_each_call() -> None:
    halves = Halves()
    told: dict[int | None, str] = {}
    for index, half in ((0, "\\ud83d"), (1, "\\ud83d"), (0, "\\ude00"), (1, "\\ude01")):
        call = b'{"index":%d,"function":{"arguments":"%b"}}' % (index, half.encode())
        answer = halves.join(lenient_answer(b'{"choices":[{"delta":{"tool_calls":[%b]}}]}' % call))
        assert answer.choices
        assert answer.choices[0].delta
        for one in answer.choices[0].delta.tool_calls or ():
            assert one.function
            told[one.index] = told.get(one.index, "") + str(one.function.arguments or "")
    assert told == {0: "😀", 1: "😁"}


@given(st.binary(max_size=200))
def test_whatever_is_read_can_be_written(data: bytes) -> None:
    try:
        value = read_json(data)
    except EngineFailed:
        return
    msgspec.json.decode(to_raw(value))


@given(st.text())
def test_clean_text_is_unicode_and_sound_text_stays(text: str) -> None:
    clean(text).encode()
    if text.isascii():
        assert clean(text) == text


def test_vectors_are_kept_and_what_is_none_is_empty() -> None:
    data = b'{"data":[{"index":"1","embedding":["0.5",1]},{"index":null,"embedding":[NaN]},{"index":{},"embedding":5},[1,2]]}'
    found = lenient_embeddings(data).data or []
    vectors = [(one.index, msgspec.json.decode(one.embedding)) for one in found]
    assert vectors == [(1, [0.5, 1]), (None, []), (-1, []), (None, [1, 2])]


@pytest.mark.parametrize(
    ("value", "number", "text", "word"),
    [
        ("7", 7, "7", "7"),
        (7.0, 7, "7.0", "7.0"),
        (7.5, None, "7.5", "7.5"),
        (True, None, None, "True"),
        (None, None, None, None),
        ("inf", None, "inf", "inf"),
        ([], None, "", None),
        ({}, None, None, "object"),
        ({"reason": "a", "text": "b"}, None, "b", "a"),
    ],
)
def test_values_of_other_types(value: Any, number: int | None, text: str | None, word: str | None) -> None:
    assert (whole_number(value), text_of(value), word_of(value)) == (number, text, word)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        *[
            (nothing, False)
            for nothing in (b"null", b'""', b"false", b"{}", b"[]", b"0", b'{ "message": "", "code": null }')
        ],
        *[(something, True) for something in (b'"x"', b"true", b'{"message":"x"}', b'{"code":5}', b"5", b'"\xff"')],
    ],
)
def test_an_empty_error_is_none(error: bytes, fault: bool) -> None:
    assert is_fault(msgspec.Raw(error)) is fault
    assert not is_fault(EngineAnswer(error=NOTHING).error)


@pytest.mark.parametrize(
    "error",
    [b'"null"', b'{"code":0}', b'{"code":200,"message":"success"}', b'{"code":"200","message":"OK","type":null}'],
    ids=repr,
)
def test_an_error_that_tells_of_success_is_none(error: bytes) -> None:
    assert not is_fault(msgspec.Raw(error))
    assert is_fault(msgspec.Raw(b'{"code":200,"message":"out of memory"}'))


def test_thinking_among_the_parts_of_content_is_reasoning() -> None:
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
    for content, said in (([thought], None), ([thought, {"type": "text", "text": "yes"}], "yes")):
        answer = lenient_answer(msgspec.json.encode({"choices": [{"index": 0, "delta": {"content": content}}]}))
        assert answer.choices is not None
        found = answer.choices[0].delta
        assert found is not None
        assert (found.reasoning_content, found.content) == ("hm", said)


@pytest.mark.parametrize(
    "said", [b'{"usage":{"total_tokens":1}}', b'{"timings":{}}', b'{"prompt_progress":{"total":9}}', b'{"type":"ping"}']
)
def test_usage_timings_and_progress_are_no_errors(said: bytes) -> None:
    assert fault_in(said) is NOTHING


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        *[
            (said, True)
            for said in (
                {"message": "boom", "code": 500},
                {"message": "boom", "code": "InvalidApiKey", "request_id": "r"},
                {"message": "boom", "type": "server_error", "param": None, "code": None},
                {"message": "boom", "code": "", "type": "BadRequestError"},
                {"message": "boom", "status": 503},
                {"message": "boom"},
                {"msg": "boom", "code": 1302},
                {"statusCode": 500, "message": "boom", "data": None},
                {"message": "boom", "code": 500, "usage": {"prompt_tokens": 3}},
                {"error": "boom", "usage": {"prompt_tokens": 3}},
                {"error": {"message": "boom"}, "choices": [], "usage": {"prompt_tokens": 3}},
                {"error_code": 50002, "usage": {"prompt_tokens": 3}},
            )
        ],
        *[
            (said, False)
            for said in (
                {"message": "ok", "code": 0},
                {"message": "success", "code": 200},
                {"message": "queued", "status": "running"},
                {"message": "loading", "type": "info"},
                {"message": "", "code": 500},
                {"message": {"content": "x"}, "code": 500},
                {"id": "a", "object": "chat.completion.chunk", "message": "hi", "usage": {"prompt_tokens": 3}},
                {"message": "boom", "progress": 5},
                {"error": {"message": "", "code": 0}, "usage": {"prompt_tokens": 3}},
                {"error": "", "error_code": 0, "error_message": "", "usage": {"prompt_tokens": 3}},
            )
        ],
    ],
    ids=str,
)
def test_an_error_is_known_by_its_sentence_and_what_stands_beside(said: dict[str, Any], fault: bool) -> None:
    assert (fault_in(msgspec.json.encode(said)) is not NOTHING) is fault
