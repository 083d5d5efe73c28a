"""Ollama by its native API: what it is sent, what its answers become."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import CHAT, PROVIDER_KEY, WINDOW, Service, chunks, error_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

KIND = ProviderKind.OLLAMA
MODEL = "ollama/plain"
USER = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
ALWAYS = {"model": "plain", "stream": True, "truncate": False, "shift": False}


async def test_the_window_is_set_and_nothing_is_cut_in_silence(service: Service) -> None:
    assert (await service.chat(MODEL, "hi")).status == 200
    sent = service.sent(KIND)
    assert sent.path == "/api/chat"
    assert sent.json == {**ALWAYS, "options": {"num_ctx": WINDOW}, "messages": [USER]}
    assert sent.header("authorization") == f"Bearer {PROVIDER_KEY}"
    await service.complete("hi", MODEL)
    sent = service.sent(KIND)
    assert sent.path == "/api/generate"
    assert sent.json == {**ALWAYS, "options": {"num_ctx": WINDOW}, "prompt": "hi", "raw": True}


async def test_options_get_their_names(service: Service) -> None:
    asked: dict[str, Any] = {
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "presence_penalty": 1,
        "frequency_penalty": -1,
    }
    await service.chat(MODEL, "hi", **asked, max_completion_tokens=3, stop="x")
    options = service.sent(KIND).json["options"]
    assert options == {**asked, "num_ctx": WINDOW, "num_predict": 3, "stop": ["x"]}


async def test_an_overflow_is_an_error_with_the_number(service: Service) -> None:
    for stream in (False, True):
        answer = await service.chat(MODEL, "word " * (WINDOW + 1), stream=stream)
        assert (answer.status, error_of(answer)["code"]) == (400, "context_length_exceeded")
        assert f"maximum context length is {WINDOW} tokens" in error_of(answer)["message"]


async def test_tools_and_their_results(service: Service) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    messages = [
        {"role": "developer", "content": "be brief"},
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ]
    await service.post(CHAT, {"model": MODEL, "messages": messages, "tools": [TOOL]})
    sent = service.sent(KIND).json
    assert sent["tools"] == [TOOL]
    assert sent["messages"] == [
        {"role": "system", "content": "be brief"},
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "42", "tool_name": "f"},
    ]
    await service.chat(MODEL, "hi", tools=[TOOL], tool_choice="none")
    assert "tools" not in service.sent(KIND).json


@pytest.mark.parametrize("arguments", ["no", "[]", "5", '{"a":'])
async def test_arguments_that_are_no_object_are_refused(service: Service, arguments: str) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    answer = await service.post(CHAT, {"model": MODEL, "messages": [USER, {"role": "assistant", "tool_calls": [call]}]})
    assert (answer.status, error_of(answer)["param"]) == (400, "messages[1].tool_calls[0].function.arguments")


async def test_images_are_sent_as_base64(service: Service) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    message = {"role": "user", "content": [{"type": "text", "text": "what "}, part, {"type": "text", "text": "is it?"}]}
    assert (await service.post(CHAT, {"model": MODEL, "messages": [message]})).status == 200
    assert service.sent(KIND).json["messages"] == [
        {"role": "user", "content": "what is it?", "images": ["iVBORw0KGgo="]}
    ]


@pytest.mark.parametrize(("effort", "think"), [("none", False), ("low", "low"), ("medium", "medium"), ("high", "high")])
async def test_reasoning_effort_is_think(service: Service, effort: str, think: Any) -> None:
    await service.chat(MODEL, "hi", reasoning_effort=effort)
    assert service.sent(KIND).json["think"] == think


async def test_formats(service: Service) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    await service.chat(MODEL, "hi", response_format={"type": "json_object"})
    assert service.sent(KIND).json["format"] == "json"
    await service.chat(
        MODEL, "hi", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    )
    assert service.sent(KIND).json["format"] == schema
    await service.chat(MODEL, "hi", response_format={"type": "text"})
    assert "format" not in service.sent(KIND).json


async def test_a_stream_with_thinking_and_calls(service: Service) -> None:
    parts = chunks(await service.chat("ollama/fake-reasoning", stream=True, stream_options={"include_usage": True}))
    assert text_of(parts, "reasoning_content") == "think " * 3
    assert text_of(parts) == "hello " * 5
    assert parts[-1]["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}
    parts = chunks(await service.chat("ollama/fake-tools", stream=True, tools=[TOOL]))
    calls = [call for part in parts for choice in part["choices"] for call in choice["delta"].get("tool_calls", ())]
    assert [msgspec.json.decode(call["function"]["arguments"]) for call in calls] == [
        {"city": "Málaga"},
        {"zone": "Europe/Madrid"},
    ]


@pytest.mark.parametrize("shape", ["ollama_not_found", "ollama_crash", "server"])
async def test_errors(service: Service, shape: Any) -> None:
    service.fake(KIND).script(Behaviour(error=shape))
    answer = await service.chat(MODEL)
    assert (answer.status, error_of(answer)["code"]) == (502, "engine_failed")
    assert "runner" not in answer.body.decode()


@pytest.mark.parametrize(
    "line",
    [b"no json\n", b"[]\n", b"5\n", b"[" * 100_000 + b"\n"],
)
async def test_lines_that_are_none(service: Service, line: bytes) -> None:
    service.fake(KIND).script(Behaviour(raw_events={2: line}))
    parts = chunks(await service.chat(MODEL, stream=True))
    assert text_of(parts) == "hello hello "
    assert parts[-1]["error"]["code"] == "engine_failed"


async def test_logprobs(service: Service) -> None:
    line = b'{"message":{"content":"a"},"done":false,"logprobs":[{"token":"a","logprob":-0.5,"top_logprobs":[]}]}\n'
    service.fake(KIND).script(Behaviour(tokens=0, raw_events={0: line}))
    answer = await service.chat(MODEL, logprobs=True, top_logprobs=1)
    sent = service.sent(KIND).json
    assert (sent["logprobs"], sent["top_logprobs"]) == (True, 1)
    assert answer.json()["choices"][0]["logprobs"]["content"][0]["token"] == "a"


async def test_logprobs_of_a_whole_answer_are_whole(service: Service) -> None:
    lines = b"".join(
        b'{"message":{"content":"%b"},"done":false,"logprobs":[{"token":"%b","logprob":-0.5}]}\n' % (t, t)
        for t in (b"a", b"b")
    )
    service.fake(KIND).script(Behaviour(tokens=0, raw_events={0: lines}))
    answer = await service.chat(MODEL, logprobs=True)
    assert [entry["token"] for entry in answer.json()["choices"][0]["logprobs"]["content"]] == ["a", "b"]


async def test_embeddings(service: Service) -> None:
    answer = await service.embed(["a b", "c"], "ollama/embed", dimensions=8)
    assert service.sent(KIND).path == "/api/embed"
    assert service.sent(KIND).json == {"model": "embed", "input": ["a b", "c"], "truncate": False, "dimensions": 8}
    assert answer.json()["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    refused = await service.embed([1, 2], "ollama/embed")
    assert (refused.status, error_of(refused)["param"]) == (400, "input")


async def test_a_suffix_is_filled_in_by_the_template(service: Service) -> None:
    await service.complete("def f(", MODEL, suffix="return 1")
    sent = service.sent(KIND).json
    assert (sent["prompt"], sent["suffix"], sent["raw"]) == ("def f(", "return 1", False)


@pytest.mark.parametrize(
    ("said", "param"),
    [
        ('"plain" does not support thinking', "reasoning_effort"),
        ("registry.ollama.ai/library/plain does not support tools", "tools"),
        ("registry.ollama.ai/library/plain does not support insert", "suffix"),
        ("invalid JSON schema in format", "response_format"),
    ],
)
async def test_what_a_model_cannot_do_is_named(service: Service, said: str, param: str) -> None:
    service.fake(KIND).script(Behaviour(status=400, body=msgspec.json.encode({"error": said})))
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}
    answer = await service.chat(MODEL, tools=[TOOL], reasoning_effort="low", response_format=schema)
    assert (answer.status, error_of(answer)["param"]) == (400, param)
    assert "registry" not in answer.body.decode()


@pytest.mark.parametrize("stream", [False, True])
async def test_one_call_only_where_calls_may_not_be_parallel(service: Service, stream: bool) -> None:
    for parallel, names in ((False, ["get_weather"]), (True, ["get_weather", "get_time"])):
        answer = await service.chat("ollama/fake-tools", tools=[TOOL], parallel_tool_calls=parallel, stream=stream)
        if stream:
            deltas = [c["delta"] for part in chunks(answer) for c in part["choices"]]
            calls = [call for delta in deltas for call in delta.get("tool_calls", ()) if "id" in call]
        else:
            calls = answer.json()["choices"][0]["message"]["tool_calls"]
        assert [call["function"]["name"] for call in calls] == names


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"


def lines(*said: dict[str, Any]) -> bytes:
    data = b"".join(
        msgspec.json.encode({"message": {"role": "assistant", "content": ""}, **line}) + b"\n" for line in said
    )
    return b"%x\r\n%b\r\n" % (len(data), data)


@pytest.mark.asyncio(loop_scope="function")
@pytest.mark.parametrize("stream", [False, True])
async def test_F14_an_answer_that_is_done_and_does_not_end_leaves_no_connection(
    gateway: GatewayProcess, stream: bool
) -> None:
    done = {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 1}
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.url, ["m"], kind=KIND))
        await gateway.start()
        for more in (b"", lines({"message": {"content": "more"}}), b"7\r\n{"):
            upstream.script(Behaviour(raw=HEAD + lines({"message": {"content": "hi"}}, done) + more))
            answer = await gateway.post("/v1/chat/completions", {"model": "m", "messages": [USER], "stream": stream})
            assert answer.status == 200
            await upstream.wait_connections(0, 5)  # those that wait for the next call are closed after 15
        for row in await gateway.wait_rows(3):
            assert (row.billing_reason, row.input_tokens, row.output_tokens) == ("answered", 3, 1)
