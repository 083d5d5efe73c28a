"""The fakes do what tests rely on: the upstream answers and misbehaves as told, the tiny model runs in llama.cpp."""

from __future__ import annotations

import asyncio
import gzip
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
import xllamacpp as xlc

from tests.fakes.behaviour import NAMED, Behaviour, Call
from tests.fakes.raw_http import Incomplete, RawConnection, RawResponse
from tests.fakes.tiny_model import PIECES, write_tiny_model
from tests.fakes.upstream import FakeUpstream

CHAT = "/v1/chat/completions"
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
async def up() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(api_key="provider-secret") as upstream:
        yield upstream


@pytest.fixture
async def raw(up: FakeUpstream) -> AsyncIterator[RawConnection]:
    async with await RawConnection.open(up.url) as connection:
        yield connection


def ask(model: str = "fake", text: str = "one two three", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def chunks(response: RawResponse) -> list[dict[str, Any]]:
    return [json.loads(event) for event in response.events() if event != "[DONE]"]


def text(response: RawResponse) -> str:
    deltas = [choice["delta"] for chunk in chunks(response) for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_openai_sdk_reads_the_default_answer(up: FakeUpstream) -> None:
    async with openai.AsyncOpenAI(api_key="provider-secret", base_url=up.base_url, max_retries=0) as client:
        answer = await client.chat.completions.create(model="fake", messages=[{"role": "user", "content": "a b c"}])
        assert answer.choices[0].message.content == "hello " * 5
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 5, 8)
        stream = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "a"}], max_tokens=2, stream=True
        )
        seen = [chunk.choices[0] async for chunk in stream]
        assert [choice.delta.role for choice in seen] == ["assistant", None, None, None]
        assert [choice.finish_reason for choice in seen] == [None, None, None, "length"]
        texts = await client.completions.create(model="fake", prompt=["a b", "c"], max_tokens=1)
        assert [choice.text for choice in texts.choices] == ["hello ", "hello "]
        vectors = await client.embeddings.create(model="fake", input=["a", "b"])
        assert len(vectors.data[0].embedding) == 8
        assert [model.id async for model in client.models.list()] == ["fake"]
    assert [request.credential for request in up.requests] == ["provider"] * 5
    assert {request.outcome for request in up.requests} == {"complete"}


async def test_usage_chunk_only_when_asked(raw: RawConnection) -> None:
    asked, not_asked = await raw.post(CHAT, ask(**STREAM)), await raw.post(CHAT, ask(stream=True))
    assert chunks(asked)[-1]["choices"] == []
    assert chunks(asked)[-1]["usage"]["total_tokens"] == 8
    assert all("usage" not in chunk for chunk in chunks(not_asked))
    assert asked.events()[-1] == not_asked.events()[-1] == "[DONE]"


async def test_credentials_and_bytes_are_recorded(up: FakeUpstream, raw: RawConnection) -> None:
    await raw.post(CHAT, ask(), headers=[("Authorization", "Bearer client-key"), ("X-Client", "yes")])
    await raw.post(CHAT, ask())
    first, second = up.requests
    assert (first.credential, second.credential) == ("foreign", "none")
    assert first.header("x-client") == "yes"
    assert first.body == json.dumps(ask()).encode()
    assert (first.connection, second.connection) == (1, 1)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_behaviours_travel_as_json(name: str) -> None:
    behaviour = NAMED[name]
    assert msgspec.json.decode(msgspec.json.encode(behaviour), type=Behaviour) == behaviour


async def test_scripts_come_in_order_and_by_model(up: FakeUpstream, raw: RawConnection) -> None:
    up.script(Behaviour(error="server"), Behaviour(error="rate_limit"))
    up.script(Behaviour(tokens=1), model="other")
    up.always(Behaviour(error="loading"), model="third")
    statuses = [(await raw.post(CHAT, ask(model))).status for model in ("a", "other", "b", "c", "third", "fake-401")]
    assert statuses == [500, 200, 429, 200, 503, 401]
    assert (await raw.request("GET", "/v1/models")).status == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_noticed(up: FakeUpstream, raw: RawConnection, stream: bool) -> None:
    model = "fake-hang-2" if stream else "fake-hang"
    asking = asyncio.create_task(raw.post(CHAT, ask(model, stream=stream)))
    await up.wait_paused()
    assert up.last.outcome == "open"
    assert up.last.tokens_sent == (1 if stream else 0)
    raw.reset()
    with pytest.raises(Incomplete):
        await asking
    await up.last.cancelled.wait()
    await up.wait_cancelled()
    await up.wait_connections(0)


async def test_release_lets_a_paused_answer_go_on(up: FakeUpstream, raw: RawConnection) -> None:
    asking = asyncio.create_task(raw.post(CHAT, ask("fake-hang-end", stream=True)))
    assert await up.release() == 1
    assert text(await asking) == "hello " * 5
    await up.wait_complete()


@pytest.mark.parametrize(
    ("model", "left"),
    [
        ("fake-cut-head", b""),
        ("fake-cut-head-rst", b""),
        ("fake-cut-fin", b'"finish_reason":null}]}\n\n'),
        ("fake-cut-rst", b'"finish_reason":null}]}\n\n'),
        ("fake-cut-line", b'"obj'),
        ("fake-cut-utf8", "se\u00f1".encode()[:-1]),
        ("fake-cut-end", b'"finish_reason":"stop"}]}\n\n'),
    ],
)
async def test_cuts(up: FakeUpstream, raw: RawConnection, model: str, left: bytes) -> None:
    with pytest.raises(Incomplete) as cut:
        await raw.post(CHAT, ask(model, stream=True))
    assert cut.value.received.endswith(left) or (model == "fake-cut-line" and left in cut.value.received)
    assert up.last.outcome == "cut"
    assert up.last.tokens_sent == (0 if "head" in model else 5 if "end" in model else 2)


async def test_slices_split_everything_and_change_nothing(up: FakeUpstream, raw: RawConnection) -> None:
    up.script(msgspec.structs.replace(NAMED["fake-sliced"], slice_bytes=3))
    sliced = await raw.post(CHAT, ask(**STREAM))
    plain = await raw.post(CHAT, ask("fake-utf8", **STREAM))
    assert text(sliced) == text(plain) == "señal 日本🙂🚀 слово " * 2
    up.script(msgspec.structs.replace(NAMED["fake-sliced"], slice_bytes=1))
    async with await RawConnection.open(up.url) as other:
        asking = asyncio.create_task(other.post(CHAT, ask()))
        await asking
    assert asking.result().json()["choices"][0]["message"]["content"] == text(plain)


async def test_stream_formats(raw: RawConnection) -> None:
    async def body(model: str) -> bytes:
        return (await raw.post(CHAT, ask(model, stream=True))).body

    assert (await body("fake-crlf")).endswith(b"\r\n\r\ndata: [DONE]\r\n\r\n")
    assert (await body("fake-comments")).startswith(b": ping\n\ndata: ")
    assert (await body("fake-double-done")).count(b"[DONE]") == 2
    assert b"[DONE]" not in await body("fake-no-done")
    assert (await body("fake-null-event")).startswith(b"data: null\n\ndata: {")
    assert (await body("fake-roles")).count(b'"role"') == 6
    assert b"\xff" in await body("fake-bad-utf8")
    assert b'"content":"hello "},"finish_reason":"stop"' in await body("fake-merged-finish")
    assert (await body("fake-error-first")).startswith(b'data: {"error":')
    assert (await body("fake-error-later")).count(b"hello") == 2


async def test_a_long_line_and_an_endless_stream_wait_for_the_reader(up: FakeUpstream) -> None:
    for model in ("fake-long-line", "fake-endless"):
        async with await RawConnection.open(up.url, receive_buffer=8192) as raw:
            await raw.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: ")
            data = json.dumps(ask(model, stream=True)).encode()
            await raw.send(str(len(data)).encode() + b"\r\n\r\n" + data)
            await raw.read_until(b'"role"')
            raw.reset()
    await up.wait_cancelled(2)
    assert all(request.bytes_sent < 50_000_000 for request in up.requests)


async def test_tool_calls_well_formed_and_broken(raw: RawConnection) -> None:
    async def deltas(model: str) -> list[dict[str, Any]]:
        response = await raw.post(CHAT, ask(model, stream=True))
        found = [choice["delta"].get("tool_calls", []) for chunk in chunks(response) for choice in chunk["choices"]]
        return [call for calls in found for call in calls]

    proper = await deltas("fake-tools")
    assert [delta["index"] for delta in proper if "id" in delta] == [0, 1]
    said = "".join(delta["function"]["arguments"] for delta in proper if delta["index"] == 0)
    assert json.loads(said) == {"city": "Málaga"}
    assert all("index" not in delta for delta in await deltas("fake-tools-no-index"))
    assert all("id" in delta for delta in await deltas("fake-tools-repeated"))
    assert (await deltas("fake-tools-object"))[0]["function"]["arguments"] == {"city": "Málaga"}
    whole = (await raw.post(CHAT, ask("fake-tools"))).json()["choices"][0]
    assert whole["finish_reason"] == "tool_calls"
    assert json.loads(whole["message"]["tool_calls"][1]["function"]["arguments"]) == {"zone": "Europe/Madrid"}


async def test_reasoning_logprobs_and_choices(raw: RawConnection) -> None:
    field = (await raw.post(CHAT, ask("fake-reasoning"))).json()
    assert field["choices"][0]["message"]["reasoning_content"] == "think " * 3
    assert field["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    tags = await raw.post(CHAT, ask("fake-think", stream=True))
    assert text(tags) == "<think>think think think </think>" + "hello " * 5
    several = await raw.post(CHAT, ask(n=2, logprobs=True, top_logprobs=1, max_tokens=2, **STREAM))
    indices = [choice["index"] for chunk in chunks(several) for choice in chunk["choices"]]
    assert indices == [0, 1] * 4
    assert chunks(several)[2]["choices"][0]["logprobs"]["content"][0]["token"] == "hello "
    assert chunks(several)[-1]["usage"]["completion_tokens"] == 4


async def test_usage_that_lies(raw: RawConnection) -> None:
    async def usages(model: str) -> list[Any]:
        response = await raw.post(CHAT, ask(model, **STREAM))
        return [chunk["usage"] for chunk in chunks(response) if chunk.get("usage") is not None]

    assert await usages("fake-usage-missing") == await usages("fake-usage-null") == []
    assert (await usages("fake-usage-negative"))[0]["completion_tokens"] == -5
    assert (await usages("fake-usage-huge"))[0]["prompt_tokens"] == 10**15
    assert (await usages("fake-usage-string"))[0]["total_tokens"] == "8"
    assert len(await usages("fake-usage-twice")) == 2
    assert [usage["completion_tokens"] for usage in await usages("fake-usage-every")] == [0, 1, 2, 3, 4, 5, 5, 5]
    assert "usage" not in (await raw.post(CHAT, ask("fake-usage-missing"))).json()


async def test_flavours_of_openai() -> None:
    async with FakeUpstream(flavour="llama.cpp", context=5) as up, await RawConnection.open(up.url) as raw:
        body = ask(n=2, timings_per_token=True, **STREAM)
        seen = chunks(await raw.post(CHAT, body))
        assert [chunk["usage"]["completion_tokens"] for chunk in seen if "usage" in chunk] == [5, 5]
        assert [chunk["timings"]["predicted_n"] for chunk in seen if "timings" in chunk][:4] == [0, 0, 1, 2]
        refused = await raw.post(CHAT, ask(text="a b c d e f"))
        assert (refused.status, refused.json()["error"]["n_ctx"]) == (400, 5)
    async with FakeUpstream(flavour="vllm") as up, await RawConnection.open(up.url) as raw:
        options = {"include_usage": True, "continuous_usage_stats": True}
        seen = chunks(await raw.post(CHAT, ask(stream=True, stream_options=options)))
        assert [chunk["usage"]["completion_tokens"] for chunk in seen] == [0, 1, 2, 3, 4, 5, 5]
        assert seen[-2]["choices"][0] == {"index": 0, "delta": {"content": "hello "}, "finish_reason": "stop"}


async def test_ollama_native_api(up: FakeUpstream, raw: RawConnection) -> None:
    answer = await raw.post("/api/chat", ask(options={"num_predict": 2}))
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert answer.header("content-type") == "application/x-ndjson"
    assert [line["message"]["content"] for line in lines] == ["hello ", "hello ", ""]
    assert (lines[-1]["done_reason"], lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == ("length", 3, 2)
    whole = (await raw.post("/api/generate", {"model": "fake", "prompt": "a b", "stream": False})).json()
    assert (whole["response"], whole["eval_count"], whole["done"]) == ("hello " * 5, 5, True)
    call = (await raw.post("/api/chat", ask("fake-tools", stream=False))).json()["message"]["tool_calls"][0]
    assert call["function"] == {"index": 0, "name": "get_weather", "arguments": {"city": "Málaga"}}
    long = ask(text="word " * 300, options={"num_ctx": 256}, stream=False)
    assert (await raw.post("/api/chat", long)).json()["prompt_eval_count"] == 256
    refused = await raw.post("/api/chat", {**long, "truncate": False})
    assert "exceed_context_size_error" in refused.json()["error"]
    assert len((await raw.post("/api/embed", {"model": "fake", "input": ["a", "b"]})).json()["embeddings"]) == 2
    assert (await raw.request("GET", "/api/version")).json()["version"]
    up.script(Behaviour(error="ollama_crash", error_at=1))
    assert "terminated" in (await raw.post("/api/chat", ask())).body.splitlines()[-1].decode()


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("fake-context-llamacpp", "exceeds the available context size (2048 tokens)"),
        ("fake-context-vllm", "maximum context length is 2048 tokens"),
        ("fake-context-vllm-old", "maximum context length is 2048 tokens"),
        ("fake-context-openai", "context_length_exceeded"),
        ("fake-context-ollama", "exceed_context_size_error"),
        ("fake-context-ollama-old", "input length exceeds"),
    ],
)
async def test_context_errors(raw: RawConnection, model: str, says: str) -> None:
    response = await raw.post(CHAT, ask(model, **STREAM))
    assert response.status == 400
    assert says in response.body.decode()


async def test_heads_and_framing(up: FakeUpstream) -> None:
    async def response(model: str, **more: Any) -> RawResponse:
        async with await RawConnection.open(up.url) as raw:
            return await raw.post(CHAT, ask(model, **more))

    assert (await response("fake-429")).header("retry-after") == "7"
    assert (await response("fake-html")).header("content-type") == "text/html"
    assert (await response("fake-redirect")).header("location") == "http://127.0.0.1:9/login"
    assert "session" in str((await response("fake-cookie")).header("set-cookie"))
    assert (await response("fake-until-close")).framing == "close"
    assert (await response("fake-close-announced")).header("connection") == "close"
    zipped = await response("fake-gzip", stream=True)
    assert zipped.header("content-encoding") == "gzip"
    assert gzip.decompress(zipped.body).endswith(b"data: [DONE]\n\n")
    assert not (await response("fake-length-short")).body.endswith(b"}")
    with pytest.raises(Incomplete):
        await response("fake-length-long")
    with pytest.raises(Incomplete):
        await response("fake-cut-fin")
    up.script(Behaviour(raw=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx: y\r\n\r\n{}"))
    assert (await response("fake")).header("x") == "y"


async def test_extra_bytes_and_bad_endings_of_kept_connections(up: FakeUpstream) -> None:
    async with await RawConnection.open(up.url) as raw:
        await raw.post(CHAT, ask("fake-extra"))
        assert (await raw.response()).body == b"{}"
    for model in ("fake-close-idle", "fake-drop-next", "fake-drop-next-rst"):
        async with await RawConnection.open(up.url) as raw:
            assert (await raw.post(CHAT, ask(model))).status == 200
            with pytest.raises(Incomplete, match="b''"):
                await raw.post(CHAT, ask())
    assert up.log.dropped == 2
    assert len(up.requests) == 4


async def test_many_connections_at_once(up: FakeUpstream) -> None:
    async def status() -> int:
        async with await RawConnection.open(up.url) as raw:
            return (await raw.post(CHAT, ask())).status

    assert await asyncio.gather(*(status() for _ in range(30))) == [200] * 30
    await up.wait_connections(0)


async def test_it_can_go_away_and_come_back(up: FakeUpstream, raw: RawConnection) -> None:
    asking = asyncio.create_task(raw.post(CHAT, ask("fake-hang")))
    await up.wait_paused()
    await up.stop()
    with pytest.raises(Incomplete):
        await asking
    with pytest.raises(ConnectionRefusedError):
        await RawConnection.open(up.url)
    await up.start()
    async with await RawConnection.open(up.url) as again:
        assert (await again.post(CHAT, ask())).status == 200


async def test_pieces_of_a_request_and_expect(up: FakeUpstream, raw: RawConnection) -> None:
    data = json.dumps(ask()).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
    await raw.send(head + b"content-length: %d\r\n\r\n" % len(data), slice_bytes=9)
    await raw.read_until(b"100 Continue\r\n\r\n")
    await raw.send(data, slice_bytes=20)
    assert (await raw.response()).status == 200


async def test_calls_demanded_by_tool_choice(up: FakeUpstream, raw: RawConnection) -> None:
    tools = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    answer = (await raw.post(CHAT, ask(tools=tools, tool_choice="required"))).json()["choices"][0]
    assert answer["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": "{}"}
    up.script(Behaviour(calls=(Call(name="find", arguments='{"a":1}'),)))
    assert (await raw.post(CHAT, ask())).json()["choices"][0]["finish_reason"] == "tool_calls"


async def test_as_a_program_steered_over_http() -> None:
    command = [sys.executable, "-m", "tests.fakes.upstream", "0", "--api-key", "k"]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[1])
    try:
        assert process.stdout is not None
        url = (await process.stdout.readline()).decode().strip()
        async with await RawConnection.open(url) as control, await RawConnection.open(url) as raw:
            order = {"model": "m", "behaviours": [{"pause_at": ["before_head"], "tokens": 2}]}
            assert (await control.post("/_script", order)).status == 200
            asking = asyncio.create_task(raw.post(CHAT, ask("m"), headers=[("authorization", "Bearer k")]))
            assert (await control.request("GET", "/_wait?outcome=paused")).status == 200
            assert (await control.post("/_release", {})).json() == {"released": 1}
            assert (await asking).json()["usage"]["completion_tokens"] == 2
            (request,) = (await control.request("GET", "/_log")).json()["requests"]
            assert (request["credential"], request["outcome"], request["tokens_sent"]) == ("provider", "complete", 2)
            unknown = await control.request("GET", "/_wait?outcome=cancelled&timeout_s=0")
            assert unknown.status == 504
    finally:
        process.kill()
        await process.wait()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    params = xlc.CommonParams()
    params.model.path = str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.gguf"))
    params.n_ctx = 4096
    params.n_parallel = 2
    params.embedding = True
    server = xlc.Server(params)
    yield server.listening_address
    del server


def test_tiny_model_is_the_same_for_a_seed(tmp_path: Path) -> None:
    first, same, other = (tmp_path / f"{name}.gguf" for name in ("first", "same", "other"))
    for path, seed in ((first, 1), (same, 1), (other, 2)):
        write_tiny_model(path, seed=seed)
    assert first.read_bytes() == same.read_bytes() != other.read_bytes()
    assert first.stat().st_size < 600_000


async def test_tiny_model_answers_in_llama_cpp(engine: str) -> None:
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{engine}/v1") as client:
        question: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "hola"}], "max_tokens": 7}
        whole = await client.chat.completions.create(**question, temperature=0)
        content = whole.choices[0].message.content
        assert whole.usage is not None
        assert whole.usage.completion_tokens == 7
        assert content is not None
        assert sum(content.count(piece.replace("▁", " ")) for piece in PIECES) >= 7
        stream = await client.chat.completions.create(**question, temperature=0, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == content
        wild = await client.chat.completions.create(**{**question, "max_tokens": 500}, temperature=2)
        assert "\ufffd" not in str(wild.choices[0].message.content)
        completion = await client.completions.create(model="tiny", prompt="hola", max_tokens=3)
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3
        vectors = await client.embeddings.create(model="tiny", input=["hola", "mundo"])
        assert [len(item.embedding) for item in vectors.data] == [64, 64]
        with pytest.raises(openai.BadRequestError, match="exceeds the available context size"):
            await client.completions.create(model="tiny", prompt="x" * 5000, max_tokens=1)


async def test_tiny_model_calls_tools_and_keeps_to_a_schema(engine: str) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "city": {"enum": ["Lima", "Madrid"]}},
        "required": ["ok", "city"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": schema}}]
    asked: Any = {"role": "user", "content": "hola"}
    async with openai.AsyncOpenAI(api_key="none", base_url=f"{engine}/v1") as client:
        answer = await client.chat.completions.create(model="tiny", messages=[asked], tools=tools, temperature=0)
        assert answer.choices[0].finish_reason == "tool_calls"
        (call,) = answer.choices[0].message.tool_calls or []
        assert call.type == "function"
        assert set(json.loads(call.function.arguments)) == {"ok", "city"}
        said: Any = {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]}
        result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        after = await client.chat.completions.create(
            model="tiny", messages=[asked, said, result], tools=tools, max_tokens=4, temperature=0
        )
        assert after.choices[0].message.content
        assert after.choices[0].finish_reason == "length"
        form: Any = {"type": "json_schema", "json_schema": {"name": "weather", "schema": schema}}
        shaped = await client.chat.completions.create(model="tiny", messages=[asked], response_format=form)
        assert set(json.loads(str(shaped.choices[0].message.content))) == {"ok", "city"}
