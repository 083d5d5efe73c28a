"""The caller's side of an inference request over HTTP: implements `inference.reply.Reply`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Struct

from llmaas.domain.ports import Standing
from llmaas.errors import ClientGone, LlmaasError
from llmaas.net.channel import Channel
from llmaas.protocol.answers import DONE_EVENT, PING
from llmaas.tasks import TaskSet
from llmaas.v1.errors import render_event
from llmaas.v1.standing import standing_headers
from llmaas.web.requests import Request
from llmaas.web.responses import JSON, respond

_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_json = msgspec.json.Encoder()


class HttpReply(Struct, eq=False):
    """Hears of the caller's hang-up once `listen()` was called, until `close()`."""

    _request: Request
    _channel: Channel
    _tasks: TaskSet
    _ping_interval_s: float
    gone: bool = False
    _callback: Callable[[LlmaasError], None] | None = None
    _begun: bool = False
    _ended: bool = False
    _last_sent_s: float = 0.0
    _loop: asyncio.AbstractEventLoop | None = None
    _ping_timer: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        """The request's body must have been read."""
        self._channel.on_gone(self._hung_up)

    def on_gone(self, callback: Callable[[LlmaasError], None]) -> None:
        self._callback = callback
        if self.gone:
            callback(_gone())

    def show_standing(self, standing: Standing) -> None:
        self._request.more_headers += standing_headers(standing)

    async def begin_stream(self, answer_id: str, backend: dict[str, str], data: bytes) -> None:
        self._begun = True
        loop = self._loop = asyncio.get_running_loop()
        self._last_sent_s = loop.time()
        self._ping_timer = loop.call_later(self._ping_interval_s, self._ping, loop)
        head = self._request.head(200, [*_STREAM_HEAD, (b"backend", _labels(backend))])
        await self._channel.begin(200, head, data)

    def send(self, data: bytes) -> bool:
        assert self._loop is not None  # noqa: S101 - the stream was begun
        self._last_sent_s = self._loop.time()
        return self._channel.send(data)

    async def ready(self) -> None:
        await self._channel.ready()

    async def end(self, data: bytes) -> None:
        self._ended = True
        await self._channel.end(data)

    def whole(self, answer_id: str, backend: dict[str, str], body: bytes) -> Awaitable[None]:
        self._ended = True
        labels = _json.encode(backend)
        head = [JSON, (b"backend", labels if labels.isascii() else _labels(backend))]
        return respond(self._request, 200, head, body)

    async def fail(self, error: LlmaasError) -> None:
        """End a begun stream with an error event; before that, raise the error, so that it gets its own status."""
        if not self._begun:
            raise error
        if not self._ended:
            await self.end(render_event(error) + DONE_EVENT)

    def close(self) -> None:
        """The request is over, whatever became of it."""
        self._ended = True
        self._callback = None
        if self._ping_timer is not None:
            self._ping_timer.cancel()

    def _hung_up(self) -> None:
        self.gone = True
        if not self._ended and self._callback is not None:
            self._callback(_gone())

    def _ping(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ended or self._channel.gone:
            return
        quiet_s = loop.time() - self._last_sent_s
        due = quiet_s >= self._ping_interval_s
        # First: whatever goes wrong below must not keep the next ping from coming.
        self._ping_timer = loop.call_later(self._ping_interval_s - (0.0 if due else quiet_s), self._ping, loop)
        if due and not self.send(PING):
            self._tasks.spawn(self.ready(), name="ping")


def _labels(backend: dict[str, str]) -> bytes:
    """As the value of a header, which is ASCII: servers and clients read other bytes in different ways."""
    encoded = _json.encode(backend)
    return encoded if encoded.isascii() else json.dumps(backend, separators=(",", ":")).encode()


def _gone() -> ClientGone:
    return ClientGone("The caller hung up.")
