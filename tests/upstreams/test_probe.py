"""Probing machines that mean no good: whatever they answer, a probe ends with a word about it, and soon."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from llmaas.console.passwords import Passwords
from llmaas.upstreams.probe import ProbeFailed, Prober, get_json

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
