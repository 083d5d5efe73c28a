"""The real llama.cpp with a model of half a megabyte, as an engine of kind `llama.cpp` behind a gateway."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from llmaas.domain.models import ProviderKind
from tests.fakes.raw_http import Incomplete, RawConnection, RawResponse, request_bytes
from tests.gateway import ROOT, GatewayProcess, fleet_of
from tests.ports import free_port
from tests.service import CHAT, COMPLETIONS, chunks, error_of, text_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

SLOTS = 4
WINDOW = 512  # of each slot
USER = {"role": "user", "content": "hi"}
TOOL = {
    "type": "function",
    "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {"hot": {"type": "boolean"}}}},
}


@dataclass(slots=True)
class Engine:
    gateway: GatewayProcess
    url: str

    async def chat(self, **more: Any) -> RawResponse:
        return await self.gateway.post(
            CHAT, {"model": "tiny", "messages": [USER], "max_tokens": 7, "temperature": 0, **more}
        )

    async def complete(self, prompt: Any, **more: Any) -> RawResponse:
        return await self.gateway.post(
            COMPLETIONS, {"model": "tiny", "prompt": prompt, "max_tokens": 7, "temperature": 0, **more}
        )

    async def tokens(self, text: str) -> int:
        """How many it is to the engine, with the mark at the beginning."""
        body = {"content": text, "add_special": True}
        async with await RawConnection.open(self.url) as raw:
            return len((await raw.post("/tokenize", body)).json()["tokens"])

    async def busy_slots(self) -> int:
        async with await RawConnection.open(self.url) as raw:
            return sum(slot["is_processing"] for slot in (await raw.request("GET", "/slots")).json())

    async def wait_busy(self, count: int, timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s):
            while await self.busy_slots() != count:
                await asyncio.sleep(0.01)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    port = free_port()
    command = ("-m", "llmaas.hosting.local.llama_server", "--model", str(tiny_model), "--port", str(port))
    sizes = ("--ctx-size", str(SLOTS * WINDOW), "--parallel", str(SLOTS), "--threads", "1", "--jinja", "--slots")
    folder = tmp_path_factory.mktemp("llama")
    with (folder / "engine.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", *command, *sizes, stdout=log, stderr=log, env={"PYTHONPATH": str(ROOT)}
        )
    url = f"http://127.0.0.1:{port}"
    gateway = GatewayProcess(folder / "data")
    try:
        await _healthy(url, process)
        fleet = fleet_of(f"{url}/v1", ["tiny"], kind=ProviderKind.LLAMA_CPP, max_model_len=WINDOW)
        await gateway.apply(fleet)
        await gateway.start()
        yield Engine(gateway, url)
        assert await gateway.ledger_faults() == []
    finally:
        await gateway.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _healthy(url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        while True:
            assert process.returncode is None, "the engine ended"
            try:
                async with await RawConnection.open(url) as raw:
                    if (await raw.request("GET", "/health")).status == 200:
                        return
            except (OSError, Incomplete):
                pass
            await asyncio.sleep(0.05)


async def test_a_chat_and_the_same_as_a_stream(engine: Engine) -> None:
    answer = await engine.chat()
    body = answer.json()
    choice, usage = body["choices"][0], body["usage"]
    assert (answer.status, choice["finish_reason"], usage["completion_tokens"]) == (200, "length", 7)
    assert body["backend"] == {"engine_type": "llama.cpp", "machine_name": "ma01"}
    assert usage["prompt_tokens"] == await engine.tokens("user: hi\nassistant: ")
    parts = chunks(await engine.chat(stream=True, stream_options={"include_usage": True}))
    assert text_of(parts) == choice["message"]["content"]
    assert parts[-2]["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    streamed = parts[-1]["usage"]
    assert {k: streamed[k] for k in ("prompt_tokens", "completion_tokens")} == {
        k: usage[k] for k in ("prompt_tokens", "completion_tokens")
    }


async def test_a_tool_call(engine: Engine) -> None:
    for stream in (False, True):
        answer = await engine.chat(tools=[TOOL], max_tokens=100, stream=stream)
        if stream:
            deltas = [
                c for p in chunks(answer) for choice in p["choices"] for c in choice["delta"].get("tool_calls", ())
            ]
            name, arguments = deltas[0]["function"]["name"], "".join(delta["function"]["arguments"] for delta in deltas)
        else:
            assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
            function = answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]
            name, arguments = function["name"], function["arguments"]
        assert name == "get_weather"
        assert isinstance(msgspec.json.decode(arguments), dict)


PARAMETERS = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/p"}},
    "required": ["at"],
    "$defs": {"p": {"enum": [1, 2]}},
}
REFERRING = {"type": "function", "function": {"name": "look", "parameters": PARAMETERS}}
BARE = {"type": "function", "function": {"name": "now"}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("required", {"look", "now"}),
        ({"type": "function", "function": {"name": "look"}}, {"look"}),
        ({"type": "function", "function": {"name": "now"}}, {"now"}),
    ],
)
async def test_a_demanded_call_is_exact(engine: Engine, choice: Any, names: set[str], stream: bool) -> None:
    tools = [REFERRING, BARE]
    answer = await engine.chat(
        tools=tools, tool_choice=choice, max_tokens=120, stream=stream, n=2, stream_options={"include_usage": stream}
    )
    assert answer.status == 200, answer.body
    calls: list[tuple[str, str]] = []
    if stream:
        parts = chunks(answer)
        assert text_of(parts) == ""
        for index in range(2):
            choices = [c for part in parts for c in part["choices"] if c["index"] == index]
            functions = [call["function"] for c in choices for call in c["delta"].get("tool_calls", ())]
            calls.append((functions[0]["name"], "".join(function["arguments"] for function in functions)))
            assert choices[-1]["finish_reason"] == "tool_calls"
        usage = parts[-1]["usage"]
    else:
        for one in answer.json()["choices"]:
            assert (one["message"]["content"], one["finish_reason"]) == (None, "tool_calls")
            [call] = one["message"]["tool_calls"]
            calls.append((call["function"]["name"], call["function"]["arguments"]))
        usage = answer.json()["usage"]
    assert 10 < usage["completion_tokens"] < 240
    for name, arguments in calls:
        assert name in names
        said = msgspec.json.decode(arguments)
        if name == "look":
            assert said in ({"at": 1}, {"at": 2})
        else:
            assert arguments == "{}"


async def test_a_schema_that_the_engine_refuses_is_named(engine: Engine) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "what"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": bad}}
    answer = await engine.chat(response_format=form)
    assert (answer.status, error_of(answer)["param"]) == (400, "response_format")
    tool = {"type": "function", "function": {"name": "f", "parameters": bad}}
    for choice in ("required", "auto"):
        answer = await engine.chat(tools=[tool], tool_choice=choice)
        assert (answer.status, error_of(answer)["param"]) == (400, "tools")


async def test_an_answer_by_a_schema(engine: Engine) -> None:
    schema = {
        "type": "object",
        "properties": {"good": {"type": "boolean"}},
        "required": ["good"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    content = (await engine.chat(response_format=form, max_tokens=100)).json()["choices"][0]["message"]["content"]
    assert set(msgspec.json.decode(content)) == {"good"}


async def test_turns_that_the_template_would_not_take(engine: Engine) -> None:
    messages = [USER, {"role": "developer", "content": "be brief"}, {"role": "user", "content": "well?"}]
    assert (await engine.chat(messages=messages)).status == 200


async def test_several_choices(engine: Engine) -> None:
    answer = (await engine.chat(n=2, temperature=1, seed=1)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 14
    parts = chunks(await engine.chat(n=2, stream=True, stream_options={"include_usage": True}))
    assert sorted(c["index"] for p in parts for c in p["choices"] if c["finish_reason"]) == [0, 1]
    assert parts[-1]["usage"]["completion_tokens"] == 14


@pytest.mark.parametrize("stream", [False, True])
async def test_completions_with_logprobs_in_the_older_shape(engine: Engine, stream: bool) -> None:
    answer = await engine.complete("hello", logprobs=2, stream=stream)
    choices = [c for p in chunks(answer) for c in p["choices"]] if stream else answer.json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    likely = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert all(set(entry) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"} for entry in likely)
    tokens = [token for entry in likely for token in entry["tokens"]]
    assert (len(tokens), "".join(tokens)) == (7, text)
    offsets = [offset for entry in likely for offset in entry["text_offset"]]
    assert offsets == [len("".join(tokens[:at])) for at in range(7)]
    assert all(isinstance(value, float) for entry in likely for value in entry["token_logprobs"])
    assert {len(top) for entry in likely for top in entry["top_logprobs"]} == {2}


@pytest.mark.parametrize("stream", [False, True])
async def test_chat_logprobs(engine: Engine, stream: bool) -> None:
    answer = await engine.chat(logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        parts = chunks(answer)
        entries = [e for p in parts for c in p["choices"] if c.get("logprobs") for e in c["logprobs"]["content"]]
        text = text_of(parts)
    else:
        choice = answer.json()["choices"][0]
        entries, text = choice["logprobs"]["content"], choice["message"]["content"]
    assert "".join(entry["token"] for entry in entries) == text
    assert [len(entry["top_logprobs"]) for entry in entries] == [3] * 7


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("options", [{}, {"top_logprobs": 0}])
async def test_log_probabilities_alone_bring_no_other_tokens(
    engine: Engine, options: dict[str, Any], stream: bool
) -> None:
    answer = await engine.chat(logprobs=True, stream=stream, **options)
    choices = [c for p in chunks(answer) for c in p["choices"]] if stream else answer.json()["choices"]
    entries = [e for choice in choices if choice.get("logprobs") for e in choice["logprobs"]["content"]]
    assert [entry["top_logprobs"] for entry in entries] == [[]] * 7
    assert all(entry["logprob"] <= 0 for entry in entries)
    answer = await engine.complete(["hello", "x"], logprobs=0, stream=stream)
    choices = [c for p in chunks(answer) for c in p["choices"]] if stream else answer.json()["choices"]
    likely = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    assert sum(len(entry["token_logprobs"]) for entry in likely) == 14
    assert all(top == {} for entry in likely for top in entry["top_logprobs"])


@pytest.mark.parametrize("stream", [False, True])
async def test_lists_of_prompts_are_counted_whole(engine: Engine, stream: bool) -> None:
    prompts = ["hello", "hello world and more", "x"]
    expected = sum([await engine.tokens(prompt) for prompt in prompts])
    options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    answer = await engine.complete(prompts, **options)
    usage = chunks(answer)[-1]["usage"] if stream else answer.json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (expected, 21)
    if not stream:
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    rows = await engine.gateway.rows()
    row = next(row for row in rows if row.id == answer.header("id"))
    assert (row.input_tokens + row.cached_input_tokens, row.output_tokens) == (expected, 21)


async def test_token_ids(engine: Engine) -> None:
    answer = (await engine.complete([1, 270, 271])).json()
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (3, 7)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_overflow_tells_the_window(engine: Engine, stream: bool) -> None:
    long = [{"role": "user", "content": "word " * WINDOW}]
    for answer in (
        await engine.chat(messages=long, stream=stream),
        await engine.complete("word " * WINDOW, stream=stream),
    ):
        assert (answer.status, error_of(answer)["code"]) == (400, "context_length_exceeded")
        assert f"maximum context length is {WINDOW} tokens" in error_of(answer)["message"]


async def test_the_end_of_the_window_is_the_end_of_the_answer(engine: Engine) -> None:
    answer = (await engine.chat(max_tokens=10_000)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] <= WINDOW


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_frees_the_slot(engine: Engine, stream: bool) -> None:
    await engine.wait_busy(0, 5)
    # Four long choices keep the slots busy for as long as it takes to look.
    body = {
        "model": "tiny",
        "messages": [USER],
        "n": SLOTS,
        "stream": stream,
        "logit_bias": {"2": -100},
        "logprobs": stream or None,
    }
    headers = [("authorization", f"Bearer {engine.gateway.key}"), ("content-type", "application/json")]
    async with await RawConnection.open(engine.gateway.url) as raw:
        await raw.send(request_bytes("POST", CHAT, headers=headers, body=msgspec.json.encode(body)))
        if stream:
            await raw.read_until(b"data: ")
        else:
            await engine.wait_busy(SLOTS, 5)
    await engine.wait_busy(0, 1)
    answer_rows = [row for row in await engine.gateway.rows() if row.outcome == "client_aborted"]
    async with asyncio.timeout(5):
        while not answer_rows:
            answer_rows = [row for row in await engine.gateway.rows() if row.outcome == "client_aborted"]
