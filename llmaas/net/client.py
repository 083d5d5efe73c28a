"""HTTP/1.1 to inference servers: an asyncio protocol on httptools, with a pool of kept connections.

Written here because the client is the largest part of what a request costs (docs/architecture.md has the figures). Redirects
are never followed, compressed answers never taken. All failures leave this module as EngineFailed or EngineTimeout.
"""

from __future__ import annotations

import asyncio
import errno
import re
import select
import socket
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import structlog

from llmaas.errors import ClientGone, EngineError, EngineFailed, EngineTimeout, LlmaasError, Unavailable
from llmaas.settings import Secret

_MAX_BARE_BYTES = 64 * 1024
"""Read in a row without any of the body: heads, interim answers, lengths and extensions of chunks, trailers."""
_MANY_PARTS = 16_384
_SMALL_PART_BYTES = 64
"""Many smaller ones take several times what is in them."""
_HIGH_WATER_BYTES = 256 * 1024
_IDLE_S = 15.0
_QUIET_S = 0.15
"""For so long by the slow clock, which is a tenth of a second at least, a connection has to be silent before another owner gets it."""
_SWEEP_S = 0.1
_LAST_S = 0.2
_STALE_S = 1.0
"""An engine that closed a kept connection before it heard of a request tells so within moments. One that does it later may have
worked on it meanwhile, and is not asked the same again.
"""
_MAX_IDLE = 256
_MAX_HEADS = 1_000

_COMPRESSED = re.compile(rb"gzip|deflate|compress|\bbr\b|zstd")
"""Other words that servers put there, such as `utf-8`, change nothing about the bytes."""
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors of connecting that tell of this machine: nobody was asked."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.engines")

Phase = Literal["connect", "first_byte", "between_chunks", "total"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds, kept to a few tenths. `total` counts from the start of the exchange."""

    connect_s: float
    first_byte_s: float
    between_chunks_s: float
    total_s: float


class Origin(NamedTuple):
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> tuple[Origin, str]:
        """The origin of an `http(s)` URL and its path without a closing slash."""
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname or "", port), parts.path.rstrip("/")

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"


def build_post(origin: Origin, path: str, body: bytes, credential: Secret | None) -> bytes:
    """A whole POST request of JSON: nothing in it comes from a caller's headers."""
    return b"%bcontent-length: %d\r\n\r\n%b" % (_post_head(origin, path, credential), len(body), body)


def _post_head(origin: Origin, path: str, credential: Secret | None) -> bytes:
    """What stands before the length in each request to that place."""
    lines = [
        f"POST {path} HTTP/1.1",
        f"host: {origin.authority}",
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "accept-encoding: identity",
    ]
    if credential is not None:
        lines.append(f"authorization: Bearer {credential.reveal()}")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1")


class Posts:
    """`build_post` for one place after another; remembers the heads of the last ones."""

    def __init__(self) -> None:
        self._heads: dict[tuple[Origin, str, str, Secret | None], bytes] = {}

    def build(self, origin: Origin, base: str, path: str, body: bytes, credential: Secret | None) -> bytes:
        """A request to `base` + `path`."""
        place = (origin, base, path, credential)
        head = self._heads.get(place)
        if head is None:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            head = self._heads[place] = _post_head(origin, base + path, credential)
        return b"%bcontent-length: %d\r\n\r\n%b" % (head, len(body), body)


class HttpTransport:
    """Connections by origin. One for each event loop; `close()` ends the idle ones.

    `now_s` is a clock that is a little slow: a sweep sets it, which also looks after all time limits, so that an exchange needs
    no timer of its own. `permits` judges the numeric address of each connection before it is made.
    """

    def __init__(self, permits: Callable[[str], bool] | None = None) -> None:
        self._permits = permits
        self.now_s = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchanges: set[Exchange] = set()
        self._idle: dict[Origin, deque[_Connection]] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._tls: ssl.SSLContext | None = None

    def send(self, origin: Origin, request: bytes, timeouts: Timeouts, owner: str = "") -> Exchange:
        """Begin an exchange: `request` is the whole request as it goes over the wire, `owner` the project whose it is. Never raises and
        never waits.
        """
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        loop = self._loop
        if self._sweeper is None:
            self.now_s = loop.time()
            self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop)
        exchange = Exchange(self, loop, timeouts, request, owner)
        self._exchanges.add(exchange)
        connection = self._take_idle(origin, owner)
        if connection is not None:
            connection.begin(exchange)
        else:
            self._connect(origin, exchange)
        return exchange

    def ended(self, exchange: Exchange) -> None:
        self._exchanges.discard(exchange)

    async def close(self) -> None:
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
        for task in list(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        if self._sweeper is not None and not self._exchanges:
            self._sweeper.cancel()
            self._sweeper = None

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        # First: whatever goes wrong below must not keep the next sweep from coming.
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop)
        now_s = self.now_s = loop.time()
        for exchange in list(self._exchanges):
            try:
                exchange.check_limits(now_s)
            except Exception:  # noqa: BLE001 - the limits of the others hold all the same
                _log.exception("sweep_failed")
        for origin, idle in list(self._idle.items()):
            while idle and now_s - idle[0].idle_since_s > _IDLE_S:
                idle.popleft().close()
            if not idle:
                del self._idle[origin]
        if not (self._exchanges or self._connecting or self._idle):
            self._sweeper.cancel()
            self._sweeper = None

    def _take_idle(self, origin: Origin, owner: str) -> _Connection | None:
        """The one that was used last, when it was the same owner's; else the one that has been silent the longest, if that is long
        enough: nothing in HTTP/1.1 tells an answer that comes twice from the answer to the next request.
        """
        idle = self._idle.get(origin)
        while idle:
            if idle[-1].owner == owner:
                connection = idle.pop()
            elif idle[0].owner == owner:
                connection = idle.popleft()
            elif self.now_s - idle[0].idle_since_s > _QUIET_S:
                connection = idle.popleft()
                if connection.has_unread():
                    connection.close()
            else:
                return None
            if connection.usable():
                return connection
        return None

    def _connect(self, origin: Origin, exchange: Exchange) -> None:
        task = exchange.loop.create_task(self._open(origin, exchange))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)
        exchange.connecting = task

    async def _open(self, origin: Origin, exchange: Exchange) -> None:
        try:
            connection = await self._connected(origin, exchange.loop)
        except TimeoutError as error:
            exchange.fail(_out_of_reach(f"{origin.authority}: {error}"))
            return
        except (OSError, ssl.SSLError, UnicodeError) as error:
            if getattr(error, "errno", None) in _OURS:
                exchange.fail(self._out_of_room(error))
            else:
                exchange.fail(EngineFailed("The engine could not be reached.", hint=f"{origin.authority}: {error}"))
            return
        if exchange.over:
            self.give_back(connection)
        else:
            connection.begin(exchange)

    async def _connected(self, origin: Origin, loop: asyncio.AbstractEventLoop) -> _Connection:
        """To the first address of the host that is permitted and answers: what a name leads to may change at any time."""
        tls = self._tls_context() if origin.scheme == "https" else None
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        addresses = [str(place[0]) for *_, place in found]
        failure = OSError(f"{', '.join(addresses) or 'no address'}: not permitted")
        for address in filter(self._permits, addresses):
            try:
                _, connection = await loop.create_connection(
                    lambda: _Connection(self, origin),
                    address,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
            except OSError as error:
                failure = error
            else:
                return connection
        try:
            raise failure
        finally:
            del failure  # or it would hold, by its traceback, the frame that holds it

    def _out_of_room(self, error: Exception) -> Unavailable:
        """No fault of an engine's, whom nobody asked. Connections that are kept for later make room for the next ones."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
        hint = "raise the limit of open files of the service (ulimit -n, LimitNOFILE=), or lower max_connections"
        _log.error("no_room_for_connections", error=str(error), hint=hint)
        return Unavailable("The service has no room for another connection right now.", hint=hint, retry_after_s=1.0)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def give_back(self, connection: _Connection) -> None:
        idle = self._idle.get(connection.origin)
        if idle is None:
            idle = self._idle[connection.origin] = deque()
        if len(idle) >= _MAX_IDLE:
            connection.close()
        else:
            connection.idle_since_s = self.now_s
            connection.kept = True
            idle.append(connection)

    def retry_fresh(self, origin: Origin, exchange: Exchange) -> None:
        """A kept connection turned out to be closed before it gave a byte: the same request on a new one."""
        self._connect(origin, exchange)


class Exchange:
    """One request and its answer. At most one coroutine waits on it at a time.

    After `head()`, call `read()` until it gives b"", or `each()` until it gives True, or `read_all()`
    once. `abort()` may be called at any moment, from a callback too: the connection is closed at once, which is how engines
    learn that nobody listens.
    """

    __slots__ = (
        "_buffered",
        "_chunks",
        "_complete",
        "_connection",
        "_error",
        "_limit_bytes",
        "_paused",
        "_phase",
        "_pool",
        "_since_s",
        "_started_s",
        "_taker",
        "_waiter",
        "connecting",
        "headers",
        "loop",
        "owner",
        "request",
        "status",
        "timeouts",
    )

    def __init__(
        self, pool: HttpTransport, loop: asyncio.AbstractEventLoop, timeouts: Timeouts, request: bytes, owner: str
    ) -> None:
        self.loop = loop
        self.owner = owner
        self.timeouts = timeouts
        self.request = request
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.connecting: asyncio.Task[None] | None = None
        self._pool = pool
        self._connection: _Connection | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._limit_bytes: int | None = None
        self._paused = False
        self._complete = False
        self._error: LlmaasError | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._taker: Callable[[bytes], bool] | None = None
        self._phase: Phase = "connect"
        self._started_s = self._since_s = pool.now_s

    @property
    def over(self) -> bool:
        return self._complete or self._error is not None

    @property
    def broken(self) -> LlmaasError | None:
        """What ended it before its answer was complete."""
        return self._error

    def rest(self) -> bytes:
        """What had come of the body, and was not read, when it broke off."""
        return b"".join(self._chunks)

    async def head(self) -> int:
        """Wait for the status line and headers; gives the status. Raises EngineFailed, EngineTimeout, or what `abort` was given."""
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._news()
        return self.status

    async def read(self) -> bytes:
        """All bytes of the body that are there, or the next ones; b"" at the end of a complete answer. Raises like `head`."""
        while not self._chunks:
            if self._error is not None:
                raise self._error
            if self._complete:
                return b""
            await self._news()
        return self._take()

    async def peek(self, least: int) -> bytes:
        """What has come of the body, which stays to be read: so many bytes at least, or all of it. Raises like `head`."""
        while self._buffered < least and not self._complete:
            if self._error is not None:
                raise self._error
            await self._news()
        return b"".join(self._chunks)

    async def each(self, take: Callable[[bytes], bool]) -> bool:
        """Hand over what is there, and then what comes, packet by packet and at once: waking a task for each would cost more
        than all else that an event of a stream costs. Until `take` gives False, or to the end of a complete answer; says
        whether that is reached. Raises like `head`, and what `take` raises.
        """
        while True:
            if self._chunks and not take(self._take()):
                return False
            if self._error is not None:
                raise self._error
            if self._complete:
                return True
            self._taker = take
            try:
                if not await self._news():
                    return False
            finally:
                self._taker = None

    async def read_all(self, limit_bytes: int) -> bytes:
        """The whole body. EngineFailed when it is longer than the limit."""
        self._limit_bytes = limit_bytes
        if self._paused:
            self._resume()
        while not self._complete:
            if self._error is not None:
                raise self._error
            await self._news()
        if self._buffered > limit_bytes:
            raise _too_long()
        return self._take()

    def abort(self, error: LlmaasError) -> None:
        """End the exchange now. Whoever waits gets `error`. When it is over already, its connection carries no other if the answer
        was wrong.
        """
        if self.over:
            if self._connection is not None and isinstance(error, EngineError):
                self._connection.distrust()
            return
        if self.connecting is not None and self._connection is None:
            self.connecting.cancel()
        self.fail(error)

    def expect_end(self) -> None:
        """All that is wanted has come: the answer has to end by itself now, or its connection is closed."""
        if not self.over:
            self.loop.call_later(_LAST_S, self.fail, EngineFailed("The engine went on after its end."))

    def fail(self, error: LlmaasError) -> None:
        if self.over:
            return
        self._error = error
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._pool.ended(self)
        self._wake()

    def check_limits(self, now_s: float) -> None:
        """Give up when one of the time limits is over. Times are those of a slow clock, hence the grace."""
        now_s -= _SWEEP_S
        if now_s - self._started_s > self.timeouts.total_s:
            # What waits here to be read is there: then its reader is late, and not its engine.
            late = self._waiter is None and self._buffered > 0
            slow = EngineTimeout("The engine took too long to answer.", phase="total")
            self.abort(ClientGone("The caller read too slowly.") if late else slow)
        elif self._phase == "connect":
            if now_s - self._since_s > self.timeouts.connect_s:
                self.abort(_out_of_reach())
        elif self._waiter is not None:
            # While nobody waits (a slow reader holds us back), the engine is not the one to blame.
            first = self._phase == "first_byte"
            if now_s - self._since_s > (self.timeouts.first_byte_s if first else self.timeouts.between_chunks_s):
                self.abort(EngineTimeout("The engine took too long to answer.", phase=self._phase))

    # What follows is called by the connection.

    def attached(self, connection: _Connection) -> None:
        self._connection = connection
        self._phase = "first_byte"
        self._since_s = self._pool.now_s

    def waited_s(self) -> float:
        """For how long somebody waits for the first byte."""
        return self.loop.time() - self._since_s

    def detached(self) -> None:
        """The connection is lost, and another one is tried."""
        self._connection = None

    def head_arrived(self, status: int, headers: dict[bytes, bytes]) -> None:
        self.status = status
        self.headers = headers
        self._wake()

    def body_arrived(self, data: bytes) -> bool:
        """Take what a packet had of the body; False when enough is waiting for now."""
        take, waiter = self._taker, self._waiter
        if take is not None and waiter is not None and not waiter.done():
            self._phase = "between_chunks"
            self._since_s = self._pool.now_s
            try:
                if not take(data) and not waiter.done():
                    waiter.set_result(False)
            except Exception as error:  # noqa: BLE001 - it belongs to the one who waits
                if not waiter.done():  # it is when the answer was given up meanwhile
                    waiter.set_exception(error)
            return True
        self._chunks.append(data)
        self._buffered += len(data)
        if self._limit_bytes is None:
            self._wake()
            self._paused = self._buffered > _HIGH_WATER_BYTES
            return not self._paused
        self._phase = "between_chunks"
        self._since_s = self._pool.now_s
        if self._buffered > self._limit_bytes:
            self.fail(_too_long())
        elif len(self._chunks) > _MANY_PARTS and self._buffered < len(self._chunks) * _SMALL_PART_BYTES:
            self.fail(EngineFailed("The engine's answer comes in too many small pieces."))
        return True

    def completed(self, last: bytes = b"") -> None:
        """`last`: what is left of the body."""
        if last:
            self._chunks.append(last)
            self._buffered += len(last)
        self._complete = True
        self._pool.ended(self)
        self._wake()

    def _news(self) -> asyncio.Future[bool]:
        """Done when something has come that the one who waits should look at. False: its `take` wants no more."""
        self._since_s = self._pool.now_s
        self._waiter = self.loop.create_future()
        return self._waiter

    def _take(self) -> bytes:
        self._phase = "between_chunks"
        chunks = self._chunks
        data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        self._buffered = 0
        if self._paused:
            self._resume()
        return data

    def _resume(self) -> None:
        self._paused = False
        if self._connection is not None and not self._complete:
            self._connection.resume()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(True)


def _out_of_reach(hint: str | None = None) -> EngineTimeout:
    return EngineTimeout("The engine could not be reached in time.", phase="connect", hint=hint)


def _too_long() -> EngineFailed:
    return EngineFailed("The engine's answer is too long.")


class _Connection(asyncio.Protocol):
    """One TCP or TLS connection, used for one exchange after another."""

    def __init__(self, pool: HttpTransport, origin: Origin) -> None:
        self.origin = origin
        self.owner = ""  # of the last exchange
        self.idle_since_s = 0.0
        self.kept = False  # whether it has waited in the pool, where its end may go unnoticed for a moment
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._body: list[bytes] = []
        self.on_body = self._body.append  # what the parser does with each part of a body
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._paused = False
        self._quiet = True
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._bare_bytes = 0
        self._in_head = True
        self._odd = False  # something about an answer was: the connection is not used again

    def usable(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def has_unread(self) -> bool:
        """Whether something, or its end, has come that the event loop has not passed on yet."""
        if not self.usable():
            return False
        assert self._transport is not None  # noqa: S101 - it is usable
        ready = select.poll()
        ready.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return bool(ready.poll(0))

    def distrust(self) -> None:
        """What it carries now is the last."""
        self._odd = True
        if self._exchange is None:
            self.close()

    def begin(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.owner = exchange.owner
        self._quiet = True
        self._in_head = True
        self._bare_bytes = 0
        exchange.attached(self)
        transport = self._transport
        assert transport is not None  # noqa: S101 - only connected ones are begun
        transport.write(exchange.request)

    def close(self) -> None:
        self._exchange = None
        if self._transport is not None:
            # abort, not close: bytes that nobody will read must not keep the engine busy.
            self._transport.abort()

    def resume(self) -> None:
        self._paused = False
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods but not the base class.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or self._parser is None:
            self.close()  # nobody asked: such a connection can't be trusted with another request
            return
        self._quiet = False
        wrong: Exception | None = None
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            wrong = error
        if self._body:
            self._bare_bytes = 0
            part = self._body.pop() if len(self._body) == 1 else self._taken()
            if self._exchange is exchange and not exchange.body_arrived(part) and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()
        elif self._exchange is exchange:
            self._bare_bytes += len(data)
            if self._bare_bytes > _MAX_BARE_BYTES:
                exchange.fail(
                    EngineFailed("The engine's answer has too large a head, or too much between or behind its parts.")
                )
        if wrong is not None:
            if self._exchange is exchange:
                exchange.fail(EngineFailed("The engine's answer is not valid HTTP.", hint=str(wrong)))
            else:
                self.close()  # bytes after the end of the answer
            return

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        exchange, self._exchange = self._exchange, None
        self._parser = None  # it knows us: a cycle
        if exchange is None or exchange.over:
            return
        if self.kept and self._quiet and exchange.waited_s() < _STALE_S:
            exchange.detached()
            self._pool.retry_fresh(self.origin, exchange)
        elif not self._in_head and error is None and _ends_with_connection(exchange.headers):
            exchange.completed()
        else:
            exchange.fail(
                EngineFailed("The engine closed the connection before its answer was complete.", hint=str(error or ""))
            )

    # httptools

    def on_message_begin(self) -> None:
        self._headers = {}  # of the answer before there may be trailers
        if self._exchange is None:
            self.close()  # an answer that nobody asked for would be taken for the next one's

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        assert self._parser is not None  # noqa: S101
        status = self._status = self._parser.get_status_code()
        headers, self._headers = self._headers, {}  # trailers are no headers
        if status != 200:
            self._odd = True  # who refuses a request may not have read all of it
            if status < 200:
                return
        exchange = self._exchange
        if exchange is None:
            return
        self._in_head = False
        if (
            b"content-encoding" in headers
            and status == 200
            and _COMPRESSED.search(headers[b"content-encoding"].lower())
        ):
            exchange.fail(EngineFailed("The engine sent a compressed answer, which nobody asked for."))
            return
        exchange.head_arrived(status, headers)

    def on_message_complete(self) -> None:
        if self._status < 200:
            return
        last = self._body.pop() if len(self._body) == 1 else self._taken()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        keep = not self._odd and self._parser is not None and self._parser.should_keep_alive() and self.usable()
        exchange.completed(last)
        if keep:
            if self._paused:
                self.resume()
            self._pool.give_back(self)
        else:
            self.close()

    def _taken(self) -> bytes:
        """All parts of a body that have come in the packet at hand."""
        data = b"".join(self._body)
        self._body.clear()
        return data


def _ends_with_connection(headers: dict[bytes, bytes]) -> bool:
    return b"content-length" not in headers and b"chunked" not in headers.get(b"transfer-encoding", b"").lower()
