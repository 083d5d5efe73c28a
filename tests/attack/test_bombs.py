"""Small requests that want to cost much, and engines that want to: a second of CPU and 64 MiB at most."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable

import pytest

from tests.attack.process import Process
from tests.fakes.behaviour import Behaviour
from tests.fakes.raw_http import Incomplete, RawConnection
from tests.fakes.upstream import FakeUpstream
from tests.service import CHAT, COMPLETIONS, EMBEDDINGS, Service, chunks, error_of

pytestmark = pytest.mark.asyncio(loop_scope="session")
CPU_S = 1.0
MEMORY_BYTES = 64 * 2**20
MIB = 2**20
_SAY = '"messages":[{"role":"user","content":"x"}]'


def _around(inner: str) -> bytes:
    return f'{{"model":"plain",{_SAY},{inner}}}'.encode()


BOMBS: dict[str, tuple[str, Callable[[], bytes], dict[str, str]]] = {
    "gzip": (CHAT, lambda: gzip.compress(bytes(200 * MIB), 9), {"content-encoding": "gzip"}),
    "gzip in a list": (CHAT, lambda: gzip.compress(bytes(MIB)), {"content-encoding": "identity, gzip"}),
    "gzip without a word": (CHAT, lambda: gzip.compress(bytes(200 * MIB), 9), {}),
    "lists in lists": (CHAT, lambda: b"[" * 100_000, {}),
    "objects in objects": (CHAT, lambda: b'{"a":' * 100_000, {}),
    "deep unknown member": (CHAT, lambda: _around('"x":' + "[" * 100_000 + "]" * 100_000), {}),
    "deep parameters": (
        CHAT,
        lambda: _around(
            '"tools":[{"type":"function","function":{"name":"f","parameters":' + '{"a":' * 100_000 + "1" + "}" * 100_003
        ),
        {},
    ),
    "deep prompt": (COMPLETIONS, lambda: b'{"model":"plain","prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {}),
    "a million members": (CHAT, lambda: json.dumps({f"k{n}": 0 for n in range(1_000_000)}).encode(), {}),
    "a million biases": (
        CHAT,
        lambda: _around('"logit_bias":' + json.dumps({str(n): 1 for n in range(1_000_000)})),
        {},
    ),
    "a million parameters": (
        CHAT,
        lambda: _around(
            '"tools":[{"type":"function","function":{"name":"f","parameters":'
            + json.dumps(dict.fromkeys(map(str, range(1_000_000)), 0))
            + "}}]"
        ),
        {},
    ),
    "many empty messages": (CHAT, lambda: b'{"model":"plain","messages":[' + b"{}," * 5_000_000 + b"{}]}", {}),
    "many messages": (
        CHAT,
        lambda: (
            b'{"model":"plain","messages":['
            + b'{"role":"user","content":""},' * 500_000
            + b'{"role":"user","content":""}]}'
        ),
        {},
    ),
    "as many biases as values": (
        CHAT,
        lambda: _around('"logit_bias":{' + ",".join(f'"{number}":1' for number in range(480_000)) + "}"),
        {},
    ),
    "as many tools as values": (
        CHAT,
        lambda: _around('"tools":[' + ",".join(['{"type":"function","function":{"name":"a"}}'] * 240_000) + "]"),
        {},
    ),
    "many stops": (CHAT, lambda: _around('"stop":[' + '"",' * 5_000_000 + '""]'), {}),
    "many tools": (CHAT, lambda: _around('"tools":[' + "{}," * 5_000_000 + "{}]"), {}),
    "many prompts": (COMPLETIONS, lambda: b'{"model":"plain","prompt":[' + b'"",' * 5_000_000 + b'""]}', {}),
    "many mixed prompts": (COMPLETIONS, lambda: b'{"model":"plain","prompt":["",' + b"1," * 7_000_000 + b"1]}", {}),
    "many inputs of no kind": (EMBEDDINGS, lambda: b'{"model":"embed","input":[' + b"[]," * 5_000_000 + b"[]]}", {}),
    "a long number": (CHAT, lambda: _around('"temperature":' + "1" * 10_000_000), {}),
    "a long whole number": (CHAT, lambda: _around('"seed":' + "9" * 10_000_000), {}),
    "a long fraction": (CHAT, lambda: _around('"temperature":1.' + "7" * 10_000_000 + "x"), {}),
    "a long exponent": (CHAT, lambda: _around('"temperature":1e' + "9" * 10_000_000), {}),
    "a long number in parameters": (
        CHAT,
        lambda: _around(
            '"tools":[{"type":"function","function":{"name":"f","parameters":{"a":' + "9" * 10_000_000 + "}}}]"
        ),
        {},
    ),
    "a long name of a model": (CHAT, lambda: b'{"model":"' + b"x" * 10_000_000 + b'",' + _SAY.encode() + b"}", {}),
    "a long user": (CHAT, lambda: _around('"user":"' + "x" * 10_000_000 + '"'), {}),
    "escapes": (
        CHAT,
        lambda: b'{"model":"plain","messages":[{"role":"user","content":"' + b"\\u0000" * 2_000_000 + b'"}]}',
        {},
    ),
    "backslashes": (CHAT, lambda: b'{"model":"plain","x":"' + b"\\\\" * 5_000_000 + b"\\u0000" + b'"}', {}),
    "blanks": (CHAT, lambda: b" " * 10_000_000, {}),
    "too large": (CHAT, lambda: b" " * (17 * MIB), {}),
}


async def _cost(
    target: Service, process: Process, path: str, body: bytes, headers: dict[str, str]
) -> tuple[int, float, int]:
    """Status, CPU seconds of the gateway and bytes of memory at its peak above what it had."""
    before_s, before_bytes = process.cpu_s(), process.memory_bytes()
    process.forget_peak()
    answer = await target.post(path, body, headers=headers)
    if answer.status >= 400:
        error_of(answer)
    return answer.status, process.cpu_s() - before_s, process.peak_bytes() - before_bytes


@pytest.mark.parametrize("name", BOMBS)
async def test_A08_a_bomb_is_refused_cheaply(target: Service, process: Process, name: str) -> None:
    path, make, headers = BOMBS[name]
    status, cpu_s, grown_bytes = await _cost(target, process, path, make(), headers)
    assert 400 <= status < 500
    assert cpu_s <= CPU_S
    assert grown_bytes <= MEMORY_BYTES
    assert target.fake().requests == []


async def test_A08_a_million_chunks(target: Service, process: Process) -> None:
    """Each of one byte. The body is broken JSON, which shows at its end only."""
    before_s, before_bytes = process.cpu_s(), process.memory_bytes()
    process.forget_peak()
    async with await RawConnection.open(target.gateway.url) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {target.key}\r\ncontent-type: application/json\r\n"
        # Heard while it speaks: it is refused early, and the rest runs against a closed door.
        answering = asyncio.ensure_future(raw.response(timeout_s=20))
        await raw.send(f"{head}transfer-encoding: chunked\r\n\r\n".encode() + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n")
        answer = await answering
    cpu_s, grown_bytes = process.cpu_s() - before_s, process.peak_bytes() - before_bytes
    assert answer.status == 400
    assert cpu_s <= CPU_S
    assert grown_bytes <= MEMORY_BYTES


async def test_A08_heads_are_bounded(target: Service, process: Process) -> None:
    before_bytes = process.memory_bytes()
    process.forget_peak()
    for head in (b"x: " + b"y" * 5_000_000, b"x: y\r\n" * 500_000, b"x" * 5_000_000 + b": y"):
        async with await RawConnection.open(target.gateway.url) as raw:
            await raw.send(b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n\r\n")
            try:
                assert (await raw.response()).status in (400, 431)
            except Incomplete as error:
                assert error.received == b""
    assert process.peak_bytes() - before_bytes <= MEMORY_BYTES


FAILING: dict[str, tuple[int, dict[str, object]]] = {
    "refused": (400, {"model": "plain", "temperature": 99}),
    "the engine fails": (502, {"model": "fake-500"}),
    "the engine hangs up": (502, {"model": "fake-cut-head"}),
    "the stream breaks off": (200, {"model": "fake-cut-fin", "stream": True}),
}


def _large(**members: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "x" * 8 * MIB}], **members}).encode()


@pytest.mark.parametrize("name", FAILING)
async def test_A08_requests_that_fail_leave_nothing_behind(target: Service, process: Process, name: str) -> None:
    """Not even until the next search for garbage."""
    status, members = FAILING[name]
    body = _large(**members)
    before_bytes = 0
    for count in range(1, 16):
        if count == 4:
            before_bytes = process.memory_bytes()  # with what the C library keeps for the next one
        answer = await target.post(CHAT, body)
        assert answer.status == status
        assert b'"error"' in answer.body
    assert process.memory_bytes() - before_bytes <= MEMORY_BYTES


async def test_A08_answers_that_are_no_text_leave_nothing_behind(target: Service, process: Process) -> None:
    answer = b'{"choices":[{"message":{"content":"' + b"\xff" * 8 * MIB + b'"}}]}'
    before_bytes = 0
    for count in range(1, 16):
        if count == 4:
            before_bytes = process.memory_bytes()
        target.fake().script(Behaviour(status=200, content_type="application/json", body=answer))
        assert (await target.chat("plain")).status == 502
    assert process.memory_bytes() - before_bytes <= MEMORY_BYTES


async def test_A08_requests_that_are_left_leave_nothing_behind(target: Service, process: Process) -> None:
    body = _large(model="fake-hang")
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {target.key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    before_bytes = 0
    for count in range(1, 16):
        if count == 4:
            before_bytes = process.memory_bytes()  # with what the C library keeps for the next one
        async with await RawConnection.open(target.gateway.url) as raw:
            await raw.send(head + body)
            await target.fake().wait_requests(count)
        await target.fake().wait_cancelled(count)
    assert process.memory_bytes() - before_bytes <= MEMORY_BYTES


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
HOSTILE = {
    "html": Behaviour(status=200, content_type="text/html", body=b"<html>secret</html>"),
    "html as a stream": Behaviour(status=200, content_type="text/event-stream", body=b"<html>secret</html>"),
    "redirect": Behaviour(status=302, headers=(("location", "http://127.0.0.1:9/"),), body=b"secret"),
    "redirect for good": Behaviour(status=308, headers=(("location", "/v1/chat/completions"),), body=b"secret"),
    "long line": Behaviour(long_line_bytes=100_000_000),
    "gzip": Behaviour(gzip=True),
    "utf-8": Behaviour(invalid_utf8=True),
    "two ends": Behaviour(done_marks=2),
    "1xx flood": Behaviour(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000_000),
    "103 with a head": Behaviour(raw=(b"HTTP/1.1 103 Early Hints\r\nx: " + b"y" * 1000 + b"\r\n\r\n") * 10_000),
    "huge head": Behaviour(raw=HEAD + b"x: " + b"y" * 10_000_000 + b"\r\n\r\n"),
    "many headers": Behaviour(raw=HEAD + b"x: y\r\n" * 1_000_000 + b"\r\n"),
    "endless status": Behaviour(raw=b"HTTP/1.1 200 " + b"y" * 10_000_000),
    "switching": Behaviour(
        raw=b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + bytes(1000)
    ),
    "no content": Behaviour(raw=b"HTTP/1.1 204 No Content\r\n\r\n"),
    "not modified": Behaviour(raw=b"HTTP/1.1 304 Not Modified\r\n\r\n"),
    "two lengths": Behaviour(raw=HEAD + b"content-length: 5\r\ncontent-length: 7\r\n\r\nhello"),
    "length and chunks": Behaviour(raw=HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    "huge length": Behaviour(raw=HEAD + b"content-length: 999999999999\r\n\r\ndata: {}\n\n"),
    "negative length": Behaviour(raw=HEAD + b"content-length: -1\r\n\r\n"),
    "huge chunk": Behaviour(raw=HEAD + b"transfer-encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello"),
    "no http": Behaviour(raw=b"\x16\x03\x01hello\r\n\r\n"),
    "nothing": Behaviour(raw=b""),
    "empty": Behaviour(status=200, content_type="text/event-stream", body=b""),
    "deep event": Behaviour(raw_events={0: b'data: {"choices":' + b"[" * 100_000 + b"\n\n"}),
    "many events": Behaviour(raw_events={0: b": \n\n" * 1_000_000}),
    "many empty answers": Behaviour(raw_events={0: b"data: {}\n\n" * 100_000}),
    "long piece": Behaviour(pieces=("y" * 1_000_000,)),
    "error in error": Behaviour(status=500, body=b'{"error":' * 100_000),
    "huge error": Behaviour(status=500, body=b"x" * 50_000_000),
    "huge answer": Behaviour(
        status=200, content_type="application/json", body=b'{"choices":[{"message":{"content":"' + b"x" * 70_000_000
    ),
}


def _fake(target: Service, model: str) -> FakeUpstream:
    return next((fake for kind, fake in target.upstreams.of.items() if model.startswith(f"{kind}/")), target.fake())


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_A16_a_hostile_engine_gives_a_valid_answer_or_error(
    target: Service, process: Process, name: str, stream: bool
) -> None:
    before_bytes = process.memory_bytes()
    process.forget_peak()
    for model in ("vllm/plain", "plain"):
        fake = _fake(target, model)
        fake.script(HOSTILE[name])
        answer = await target.chat(model, stream=stream)
        assert answer.status in (200, 502, 503, 504)
        assert answer.header("set-cookie") is None
        assert b"secret" not in answer.body
        if answer.status != 200:
            error_of(answer)
        elif stream:
            chunks(answer)
        else:
            assert answer.json()["choices"][0]["finish_reason"]
        assert (await target.chat(model)).status == 200
    grown_bytes = process.peak_bytes() - before_bytes
    assert grown_bytes <= (3 if name == "huge answer" else 1) * MEMORY_BYTES  # a whole answer may have 64 MiB


@pytest.mark.parametrize(
    "model", ["fake-endless", "vllm/fake-endless", "llama.cpp/fake-endless", "ollama/fake-endless"]
)
async def test_A16_an_endless_stream_takes_no_memory(target: Service, process: Process, model: str) -> None:
    before_bytes = process.memory_bytes()
    process.forget_peak()
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "x"}], "stream": True}).encode()
    async with await RawConnection.open(target.gateway.url) as raw:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {target.key}\r\ncontent-type: application/json\r\n"
        await raw.send(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        seen = b""
        size = 0
        while size < 3_000_000 and b"[DONE]" not in seen:
            data = await raw.read()
            seen = (seen + data)[-100:]
            size += len(data)
    assert process.peak_bytes() - before_bytes <= MEMORY_BYTES
    await _fake(target, model).wait_cancelled()


async def test_A16_an_engine_that_goes_on_after_its_end_is_ended(target: Service) -> None:
    """This one says why it ended with its last token, and then says more without end."""
    for stream in (False, True):
        answer = await target.chat("vllm/fake-endless", stream=stream)
        assert (answer.status, len(answer.body) < 200_000, b'"error"' in answer.body) == (200, True, False)
        await _fake(target, "vllm/fake-endless").wait_cancelled()


async def test_A16_a_bounded_request_ends_an_endless_engine(target: Service) -> None:
    for model in ("fake-endless", "vllm/fake-endless", "llama.cpp/fake-endless", "ollama/fake-endless"):
        for stream in (False, True):
            answer = await target.chat(model, max_tokens=50, stream=stream)
            assert answer.status == 200 or (stream, model, answer.status) == (False, "fake-endless", 502)
            assert len(answer.body) < 200_000
