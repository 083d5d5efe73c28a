"""What a caller got in full is charged, whatever its engine did wrong with it; and the row says so."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from llmaas.domain.limits import Limits
from llmaas.domain.models import ProviderKind
from llmaas.domain.usage import FREE, UsageRow
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection, RawResponse, request_bytes
from tests.service import CHAT, COMPLETIONS, KINDS, Service, chunks, model_of, text_of
from tests.v1.test_metering import end, piece, sides, sse

pytestmark = pytest.mark.asyncio(loop_scope="session")

OPENAI, OLLAMA, LLAMA_CPP, VLLM = ProviderKind.OPENAI, ProviderKind.OLLAMA, ProviderKind.LLAMA_CPP, ProviderKind.VLLM
SPEAKING = (OPENAI, VLLM, LLAMA_CPP)
READ_AS_STREAM = [(kind, stream) for kind in KINDS for stream in (True, False) if stream or kind is not OPENAI]
USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
COUNTS = {"choices": [], "usage": USAGE}


def finishes(answer: RawResponse) -> list[tuple[int, str]]:
    """Each choice's reason, of a stream that ended in order."""
    parts = chunks(answer)
    assert not any("error" in part for part in parts), parts[-1]
    return [(c["index"], c["finish_reason"]) for part in parts for c in part["choices"] if c["finish_reason"]]


def is_charged(row: UsageRow) -> bool:
    assert row.outcome == "completed"
    return row.billing_reason not in FREE and row.usage_suspect


def logged(service: Service, row: UsageRow) -> list[str]:
    lines = [line for line in service.gateway.log.splitlines() if "answer_not_as_asked" in line]
    return [line for line in lines if row.request_id in line]


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize(
    "signs", [[end(), COUNTS], [end()], [COUNTS]], ids=["reason and usage", "reason alone", "usage alone"]
)
async def test_an_engine_that_ignores_n_is_charged_for_what_it_streamed(
    service: Service, kind: ProviderKind, signs: list[Any]
) -> None:
    service.fake(kind).script(sse(*[piece("four ")] * 5, *signs))
    answer = await service.chat(model_of(kind, "plain"), stream=True, n=2)
    assert (finishes(answer), text_of(chunks(answer))) == ([(0, "stop")], "four " * 5)
    row = await service.row(answer)
    assert (is_charged(row), row.output_tokens, len(logged(service, row))) == (True, 5, 1)


async def test_an_engine_that_ignores_n_and_says_no_done_is_charged_too(service: Service) -> None:
    told = sse(piece("a"), end()).body or b""
    service.fake().script(Behaviour(body=told.removesuffix(b"data: [DONE]\n\n"), content_type="text/event-stream"))
    answer = await service.chat(stream=True, n=2)
    assert finishes(answer) == [(0, "stop")]
    assert is_charged(await service.row(answer))


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("n", [1, 2])
async def test_prompts_that_an_engine_leaves_out_keep_nobody_from_paying_for_the_others(
    service: Service, kind: ProviderKind, n: int
) -> None:
    """An engine asked for each prompt by itself leaves out choices of each, one asked for all of them whole prompts."""
    said = [{"choices": [{"index": 0, "text": "four "}]}] * 5
    last = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    each = 1 if kind is not LLAMA_CPP else 2
    service.fake(kind).script(*[sse(*said, last, COUNTS)] * each)
    answer = await service.complete(["a", "b"], model_of(kind, "plain"), stream=True, n=n)
    row = await service.row(answer)
    if kind is LLAMA_CPP and n == 1:
        assert finishes(answer) == [(0, "stop"), (1, "stop")]
        assert (row.outcome, row.usage_suspect) == ("completed", False)
    else:
        assert finishes(answer) == [(place * n, "stop") for place in range(each)]
        assert is_charged(row)
    assert row.output_tokens == 5 * each


async def told_later(
    service: Service, kind: ProviderKind, later: bytes, *, path: str = CHAT, **more: Any
) -> RawResponse:
    """The answer of an engine that says `later` when its first piece, "hello ", has reached the caller."""
    fake = service.fake(kind)
    at = 2 if path == CHAT else 1
    fake.script(Behaviour(pause_at=(at,), raw_events={at: later}))
    if path == CHAT:
        more["messages"] = [{"role": "user", "content": "hi"}]
    body = json.dumps({"model": model_of(kind, "plain"), "stream": True, **more}).encode()
    headers = [("content-type", "application/json"), ("authorization", f"Bearer {service.key}")]
    async with await RawConnection.open(service.gateway.url) as connection:
        await connection.send(request_bytes("POST", path, headers=headers, body=body))
        begun = await connection.read_until(b"hello ")
        await fake.release()
        rest = await connection.read_until(b"data: [DONE]\n\n")
    head, _, first = begun.partition(b"\r\n\r\n")
    lines = [line.split(": ", 1) for line in head.decode().split("\r\n")[1:]]
    events = b"".join(re.findall(rb"data: .*\n\n", first + rest))
    return RawResponse(200, "OK", [(name, value) for name, value in lines], events, "chunked", [])


def data(*events: Any) -> bytes:
    return sse(*events).body or b""


@pytest.mark.parametrize("kind", SPEAKING)
async def test_choices_that_come_after_those_that_were_asked_for_are_neither_given_nor_charged(
    service: Service, kind: ProviderKind
) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 9}}
    answer = await told_later(service, kind, data(piece("b"), end(), *[piece("more", 1)] * 4, end(1), usage))
    assert (finishes(answer), text_of(chunks(answer))) == ([(0, "stop")], "hello b")
    row = await service.row(answer)
    assert (is_charged(row), row.output_tokens, row.input_tokens) == (True, 2, 3)


async def test_one_too_many_of_one_prompt_is_none_of_the_next(service: Service) -> None:
    one, another = ({"choices": [{"index": at, "text": text, "finish_reason": "stop"}]} for at, text in enumerate("ab"))
    answer = await told_later(service, LLAMA_CPP, data(one, another), path=COMPLETIONS, prompt=["p", "q"])
    assert finishes(answer) == [(0, "stop"), (1, "stop")]
    texts = ["".join(c["text"] for p in chunks(answer) for c in p["choices"] if c["index"] == at) for at in (0, 1)]
    assert texts == ["hello a", "hello " * 5]
    row = await service.row(answer)
    assert (is_charged(row), row.output_tokens) == (True, 7)


@pytest.mark.parametrize(("kind", "stream"), READ_AS_STREAM)
async def test_pieces_of_one_character_are_no_tokens(service: Service, kind: ProviderKind, stream: bool) -> None:
    service.fake(kind).script(letters(kind, 400))
    answer = await service.chat(model_of(kind, "plain"), max_tokens=50, stream=stream)
    row = await service.row(answer)
    assert (answer.status, row.outcome, row.output_tokens) == (200, "completed", 50)
    told = text_of(chunks(answer)) if stream else answer.json()["choices"][0]["message"]["content"]
    assert told == "x" * 400


def letters(kind: ProviderKind, count: int) -> Behaviour:
    """So many pieces of one letter, which the engine counts as 50 tokens."""
    usage = {"prompt_tokens": 3, "completion_tokens": 50}
    if kind in SPEAKING:
        return sse(*[piece("x")] * count, end(), {"choices": [], "usage": usage})
    lines: list[Any] = [{"message": {"content": "x"}, "done": False}] * count
    lines.append({"message": {"content": ""}, "done": True, "done_reason": "stop", "eval_count": 50})
    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return Behaviour(body=body, content_type="application/x-ndjson")


@pytest.mark.parametrize(("kind", "stream"), READ_AS_STREAM)
async def test_A16_an_engine_without_end_is_stopped_and_charged_as_far_as_was_asked(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    answer = await service.chat(model_of(kind, "fake-endless"), max_tokens=50, stream=stream)
    assert answer.status == 200
    await service.fake(kind).wait_cancelled()
    row = await service.row(answer)
    assert (is_charged(row), len(logged(service, row))) == (True, 1)
    if stream:
        assert len(finishes(answer)) == 1
    if kind is not VLLM:  # it tells a reason with its last token, and goes on after that
        assert (row.finish_reason, row.output_tokens) == ("length", 50)


@pytest.mark.parametrize("stream", [True, False])
async def test_A16_an_engine_that_goes_on_after_its_end_is_stopped_and_charged(service: Service, stream: bool) -> None:
    answer = await service.chat(model_of(VLLM, "fake-endless"), stream=stream)
    assert answer.status == 200
    await service.fake(VLLM).wait_cancelled()
    row = await service.row(answer)
    assert (is_charged(row), row.finish_reason, row.output_tokens >= 64) == (True, "stop", True)


def in_one_piece(usage: Any, *, completion: bool = False, **more: Any) -> Behaviour:
    said = {"text": "x" * 400} if completion else {"message": {"content": "x" * 400}}
    return Behaviour(body=json.dumps({"choices": [{**said, "finish_reason": "stop"}], "usage": usage, **more}).encode())


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", SPEAKING)
async def test_B02_an_answer_in_one_piece_is_charged_in_full_to_a_key_with_a_limit(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    limited = Limits(output_tokens_per_day=50_000)
    installation = await service.gateway.installation()
    for made, charged in ((20_000, 20_000), (40_000, 30_000)):
        key, _ = await installation.create_key(project_id="default", name="limited", limits=limited)
        service.fake(kind).script(
            in_one_piece({"prompt_tokens": 3, "completion_tokens": 20_000}),
            in_one_piece({"prompt_tokens": 3, "completion_tokens": made}),
        )
        for _ in range(2):
            body = {"model": model_of(kind, "plain"), "stream": stream, "messages": [{"role": "user", "content": "hi"}]}
            answer = await service.post(CHAT, body, key=key)
            assert answer.status == 200
        row = await service.row(answer)
        if kind is OPENAI:
            assert row.output_tokens <= charged, "it was told to end where what is held ends"
        else:
            assert (row.output_tokens, row.usage_suspect) == (charged, made != charged)


@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("way", ["chat", "completion", "calls"])
@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 7}, {"prompt_tokens": 7, "completion_tokens": 0}], ids=str
)
async def test_B15_an_answer_in_one_piece_without_counts_is_estimated_by_its_text(
    service: Service, kind: ProviderKind, way: str, usage: Any
) -> None:
    if way == "calls":
        call = {"id": "c", "function": {"name": "f" * 4, "arguments": "x" * 396}}
        message = {"content": None, "tool_calls": [call]}
        body = {"choices": [{"message": message, "finish_reason": "tool_calls"}], "usage": usage}
        service.fake(kind).script(Behaviour(body=json.dumps(body).encode()))
    else:
        service.fake(kind).script(in_one_piece(usage, completion=way == "completion"))
    if way == "completion":
        answer = await service.complete("x" * 40, model_of(kind, "plain"), stream=True)
    else:
        answer = await service.chat(model_of(kind, "plain"), "x" * 40, stream=True)
    row = await service.row(answer)
    assert (row.outcome, sides(row)) == ("completed", (7 if usage else 10, 100))
    assert (row.usage_source, row.usage_suspect) == ("counted", True)


async def test_B15_several_prompts_answered_in_one_piece_each_are_estimated_together(service: Service) -> None:
    service.fake(LLAMA_CPP).script(*[in_one_piece(None, completion=True)] * 2)
    row = await service.row(await service.complete(["x" * 40] * 2, model_of(LLAMA_CPP, "plain"), stream=True))
    assert (sides(row), row.usage_source, row.usage_suspect) == ((20, 200), "counted", True)


async def test_B15_ollamas_answer_in_one_line_without_counts_is_estimated_by_its_text(service: Service) -> None:
    line = {"message": {"content": "x" * 400}, "done": True, "done_reason": "stop"}
    service.fake(OLLAMA).script(Behaviour(body=json.dumps(line).encode() + b"\n", content_type="application/x-ndjson"))
    row = await service.row(await service.chat(model_of(OLLAMA, "plain"), "x" * 40, stream=True))
    assert (sides(row), row.usage_source, row.usage_suspect) == ((10, 100), "counted", True)


THOUGHT = "<think>" + "why " * 25 + "</think>\n\n" + "because " * 25


@pytest.mark.parametrize("size", [1, 3, 7, 50, 1000])
async def test_B15_reasoning_in_tags_is_the_same_in_however_many_pieces(service: Service, size: int) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 600}
    pieces = [piece(THOUGHT[at : at + size]) for at in range(0, len(THOUGHT), size)]
    service.fake().script(sse(*pieces, end(), {"choices": [], "usage": usage}))
    streamed = await service.row(await service.chat("fake-think", stream=True))
    body = {"choices": [{"message": {"content": THOUGHT}, "finish_reason": "stop"}], "usage": usage}
    service.fake().script(Behaviour(body=json.dumps(body).encode()))
    told = await service.row(await service.chat("fake-think"))
    assert (
        (streamed.output_tokens, streamed.reasoning_tokens) == (told.output_tokens, told.reasoning_tokens) == (400, 200)
    )
    assert not streamed.usage_suspect
