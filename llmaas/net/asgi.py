"""Both ways over the ASGI border: our routes under any ASGI server, and ASGI applications under ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any

from llmaas.errors import InvalidRequest
from llmaas.net.channel import Channel, Header

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


class AsgiChannel:
    """Implements `web.channel.Channel` on what an ASGI server hands over."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope.get("query_string", b"")
        self.version: str = scope["http_version"]
        self.raw_headers: Sequence[Header] = scope["headers"]
        client = scope.get("client")
        self.address: str = client[0] if client else ""
        self.pieces = 0
        self.keep_alive = True
        self.gone = False
        self._receive = receive
        self._send = send
        self._complete = False
        self._unsent: list[bytes] = []
        self._callback: Callable[[], None] | None = None
        self._listening: asyncio.Future[Message] | None = None

    async def part(self) -> bytes | None:
        if self._complete:
            return None
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The body of the request broke off.")
        self.pieces += 1
        self._complete = not message.get("more_body", False)
        body: bytes = message.get("body", b"")
        return body

    def expect(self, size: int, key_id: str) -> None:
        """The server in front bounds what it takes."""

    def body_at_hand(self) -> bytes | None:
        return None

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self.gone:
            callback()
        elif self._listening is None:
            self._listen()

    async def whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        size = [] if status == HTTPStatus.NO_CONTENT else [(b"content-length", b"%d" % len(body))]
        self._stop_listening()
        if not self.gone:
            await self._send(
                {"type": "http.response.start", "status": status, "headers": [*headers, *size, *self._closing()]}
            )
            await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else body})

    async def begin(self, status: int, headers: Sequence[Header], data: bytes) -> None:
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._closing()]})
        self.send(data)
        await self.ready()

    def send(self, data: bytes) -> bool:
        if data and self.method != "HEAD":
            self._unsent.append(data)
        return not self._unsent

    async def ready(self) -> None:
        data = b"".join(self._unsent)
        self._unsent.clear()
        if data and not self.gone:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        self._stop_listening()
        await self.ready()
        if not self.gone:
            await self._send({"type": "http.response.body", "body": b"" if self.method == "HEAD" else data})

    def _closing(self) -> list[Header]:
        return [] if self.keep_alive else [(b"connection", b"close")]

    def close(self) -> None:
        """The request is over."""
        self._callback = None
        self._stop_listening()

    def _listen(self) -> None:
        self._listening = asyncio.ensure_future(self._receive())
        self._listening.add_done_callback(self._heard)

    def _stop_listening(self) -> None:
        if self._listening is not None and not self._listening.done():
            self._listening.cancel()

    def _heard(self, listening: asyncio.Future[Message]) -> None:
        if listening.cancelled() or listening.exception() is not None:
            return
        if listening.result()["type"] != "http.disconnect":
            self._listen()  # the empty end of the body
            return
        self.gone = True
        if self._callback is not None:
            self._callback()


async def run_asgi(app: ASGIApp, channel: Channel, extra: Sequence[Header]) -> None:
    """Let an ASGI application answer; `extra` headers go with its own. What it raises passes through."""
    ended = asyncio.Event()
    over = False
    status, headers = 0, list[Header]()
    begun = False

    async def receive() -> Message:
        if not over:
            try:
                part = await channel.part()
            except InvalidRequest:
                return {"type": "http.disconnect"}
            if part is not None:
                return {"type": "http.request", "body": part, "more_body": True}
            if not told_end.is_set():
                told_end.set()
                channel.on_gone(ended.set)
                return {"type": "http.request", "body": b"", "more_body": False}
            await ended.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        nonlocal over, begun, status, headers
        if message["type"] == "http.response.start":
            status = message["status"]
            named = ((bytes(name).lower(), bytes(value)) for name, value in message.get("headers", ()))
            headers = [*(h for h in named if h[0] != b"content-length"), *extra]
            return
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            if not begun:
                begun = True
                await channel.begin(status, headers, body)
            elif not channel.send(body):
                await channel.ready()
            return
        over = True
        try:
            await (channel.end(body) if begun else channel.whole(status, headers, body))
        finally:
            ended.set()  # an application may wait for the caller's end in a task beside its answer

    told_end = asyncio.Event()
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": channel.version,
        "method": channel.method,
        "scheme": "http",
        "path": channel.path,
        "raw_path": channel.path.encode(),
        "query_string": channel.query,
        "root_path": "",
        "headers": list(channel.raw_headers),
        "client": (channel.address, 0),
        "server": None,
        "state": {},
    }
    await app(scope, receive, send)
