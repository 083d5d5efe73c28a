"""The caller hangs up: one row, honest tokens, and an engine that is free within a second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal

import pytest
import pytest_asyncio

from llmaas.domain.fleet import Fleet
from llmaas.domain.models import Backend, Deployment, Model, ModelKind, Provider, ProviderKind
from llmaas.domain.usage import UsageRow
from tests.fakes.behaviour import Behaviour, Flavour, Position
from tests.fakes.raw_http import RawConnection
from tests.fakes.record import Record
from tests.fakes.upstream import FakeUpstream
from tests.faults.caller import ask, chat, wire
from tests.gateway import GatewayProcess
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KINDS: dict[Flavour, ProviderKind] = {
    "openai": ProviderKind.OPENAI,
    "llama.cpp": ProviderKind.LLAMA_CPP,
    "vllm": ProviderKind.VLLM,
}
LISTENS_AFTER_S = 0.15  # the gateway listens for hang-ups 0.05 s after a request came
PIECES = ("señal ", "🙂🚀 ")
TOKENS = 8
Cut = tuple[Position, bytes | None]
# Where the engine stands when the caller hangs up, and what the caller has read by then (None: nothing).
STREAM_CUTS: dict[str, Cut] = {
    "before_the_head": ("before_head", None),
    "nothing_read": (4, None),
    "first_byte": (4, b"H"),
    "after_headers": (4, b"\r\n\r\n"),
    "inside_utf8": (4, b"\xf0\x9f"),
    "inside_a_line": (4, b'"delta"'),
    "before_done": ("before_end", "🚀 ".encode()),
}
WHOLE_CUTS: dict[str, Cut] = {
    "before_the_head": ("before_head", None),
    "half_way": (2, None),
    "at_the_end": ("before_end", None),
}


def model_of(flavour: Flavour, *, stops: bool) -> str:
    return f"{flavour}-{'stops' if stops else 'charges'}"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(shared_gateway: GatewayProcess, upstream: FakeUpstream) -> AsyncIterator[GatewayProcess]:
    cases = [(flavour, kind, stops) for flavour, kind in KINDS.items() for stops in (True, False)]
    names = [model_of(flavour, stops=stops) for flavour, _, stops in cases]
    fleet = Fleet(
        providers=tuple(
            Provider(name, kind, cancel_stops_billing=stops)
            for name, (_, kind, stops) in zip(names, cases, strict=True)
        ),
        backends=tuple(Backend(name, name, upstream.base_url, "ma01", "fake") for name in names),
        models=tuple(Model(name, ModelKind.CHAT, 0) for name in names),
        deployments=tuple(Deployment(name, name, name) for name in names),
    )
    await shared_gateway.apply(fleet)
    await shared_gateway.start()
    yield shared_gateway


def _open_sockets(port: int) -> list[str]:
    """Connections of a port that its server has not closed, whatever the other side did."""
    established, close_wait = "01", "08"
    sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [s[2] for s in sockets if s[1].endswith(f":{port:04X}") and s[3] in (established, close_wait)]


async def hang_up_noticed(gateway: GatewayProcess, asked_s: float) -> None:
    """Wait until the gateway has closed its side, listens for hang-ups, and its event loop has turned since."""
    await until(lambda: not _open_sockets(gateway.port), "the gateway has closed its side")
    await until(lambda: time.monotonic() > asked_s + LISTENS_AFTER_S, "the gateway listens")
    assert (await gateway.get("/healthz")).status == 200


async def hang_up(
    gateway: GatewayProcess,
    upstream: FakeUpstream,
    flavour: Flavour,
    cut: Cut,
    *,
    stream: bool,
    stops: bool,
    how: Literal["fin", "rst"],
) -> tuple[UsageRow, Record]:
    """Let an engine come to a stand, hang up, and give the row and what the engine knows."""
    stand, read = cut
    before = {row.id for row in await gateway.rows()}
    seen = len(upstream.requests)
    model = model_of(flavour, stops=stops)
    upstream.script(Behaviour(tokens=TOKENS, pieces=PIECES, flavour=flavour, pause_at=(stand,)), model=model)
    connection = await RawConnection.open(gateway.url)
    await connection.send(wire(gateway, chat(model, stream=stream)))
    asked_s = time.monotonic()
    record = await upstream.wait_requests(seen + 1)
    await upstream.wait_paused()
    if read is not None:
        await connection.read_until(read)
    if how == "rst":
        connection.reset()
    else:
        await connection.close()
    if stops:
        await upstream.log.until(record.cancelled.is_set, "the engine is freed", 1.0)
    else:
        # An engine that is paid for must be read to its end although nobody listens.
        await hang_up_noticed(gateway, asked_s)
        await upstream.release()
        await upstream.log.until(lambda: record.outcome == "complete", "read to its end")
    rows = await gateway.wait_rows(len(before) + 1)
    new = [row for row in rows if row.id not in before]
    assert len(new) == 1
    return new[0], record


@pytest.mark.parametrize("name", STREAM_CUTS)
@pytest.mark.parametrize("flavour", KINDS)
async def test_B05_stream_cut_stops_the_engine(
    gateway: GatewayProcess, upstream: FakeUpstream, flavour: Flavour, name: str
) -> None:
    how: Literal["fin", "rst"] = "rst" if name in ("first_byte", "inside_utf8") else "fin"
    row, record = await hang_up(gateway, upstream, flavour, STREAM_CUTS[name], stream=True, stops=True, how=how)
    assert row.outcome == "client_aborted"
    assert record.outcome == "cancelled"
    assert row.output_tokens == record.tokens_sent
    if record.tokens_sent:
        assert row.billing_reason == "aborted_after_output"
        assert row.usage_source == ("counted" if flavour == "openai" and name != "before_done" else "engine")
        assert row.ttft_ms is not None
    else:
        assert row.billing_reason == "aborted_before_output"
        assert (row.input_tokens, row.cost_nano, row.usage_source) == (0, 0, "none")


@pytest.mark.parametrize("name", STREAM_CUTS)
async def test_B05_stream_cut_is_read_to_its_end_where_it_is_paid_for(
    gateway: GatewayProcess, upstream: FakeUpstream, name: str
) -> None:
    row, record = await hang_up(gateway, upstream, "openai", STREAM_CUTS[name], stream=True, stops=False, how="fin")
    assert (row.outcome, row.billing_reason, row.usage_source) == ("client_aborted", "read_to_end", "engine")
    assert (row.input_tokens, row.output_tokens) == (3, record.tokens_sent) == (3, TOKENS)


@pytest.mark.parametrize("name", WHOLE_CUTS)
@pytest.mark.parametrize("flavour", ["llama.cpp", "vllm"])
async def test_B05_whole_answer_cut_is_counted_exactly(
    gateway: GatewayProcess, upstream: FakeUpstream, flavour: Flavour, name: str
) -> None:
    """These engines are read as streams, so what they made by then is known."""
    row, record = await hang_up(gateway, upstream, flavour, WHOLE_CUTS[name], stream=False, stops=True, how="fin")
    assert row.outcome == "client_aborted"
    assert row.output_tokens == record.tokens_sent
    assert row.billing_reason == ("aborted_after_output" if record.tokens_sent else "aborted_before_output")
    assert not row.streamed


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("flavour", ["llama.cpp", "vllm"])
async def test_B05_what_an_engine_told_of_a_text_that_it_holds_back_is_counted(
    gateway: GatewayProcess, upstream: FakeUpstream, flavour: Flavour, stream: bool
) -> None:
    """A parser of thoughts or calls may hold everything back for a long time, while the engine tells what it makes."""
    told = b'"usage":{"prompt_tokens":7,"completion_tokens":1200}'
    if flavour == "llama.cpp":
        told = b'"timings":{"prompt_n":5,"cache_n":2,"predicted_n":1200}'
    held = b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":null}],%b}\n\n' % told
    model = model_of(flavour, stops=True)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    upstream.script(Behaviour(raw=head + held), model=model)
    before, seen = {row.id for row in await gateway.rows()}, len(upstream.requests)
    connection = await RawConnection.open(gateway.url)
    await connection.send(wire(gateway, chat(model, stream=stream)))
    record = await upstream.wait_requests(seen + 1)
    await upstream.log.until(lambda: record.outcome == "complete", "all is sent that ever comes")
    assert (await gateway.get("/healthz")).status == 200, "what the engine sent is read by then"
    await connection.close()
    (row,) = [row for row in await gateway.wait_rows(len(before) + 1) if row.id not in before]
    assert (row.outcome, row.billing_reason) == ("client_aborted", "aborted_after_output")
    cached = 2 if flavour == "llama.cpp" else 0
    assert (row.input_tokens, row.cached_input_tokens, row.output_tokens) == (7 - cached, cached, 1200)


@pytest.mark.parametrize("name", WHOLE_CUTS)
async def test_B05_whole_answer_cut_of_a_plain_engine_is_free(
    gateway: GatewayProcess, upstream: FakeUpstream, name: str
) -> None:
    """Nothing of it was readable, so nothing is billed."""
    row, _ = await hang_up(gateway, upstream, "openai", WHOLE_CUTS[name], stream=False, stops=True, how="fin")
    assert (row.outcome, row.billing_reason) == ("client_aborted", "aborted_before_output")
    assert (row.input_tokens, row.output_tokens, row.cost_nano) == (0, 0, 0)


@pytest.mark.parametrize("name", WHOLE_CUTS)
@pytest.mark.parametrize("flavour", ["openai", "llama.cpp"])
async def test_B05_whole_answer_cut_is_read_to_its_end_where_it_is_paid_for(
    gateway: GatewayProcess, upstream: FakeUpstream, flavour: Flavour, name: str
) -> None:
    row, _ = await hang_up(gateway, upstream, flavour, WHOLE_CUTS[name], stream=False, stops=False, how="fin")
    assert (row.outcome, row.billing_reason) == ("client_aborted", "read_to_end")
    assert (row.input_tokens, row.output_tokens) == (3, TOKENS)


@pytest.mark.parametrize("flavour", KINDS)
async def test_B05_running_stream_cut_is_counted_to_the_step(
    gateway: GatewayProcess, upstream: FakeUpstream, flavour: Flavour
) -> None:
    """The engine does not stand still: what it sent while the news travelled may be missing, a step or two."""
    before = len(await gateway.rows())
    seen = len(upstream.requests)
    model = model_of(flavour, stops=True)
    upstream.script(Behaviour(tokens=500, flavour=flavour, chunk_pause_ms=20), model=model)
    connection = await RawConnection.open(gateway.url)
    await connection.send(wire(gateway, chat(model, stream=True)))
    for _ in range(5):
        await connection.read_until(b"hello ")
    connection.reset()
    record = await upstream.wait_requests(seen + 1)
    await upstream.log.until(record.cancelled.is_set, "the engine is freed", 1.0)
    row = (await gateway.wait_rows(before + 1))[0]
    assert 5 <= row.output_tokens <= record.tokens_sent
    assert record.tokens_sent - row.output_tokens <= 2


async def test_B05_the_ledger_stays_clean_and_nothing_is_left_behind(
    gateway: GatewayProcess, upstream: FakeUpstream
) -> None:
    model = model_of("openai", stops=True)
    heard = await ask(gateway, chat(model))
    assert heard.complete
    assert await gateway.ledger_faults() == []
    assert all(record.outcome != "open" for record in upstream.requests)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("stops", [False, True])
async def test_B05_half_a_close_is_no_hang_up(
    gateway: GatewayProcess, upstream: FakeUpstream, *, stream: bool, stops: bool
) -> None:
    """A caller that has sent its body and shuts its sending side down still reads."""
    before = {row.id for row in await gateway.rows()}
    model = model_of("openai", stops=stops)
    upstream.script(Behaviour(tokens=TOKENS, pieces=PIECES, flavour="openai", pause_at=(4,)), model=model)
    async with await RawConnection.open(gateway.url) as connection:
        await connection.send(wire(gateway, chat(model, stream=stream)))
        asked_s = time.monotonic()
        await upstream.wait_paused()
        connection.end_of_request()
        await until(lambda: time.monotonic() > asked_s + 1.2, "a caller who is gone would have been noticed")
        await upstream.release()
        answer = await connection.response()
    assert answer.status == 200
    assert "🚀" in answer.body.decode()
    rows = await gateway.wait_rows(len(before) + 1)
    (row,) = (row for row in rows if row.id not in before)
    assert (row.outcome, row.output_tokens) == ("completed", TOKENS)
