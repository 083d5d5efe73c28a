"""Engines that lie about tokens: what is billed stays within what is possible, and the row says that it is doubtful."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from llmaas.domain.models import ProviderKind
from tests.fakes.behaviour import Behaviour, Usage
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import ask, chat
from tests.gateway import GatewayProcess, fleet_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

TOKENS = 5


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: GatewayProcess, upstream: FakeUpstream) -> AsyncIterator[GatewayProcess]:
    await shared_gateway.apply(fleet_of(upstream.base_url, ["m"], kind=ProviderKind.OPENAI))
    await shared_gateway.start()
    yield shared_gateway


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("usage", ["correct", "twice", "every_chunk"])
async def test_B10_true_counts_are_taken_however_often_they_come(
    gateway: GatewayProcess, upstream: FakeUpstream, usage: Usage, stream: bool
) -> None:
    upstream.script(Behaviour(usage=usage))
    heard = await ask(gateway, chat("m", stream=stream))
    assert heard.complete
    row = (await gateway.rows())[0]
    assert row.id == heard.answer_id
    assert (row.input_tokens, row.output_tokens) == (3, TOKENS)
    assert (row.usage_source, row.usage_suspect) == ("engine", False)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("usage", ["missing", "null", "negative", "huge"])
async def test_B10_useless_counts_are_replaced_by_our_own(
    gateway: GatewayProcess, upstream: FakeUpstream, usage: Usage, stream: bool
) -> None:
    upstream.script(Behaviour(usage=usage))
    body = chat("m", stream=stream, max_tokens=50)
    heard = await ask(gateway, body)
    assert heard.complete
    row = (await gateway.rows())[0]
    assert (row.usage_source, row.usage_suspect) == ("counted", True)
    assert 1 <= row.input_tokens <= 200
    if stream:
        assert row.output_tokens == TOKENS
    else:
        assert 1 <= row.output_tokens <= 50


@pytest.mark.parametrize("stream", [True, False])
async def test_B10_counts_above_what_was_allowed_are_bent_to_it(
    gateway: GatewayProcess, upstream: FakeUpstream, stream: bool
) -> None:
    usage = {"prompt_tokens": 5_000, "completion_tokens": 60}
    if stream:
        lie = b'data: {"choices":[],"usage":%b}\n\n' % json.dumps(usage).encode()
        upstream.script(Behaviour(usage="missing", raw_events={7: lie}))
    else:
        choices = [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]
        upstream.script(Behaviour(body=json.dumps({"choices": choices, "usage": usage}).encode()))
    body = chat("m", stream=stream, max_tokens=50)
    heard = await ask(gateway, body)
    assert heard.complete
    row = (await gateway.rows())[0]
    assert (row.usage_source, row.usage_suspect) == ("engine", True)
    assert row.output_tokens == 50
    assert 500 < row.input_tokens <= len(json.dumps(body)) + 512 + 16


@pytest.mark.parametrize("stream", [True, False])
async def test_B10_numbers_as_text_are_taken_and_marked(
    gateway: GatewayProcess, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.script(Behaviour(usage="string"))
    heard = await ask(gateway, chat("m", stream=stream))
    assert heard.complete
    row = (await gateway.rows())[0]
    assert (row.input_tokens, row.output_tokens, row.usage_source, row.usage_suspect) == (3, TOKENS, "engine", True)


@pytest.mark.parametrize("stream", [True, False])
async def test_B10_huge_counts_of_an_unbounded_answer_are_replaced_by_our_own(
    gateway: GatewayProcess, upstream: FakeUpstream, stream: bool
) -> None:
    upstream.script(Behaviour(usage="huge"))
    heard = await ask(gateway, chat("m", stream=stream))
    assert heard.complete
    row = (await gateway.rows())[0]
    assert (row.usage_source, row.usage_suspect) == ("counted", True)
    assert row.output_tokens <= 10
    assert await gateway.ledger_faults() == []


async def test_B10_a_report_below_what_was_seen_is_raised_to_it(
    gateway: GatewayProcess, upstream: FakeUpstream
) -> None:
    lie = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    upstream.script(Behaviour(usage="missing", raw_events={7: lie}))
    heard = await ask(gateway, chat("m", stream=True))
    assert heard.complete
    row = (await gateway.rows())[0]
    assert (row.output_tokens, row.usage_suspect) == (TOKENS, True)


async def test_B10_the_caller_is_told_what_the_row_says(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.script(Behaviour(usage="huge"))
    heard = await ask(gateway, chat("m", stream=True, max_tokens=50, stream_options={"include_usage": True}))
    row = (await gateway.rows())[0]
    told = heard.events[-1]["usage"]
    assert told["completion_tokens"] == row.output_tokens + row.reasoning_tokens
    assert told["prompt_tokens"] == row.input_tokens + row.cached_input_tokens
