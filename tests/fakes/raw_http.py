"""HTTP/1.1 over a plain socket, for tests that send what no client would: broken requests, in pieces, cut off anywhere.

Everything has a deadline and ends in AssertionError when it passes.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

DEADLINE_S = 5.0
_LIMIT = 2**30


class Incomplete(Exception):
    """The connection ended before the response was complete. `received`: what there is of it."""

    def __init__(self, received: bytes) -> None:
        super().__init__(f"connection ended after {received[:300]!r}")
        self.received = received


@dataclass(frozen=True, slots=True)
class RawResponse:
    """`interim`: statuses of 1xx responses that came before it. `framing`: how the end of the body was known."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes
    framing: str
    interim: list[int] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The only one of that name; AssertionError when there are several."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, values
        return values[0] if values else None

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The payloads of a stream of server-sent events."""
        blocks = self.body.decode().replace("\r\n", "\n").split("\n\n")
        return [block[len("data: ") :] for block in blocks if block.startswith("data: ")]


def request_bytes(
    method: str, path: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None, host: str = "test"
) -> bytes:
    """A well-formed request. `content-length` is added when there is a body and no framing among the headers."""
    lines = [f"{method} {path} HTTP/1.1"]
    given = list(headers)
    names = {name.lower() for name, _ in given}
    if "host" not in names:
        given.insert(0, ("host", host))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        given.append(("content-length", str(len(body))))
    lines += [f"{name}: {value}" for name, value in given]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")


class RawConnection:
    """`async with await RawConnection.open(url) as raw: await raw.send(...); answer = await raw.response()`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, url: str, *, timeout_s: float = DEADLINE_S, receive_buffer: int | None = None) -> Self:
        """Connect to the host and port of `url`. A small `receive_buffer` makes a slow reader felt."""
        parts = urlsplit(url)
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        try:
            async with asyncio.timeout(timeout_s):
                address = (parts.hostname or "127.0.0.1", parts.port or 80)
                await asyncio.get_running_loop().sock_connect(sock, address)
        except BaseException:
            sock.close()
            raise
        return cls(*await asyncio.open_connection(sock=sock, limit=receive_buffer or _LIMIT))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def send(self, data: bytes, *, slice_bytes: int = 0, pause_ms: int = 0) -> None:
        """Send, whole or so many bytes at a time. What the peer no longer takes is dropped in silence."""
        step = slice_bytes or max(1, len(data))
        try:
            for at in range(0, len(data), step):
                self._writer.write(data[at : at + step])
                await self._writer.drain()
                await asyncio.sleep(pause_ms / 1000)
        except (ConnectionError, BrokenPipeError):
            return

    async def request(
        self, method: str, path: str, *, headers: Iterable[tuple[str, str]] = (), body: bytes | None = None
    ) -> RawResponse:
        """Send a well-formed request and read its response."""
        await self.send(request_bytes(method, path, headers=headers, body=body))
        return await self.response(head=method == "HEAD")

    async def post(self, path: str, data: Any, *, headers: Iterable[tuple[str, str]] = ()) -> RawResponse:
        typed = [("content-type", "application/json"), *headers]
        return await self.request("POST", path, headers=typed, body=json.dumps(data).encode())

    async def response(self, *, head: bool = False, timeout_s: float = DEADLINE_S) -> RawResponse:
        """The next response; `head`: to a HEAD request. Raises Incomplete when the connection ends first."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._response(head=head)
        except TimeoutError:
            raise AssertionError(f"no complete response within {timeout_s} s") from None

    async def read(self, size: int = 65536, *, timeout_s: float = DEADLINE_S) -> bytes:
        """Some bytes as they come; b"" when the peer has closed or reset the connection."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._reader.read(size)
        except ConnectionError:
            return b""
        except TimeoutError:
            raise AssertionError(f"nothing within {timeout_s} s") from None

    async def read_until(self, mark: bytes, *, timeout_s: float = DEADLINE_S) -> bytes:
        """Everything up to `mark`, it included. Raises Incomplete when the connection ends first."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._until(mark)
        except TimeoutError:
            raise AssertionError(f"no {mark!r} within {timeout_s} s") from None

    async def read_to_end(self, *, timeout_s: float = DEADLINE_S) -> bytes:
        """Everything until the peer closes or resets the connection."""
        parts = []
        async with asyncio.timeout(timeout_s):
            while data := await self.read(timeout_s=timeout_s):
                parts.append(data)
        return b"".join(parts)

    async def close(self) -> None:
        """Close with FIN."""
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return

    def reset(self) -> None:
        """Close with RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def end_of_request(self) -> None:
        """Half-close: nothing more will be sent, the response can still come."""
        self._writer.write_eof()

    async def _response(self, *, head: bool) -> RawResponse:
        interim: list[int] = []
        while True:
            status, reason, headers = _parse_head(await self._until(b"\r\n\r\n"))
            if status >= 200 or status == 101:
                break
            interim.append(status)
        named = {name.lower(): value.lower() for name, value in headers}
        if head or status in (101, 204, 304):
            body, framing = b"", "none"
        elif "chunked" in named.get("transfer-encoding", ""):
            body, framing = await self._chunks(), "chunked"
        elif "content-length" in named:
            body, framing = await self._exactly(int(named["content-length"])), "length"
        else:
            body, framing = await self._rest(), "close"
        return RawResponse(status, reason, headers, body, framing, interim)

    async def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            try:
                size = int((await self._until(b"\r\n")).split(b";")[0], 16)
                data = await self._exactly(size)
                mark = await self._until(b"\r\n")
            except Incomplete as error:
                raise Incomplete(bytes(body) + error.received) from None
            body += data
            if size == 0:
                while mark != b"\r\n":
                    mark = await self._until(b"\r\n")
                return bytes(body)
            assert mark == b"\r\n", mark

    async def _until(self, mark: bytes) -> bytes:
        try:
            return await self._reader.readuntil(mark)
        except asyncio.IncompleteReadError as error:
            raise Incomplete(error.partial) from None
        except ConnectionError:
            raise Incomplete(b"") from None

    async def _exactly(self, size: int) -> bytes:
        try:
            return await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise Incomplete(error.partial) from None
        except ConnectionError:
            raise Incomplete(b"") from None

    async def _rest(self) -> bytes:
        parts = []
        while data := await self._reader.read(65536):
            parts.append(data)
        return b"".join(parts)


def _parse_head(head: bytes) -> tuple[int, str, list[tuple[str, str]]]:
    lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, status, *reason = lines[0].split(" ", 2)
    assert version in ("HTTP/1.1", "HTTP/1.0"), lines[0]
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        assert colon, line
        headers.append((name, value.strip()))
    return int(status), reason[0] if reason else "", headers
