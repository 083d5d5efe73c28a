"""Every way in which a body can be wrong is an InvalidRequest with a bounded message and its `param`."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.errors import InvalidRequest
from llmaas.protocol.decoding import decode
from llmaas.protocol.requests import chat_decoder, completion_decoder

GOOD = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"[]",
        b'"a"',
        b"5",
        b"{}x",
        b"\xef\xbb\xbf" + GOOD % b"a",
        "{}".encode("utf-16"),
        GOOD % b"\xff",
        GOOD % b"\xc3",
        GOOD % b"\xed\xa0\x80",
        GOOD % b"\\ud800",
        GOOD % b"\\udc00\\ud800",
        GOOD % b"a\\u0000b",
        GOOD % b"\\\\\\u0000",
        GOOD % b"\x00",
        GOOD % b"\n",
        b'{"model":"m","messages":' + b"[" * 100_000,
        b'{"x":' * 100_000,
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":Infinity}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"temperature":1e999}',
        b'{"model":"m","messages":[{"role":"user","content":"a"}],"x":NaN}',
    ],
    ids=lambda body: repr(body[-30:]),
)
def test_what_is_not_taken(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(chat_decoder, body)
    assert len(caught.value.message) <= 500
    caught.value.message.encode()


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        (b"\\ud83d\\ude42", "🙂"),
        (b"a\\\\u0000", "a\\u0000"),
        (b"\\u0001", "\x01"),
        ("日本".encode(), "日本"),
        (b"\xef\xbf\xbf", "\uffff"),
    ],
)
def test_what_is_taken(text: bytes, meant: str) -> None:
    assert decode(chat_decoder, GOOD % text).messages[0].content == meant


def test_the_last_of_two_equal_members_counts() -> None:
    body = b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}'
    assert decode(chat_decoder, body).model == "b"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages":[{"role":"user","content":"a"}]}', "model"),
        (b'{"model":5,"messages":[]}', "model"),
        (b'{"model":"m","messages":[]}', "messages"),
        (b'{"model":"m","messages":[{"role":"user","content":5}]}', "messages[0].content"),
        (b'{"model":"m","messages":[{"content":"a"}]}', "messages[0].role"),
        (
            b'{"model":"m","messages":[{"role":"user","content":"a"}],"stream_options":{"include_usage":5}}',
            "stream_options.include_usage",
        ),
        (b"[]", None),
    ],
)
def test_the_parameter_is_named(body: bytes, param: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(chat_decoder, body)
    assert caught.value.param == param


_SAY = b'"model":"m","messages":[{"role":"user","content":"a"}'
_CALL = b'{"id":"a","type":"function","function":{"name":"a","arguments":"{}"}}'
LISTS = {
    "messages": (b'{"model":"m","messages":[%b]', b'{"role":"user","content":""}', 10_000, "messages"),
    "parts": (
        b'{"model":"m","messages":[{"role":"user","content":[%b]}]',
        b'{"type":"text","text":""}',
        4096,
        "messages[0].content",
    ),
    "calls": (b"{" + _SAY + b',{"role":"assistant","tool_calls":[%b]}]', _CALL, 1024, "messages[1].tool_calls"),
    "tools": (b"{" + _SAY + b'],"tools":[%b]', b'{"type":"function","function":{"name":"a"}}', 1024, "tools"),
    "functions": (b"{" + _SAY + b'],"functions":[%b]', b'{"name":"a"}', 1024, "functions"),
    "biases": (b"{" + _SAY + b'],"logit_bias":{%b}', b'"%d":1', 4096, "logit_bias"),
}


@pytest.mark.parametrize("rest", [b"}", b',"x":"' + b"x" * 1_100_000 + b'"}'], ids=["small", "large"])
@pytest.mark.parametrize("name", LISTS)
def test_each_list_has_a_bound_of_its_own(name: str, rest: bytes) -> None:
    form, entry, most, param = LISTS[name]
    entries = [entry % number if b"%d" in entry else entry for number in range(most + 1)]
    decode(chat_decoder, form % b",".join(entries[:most]) + rest)
    with pytest.raises(InvalidRequest) as caught:
        decode(chat_decoder, form % b",".join(entries) + rest)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "member",
    [
        '"tools":[{"type":"function","function":{"name":"f","parameters":{%s}}}]',
        '"response_format":{"type":"json_schema","json_schema":{"name":"a","schema":{%s}}}',
        '"logit_bias":{%s}',
        '"prediction":{%s}',
        '"metadata":{%s}',
    ],
)
def test_A08_values_beside_the_messages_are_counted_before_they_are_made(member: str) -> None:
    body = b"{" + _SAY + b"]," + (member % ",".join(f'"{number:09}":1' for number in range(120_000))).encode() + b"}"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest, match="too many values beside"):
            decode(chat_decoder, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 * len(body)


def test_messages_and_prompts_may_hold_many_values() -> None:
    ids = b"12345," * 400_000 + b"1"
    assert len(decode(completion_decoder, b'{"model":"m","prompt":[%b]}' % ids).prompt or ()) == 400_001
    text = b"a,[" * 150_000 + b"x" * 700_000
    body = b'{"model":"m","messages":[{"role":"user","content":"%b"}]}' % text
    assert decode(chat_decoder, body).messages[0].content == text.decode()


def test_A08_values_are_counted_no_further_than_it_takes() -> None:
    class Counted(bytes):
        read = 0

        def count(self, what: bytes, start: int, end: int) -> int:  # type: ignore[override]
            Counted.read += end - start
            return super().count(what, start, end)

    with pytest.raises(InvalidRequest, match="too many values"):
        decode(chat_decoder, Counted(b'{"x":[' + b"1," * 8_000_000 + b"1]}"))
    assert Counted.read <= 4 * 1024 * 1024


@given(st.binary(max_size=100) | st.text(max_size=100).map(lambda text: GOOD % text.encode("utf-8", "surrogatepass")))
def test_no_bytes_make_it_fail_otherwise(body: bytes) -> None:
    decoders: list[msgspec.json.Decoder[Any]] = [chat_decoder, completion_decoder]
    for decoder in decoders:
        try:
            decode(decoder, body)
        except InvalidRequest as error:
            message, param = error.message, error.param
        else:
            continue
        assert len(message) <= 500
        assert param is None or len(param) <= 200
