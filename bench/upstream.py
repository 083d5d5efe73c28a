"""An engine that answers at once, or event by event in a steady pace, so that what is measured is the gateway.

usage: python -m bench.upstream PORT [EVENTS [GAP_S]]
A request for a stream gets its first event, EVENTS pieces of text, the end of the choice, the usage and `[DONE]`, one write each;
any other gets one answer. A new process is needed for another pace.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, cast

import httptools
import uvloop

_WORD = "hello "
_INPUT_TOKENS = 100


class Answers:
    """The bytes of both kinds of answer, made once."""

    def __init__(self, events: int) -> None:
        usage = {"prompt_tokens": _INPUT_TOKENS, "completion_tokens": events, "total_tokens": _INPUT_TOKENS + events}
        message = {"role": "assistant", "content": _WORD * events}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        whole = json.dumps({**_about("chat.completion"), "choices": [choice], "usage": usage}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        self.whole = head % len(whole) + whole
        pieces = [_event({"role": "assistant", "content": ""}), *[_event({"content": _WORD})] * events]
        ends = [
            _event({}, finish_reason="stop"),
            _chunk(json.dumps({**_about(), "choices": [], "usage": usage}).encode()),
        ]
        self.head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.stream = [*pieces, *ends, _chunk(b"[DONE]") + b"0\r\n\r\n"]


class Connection(asyncio.Protocol):
    def __init__(self, answers: Answers, gap_s: float) -> None:
        self._answers = answers
        self._gap_s = gap_s
        self._parser = httptools.HttpRequestParser(self)
        self._body = b""
        self._transport: asyncio.Transport
        self._writing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        streamed, self._body = json.loads(self._body).get("stream") is True, b""
        if not streamed:
            self._transport.write(self._answers.whole)
            return
        self._transport.write(self._answers.head)
        if self._gap_s:
            self._writing = asyncio.create_task(self._write_slowly())
            return
        for part in self._answers.stream:
            self._transport.write(part)

    async def _write_slowly(self) -> None:
        for part in self._answers.stream:
            if self._transport.is_closing():
                return
            self._transport.write(part)
            await asyncio.sleep(self._gap_s)


def _about(kind: str = "chat.completion.chunk") -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "m"}


def _event(delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return _chunk(json.dumps({**_about(), "choices": [choice]}).encode())


def _chunk(data: bytes) -> bytes:
    """An event as a chunk of its own."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


async def serve(port: int, events: int, gap_s: float) -> None:
    answers = Answers(events)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(answers, gap_s), "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    _arguments = [*sys.argv[1:], *("50", "0")[max(0, len(sys.argv) - 2) :]]
    uvloop.run(serve(int(_arguments[0]), int(_arguments[1]), float(_arguments[2])))
