"""Embedded models through the whole service, whose processes die one after the other."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from llmaas.hosting.local import probe
from llmaas.hosting.local.states import states_decoder
from tests.fakes.raw_http import Incomplete, RawResponse
from tests.hosting.serving import DEADLINE_S, Serving, environment, gone, write_models

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPT = "a prompt that nobody else may read"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[Serving]:
    # A path that is too long for the address of a Unix socket.
    folder = tmp_path_factory.mktemp("service") / ("deep" * 30)
    folder.mkdir()
    one = Serving(folder / "data")
    garbage = folder / "garbage.gguf"
    garbage.write_bytes(b"GGUF" + b"?" * 1000)
    write_models(one.data_dir, tiny=(tiny_model, "chat"), vectors=(tiny_model, "embedding"), broken=(garbage, "chat"))
    (folder / "llmaas.toml").write_text("engine_parallel = 2\nengine_load_timeout_s = 20\n")
    await one.start("--default-model", "tiny", "--config", str(folder / "llmaas.toml"))
    await one.greeted()
    await run_fleet(one)
    yield one
    await one.close()


async def run_fleet(one: Serving) -> None:
    """Publish all models of the manifest."""
    text = '[[providers]]\nid = "embedded"\nkind = "embedded"\n[[backends]]\nid = "embedded"\nprovider = "embedded"\n'
    for name, kind in (("tiny", "chat"), ("vectors", "embedding"), ("broken", "chat"), ("unknown", "chat")):
        text += f'[[models]]\nid = "{name}"\nkind = "{kind}"\n[[deployments]]\nmodel = "{name}"\nbackend = "embedded"\n'
    words = [sys.executable, "-P", "-m", "llmaas", "--data-dir", str(one.data_dir), "apply", "-"]
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    _, err = await process.communicate(text.encode())
    assert process.returncode == 0, err.decode()
    # Gateways look for changes twice a second.
    await until(lambda: one.post("/v1/chat/completions", chat("unknown")), lambda answer: answer.status != 404)


@pytest_asyncio.fixture(loop_scope="module")
async def serving(shared: Serving) -> Serving:
    """With the chat model up."""
    await ready(shared)
    return shared


def chat(model: str = "tiny", max_tokens: int = 3, **more: Any) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": max_tokens, **more}
    return msgspec.json.encode(body)


async def until(ask: Callable[[], Awaitable[RawResponse]], good: Callable[[RawResponse], bool]) -> list[RawResponse]:
    """Ask until the answer is good; all answers. Connections that fail are a gateway that starts."""
    answers: list[RawResponse] = []
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                answers.append(await ask())
            except (OSError, Incomplete):
                await asyncio.sleep(0.02)
                continue
            if good(answers[-1]):
                return answers
            await asyncio.sleep(0.02)


async def ready(one: Serving) -> list[RawResponse]:
    """Until the chat model answers; what was answered meanwhile, which is never anything but `loading`."""
    *before, _ = await until(lambda: one.post("/v1/chat/completions", chat()), lambda answer: answer.status == 200)
    return before


def assert_loading(answers: list[RawResponse], *states: str) -> None:
    for answer in answers:
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (503, "loading"), answer.body
        assert error["state"] in states
        assert "progress" in error
        assert 0 < float(answer.header("retry-after") or 0) <= 60


async def follow(one: Serving) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The engine host's socket, opened as a gateway does."""
    folder = os.open(one.data_dir, os.O_PATH)
    try:
        return await asyncio.open_unix_connection(f"/proc/self/fd/{folder}/engine.sock")
    finally:
        os.close(folder)


async def slots(one: Serving, *, busy: bool) -> None:
    """Returns when the engine makes an answer, or none; long before one of 900 tokens would be done."""
    reader, writer = await follow(one)
    state = next(state for state in states_decoder.decode(await reader.readline()) if state.model == "tiny")
    writer.close()
    async with asyncio.timeout(0.4):
        while await probe.is_busy(int(state.base_url.rpartition(":")[2]), state.api_key, 1) != busy:
            await asyncio.sleep(0.005)


async def test_an_answer_names_its_model(serving: Serving) -> None:
    answer = await serving.post("/v1/chat/completions", chat(max_tokens=7))
    assert (answer.status, answer.json()["model"]) == (200, "tiny")
    assert answer.json()["usage"]["completion_tokens"] == 7


async def test_a_model_is_started_by_the_first_request(serving: Serving) -> None:
    body = msgspec.json.encode({"model": "vectors", "input": "hello"})
    *before, answer = await until(lambda: serving.post("/v1/embeddings", body), lambda answer: answer.status == 200)
    assert_loading(before, "idle", "pulling", "starting", "loading")
    assert len(answer.json()["data"][0]["embedding"]) == 64


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "turn"}}])
async def test_a_demanded_call_is_made(serving: Serving, choice: object, stream: bool) -> None:
    parameters = {"type": "object", "properties": {"left": {"type": "boolean"}}, "required": ["left"]}
    tools = [{"type": "function", "function": {"name": "turn", "parameters": parameters}}]
    answer = await serving.post(
        "/v1/chat/completions", chat(max_tokens=100, tools=tools, tool_choice=choice, stream=stream)
    )
    assert answer.status == 200, answer.body
    if stream:
        parts = [msgspec.json.decode(event) for event in answer.events()[:-1]]
        deltas = [call for part in parts for call in part["choices"][0]["delta"].get("tool_calls", ())]
        name, arguments = deltas[0]["function"]["name"], "".join(call["function"]["arguments"] for call in deltas)
    else:
        [call] = answer.json()["choices"][0]["message"]["tool_calls"]
        name, arguments = call["function"]["name"], call["function"]["arguments"]
    assert name == "turn"
    assert set(msgspec.json.decode(arguments)) == {"left"}


async def test_F17_an_engine_killed_is_loading_until_it_is_back(serving: Serving) -> None:
    gateway, engine = await serving.child("gateway"), await serving.child("tiny")
    os.kill(engine, signal.SIGKILL)
    *before, answer = await until(
        lambda: serving.post("/v1/chat/completions", chat()),
        lambda answer: answer.status == 200 and serving.children().get("tiny", engine) != engine,
    )
    # The very first may have been on its way to the engine.
    told = [one for one in before if one.status == 503]
    assert_loading([one for one in told if one.json()["error"]["code"] == "loading"], "backoff", "starting", "loading")
    assert any(one.json()["error"].get("state") == "backoff" for one in told)
    assert answer.status == 200
    assert await serving.child("gateway") == gateway
    assert "SIGKILL" in serving.err


async def test_F17_a_file_that_is_no_model_harms_no_other(serving: Serving) -> None:
    asked = await until(
        lambda: serving.post("/v1/chat/completions", chat("broken")),
        lambda answer: answer.json()["error"]["code"] == "no_backend",
    )
    assert_loading(asked[:-1], "idle", "pulling", "starting", "loading", "backoff")
    assert str(serving.data_dir) not in asked[-1].body.decode()
    assert "this GGUF file is version" in serving.err
    assert await ready(serving) == []


async def test_a_model_that_the_manifest_does_not_know(serving: Serving) -> None:
    answer = await serving.post("/v1/chat/completions", chat("unknown"))
    assert (answer.status, answer.json()["error"]["code"]) == (503, "no_backend")


async def test_F17_the_engine_host_dies_and_the_gateway_stays(serving: Serving) -> None:
    gateway, host, engine = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    os.kill(host, signal.SIGKILL)
    await gone(host, engine)
    before = await ready(serving)
    assert_loading(
        [one for one in before if one.json()["error"]["code"] == "loading"], "starting", "idle", "loading", "pulling"
    )
    assert await serving.child("engines") != host
    assert await serving.child("gateway") == gateway


async def test_the_gateway_dies_and_the_engine_stays(serving: Serving) -> None:
    gateway, host, engine = [await serving.child(name) for name in ("gateway", "engines", "tiny")]
    os.kill(gateway, signal.SIGKILL)
    await gone(gateway)
    assert_loading(await ready(serving), "starting")
    assert await serving.child("gateway") != gateway
    assert (await serving.child("engines"), await serving.child("tiny")) == (host, engine)


async def test_an_unloaded_model_comes_back_by_a_request(serving: Serving) -> None:
    reader, writer = await follow(serving)
    assert {state.model for state in states_decoder.decode(await reader.readline())} >= {"tiny", "vectors"}
    writer.write(b'{"op": "unload", "model": "tiny"}\n')
    async with asyncio.timeout(5):
        while not any(
            state.model == "tiny" and state.state == "idle" for state in states_decoder.decode(await reader.readline())
        ):
            pass
    assert_loading(await ready(serving), "draining", "idle", "starting", "loading")
    writer.write(b"nonsense\n")
    assert await asyncio.wait_for(reader.read(), 5) is not None  # it hangs up, and serves others
    writer.close()
    assert await ready(serving) == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_hangs_up_frees_the_slot(serving: Serving, stream: bool) -> None:
    reader, writer = await serving.begin("/v1/chat/completions", chat(max_tokens=900, stream=stream))
    if stream:
        await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    await slots(serving, busy=True)
    writer.transport.abort()
    await slots(serving, busy=False)


async def test_a_caller_that_hangs_up_before_its_first_token_never_gets_a_slot(serving: Serving) -> None:
    both = [await serving.begin("/v1/chat/completions", chat(max_tokens=900, stream=True)) for _ in range(2)]
    for reader, _ in both:
        await asyncio.wait_for(reader.readuntil(b"data: "), 10)
    _, third = await serving.begin("/v1/chat/completions", chat(max_tokens=900, stream=True))
    await third.drain()
    for writer in (third, *(writer for _, writer in both)):
        writer.transport.abort()
    await slots(serving, busy=False)


async def test_nothing_secret_lies_around(serving: Serving) -> None:
    await serving.post("/v1/chat/completions", chat())
    logs = "".join(path.read_text(errors="replace") for path in (serving.data_dir / "logs").iterdir())
    assert logs
    assert PROMPT not in logs + serving.err
    assert serving.key not in logs + serving.err
    reader, writer = await follow(serving)
    keys = [state.api_key for state in states_decoder.decode(await reader.readline()) if state.api_key]
    writer.close()
    assert keys
    assert not any(key in logs + serving.err for key in keys)
    folder = (serving.data_dir / "engine.sock").stat()
    assert stat.S_IMODE(folder.st_mode) == 0o600
