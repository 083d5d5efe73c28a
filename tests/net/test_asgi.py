"""The gateway's channel under another server: uvicorn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

from llmaas.errors import InvalidRequest
from llmaas.net.asgi import AsgiChannel, Receive, Scope, Send
from tests.fakes.raw_http import RawConnection
from tests.ports import free_port


class Application:
    def __init__(self) -> None:
        self.broken_off = asyncio.Event()
        self.gone = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        channel = AsgiChannel(scope, receive, send)
        try:
            await self.answer(channel)
        finally:
            channel.close()

    async def answer(self, channel: AsgiChannel) -> None:
        body = b""
        try:
            while (part := await channel.part()) is not None:
                body += part
        except InvalidRequest:
            self.broken_off.set()
            return
        channel.on_gone(self.gone.set)
        if channel.path == "/wait":
            await channel.begin(200, [], b"begun")
            await self.gone.wait()
            await channel.end(b"unheard")
        elif channel.path == "/stream":
            await channel.begin(200, [], b"a")
            channel.send(b"b")
            await channel.end(b"c")
        else:
            channel.keep_alive = False
            await channel.whole(200, [], body)


@asynccontextmanager
async def serving(application: Application) -> AsyncIterator[str]:
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(application, port=port, log_level="error", lifespan="off"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await task


async def test_whole_answers_streams_and_hang_ups_under_uvicorn() -> None:
    application = Application()
    async with serving(application) as url:
        async with await RawConnection.open(url) as raw:
            await raw.send(b"GET /stream HTTP/1.1\r\nhost: h\r\n\r\n")
            assert (await raw.response()).body == b"abc"
            await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhello")
            answer = await raw.response()
            assert (answer.body, answer.header("connection")) == (b"hello", "close")
        async with await RawConnection.open(url) as raw:
            await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nhel")
        await asyncio.wait_for(application.broken_off.wait(), 5)
        async with await RawConnection.open(url) as raw:
            await raw.send(b"GET /wait HTTP/1.1\r\nhost: h\r\n\r\n")
            await raw.read_until(b"begun")
            assert not application.gone.is_set()
        await asyncio.wait_for(application.gone.wait(), 5)
