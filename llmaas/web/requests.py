"""An HTTP request as handlers see it, and the reading of its body within limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from llmaas.errors import BodyTooLarge, InvalidRequest, UnsupportedMediaType
from llmaas.net.channel import Channel, Header

_SINGLE: Final = (b"host", b"authorization", b"content-type", b"content-length", b"transfer-encoding")
_MAX_REQUEST_ID = 128
_SKIPPED = 4
"""Bodies of up to so many times the limit are read to their end before they are refused."""
_MANY_PARTS = 4096
_SMALL_PART_BYTES = 64


class Request(Struct, eq=False):
    """One request. `uuid` is ours; `request_id` is the caller's own when it is sane, else `uuid`.

    `status`: of the answer, 0 until its head is sent. `id_prefix`: what the answer's id has before the `uuid`.
    """

    channel: Channel
    method: str
    path: str
    headers: dict[bytes, bytes]
    uuid: str
    request_id: str
    started_ms: int
    started_s: float
    path_rest: str = ""
    id_prefix: str = "req-"
    status: int = 0
    more_headers: list[Header] = []

    __repr__ = object.__repr__  # never its headers

    def head(self, status: int, headers: Sequence[Header]) -> list[Header]:
        """The headers of the answer, with what every answer carries: `id`, `x-request-id`, cross-origin headers."""
        self.status = status
        return [
            *headers,
            (b"id", (self.id_prefix + self.uuid).encode()),
            (b"x-request-id", self.request_id.encode()),
            *self.more_headers,
        ]

    def check(self) -> None:
        """Raises InvalidRequest for what different servers would read differently."""
        encoding = self.headers.get(b"transfer-encoding")
        if encoding is not None:
            # Servers disagree on where a chunked body ends, so nothing may follow one, and there is one way to write it.
            self.channel.keep_alive = False
        raw = self.channel.raw_headers
        if len(self.headers) != len(raw):
            names = [name for name, _ in raw]
            for name in _SINGLE:
                if names.count(name) > 1:
                    raise InvalidRequest(f"The header '{name.decode()}' may be given only once.")
        if encoding is not None and (encoding.lower() != b"chunked" or b"content-length" in self.headers):
            raise InvalidRequest("The header 'transfer-encoding' may only be 'chunked', without a 'content-length'.")
        if not self.headers.get(b"host") and self.channel.version == "1.1":
            raise InvalidRequest("The header 'host' is missing.")

    def bearer(self) -> str | None:
        """The token of `Authorization: Bearer`, the scheme in any case."""
        value = self.headers.get(b"authorization")
        if value is None:
            return None
        scheme, _, token = value.partition(b" ")
        if scheme != b"Bearer" and scheme.lower() != b"bearer":
            return None
        return token.strip().decode("latin-1")

    async def json_body(self, limit_bytes: int, key_id: str = "") -> bytes:
        """The body of a JSON request. Type and announced size are judged before a byte is read, so that a caller who
        waits for `100 Continue` is refused without sending. Raises UnsupportedMediaType, BodyTooLarge, InvalidRequest, and
        Saturated when that key, or everyone together, sends more than there is room for.
        """
        self._check_media_type()
        length = self.headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() else -1
        if announced > limit_bytes:
            if b"expect" not in self.headers and announced <= limit_bytes * _SKIPPED:
                await self._skip_body()
            raise _too_large(limit_bytes)
        self.channel.expect(announced, key_id)
        first = await self.channel.part()
        if first is None:
            return b""
        if len(first) > limit_bytes:
            raise _too_large(limit_bytes)
        return await self._rest_of_body(first, limit_bytes)

    def json_body_at_hand(self, limit_bytes: int) -> bytes | None:
        """The same without waiting, when it came in one piece, as most do; None: use `json_body`."""
        self._check_media_type()
        body = self.channel.body_at_hand()
        if body is not None and len(body) > limit_bytes:
            raise _too_large(limit_bytes)
        return body

    def _check_media_type(self) -> None:
        kind = self.headers.get(b"content-type", b"")
        if kind != b"application/json" and kind.partition(b";")[0].strip().lower() != b"application/json":
            raise UnsupportedMediaType("The content type of requests must be 'application/json'.")
        encoding = self.headers.get(b"content-encoding")
        if encoding is not None and encoding.lower() not in (b"identity", b""):
            raise UnsupportedMediaType("Compressed requests are not supported.")

    async def _skip_body(self) -> None:
        """A caller who is cut off while sending sees a broken connection instead of our answer."""
        while await self.channel.part() is not None:
            pass

    async def _rest_of_body(self, first: bytes, limit_bytes: int) -> bytes:
        channel = self.channel
        parts = [first]
        size = len(first)
        while True:
            if channel.pieces > _MANY_PARTS and size < channel.pieces * _SMALL_PART_BYTES:
                raise InvalidRequest("The body comes in too many small pieces.")
            part = await channel.part()
            if part is None:
                return b"".join(parts)
            size += len(part)
            if size > limit_bytes:
                raise _too_large(limit_bytes)
            parts.append(part)


def open_request(channel: Channel, uuid: str, started_ms: int, started_s: float) -> Request:
    """The request that came on a channel."""
    headers = dict(channel.raw_headers)
    own = headers.get(b"x-request-id")
    request_id = own.decode("ascii") if own is not None and _is_sane(own) else uuid
    return Request(channel, channel.method, channel.path, headers, uuid, request_id, started_ms, started_s)


def _is_sane(value: bytes) -> bool:
    return 0 < len(value) <= _MAX_REQUEST_ID and value.isascii() and all(33 <= c <= 126 for c in value)


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the limit of {limit_bytes} bytes.")
