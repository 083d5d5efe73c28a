"""The caller's side of an inference request over ASGI: implements `inference.reply.Reply`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from llmaas.api.errors import render_event
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


class AsgiReply:
    """Watches for the caller's hang-up from its making until `close()`; the request's body must have been read."""

    def __init__(self, request: Request, tasks: TaskSet, ping_interval_s: float) -> None:
        self._request = request
        self._tasks = tasks
        self._ping_interval_s = ping_interval_s
        self._callback: Callable[[], None] | None = None
        self._gone = False
        self._begun = False
        self._ended = False
        self._loop = asyncio.get_running_loop()
        self._last_sent_s = 0.0
        self._ping_timer: asyncio.TimerHandle | None = None
        self._listening: asyncio.Future[Any] | None = None
        self._listen()

    @property
    def gone(self) -> bool:
        return self._gone

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self._gone:
            callback()

    async def begin_stream(self, answer_id: str, backend: dict[str, str]) -> None:
        self._begun = True
        head = [*_STREAM_HEAD, (b"backend", _json.encode(backend))]
        await self._request.send(self._request.head(200, head))
        self._last_sent_s = self._loop.time()
        self._ping_timer = self._loop.call_later(self._ping_interval_s, self._ping)

    async def send(self, data: bytes) -> None:
        self._last_sent_s = self._loop.time()
        await self._request.send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, data: bytes) -> None:
        self._ended = True
        if not self._gone:
            await self._request.send({"type": "http.response.body", "body": data, "more_body": True})
            # On its own: Granian's last part of a stream costs half a millisecond when it carries something.
            await self._request.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, answer_id: str, backend: dict[str, str], body: bytes) -> None:
        self._ended = True
        if not self._gone:
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
        if self._listening is not None and not self._listening.done():
            self._listening.cancel()

    def _listen(self) -> None:
        self._listening = asyncio.ensure_future(self._request.receive(), loop=self._loop)
        self._listening.add_done_callback(self._heard)

    def _heard(self, listening: asyncio.Future[Any]) -> None:
        if self._ended or listening.cancelled():
            return
        if listening.result()["type"] != "http.disconnect":
            self._listen()  # the empty end of the body
            return
        self._gone = True
        if self._callback is not None:
            self._callback()

    def _ping(self) -> None:
        if self._ended or self._gone:
            return
        quiet_s = self._loop.time() - self._last_sent_s
        if quiet_s >= self._ping_interval_s:
            self._tasks.spawn(self.send(PING), name="ping")
            quiet_s = 0.0
        self._ping_timer = self._loop.call_later(self._ping_interval_s - quiet_s, self._ping)
