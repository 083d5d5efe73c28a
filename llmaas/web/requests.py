"""An HTTP request as handlers see it, and the reading of its body within limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from llmaas.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SINGLE = (b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding")
_MAX_REQUEST_ID = 128
_SKIPPED = 4
"""Bodies of up to so many times the limit are read to their end before they are refused."""
_MANY_PARTS = 4096
_SMALL_PART_BYTES = 64


class Request:
    """One request. `uuid` is ours; `request_id` is the caller's own when it is sane, else `uuid`.

    `status`: of the answer, 0 until its head is sent. `id_prefix`: what the answer's id has before the `uuid`.
    `closing`: no other request may follow on the same connection.
    """

    __slots__ = (
        "closing",
        "headers",
        "id_prefix",
        "method",
        "more_headers",
        "path",
        "path_rest",
        "receive",
        "request_id",
        "scope",
        "send",
        "started_ms",
        "started_s",
        "status",
        "uuid",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, uuid: str, started_ms: int, started_s: float
    ) -> None:
        raw: list[tuple[bytes, bytes]] = scope["headers"]
        self.scope = scope
        self.receive = receive
        self.send = send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.path_rest = ""
        self.headers = dict(raw)
        self.closing = b"transfer-encoding" in self.headers
        self.uuid = uuid
        own = self.headers.get(b"x-request-id")
        self.request_id = own.decode("ascii") if own is not None and _is_sane(own) else uuid
        self.id_prefix = "req-"
        self.status = 0
        self.more_headers: list[tuple[bytes, bytes]] = []
        self.started_ms = started_ms
        self.started_s = started_s

    def head(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Message:
        """The message that begins the answer, with what every answer carries: `id`, `x-request-id`, cross-origin headers."""
        self.status = status
        sent = [
            *headers,
            (b"id", (self.id_prefix + self.uuid).encode()),
            (b"x-request-id", self.request_id.encode()),
            *self.more_headers,
        ]
        if self.closing:
            sent.append((b"connection", b"close"))
        return {"type": "http.response.start", "status": status, "headers": sent}

    def check(self) -> None:
        """Raises InvalidRequest for what different servers would read differently."""
        raw: list[tuple[bytes, bytes]] = self.scope["headers"]
        if len(self.headers) != len(raw):
            names = [name for name, _ in raw]
            for name in _SINGLE:
                if names.count(name) > 1:
                    raise InvalidRequest(f"The header '{name.decode()}' may be given only once.")
        # Servers disagree on where a chunked body ends, so nothing may follow one, and there is one way to write it.
        odd = self.closing and self.headers[b"transfer-encoding"].lower() != b"chunked"
        if odd or (self.closing and b"content-length" in self.headers):
            raise InvalidRequest("The header 'transfer-encoding' may only be 'chunked', without a 'content-length'.")
        if not self.headers.get(b"host") and self.scope["http_version"] == "1.1":
            raise InvalidRequest("The header 'host' is missing.")

    @property
    def address(self) -> str:
        client = self.scope.get("client")
        return client[0] if client else ""

    @property
    def bearer(self) -> str | None:
        """The token of `Authorization: Bearer`, the scheme in any case."""
        value = self.headers.get(b"authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(b" ")
        if scheme.lower() != b"bearer":
            return None
        return token.strip().decode("latin-1")

    async def json_body(self, limit_bytes: int) -> bytes:
        """The body of a JSON request. Type and announced size are judged before a byte is read, so that a caller who
        waits for `100 Continue` is refused without sending. Raises UnsupportedMediaType, BodyTooLarge, InvalidRequest.
        """
        kind = self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise UnsupportedMediaType("The content type of requests must be 'application/json'.")
        if self.headers.get(b"content-encoding", b"identity").lower() not in (b"identity", b""):
            raise UnsupportedMediaType("Compressed requests are not supported.")
        announced = self.headers.get(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > limit_bytes:
            if b"expect" not in self.headers and int(announced) <= limit_bytes * _SKIPPED:
                await self._skip_body()
            raise _too_large(limit_bytes)
        message = await self.receive()
        body: bytes = message.get("body", b"")
        if len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        if message.get("more_body"):
            if announced is not None and announced.isdigit() and int(announced) == len(body):
                return body  # all of it: asking the server once more would cost as much as the rest of the request
            return await self._rest_of_body(body, limit_bytes)
        if message["type"] == "http.disconnect":
            raise _broken_off()
        return body

    async def _skip_body(self) -> None:
        """A caller who is cut off while sending sees a broken connection instead of our answer."""
        message = await self.receive()
        while message["type"] == "http.request" and message.get("more_body"):
            message = await self.receive()

    async def _rest_of_body(self, first: bytes, limit_bytes: int) -> bytes:
        parts = [first]
        size = len(first)
        more = True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise _broken_off()
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)
            if len(parts) > _MANY_PARTS and size < len(parts) * _SMALL_PART_BYTES:
                raise InvalidRequest("The body comes in too many small pieces.")
            more = bool(message.get("more_body"))
        return b"".join(parts)


def _is_sane(value: bytes) -> bool:
    return 0 < len(value) <= _MAX_REQUEST_ID and value.isascii() and all(33 <= c <= 126 for c in value)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the limit of {limit_bytes} bytes.")


def _broken_off() -> InvalidRequest:
    """Servers report broken chunks as a hang-up too, so there may still be somebody to tell."""
    return InvalidRequest("The body of the request broke off.")
