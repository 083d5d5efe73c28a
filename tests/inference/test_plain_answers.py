"""An answer that is one text takes a short way; it must lead to where the long one does."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmaas.inference.admission import Bounds
from llmaas.inference.meter import Meter
from llmaas.protocol.answers import AnswerHead, WholeAnswer
from llmaas.protocol.engine import EngineAnswer, answer_decoder
from llmaas.protocol.pieces import Piece, Pieces
from llmaas.protocol.requests import ChatRequest, Message

HEAD = AnswerHead("chatcmpl-1", "chat", 1_760_000_000, "m", {"engine_type": "openai", "machine_name": "ma01"})
BOUNDS = Bounds(100, 50, 50, False, 2, 2)
ASKED = ChatRequest(model="m", messages=[Message(role="user", content="hello there")])
USAGE = msgspec.Raw(b"{}")
TEXTS = st.none() | st.sampled_from(["", "hello", "<think>so</think>hello", "señal"])
MESSAGES = st.fixed_dictionaries(
    {"content": TEXTS},
    optional={
        "reasoning_content": TEXTS,
        "refusal": TEXTS,
        "tool_calls": st.sampled_from([None, [], [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]]),
    },
)
CHOICES: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"message": st.none() | MESSAGES},
    optional={
        "index": st.sampled_from([0, 1]),
        "delta": st.none() | MESSAGES,
        "finish_reason": st.sampled_from([None, "stop", "length", "tool_calls", "content_filter", "odd"]),
        "logprobs": st.sampled_from([None, {"content": []}]),
    },
)
USAGES = st.sampled_from([None, {"prompt_tokens": 7, "completion_tokens": 5}, {"prompt_tokens": -1}, {}])
ANSWERS = st.fixed_dictionaries({"choices": st.lists(CHOICES, max_size=2)}, optional={"usage": USAGES})


def meter(*, thinks: bool) -> Meter:
    return Meter(BOUNDS, Pieces(1, thinks), True, ASKED)


def long_way(answer: EngineAnswer, *, thinks: bool) -> tuple[bytes, Any, str | None]:
    counting, whole = meter(thinks=thinks), WholeAnswer(HEAD)
    whole.add(counting.feed([answer]))
    assert counting.pieces.finished
    whole.add(counting.pieces.finish())
    return whole.body(USAGE, None), counting.counts(), counting.pieces.finish_reason()


@given(said=ANSWERS, thinks=st.booleans())
def test_a_plain_answer_is_what_it_is_piece_by_piece(said: dict[str, Any], thinks: bool) -> None:
    data = msgspec.json.encode(said)
    pieces = Pieces(1, thinks)
    if pieces.plain_text(answer_decoder.decode(data)) is None:
        assert (pieces.seen, pieces.finished) == (0, False), "the long way begins anew"
        return
    counting = meter(thinks=thinks)
    text = counting.begin([answer_decoder.decode(data)])
    assert isinstance(text, str)
    whole = WholeAnswer(HEAD)
    whole.add_plain(text, counting.pieces.finish_reason())
    short = (whole.body(USAGE, None), counting.counts(), counting.pieces.finish_reason())
    assert short == long_way(answer_decoder.decode(data), thinks=thinks)


def test_a_usual_answer_is_plain() -> None:
    message: dict[str, Any] = {"role": "assistant", "content": "hello", "refusal": None, "tool_calls": []}
    said = {"choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}]}
    answer = answer_decoder.decode(msgspec.json.encode(said))
    assert meter(thinks=False).begin([answer]) == "hello"
    pieces = meter(thinks=True).begin([answer])
    assert [piece.content for piece in pieces if isinstance(piece, Piece)] == ["hello", None]
