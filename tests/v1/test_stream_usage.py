"""The setting `stream_usage`: streams that always end with `usage` and `backend`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of
from tests.service import CHAT, COMPLETIONS, chunks

pytestmark = pytest.mark.asyncio(loop_scope="function")


@pytest.fixture
async def telling(gateway: GatewayProcess) -> AsyncIterator[GatewayProcess]:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start({"LLMAAS_STREAM_USAGE": "always"})
        yield gateway


async def test_every_stream_tells_what_it_used(telling: GatewayProcess) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
    for options in (None, {"include_usage": False}, {"include_usage": True}):
        last = chunks(await telling.post(CHAT, {**chat, "stream_options": options}))[-1]
        assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 5)
        assert last["backend"]["machine_name"] == "ma01"
    last = chunks(await telling.post(COMPLETIONS, {"model": "m", "prompt": "hi", "stream": True}))[-1]
    assert last["usage"]["completion_tokens"] == 5
