"""Probing machines that mean no good: whatever they answer, a probe ends with a word about it, and soon."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llmaas.control.accounts.passwords import Passwords
from llmaas.domain.models import Backend, ProviderKind
from llmaas.engines.probe import ProbeFailed, Prober, get_json

_BAD_COUNTS: tuple[object, ...] = (0, -1, "32768", 1.5, True, 10**30, [], {})
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await answer(writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def whole(body: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()

    return answer


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\nx: "])
async def test_A07_a_server_that_drips_is_left_at_the_deadline(head: bytes) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with serving(drip) as url:
        began = time.monotonic()
        with pytest.raises(ProbeFailed, match=r"no answer from 127\.0\.0\.1:\d+ within 0\.3 s"):
            await asyncio.to_thread(get_json, f"{url}/v1/models", None, 0.3)
        assert time.monotonic() - began < 5


async def test_names_of_half_characters_can_be_shown() -> None:
    async with serving(whole(b'{"models":[{"name":"a\\ud800"}],"version":"\\udfff"}')) as url:
        found = await asyncio.to_thread(Prober().at, url, None)
    assert found.found.models == ("a?",)
    assert found.found.server == "Ollama ?"


async def test_an_answer_too_deep_to_be_read_is_no_list_of_models() -> None:
    async with serving(whole(b"[" * 200_000)) as url:
        with pytest.raises(ProbeFailed, match="not with a JSON object"):
            await asyncio.to_thread(Prober().at, url, None)


async def test_passwords_are_checked_while_all_other_threads_wait() -> None:
    release = threading.Event()
    waiting = [asyncio.create_task(asyncio.to_thread(release.wait)) for _ in range(64)]
    passwords = Passwords()
    try:
        digest = await asyncio.wait_for(passwords.hash("correct horse battery"), 30)
        assert await asyncio.wait_for(passwords.match(digest, "correct horse battery"), 30)
    finally:
        release.set()
        await asyncio.gather(*waiting)


@pytest.mark.parametrize(
    ("told", "window", "owner"),
    [
        ({"max_model_len": 32_768, "owned_by": "vllm"}, 32_768, "vllm"),
        ({"context_length": 200_000}, 200_000, ""),
        ({"context_window": 8_192, "owned_by": "Meta"}, 8_192, "Meta"),
        ({"max_context_length": 32_000}, 32_000, ""),
        ({"n_ctx": 4_096}, 4_096, ""),
        ({"owned_by": "llamacpp", "meta": {"n_ctx_train": 131_072}}, 131_072, "llamacpp"),
        ({"meta": {"n_ctx_train": 131_072, "n_ctx": 8_192}}, 8_192, ""),
        ({"max_model_len": None, "context_length": 512}, 512, ""),
        *(({"max_model_len": bad}, None, "") for bad in _BAD_COUNTS),
        ({"meta": [1], "owned_by": None}, None, ""),
        ({"owned_by": "x" * 10_000}, None, "x" * 200),
    ],
)
async def test_a_server_is_believed_what_its_models_take_and_whose_they_are(
    told: dict[str, object], window: int | None, owner: str
) -> None:
    body = json.dumps({"data": [{"id": "m", **told}]}).encode()
    backend = Backend("b", "p", "", "b", "vllm")
    async with serving(whole(body)) as url:
        there = dataclasses.replace(backend, base_url=f"{url}/v1")
        found = await asyncio.to_thread(Prober().look_at, there, ProviderKind.OPENAI, None)
    assert [(one.name, one.window, one.owner) for one in found.served] == [("m", window, owner)]


async def test_ollama_is_believed_the_window_that_a_model_runs_with() -> None:
    loaded = {"models": [{"name": "a:1b", "context_length": 16_384}, {"name": "b:1b"}]}
    async with serving(whole(json.dumps({"version": "1", **loaded}).encode())) as url:
        backend = Backend("b", "p", url, "b", "ollama")
        found = await asyncio.to_thread(Prober().look_at, backend, ProviderKind.OLLAMA, None)
    assert {one.name: one.window for one in found.served} == {"a:1b": 16_384, "b:1b": None}
