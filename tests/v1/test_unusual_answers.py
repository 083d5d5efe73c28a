"""What an engine says in an unusual way costs nobody the answer; what is no answer is not charged for."""

from __future__ import annotations

from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawResponse
from tests.service import KINDS, Service, chunks, error_of, model_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPEAKING = (ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP)
READ_AS_STREAM = [
    (kind, stream) for kind in SPEAKING for stream in (False, True) if stream or kind != ProviderKind.OPENAI
]
"""Kinds, and whether the caller wants a stream."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nconnection: close\r\n"
SSE, JSON, LINES = b"text/event-stream", b"application/json", b"application/x-ndjson"
ANSWER = b'{"choices":[{"index":0,"message":{"content":"a"}%b}]%b}'
STOP = b',"finish_reason":"stop"'
USAGE = b'{"prompt_tokens":3,"completion_tokens":2}'


def chunked(kind: bytes, *parts: bytes, ends: bool = True) -> Behaviour:
    """An answer in these parts; without its end the connection is closed where the last chunk should be."""
    body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    end = b"0\r\n\r\n" if ends else b""
    return Behaviour(raw=HEAD % kind + b"transfer-encoding: chunked\r\n\r\n" + body + end, close="silent")


def delta(content: bytes, finish: bytes = b"null", index: bytes = b"0", more: bytes = b"") -> bytes:
    return b'data: {"choices":[{"index":%b,"delta":{"content":%b},"finish_reason":%b%b}]}\n\n' % (
        index,
        content,
        finish,
        more,
    )


A, B = delta(b'"a"'), delta(b'"b"')
END, COUNTS, DONE = delta(b"null", b'"stop"'), b'data: {"choices":[],"usage":%b}\n\n' % USAGE, b"data: [DONE]\n\n"


async def ask(service: Service, kind: ProviderKind, behaviour: Behaviour, *, stream: bool, **more: Any) -> RawResponse:
    service.fake(kind).script(behaviour)
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return await service.chat(model_of(kind, "plain"), **options, **more)


def told(answer: RawResponse, *, stream: bool) -> tuple[str, str]:
    """The text and the finish reason."""
    assert answer.status == 200, answer.body
    if not stream:
        choice = answer.json()["choices"][0]
        return choice["message"]["content"], choice["finish_reason"]
    parts = chunks(answer)
    assert not any("error" in part for part in parts), parts
    (finish,) = [c["finish_reason"] for part in parts for c in part["choices"] if c["finish_reason"]]
    return text_of(parts), finish


FAULTS = {
    "vllm": b'{"error":{"object":"error","message":"EngineCore died.","type":"BadRequestError","code":400}}',
    "older": b'{"object":"error","message":"EngineCore died.","type":"BadRequestError","code":400}',
    "too long": b'{"error":{"message":"This model\'s maximum context length is 16 tokens.","code":400}}',
    "schema": b'{"error":{"message":"Failed to compile the grammar","code":400}}',
    "flagged": b'{"error":{"message":"Output flagged by moderation","code":403}}',
}
"""What engines say when they break: none of it can be the fault of a request that they had answered for a while."""


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("kind", "stream"), [*READ_AS_STREAM, (ProviderKind.OLLAMA, False), (ProviderKind.OLLAMA, True)]
)
async def test_B16_an_engine_that_breaks_in_the_middle_is_the_one_to_blame_whatever_it_says(
    service: Service, *, kind: ProviderKind, stream: bool, fault: str, together: bool
) -> None:
    said = [A, B, b"data: %b\n\n" % FAULTS[fault], DONE]
    if kind is ProviderKind.OLLAMA:
        said = [b'{"message":{"content":"a"},"done":false}\n', FAULTS[fault] + b"\n"]
    parts = [b"".join(said)] if together else said
    sse = LINES if kind is ProviderKind.OLLAMA else SSE
    answer = await ask(service, kind, chunked(sse, *parts), stream=stream)
    assert b"engine_failed" in answer.body, answer.body
    assert answer.status == (200 if stream else 502)
    row = await service.row(answer)
    assert (row.outcome, row.billing_reason, row.error_code) == (
        "engine_failed",
        "failed_after_output",
        "engine_failed",
    )
    good = await service.chat(model_of(kind, "plain"))
    assert (await service.row(good)).routing_reason == "only", "a caller might have it said"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'"x\\ud800"', "x\ufffd"),
        (b'"x\xff"', "x\ufffd"),
        (b'[{"type":"text","text":"x"},{"type":"text","text":"y"}]', "xy"),
        (b'"x","tool_calls":{},"logit":NaN', "x"),
        (b'"x","content":"y"', "y"),
    ],
)
async def test_an_unusual_text_is_told(
    service: Service, kind: ProviderKind, content: bytes, text: str, stream: bool
) -> None:
    if kind is ProviderKind.OPENAI and not stream:
        body = b'{"choices":[{"index":null,"message":{"content":%b},"finish_reason":"stop"}],"usage":%b}' % (
            content,
            USAGE,
        )
        answer = await ask(service, kind, Behaviour(body=body), stream=False)
        assert told(answer, stream=False) == (text, "stop")
    else:
        unusual = delta(content, index=b"null")
        answer = await ask(service, kind, chunked(SSE, A, unusual, B, END, COUNTS, DONE), stream=stream)
        assert told(answer, stream=stream) == (f"a{text}b", "stop")
    row = await service.row(answer)
    assert (row.outcome, row.output_tokens > 0) == ("completed", True)


@pytest.mark.parametrize(("kind", "stream"), READ_AS_STREAM)
@pytest.mark.parametrize(
    "odd",
    [
        delta(b'""', index=b"null"),
        b'data: {"choices":[{"index":"0","delta":""}]}\n\n',
        b'data: {"choices":{}}\n\n',
        b'data: {"choices":[],"usage":"none"}\n\n',
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":false,"logprobs":{"content":[{"logprob":-Infinity}]}}]}\n\n',
        b'data: {"choices":[],"error":""}\n\n',
        b'data: {"choices":[],"error":{}}\n\ndata: {"choices":[],"error":false}\n\ndata: {"choices":[],"error":[]}\n\n',
        b"data:\n\n",
        b"data: \r\n\r\n",
        b": comment\r\rdata:null\r\r",
    ],
)
async def test_an_event_without_anything_costs_nothing(
    service: Service, kind: ProviderKind, odd: bytes, stream: bool
) -> None:
    answer = await ask(service, kind, chunked(SSE, odd, A, odd, B, odd, END, odd, COUNTS, odd, DONE), stream=stream)
    assert told(answer, stream=stream) == ("ab", "stop")


@pytest.mark.parametrize(
    "parts",
    [
        (b"\xef\xbb\xbf" + A, B, END, COUNTS, DONE),
        (A, B, END, COUNTS, b"data:   [DONE]  \n\n"),
        (A, B, END, COUNTS, b"data: [DONE] bye\n\n"),
        (A, B, END, COUNTS, b'data: "[DONE]"\n\n'),
        (A.replace(b"data: ", b"data:"), B, END, COUNTS, b"data:[DONE]\n\n"),
        (b"".join((A, B, END, COUNTS, DONE)).replace(b"\n", b"\r"),),
        (A + b": a comment between\n\n" + B, END, COUNTS, DONE),
        (b"".join((A, B, END, COUNTS, DONE)).replace(b"\n\n", b"\n"),),
        (A, b"  " + B, END, COUNTS, DONE),
        (A, delta(b'"b"', b'"null"'), delta(b"null", b'"null"'), END, COUNTS, DONE),
        (delta(b'"a"', b'"stop"'), delta(b'"b"', b'"stop"'), COUNTS, DONE),
    ],
    ids=lambda parts: str(parts[0][:20] + parts[-1][:20]),
)
@pytest.mark.parametrize("kind", SPEAKING)
async def test_framing_is_not_taken_literally(service: Service, kind: ProviderKind, parts: tuple[bytes, ...]) -> None:
    answer = await ask(service, kind, chunked(SSE, *parts), stream=True)
    assert told(answer, stream=True) == ("ab", "stop")
    assert chunks(answer)[-1]["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize(
    ("first", "second"),
    [(b'"x\\ud83d"', b'"\\ude00y"'), (b'"x\xf0\x9f"', b'"\x98\x80y"'), (b'"x\xf0"', b'"\x9f\x98\x80y"')],
)
async def test_a_character_in_two_halves_is_put_together(
    service: Service, kind: ProviderKind, first: bytes, second: bytes
) -> None:
    parts = (delta(first), delta(b'""', more=b',"text":null'), delta(second), END, COUNTS, DONE)
    answer = await ask(service, kind, chunked(SSE, *parts), stream=True)
    assert told(answer, stream=True) == ("x😀y", "stop")


@pytest.mark.parametrize(("kind", "stream"), READ_AS_STREAM)
@pytest.mark.parametrize(
    ("parts", "ends", "finish"),
    [
        ((A, B, COUNTS, DONE), True, "stop"),  # no reason, but counts and the mark
        ((A, B, DONE), True, "stop"),  # the mark and the end of the body
        ((A, B, COUNTS), True, "stop"),  # counts and the end of the body
        ((A, B, COUNTS, DONE), False, "stop"),
        ((A, B, END, COUNTS), False, "stop"),  # a reason and counts, then a broken connection
        ((A, B, END, DONE), False, "stop"),
        ((A, B, END), True, "stop"),
        ((A, B), True, None),  # one sign is none
        ((A, B), False, None),
        ((A, B, END), False, None),
        ((A, B, COUNTS), False, None),
        ((A, B, DONE), False, None),
        ((COUNTS, A, B), True, None),  # counts before the last of the text are no sign
        ((A, COUNTS, B), True, None),
        ((A, b'data: {"choices":[],"usage":{}}\n\n', B), True, None),
        ((COUNTS, A, B, END), False, None),
        ((COUNTS, A, B, END), True, "stop"),
        ((COUNTS, A, B, DONE), True, "stop"),
        ((COUNTS, A, B, COUNTS), True, "stop"),
    ],
)
async def test_two_signs_are_an_end_and_one_is_none(
    service: Service, kind: ProviderKind, parts: tuple[bytes, ...], ends: bool, finish: str | None, stream: bool
) -> None:
    answer = await ask(service, kind, chunked(SSE, *parts, ends=ends), stream=stream)
    row = await service.row(answer)
    if finish is not None:
        assert told(answer, stream=stream) == ("ab", finish)
        assert (row.outcome, row.finish_reason) == ("completed", finish)
        return
    error = chunks(answer)[-1]["error"] if stream else error_of(answer)
    assert error["code"] == "engine_failed"
    assert (row.outcome, row.cost_nano) == ("engine_failed", 0)


async def test_an_unsaid_reason_is_length_where_the_answer_is_as_long_as_it_may_be(service: Service) -> None:
    answer = await ask(service, ProviderKind.OPENAI, chunked(SSE, A, B, COUNTS, DONE), stream=True, max_tokens=2)
    assert told(answer, stream=True) == ("ab", "length")


@pytest.mark.parametrize(
    ("body", "ends", "status"),
    [
        (ANSWER % (b"", b""), True, 200),
        (ANSWER % (b',"finish_reason":null', b',"usage":%b' % USAGE), True, 200),
        (ANSWER % (b',"finish_reason":"null"', b""), True, 200),
        (ANSWER % (STOP, b',"error":""'), True, 200),
        (ANSWER % (STOP, b',"error":{"message":"","code":0}'), True, 200),
        (ANSWER % (STOP, b',"error":"out of memory"'), True, 502),
        (ANSWER % (STOP, b',"usage":%b' % USAGE), False, 200),
        (ANSWER % (STOP, b""), False, 502),
        (ANSWER % (b"", b',"usage":%b' % USAGE), False, 502),
        ((ANSWER % (STOP, b',"usage":%b' % USAGE))[:-1], False, 502),
    ],
)
async def test_whole_answers_are_whole_by_their_closing_bracket(
    service: Service, body: bytes, ends: bool, status: int
) -> None:
    answer = await ask(service, ProviderKind.OPENAI, chunked(JSON, body, ends=ends), stream=False)
    assert answer.status == status
    if status == 200:
        assert told(answer, stream=False) == ("a", "stop")
    assert ((await service.row(answer)).outcome == "completed") is (status == 200)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reason", ["error", "abort", "cancelled", "no word that anybody knows"])
async def test_an_answer_that_was_given_up_is_a_failure_and_free(
    service: Service, kind: ProviderKind, reason: str, stream: bool
) -> None:
    answer = await ask(service, kind, Behaviour(finish_reason=reason), stream=stream)
    error = chunks(answer)[-1]["error"] if stream else error_of(answer)
    assert (error["code"], answer.status) == ("engine_failed", 200 if stream else 502)
    row = await service.row(answer)
    assert (row.outcome, row.cost_nano) == ("engine_failed", 0)


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("stream", [False, True])
async def test_fewer_choices_than_asked_for_are_a_failure_as_long_as_none_is_given(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    if kind is ProviderKind.OPENAI and not stream:
        behaviour = chunked(JSON, ANSWER % (STOP, b',"usage":%b' % USAGE))
    else:
        behaviour = chunked(SSE, A, B, END, COUNTS, DONE)
    answer = await ask(service, kind, behaviour, stream=stream, n=2)
    row = await service.row(answer)
    if stream:
        assert told(answer, stream=True) == ("ab", "stop"), "he has it already"
        assert (row.outcome, row.billing_reason, row.usage_suspect) == ("completed", "answered", True)
    else:
        assert error_of(answer)["code"] == "engine_failed"
        assert (row.outcome, row.cost_nano) == ("engine_failed", 0)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("lines", "text"),
    [
        ((b'{"message":{"content":"x\\ud83d"}}', b'{"message":{"content":"\\ude00"}}'), "x😀"),
        ((b'{"message":{"content":"x\xf0\x9f"}}', b'{"message":{"content":"\x98\x80"}}'), "x😀"),
        ((b'\xef\xbb\xbf{"message":{"content":[{"type":"text","text":"x"}],"thinking":false},"done":null}',), "x"),
        ((b'{"message":{"content":"x","tool_calls":{}},"error":"","x":NaN}',), "x"),
        ((b'{"message":"x","error":null}', b"", b"  ", b'{"message":5}'), "x"),
        ((b'{"message":{"content":"x"},"logprobs":[{"token":"x","logprob":-Infinity}]}',), "x"),
    ],
)
async def test_ollamas_lines_are_read_with_the_same_patience(
    service: Service, lines: tuple[bytes, ...], text: str, stream: bool
) -> None:
    end = b'{"message":{"content":""},"done":true,"done_reason":"stop","prompt_eval_count":"3","eval_count":2.0,"y":NaN}\n'
    answer = await ask(
        service, ProviderKind.OLLAMA, chunked(LINES, *(line + b"\n" for line in lines), end), stream=stream
    )
    assert told(answer, stream=stream) == (text, "stop")
    row = await service.row(answer)
    assert (row.input_tokens, row.output_tokens, row.outcome) == (3, 2, "completed")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("reason", ["load", "unload"])
async def test_a_model_that_was_only_loaded_is_no_answer(service: Service, reason: str, stream: bool) -> None:
    line = (
        b'{"model":"m","message":{"role":"assistant","content":""},"done_reason":"%b","done":true}\n' % reason.encode()
    )
    answer = await ask(service, ProviderKind.OLLAMA, chunked(LINES, line), stream=stream)
    assert (answer.status, error_of(answer)["code"], answer.header("retry-after")) == (503, "loading", "1")
    row = await service.row(answer)
    assert (row.outcome, row.input_tokens, row.cost_nano) == ("unavailable", 0, 0)


async def test_a_line_that_only_says_done_is_no_answer(service: Service) -> None:
    answer = await ask(service, ProviderKind.OLLAMA, chunked(LINES, b'{"done":true}\n'), stream=False)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")
