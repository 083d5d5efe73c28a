"""Log probabilities in chat's form and in the older one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmaas.errors import EngineFailed
from llmaas.protocol.logprobs import chat_form, completion_form, joined


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))


def entry(token: str, *top: str) -> dict[str, Any]:
    return {
        "token": token,
        "logprob": -0.5,
        "bytes": list(token.encode()),
        "top_logprobs": [{"token": t, "logprob": -1.0} for t in top],
    }


def test_chats_form_has_both_members() -> None:
    assert msgspec.json.decode(chat_form(raw({"content": [entry("a")]}))) == {"content": [entry("a")], "refusal": None}
    whole = raw({"content": [], "refusal": []})
    assert chat_form(whole) is whole


def test_chats_form_becomes_the_older_one() -> None:
    given = raw({"content": [entry("señal", "a", "b"), entry(" 日"), entry("x")]})
    assert msgspec.json.decode(completion_form(given, 10)) == {
        "tokens": ["señal", " 日", "x"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{"a": -1.0, "b": -1.0}, {}, {}],
        "text_offset": [10, 15, 17],
    }


def test_the_older_one_stays() -> None:
    older = raw({"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": None, "text_offset": [0]})
    assert completion_form(older, 0) is older


def test_those_of_pieces_become_one() -> None:
    one = raw({"content": [entry("a")], "refusal": None})
    assert joined([one]) is one
    assert msgspec.json.decode(joined([one, raw({"content": [entry("b")]}), raw(None)])) == {
        "content": [entry("a"), entry("b")]
    }


def test_offsets_are_those_in_the_whole_text() -> None:
    older = {"tokens": ["señal"], "token_logprobs": [-1.0], "top_logprobs": [{}], "text_offset": [0]}
    assert msgspec.json.decode(joined([raw(older), raw(older)]))["text_offset"] == [0, 5]


@pytest.mark.parametrize(
    "value", [{"content": None}, {"content": [5, {}, None]}, {"content": [{"top_logprobs": [5]}]}, {}, [], 5]
)
def test_odd_ones_do_not_fail(value: Any) -> None:
    msgspec.json.decode(chat_form(raw(value)))
    msgspec.json.decode(completion_form(raw(value), 0))


def test_what_is_none_of_the_forms_is_null() -> None:
    value: Any
    for value in (5, "a", [], {"content": 5}, {"content": [5]}):
        assert bytes(chat_form(raw(value))) == b"null"
    assert bytes(completion_form(raw(5), 0)) == b"null"


@pytest.mark.parametrize("number", [b"-Infinity", b"NaN", b"-1e999", b"1" * 5_000])
def test_numbers_that_are_none_are_null(number: bytes) -> None:
    text = b'{"content":[{"token":"\xff\\ud83d","logprob":%b,"top_logprobs":[{"token":"b","logprob":%b}]}]}'
    told = msgspec.json.decode(chat_form(msgspec.Raw(text % (number, number))))
    likely = [{"token": "b", "logprob": None}]
    assert told["content"] == [{"token": "\ufffd\ufffd", "logprob": None, "top_logprobs": likely}]
    older = msgspec.json.decode(completion_form(msgspec.Raw(text % (number, number)), 0))
    assert (older["token_logprobs"], older["top_logprobs"]) == ([None], [{"b": None}])


def test_alternatives_in_the_older_form_are_taken() -> None:
    told = completion_form(raw({"content": [{"token": "a", "logprob": -1, "top_logprobs": {"b": -2}}]}), 0)
    assert msgspec.json.decode(told)["top_logprobs"] == [{"b": -2}]
    assert msgspec.json.decode(completion_form(raw({"content": [{"token": "a", "top_logprobs": 5}]}), 0))["tokens"] == [
        "a"
    ]


@pytest.mark.parametrize("text", [b"[" * 100_000, b"{"])
def test_what_cannot_be_read_is_the_engines_failure(text: bytes) -> None:
    for form in (chat_form, lambda value: completion_form(value, 0)):
        with pytest.raises(EngineFailed):
            form(msgspec.Raw(text))


@pytest.mark.parametrize(
    "odd",
    [
        {"content": "x"},
        {"content": [{"token": 5, "logprob": -1}]},
        {"content": [{"token": "a", "logprob": "x"}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": "x"}]},
        {"content": [{"token": "a", "logprob": -1, "top_logprobs": [{"token": "a", "logprob": []}]}]},
    ],
    ids=str,
)
def test_log_probabilities_of_an_odd_shape_are_left_out(odd: object) -> None:
    assert bytes(chat_form(msgspec.Raw(msgspec.json.encode(odd)))) == b"null"
    older = {"tokens": ["a"], "token_logprobs": "x"}
    assert bytes(completion_form(msgspec.Raw(msgspec.json.encode(older)), 0)) == b"null"
