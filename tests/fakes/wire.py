"""One connection of the fake server: reads requests, writes responses byte by byte as a Behaviour wants them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import socket
import struct
import zlib
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import cast

import httptools

from tests.fakes.behaviour import Behaviour, Position
from tests.fakes.framing import Chunk, Response
from tests.fakes.record import Log, Record

Answer = Callable[[Record], Awaitable[tuple[Response, Behaviour]]]


class _ConnectionOver(Exception):
    """The server has ended the connection on purpose."""


class Connection(asyncio.Protocol):
    def __init__(self, log: Log, api_key: str | None, answer: Answer, internal: Callable[[Record], bool]) -> None:
        self._log = log
        self._api_key = api_key
        self._answer = answer
        self._internal = internal
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport
        self.closed = False
        self._number = 0
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()
        self._queue: deque[tuple[Record, bool]] = deque()
        self._open: list[Record] = []
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._held = bytearray()
        self._on_next_request: str = "serve"

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)
        self._log.connections += 1
        self._log.open_connections += 1
        self._number = self._log.connections
        self._log.changed()

    def data_received(self, data: bytes) -> None:
        if self._on_next_request != "serve":
            self._log.dropped += 1
            self._end("rst" if self._on_next_request == "rst" else "fin")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        self._log.open_connections -= 1
        for record in self._open:
            self._log.finish(record, "cancelled")
        if self._task is not None:
            self._task.cancel()
        self._writable.set()
        self._log.changed()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def stop(self) -> None:
        if self._number:
            self._end("rst")
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers = []
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if any(name.lower() == "expect" for name, _ in self._headers):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        method, path, body = self._parser.get_method().decode(), self._url.decode("latin-1"), bytes(self._body)
        record = Record(len(self._log.requests) + 1, self._number, method, path, self._headers, body)
        with contextlib.suppress(ValueError):
            record.json = json.loads(body) if body else None
        authorization = record.header("authorization")
        if authorization is not None:
            record.credential = "provider" if authorization == f"Bearer {self._api_key}" else "foreign"
        if not self._internal(record):
            self._log.requests.append(record)
        self._open.append(record)
        self._queue.append((record, self._parser.should_keep_alive()))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._serve())
        self._log.changed()

    # The answers.

    async def _serve(self) -> None:
        try:
            while self._queue:
                record, keep = self._queue.popleft()
                response, behaviour = await self._answer(record)
                record.status = response.status
                await self._respond(record, response, behaviour, keep=keep)
                self._open.remove(record)
                self._on_next_request = behaviour.next_request
        except _ConnectionOver:
            return
        except Exception:
            self._end("rst")
            raise

    async def _respond(self, record: Record, response: Response, behaviour: Behaviour, *, keep: bool) -> None:
        keep = keep and behaviour.close == "keep" and behaviour.framing != "close"
        body = _Body(response, behaviour)
        await self._moment("before_head", record, behaviour, b"")
        if not response.raw:
            await self._write(body.head(announce_close=not keep and behaviour.close != "silent"), record, behaviour)
        await self._moment("after_head", record, behaviour, b"")
        ended = False
        chunk = body.next_chunk()
        await self._moment(0, record, behaviour, chunk.data if chunk else b"")
        while chunk is not None:
            if chunk.ends and not ended:
                ended = True
                await self._moment("before_end", record, behaviour, chunk.data)
            record.tokens_sent += chunk.tokens
            following = body.next_chunk()
            await self._write(chunk.data, record, behaviour, last=following is None and not body.has_tail)
            record.chunks_sent += chunk.counts
            if chunk.counts:
                await self._moment(record.chunks_sent, record, behaviour, following.data if following else b"")
            if behaviour.chunk_pause_ms:
                await asyncio.sleep(behaviour.chunk_pause_ms / 1000)
            chunk = following
        if not ended:
            await self._moment("before_end", record, behaviour, b"")
        await self._write(body.tail(), record, behaviour, last=True)
        await self._flush(record, last=True)
        if not keep:
            self._end("fin")
            raise _ConnectionOver

    async def _moment(self, now: Position, record: Record, behaviour: Behaviour, coming: bytes) -> None:
        if now in behaviour.pause_at:
            await self._flush(record)
            await self._log.pause(record)
        if behaviour.cut_at == now:
            await self._write(_part(coming, behaviour.cut_inside), record, behaviour)
            await self._flush(record)
            self._log.finish(record, "cut")
            self._end(behaviour.cut)
            raise _ConnectionOver

    async def _write(self, data: bytes, record: Record, behaviour: Behaviour, *, last: bool = False) -> None:
        record.bytes_sent += len(data)
        if behaviour.burst:
            self._held += data
            return
        left = len(data)
        for piece in _slices(data, behaviour.slice_bytes):
            left -= len(piece)
            await self._put(piece, record, last=last and not left)
            if behaviour.slice_pause_ms:
                await asyncio.sleep(behaviour.slice_pause_ms / 1000)

    async def _flush(self, record: Record, *, last: bool = False) -> None:
        held = bytes(self._held)
        self._held.clear()
        await self._put(held, record, last=last)

    async def _put(self, data: bytes, record: Record, *, last: bool) -> None:
        """An answer is complete once the kernel has it: by then nobody can have read its end before the log says so."""
        if data:
            self._transport.write(data)
        if last and not self._transport.get_write_buffer_size():
            self._log.finish(record, "complete")
        await self._drained()
        if last:
            self._log.finish(record, "complete")

    async def _drained(self) -> None:
        """The kernel has everything. The loop turns once, so that each write can be a packet of its own."""
        await asyncio.sleep(0)
        await self._writable.wait()

    def _end(self, how: str) -> None:
        if how == "rst":
            sock = self._transport.get_extra_info("socket")
            if sock is not None and not self._transport.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()


class _Body:
    """The chunks of a response in their HTTP framing."""

    def __init__(self, response: Response, behaviour: Behaviour) -> None:
        self._response = response
        self._chunks: Iterator[Chunk] = iter(response.chunks)
        size = response.size
        if behaviour.framing == "length" and size is None:
            chunks = list(self._chunks)
            size = sum(len(chunk.data) for chunk in chunks)
            self._chunks = iter(chunks)
        self._length = None if size is None else size + behaviour.length_delta
        self._gzip = zlib.compressobj(wbits=31) if behaviour.gzip and not response.raw else None
        self._after = behaviour.extra_after
        plain = behaviour.framing == "close" or response.raw
        self._chunked = not plain and (behaviour.framing == "chunked" or size is None or self._gzip is not None)
        if plain or self._chunked:
            self._length = None
        self._headers = [pair for pair in response.headers if pair[0] not in {name for name, _ in behaviour.headers}]
        self._headers += behaviour.headers

    def head(self, *, announce_close: bool) -> bytes:
        headers = list(self._headers)
        if self._gzip is not None:
            headers.append(("content-encoding", "gzip"))
        if self._chunked:
            headers.append(("transfer-encoding", "chunked"))
        if self._length is not None:
            headers.append(("content-length", str(self._length)))
        if announce_close:
            headers.append(("connection", "close"))
        lines = [f"HTTP/1.1 {self._response.status} Fake", *(f"{name}: {value}" for name, value in headers)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    def next_chunk(self) -> Chunk | None:
        chunk = next(self._chunks, None)
        if chunk is None:
            return None
        data = chunk.data
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        return Chunk(self._framed(data), chunk.tokens, chunk.ends, chunk.counts)

    @property
    def has_tail(self) -> bool:
        return self._chunked or bool(self._after)

    def tail(self) -> bytes:
        rest = self._framed(self._gzip.flush()) if self._gzip is not None else b""
        return rest + (b"0\r\n\r\n" if self._chunked else b"") + self._after

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked and data else data


def _part(data: bytes, inside: str) -> bytes:
    """As much of a chunk as goes out before the cut."""
    if inside == "line":
        return data[: len(data) // 2]
    if inside == "utf8":
        at = next(at for at, byte in enumerate(data) if byte >= 0xC0)
        return data[: at + 1]
    return b""


def _slices(data: bytes, most: int) -> Iterator[bytes]:
    if not most:
        yield data
        return
    at = 0
    for size in itertools.cycle(range(1, most + 1)):
        if at >= len(data):
            return
        yield data[at : at + size]
        at += size
