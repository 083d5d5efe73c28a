"""Our HTTP server over real connections: what it takes, what it refuses, and how connections end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from llmaas.domain.addresses import Proxies
from llmaas.errors import BodyTooLarge, InvalidRequest, Saturated
from llmaas.net.asgi import Message, Receive, Scope, Send, run_asgi
from llmaas.net.bodies import Bodies
from llmaas.net.channel import Channel
from llmaas.net.loop import Loop
from llmaas.net.server import HttpChannel, HttpConnection, HttpServer, listen
from llmaas.web.requests import open_request
from tests.fakes.raw_http import Incomplete, RawConnection
from tests.waiting import until

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"


async def echo(channel: Channel) -> None:
    body = b""
    try:
        while (part := await channel.part()) is not None:
            body += part
    except (InvalidRequest, Saturated) as error:
        await channel.whole(400 if isinstance(error, InvalidRequest) else 503, [], error.message.encode())
        return
    await channel.whole(200, [(b"x-path", channel.path.encode()), (b"x-query", channel.query)], body)


@dataclass
class Running:
    server: HttpServer
    url: str

    def open(self, *, receive_buffer: int | None = None) -> Awaitable[RawConnection]:
        return RawConnection.open(self.url, receive_buffer=receive_buffer)


@asynccontextmanager
async def serving(
    handle: Callable[[Channel], Awaitable[None]] = echo,
    proxies: Proxies | None = None,
    *,
    send_buffer: int | None = None,
    **more: Any,
) -> AsyncIterator[Running]:
    """`send_buffer`: bytes that the kernel keeps of an answer that nobody reads, or as many as it likes."""
    listener = listen("127.0.0.1", 0)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = HttpServer(handle, proxies, **more)
    await server.start(listener)
    try:
        yield Running(server, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        await server.stop(5)


async def test_B13_a_stop_waits_for_readers_of_complete_answers() -> None:
    body = b"x" * 60_000  # more than the kernel's buffers here, less than what makes a handler wait

    async def answer(channel: Channel) -> None:
        await channel.whole(200, [], body)

    listener = listen("127.0.0.1", 0)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    server = HttpServer(answer)
    await server.start(listener)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with await RawConnection.open(url, receive_buffer=2048) as raw:
        await raw.send(GET)
        await until(lambda: any(one.holds_back and not one.busy for one in server.connections), "it is answered")
        stopping = asyncio.create_task(server.stop(10))
        await until(lambda: server.stopping, "it stops")
        assert (await raw.response()).body == body
        await asyncio.wait_for(stopping, 5)


async def test_a_stop_that_hurries_does_not_wait_for_readers() -> None:
    async def answer(channel: Channel) -> None:
        await channel.whole(200, [], b"x" * 10_000_000)

    async with serving(answer) as running, await running.open(receive_buffer=2048) as raw:
        await raw.send(GET)
        await until(lambda: any(one.holds_back for one in running.server.connections), "it is answered")
        stopping = asyncio.create_task(running.server.stop(60))
        running.server.hurry(0.1)
        await asyncio.wait_for(stopping, 5)


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a/b?c=d", "/a/b", "c=d"),
        (b"/a%2Fb%3A%C3%B1", "/a/b:ñ", ""),
        (b"http://other.example/v1/models?x", "/v1/models", "x"),
        (b"http://other.example?x=/v1/models", "/", "x=/v1/models"),
        (b"https://other.example", "/", ""),
        (b"/a#b", "/a", ""),
    ],
)
async def test_a_target_is_decoded_once(target: bytes, path: str, query: str) -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(b"GET " + target + b" HTTP/1.1\r\nhost: h\r\n\r\n")
        answer = await raw.response()
        assert ((answer.header("x-path") or "").encode("latin-1").decode(), answer.header("x-query")) == (path, query)


@pytest.mark.parametrize(
    "attack",
    [
        b"GET example.org HTTP/1.1\r\nhost: h\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n" + b"x: y\r\n" * 101 + b"\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\nx: " + b"y" * 70_000,
        b"GET /" + b"y" * 70_000,
        b"GET /" + b"y" * 100_000 + b" HTTP/1.1\r\nhost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: h\r\n" + (b"x: " + b"y" * 1000 + b"\r\n") * 90 + b"\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_A05_what_is_no_request_is_refused_and_the_connection_ends(attack: bytes) -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(attack)
        assert (await raw.response()).status == 400
        assert await raw.read_to_end() == b""


async def test_an_offered_upgrade_is_passed_over() -> None:
    """Some clients offer HTTP/2 with every first request."""
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n"
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\n" + offer + b"content-length: 5\r\n\r\nhel")
        await raw.send(b"lo")
        assert (await raw.response()).body == b"hello"
        await raw.send(GET)
        assert (await raw.response()).status == 200


async def test_an_upgrade_that_an_old_client_offers_is_passed_over() -> None:
    """HTTP/1.0 needs no `host`, and gets no chunks."""
    async with serving() as running, await running.open() as raw:
        await raw.send(b"GET /x HTTP/1.0\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n")
        answer = await raw.response()
        assert (answer.status, answer.header("x-path")) == (200, "/x")


async def test_A05_trailers_are_no_headers_of_any_request() -> None:
    async def name_headers(channel: Channel) -> None:
        while await channel.part() is not None:
            pass
        await channel.whole(200, [], b",".join(name for name, _ in channel.raw_headers))

    chunked = b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-evil: 1\r\n\r\n"
    async with serving(name_headers) as running, await running.open() as raw:
        await raw.send(chunked + GET)
        assert (await raw.response()).body == b"host,transfer-encoding"
        assert (await raw.response()).body == b"host"


@pytest.mark.parametrize("trailer", [b"x: y\r\n" * 200, b"x: " + b"y" * 600_000], ids=["many", "long"])
async def test_A08_trailers_are_limited_as_heads_are(trailer: bytes) -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n")
        await raw.send(trailer)
        assert (await raw.response()).status == 400


@pytest.mark.parametrize(
    "framing",
    [b"0\r\nx: " + b"y" * 20_000, b"0\r\n" + b"y" * 20_000, b"1;" + b"x" * 20_000, b"0" * 20_000],
    ids=["a trailer's value", "a trailer's name", "an extension", "a length"],
)
@pytest.mark.parametrize("pieces", ["few", "many"])
async def test_A19_what_framing_may_take_does_not_grow_with_the_body(framing: bytes, pieces: str) -> None:
    body = b"%x\r\n%b\r\n" % (2**20, bytes(2**20)) if pieces == "few" else b"40\r\n%b\r\n" % bytes(64) * 4000
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + body)
        await until(lambda: any(one.heard for one in running.server.connections), "the body comes")
        await raw.send(framing, slice_bytes=1000)
        assert (await raw.response()).status == 400


async def test_A19_chunks_with_padded_lengths_and_short_extensions_are_taken() -> None:
    chunk = b"00000040;name=value\r\n" + b"x" * 64 + b"\r\n"
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n")
        await raw.send(chunk * 2000 + b"0\r\nx-checksum: 1\r\n\r\n", slice_bytes=10_000)
        assert (await raw.response()).body == b"x" * 128_000


async def test_A19_a_packet_full_of_requests_lets_others_have_their_turn() -> None:
    """None of them waits for anything, so the loop would be theirs to the last of them."""
    served: list[str] = []

    async def note(channel: Channel) -> None:
        served.append(channel.path)
        await channel.whole(200, [], b"")

    async with serving(note) as running, await running.open() as many, await running.open() as other:
        for raw in (many, other):
            await raw.send(GET)
            await raw.response()
        served.clear()
        await many.send(GET * 200)
        await other.send(b"GET /other HTTP/1.1\r\nhost: h\r\n\r\n")
        assert (await other.response()).status == 200
        for _ in range(200):
            assert (await many.response()).status == 200
    assert served.index("/other") < len(served) - 100


@pytest.mark.parametrize("offer", [b"", b"connection: upgrade\r\nupgrade: h2c\r\n"], ids=["plain", "upgrades"])
async def test_A19_no_client_sends_thousands_of_requests_in_a_packet(offer: bytes) -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(
            b"GET /x HTTP/1.1\r\nhost: h\r\n"
            + offer
            + b"\r\n"
            + GET.replace(b"\r\n\r\n", b"\r\n" + offer + b"\r\n") * 2000
        )
        answers = await raw.read_to_end()
        assert 1 <= answers.count(b"HTTP/1.1 200") < 10
        async with await running.open() as other:
            await other.send(GET)
            assert (await other.response()).status == 200


@pytest.mark.parametrize("streamed", [False, True])
async def test_B05_who_only_shuts_the_sending_side_down_gets_the_whole_answer(*, streamed: bool) -> None:
    go_on, gone = asyncio.Event(), asyncio.Event()

    async def answer(channel: Channel) -> None:
        channel.on_gone(gone.set)
        if streamed:
            await channel.begin(200, [(b"content-type", b"text/event-stream")], b"data: 1\n\n")
        await go_on.wait()
        await (channel.end(b"data: 2\n\n") if streamed else channel.whole(200, [], b"whole"))

    async with serving(answer) as running, await running.open() as raw:
        await raw.send(GET)
        await until(lambda: any(one.busy for one in running.server.connections), "it is heard")
        raw.end_of_request()
        await until(lambda: any(one.half_closed for one in running.server.connections), "the end is heard")
        await asyncio.sleep(0.7)  # longer than it is looked for a reset
        go_on.set()
        answer_ = await raw.response()
        if streamed:
            assert answer_.events() == ["1", "2"]
        else:
            assert answer_.body == b"whole"
        assert await raw.read_to_end() == b""
        assert not gone.is_set()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("first_half", [False, True])
async def test_B05_who_closes_is_gone_at_once_also_after_half_a_close(*, streamed: bool, first_half: bool) -> None:
    gone = asyncio.Event()

    async def answer(channel: Channel) -> None:
        channel.on_gone(gone.set)
        if streamed:
            await channel.begin(200, [(b"content-type", b"text/event-stream")], b"data: 1\n\n")
        await gone.wait()

    async with serving(answer) as running:
        raw = await running.open()
        await raw.send(GET)
        await until(lambda: any(one.busy for one in running.server.connections), "it is heard")
        if first_half:
            raw.end_of_request()
            await until(lambda: any(one.half_closed for one in running.server.connections), "the end is heard")
            assert not gone.is_set()
        await raw.close()
        await asyncio.wait_for(gone.wait(), 2 if first_half else 0.9)


async def test_B05_a_hang_up_is_heard_behind_a_request_that_waits() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def wait(channel: Channel) -> None:
        channel.on_gone(gone.set)
        begun.set()
        await gone.wait()

    async with serving(wait) as running:
        async with await running.open() as raw:
            await raw.send(GET + GET)
            await asyncio.wait_for(begun.wait(), 5)
        await asyncio.wait_for(gone.wait(), 5)


async def test_a_body_in_one_piece_keeps_to_the_limit_too() -> None:
    async def take(channel: Channel) -> None:
        request = open_request(channel, "id", 0, 0.0)
        try:
            body = request.json_body_at_hand(10) or await request.json_body(10)
        except BodyTooLarge:
            body = b"too large"
        await channel.whole(200, [], body)

    head = b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    async with serving(take) as running:
        for body, told in ((b"1234567890", b"1234567890"), (b"12345678901", b"too large")):
            async with await running.open() as raw:
                await raw.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
                assert (await raw.response()).body == told


async def test_B05_a_large_body_that_waits_leaves_the_connection_open_for_more() -> None:
    wanted = asyncio.Event()
    seen: list[HttpChannel] = []

    async def wait_first(channel: Channel) -> None:
        assert isinstance(channel, HttpChannel)
        seen.append(channel)
        await wanted.wait()
        await echo(channel)

    async with serving(wait_first) as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 280000\r\n\r\n" + b"x" * 240_000)
        await until(lambda: bool(seen) and seen[0].received == 240_000, "most of the body is there")
        await raw.send(b"x" * 40_000)
        await until(lambda: seen[0].received > 256 * 1024, "more is there than is kept")
        wanted.set()
        assert len((await raw.response()).body) == 280_000
        await raw.send(GET)
        assert (await raw.response()).status == 200


async def test_a_body_is_asked_for_when_it_is_wanted() -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        assert await raw.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await raw.send(b"ok")
        assert (await raw.response()).body == b"ok"


async def test_a_body_that_nobody_reads_ends_the_connection_after_the_answer() -> None:
    async def refuse(channel: Channel) -> None:
        await channel.whole(401, [], b"no")

    async with serving(refuse) as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 1000000\r\n\r\n" + b"x" * 200_000)
        answer = await raw.response()
        assert (answer.status, answer.header("connection")) == (401, "close")
        assert await raw.read_to_end() == b""


async def test_a_large_body_comes_whole_while_the_handler_is_late() -> None:
    late = asyncio.Event()

    async def wait(channel: Channel) -> None:
        await late.wait()
        await echo(channel)

    body = bytes(range(256)) * 20_000
    async with serving(wait) as running, await running.open() as raw:
        sending = asyncio.create_task(
            raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        )
        await asyncio.sleep(0)
        late.set()
        assert (await raw.response()).body == body
        await sending


async def test_old_clients_get_streams_without_chunks() -> None:
    async def stream(channel: Channel) -> None:
        await channel.begin(200, [], b"one ")
        channel.send(b"two ")
        await channel.end(b"three")

    async with serving(stream) as running, await running.open() as raw:
        await raw.send(b"GET /x HTTP/1.0\r\n\r\n")
        head = await raw.read_until(b"\r\n\r\n")
        assert b"chunked" not in head
        assert b"connection: close" in head
        assert await raw.read_to_end() == b"one two three"


async def test_a_broken_handler_cuts_the_connection_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(channel: Channel) -> None:
        if channel.path == "/broken":
            await channel.begin(200, [], b"half")
            raise RuntimeError("a defect")
        await echo(channel)

    async with serving(broken) as running, await running.open() as raw, await running.open() as other:
        await raw.send(b"GET /broken HTTP/1.1\r\nhost: h\r\n\r\n")
        with pytest.raises(Incomplete):
            await raw.response()
        await other.send(GET)
        assert (await other.response()).status == 200


async def test_A06_slow_heads_and_bodies_have_a_deadline() -> None:
    async with serving() as running, await running.open() as head, await running.open() as body:
        await head.send(b"GET /x HTTP/1.1\r\nho")
        await body.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 100\r\n\r\nx")
        while not all(c.heard for c in running.server.connections) or len(running.server.connections) < 2:
            await asyncio.sleep(0)
        now_s = running.server.now_s
        for connection in list(running.server.connections):
            connection.check_deadline(now_s + 29)
        assert len(running.server.connections) == 2
        for connection in list(running.server.connections):
            connection.check_deadline(now_s + 60)
        assert await head.read_to_end() == b""
        assert (await body.response()).status == 400
        assert await body.read_to_end() == b""


async def test_A23_a_body_that_falls_silent_is_given_up_however_much_came_before() -> None:
    async with serving() as running, await running.open() as raw:
        await raw.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 16000000\r\n\r\n" + bytes(15_900_000))
        (connection,) = running.server.connections
        await until(lambda: connection.received_bytes >= 15_900_000, "it came")
        now_s = running.server.now_s
        connection.check_deadline(now_s + 31)
        connection.check_deadline(now_s + 62)
        assert (await raw.response()).status == 400


async def test_A23_large_bodies_have_room_for_all_and_for_each() -> None:
    go_on = asyncio.Event()

    async def take(channel: Channel) -> None:
        request = open_request(channel, "u", 0, 0.0)
        try:
            await request.json_body(2_000_000, request.path)
            await go_on.wait()
            await channel.whole(200, [], b"")
        except Saturated as error:
            assert error.retry_after_s
            await channel.whole(503, [], b"")

    def post(path: str, size: int) -> bytes:
        return (
            f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n".encode()
            + b" " * size
        )

    async with serving(take, bodies=Bodies(4_000_000)) as running, AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(await running.open()) for _ in range(6)]
        for raw, path in zip(raws, ("/a", "/a"), strict=False):
            await raw.send(post(path, 1_000_000))
        await until(lambda: len(running.server.connections) == 6, "they are there")
        await raws[2].send(post("/a", 500_000))
        assert (await raws[2].response()).status == 503, "half of it, for one"
        await raws[3].send(post("/a", 1_000))
        go_on.set()
        for raw in (raws[0], raws[1], raws[3]):
            assert (await raw.response()).status == 200
        await raws[4].send(post("/a", 1_500_000))
        assert (await raws[4].response()).status == 200, "and what is over is free again"


async def test_A23_a_body_without_a_length_has_no_more_room() -> None:
    async with serving(bodies=Bodies(500_000)) as running, await running.open() as raw:
        head = b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        await raw.send(head + b"40000\r\n%b\r\n" % bytes(0x40000) * 4)
        answer = await raw.response()
        assert (answer.status, answer.body) == (503, b"Too many large requests of yours are under way.")


async def test_A23_connections_beyond_the_limit_take_the_place_of_idle_ones() -> None:
    async with serving(most_connections=10) as running, AsyncExitStack() as stack:
        known = await stack.enter_async_context(await running.open())
        await known.send(GET)
        assert (await known.response()).status == 200
        idle = [await stack.enter_async_context(await running.open()) for _ in range(40)]
        await until(lambda: sum(one.heard for one in running.server.connections) == 0, "they came")
        for raw in idle[-5:]:
            await raw.send(GET)
        for raw in idle[-5:]:
            assert (await raw.response()).status == 200, "who came last stays, also within a moment"
        assert len(running.server.connections) <= 10
        await known.send(GET)
        assert (await known.response()).status == 200, "who had an answer stays longest"


async def test_A23_where_all_are_busy_the_next_one_is_told_so() -> None:
    go_on = asyncio.Event()

    async def wait(channel: Channel) -> None:
        await go_on.wait()
        await channel.whole(200, [], b"")

    async with serving(wait, most_connections=3) as running, AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(await running.open()) for _ in range(3)]
        for raw in busy:
            await raw.send(GET)
        await until(lambda: sum(one.busy for one in running.server.connections) == 3, "they are busy")
        async with await running.open() as late:
            answer = await late.response()
        assert (answer.status, answer.header("retry-after")) == (503, "1")
        go_on.set()
        for raw in busy:
            assert (await raw.response()).status == 200


def has_key(channel: Channel) -> bool:
    return any(name == b"authorization" for name, _ in channel.raw_headers)


KNOWN = b"POST /known HTTP/1.1\r\nhost: h\r\nauthorization: Bearer k\r\ncontent-length: 5000\r\n\r\n" + bytes(4_999)
LARGE_HEAD = b"GET /x HTTP/1.1\r\nhost: h\r\n" + b"".join(b"a%d: %b\r\n" % (n, b"v" * 650) for n in range(90))


@pytest.mark.parametrize(
    "sent",
    [
        LARGE_HEAD,
        GET + LARGE_HEAD[:30_000],
        b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 65536\r\n\r\n" + bytes(65_535),
        b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\n" + (LARGE_HEAD + b"\r\n") * 3,
        b"GET /large HTTP/1.1\r\nhost: h\r\n\r\n" * 3,
        b"POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n" + b"2\r\nxx\r\n" * 4_000,
    ],
    ids=["head", "head behind a request", "small body", "waiting heads", "unread answers", "small pieces"],
)
async def test_A23_what_connections_hold_has_a_budget_and_strangers_go_first(sent: bytes) -> None:
    async def answer(channel: Channel) -> None:
        if channel.path == "/large":
            await channel.whole(200, [], bytes(300_000))
        else:
            await echo(channel)

    bodies = Bodies(2_000_000)
    assert bodies.share == 1_000_000
    async with serving(answer, send_buffer=4096, bodies=bodies, knows=has_key) as running, AsyncExitStack() as stack:
        known = await stack.enter_async_context(await running.open())
        await known.send(KNOWN)
        server = running.server
        for _ in range(60):
            raw = await stack.enter_async_context(await running.open(receive_buffer=4096))
            with contextlib.suppress(ConnectionError):
                await raw.send(sent)
        await until(
            lambda: len(server.connections) < 61 and sum(one.held_bytes() for one in server.connections) <= 1_000_000,
            "the address holds no more than its share",
        )
        assert len(server.connections) > 1, "what fits may stay"
        await known.send(b"x")
        assert (await known.response()).status == 200


async def test_A23_the_sweep_goes_on_whatever_goes_wrong_in_it() -> None:
    asked = 0

    def knows(_channel: Channel) -> bool:
        nonlocal asked
        asked += 1
        if asked <= 2:
            raise MemoryError
        return False

    async with serving(bodies=Bodies(10_000), knows=knows) as running, await running.open() as raw:
        await raw.send(KNOWN[:-10])
        await until(lambda: asked == 1, "a sweep fails")
        before_s = running.server.now_s
        await until(lambda: running.server.now_s > before_s, "the clock goes on")
        assert await raw.read_to_end() == b"", "a later one does its work"


async def test_A23_who_sends_slowly_without_a_key_makes_room_for_others() -> None:
    slow = b"POST /sign-in HTTP/1.1\r\nhost: h\r\ncontent-length: 60000\r\n\r\nx"
    async with serving(most_connections=4, knows=has_key) as running, AsyncExitStack() as stack:
        known = await stack.enter_async_context(await running.open())
        await known.send(KNOWN)
        raws = [await stack.enter_async_context(await running.open()) for _ in range(3)]
        for raw in raws:
            await raw.send(slow)
        await until(lambda: sum(one.busy for one in running.server.connections) == 4, "all are busy")
        async with await running.open() as late:
            await late.send(GET)
            assert (await late.response()).status == 200
        assert await raws[0].read_to_end() == b"", "the oldest of the strangers"
        await known.send(b"x")
        assert (await known.response()).status == 200


async def test_A06_a_stranger_has_half_a_minute_for_a_body() -> None:
    async with serving(knows=has_key) as running, AsyncExitStack() as stack:
        stranger, known = [await stack.enter_async_context(await running.open()) for _ in range(2)]
        await stranger.send(b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 900000\r\n\r\n" + bytes(40_000))
        await known.send(KNOWN.replace(b"5000", b"900000") + bytes(35_001))
        await until(lambda: all(one.received_bytes == 40_000 for one in running.server.connections), "it came")
        now_s = running.server.now_s
        for connection in list(running.server.connections):
            connection.check_deadline(now_s + 29)
        assert len(running.server.connections) == 2
        for connection in list(running.server.connections):
            connection.check_deadline(now_s + 31)
        assert (await stranger.response()).status == 400
        await known.send(bytes(860_000))
        assert (await known.response()).status == 200


async def test_stopping_lets_answers_end_and_idle_connections_go() -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def slow(channel: Channel) -> None:
        began.set()
        await go_on.wait()
        await echo(channel)

    async with serving(slow) as running, await running.open() as raw, await running.open() as idle:
        await raw.send(GET)
        await began.wait()
        stopping = asyncio.create_task(running.server.stop(5))
        assert await idle.read_to_end() == b""
        go_on.set()
        answer = await raw.response()
        assert (answer.status, answer.header("connection")) == (200, "close")
        await stopping


async def test_the_caller_behind_a_proxy_is_who_it_names() -> None:
    async def whoami(channel: Channel) -> None:
        await channel.whole(200, [], channel.address.encode())

    behind = (
        b"GET /x HTTP/1.1\r\nhost: h\r\nx-forwarded-for: 127.0.0.1\r\nX-Forwarded-For: 192.0.2.1, 127.0.0.2\r\n\r\n"
    )
    for proxies, caller in ((Proxies(["127.0.0.0/8"]), b"192.0.2.1"), (None, b"127.0.0.1")):
        async with serving(whoami, proxies) as running, await running.open() as raw:
            await raw.send(behind)
            assert (await raw.response()).body == caller


async def test_a_stop_does_not_wait_for_ever() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(_channel: Channel) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with serving(endless) as running, await running.open() as raw:
        await raw.send(GET)
        await began.wait()
        await running.server.stop(0.01)
        assert ended.is_set()
        assert await raw.read_to_end() == b""


LARGE = bytes(8 * 2**20)


async def test_A06_who_does_not_read_an_answer_is_cut_off() -> None:
    gone = asyncio.Event()

    async def large(channel: Channel) -> None:
        channel.on_gone(gone.set)
        await channel.begin(200, [], LARGE)
        await channel.end(b"")

    async with serving(large) as running, await running.open(receive_buffer=4096) as raw:
        await raw.send(GET)
        while not any(connection.write_paused for connection in running.server.connections):
            await asyncio.sleep(0)
        (connection,) = running.server.connections
        now_s = running.server.now_s
        connection.check_deadline(now_s + 29)
        waiting = connection.transport.get_write_buffer_size()
        while connection.transport.get_write_buffer_size() > waiting - 200_000:
            await raw.read(10_000)
        connection.check_deadline(now_s + 130)
        assert not gone.is_set(), "slow, but reading"
        connection.check_deadline(now_s + 100_000)
        await asyncio.wait_for(gone.wait(), 5)
    assert not running.server.connections


async def test_A06_an_answer_that_nobody_takes_does_not_keep_an_idle_connection() -> None:
    answered = asyncio.Event()

    async def large(channel: Channel) -> None:
        await channel.whole(200, [], LARGE)
        answered.set()

    async with serving(large) as running, await running.open(receive_buffer=4096) as raw:
        while not running.server.connections:
            await asyncio.sleep(0)
        (connection,) = running.server.connections
        connection.transport.set_write_buffer_limits(high=2 * len(LARGE))
        await raw.send(GET)
        await answered.wait()
        while connection.busy:
            await asyncio.sleep(0)
        connection.check_deadline(running.server.now_s + 74)
        assert not connection.transport.is_closing()
        connection.check_deadline(running.server.now_s + 76)
        while running.server.connections:
            await asyncio.sleep(0)


async def test_A05_an_answer_to_head_has_no_body_whatever_the_route_sends() -> None:
    async def stream(channel: Channel) -> None:
        await channel.begin(200, [], b"a")
        channel.send(b"b")
        await channel.end(b"c")

    async with serving(stream) as running, await running.open() as raw:
        await raw.send(b"HEAD /x HTTP/1.1\r\nhost: h\r\n\r\n" + GET)
        answered = await raw.read_until(b"0\r\n\r\n")
    first, second, *rest = answered.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    assert not rest


async def test_an_application_that_listens_beside_its_answer_ends_with_it() -> None:
    """As streams of Litestar and Starlette do."""

    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        async def listen_for_the_end() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async with asyncio.TaskGroup() as both:
            both.create_task(listen_for_the_end())
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await send({"type": "http.response.body", "body": b"b"})

    async def handle(channel: Channel) -> None:
        await run_asgi(app, channel, [])

    async with serving(handle) as running, await running.open() as raw:
        for _ in range(2):
            await raw.send(GET)
            assert (await raw.response()).body == b"ab"


async def test_an_asgi_application_answers_through_it() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message: Message = await receive()
            body += message["body"]
            more = message["more_body"]
        await send({"type": "http.response.start", "status": 201, "headers": [(b"x-path", scope["path"].encode())]})
        if body == b"stream":
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async def handle(channel: Channel) -> None:
        await run_asgi(app, channel, [(b"id", b"req-1")])

    async with serving(handle) as running, await running.open() as raw:
        for sent, answered in ((b"whole", b"whole"), (b"stream", b"astream"), (b"", b"")):
            await raw.send(b"POST /api/x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % len(sent) + sent)
            answer = await raw.response()
            assert (answer.status, answer.header("id"), answer.body) == (201, "req-1", answered)


@pytest.mark.parametrize(
    "opening", [b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx", GET[:-2] + b"no header\r\n"]
)
def test_A19_what_is_only_dropped_keeps_nobody_waiting(opening: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's event loop reads a connection that has much to say up to 32 times before it turns to another one."""
    reads_of_turns: list[int] = []
    read = HttpConnection.data_received

    def counted(self: HttpConnection, data: bytes) -> None:
        reads_of_turns[-1] += 1
        read(self, data)

    async def flood() -> None:
        loop = asyncio.get_running_loop()

        def turn() -> None:
            reads_of_turns.append(0)
            loop.call_soon(turn)

        def send(url: str) -> None:
            host, port = url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as sock, contextlib.suppress(OSError):
                sock.sendall(opening)
                sock.sendall(b"y" * 2**25)

        async with serving() as running:
            turn()
            await asyncio.to_thread(send, running.url)

    monkeypatch.setattr(HttpConnection, "data_received", counted)
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(flood())
    assert sum(reads_of_turns) > 50
    assert max(reads_of_turns) <= 2
