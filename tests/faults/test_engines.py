"""Engines that fail: another one takes over before the first byte, never after it, and never more often than wise."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytest_asyncio
from msgspec.structs import replace

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.usage import FREE, UsageRow
from tests.fakes.behaviour import NAMED, Behaviour
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import DONE, Heard, ask, ask_all, chat
from tests.gateway import GatewayProcess
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Longer than the process of the tests, in which the fake engines run, is ever kept waiting on a busy machine.
FIRST_BYTE_S = 1.5
BETWEEN_S = 1.6
TOTAL_S = 4.0
CONNECT_S = 1.7
# How much later than its time an end may come there.
LATE_S = 1.5
# One model for each test that makes its deployments fail, so that no test suffers from another's time aside.
BOTH = [
    *("hang", "five-hundred", "busy", "refused", "reset-head", "first-event", "four-hundred", "spread", "too-many"),
    *("cut-rst", "cut-fin", "cut-line", "cut-utf8", "all-down", "all-hang", "short-2", "mid-hang", "endless", "sliced"),
    *("not-found", "unauthorized", "connect", "hang-head", "hang-end"),
]
UNSET = "LLMAAS_PROVIDER_THAT_NOBODY_SETS"


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that refuses connections for as long as this lasts."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextmanager
def silent_port() -> Iterator[int]:
    """A port whose queue is full: the kernel drops attempts to connect without an answer."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
            fillers.append(filler)
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(
    shared_gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> AsyncIterator[GatewayProcess]:
    with closed_port() as closed, silent_port() as silent:
        extra = [
            Backend("closed", "fake", f"http://127.0.0.1:{closed}/v1", "closed", "fake"),
            Backend("silent", "fake", f"http://127.0.0.1:{silent}/v1", "silent", "fake"),
            Backend("narrow", "fake", upstream.base_url, "narrow", "fake", max_concurrency=2),
            Backend("keyless", "keyless", second_upstream.base_url, "keyless", "fake"),
        ]
        fleet = Fleet(
            providers=(
                Provider("fake", ProviderKind.OPENAI),
                Provider("keyless", ProviderKind.OPENAI, api_key_env=UNSET),
            ),
            backends=(
                Backend("ma01", "fake", upstream.base_url, "ma01", "fake"),
                Backend("ma02", "fake", second_upstream.base_url, "ma02", "fake"),
                *extra,
            ),
            models=tuple(
                Model(name, ModelKind.CHAT, 0)
                for name in [*BOTH, "closed-only", "silent-only", "closed-first", "narrow", "half-keyless", "keyless"]
            ),
            deployments=(
                *(Deployment(name, backend, name) for name in BOTH for backend in ("ma01", "ma02")),
                Deployment("closed-only", "closed", "m"),
                Deployment("silent-only", "silent", "m"),
                Deployment("closed-first", "closed", "m"),
                Deployment("closed-first", "ma01", "closed-first"),
                Deployment("narrow", "narrow", "narrow"),
                Deployment("half-keyless", "keyless", "m"),
                Deployment("half-keyless", "ma01", "half-keyless"),
                Deployment("keyless", "keyless", "m"),
            ),
        )
        await shared_gateway.apply(fleet)
        await shared_gateway.start(
            {
                "LLMAAS_FIRST_BYTE_TIMEOUT_S": str(FIRST_BYTE_S),
                "LLMAAS_BETWEEN_CHUNKS_TIMEOUT_S": str(BETWEEN_S),
                "LLMAAS_TOTAL_TIMEOUT_S": str(TOTAL_S),
                "LLMAAS_CONNECT_TIMEOUT_S": str(CONNECT_S),
            }
        )
        yield shared_gateway


@pytest.fixture(autouse=True)
def fresh(upstream: FakeUpstream, second_upstream: FakeUpstream) -> None:
    upstream.reset()
    second_upstream.reset()


async def row_of(gateway: GatewayProcess, heard: Heard) -> UsageRow:
    rows = [row for row in await gateway.rows() if row.id == heard.answer_id]
    assert len(rows) == 1
    return rows[0]


def both(upstream: FakeUpstream, second: FakeUpstream, behaviour: Behaviour, model: str) -> None:
    upstream.always(behaviour, model)
    second.always(behaviour, model)


FAILURES = {
    "hang": NAMED["fake-hang"],
    "hang-head": NAMED["fake-hang-head"],
    "five-hundred": NAMED["fake-500"],
    "reset-head": NAMED["fake-cut-head-rst"],
    "first-event": NAMED["fake-error-first"],
    "busy": NAMED["fake-429"],
}


@pytest.mark.parametrize("model", FAILURES)
async def test_F02_another_engine_answers_before_the_first_byte(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream, model: str
) -> None:
    """Turns alternate, so that one of two requests starts on the bad engine."""
    upstream.always(FAILURES[model], model)
    started_s = time.monotonic()
    heard = [await ask(gateway, chat(model, stream=True)) for _ in range(2)]
    assert time.monotonic() - started_s < FIRST_BYTE_S + LATE_S
    assert all(h.complete for h in heard)
    rows = [await row_of(gateway, h) for h in heard]
    assert [row.backend_id for row in rows] == ["ma02", "ma02"]
    assert sorted(row.attempts for row in rows) == [1, 2]
    assert {row.routing_reason for row in rows if row.attempts == 2} == {"failover"}
    # A kept connection that ends without a byte may have been idle for too long, so the request is sent once more.
    assert len(upstream.requests) <= (2 if model == "reset-head" else 1)
    assert len(second_upstream.requests) == 2
    if model.startswith("hang"):
        await upstream.wait_cancelled()


async def test_F02_a_refused_connection_is_no_answer_lost(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    heard = [await ask(gateway, chat("closed-first")) for _ in range(3)]
    assert all(h.complete for h in heard)
    rows = [await row_of(gateway, h) for h in heard]
    assert {row.backend_id for row in rows} == {"ma01"}
    assert sum(row.attempts for row in rows) == 4


@pytest.mark.parametrize(
    ("model", "behaviour"), [("four-hundred", "fake-context-openai"), ("too-many", "fake-context-vllm")]
)
async def test_F04_a_refusal_is_final(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream, model: str, behaviour: str
) -> None:
    both(upstream, second_upstream, NAMED[behaviour], model)
    for _ in range(6):
        heard = await ask(gateway, chat(model))
        assert heard.status == 400
        row = (await gateway.rows())[0]
        assert (row.outcome, row.billing_reason, row.attempts) == ("engine_refused", "refused", 1)
    assert len(upstream.requests) == len(second_upstream.requests) == 3, "a refusal sets no engine aside"


async def test_F05_all_engines_down_is_said_at_once(gateway: GatewayProcess) -> None:
    started_s = time.monotonic()
    heard = await ask(gateway, chat("closed-only"))
    assert time.monotonic() - started_s < 1
    assert heard.status in (502, 503)
    row = (await gateway.rows())[0]
    assert (row.outcome, row.billing_reason, row.attempts) == ("engine_failed", "failed_before_output", 1)


async def test_F05_all_engines_busy_says_when_to_come_back(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    both(upstream, second_upstream, NAMED["fake-429"], "all-down")
    answer = await gateway.post("/v1/chat/completions", chat("all-down"))
    assert answer.status == 503
    assert answer.header("retry-after") == "7"
    assert len(upstream.requests) + len(second_upstream.requests) == 2


@pytest.mark.parametrize("model", ["cut-rst", "cut-fin", "cut-line", "cut-utf8"])
async def test_F06_a_stream_that_breaks_off_is_not_begun_again(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream, model: str
) -> None:
    # The end comes when the caller has what was said before: a reset takes along what nobody has read yet.
    both(upstream, second_upstream, replace(NAMED[f"fake-{model}"], pause_at=(3,)), model)
    heard = Heard()
    asking = asyncio.create_task(ask(gateway, chat(model, stream=True), heard=heard))
    await until(lambda: heard.streamed and heard.text.count(" ") == 2, "two pieces came")
    for server in (upstream, second_upstream):
        server.log.release_now()
    await asking
    assert heard.status == 200
    assert heard.ended
    assert heard.body.endswith(DONE)
    assert len(heard.errors) == 1
    assert len(upstream.requests) + len(second_upstream.requests) == 1
    row = await row_of(gateway, heard)
    assert (row.outcome, row.billing_reason, row.cost_nano) == ("engine_failed", "failed_after_output", 0)
    assert row.output_tokens == 2
    assert row.attempts == 1


async def test_F07_tiny_packets_change_nothing(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    pieces = ("señal ", "日本", "🙂🚀 ", "слово ", 'data: "x"\n\ndata:', "\u2028\\u0000 ")
    for size in range(1, 8):
        both(upstream, second_upstream, Behaviour(tokens=12, pieces=pieces, slice_bytes=size), "sliced")
        for stream in (True, False):
            heard = await ask(gateway, chat("sliced", stream=stream))
            assert heard.complete
            assert heard.text == "".join(pieces * 2)
            assert (await row_of(gateway, heard)).output_tokens == 12


async def test_load_goes_to_the_least_busy(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    both(upstream, second_upstream, Behaviour(pause_at=(2,)), "spread")
    waiting = asyncio.create_task(ask_all(gateway, [chat("spread", stream=True)] * 10))
    await until(lambda: len(upstream.requests) + len(second_upstream.requests) == 10, "10 requests")
    assert len(upstream.requests) == len(second_upstream.requests) == 5
    both(upstream, second_upstream, Behaviour(), "spread")
    await asyncio.gather(upstream.release(5), second_upstream.release(5))
    assert all(h.complete for h in await waiting)


async def test_a_full_backend_refuses_at_once(gateway: GatewayProcess, upstream: FakeUpstream) -> None:
    upstream.always(Behaviour(pause_at=(2,)), "narrow")
    waiting = asyncio.create_task(ask_all(gateway, [chat("narrow", stream=True)] * 2))
    await upstream.wait_paused(2)
    answer = await gateway.post("/v1/chat/completions", chat("narrow"))
    assert (answer.status, answer.json()["error"]["code"]) == (503, "saturated")
    assert answer.header("retry-after") is not None
    await upstream.release(2)
    assert all(h.complete for h in await waiting)
    upstream.always(Behaviour(), "narrow")
    assert (await ask(gateway, chat("narrow"))).complete, "places are given back"
    outcomes = [row.outcome for row in (await gateway.rows())[:4]]
    assert sorted(outcomes) == ["completed", "completed", "completed", "unavailable"]


async def test_time_out_of_connecting(gateway: GatewayProcess) -> None:
    started_s = time.monotonic()
    heard = await ask(gateway, chat("silent-only"))
    assert CONNECT_S - 0.1 < time.monotonic() - started_s < CONNECT_S + LATE_S
    assert heard.status == 504
    row = (await gateway.rows())[0]
    assert (row.outcome, row.billing_reason) == ("engine_timeout", "failed_before_output")


async def test_time_out_of_the_first_byte(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    both(upstream, second_upstream, NAMED["fake-hang"], "all-hang")
    started_s = time.monotonic()
    heard = await ask(gateway, chat("all-hang", stream=True))
    assert 2 * FIRST_BYTE_S - 0.1 < time.monotonic() - started_s < 2 * FIRST_BYTE_S + LATE_S
    assert heard.status == 504
    row = (await gateway.rows())[0]
    assert (row.outcome, row.billing_reason, row.attempts) == ("engine_timeout", "failed_before_output", 2)
    await asyncio.gather(upstream.wait_cancelled(), second_upstream.wait_cancelled())


async def test_time_out_between_chunks(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    both(upstream, second_upstream, NAMED["fake-hang-2"], "mid-hang")
    started_s = time.monotonic()
    heard = await ask(gateway, chat("mid-hang", stream=True))
    assert BETWEEN_S - 0.1 < time.monotonic() - started_s < BETWEEN_S + LATE_S
    assert heard.status == 200
    assert heard.body.endswith(DONE)
    assert len(heard.errors) == 1
    row = await row_of(gateway, heard)
    assert (row.outcome, row.billing_reason, row.output_tokens) == ("engine_timeout", "failed_after_output", 1)
    await asyncio.sleep(0)
    assert len(upstream.requests) + len(second_upstream.requests) == 1


WHOLE = {"choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}]}
COUNTED = {"usage": {"prompt_tokens": 3, "completion_tokens": 5}}


UNFINISHED = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + b"".join(
    b"data: %b\n\n" % json.dumps(event).encode()
    for event in ({"choices": [{"index": 0, "delta": {"content": "hi"}}]}, {"choices": [], **COUNTED})
)


def too_short(body: dict[str, Any]) -> Behaviour:
    """A whole answer that tells a length of ten bytes more, on a connection that stays open."""
    data = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (len(data) + 10)
    return Behaviour(raw=head + data)


@pytest.mark.parametrize(
    ("behaviour", "stream", "whole"),
    [
        (NAMED["fake-hang-end"], True, True),
        (replace(NAMED["fake-hang-end"], usage="missing"), True, False),
        (Behaviour(raw=UNFINISHED), True, False),
        (too_short(WHOLE | COUNTED), False, True),
        (too_short(WHOLE), False, False),
    ],
    ids=["stream", "uncounted", "unfinished", "whole", "uncounted whole"],
)
async def test_an_answer_is_whole_although_its_connection_falls_silent(
    *,
    gateway: GatewayProcess,
    upstream: FakeUpstream,
    second_upstream: FakeUpstream,
    behaviour: Behaviour,
    stream: bool,
    whole: bool,
) -> None:
    both(upstream, second_upstream, behaviour, "hang-end")
    heard = await ask(gateway, chat("hang-end", stream=stream))
    assert heard.complete is whole
    row = await row_of(gateway, heard)
    if whole:
        assert (row.outcome, row.billing_reason, row.output_tokens) == ("completed", "answered", 5)
    else:
        assert (row.outcome, row.billing_reason in FREE) == ("engine_timeout", True)


async def test_time_out_of_the_whole(
    gateway: GatewayProcess, upstream: FakeUpstream, second_upstream: FakeUpstream
) -> None:
    """What was made until then is what the caller asked for, and he has it: it ends in order and is charged."""
    both(upstream, second_upstream, Behaviour(endless=True, chunk_pause_ms=20), "endless")
    started_s = time.monotonic()
    heard = await ask(gateway, chat("endless", stream=True))
    assert TOTAL_S - 0.1 < time.monotonic() - started_s < TOTAL_S + LATE_S
    assert (heard.complete, heard.errors) == (True, [])
    assert [event["limit_reached"] for event in heard.events if "limit_reached" in event] == [
        "The longest time that one request may take was over."
    ]
    row = await row_of(gateway, heard)
    assert (row.outcome, row.billing_reason, row.finish_reason) == ("completed", "limit_reached", "length")
    assert row.output_tokens == heard.text.count("hello ") > 0


async def test_F02_a_provider_without_its_credential_keeps_nobody_from_the_others(gateway: GatewayProcess) -> None:
    answers = await ask_all(gateway, [chat("half-keyless")] * 20)
    assert {answer.status for answer in answers} == {200}
    refused = await ask(gateway, chat("keyless"))
    assert refused.status == 503
    assert refused.answer_id is not None
    request_id = refused.answer_id.removeprefix("chatcmpl-")
    noted = [line for line in gateway.log.splitlines() if request_id in line]
    assert len(noted) == 1
    assert '"model": "keyless"' in noted[0]
