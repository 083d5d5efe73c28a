"""Stops and starts: streams finish within the drain limit, nothing is lost, and the next start works."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from llmaas.datadir import database_lock
from llmaas.domain.keys import Permission
from llmaas.domain.limits import Limits
from llmaas.storage.file_locks import FileLock
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import DONE, ask, chat, wire
from tests.faults.test_ledger import locked
from tests.gateway import GatewayProcess, fleet_of
from tests.waiting import until


async def test_B13_a_stop_drains_and_the_next_one_interrupts(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        assert (await gateway.get("/readyz")).status == 200
        upstream.always(Behaviour(pause_at=(3,)))
        asked = [asyncio.create_task(ask(gateway, chat("m", stream=stream))) for stream in (True, True, False)]
        await upstream.wait_paused(3)
        stopping = asyncio.create_task(gateway.terminate())
        ready = await gateway.get("/readyz")
        async with asyncio.timeout(5):
            while ready.status == 200:
                ready = await gateway.get("/readyz")
        assert (ready.status, ready.json()["status"]) == (503, "draining")
        late = await gateway.post("/v1/chat/completions", chat("m"))
        assert (late.status, late.json()["error"]["code"]) == (503, "draining")
        assert late.header("retry-after") is not None
        await upstream.release(3)
        heard = await asyncio.gather(*asked)
        assert await stopping == 0
        assert all(h.complete for h in heard)
        assert {h.answer_id for h in heard} == {row.id for row in await gateway.rows()}

        # The second life: what does not end in time is ended, and the caller is told.
        await gateway.start({"LLMAAS_DRAIN_TIMEOUT_S": "0.3"})
        asked = [asyncio.create_task(ask(gateway, chat("m", stream=stream))) for stream in (True, False)]
        await upstream.wait_paused(2)
        assert await gateway.terminate() == 0
        streamed, whole = await asyncio.gather(*asked)
        assert streamed.ended
        assert streamed.body.endswith(DONE)
        assert streamed.errors[0]["code"] == "draining"
        assert (whole.status, whole.ended) == (503, True)
        rows = await gateway.rows()
        assert len(rows) == 5
        assert {row.outcome for row in rows[:2]} == {"interrupted"}
        assert {row.cost_nano for row in rows[:2]} == {0}
        await upstream.wait_cancelled(2)

        # The third: the answer is whole and waits for its row only.
        await gateway.start({"LLMAAS_DRAIN_TIMEOUT_S": "0"})
        upstream.always(Behaviour())
        assert (await ask(gateway, chat("m"))).complete
        seen = len(upstream.requests)
        with locked(gateway.data_dir / "llmaas.db"):
            asking = asyncio.create_task(ask(gateway, chat("m", stream=True)))
            record = await upstream.wait_requests(seen + 1)
            await upstream.log.until(record.finished.is_set, "the engine is done")
            assert await gateway.terminate() == 0
            last = await asking
        assert last.ended
        assert last.body.endswith(DONE)
        await gateway.start()
        await gateway.wait_rows(7)
        assert await gateway.ledger_faults() == []


async def test_B13_a_stop_waits_for_those_who_wait_for_their_hold(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        installation = await gateway.installation()
        free = await gateway.create_key(permissions=(Permission.INFERENCE_USE, Permission.METRICS_READ))
        limits = Limits(output_tokens_per_hour=1_000_000)
        limited, _ = await installation.create_key(project_id="default", name="limited", limits=limits)
        gateway.key = limited
        await gateway.start()
        assert (await gateway.get("/v1/models")).status == 200  # the key is known, what it used this hour is not
        with locked(gateway.data_dir / "llmaas.db"):
            gateway.key = free
            assert (
                await ask(gateway, chat("m"))
            ).complete  # its row is spooled, so the database does not know all that was used
            gateway.key = limited
            asked = [asyncio.create_task(ask(gateway, chat("m", stream=stream))) for stream in (True, False)]
            await until(lambda: in_flight(gateway, free, 2), "they wait")
            stopping = asyncio.create_task(gateway.terminate())
            await until(lambda: is_draining(gateway), "it drains")
        heard = await asyncio.gather(*asked)
        assert await stopping == 0
        await gateway.start()
        rows = {row.id for row in await gateway.wait_rows(3)}
        assert all(h.complete for h in heard), heard
        assert {h.answer_id for h in heard} < rows
        assert len(upstream.requests) == len(rows)


async def test_B13_one_stop_may_be_told_twice_and_a_hurry_thrice(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        assert gateway.process is not None
        upstream.always(Behaviour(pause_at=(3,)))
        asked = [asyncio.create_task(ask(gateway, chat("m", stream=stream))) for stream in (True, False)]
        await upstream.wait_paused(2)
        stopping = asyncio.create_task(gateway.terminate())
        await until(lambda: is_draining(gateway), "it drains")
        gateway.process.terminate()
        assert await is_draining(gateway)
        await upstream.release(2)
        assert all(h.complete for h in await asyncio.gather(*asked))
        assert await stopping == 0

        # While those who were ended wait for their rows, they are not ended again.
        await gateway.start()
        asked = [asyncio.create_task(ask(gateway, chat("m", stream=stream))) for stream in (True, False)]
        await upstream.wait_paused(2)
        with locked(gateway.data_dir / "llmaas.db"):
            stopping = asyncio.create_task(gateway.terminate())
            await until(lambda: is_draining(gateway), "it drains")
            for _ in range(2):
                gateway.process.send_signal(signal.SIGINT)
                assert await is_draining(gateway)
            streamed, whole = await asyncio.gather(*asked)
        assert [error["code"] for error in streamed.errors] == ["draining"]
        assert streamed.body.endswith(DONE)
        assert (whole.status, whole.ended) == (503, True)
        assert await stopping == 0


async def test_B13_a_hurry_waits_for_no_slow_reader(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        assert gateway.process is not None
        upstream.always(Behaviour(tokens=1_000, pieces=("x" * 16_000,), burst=True))
        async with await RawConnection.open(gateway.url, receive_buffer=4096) as reader:
            await reader.send(wire(gateway, chat("m", stream=True)))
            await reader.read_until(b"data: ")
            stopping = asyncio.create_task(gateway.terminate())
            await until(lambda: is_draining(gateway), "it drains")
            gateway.process.send_signal(signal.SIGINT)
            assert await asyncio.wait_for(stopping, 15) == 0
        assert [row.outcome for row in await gateway.rows()] == ["interrupted"]


async def test_F12_a_stop_in_the_midst_of_a_start_is_in_order_too(gateway: GatewayProcess) -> None:
    """The start waits for the place of the one before it; by the end others have heard of the new worker."""
    installation = await gateway.installation()
    before = FileLock(database_lock(installation.settings))
    assert before.take()
    starting = asyncio.create_task(gateway.start())
    await until(lambda: gateway.process is not None and heeds(gateway.process.pid), "it heeds signals", 30)
    assert gateway.process is not None
    gateway.process.terminate()
    before.free()
    assert await asyncio.wait_for(gateway.process.wait(), 30) == 0
    async with installation.database.connect() as connection:
        seen = (await connection.exec_driver_sql("SELECT seen_ms FROM workers")).scalars().all()
    assert list(seen) == [0], "it has signed off"
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)


def heeds(pid: int) -> bool:
    """Whether SIGTERM has a handler there."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    (caught,) = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")]
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


async def in_flight(gateway: GatewayProcess, key: str, count: int) -> bool:
    return f"\nllmaas_in_flight {count}.0\n" in (await gateway.get("/metrics", key=key)).body.decode()


async def is_draining(gateway: GatewayProcess) -> bool:
    return (await gateway.get("/readyz")).status == 503


@pytest.mark.slow
async def test_B13_stop_under_load_loses_nothing(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        upstream.always(Behaviour(tokens=20, chunk_pause_ms=5))
        for _ in range(5):
            await gateway.start()
            asked = [asyncio.create_task(ask(gateway, chat("m", stream=n % 2 == 0))) for n in range(100)]
            await upstream.wait_tokens(200)
            assert await gateway.terminate() == 0
            heard = await asyncio.gather(*asked)
            rows = {row.id for row in await gateway.rows()}
            assert {h.answer_id for h in heard if h.complete} <= rows
            assert not [h for h in heard if h.status == 200 and not h.complete]
            upstream.reset()
            upstream.always(Behaviour(tokens=20, chunk_pause_ms=5))
