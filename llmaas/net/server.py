"""The HTTP/1.1 server: `asyncio.Protocol` on llhttp (httptools), which decides what is a request; here is what becomes of it.

One task for each connection, one write for each answer. It exists because a server behind an ASGI or RSGI border costs as
much per request as everything else here together (docs/architecture.md has the figures). TLS is a proxy's job.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from email.utils import formatdate
from http import HTTPStatus
from itertools import chain
from typing import cast
from urllib.parse import unquote_to_bytes

import httptools
import structlog

from llmaas.domain.addresses import Proxies
from llmaas.errors import InvalidRequest, Saturated
from llmaas.net.bodies import SMALL_BYTES, Bodies
from llmaas.net.channel import Header

_MAX_HEAD_BYTES = 64 * 1024
_LARGE_READ_BYTES = _MAX_HEAD_BYTES // 2
_MAX_HEADERS = 100
_BEHIND_AUTHORITY = re.compile(rb"[/?]")
_MAX_BUFFERED_BYTES = 256 * 1024
_MAX_WAITING_BYTES = 32 * 1024
_MOST_WAITING = 8
"""Requests that may wait for the one before them while reading goes on: a hang-up is heard by reading only."""
_MOST_IN_A_PACKET = 256
_MAX_FRAMING_BYTES = 8 * 1024
_CHUNK_FRAMING_BYTES = 32
"""What a chunk may have around it: its length, which some write with leading zeros, and a short extension."""
_HEAD_S = 30.0
_IDLE_S = 75.0
_GRACE_S = 30.0
"""Also the time in which a body has to come whole from who has no key that we know."""
_LEAST_BYTES_PER_S = 1024
"""Who sends a body or reads an answer more slowly than this, from one look after such a time to the next, is cut off."""
_LINGER_S = 2.0
_SWEEP_S = 1.0
_LATE_SWEEPS = 5
_CHANNEL_BYTES = 1024
_HEADER_BYTES = 128
_PIECE_BYTES = 48
"""What a request, a header of it and a part of its body take beside their text."""
_LOOKS_FOR_A_SHARE = 4
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_EVENTS = b"text/event-stream"
_COMMENT = b": ping\n\n"
_RESET_LOOKS_S = (0.01, 0.1, 0.5)
_MALFORMED = b'{"error":{"message":"%b","type":"invalid_request_error","param":null,"code":null}}'
_TOO_LARGE = b"The head of the request is too large."
_FULL = b'{"error":{"message":"Too many connections.","type":"server_error","param":null,"code":"saturated"}}'
_STATUS_LINES = {s.value: b"HTTP/1.1 %d %b\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}

_log: structlog.stdlib.BoundLogger = structlog.get_logger("llmaas.web")

Handle = Callable[["HttpChannel"], Awaitable[None]]


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; several processes may have one each, and share what comes. Raises OSError."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


class HttpServer:
    """`handle` gives an answer through the channel; whatever it raises ends the connection. `proxies`: who stands in front."""

    def __init__(
        self,
        handle: Handle,
        proxies: Proxies | None = None,
        *,
        most_connections: int | None = None,
        bodies: Bodies | None = None,
        knows: Callable[[HttpChannel], bool] = lambda _channel: True,
    ) -> None:
        """`knows`: whether a request under way is of a known caller, who has more time for a body, and is the last to be given up
        when there is no room.
        """
        self.handle = handle
        self.knows = knows
        self.proxies = proxies or Proxies()
        self.bodies = bodies or Bodies()
        self._most_connections = most_connections
        self._came = 0
        self._read_bytes = 0
        self._vain_look_s = -1.0
        self.connections: set[HttpConnection] = set()
        self.stopping = False
        self.date = b""
        self.now_s = 0.0
        self._quiet = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, listener: socket.socket) -> None:
        """Take connections from a bound socket."""
        loop = asyncio.get_running_loop()
        self._sweep(loop)
        self._server = await loop.create_server(lambda: HttpConnection(self, loop), sock=listener, backlog=1024)

    async def take(self, connection: socket.socket) -> None:
        """Serve a connection that was accepted elsewhere."""
        connection.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(lambda: HttpConnection(self, loop), connection)

    async def stop(self, within_s: float) -> None:
        """Take no more connections and end those that wait for a request; answers under way, and what callers have not taken of
        those that are complete, have so long.
        """
        self.stopping = True
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.end_if_idle()
        if self._unfinished():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._quiet.wait(), within_s)
        unfinished = [connection.task for connection in self.connections if connection.busy and connection.task]
        for connection in list(self.connections):
            connection.abort()
        for task in unfinished:
            task.cancel()
        await asyncio.gather(*unfinished, return_exceptions=True)
        if self._sweeper is not None:
            self._sweeper.cancel()

    def hurry(self, within_s: float) -> None:
        """A stop, under way or to come, waits so long from now on at most."""
        asyncio.get_running_loop().call_later(within_s, self._quiet.set)

    def take_in(self, newcomer: HttpConnection) -> bool:
        """Whether there is room for it. Where there is none, those go that wait for a request, first the ones that never had
        an answer, then the ones that wait longest: several at once, since looking for them takes a look at all. Where none
        waits, those go whose callers we do not know and wait for, first of the address that has most of them.
        """
        if newcomer.loop.time() - self.now_s > _LATE_SWEEPS * _SWEEP_S:
            self._sweep(newcomer.loop)  # there was no memory for its timer
        self._came += 1
        newcomer.number = self._came  # the clock is slow, and many come between two of its ticks
        self.connections.add(newcomer)
        most = self._most_connections
        if most is None or len(self.connections) <= most:
            return True
        idle = [one for one in self.connections if one is not newcomer and not one.busy and not one.holds_back]
        idle.sort(key=lambda one: (one.served, one.since_s, one.number))
        leaving = idle or self._dawdlers(newcomer)
        for one in leaving[: 1 + most // 16]:
            self.connections.discard(one)
            one.abort()
        return bool(leaving)

    def _dawdlers(self, newcomer: HttpConnection) -> list[HttpConnection]:
        """Of whom we do not know. Looking costs too much to do it for each of many who come in vain."""
        if self._vain_look_s == self.now_s:
            return []
        found = [one for one in self.connections if one is not newcomer and one.dawdles and not one.is_known()]
        if not found:
            self._vain_look_s = self.now_s
        of_address = Counter(one.address for one in found)
        return sorted(found, key=lambda one: (-of_address[one.address], one.number))

    def note_finished(self) -> None:
        if self.stopping and not self._unfinished():
            self._quiet.set()

    def _unfinished(self) -> bool:
        return any(connection.busy or connection.holds_back for connection in self.connections)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """One timer for all deadlines, and the clock of the connections."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        # First: whatever goes wrong below must not keep the next sweep from coming.
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep, loop)
        self.now_s = loop.time()
        self.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
        _guarded(self.make_room)
        for connection in list(self.connections):
            _guarded(connection.check_deadline, self.now_s)

    def note_large_read(self, loop: asyncio.AbstractEventLoop, size: int) -> None:
        """Much can come between two sweeps."""
        self._read_bytes += size
        if self.bodies.share is not None and self._read_bytes > self.bodies.share // _LOOKS_FOR_A_SHARE:
            self._read_bytes = 0
            loop.call_soon(self.make_room)

    def make_room(self) -> None:
        """Count what connections hold beside large bodies: heads, small bodies, requests that wait, answers that nobody takes.
        What is beyond the budget, or beyond the share of an address, goes with its connections: first those whose request is
        nobody's that we know, and of these the largest, then the oldest.

        Counted from time to time and not as it comes, since each request would have to pay for that.
        """
        most, share = self.bodies.most, self.bodies.share
        if most is None or share is None:
            return
        self._read_bytes = 0
        held = [(size, one) for one in self.connections if (size := one.held_bytes())]
        total = sum(size for size, _ in held)
        if total <= share:
            return
        of_address: dict[str, int] = {}
        for size, one in held:
            of_address[one.holder] = of_address.get(one.holder, 0) + size
        of_address.pop("", None)
        known = {one for _, one in held if one.is_known()}
        held.sort(key=lambda pair: (pair[1] in known, -pair[0], pair[1].number))
        gone = 0
        for size, one in held:
            if total > most or of_address.get(one.holder, 0) > share:
                total -= size
                if one.holder in of_address:
                    of_address[one.holder] -= size
                self.connections.discard(one)
                one.abort()
                gone += 1
        if gone:
            _log.warning(
                "connections_shed", connections=gone, hint="callers held more memory than max_bodies_bytes allows"
            )


class HttpConnection(asyncio.Protocol):
    """Requests of a connection run one after the other; what comes meanwhile waits in `_waiting`, and then reading with it."""

    def __init__(self, server: HttpServer, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.transport: asyncio.Transport
        self.address = ""
        self.proxied = False
        self.write_paused = False
        self.lost = False
        self.served = False
        self.number = 0
        self.task: asyncio.Task[None] | None = None
        self._wanted: asyncio.Future[None] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: list[Header] = []
        self._head_bytes = 0
        self._reads_much = False
        self._framing_bytes = 0
        self._chunks = 0
        self._receiving: HttpChannel | None = None
        self._current: HttpChannel | None = None
        self._waiting: deque[HttpChannel] = deque()
        self._deaf = False
        self.half_closed = False
        self._writable: asyncio.Future[None] | None = None
        self.since_s = server.now_s
        self._mark_bytes = 0
        self._paused_s = 0.0
        self._paused_bytes = 0

    @property
    def heard(self) -> bool:
        """Whether a request, or a part of one, has come since the last answer."""
        return self._head_bytes > 0 or self._current is not None

    @property
    def received_bytes(self) -> int:
        """Of the body that is under way."""
        return 0 if self._receiving is None else self._receiving.received

    def answers(self, channel: HttpChannel) -> bool:
        """Whether that request's turn has come."""
        return self._current is channel

    @property
    def busy(self) -> bool:
        return self._current is not None

    @property
    def holds_back(self) -> bool:
        """Whether its reader has yet to take something."""
        return self.transport.get_write_buffer_size() > 0

    @property
    def holder(self) -> str:
        """The address that answers for what it holds; empty for a proxy, which speaks for many."""
        return "" if self.proxied else self.address

    def is_known(self) -> bool:
        return self._current is not None and self.server.knows(self._current)

    @property
    def dawdles(self) -> bool:
        """Whether we wait for its caller, who sends a body or has an answer to take."""
        return self._receiving is not None or self.holds_back

    def held_bytes(self) -> int:
        """The memory that it takes, about, without large bodies, which are counted for themselves."""
        held = self.transport.get_write_buffer_size()
        if self._receiving is None:
            # What came of a head behind a request in the same packet is not in the number, so it is what it can be at most.
            held += self._head_bytes or (self._url != b"" and self._most_read())
        if self._current is not None:
            held += self._current.held_bytes()
            for channel in self._waiting:
                held += channel.held_bytes()
        return held

    def _most_read(self) -> int:
        return _MAX_HEAD_BYTES if self._reads_much else _LARGE_READ_BYTES

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        self.address = peer[0] if isinstance(peer, tuple) else ""
        self.proxied = self.server.proxies.include(self.address)
        if not self.server.take_in(self):
            self._refuse_room()

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost = self._deaf = True
        # The parser and we hold each other: a large head must not stay until a collector comes.
        del self._parser
        self._url, self._headers = b"", []
        self.server.connections.discard(self)
        if self.server.stopping:
            self.server.note_finished()
        self._forget_waiting()
        self.resume_writing()
        for channel in (self._receiving, self._current):
            if channel is not None:
                channel.hang_up()
        self._receiving = None
        self._wake()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            self._read_later()
            return
        size = len(data)
        receiving = self._receiving
        if receiving is None:
            size_of_head = self._head_bytes = self._head_bytes + size
            had = 0
        else:
            size_of_head = size
            had = receiving.received
        if size_of_head > _LARGE_READ_BYTES:
            self._reads_much = True
            self.server.note_large_read(self.loop, size)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
            return
        except (httptools.HttpParserError, _MalformedError):
            self._refuse(_TOO_LARGE if self._head_is_too_large() else b"This is not a valid HTTP/1.1 request.")
            return
        if self._receiving is None:
            if self._head_bytes > _MAX_HEAD_BYTES:
                self._refuse(_TOO_LARGE)
        elif self._receiving is receiving and self._is_framing(size - (receiving.received - had)):
            self._refuse(b"The body of the request is all framing.")

    def _read_later(self) -> None:
        """The event loop reads a connection up to 32 times in a row; what is only dropped may not cost others that long."""
        if not self.transport.is_closing():
            self.transport.pause_reading()
            self.loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def _is_framing(self, more_bytes: int) -> bool:
        """Whether too much of the body has come that is neither data nor an honest chunk's. What a chunk leaves of its
        allowance is not saved: nobody may buy a long trailer, which the parser joins anew with each packet, by a long body.
        """
        self._framing_bytes = max(0, self._framing_bytes + more_bytes - _CHUNK_FRAMING_BYTES * self._chunks)
        self._chunks = 0
        return self._framing_bytes > _MAX_FRAMING_BYTES

    def _head_is_too_large(self) -> bool:
        """By what the parser gave: it may have come in one packet, together with what stands before and behind it."""
        return len(self._url) + sum(len(name) + len(value) for name, value in self._headers) > _MAX_HEAD_BYTES

    def eof_received(self) -> bool:
        """The caller sends no more. One that has closed and one that has only shut its sending side down both say just that, so
        we say something that the second one passes over: the kernel of the first one answers with a reset.
        """
        channel = self._current
        if channel is None or channel.over or self._receiving is not None or not channel.asks_whether_gone():
            return False
        self.half_closed = True
        self._look_for_reset()
        return True

    def _look_for_reset(self) -> None:
        for after_s in _RESET_LOOKS_S:
            self.loop.call_later(after_s, self._abort_if_reset)

    def _abort_if_reset(self) -> None:
        """Nothing is read any more, so nothing else tells."""
        if not self.lost:
            peer: socket.socket = self.transport.get_extra_info("socket")
            if peer.fileno() < 0 or peer.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.abort()

    def _ask_again(self) -> None:
        """Who has shut one side down can close the other one later without a word."""
        if self._current is not None and not self._current.over:
            if self._current.asks_whether_gone():
                self._look_for_reset()
            else:
                self.abort()

    def pause_writing(self) -> None:
        self.write_paused = True
        self._paused_s = self.server.now_s
        self._paused_bytes = self.transport.get_write_buffer_size()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    async def writable(self) -> None:
        if self._writable is None:
            self._writable = self.loop.create_future()
        await asyncio.shield(self._writable)

    def caller(self, headers: Sequence[Header]) -> str:
        """Who is behind the proxy that sent this head."""
        said = b",".join(value for name, value in headers if name == b"x-forwarded-for")
        return self.server.proxies.caller(self.address, said.decode("latin-1"))

    # The parser calls the next six, in this order.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))
        if self._receiving is not None and len(self._headers) > _MAX_HEADERS:
            raise _MalformedError  # a trailer

    def on_headers_complete(self) -> None:
        if len(self._headers) > _MAX_HEADERS:
            raise _MalformedError
        # No other head can be too large, and this is cheaper to know.
        if self._reads_much and self._head_is_too_large():
            raise _MalformedError
        if self._parser.should_upgrade():
            return  # the parser stops behind this head
        path, query = _split_target(self._url)
        channel = HttpChannel(self, self._parser, path, query, self._headers)
        self._url = b""
        self._headers = []  # trailers, which are read and dropped (RFC 9110, 6.5.1), then the next head
        self._head_bytes = 0
        self._framing_bytes = 0
        self._chunks = 0
        self.since_s = self.server.now_s
        self._receiving = channel
        if self._current is None:
            self._run(channel)
        else:
            self._waiting.append(channel)
            if len(self._waiting) >= _MOST_WAITING:
                self.transport.pause_reading()
                if len(self._waiting) > _MOST_IN_A_PACKET:
                    raise _MalformedError

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, data: bytes) -> None:
        if self._receiving is not None:  # else it was given up while this packet was read
            self._receiving.feed(data)

    def on_message_complete(self) -> None:
        if self._receiving is None:
            return  # a head that is declined and read again
        channel, self._receiving = self._receiving, None
        channel.feed_end()
        self._headers = []
        if channel.held_back and not self._waiting:
            self.transport.resume_reading()  # or neither another request nor a hang-up would be heard

    def _decline_upgrade(self, rest: bytes) -> None:
        """We speak nothing else, so the request is read again as one that asks for nothing else (RFC 9110, 7.8). Some
        clients offer HTTP/2 with every first request.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self._refuse(b"This is no proxy.")
            return
        if self._current is not None:
            # Who offers one waits for the answer; a packet full of offers would be read again from each of them on.
            self._refuse(b"A connection may be upgraded only while it waits for a request.")
            return
        kept = [b"%b: %b\r\n" % (n, v) for n, v in self._headers if n not in (b"upgrade", b"connection")]
        version = self._parser.get_http_version().encode()
        target, self._parser = self._url, httptools.HttpRequestParser(self)
        self._url, self._headers = b"", []
        self.data_received(b"%b %b HTTP/%b\r\n%b\r\n%b" % (method, target, version, b"".join(kept), rest))

    def check_deadline(self, now_s: float) -> None:
        waited_s = now_s - self.since_s
        receiving = self._receiving
        if self.half_closed:
            self._ask_again()
        if self.write_paused and self._reads_too_slowly(now_s):
            self.abort()
        elif receiving is not None:
            if not receiving.wants_more:  # then it is our handler that is late
                self.since_s, self._mark_bytes = now_s, receiving.received
            elif waited_s > _GRACE_S:
                came = receiving.received - self._mark_bytes
                self.since_s, self._mark_bytes = now_s, receiving.received
                if not _too_slow(came, waited_s) and self.server.knows(receiving):
                    return
                receiving.hang_up()
                self._deaf = True
                if receiving is not self._current:
                    self.abort()
        elif self._current is None and waited_s > (_HEAD_S if self._head_bytes or self._url else _IDLE_S):
            # What its reader has not taken by now would keep a closed connection open.
            (self.transport.abort if self.transport.get_write_buffer_size() else self.transport.close)()

    def _reads_too_slowly(self, now_s: float) -> bool:
        """While writing is paused nothing is added to what waits for the reader."""
        waited_s = now_s - self._paused_s
        if waited_s <= _GRACE_S:
            return False
        left = self.transport.get_write_buffer_size()
        taken = self._paused_bytes - left
        self._paused_s, self._paused_bytes = now_s, left
        return _too_slow(taken, waited_s)

    def end_if_idle(self) -> None:
        if self._current is None:
            self.transport.close()

    def abort(self) -> None:
        self.transport.abort()

    def finished(self, channel: HttpChannel) -> None:
        """The handler is through with a request."""
        self.served = True
        self.since_s = self.server.now_s
        self._current = None
        channel.let_go()
        if self.server.stopping:
            self.server.note_finished()
        if self.lost:
            return
        if not channel.over:
            self.transport.abort()  # a cut-off answer must not look like a whole one
        elif not channel.keep_alive or self._deaf or self.server.stopping:
            self._close(unread=not channel.complete)
        elif self._waiting:
            following = self._waiting.popleft()
            if not self._waiting and not self.half_closed:
                self.transport.resume_reading()
            self._run(following)
        elif self.half_closed:
            self.transport.close()

    def _run(self, channel: HttpChannel) -> None:
        self._current = channel
        if self.task is None:
            self.task = self.loop.create_task(self._answer())
        else:
            self._wake()

    def _forget_waiting(self) -> None:
        for channel in self._waiting:
            channel.let_go()
        self._waiting.clear()

    def _wake(self) -> None:
        wanted, self._wanted = self._wanted, None
        if wanted is not None and not wanted.done():
            wanted.set_result(None)

    async def _answer(self) -> None:
        """One task for all requests of the connection: a task costs several times as much as waking one."""
        try:
            while True:
                channel = self._current
                if channel is None:
                    if self.lost:
                        return
                    self._wanted = self.loop.create_future()
                    await self._wanted
                    continue
                try:
                    await self.server.handle(channel)
                except Exception:  # noqa: BLE001 - the task's edge: the connection must end with it
                    _log.exception("connection_failed")
                finally:
                    self.finished(channel)
                if self._current is not None:
                    await asyncio.sleep(0)  # a packet can hold hundreds of requests, and others wait too
        finally:
            self.task = None
            if self._current is not None:
                self.abort()  # cancelled: nobody is there for what follows

    def give_up_reading(self) -> None:
        """Of a body that is too much. Its handler finds it broken off."""
        self._deaf = True
        receiving, self._receiving = self._receiving, None
        if receiving is not None:
            receiving.hang_up()

    def _refuse(self, message: bytes) -> None:
        """No further request can be made out. An answer under way goes on to its end."""
        self._deaf = True
        receiving, self._receiving = self._receiving, None
        if receiving is not None and receiving is self._current:
            receiving.hang_up()  # its handler finds the body broken off, and may still say so
            return
        self._forget_waiting()
        if self._current is None:
            body = _MALFORMED % message
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            self.transport.write(_STATUS_LINES[400] + self.server.date + head + body)
            self._close(unread=True)

    def _refuse_room(self) -> None:
        """Every other connection has a request under way, and we know its caller or owe an answer."""
        self._deaf = True
        head = b"content-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(_STATUS_LINES[503] + self.server.date + head % len(_FULL) + _FULL)
        self.transport.close()

    def _close(self, *, unread: bool) -> None:
        """Closing with bytes unread would reset the connection and take the answer along, so those are let in for a while."""
        self._deaf = True
        if unread and self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_LINGER_S, self.transport.close)
        else:
            self.transport.close()


class HttpChannel:
    """Implements `web.channel.Channel`."""

    __slots__ = (
        "_begun_with",
        "_broken",
        "_callback",
        "_chunked",
        "_connection",
        "_held_bytes",
        "_holders",
        "_parts",
        "_waiter",
        "address",
        "complete",
        "gone",
        "headers",
        "held_back",
        "keep_alive",
        "method",
        "over",
        "path",
        "pieces",
        "query",
        "raw_headers",
        "received",
        "version",
    )

    def __init__(
        self,
        connection: HttpConnection,
        parser: httptools.HttpRequestParser,
        path: str,
        query: bytes,
        raw_headers: list[Header],
    ) -> None:
        self._connection = connection
        self.method: str = parser.get_method().decode("ascii")
        self.version: str = parser.get_http_version()
        self.path = path
        self.query = query
        self.raw_headers: Sequence[Header] = raw_headers
        self.address = connection.caller(raw_headers) if connection.proxied else connection.address
        self.keep_alive = self.version == "1.1" and parser.should_keep_alive()
        self.complete = False
        self.over = False
        self.gone = False
        self.held_back = False
        self.pieces = 0
        self.received = 0
        self._parts: list[bytes] = []
        self._broken: InvalidRequest | Saturated | None = None
        self._begun_with: Sequence[Header] | None = None
        self._held_bytes = 0
        self._chunked = False
        self._waiter: asyncio.Future[None] | None = None
        self._callback: Callable[[], None] | None = None

    async def part(self) -> bytes | None:
        if not self._parts and not self.complete:
            if self._broken is not None:
                raise self._broken
            await self._wait()
        if not self._parts:
            if self.complete:
                return None
            raise self._broken or _broken_off()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        return data

    def body_at_hand(self) -> bytes | None:
        return self._parts.pop() if self.complete and len(self._parts) == 1 else None

    _holders: tuple[str, ...]
    """Who answers for the bytes that are held; set with the first of them."""

    def expect(self, size: int, key_id: str) -> None:
        if size > SMALL_BYTES:
            self._release()
            self._holders = (self.address, key_id)
            self._connection.server.bodies.hold(self._holders, size)
            self._held_bytes = size

    @property
    def wants_more(self) -> bool:
        """Whether more of the body is read as it comes."""
        return self._waiter is not None or not self.held_back

    def held_bytes(self) -> int:
        headers = self.raw_headers
        held = _CHANNEL_BYTES + _HEADER_BYTES * len(headers) + sum(map(len, chain.from_iterable(headers)))
        return held + self.pieces * _PIECE_BYTES + (0 if self._held_bytes else self.received)

    async def _wait(self) -> None:
        connection = self._connection
        if self.received == 0 and any(name == b"expect" for name, _ in self.raw_headers):
            connection.transport.write(_CONTINUE)
        connection.transport.resume_reading()
        self._waiter = connection.loop.create_future()
        await self._waiter
        self._waiter = None

    def on_gone(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        if self.gone:
            callback()

    async def whole(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        self.over = True
        connection = self._connection
        if not self.gone:
            size = b"" if status == 204 else b"content-length: %d\r\n" % len(body)
            head = self._head(status, headers, size)
            connection.transport.write(head if self.method == "HEAD" else head + body)
            if connection.write_paused:
                await connection.writable()

    async def begin(self, status: int, headers: Sequence[Header], data: bytes) -> None:
        if self.gone:
            return
        self._chunked = self.version == "1.1"
        self._begun_with = headers
        head = self._head(status, headers, b"transfer-encoding: chunked\r\n" if self._chunked else b"")
        connection = self._connection
        connection.transport.write(head + self._framed(data) if data and self.method != "HEAD" else head)
        if connection.write_paused:
            await connection.writable()

    def send(self, data: bytes) -> bool:
        if self.gone:
            return True
        connection = self._connection
        if data and self.method != "HEAD":
            connection.transport.write(b"".join((b"%x\r\n" % len(data), data, b"\r\n")) if self._chunked else data)
        return not connection.write_paused

    async def ready(self) -> None:
        if self._connection.write_paused:
            await self._connection.writable()

    async def end(self, data: bytes) -> None:
        self.over = True
        connection = self._connection
        if not self.gone and self.method != "HEAD":
            last = self._framed(data) if data else b""
            connection.transport.write(last + b"0\r\n\r\n" if self._chunked else last)
            if connection.write_paused:
                await connection.writable()

    def feed(self, data: bytes) -> None:
        self._parts.append(data)
        self.pieces += 1
        received = self.received = self.received + len(data)
        if received > SMALL_BYTES and received > self._held_bytes:
            self._hold_more()
        if self._waiter is not None:
            self._wake()
        elif received > (_MAX_BUFFERED_BYTES if self._connection.answers(self) else _MAX_WAITING_BYTES):
            self.held_back = True
            self._connection.transport.pause_reading()

    def _hold_more(self) -> None:
        """For a body that nobody has announced."""
        if self._held_bytes == 0:
            self._holders = (self.address,)
        try:
            self._connection.server.bodies.hold(self._holders, self.received - self._held_bytes)
            self._held_bytes = self.received
        except Saturated as error:
            self._broken = error
            self._parts.clear()
            self._connection.give_up_reading()

    def feed_end(self) -> None:
        self.complete = True
        self._wake()

    def hang_up(self) -> None:
        """Nothing more comes."""
        self._broken = self._broken or _broken_off()
        self.gone = self._connection.lost
        self._wake()
        if self.gone and self._callback is not None and not self.over:
            self._callback()

    def asks_whether_gone(self) -> bool:
        """Write what changes nothing for a caller who still reads; False where there is no such thing."""
        if self.version != "1.1":
            return False
        if self._begun_with is None:
            self._connection.transport.write(_CONTINUE)  # may come at any time before the answer (RFC 9110, 15.2)
        elif any(name == b"content-type" and value.startswith(_EVENTS) for name, value in self._begun_with):
            self.send(_COMMENT)
        else:
            return False
        return True

    def let_go(self) -> None:
        """Leave no cycle behind: a collector that finds nothing need not run."""
        self._callback = None
        if self._held_bytes:
            self._release()

    def _release(self) -> None:
        if self._held_bytes:
            self._connection.server.bodies.release(self._holders, self._held_bytes)
            self._held_bytes = 0

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _head(self, status: int, headers: Sequence[Header], framing: bytes) -> bytes:
        if not self.complete or (self.version == "1.0" and framing == b""):
            self.keep_alive = False
        server = self._connection.server
        lines = [_STATUS_LINES[status]]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines += (server.date, framing)
        if not self.keep_alive or server.stopping:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


def _guarded(work: Callable[..., None], *values: float) -> None:
    """A part of the sweep; the others are done whatever becomes of it."""
    try:
        work(*values)
    except Exception:  # noqa: BLE001 - memory may be short, or a connection in a state that nobody thought of
        _log.exception("sweep_failed")


def _too_slow(size: int, waited_s: float) -> bool:
    return size < waited_s * _LEAST_BYTES_PER_S


class _MalformedError(Exception):
    """Raised into the parser, which passes it on."""


def _split_target(target: bytes) -> tuple[str, bytes]:
    """The decoded path and the raw query of a request target in origin or absolute form."""
    if not target.startswith(b"/"):
        scheme, found, rest = target.partition(b"://")
        if found and scheme.lower() in (b"http", b"https"):
            behind = _BEHIND_AUTHORITY.search(rest)
            target = b"/" if behind is None else rest[behind.start() :]
            if not target.startswith(b"/"):
                target = b"/" + target
        elif target != b"*":
            raise _MalformedError
    path, _, query = target.partition(b"?")
    path, _, _ = path.partition(b"#")
    # `in` takes ten times as long on bytes: it tries whether it was given a number first, and catches the error.
    if path.partition(b"%")[1]:
        path = unquote_to_bytes(path)
    try:
        return path.decode("utf-8"), query
    except UnicodeDecodeError:
        raise _MalformedError from None


def _broken_off() -> InvalidRequest:
    return InvalidRequest("The body of the request broke off.")
