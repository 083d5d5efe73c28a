"""A name server that says nothing: what does not need it goes on as ever."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.settings import NAME_SERVERS
from tests.fakes.name_server import NameServer
from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess

HOSTS = {"by-number": "127.0.0.1", "by-name": "fine.test", "in-the-dark": "dark.test"}
FIRST, SECOND = "127.0.53.1", "127.0.53.2"


class Surroundings:
    """A gateway that has a `resolv.conf` of its own."""

    def __init__(self, folder: Path) -> None:
        self.gateway = GatewayProcess(folder)
        self.first, self.second = NameServer(), NameServer()
        self.resolv_conf = folder / "resolv.conf"

    def ask(self, *addresses: str) -> None:
        self.resolv_conf.write_text("".join(f"nameserver {address}\n" for address in addresses))

    async def call_s(self, model: str) -> float:
        """How long a good answer takes."""
        begun_s = time.monotonic()
        answer = await self._call(model)
        assert answer == 200, self.gateway.log[-2000:]
        return time.monotonic() - begun_s

    async def _call(self, model: str) -> int:
        body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
        return (await self.gateway.post("/v1/chat/completions", body)).status

    async def call_on(self, model: str, statuses: list[int]) -> None:
        """One call after the other."""
        while True:
            statuses.append(await self._call(model))


@pytest_asyncio.fixture
async def around(tmp_path: Path) -> AsyncIterator[Surroundings]:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        missing = "a resolv.conf of one's own needs root and unshare"
        pytest.fail(missing) if "CI" in os.environ else pytest.skip(missing)
    made = Surroundings(tmp_path)
    made.ask(FIRST)
    await made.first.start(FIRST)
    await made.second.start(SECOND)
    mount = f'mount --bind {made.resolv_conf} /etc/resolv.conf && exec "$@"'
    async with FakeUpstream() as upstream:
        port = urlsplit(upstream.url).port
        await made.gateway.apply(
            Fleet(
                providers=(Provider("fake", ProviderKind.OPENAI),),
                backends=tuple(Backend(n, "fake", f"http://{h}:{port}/v1", n, "fake") for n, h in HOSTS.items()),
                models=tuple(Model(name, ModelKind.CHAT, 0) for name in HOSTS),
                deployments=tuple(Deployment(name, name, name) for name in HOSTS),
            )
        )
        await made.gateway.start(NAME_SERVERS, prefix=["unshare", "-m", "sh", "-c", mount, "sh"])
        yield made
        await made.gateway.close()
    made.first.stop()
    made.second.stop()


async def test_F19_a_silent_name_server_costs_other_engines_nothing(around: Surroundings) -> None:
    usual_s = statistics.median([await around.call_s(model) for model in ("by-number", "by-name") for _ in range(10)])
    around.first.silent = {"dark.test"}
    statuses: list[int] = []
    callers = [asyncio.ensure_future(around.call_on("in-the-dark", statuses)) for _ in range(8)]
    until_s = time.monotonic() + 12  # longer than names are kept and kept connections live
    waits_s: list[float] = []
    while time.monotonic() < until_s:
        waits_s += [await around.call_s(model) for model in ("by-number", "by-name")]
        await asyncio.sleep(0.05)
    assert statistics.median(waits_s) < max(2 * usual_s, 0.02)
    assert max(waits_s) < 1, "none of them waited for a look-up of another name"
    assert set(statuses) <= {502, 503, 504}
    around.first.silent = set()
    begun_s = time.monotonic()
    while 200 not in statuses:
        await asyncio.sleep(0.01)
    assert time.monotonic() - begun_s < 2.5
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)


async def test_F19_a_changed_resolv_conf_is_followed_and_a_stop_is_quick(around: Surroundings) -> None:
    around.first.silent = None
    statuses: list[int] = []
    callers = [asyncio.ensure_future(around.call_on("in-the-dark", statuses)) for _ in range(8)]
    async with asyncio.timeout(10):
        while len(statuses) < 8:
            await asyncio.sleep(0.01)
    assert 200 not in statuses
    around.ask(SECOND)
    begun_s = time.monotonic()
    async with asyncio.timeout(10):
        while 200 not in statuses:
            await asyncio.sleep(0.01)
    assert time.monotonic() - begun_s < 2.5
    around.second.silent = None
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    last = [asyncio.ensure_future(around.call_on("by-name", [])) for _ in range(8)]
    asked = len(around.second.asked)
    async with asyncio.timeout(5):
        while len(around.second.asked) == asked:
            await asyncio.sleep(0.01)
    begun_s = time.monotonic()
    assert await around.gateway.terminate() == 0
    assert time.monotonic() - begun_s < 3
    for caller in last:
        caller.cancel()
    await asyncio.gather(*last, return_exceptions=True)
