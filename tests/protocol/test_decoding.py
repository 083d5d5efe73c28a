"""Every way in which a body can be wrong is an InvalidRequest with a bounded message and its `param`."""

from __future__ import annotations

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
