"""The gateway is killed at a moment of its writing: every answer that a caller saw complete is in the ledger, once."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter

import pytest

from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import Heard, ask, chat
from tests.faults.test_ledger import locked, spooled
from tests.faults.tracing import inject
from tests.gateway import GatewayProcess, fleet_of
from tests.waiting import until

CALLERS = 6


class Traffic:
    """Callers who go on until the gateway is gone. Each prompt is of another length, so that rows and the engine's
    own log can be told to belong together."""

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._words = 0
        self.heard: list[Heard] = []

    async def until_killed(self) -> None:
        assert self._gateway.process is not None
        await asyncio.gather(*(self._call() for _ in range(CALLERS)))
        await asyncio.wait_for(self._gateway.process.wait(), 10)

    async def _call(self) -> None:
        while True:
            self._words += 1
            heard = await ask(self._gateway, chat("m", words=self._words, stream=self._words % 2 == 0))
            if not heard.status:
                return
            assert heard.status == 200, heard
            self.heard.append(heard)


async def check(gateway: GatewayProcess, upstream: FakeUpstream, heard: list[Heard]) -> None:
    rows = await gateway.rows()
    ids = [row.id for row in rows]
    assert len(ids) == len(set(ids))
    lost = {h.answer_id for h in heard if h.complete} - set(ids)
    assert not lost, f"{len(lost)} answers that were seen complete are not in the ledger"
    served = Counter(len(record.json["messages"][0]["content"].split()) for record in upstream.requests)
    billed = Counter(row.input_tokens for row in rows if row.outcome == "completed")
    assert billed <= served
    assert await gateway.ledger_faults() == []


async def settled(gateway: GatewayProcess) -> None:
    """Started again, and the spool is empty."""
    await gateway.start()
    await until(lambda: not spooled(gateway), "the spool is empty")


async def kill_at(gateway: GatewayProcess, upstream: FakeUpstream, faults: list[tuple[str, int]]) -> None:
    """One life after the other, each killed at the n-th call of its kind; the last one survives."""
    await gateway.apply(fleet_of(upstream.base_url, ["m"]))
    traffic = Traffic(gateway)
    for call, number in faults:
        try:
            await gateway.start(prefix=inject(f"{call}:signal=KILL:when={number}"))
        except AssertionError:
            # Each thread counts for itself, and a process says that it is there before it takes requests.
            assert gateway.process is not None
            assert await asyncio.wait_for(gateway.process.wait(), 10) == -signal.SIGKILL
        else:
            await traffic.until_killed()
        await check(gateway, upstream, [])
    assert any(h.complete for h in traffic.heard) or max(n for _, n in faults) < 5
    await settled(gateway)
    await check(gateway, upstream, traffic.heard)


async def test_B04_killed_at_a_write_of_the_database(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await kill_at(gateway, upstream, [("fdatasync", 1), ("fdatasync", 3), ("pwrite64", 30), ("fdatasync", 9)])


async def test_B04_killed_at_a_write_of_the_spool(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        traffic = Traffic(gateway)
        await gateway.start(prefix=inject("fdatasync:signal=KILL:when=5"))
        with locked(gateway.data_dir / "llmaas.db"):
            await traffic.until_killed()
        assert any(h.complete for h in traffic.heard)
        await settled(gateway)
        await check(gateway, upstream, traffic.heard)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1, 101, 10))
async def test_B04_killed_at_each_of_a_hundred_writes(gateway: GatewayProcess, first: int) -> None:
    async with FakeUpstream() as upstream:
        faults = [(call, n) for n in range(first, first + 10) for call in ("fdatasync", "pwrite64")]
        await kill_at(gateway, upstream, faults)


async def test_B04_killed_during_a_hundred_streams(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        upstream.script(*(Behaviour(tokens=n, pause_at=(3,) if n % 2 else ()) for n in range(5, 105)))
        asked = [asyncio.create_task(ask(gateway, chat("m", words=n + 1, stream=True))) for n in range(100)]
        await upstream.wait_requests(100, timeout_s=30)
        await upstream.wait_complete(30, timeout_s=30)
        await asyncio.wait(asked, timeout=30, return_when=asyncio.FIRST_COMPLETED)  # its caller may hear of it later
        await gateway.kill()
        heard = await asyncio.gather(*asked)
        complete = sum(h.complete for h in heard)
        assert 1 <= complete < 100
        await settled(gateway)
        await check(gateway, upstream, list(heard))
        assert len(await gateway.rows()) >= complete
