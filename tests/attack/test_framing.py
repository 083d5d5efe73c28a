"""What stands around a body, and whatever a parser keeps while it comes: bounded, however much or little comes at once."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable

import pytest

from tests.attack.process import Process
from tests.fakes.raw_http import RawConnection
from tests.service import CHAT, Service

pytestmark = pytest.mark.asyncio(loop_scope="session")

CPU_S = 1.0
ENDLESS_BYTES = 100 * 2**20
BIT_BYTES = 64 * 1024
QUIET_S = 0.25
"""What others wait at most on a machine that does other things too; the faults that this is about cost tenths to tens of seconds."""
SIGN_IN = "/sign-in"


def chunked(target: Service, *, known: bool) -> bytes:
    if known:
        about = f"POST {CHAT} HTTP/1.1\r\nauthorization: Bearer {target.key}\r\ncontent-type: application/json\r\n"
    else:
        about = f"POST {SIGN_IN} HTTP/1.1\r\ncontent-type: application/x-www-form-urlencoded\r\n"
    return f"{about}host: {target.gateway.url.removeprefix('http://')}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def blanks(size: int) -> bytes:
    return b"%x\r\n" % size + b" " * size + b"\r\n"


Opening = Callable[[Service], bytes]
HEAD = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nhost: x\r\n"
# What is sent first; then comes the same byte again and again.
OPENINGS: dict[str, tuple[Opening, bytes]] = {
    "a trailer's value, with a key": (lambda t: chunked(t, known=True) + blanks(8 * 2**20) + b"0\r\nX: ", b"y"),
    "a trailer's value, without": (lambda t: chunked(t, known=False) + blanks(60_000) + b"0\r\nX: ", b"y"),
    "a trailer's name": (lambda t: chunked(t, known=False) + blanks(60_000) + b"0\r\n", b"y"),
    "an extension": (lambda t: chunked(t, known=True) + blanks(2**20) + b"1;", b"y"),
    "the length of a chunk": (lambda t: chunked(t, known=True) + blanks(2**20), b"0"),
    "a header's value": (lambda _: HEAD + b"x: ", b"y"),
    "a header's name": (lambda _: HEAD, b"y"),
    "the target": (lambda _: b"GET /", b"y"),
}


async def p99_s(target: Service, during: asyncio.Future[int] | None = None) -> float:
    """How long others wait: 200 calls, and as long as something goes on."""
    waits: list[float] = []
    async with await RawConnection.open(target.gateway.url) as raw:
        while len(waits) < 200 or (during is not None and not during.done()):
            before_s = time.perf_counter()
            assert (await raw.request("GET", "/healthz")).status == 200
            waits.append(time.perf_counter() - before_s)
    return statistics.quantiles(waits, n=100)[98]


async def endless(target: Service, opening: bytes, byte: bytes, at_once: int) -> int:
    """The status that is answered while it goes on."""
    async with await RawConnection.open(target.gateway.url) as raw:
        answering = asyncio.ensure_future(raw.response(timeout_s=30))
        await raw.send(opening)
        for _ in range(ENDLESS_BYTES // at_once):
            await raw.send(byte * at_once)
            if answering.done():
                break
            if at_once == 1:
                await asyncio.sleep(0)
        return (await answering).status


@pytest.mark.parametrize("at_once", [1, BIT_BYTES], ids=["byte by byte", "at once"])
@pytest.mark.parametrize("name", OPENINGS)
async def test_A19_endless_framing_is_refused_and_costs_nobody_else(
    target: Service, process: Process, name: str, at_once: int
) -> None:
    opening, byte = OPENINGS[name]
    usual_s = await p99_s(target)
    begun_s = process.cpu_s()
    attack = asyncio.ensure_future(endless(target, opening(target), byte, at_once))
    meanwhile_s = await p99_s(target, attack)
    assert 400 <= await attack < 500
    assert process.cpu_s() - begun_s <= CPU_S
    assert meanwhile_s <= max(2 * usual_s, QUIET_S)
