"""Stops and starts: streams finish within the drain limit, nothing is lost, and the next start works."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.behaviour import Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import DONE, ask, chat
from tests.faults.test_ledger import locked
from tests.gateway import GatewayProcess, fleet_of


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
