"""Server-sent events of engines: any line ends, any portions."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmaas.errors import EngineFailed
from llmaas.protocol.sse import MAX_EVENT_BYTES, SseDecoder


def decode(portions: list[bytes]) -> list[bytes]:
    decoder = SseDecoder()
    payloads = [payload for portion in portions for payload in decoder.feed(portion)]
    return payloads + decoder.finish()


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    at = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in itertools.pairwise(at)]


_text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20)
_payloads = st.lists(_text, max_size=8)


@given(
    _payloads,
    st.lists(st.sampled_from(["\n", "\r\n", "\r"]), min_size=1),
    st.lists(st.integers(0, 10_000)),
    st.booleans(),
)
def test_any_portions_and_line_ends_give_the_same_payloads(
    texts: list[str], ends: list[str], cuts: list[int], noise: bool
) -> None:
    stream = ""
    for number, text in enumerate(texts):
        end = ends[number % len(ends)]
        before = f": ping{end}{end}event: x{end}id: 5{end}retry: 9{end}" if noise else ""
        stream += f"{before}data: {text}{end}{end}"
    data = stream.encode()
    assert decode(split(data, cuts)) == decode([data]) == [text.encode() for text in texts]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_any_bytes_in_any_portions_are_the_same(data: bytes, cuts: list[int]) -> None:
    assert decode(split(data, cuts)) == decode([data])


@pytest.mark.parametrize(
    ("stream", "payloads"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", []),
        (b"data:\n\n", [b""]),
        (b": only a comment\n\n", []),
        (b"event: ping\n\n", []),
        (b"data: no blank line at the end", [b"no blank line at the end"]),
        (b"data: a\r\n\r\ndata: b\r\r", [b"a", b"b"]),
        (b'event: error\ndata: {"message":"no","code":500}\n\n', [b'{"error":{"message":"no","code":500}}']),
        (b"event: error\ndata: it broke\n\n", [b'{"error":"it broke"}']),
        (b"event: error\ndata: {}\n\n", [b'{"error":"error"}']),
        (b'error: {"code":500}\n\n', [b'{"error":{"code":500}}']),
        (b'data: a\n\n{"error":"no"}\n', [b"a", b'{"error":"no"}']),
        (b"\n\n\n\ndata: a\n\n\n\n", [b"a"]),
        ("data: señal 日本\n\n".encode(), ["señal 日本".encode()]),
    ],
)
def test_what_an_event_is(stream: bytes, payloads: list[bytes]) -> None:
    assert decode([stream]) == payloads
    assert decode([stream[at : at + 1] for at in range(len(stream))]) == payloads


def test_an_endless_event_is_a_failure() -> None:
    decoder = SseDecoder()
    block = b"x" * (MAX_EVENT_BYTES // 4)
    for _ in range(4):
        decoder.feed(block)
    with pytest.raises(EngineFailed):
        decoder.feed(block)


@pytest.mark.parametrize("unit", [b"x", b"x\n", b"x\r"], ids=["one line", "short lines", "ends by CR"])
def test_A19_a_long_event_byte_by_byte_costs_no_more_at_its_end(unit: bytes) -> None:
    decoder = SseDecoder()
    portions = [b"data: ", *(bytes([byte]) for byte in unit * (300_000 // len(unit)))]
    begun_s = time.process_time()
    for portion in portions:
        assert decoder.feed(portion) == []
    assert time.process_time() - begun_s < 2
    payload = b"x" * 300_000 if unit == b"x" else b"x"
    assert decoder.feed(b"\n\n") == [payload]
