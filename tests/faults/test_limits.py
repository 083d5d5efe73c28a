"""Limits and money through a running gateway: exact under parallel requests, told in headers, and an end for long streams."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace as replace_struct

from llmaas.domain.audit import SYSTEM
from llmaas.domain.credit import CreditEntry, CreditKind
from llmaas.domain.fleet import Fleet
from llmaas.domain.limits import Limits
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.prices import NANO, Price
from llmaas.domain.projects import Project
from llmaas.domain.tiers import Tier
from llmaas.domain.usage import UsageRow
from llmaas.storage.spool import Spool
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import RawConnection, RawResponse, request_bytes
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import Heard, ask, chat
from tests.gateway import GatewayProcess, fleet_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"
ASKED = {"include_usage": True}
PER_TOKEN = Price(0, "", 0, output=1_000 * NANO)
THOUSAND = "word " * 1_000
PRICES = {
    "five": Price(0, "five", 0, request=5 * NANO),
    "long": Price(0, "long", 0, output=1_000 * NANO),
    "counted": Price(0, "counted", 0, output=1_000 * NANO),
    "bounded": Price(0, "bounded", 0, output=1_000 * NANO),
    "slow": None,
}
COUNTING = {
    "pieces": ProviderKind.VLLM,
    "timed": ProviderKind.LLAMA_CPP,
    "calls": ProviderKind.OLLAMA,
}
"""Models of engines that count on the way, at 0.001 for each token of output."""
BOUNDED_TOKENS = 300


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def vllm() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream(flavour="vllm") as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    shared_gateway: GatewayProcess, upstream: FakeUpstream, vllm: FakeUpstream
) -> AsyncIterator[GatewayProcess]:
    fleet = fleet_of(upstream.base_url, [name for name in PRICES if name != "counted"])
    counting = fleet_of(vllm.base_url, ["counted"], kind=ProviderKind.VLLM)
    models = tuple(
        Model(name, ModelKind.CHAT, 0, price=price, max_output_tokens=BOUNDED_TOKENS if name == "bounded" else None)
        for name, price in PRICES.items()
    )
    tiers = (Tier("prepaid", prepaid_credit=100 * NANO), Tier("capped", monthly_cap=7 * NANO))
    upstream.always(Behaviour(tokens=20_000, burst=True), "long")
    upstream.always(Behaviour(pause_at=("before_head",)), "slow")
    vllm.always(Behaviour(tokens=8_000, usage="every_chunk"), "counted")
    provider, backend = (
        replace(counting.providers[0], id="vllm"),
        replace(counting.backends[0], id="gpu", provider_id="vllm"),
    )
    deployment = replace(counting.deployments[0], backend_id="gpu")
    url = {kind: upstream.url if kind is ProviderKind.OLLAMA else upstream.base_url for kind in COUNTING.values()}
    await shared_gateway.apply(
        Fleet(
            tiers,
            (*fleet.providers, provider, *(Provider(name, kind) for name, kind in COUNTING.items())),
            (
                *(*fleet.backends, backend),
                *(Backend(name, name, url[kind], name, str(kind)) for name, kind in COUNTING.items()),
            ),
            (*models, *(Model(name, ModelKind.CHAT, 0, price=replace(PER_TOKEN, model_id=name)) for name in COUNTING)),
            (*fleet.deployments, deployment, *(Deployment(name, name, name) for name in COUNTING)),
        )
    )
    await shared_gateway.start()
    yield shared_gateway


async def key_with(gateway: GatewayProcess, limits: Limits, project_id: str = "default") -> str:
    installation = await gateway.installation()
    token, _ = await installation.create_key(project_id=project_id, name="limited", limits=limits)
    return token


async def post(gateway: GatewayProcess, key: str, model: str = "five", **fields: Any) -> RawResponse:
    return await gateway.post(CHAT, chat(model, **fields), key=key)


async def spent(gateway: GatewayProcess, key: str) -> int:
    kid = key.split("_")[1]
    return sum(row.cost_nano for row in await gateway.rows() if row.key_id == kid)


async def test_B01_parallel_holds_are_exact(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(budget_total=100 * NANO))
    answers = await asyncio.gather(*(post(gateway, key) for _ in range(50)))
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 30}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.json()["error"]["code"] == "insufficient_quota"
    assert refused.header("x-should-retry") == "false"
    assert await spent(gateway, key) == 100 * NANO


async def test_rates_are_told_and_refused(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(requests_per_minute=3, tokens_per_minute=100_000))
    answers = [await post(gateway, key, max_tokens=5) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 200, 429]
    assert [answer.header("x-ratelimit-remaining-requests") for answer in answers] == ["2", "1", "0", "0"]
    assert answers[0].header("x-ratelimit-limit-requests") == "3"
    assert answers[0].header("x-ratelimit-limit-tokens") == "100000"
    assert int(answers[0].header("x-ratelimit-remaining-tokens") or 0) < 100_000
    assert (answers[0].header("x-ratelimit-reset-requests") or "").endswith("s")
    error = answers[3].json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert "3 requests per minute" in error["message"]
    assert 0 < int(answers[3].header("retry-after") or 0) <= 20


async def test_slots_are_free_again_when_an_answer_ends(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    key = await key_with(gateway, Limits(concurrent_requests=1))
    first = asyncio.create_task(post(gateway, key, "slow"))
    await upstream.wait_paused()
    refused = await post(gateway, key)
    assert (refused.status, "requests at once" in refused.json()["error"]["message"]) == (429, True)
    await upstream.release()
    assert (await first).status == 200
    assert (await post(gateway, key)).status == 200


@pytest.mark.parametrize("model", ["counted", "long"])
@pytest.mark.parametrize("stream", [True, False])
async def test_an_answer_ends_where_the_money_ends(gateway: GatewayProcess, model: str, stream: bool) -> None:
    """20,000 tokens at 0.001 each with less to spend. An engine that counts on the way is stopped when the next step is not
    to be had; one that tells at its end is told what it may make.
    """
    budget = (6 if model == "counted" else 18) * NANO
    key = await key_with(gateway, Limits(budget_total=budget))
    kept, gateway.key = gateway.key, key
    heard: Heard = await ask(gateway, chat(model, stream=stream))
    gateway.key = kept
    assert heard.status == 200
    assert heard.complete
    row = next(row for row in await gateway.rows() if row.id == heard.answer_id)
    assert (row.outcome, row.finish_reason) == ("completed", "length")
    assert row.hold_nano is not None
    assert budget // 2 < row.cost_nano <= row.hold_nano <= budget
    if stream:
        finishes = [c["finish_reason"] for event in heard.events for c in event["choices"] if c["finish_reason"]]
        assert finishes == ["length"]
    told = heard.events[-1] if stream else json.loads(heard.body)
    if model == "counted":
        assert "budget" in told["limit_reached"]
        assert row.billing_reason == "limit_reached"


async def told_to_end(
    gateway: GatewayProcess, upstream: FakeUpstream, limits: Limits, **fields: Any
) -> tuple[int, UsageRow]:
    """Output tokens that an engine which cannot count on the way was told to make at most, and the row."""
    answer = await post(gateway, await key_with(gateway, limits), "long", **fields)
    assert answer.status == 200, answer.body
    row = next(row for row in await gateway.rows() if row.id == answer.header("id"))
    asked = upstream.last.json
    assert isinstance(asked, dict)
    told = asked["max_tokens"]
    assert row.output_tokens == told * fields.get("n", 1)
    assert row.hold_nano is not None
    assert row.cost_nano <= row.hold_nano
    if told < 16_384:
        assert (row.finish_reason, row.billing_reason) == ("length", "limit_reached")
        assert "ended while the answer was made" in answer.json()["limit_reached"]
    return told, row


@pytest.mark.parametrize(
    ("limits", "least", "most"),
    [
        (Limits(tokens_per_minute=10_000), 9_000, 9_500),
        (Limits(tokens_per_minute=1_000), 128, 400),
        (Limits(output_tokens_per_hour=3_000), 3_000, 3_000),
        (Limits(output_tokens_per_day=200, tokens_per_minute=10_000), 200, 200),
        (Limits(budget_total=1 * NANO), 1_000, 1_000),
        (Limits(budget_per_month=NANO // 2, budget_per_day=NANO // 5), 200, 200),
        (Limits(tokens_per_minute=100_000), 16_384, 16_384),
    ],
    ids=["rate", "small rate", "hour", "day", "budget", "month and day", "enough"],
)
async def test_B02_an_answer_without_max_tokens_may_have_what_is_left(
    gateway: GatewayProcess, upstream: FakeUpstream, limits: Limits, least: int, most: int
) -> None:
    told, _ = await told_to_end(gateway, upstream, limits)
    assert least <= told <= most


async def test_B02_credit_and_a_cap_have_what_is_left_too(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    installation = await gateway.installation()
    await installation.projects.add(Project("short", "Short", 1, tier_id="capped"))
    answer = await post(gateway, await key_with(gateway, Limits(), "short"), "long")
    assert answer.status == 200
    asked = upstream.last.json
    assert isinstance(asked, dict)
    assert asked["max_tokens"] == 7_000, "the cap of the month"


async def test_several_answers_share_what_is_left_of_a_budget(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    told, _ = await told_to_end(gateway, upstream, Limits(budget_total=6 * NANO), n=3)
    assert told == 2_000


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("limits", [Limits(), Limits(budget_total=NANO), Limits(tokens_per_minute=2_000)])
@pytest.mark.parametrize("model", ["long", "bounded"])
@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "max_tokens"),
        ({"max_tokens": 310}, "max_tokens"),
        ({"max_completion_tokens": 310}, "max_completion_tokens"),
        ({"max_tokens": 310, "max_completion_tokens": 310}, "max_completion_tokens"),
        ({"max_completion_tokens": 310, "n": 2}, "max_completion_tokens"),
    ],
)
async def test_the_bound_on_an_answer_has_one_name_which_is_the_callers(
    gateway: GatewayProcess,
    upstream: FakeUpstream,
    *,
    model: str,
    limits: Limits,
    stream: bool,
    fields: dict[str, int],
    name: str,
) -> None:
    """Some servers refuse a request that has both names."""
    answer = await post(gateway, await key_with(gateway, limits), model, stream=stream, **fields)
    assert answer.status == 200, answer.body
    asked = upstream.last.json
    assert isinstance(asked, dict)
    told = {key: asked[key] for key in ("max_tokens", "max_completion_tokens") if key in asked}
    if fields or model == "bounded":
        assert told == {name: BOUNDED_TOKENS if model == "bounded" else 310}
    else:
        assert set(told) == ({name} if limits != Limits() else set())


async def test_too_little_for_an_answer_is_refused_and_a_small_max_tokens_gets_through(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(budget_total=NANO // 10))  # a hundred tokens
    refused = await post(gateway, key, "long")
    assert (refused.status, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert (await post(gateway, key, "long", max_tokens=101)).status == 429, "what was asked for is held as it is"
    assert (await post(gateway, key, "long", max_tokens=50)).status == 200


async def test_a_rate_that_is_used_up_says_when_to_come_again(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(tokens_per_minute=3_000))
    assert (await post(gateway, key, "long")).status == 200
    refused = await post(gateway, key, "long")
    assert (refused.status, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.header("retry-after") or 0) <= 20, "until there is room for the least answer"


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_counts_goes_on_with_the_rest_of_a_step(gateway: GatewayProcess, stream: bool) -> None:
    """8,000 tokens, of which 5,000 can be paid: a step of 4,096, and what is left of the next one."""
    key = await key_with(gateway, Limits(budget_total=5 * NANO))
    kept, gateway.key = gateway.key, key
    heard: Heard = await ask(gateway, chat("counted", stream=stream))
    gateway.key = kept
    row = next(row for row in await gateway.rows() if row.id == heard.answer_id)
    assert (row.finish_reason, row.billing_reason) == ("length", "limit_reached")
    assert row.output_tokens == 5_000


def in_few_pieces(model: str, pieces: int = 10) -> Behaviour:
    """A thousand tokens in each, which the engine counts as it goes; from Ollama one call that has them all."""
    said: list[dict[str, Any]]
    if model == "calls":
        call = {"function": {"name": "f", "arguments": {"text": THOUSAND * pieces}}}
        said = [
            {"message": {"role": "assistant", "content": "", "tool_calls": [call]}, "done": False},
            {"done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": pieces * 1_000},
        ]
        return raw(b"application/x-ndjson", b"".join(json.dumps(line).encode() + b"\n" for line in said))
    said = [{"choices": [{"index": 0, "delta": {"content": THOUSAND}}]} for _ in range(pieces)]
    said.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    for number, part in enumerate(said, 1):
        made = min(number, pieces) * 1_000
        if model == "pieces":
            part["usage"] = {"prompt_tokens": 3, "completion_tokens": made}
        else:
            part["timings"] = {"prompt_n": 3, "predicted_n": made}
    events = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in said]
    return raw(b"text/event-stream", b"".join(events) + b"data: [DONE]\n\n")


def raw(kind: bytes, body: bytes) -> Behaviour:
    return Behaviour(
        raw=b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (kind, len(body)) + body
    )


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", COUNTING)
@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(requests_per_minute=600),
        Limits(concurrent_requests=5),
        Limits(output_tokens_per_hour=100_000),
        Limits(budget_total=100 * NANO),
    ],
    ids=["none", "requests", "at once", "hour", "budget"],
)
async def test_B15_an_answer_in_few_pieces_costs_what_was_made_under_whatever_limit(
    gateway: GatewayProcess, upstream: FakeUpstream, *, limits: Limits, model: str, stream: bool
) -> None:
    upstream.script(in_few_pieces(model))
    key = await key_with(gateway, limits)
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = await post(gateway, key, model, tools=tools, stream=stream, stream_options=(stream and ASKED) or None)
    assert answer.status == 200, answer.body
    assert answer.body.count(b"word ") == 10_000, "all of it came"
    row = next(row for row in await gateway.rows() if row.id == answer.header("id"))
    assert (row.output_tokens, row.cost_nano, row.usage_suspect) == (10_000, 10 * NANO, False)
    assert (row.billing_reason, b"limit_reached" in answer.body) == ("answered", False)
    assert b'"completion_tokens":10000' in answer.body, "the caller is told the same"
    if limits != Limits():
        assert row.hold_nano is not None
        assert row.cost_nano <= row.hold_nano


@pytest.mark.parametrize("stream", [True, False])
async def test_B02_an_answer_in_one_piece_costs_no_more_than_is_left(
    gateway: GatewayProcess, upstream: FakeUpstream, stream: bool
) -> None:
    """4,096 are held, 7,000 are left, and 10,000 come at once."""
    upstream.script(in_few_pieces("timed"))
    key = await key_with(gateway, Limits(budget_total=7 * NANO))
    answer = await post(gateway, key, "timed", stream=stream)
    row = next(row for row in await gateway.rows() if row.id == answer.header("id"))
    assert (row.output_tokens, row.cost_nano, row.hold_nano) == (7_000, 7 * NANO, 7 * NANO)
    assert (row.outcome, row.billing_reason, row.usage_suspect) == ("completed", "limit_reached", True)
    assert (await post(gateway, key, "timed", stream=stream)).status == 429
    assert await gateway.ledger_faults() == []


async def test_an_engine_with_long_pieces_is_stopped_where_the_money_ends(
    gateway: GatewayProcess, vllm: FakeUpstream
) -> None:
    """334 tokens can be paid. It is stopped in the fourth piece of a hundred, long before any number of pieces."""
    counts = {
        number: b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":%d}}\n\n' % (number * 100)
        for number in range(1, 60)
    }
    vllm.script(Behaviour(tokens=60, usage="missing", raw_events=counts, pause_at=(6,)), model="counted")
    key = await key_with(gateway, Limits(budget_total=NANO * 334 // 1_000))
    kept, gateway.key = gateway.key, key
    heard = await ask(gateway, chat("counted", stream=True))
    gateway.key = kept
    row = next(row for row in await gateway.rows() if row.id == heard.answer_id)
    assert (row.output_tokens, row.finish_reason, row.billing_reason) == (334, "length", "limit_reached")
    await vllm.wait_cancelled()


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (Limits(budget_total=NANO * 222 // 1_000), 222),
        (Limits(budget_total=5 * NANO), 5_000),
        (Limits(requests_per_minute=600), 16_384),
        (Limits(), None),
    ],
    ids=["little", "some", "enough", "none"],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_whose_calls_come_whole_is_told_what_is_held(
    gateway: GatewayProcess, upstream: FakeUpstream, *, limits: Limits, told: int | None, stream: bool
) -> None:
    upstream.script(Behaviour())
    tools = [{"type": "function", "function": {"name": "f"}}]
    answer = await post(gateway, await key_with(gateway, limits), "calls", tools=tools, stream=stream)
    assert answer.status == 200
    assert upstream.last.json["options"].get("num_predict") == told
    row = next(row for row in await gateway.rows() if row.id == answer.header("id"))
    assert (row.output_tokens, row.billing_reason) == (5, "answered")


@pytest.mark.parametrize("model", ["pieces", "timed"])
@pytest.mark.parametrize(("budget", "told"), [(222, 222), (5_000, None)])
async def test_an_engine_that_may_hold_a_call_back_is_told_what_is_left_of_a_limit(
    gateway: GatewayProcess, upstream: FakeUpstream, *, model: str, budget: int, told: int | None
) -> None:
    key = await key_with(gateway, Limits(budget_total=budget * NANO // 1_000))
    for tools, sent in (([{"type": "function", "function": {"name": "f"}}], told), (None, None)):
        upstream.script(Behaviour(tokens=1))
        assert (await post(gateway, key, model, tools=tools)).status == 200
        assert upstream.last.json.get("max_tokens") == sent


@pytest.mark.parametrize("stream", [True, False])
async def test_an_end_that_is_the_engines_own_is_not_called_a_limit(
    gateway: GatewayProcess, upstream: FakeUpstream, stream: bool
) -> None:
    """Its window ended, say: five tokens were made of many thousands that are held."""
    upstream.script(Behaviour(finish_reason="length"), model="long")
    answer = await post(gateway, await key_with(gateway, Limits(budget_total=100 * NANO)), "long", stream=stream)
    assert (answer.status, b"limit_reached" in answer.body, b'"length"' in answer.body) == (200, False, True)
    row = next(row for row in await gateway.rows() if row.id == answer.header("id"))
    assert (row.output_tokens, row.finish_reason, row.billing_reason) == (5, "length", "answered")


@pytest.mark.parametrize("model", ["long", "counted"])
@pytest.mark.parametrize("asked", [True, False])
async def test_a_stream_says_with_its_finish_that_a_limit_ended_it(
    gateway: GatewayProcess, *, model: str, asked: bool
) -> None:
    """Clients look for a choice in each chunk that they did not ask for."""
    options = {"stream_options": ASKED} if asked else {}
    answer = await post(gateway, await key_with(gateway, Limits(budget_total=NANO)), model, stream=True, **options)
    events = [json.loads(part[6:]) for part in answer.body.split(b"\n\n") if part.startswith(b"data: {")]
    assert [event for event in events if not event["choices"]] == events[len(events) - asked :]
    (said,) = [event for event in events if "limit_reached" in event]
    assert (said["choices"][0]["finish_reason"], "budget" in said["limit_reached"]) == ("length", True)


async def test_B15_who_leaves_is_charged_what_was_made_beyond_the_first_step(
    gateway: GatewayProcess, vllm: FakeUpstream
) -> None:
    count = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9000}}\n\n'
    vllm.script(Behaviour(tokens=3, usage="missing", raw_events={2: count}, pause_at=(3,)), model="counted")
    key = await key_with(gateway, Limits(budget_total=100 * NANO))
    before = len(await gateway.rows())
    body = json.dumps(chat("counted", stream=True)).encode()
    async with await RawConnection.open(gateway.url) as connection:
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {key}")]
        await connection.send(request_bytes("POST", CHAT, headers=headers, body=body))
        await vllm.wait_paused()
        await connection.read_until(b"hello ")
        await connection.read_until(b"hello ")
    row = (await gateway.wait_rows(before + 1))[0]
    assert (row.billing_reason, row.output_tokens, row.cost_nano) == ("aborted_after_output", 9_000, 9 * NANO)


async def test_B02_a_picture_is_held_as_a_picture(gateway: GatewayProcess) -> None:
    url = "data:image/png;base64," + "A" * 1_500_000
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "what is it?"}]
    key = await key_with(gateway, Limits(tokens_per_minute=20_000))
    body = {"model": "five", "messages": [{"role": "user", "content": content}]}
    answer = await gateway.post(CHAT, body, key=key)
    assert answer.status == 200, answer.body


async def test_prepaid_projects_need_credit(gateway: GatewayProcess) -> None:
    installation = await gateway.installation()
    await installation.projects.add(Project("paying", "Paying", 1, tier_id="prepaid"))
    key = await key_with(gateway, Limits(), "paying")
    refused = await post(gateway, key)
    assert (refused.status, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    entry = CreditEntry("credit-1", "paying", 1, 7 * NANO, CreditKind.TOP_UP, "", "test")
    await installation.credit.add(entry, by=SYSTEM)
    async with asyncio.timeout(5):
        while (await post(gateway, key)).status != 200:
            await asyncio.sleep(0.05)
    assert (await post(gateway, key)).status == 429
    balance = await installation.credit.balance("paying")
    assert (balance.left_nano, balance.spent_nano) == (2 * NANO, 5 * NANO)


async def test_a_monthly_cap_holds_for_all_keys_of_a_project(gateway: GatewayProcess) -> None:
    installation = await gateway.installation()
    await installation.projects.add(Project("capped", "Capped", 1, tier_id="capped"))
    keys = [await key_with(gateway, Limits(), "capped") for _ in range(4)]
    answers = await asyncio.gather(*(post(gateway, key) for key in keys))
    assert Counter(answer.status for answer in answers) == {200: 1, 429: 3}


async def test_what_a_refused_request_held_is_free(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    key = await key_with(gateway, Limits(budget_total=5 * NANO, concurrent_requests=1))
    upstream.script(Behaviour(status=500), model="five")
    assert (await post(gateway, key)).status == 502
    assert (await post(gateway, key)).status == 200
    assert (await post(gateway, key)).status == 429


async def test_budgets_and_windows_outlive_a_restart(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(budget_total=10 * NANO, output_tokens_per_day=12))
    assert (await post(gateway, key, max_tokens=5)).status == 200
    assert await gateway.terminate() == 0
    await gateway.start()
    assert (await post(gateway, key, max_tokens=8)).status == 429
    assert (await post(gateway, key, max_tokens=5)).status == 200
    assert (await post(gateway, key, max_tokens=1)).status == 429
    assert await gateway.ledger_faults() == []


async def test_B07_what_was_spooled_before_a_kill_is_counted_before_more_is_spent(gateway: GatewayProcess) -> None:
    key = await key_with(gateway, Limits(budget_total=20 * NANO))
    assert [(await post(gateway, key)).status, (await post(gateway, gateway.key)).status] == [200, 200]
    installation = await gateway.installation()
    ids = {row.key_id: row for row in await gateway.rows()}
    mine, other = ids[key.split("_")[1]], ids[gateway.key.split("_")[1]]
    await gateway.kill()

    def again(row: UsageRow) -> UsageRow:
        return replace_struct(row, id=installation.ids.uuid7(), request_id=installation.ids.uuid7())

    spool = Spool(installation.settings.spool_of(0))
    spool.write([again(row) for row in [*[other] * 3_000, *[mine] * 3]])
    spool.close()
    await gateway.start()
    said = [(await post(gateway, key)).status for _ in range(3)]
    assert 200 not in said
    assert said[-1] == 429
    assert await gateway.ledger_faults() == []


@pytest.mark.parametrize("period", ["budget_per_day", "budget_per_month", "budget_total"])
async def test_B14_a_key_rotated_twice_spends_its_budget_once(gateway: GatewayProcess, period: str) -> None:
    installation = await gateway.installation()
    token, key = await installation.create_key(project_id="default", name=period, limits=Limits(**{period: 20 * NANO}))
    assert (await post(gateway, token)).status == 200
    second, key = await installation.rotate_key(key, overlap_ms=3_600_000)
    third, _ = await installation.rotate_key(key, overlap_ms=3_600_000)
    answers = [await post(gateway, used) for used in (token, second, third) for _ in range(4)]
    kids = {used.split("_")[1] for used in (token, second, third)}
    cost = sum(row.cost_nano for row in await gateway.rows() if row.key_id in kids)
    assert cost == 20 * NANO
    assert Counter(answer.status for answer in answers)[429] == 9
