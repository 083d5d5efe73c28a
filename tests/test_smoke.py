"""The whole way of a request, once."""

from __future__ import annotations

from tests.fakes.upstream import FakeUpstream
from tests.gateway import GatewayProcess, fleet_of


async def test_a_chat_is_answered_and_recorded(gateway: GatewayProcess) -> None:
    async with FakeUpstream() as upstream:
        await gateway.apply(fleet_of(upstream.base_url, ["m"]))
        await gateway.start()
        body = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
        answer = await gateway.post("/v1/chat/completions", body)
        assert answer.status == 200
        rows = await gateway.rows()
        assert [row.id for row in rows] == [answer.json()["id"]] == [answer.header("id")]
        assert rows[0].outcome == "completed"
        assert (rows[0].input_tokens, rows[0].output_tokens) == (3, 5)
        assert await gateway.ledger_faults() == []
        assert await gateway.terminate() == 0
