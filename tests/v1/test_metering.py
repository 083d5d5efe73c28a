"""What a row says of an answer, however its engine counts: each side the engine's number, the total's, or our own estimate."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from llmaas.domain.models import ProviderKind
from llmaas.domain.usage import UsageFilter, UsageRow
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection, request_bytes
from tests.service import CHAT, Service, model_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENAI, OLLAMA, LLAMA_CPP, VLLM = ProviderKind.OPENAI, ProviderKind.OLLAMA, ProviderKind.LLAMA_CPP, ProviderKind.VLLM
TEXT = "four four four four "  # 20 bytes: 5 tokens
PROMPT = "x" * 400  # 100 tokens
ONE_SIDED = [
    ({"completion_tokens": 5}, (100, 5), "counted"),
    ({"prompt_tokens": -7, "completion_tokens": 5}, (100, 5), "counted"),
    ({"prompt_tokens": 12.7, "completion_tokens": 5}, (100, 5), "counted"),
    ({"prompt_tokens": "12", "completion_tokens": 5}, (12, 5), "engine"),
    ({"prompt_tokens": 9, "total_tokens": 14}, (9, 5), "engine"),
    ({"prompt_tokens": 9, "completion_tokens": -5}, (9, 5), "counted"),
    ({"prompt_tokens": 0, "completion_tokens": 5}, (0, 5), "engine"),
]


def sse(*events: Any) -> Behaviour:
    data = b"".join(b"data: %b\n\n" % json.dumps(event).encode() for event in events)
    return Behaviour(body=data + b"data: [DONE]\n\n", content_type="text/event-stream")


def piece(text: str, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": None}], **more}


def end(index: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}], **more}


def whole(usage: Any, *, chat: bool = True) -> Behaviour:
    said = {"message": {"role": "assistant", "content": TEXT}} if chat else {"text": TEXT}
    choices = [{"index": 0, **said, "finish_reason": "stop"}]
    return Behaviour(body=json.dumps({"choices": choices, "usage": usage}).encode())


def sides(row: UsageRow) -> tuple[int, int]:
    return row.input_tokens + row.cached_input_tokens, row.output_tokens + row.reasoning_tokens


@pytest.mark.parametrize("way", ["chat", "completion", "stream"])
@pytest.mark.parametrize(("usage", "counted", "source"), ONE_SIDED, ids=str)
async def test_B15_a_usage_with_one_bad_side_bills_both(
    service: Service, usage: Any, counted: tuple[int, int], source: str, way: str
) -> None:
    if way == "completion":
        service.fake().script(whole(usage, chat=False))
        answer = await service.complete(PROMPT)
    elif way == "chat":
        service.fake().script(whole(usage))
        answer = await service.chat(text=PROMPT)
    else:
        service.fake().script(sse(*[piece("four ")] * 5, end(), {"choices": [], "usage": usage}))
        answer = await service.chat(text=PROMPT, stream=True)
    row = await service.row(answer)
    assert (sides(row), row.usage_source, row.usage_suspect) == (counted, source, True)
    if way != "stream":
        told = answer.json()["usage"]
        assert (told["prompt_tokens"], told["completion_tokens"]) == counted, "the caller is told what it pays for"


@pytest.mark.parametrize(
    "counts", [{"eval_count": 5}, {"prompt_eval_count": None, "eval_count": 5}, {"prompt_eval_count": -1}], ids=str
)
async def test_B15_ollama_without_a_count_of_the_prompt_has_it_estimated(service: Service, counts: Any) -> None:
    lines: list[Any] = [{"message": {"role": "assistant", "content": "four "}, "done": False}] * 5
    lines.append({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **counts})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    service.fake(OLLAMA).script(Behaviour(body=body, content_type="application/x-ndjson"))
    row = await service.row(await service.chat(model_of(OLLAMA, "plain"), PROMPT))
    assert (sides(row), row.usage_source, row.usage_suspect) == ((100, 5), "counted", True)


@pytest.mark.parametrize(
    ("usage", "tokens", "source"),
    [
        ({"total_tokens": 9}, 9, "engine"),
        ({"prompt_tokens": -1}, 100, "counted"),
        (None, 100, "counted"),
        ({}, 100, "counted"),
    ],
    ids=str,
)
async def test_B15_embeddings_are_billed_by_their_total_or_their_text(
    service: Service, usage: Any, tokens: int, source: str
) -> None:
    data = [{"index": 0, "embedding": [0.5]}]
    service.fake().script(Behaviour(body=json.dumps({"data": data, "usage": usage}).encode()))
    row = await service.row(await service.embed(PROMPT))
    assert (sides(row), row.usage_source, row.usage_suspect) == ((tokens, 0), source, True)


@pytest.mark.parametrize("ids", [list(range(100)), [list(range(60)), list(range(40))]], ids=["ids", "lists of ids"])
async def test_B15_token_ids_are_one_token_each(service: Service, ids: Any) -> None:
    vectors = len(ids) if isinstance(ids[0], list) else 1
    data = [{"index": index, "embedding": [0.5]} for index in range(vectors)]
    service.fake().script(Behaviour(body=json.dumps({"data": data}).encode()))
    row = await service.row(await service.embed(ids))
    assert row.input_tokens == 100


async def test_B15_cached_parts_have_their_class_under_any_name(service: Service) -> None:
    for usage in (
        {
            "prompt_tokens": 1000,
            "completion_tokens": 5,
            "prompt_cache_hit_tokens": 800,
            "prompt_cache_miss_tokens": 200,
        },
        {"input_tokens": 200, "output_tokens": 5, "cache_read_input_tokens": 800},
        {"input_tokens": 1000, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 800}},
        {"prompt_tokens": 1000, "completion_tokens": 5, "cached_tokens": 800},
    ):
        service.fake().script(whole(usage))
        row = await service.row(await service.chat(text="x" * 4000))
        assert (row.input_tokens, row.cached_input_tokens, row.output_tokens) == (200, 800, 5), usage
        assert not row.usage_suspect


@pytest.mark.parametrize("stream", [True, False])
async def test_running_totals_of_several_choices_are_not_added_up(service: Service, stream: bool) -> None:
    usage = [{"prompt_tokens": 10, "completion_tokens": made} for made in (1, 2, 3)]
    events = [
        piece("a", 0, usage=usage[0]),
        piece("b", 1, usage=usage[1]),
        piece("c", 0, usage=usage[2]),
        end(0),
        end(1),
    ]
    service.fake(LLAMA_CPP).script(sse(*events))
    row = await service.row(await service.chat(model_of(LLAMA_CPP, "plain"), n=2, stream=stream))
    assert (sides(row), row.usage_suspect) == ((10, 3), False)


@pytest.mark.parametrize(
    ("kind", "counted", "source"), [(LLAMA_CPP, (2, 10), "engine"), (OLLAMA, (200, 10), "counted")]
)
async def test_B15_several_prompts_in_turn_are_billed_together(
    service: Service, kind: ProviderKind, counted: tuple[int, int], source: str
) -> None:
    """The second answer has no usage: llama.cpp's timings stand in for it; of Ollama's prompts one is unknown, so both are estimated."""
    service.fake(kind).script(Behaviour(), Behaviour(usage="missing"), model="plain")
    row = await service.row(await service.complete(["x" * 400, "y" * 400], model_of(kind, "plain")))
    assert (sides(row), row.usage_source, row.usage_suspect) == (counted, source, source == "counted")


async def test_B15_vllm_counts_on_each_chunk_are_taken_from_the_last(service: Service) -> None:
    events = [
        piece("four ", usage={"prompt_tokens": 9, "completion_tokens": n, "total_tokens": 9 + n}) for n in range(1, 6)
    ]
    service.fake(VLLM).script(sse(*events, end(usage={"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14})))
    row = await service.row(await service.chat(model_of(VLLM, "plain"), PROMPT))
    assert (sides(row), row.usage_source, row.usage_suspect) == ((9, 5), "engine", False)


async def abandoned(service: Service, body: bytes) -> UsageRow:
    """The row of a stream that its caller leaves after the first piece, from an engine that has told nothing by then."""
    service.fake().script(Behaviour(pause_at=(2,)))
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {service.key}")]
    async with await RawConnection.open(service.gateway.url) as connection:
        await connection.send(request_bytes("POST", CHAT, headers=headers, body=body))
        head = await connection.read_until(b"\r\n\r\n")
        answer_id = next(line[4:] for line in head.decode().split("\r\n") if line.startswith("id: "))
        await connection.read_until(b"hello")
    usage = (await service.gateway.installation()).usage
    async with asyncio.timeout(10):
        while True:
            async for row in usage.rows(UsageFilter(), limit=5):
                if row.id == answer_id:
                    return row
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("extra", "content", "tokens"),
    [
        (b"", [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}], 1024),
        (b" " * 200_000, "x" * 400, 100),
        (b'"unknown":"%b",' % (b"x" * 100_000), "x" * 400, 100),
    ],
    ids=["a picture", "blanks", "a dropped member"],
)
async def test_B15_what_is_no_text_is_not_billed_as_text(
    service: Service, extra: bytes, content: Any, tokens: int
) -> None:
    body = json.dumps({"model": "plain", "stream": True, "messages": [{"role": "user", "content": content}]}).encode()
    row = await abandoned(service, body[:1] + extra + body[1:])
    assert (row.input_tokens, row.usage_source, row.usage_suspect) == (tokens, "counted", True)
    assert row.billing_reason == "aborted_after_output"


_LIKELY = '{"token":"a","logprob":-0.5,"top_logprobs":[{"token":"a","logprob":-0.5}]}'
ODD_LOGPROBS = [
    '{"content":[{"token":"a","logprob":-1e999}]}',
    '{"content":[{"token":"a","logprob":-0.5,"top_logprobs":5}]}',
    '{"content":[{"token":"a","logprob":-0.5,"top_logprobs":{"a":-0.5}}]}',
    f'{{"tokens":["a"],"token_logprobs":[-1e999],"top_logprobs":[{_LIKELY}],"text_offset":[0]}}',
    f'{{"tokens":5,"top_logprobs":[[{_LIKELY}]],"text_offset":[0]}}',
    '{"content":{"a":1}}',
    "[1]",
    '"x"',
]


@pytest.mark.parametrize("way", ["chat", "completion", "stream", "completion stream"])
@pytest.mark.parametrize("logprobs", ODD_LOGPROBS)
async def test_B16_nothing_is_charged_that_cannot_be_rendered(service: Service, logprobs: str, way: str) -> None:
    chat, stream = not way.startswith("completion"), way.endswith("stream")
    said: dict[str, Any] = {"text": "a"} if not chat else {"delta" if stream else "message": {"content": "a"}}
    choice = (
        json.dumps({"index": 0, **said, "finish_reason": None if stream else "stop"})[:-1] + f',"logprobs":{logprobs}}}'
    )
    usage = '{"prompt_tokens":9,"completion_tokens":1}'
    if stream:
        last = json.dumps(end() if chat else {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
        body = f'data: {{"choices":[{choice}]}}\n\ndata: {last}\n\ndata: {{"choices":[],"usage":{usage}}}\n\ndata: [DONE]\n\n'
        service.fake().script(Behaviour(body=body.encode(), content_type="text/event-stream"))
    else:
        service.fake().script(Behaviour(body=f'{{"choices":[{choice}],"usage":{usage}}}'.encode()))
    if chat:
        answer = await service.chat(logprobs=True, stream=stream)
    else:
        answer = await service.complete("p", logprobs=1, stream=stream)
    row = await service.row(answer)
    good = answer.status == 200 and b'"error"' not in answer.body
    assert (row.outcome == "completed", row.billing_reason == "answered") == (good, good)
    assert good or row.billing_reason in ("failed_before_output", "failed_after_output")


@pytest.mark.parametrize("vector", ['"%%%"', '"abc="', '"AA=="', "[1e39]", '["x"]'])
@pytest.mark.parametrize("form", ["float", "base64"])
async def test_B16_no_vector_is_charged_that_cannot_be_rendered(service: Service, vector: str, form: str) -> None:
    body = f'{{"data":[{{"index":0,"embedding":{vector}}}],"usage":{{"prompt_tokens":9,"total_tokens":9}}}}'
    service.fake().script(Behaviour(body=body.encode()))
    answer = await service.embed("a", encoding_format=form)
    row = await service.row(answer)
    assert (row.outcome == "completed") == (row.billing_reason == "answered") == (answer.status == 200)
