"""The caller's side of an inference request over HTTP: implements `inference.reply.Reply`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from llmaas.api.errors import render_event
from llmaas.api.standing import standing_headers
from llmaas.domain.ports import Standing
from llmaas.errors import LlmaasError
from llmaas.protocol.answers import DONE_EVENT, PING
from llmaas.tasks import TaskSet
from llmaas.web.requests import Request
from llmaas.web.responses import JSON, respond

_STREAM_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_json = msgspec.json.Encoder()


class HttpReply:
    """Hears of the caller's hang-up from its making until `close()`; the request's body must have been read."""

    def __init__(self, request: Request, tasks: TaskSet, ping_interval_s: float) -> None:
        self._request = request
        self._channel = request.channel
        self._tasks = tasks
        self._ping_interval_s = ping_interval_s
        self._callback: Callable[[], None] | None = None
        self._begun = False
        self._ended = False
        self._last_sent_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._channel.on_gone(self._hung_up)

    @property
    def gone(self) -> bool:
        return self._channel.gone

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self._channel.gone:
            callback()

    def show_standing(self, standing: Standing) -> None:
        self._request.more_headers += standing_headers(standing)

    async def begin_stream(self, answer_id: str, backend: dict[str, str], data: bytes) -> None:
        self._begun = True
        loop = self._loop = asyncio.get_running_loop()
        self._last_sent_s = loop.time()
        self._ping_timer = loop.call_later(self._ping_interval_s, self._ping, loop)
        head = self._request.head(200, [*_STREAM_HEAD, (b"backend", _json.encode(backend))])
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

    async def whole(self, answer_id: str, backend: dict[str, str], body: bytes) -> None:
        self._ended = True
        await respond(self._request, 200, [JSON, (b"backend", _json.encode(backend))], body)

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
        if not self._ended and self._callback is not None:
            self._callback()

    def _ping(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._ended or self._channel.gone:
            return
        quiet_s = loop.time() - self._last_sent_s
        if quiet_s >= self._ping_interval_s:
            if not self.send(PING):
                self._tasks.spawn(self.ready(), name="ping")
            quiet_s = 0.0
        self._ping_timer = loop.call_later(self._ping_interval_s - quiet_s, self._ping, loop)
