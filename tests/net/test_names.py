"""Looking up host names while name servers are silent: others go on, nobody waits for a thread, and a look-up is found again."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from llmaas.net.names import HostNames, Place

ANSWER: list[Place] = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", 0))]


class NameServers:
    """`silent`: names that nobody answers for, until `speak`."""

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self._over = threading.Event()

    def look_up(self, host: str, *_hints: Any) -> Sequence[Place]:
        self.asked.append(host)
        if host in self.silent:
            self._over.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host == "unknown.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ANSWER

    def end(self) -> None:
        self._over.set()


@pytest.fixture
def servers() -> Iterator[NameServers]:
    made = NameServers()
    yield made
    made.end()


async def test_callers_share_a_look_up_and_its_answer_for_a_while(servers: NameServers) -> None:
    names = HostNames(servers.look_up)
    found = await asyncio.gather(*(names.find("engine.example", port) for port in range(8000, 8020)))
    assert [places[0][4] for places in found] == [("127.0.0.9", port) for port in range(8000, 8020)]
    assert (await asyncio.to_thread(names.find_now, "engine.example", 1))[0][4] == ("127.0.0.9", 1)
    assert servers.asked == ["engine.example"]


async def test_F19_a_silent_name_costs_other_names_nothing(servers: NameServers) -> None:
    names = HostNames(servers.look_up)
    servers.silent = {f"silent-{n}.example" for n in range(20)}
    waiting = [asyncio.ensure_future(names.find(name, 80)) for name in servers.silent for _ in range(8)]
    begun_s = time.monotonic()
    while time.monotonic() - begun_s < 1.5:
        before_s = time.monotonic()
        assert await names.find(f"fine-{before_s}.example", 80)
        assert time.monotonic() - before_s < 0.5
        await asyncio.sleep(0.1)
    for failure in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(failure, TimeoutError)
    assert time.monotonic() - begun_s < 3
    assert threading.active_count() < 64


async def test_F19_a_name_server_that_is_back_is_found_at_once(servers: NameServers) -> None:
    names = HostNames(servers.look_up)
    servers.silent = {"engine.example"}
    with pytest.raises(TimeoutError, match=r"no name server answers for engine\.example"):
        await names.find("engine.example", 80)
    waiting = asyncio.ensure_future(names.find("engine.example", 80))
    await asyncio.sleep(0.1)
    servers.silent.clear()
    begun_s = time.monotonic()
    assert await waiting
    assert time.monotonic() - begun_s < 1.5


def test_F19_a_thread_waits_no_longer_either(servers: NameServers) -> None:
    names = HostNames(servers.look_up)
    servers.silent = {"engine.example"}
    begun_s = time.monotonic()
    with pytest.raises(TimeoutError):
        names.find_now("engine.example", 80)
    assert time.monotonic() - begun_s < 3


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "127.1", "fe80::1%lo"])
async def test_numeric_addresses_are_asked_nobody_about(servers: NameServers, host: str) -> None:
    names = HostNames(servers.look_up)
    assert (await names.find(host, 80))[0][4][1] == 80
    assert servers.asked == []


@pytest.mark.parametrize("host", ["unknown.example", "a\0b", "\ud800", "a..b", "x" * 300])
async def test_what_is_no_host_name_is_an_unknown_one(servers: NameServers, host: str) -> None:
    names = HostNames(servers.look_up)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await names.find(host, 80)
        with pytest.raises(socket.gaierror):
            names.find_now(host, 80)
