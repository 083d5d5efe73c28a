"""Engines that speak OpenAI's language, and how the kinds differ."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest

from llmaas.domain.models import ProviderKind
from llmaas.domain.usage import FREE
from tests.fakes.behaviour import Behaviour, Call
from tests.fakes.raw_http import RawConnection, request_bytes
from tests.service import CHAT, KINDS, PROVIDER_KEY, Service, chunks, error_of, model_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPEAKING = (ProviderKind.OPENAI, ProviderKind.VLLM, ProviderKind.LLAMA_CPP)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_providers_credential_is_sent_and_only_our_headers(service: Service, kind: ProviderKind) -> None:
    await service.post(
        CHAT,
        {"model": model_of(kind, "plain"), "messages": [{"role": "user", "content": "hi"}]},
        headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "openai-organization": "o", "x-request-id": "r1"},
    )
    sent = service.sent(kind)
    assert sent.credential == "provider"
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"
    names = sorted(name.lower() for name, _ in sent.headers)
    assert names == ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host"]
    assert sent.header("accept-encoding") == "identity"
    assert service.key not in str(sent.headers) + sent.body.decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_who_counts_while_streaming_is_read_as_a_stream(service: Service, stream: bool) -> None:
    for kind, options in (
        (
            ProviderKind.VLLM,
            {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        ),
        (
            ProviderKind.LLAMA_CPP,
            {
                "stream": True,
                "stream_options": {"include_usage": True},
                "timings_per_token": True,
                "return_progress": True,
            },
        ),
        (ProviderKind.OPENAI, {"stream": True, "stream_options": {"include_usage": True}} if stream else {}),
    ):
        answer = await service.chat(model_of(kind, "plain"), "hi", stream=stream)
        assert answer.status == 200
        assert service.sent(kind).json == {"model": "plain", "messages": [{"role": "user", "content": "hi"}], **options}


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_an_abandoned_stream_is_counted_as_far_as_it_went(service: Service, kind: ProviderKind) -> None:
    fake = service.fake(kind)
    fake.script(Behaviour(tokens=50, pause_at=(21,), cached_tokens=1))  # after the role and twenty tokens
    body = (
        b'{"model":"%b","stream":true,"messages":[{"role":"user","content":"a b c"}]}'
        % model_of(kind, "plain").encode()
    )
    headers = [("authorization", f"Bearer {service.key}"), ("content-type", "application/json")]
    async with await RawConnection.open(service.gateway.url) as raw:
        await raw.send(request_bytes("POST", CHAT, headers=headers, body=body))
        seen = b""
        while seen.count(b"hello") < 20:
            seen += await raw.read()
    await fake.wait_cancelled(timeout_s=1)
    id_ = re.search(rb"chatcmpl-[0-9a-f]+", seen)
    assert id_ is not None
    async with asyncio.timeout(5):
        while not (rows := [row for row in await service.gateway.rows() if row.id == id_[0].decode()]):
            await asyncio.sleep(0.01)
    assert (rows[0].outcome, rows[0].usage_source) == ("client_aborted", "engine")
    assert (rows[0].input_tokens, rows[0].cached_input_tokens, rows[0].output_tokens) == (2, 1, 20)


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA])
async def test_system_turns_are_merged_in_front(service: Service, kind: ProviderKind) -> None:
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": "one"},
        {"role": "assistant", "content": "hello"},
        {"role": "system", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]},
        {"role": "user", "content": "bye"},
    ]
    await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert service.sent(kind).json["messages"] == [
        {"role": "system", "content": "one\n\ntwo"},
        messages[0],
        messages[2],
        messages[4],
    ]


async def test_openais_own_servers_get_the_turns_as_they_are(service: Service) -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "developer", "content": "one"}]
    await service.post(CHAT, {"model": "plain", "messages": messages})
    assert service.sent().json["messages"] == messages


@pytest.mark.parametrize("kind", [ProviderKind.VLLM, ProviderKind.LLAMA_CPP])
async def test_a_system_turn_with_an_image_is_refused(service: Service, kind: ProviderKind) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [{"role": "user", "content": "hi"}, {"role": "system", "content": [part]}]
    answer = await service.post(CHAT, {"model": model_of(kind, "plain"), "messages": messages})
    assert (answer.status, answer.json()["error"]["param"]) == (400, "messages")


async def test_llama_cpp_gets_several_prompts_in_turn(service: Service) -> None:
    await service.complete(["a", "b", "c"], "llama.cpp/plain")
    assert [request.json["prompt"] for request in service.fake(ProviderKind.LLAMA_CPP).requests] == ["a", "b", "c"]
    await service.complete(["a", "b", "c"], "vllm/plain")
    assert [request.json["prompt"] for request in service.fake(ProviderKind.VLLM).requests] == [["a", "b", "c"]]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", [ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA])
@pytest.mark.parametrize(
    ("counted", "tokens"), [((0, 1), (7, 65)), ((0,), (110, 63)), ((1,), (110, 65)), ((), (110, 63))], ids=str
)
async def test_B15_a_prompt_that_was_not_counted_is_estimated_beside_those_that_were(
    service: Service, *, kind: ProviderKind, counted: tuple[int, ...], tokens: tuple[int, int], stream: bool
) -> None:
    """The first has 60 pieces and a count of 60, the second three and a count of five."""
    pieces, counts = (60, 3), ((4, 60), (3, 5))
    for at in (0, 1):
        if kind is ProviderKind.OLLAMA:
            told = {"prompt_eval_count": counts[at][0], "eval_count": counts[at][1]} if at in counted else {}
            last = {"response": "", "done": True, "done_reason": "stop", **told}
            lines = [{"response": "x ", "done": False}] * pieces[at] + [last]
            body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ncontent-length: %d\r\n\r\n" % len(body)
            service.fake(kind).script(Behaviour(raw=head + body))
            continue
        text = b'data: {"choices":[{"index":0,"text":"x "}]}\n\n' * pieces[at]
        end = b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'
        usage = b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n' % counts[at]
        said = text + end + (usage if at in counted else b"") + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(said)
        service.fake(kind).script(Behaviour(raw=head + said))
    answer = await service.complete(["x" * 400, "y" * 40], model_of(kind, "plain"), stream=stream)
    assert answer.status == 200
    row = await service.row(answer)
    assert (row.input_tokens, row.output_tokens) == tokens
    assert (row.usage_source, row.usage_suspect) == (("engine", False) if len(counted) == 2 else ("counted", True))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", [ProviderKind.LLAMA_CPP, ProviderKind.OLLAMA])
async def test_prompts_that_were_answered_before_one_was_refused_are_charged_to_who_got_them(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    service.fake(kind).script(Behaviour(), Behaviour(error="context_llamacpp"))
    answer = await service.complete(["a long story", "b"], model_of(kind, "plain"), stream=stream)
    if stream:
        assert (answer.status, b"hello" in answer.body, b"context_length_exceeded" in answer.body) == (200, True, True)
    else:
        assert (answer.status, error_of(answer)["code"]) == (400, "context_length_exceeded")
    row = (await service.gateway.rows())[0]
    reason = "refused_after_output" if stream else "refused"
    assert (row.outcome, row.billing_reason, row.output_tokens) == ("engine_refused", reason, 5)
    assert (row.billing_reason in FREE) is not stream


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", SPEAKING)
async def test_an_answer_with_too_many_tool_calls_is_cut_and_charged(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    calls = tuple(Call(name="f", arguments='{"x":1}') for _ in range(200))
    service.fake(kind).script(Behaviour(calls=calls))
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = await service.chat(model_of(kind, "plain"), tools=tools, stream=stream)
    assert answer.status == 200
    assert (answer.body.count(b'"name":"f"'), answer.body.count(b'"finish_reason":"length"')) == (128, 1)
    assert b'"error"' not in answer.body
    row = await service.row(answer)
    assert (row.outcome, row.billing_reason, row.finish_reason) == ("completed", "answered", "length")
    assert row.output_tokens >= 128


@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_refused_parameter_is_400_without_an_outside_providers_text(
    service: Service, kind: ProviderKind
) -> None:
    service.fake(kind).script(Behaviour(error="bad_parameter"))
    answer = await service.chat(model_of(kind, "plain"))
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", "engine_refused")
    assert ("0.2" in error["message"]) is (kind is not ProviderKind.OPENAI)


@pytest.mark.parametrize("shape", ["context_llamacpp_batch", "quota", "rate_limit", "loading"])
async def test_other_errors_of_engines(service: Service, shape: Any) -> None:
    service.fake().script(Behaviour(error=shape))
    answer = await service.chat()
    assert answer.status == (400 if shape == "context_llamacpp_batch" else 503)
    assert "org-secret" not in answer.body.decode()


def in_one_piece(*choices: dict[str, Any], **more: Any) -> Behaviour:
    usage = {"prompt_tokens": 3, "completion_tokens": 40, "total_tokens": 43}
    answer = {
        "object": "chat.completion",
        "choices": [{"index": at, **c} for at, c in enumerate(choices)],
        "usage": usage,
    }
    return Behaviour(body=msgspec.json.encode({**answer, **more}))


SAID = {"message": {"role": "assistant", "content": "all at once"}, "finish_reason": "stop"}
CALLED = {
    "message": {"content": None, "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": '{"x":1}'}}]},
    "finish_reason": "tool_calls",
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_server_that_does_not_stream_is_answered_for_in_one_piece(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    service.fake(kind).script(in_one_piece(SAID))
    wishes: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await service.chat(model_of(kind, "plain"), **wishes)
    assert answer.status == 200
    if stream:
        *parts, counted = chunks(answer)
        assert text_of(parts) == "all at once"
        assert parts[-1]["choices"][0]["finish_reason"] == "stop"
        assert counted["usage"]["completion_tokens"] == 40
    else:
        assert answer.json()["choices"][0]["message"]["content"] == "all at once"
    row = await service.row(answer)
    assert (row.outcome, row.input_tokens, row.output_tokens, row.usage_suspect) == ("completed", 3, 40, False)


@pytest.mark.parametrize("kind", SPEAKING)
async def test_several_choices_texts_and_calls_come_in_one_piece_too(service: Service, kind: ProviderKind) -> None:
    service.fake(kind).script(in_one_piece(SAID, SAID))
    parts = chunks(await service.chat(model_of(kind, "plain"), stream=True, n=2))
    assert [text_of([p for p in parts if p["choices"][0]["index"] == at]) for at in (0, 1)] == ["all at once"] * 2
    service.fake(kind).script(in_one_piece(CALLED))
    parts = chunks(await service.chat(model_of(kind, "plain"), stream=True))
    (call,) = [c for p in parts for choice in p["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert call["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert parts[-1]["choices"][0]["finish_reason"] == "tool_calls"
    service.fake(kind).script(in_one_piece({"text": "all at once", "finish_reason": "stop"}))
    parts = chunks(await service.complete("a", model_of(kind, "plain"), stream=True))
    assert "".join(choice["text"] for part in parts for choice in part["choices"]) == "all at once"


@pytest.mark.parametrize(
    "behaviour",
    [
        in_one_piece(),
        in_one_piece(SAID, SAID),
        in_one_piece(SAID, error={"message": "no"}),
        Behaviour(body=b'{"choices":[{"message":{"content":"a'),
        Behaviour(body=b"[]"),
        Behaviour(body=b"<html>Welcome</html>", content_type="text/html"),
    ],
    ids=["no choices", "too many choices", "error", "half", "list", "a page"],
)
async def test_what_is_no_whole_answer_is_none_in_place_of_a_stream(service: Service, behaviour: Behaviour) -> None:
    service.fake(ProviderKind.OPENAI).script(behaviour)
    answer = await service.chat(model_of(ProviderKind.OPENAI, "plain"), stream=True)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", SPEAKING)
async def test_a_callers_fault_that_comes_with_status_200_is_his(
    service: Service, kind: ProviderKind, stream: bool
) -> None:
    too_long = b'{"error":{"message":"the input length exceeds the context length"}}'
    invalid = b'{"error":{"message":"Invalid value","type":"invalid_request_error","code":400}}'
    for said, code in ((too_long, "context_length_exceeded"), (invalid, "engine_refused")):
        for told, content_type in ((said, "application/json"), (b"data: %b\n\n" % said, "text/event-stream")):
            if kind is ProviderKind.OLLAMA and told is not said:
                continue
            if content_type == "text/event-stream" and not stream and kind is not ProviderKind.LLAMA_CPP:
                continue
            service.fake(kind).script(Behaviour(body=told, content_type=content_type))
            answer = await service.chat(model_of(kind, "plain"), stream=stream)
            assert (answer.status, error_of(answer)["code"]) == (400, code)
            row = (await service.gateway.rows())[0]
            assert (row.outcome, row.billing_reason, row.attempts) == ("engine_refused", "refused", 1)


@pytest.mark.parametrize("prompt", ["", ["a", ""]])
async def test_ollama_is_sent_no_empty_prompt(service: Service, prompt: Any) -> None:
    answer = await service.complete(prompt, model_of(ProviderKind.OLLAMA, "plain"))
    assert (answer.status, error_of(answer)["param"]) == (400, "prompt")
    assert not service.fake(ProviderKind.OLLAMA).requests


ERRORS = [
    b'event: error\ndata: {"message":"boom","code":500}\n\n',
    b'error: {"code":500,"message":"boom"}\n\n',
    b'{"error":"boom"}\n\n',
    *(
        b"data: %b\n\n" % said
        for said in (
            b'{"object":"error","message":"boom"}',
            b'{"text":"NETWORK ERROR","error_code":50002}',
            b'{"detail":"boom"}',
            b'{"errors":["boom"]}',
            b'{"type":"error","message":"boom"}',
            b'{"status":"error","message":"boom"}',
            b'{"message":"boom","code":500}',
            b'{"message":"boom","code":"internal","usage":{"prompt_tokens":3}}',
            b'{"message":"boom"}',
            b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1},"error":{"message":"boom"}}',
            b'{"object":"error","message":"boom","usage":{"prompt_tokens":3,"completion_tokens":1}}',
        )
    ),
]


@pytest.mark.parametrize("said", ERRORS, ids=str)
async def test_an_error_of_any_shape_inside_a_stream_is_a_failure(service: Service, said: bytes) -> None:
    begin = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
    end = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    service.fake().script(Behaviour(body=begin + said + end, content_type="text/event-stream"))
    answer = await service.chat(stream=True)
    assert (answer.status, b'"engine_failed"' in answer.body) == (200, True)
    row = (await service.gateway.rows())[0]
    assert (row.outcome, row.billing_reason) == ("engine_failed", "failed_after_output")
    if said.startswith(b"data: "):
        service.fake().script(Behaviour(body=said[6:].strip()))
        assert (await service.chat()).status == 502


@pytest.mark.parametrize("said", [b'{"message":"boom","code":500}', b'{"message":"boom","code":500,"done":true}'])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_without_the_word_is_one_in_ollamas_lines_too(
    service: Service, said: bytes, stream: bool
) -> None:
    lines = b'{"message":{"content":"a"},"done":false}\n%b\n' % said
    service.fake(ProviderKind.OLLAMA).script(Behaviour(body=lines, content_type="application/x-ndjson"))
    answer = await service.chat(model_of(ProviderKind.OLLAMA, "plain"), stream=stream)
    assert b'"engine_failed"' in answer.body
    assert b'"boom' not in answer.body
    assert (await service.gateway.rows())[0].outcome == "engine_failed"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", SPEAKING)
@pytest.mark.parametrize("older", [True, False])
async def test_a_call_in_the_older_form_is_passed_on(
    service: Service, kind: ProviderKind, stream: bool, older: bool
) -> None:
    said = {"function_call": {"name": "f", "arguments": '{"x":"\u65e5"}'}}
    if stream or kind is not ProviderKind.OPENAI:
        events = [
            {"choices": [{"index": 0, "delta": said}]},
            {"choices": [{"index": 0, "finish_reason": "function_call"}]},
        ]
        body = b"".join(b"data: %b\n\n" % msgspec.json.encode(event) for event in events) + b"data: [DONE]\n\n"
        service.fake(kind).script(Behaviour(body=body, content_type="text/event-stream"))
    else:
        service.fake(kind).script(in_one_piece({"message": said, "finish_reason": "function_call"}))
    functions = [{"name": "f"}]
    wish = {"functions": functions} if older else {"tools": [{"type": "function", "function": functions[0]}]}
    answer = await service.chat(model_of(kind, "plain"), stream=stream, **wish)
    choices = [c for part in (chunks(answer) if stream else [answer.json()]) for c in part["choices"]]
    told = [choice["delta" if stream else "message"] for choice in choices]
    made = [one["function_call"] for one in told if "function_call" in one]
    made += [call["function"] for one in told for call in one.get("tool_calls", ())]
    assert made == [said["function_call"]]
    assert choices[-1]["finish_reason"] == ("function_call" if older else "tool_calls")
    row = await service.row(answer)
    assert (row.outcome, row.output_tokens > 0) == ("completed", True)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_within_a_choice_is_a_failure(service: Service, stream: bool) -> None:
    said = b'{"choices":[{"index":0,"%b":{},"finish_reason":null,"error":{"message":"boom"}}]}'
    told = b"data: %b\n\ndata: [DONE]\n\n" % (said % b"delta") if stream else said % b"message"
    kind = "text/event-stream" if stream else "application/json"
    service.fake().script(Behaviour(body=told, content_type=kind))
    answer = await service.chat(stream=stream)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")
