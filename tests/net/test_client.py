"""The HTTP transport: kept connections, every framing, broken answers, time-outs of each phase."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from llmaas.domain.addresses import AddressRules
from llmaas.errors import ClientGone, EngineFailed, EngineTimeout, Unavailable, forget_frames
from llmaas.net import client as http
from llmaas.net.client import Exchange, HttpTransport, Origin, Timeouts, build_post
from llmaas.settings import Secret
from tests.fakes.behaviour import Behaviour, Position
from tests.fakes.upstream import FakeUpstream
from tests.ports import free_port
from tests.waiting import until

PATIENT = Timeouts(5, 5, 5, 5)


@pytest.fixture
async def up() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


@pytest.fixture
async def transport() -> AsyncIterator[HttpTransport]:
    made = HttpTransport()
    yield made
    await made.close()


def send(
    transport: HttpTransport, up: FakeUpstream, timeouts: Timeouts = PATIENT, *, stream: bool = False, owner: str = ""
) -> Exchange:
    origin, base = Origin.of(up.base_url)
    body = b'{"model":"fake","messages":[],"stream":%b}' % (b"true" if stream else b"false")
    return transport.send(origin, build_post(origin, base + "/chat/completions", body, None), timeouts, owner)


@contextlib.asynccontextmanager
async def server(
    transport: HttpTransport, speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Origin]:
    """A server that speaks so with each connection; all are over at the end."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        begun.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await speak(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        over.append(writer)

    begun, over = list[asyncio.StreamWriter](), list[asyncio.StreamWriter]()
    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield Origin("http", "127.0.0.1", listening.sockets[0].getsockname()[1])
    await transport.close()
    listening.close()
    await listening.wait_closed()
    await until(lambda: len(over) == len(begun), "all connections are over")


async def whole(exchange: Exchange) -> tuple[int, bytes]:
    return await exchange.head(), await exchange.read_all(2**20)


async def test_connections_are_kept_and_used_again(up: FakeUpstream, transport: HttpTransport) -> None:
    for stream in (False, True, False):
        status, body = await whole(send(transport, up, stream=stream))
        assert (status, b"hello" in body) == (200, True)
    assert [request.connection for request in up.requests] == [1, 1, 1]


async def test_requests_at_once_have_a_connection_each(up: FakeUpstream, transport: HttpTransport) -> None:
    await asyncio.gather(*[whole(send(transport, up)) for _ in range(5)])
    assert up.log.connections == 5
    await asyncio.gather(*[whole(send(transport, up)) for _ in range(5)])
    assert up.log.connections == 5
    await transport.close()
    await up.wait_connections(0)


async def test_a_connection_goes_to_another_project_only_when_it_has_been_silent(
    up: FakeUpstream, transport: HttpTransport
) -> None:
    def used() -> list[int]:
        return [request.connection for request in up.requests]

    await whole(send(transport, up, owner="a"))
    await whole(send(transport, up, owner="b"))
    for owner in ("b", "a", "a", "b"):
        await whole(send(transport, up, owner=owner))
    assert used() == [1, 2, 2, 1, 1, 2]
    silent_at_s = transport.now_s + 0.2
    await until(lambda: transport.now_s > silent_at_s, "both were silent for long enough")
    await whole(send(transport, up, owner="c"))
    assert used()[-1] == 1, "the one that was silent the longest"
    await whole(send(transport, up, owner="c"))
    assert (used()[-1], up.log.connections) == (1, 2)


async def test_what_came_before_a_request_is_written_is_no_answer_to_it(transport: HttpTransport) -> None:
    """However late the event loop looks at it."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        while True:
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % len(writers))

    writers: list[asyncio.StreamWriter] = []
    async with server(transport, speak) as origin:
        request = build_post(origin, "/", b"{}", None)
        assert await whole(transport.send(origin, request, PATIENT, "a")) == (200, b"1")
        silent_at_s = transport.now_s + 0.2
        await until(lambda: transport.now_s > silent_at_s, "it was silent for long enough")
        with socket.socket(fileno=os.dup(writers[0].get_extra_info("socket").fileno())) as copy:
            copy.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n!")  # the loop has no turn before the next line
            exchange = transport.send(origin, request, PATIENT, "b")
        assert await whole(exchange) == (200, b"2")


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(status=400, body=b"{}"),
        Behaviour(status=429, body=b"{}"),
        Behaviour(status=201, body=b"{}"),
        Behaviour(raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
    ],
    ids=["400", "429", "201", "interim"],
)
async def test_a_connection_whose_answer_was_odd_carries_no_other(
    up: FakeUpstream, transport: HttpTransport, behaviour: Behaviour
) -> None:
    up.script(behaviour)
    await whole(send(transport, up))
    await up.wait_connections(0)
    await whole(send(transport, up))
    assert [request.connection for request in up.requests] == [1, 2]


async def test_a_connection_whose_answer_was_wrong_carries_no_other(up: FakeUpstream, transport: HttpTransport) -> None:
    exchange = send(transport, up)
    await whole(exchange)
    exchange.abort(ClientGone("The caller hung up."))
    same = send(transport, up)
    await whole(same)
    same.abort(EngineFailed("The engine's answer has no choices."))
    await up.wait_connections(0)
    before = send(transport, up)
    await whole(before)
    now = send(transport, up)
    before.abort(EngineFailed("The engine's answer has no choices."))
    assert (await whole(now))[0] == 200, "what is under way is not cut"
    await up.wait_connections(0)
    assert [request.connection for request in up.requests] == [1, 1, 2, 2]


@pytest.mark.parametrize("end", ["", "0\r\n\r\n"])
async def test_an_answer_that_is_had_has_to_end(transport: HttpTransport, end: str) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n")
        await had.wait()
        writer.write(end.encode())
        await reader.readuntil(b"{}")  # until it is closed, or used again

    had = asyncio.Event()
    async with server(transport, speak) as origin:
        request = build_post(origin, "/", b"{}", None)
        exchange = transport.send(origin, request, PATIENT)
        assert await exchange.read() == b"ok"
        exchange.expect_end()
        had.set()
        if end:
            assert await exchange.read() == b""
            before_s = transport.now_s
            await until(lambda: transport.now_s > before_s + 0.3, "its time to end is over")
            assert [c.usable() for c in transport._idle[origin]] == [True]  # noqa: SLF001
        else:
            with pytest.raises(EngineFailed, match="after its end"):
                await exchange.read()
            assert origin not in transport._idle  # noqa: SLF001


@pytest.mark.parametrize("how", ["fin", "rst"])
async def test_a_connection_that_went_stale_costs_nothing(up: FakeUpstream, transport: HttpTransport, how: str) -> None:
    up.script(Behaviour(next_request="fin" if how == "fin" else "rst"))
    await whole(send(transport, up))
    assert (await whole(send(transport, up)))[0] == 200
    assert (up.log.dropped, [request.connection for request in up.requests]) == (1, [1, 2])


async def test_F04_a_request_that_was_worked_on_is_not_sent_twice(transport: HttpTransport) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"{}")
            asked.append(len(asked))
            if len(asked) == 2:
                await tired.wait()
                return
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1")

    asked, tired = list[int](), asyncio.Event()
    async with server(transport, speak) as origin:
        request = build_post(origin, "/", b"{}", None)
        assert await whole(transport.send(origin, request, PATIENT)) == (200, b"1")
        head = asyncio.ensure_future(transport.send(origin, request, PATIENT).head())
        worked_at_s = transport.now_s + 1.2
        await until(lambda: len(asked) == 2 and transport.now_s > worked_at_s, "the engine has worked for a while")
        tired.set()
        with pytest.raises(EngineFailed, match="closed the connection"):
            await head
        assert len(asked) == 2
        assert await whole(transport.send(origin, request, PATIENT)) == (200, b"1")


async def test_a_new_connection_that_breaks_is_not_tried_again(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(cut_at="before_head"))
    with pytest.raises(EngineFailed):
        await whole(send(transport, up))
    assert len(up.requests) == 1


async def test_closed_while_idle(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(close="silent"))
    await whole(send(transport, up))
    await up.wait_connections(0)
    assert (await whole(send(transport, up)))[0] == 200
    assert up.log.connections == 2


@pytest.mark.parametrize(
    "behaviour",
    [Behaviour(close="announced"), Behaviour(framing="close"), Behaviour(extra_after=b"HTTP/1.1 200 OK\r\n\r\n")],
)
async def test_connections_that_are_not_to_be_used_again(
    up: FakeUpstream, transport: HttpTransport, behaviour: Behaviour
) -> None:
    up.script(behaviour)
    status, body = await whole(send(transport, up))
    assert (status, body.endswith(b"}")) == (200, True)
    await up.wait_connections(0)
    assert (await whole(send(transport, up)))[0] == 200


@pytest.mark.parametrize(
    "behaviour", [Behaviour(), Behaviour(framing="chunked"), Behaviour(framing="length"), Behaviour(framing="close")]
)
@pytest.mark.parametrize("slices", [0, 3])
@pytest.mark.parametrize("stream", [False, True])
async def test_every_framing(
    up: FakeUpstream, transport: HttpTransport, behaviour: Behaviour, slices: int, stream: bool
) -> None:
    plain = await whole(send(transport, up, stream=stream))
    values = {name: getattr(behaviour, name) for name in behaviour.__struct_fields__}
    up.script(Behaviour(**{**values, "slice_bytes": slices}))
    other = await whole(send(transport, up, stream=stream))
    assert other[0] == plain[0]
    assert other[1].replace(b"fake-2", b"fake-1") == plain[1]


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(framing="length", length_delta=10, close="silent"),
        Behaviour(gzip=True),
        *(Behaviour(headers=(("content-encoding", coding),)) for coding in ("br", "Zstd", "deflate", "x-gzip")),
        Behaviour(cut_at="after_head"),
        Behaviour(cut_at=2),
        Behaviour(cut_at=2, cut="rst"),
        Behaviour(cut_at="before_head", cut="rst"),
        Behaviour(raw=b"SSH-2.0-OpenSSH_9.6\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n"),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000),
        Behaviour(raw=b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 20_000),
        Behaviour(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000, close="silent"),
        Behaviour(raw=b"", close="silent"),
    ],
    ids=lambda behaviour: str(behaviour)[10:60],
)
async def test_broken_answers_are_failures(up: FakeUpstream, transport: HttpTransport, behaviour: Behaviour) -> None:
    up.script(behaviour)
    with pytest.raises(EngineFailed):
        await whole(send(transport, up))
    await up.wait_connections(0)
    assert (await whole(send(transport, up)))[0] == 200, "the next one is not hurt"


async def test_interim_answers_are_passed_over(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(
        Behaviour(raw=b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    )
    assert await whole(send(transport, up)) == (200, b"ok")


@pytest.mark.parametrize("coding", ["utf-8", "identity", "", "none", "chunked"])
async def test_a_word_that_compresses_nothing_changes_nothing(
    up: FakeUpstream, transport: HttpTransport, coding: str
) -> None:
    up.script(Behaviour(headers=(("content-encoding", coding),)))
    status, body = await whole(send(transport, up))
    assert (status, b"hello" in body) == (200, True)


async def test_trailers_are_no_headers(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(
        Behaviour(
            raw=b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n"
            b"content-type: text/html\r\nretry-after: 9\r\n\r\n"
        )
    )
    exchange = send(transport, up)
    assert await whole(exchange) == (200, b"ok")
    assert exchange.headers == {b"content-type": b"a/b", b"transfer-encoding": b"chunked"}
    following = send(transport, up)
    await whole(following)
    assert b"retry-after" not in following.headers, "nor those of the next answer"
    assert [request.connection for request in up.requests] == [1, 1]


async def test_redirects_are_not_followed(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(status=307, headers=(("location", f"{up.url}/v1/chat/completions"),), body=b""))
    assert await whole(send(transport, up)) == (307, b"")
    assert len(up.requests) == 1


async def test_an_answer_that_is_too_long(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(tokens=10_000))
    exchange = send(transport, up)
    await exchange.head()
    with pytest.raises(EngineFailed, match="too long"):
        await exchange.read_all(1000)
    await up.wait_connections(0)


@pytest.mark.parametrize("moment", ["before_head", "after_head", 1])
async def test_abort_in_any_phase_ends_the_connection(
    up: FakeUpstream, transport: HttpTransport, moment: Position
) -> None:
    up.script(Behaviour(pause_at=(moment,)))
    exchange = send(transport, up, stream=True)
    reading = asyncio.create_task(whole(exchange))
    await up.wait_paused()
    exchange.abort(ClientGone("gone"))
    with pytest.raises(ClientGone):
        await reading
    await up.wait_cancelled(timeout_s=1)
    await up.wait_connections(0)


@pytest.mark.parametrize(
    ("moment", "timeouts", "phase"),
    [
        ("before_head", Timeouts(5, 0.1, 5, 5), "first_byte"),
        ("after_head", Timeouts(5, 0.1, 5, 5), "first_byte"),
        (2, Timeouts(5, 5, 0.1, 5), "between_chunks"),
        ("before_head", Timeouts(5, 5, 5, 0.1), "total"),
        (2, Timeouts(5, 5, 5, 0.1), "total"),
    ],
    ids=str,
)
async def test_time_outs(
    up: FakeUpstream, transport: HttpTransport, moment: Position, timeouts: Timeouts, phase: str
) -> None:
    up.script(Behaviour(pause_at=(moment,)))
    with pytest.raises(EngineTimeout) as caught:
        await whole(send(transport, up, timeouts, stream=True))
    assert caught.value.phase == phase
    await up.wait_cancelled(timeout_s=1)


async def test_total_holds_while_something_always_comes(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(tokens=1000, chunk_pause_ms=5))
    with pytest.raises(EngineTimeout) as caught:
        await whole(send(transport, up, Timeouts(5, 5, 5, 0.2), stream=True))
    assert caught.value.phase == "total"


@pytest.fixture
def deaf() -> Iterator[str]:
    """A listener whose queue is full: connections to it neither succeed nor fail."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    waiting = []
    for _ in range(3):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", port))
        waiting.append(sock)
    yield f"http://127.0.0.1:{port}"
    for sock in (*waiting, listener):
        sock.close()


async def test_a_connection_that_does_not_come_about(transport: HttpTransport, deaf: str) -> None:
    origin, _ = Origin.of(deaf)
    exchange = transport.send(origin, b"", Timeouts(0.1, 5, 5, 5))
    with pytest.raises(EngineTimeout, match="in time") as caught:
        await exchange.head()
    assert caught.value.phase == "connect"


async def test_nobody_there(transport: HttpTransport) -> None:
    origin, _ = Origin.of("http://127.0.0.1:9")
    with pytest.raises(EngineFailed, match="could not be reached"):
        await transport.send(origin, b"", PATIENT).head()


async def test_a_slow_reader_holds_the_engine_back_and_blames_nobody(
    up: FakeUpstream, transport: HttpTransport
) -> None:
    up.script(Behaviour(endless=True))
    exchange = send(transport, up, Timeouts(5, 5, 0.1, 5), stream=True)
    await exchange.head()
    await exchange.read()
    before = -1
    while before != up.last.bytes_sent:  # until the engine can write no more
        before = up.last.bytes_sent
        await asyncio.sleep(0.15)
    assert before < 32 * 2**20
    assert await exchange.read()
    exchange.abort(ClientGone("gone"))
    await up.wait_cancelled(timeout_s=1)


@pytest.mark.parametrize(
    "behaviour", [Behaviour(), Behaviour(burst=True), Behaviour(framing="close"), Behaviour(slice_bytes=7)]
)
async def test_each_part_comes_once_and_in_order(
    up: FakeUpstream, transport: HttpTransport, behaviour: Behaviour
) -> None:
    up.script(behaviour, behaviour)
    _, expected = await whole(send(transport, up, stream=True))
    exchange = send(transport, up, stream=True)
    assert await exchange.head() == 200
    parts: list[bytes] = []

    def take(part: bytes) -> bool:
        parts.append(part)
        return len(parts) % 2 == 0  # wants a pause after every other part

    while not await exchange.each(take):
        await asyncio.sleep(0)
    assert all(parts)
    assert b"".join(parts).count(b"data:") == expected.count(b"data:")
    assert parts[-1].endswith(b"\n\n")
    assert await exchange.each(take), "the end stays the end"


async def test_what_a_taker_raises_reaches_the_one_who_waits(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(pause_at=(2,)))
    exchange = send(transport, up, stream=True)
    await exchange.head()

    parts: list[bytes] = []

    def take(part: bytes) -> bool:
        parts.append(part)
        if len(parts) > 1:
            raise EngineFailed("enough")
        up.release_now()
        return True

    with pytest.raises(EngineFailed, match="enough"):
        await exchange.each(take)
    assert len(parts) == 2
    exchange.abort(ClientGone("gone"))
    await up.wait_cancelled(timeout_s=1)


async def test_an_answer_that_is_given_up_ends_for_its_taker(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(pause_at=(2,)))
    exchange = send(transport, up, stream=True)
    await exchange.head()

    def take(_part: bytes) -> bool:
        asyncio.get_running_loop().call_soon(exchange.abort, ClientGone("gone"))
        return True

    with pytest.raises(ClientGone, match="gone"):
        await exchange.each(take)
    await up.wait_cancelled(timeout_s=1)


async def test_an_engine_that_falls_silent_while_parts_are_taken(up: FakeUpstream, transport: HttpTransport) -> None:
    up.script(Behaviour(pause_at=(2,)))
    exchange = send(transport, up, Timeouts(5, 5, 0.1, 5), stream=True)
    await exchange.head()
    with pytest.raises(EngineTimeout) as caught:
        await exchange.each(lambda _part: True)
    assert caught.value.phase == "between_chunks"


async def test_who_reads_until_the_time_is_over_is_to_blame_for_it(up: FakeUpstream, transport: HttpTransport) -> None:
    """An answer that failed would be free."""
    up.script(Behaviour(endless=True))
    exchange = send(transport, up, Timeouts(5, 5, 5, 0.5), stream=True)
    await exchange.head()
    with pytest.raises(ClientGone):
        while await exchange.read():
            await asyncio.sleep(0.05)
    await up.wait_cancelled(timeout_s=1)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://a:8000/v1/", "a:8000", "/v1"),
        ("https://a/v1", "a", "/v1"),
        ("http://[::1]:8000", "[::1]:8000", ""),
        ("http://A.example:80/x/v1", "a.example", "/x/v1"),
    ],
)
def test_origins(url: str, authority: str, path: str) -> None:
    origin, base = Origin.of(url)
    assert (origin.authority, base) == (authority, path)
    request = build_post(origin, "/p", b"{}", Secret("s3cret"))
    assert request.split(b"\r\n")[:2] == [b"POST /p HTTP/1.1", f"host: {authority}".encode()]
    assert b"authorization: Bearer s3cret\r\n" in request


async def test_unused_connections_are_closed_after_a_while(
    up: FakeUpstream, transport: HttpTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_IDLE_S", 0.1)
    await whole(send(transport, up))
    await up.wait_connections(0)
    assert (await whole(send(transport, up)))[0] == 200
    assert up.log.connections == 2


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (CHUNKED + b"0\r\nx: ", b"y" * 1000),
        (CHUNKED + b"0\r\n", b"x: y\r\n" * 100),
        (CHUNKED + b"1;", b"x" * 1000),
        (CHUNKED, b"0" * 1000),
        (b"HTTP/1.1 200 OK\r\nx: ", b"y" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 900000\r\n\r\n", None),
    ],
    ids=["trailer", "trailers", "extension", "length", "header", "interim answers", "crumbs"],
)
async def test_A19_an_engine_whose_answer_is_all_framing_is_given_up(
    transport: HttpTransport, begins: bytes, goes_on: bytes | None
) -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.set_write_buffer_limits(0)
        writer.write(begins)
        with contextlib.suppress(ConnectionError):
            for _ in range(2_000 if goes_on else 40_000):
                writer.write(goes_on or b"xy")
                await writer.drain()
                await asyncio.sleep(0)
            await reader.read()
        gone.set()
        writer.close()

    gone = asyncio.Event()
    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    origin = Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1])
    exchange = transport.send(origin, build_post(origin, "/", b"{}", None), Timeouts(5, 20, 20, 20))
    with pytest.raises(EngineFailed, match=r"too (much|many|large)"):
        await whole(exchange)
    await asyncio.wait_for(gone.wait(), 5)
    server.close()
    await server.wait_closed()


async def test_A23_an_engine_is_not_to_blame_when_we_have_no_file_left(
    up: FakeUpstream, transport: HttpTransport
) -> None:
    assert (await whole(send(transport, up)))[0] == 200
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    begun = [send(transport, up) for _ in range(2)]  # one takes the connection that is kept, one needs another
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # the standard ones
    try:
        with pytest.raises(Unavailable, match="no room") as caught:
            await begun[1].head()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert caught.value.retry_after_s
    assert "max_connections" in (caught.value.hint or "")
    assert (await whole(begun[0]))[0] == 200
    assert (await whole(send(transport, up)))[0] == 200


@pytest.mark.parametrize("denied", [["127.0.0.0/8", "::1/128"], ["127.0.0.0/8"]])
async def test_A07_a_name_that_leads_to_a_denied_address_is_not_connected(up: FakeUpstream, denied: list[str]) -> None:
    transport = HttpTransport(AddressRules(denied).permits)
    origin = Origin("http", "localhost", Origin.of(up.base_url)[0].port)
    exchange = transport.send(origin, build_post(origin, "/v1/chat/completions", b"{}", None), PATIENT)
    with pytest.raises(EngineFailed):
        await exchange.head()
    await transport.close()
    assert up.log.connections == 0


async def test_A07_of_several_addresses_a_permitted_one_is_taken(up: FakeUpstream) -> None:
    transport = HttpTransport(AddressRules(["::/0"]).permits)
    origin = Origin("http", "localhost", Origin.of(up.base_url)[0].port)
    body = b'{"model":"fake","messages":[]}'
    status, _ = await whole(transport.send(origin, build_post(origin, "/v1/chat/completions", body, None), PATIENT))
    await transport.close()
    assert status == 200


async def test_an_exchange_without_a_connection_is_let_go_of(transport: HttpTransport) -> None:
    """With its request, and not only when somebody searches for garbage."""
    origin = Origin("http", "127.0.0.1", free_port())
    gc.collect()
    gc.disable()
    try:
        exchange = transport.send(origin, build_post(origin, "/", b"{}", None), PATIENT)
        try:
            await exchange.head()
        except EngineFailed as error:
            forget_frames(error)
        del exchange
        await until(lambda: not transport._connecting, "the attempt is over")  # noqa: SLF001
        assert not [one for one in gc.get_objects() if type(one) is Exchange]
    finally:
        gc.enable()
