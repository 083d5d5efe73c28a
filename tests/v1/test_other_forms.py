"""Answers in another form than the one that was asked for, or called by another name than they have."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from llmaas.domain.usage import UsageSource
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawResponse
from tests.service import KINDS, Service, chunks, error_of, model_of, text_of
from tests.v1.test_metering import end, piece, sse

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENAI, OLLAMA, VLLM = ProviderKind.OPENAI, ProviderKind.OLLAMA, ProviderKind.VLLM
SPEAKING = [kind for kind in KINDS if kind is not OLLAMA]
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
COUNTS = {"choices": [], "usage": USAGE}
TYPES = ["text/event-stream", "application/json", "text/plain; charset=utf-8", "application/octet-stream", ""]
WHOLE = {"choices": [{"index": 0, "message": {"content": "héllo"}, "finish_reason": "stop"}], "usage": USAGE}
LIKELY = {"tokens": ["</s>"], "token_logprobs": [-0.1], "top_logprobs": [{"</s>": -0.1, "A": -2.0}]}


def body_of(*events: Any) -> bytes:
    return sse(*events).body or b""


def said(answer: RawResponse) -> str:
    if not answer.body.startswith(b"data"):
        choice = answer.json()["choices"][0]
        return str(choice["message"]["content"] if "message" in choice else choice["text"])
    return text_of(chunks(answer))


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("slices", [0, 1])
async def test_events_are_events_whatever_they_are_called(
    service: Service, content_type: str, stream: bool, slices: int
) -> None:
    for begin in (b"", b"\n", b": ping\n\n", b"\xef\xbb\xbf", b"event: message\n"):
        body = begin + body_of(piece("hé"), piece("llo"), end(), COUNTS)
        service.fake().script(Behaviour(body=body, content_type=content_type, slice_bytes=slices))
        answer = await service.chat(stream=stream)
        assert (answer.status, said(answer)) == (200, "héllo")
        row = await service.row(answer)
        assert (row.billing_reason, row.input_tokens, row.output_tokens) == ("answered", 3, 5)
        assert (row.usage_source, row.usage_suspect, row.finish_reason) == (UsageSource.ENGINE, False, "stop")


async def test_events_of_a_prompt_are_a_whole_answer_too(service: Service) -> None:
    texts = [{"choices": [{"index": n, "text": text, "finish_reason": None}]} for n in (0, 1) for text in ("a", "b")]
    ends = [{"choices": [{"index": n, "text": "", "finish_reason": "length"}]} for n in (0, 1)]
    service.fake().script(sse(*texts, *ends, COUNTS))
    answer = await service.complete(["x", "y"])
    assert [(c["text"], c["finish_reason"]) for c in answer.json()["choices"]] == [("ab", "length")] * 2


@pytest.mark.parametrize(
    ("events", "mark", "status"),
    [
        ([piece("a"), end()], b"", 200),
        ([piece("a")], b"data: [DONE]\n\n", 200),
        ([piece("a"), COUNTS], b"", 200),
        ([piece("a")], b"", 502),
        ([piece("a", 0), end(0), piece("b", 1)], b"", 502),
        ([], b"data: [DONE]\n\n", 502),
        ([COUNTS], b"data: [DONE]\n\n", 502),
        ([piece("a"), {"error": {"message": "boom", "code": 500}}], b"", 502),
        ([{"error": {"message": "slow down", "code": 429}}], b"", 503),
        ([{"error": {"message": "bad", "type": "invalid_request_error", "code": 400}}], b"", 400),
    ],
    ids=["reason", "done", "usage", "nothing", "one of two", "empty", "usage alone", "error", "busy", "refused"],
)
async def test_the_end_of_events_in_place_of_a_whole_answer(
    service: Service, events: list[Any], mark: bytes, status: int
) -> None:
    body = body_of(*events).removesuffix(b"data: [DONE]\n\n") + mark
    service.fake().script(Behaviour(body=body, content_type="text/event-stream"))
    answer = await service.chat(n=2 if len(events) == 3 else 1)
    assert answer.status == status
    row = await service.row(answer)
    assert (row.cost_nano or 0, row.billing_reason == "answered") == (0, status == 200)


@pytest.mark.parametrize("content_type", TYPES)
async def test_a_whole_answer_is_one_whatever_it_is_called(service: Service, content_type: str) -> None:
    for stream in (False, True):
        for begin in (b"", b" \n"):
            body = begin + json.dumps(WHOLE).encode()
            service.fake().script(Behaviour(body=body, content_type=content_type))
            answer = await service.chat(stream=stream)
            assert (answer.status, said(answer)) == (200, "héllo")
            assert (await service.row(answer)).output_tokens == 5


@pytest.mark.parametrize("content_type", TYPES)
@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_neither_is_a_failure(service: Service, content_type: str, stream: bool) -> None:
    for body in (b"<html>data: {}</html>", b"welcome", b""):
        service.fake().script(Behaviour(body=body, content_type=content_type, status=200))
        answer = await service.chat(stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["choice", "x_groq", "both"])
async def test_B15_usage_with_the_end_of_a_choice_is_the_engines_own(
    service: Service, kind: ProviderKind, stream: bool, place: str
) -> None:
    last = end()
    if place != "x_groq":
        last["choices"][0]["usage"] = USAGE
    if place != "choice":
        last["x_groq"] = {"id": "req_1", "usage": USAGE}
    service.fake(kind).script(sse({**piece("a"), "x_groq": {"id": "req_1"}}, last))
    answer = await service.chat(model_of(kind, "plain"), stream=stream)
    row = await service.row(answer)
    assert (row.input_tokens, row.output_tokens, row.usage_source, row.usage_suspect) == (3, 5, "engine", False)
    service.fake(kind).script(
        sse(piece("a"), last, {"choices": [], "usage": {**USAGE, "completion_tokens": 6, "total_tokens": 9}})
    )
    row = await service.row(await service.chat(model_of(kind, "plain"), stream=stream))
    assert (row.output_tokens, row.usage_suspect) == (6, False)


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("place", ["choice", "x_groq"])
async def test_B15_so_is_usage_within_a_whole_answer(
    service: Service, kind: ProviderKind, stream: bool, place: str
) -> None:
    for text in ("", "a"):
        choice: dict[str, Any] = {"index": 0, "message": {"content": "b", "reasoning": text}, "finish_reason": "stop"}
        whole: dict[str, Any] = {"choices": [choice]}
        (choice if place == "choice" else whole).update(
            {"usage": USAGE} if place == "choice" else {"x_groq": {"usage": USAGE}}
        )
        service.fake(kind).script(Behaviour(body=json.dumps(whole).encode(), content_type="application/json"))
        row = await service.row(await service.chat(model_of(kind, "plain"), stream=stream))
        assert (row.input_tokens, row.output_tokens + row.reasoning_tokens) == (3, 5)


@pytest.mark.parametrize("stream", [False, True])
async def test_B15_each_choices_own_usage_is_added_up_and_that_of_all_is_not(service: Service, stream: bool) -> None:
    ends = [end(0), end(1)]
    for last in ends:
        last["choices"][0]["usage"] = USAGE
    service.fake().script(sse(piece("a", 0), piece("b", 1), *ends))
    row = await service.row(await service.chat(stream=stream, n=2))
    assert (row.input_tokens, row.output_tokens, row.usage_suspect) == (3, 10, False)
    both = {"choices": [end(0)["choices"][0], end(1)["choices"][0]], "x_groq": {"usage": USAGE}}
    service.fake().script(sse(piece("a", 0), piece("b", 1), both))
    row = await service.row(await service.chat(stream=stream, n=2))
    assert (row.input_tokens, row.output_tokens, row.usage_suspect) == (3, 5, False)


@pytest.mark.parametrize("kind", [OPENAI, VLLM])
@pytest.mark.parametrize("stream", [False, True])
async def test_likelihoods_of_tokens_without_text_reach_the_caller(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    tokens = [{"choices": [{"index": 0, "text": text, "logprobs": LIKELY}]} for text in ("", "", "a")]
    last = {"choices": [{"index": 0, "text": "", "logprobs": LIKELY, "finish_reason": "length"}]}
    whole = {**last, "usage": USAGE}
    as_events = stream
    service.fake(kind).script(sse(*tokens, last, COUNTS) if as_events else Behaviour(body=json.dumps(whole).encode()))
    answer = await service.complete("x", model_of(kind, "plain"), stream=stream, logprobs=2, max_tokens=4)
    choices = [c for part in chunks(answer) for c in part["choices"]] if stream else answer.json()["choices"]
    told = [token for choice in choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert told == ["</s>"] * (4 if stream else 1)


def nested(levels: int, text: str = '"x"') -> str:
    return "[" * levels + text + "]" * levels


@pytest.mark.parametrize("levels", [100, 450, 600, 900, 3000])
@pytest.mark.parametrize("kind", KINDS)
async def test_A16_json_that_is_nested_is_no_fault_of_ours(service: Service, kind: ProviderKind, levels: int) -> None:
    deep = nested(levels)
    entry = '{"token":"a","logprob":-1,"top_logprobs":['
    likely = entry * levels + '{"token":"a","logprob":-1}' + "]}" * levels
    if kind is OLLAMA:
        bodies = [f'{{"message":{{"content":{deep}}}}}\n', f'{{"message":{{"content":"a"}},"logprobs":[{likely}]}}\n']
        begin = '{"message":{"content":"hi"}}\n'
    else:
        deltas = [f'"delta":{{"content":{deep}}}', f'"delta":{{"content":"x"}},"logprobs":{{"content":[{likely}]}}']
        deltas += [f'"delta":{{"tool_calls":[{{"function":{{"name":"f","arguments":{{"a":{deep}}}}}}}]}}']
        bodies = [f'data: {{"choices":[{{"index":0,{delta}}}]}}\n\n' for delta in deltas]
        begin = 'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'
    for body in bodies:
        content_type = "application/x-ndjson" if kind is OLLAMA else "text/event-stream"
        service.fake(kind).script(Behaviour(body=(begin + body).encode(), content_type=content_type))
        answer = await service.chat(model_of(kind, "plain"), stream=True)
        row = await service.row(answer)
        assert row.error_code in {None, "engine_failed"}, body[:80]
        assert b"internal_error" not in answer.body
    for status in (200, 400, 500):
        refusal = f'{{"detail":{deep}}}'.encode()
        service.fake(kind).script(Behaviour(status=status, body=refusal, content_type="application/json"))
        answer = await service.chat(model_of(kind, "plain"))
        assert (answer.status, error_of(answer)["code"]) in {(400, "engine_refused"), (502, "engine_failed")}


@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_detail_beside_the_choices_is_no_error(service: Service, kind: ProviderKind) -> None:
    waiting = {"choices": [], "detail": "queue position 3"}
    for events in ([waiting, piece("a"), end(), COUNTS], [piece("a"), waiting, end(), COUNTS]):
        for stream in (True, False):
            service.fake(kind).script(sse(*events))
            answer = await service.chat(model_of(kind, "plain"), stream=stream)
            assert (answer.status, said(answer)) == (200, "a")
    service.fake(kind).script(sse({"detail": "Not Found"}))
    assert (await service.chat(model_of(kind, "plain"), stream=True)).status == 502
