"""Instructions that the event loop's thread runs for a plain request or a stream, counted by valgrind: no machine's noise is in it.

usage: python -m bench.instructions [--stream] [--requests N]
Everything between the HTTP server's parser and the HTTP client's is real; sockets are replaced by calls, and rows are taken as
written by the next turn of the loop. The profile is left in `callgrind.out.1` for `callgrind_annotate`; with Debian's
`python3.11-dbg` it names Python's own functions.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from bench.__main__ import prepare
from llmaas import settings
from llmaas.datadir import Installation
from llmaas.net.client import Origin, _Connection
from llmaas.net.server import HttpConnection, HttpServer
from llmaas.worker import GatewayWorker

CONNECTIONS = 32
EVENTS = 50
UPSTREAM_PORT = 9
_WARM_UP = 200
_USAGE = {"prompt_tokens": 70, "completion_tokens": EVENTS, "total_tokens": 70 + EVENTS}
_COUNTED = "_LLMAAS_COUNTED"


class Wire(asyncio.Transport):
    """A connection whose other end is in this program; `peer` gets what is written, at the next turn of the loop."""

    def __init__(self, protocol: asyncio.Protocol, peer: Any) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.protocol = protocol
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        protocol.connection_made(self)

    def write(self, data: Any) -> None:
        self._loop.call_soon(self._peer, self, data)

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


def answer(*, stream: bool) -> list[bytes]:
    """The packets of an engine's answer."""
    common = {"id": "chatcmpl-abc", "created": 1749110753, "model": "m"}
    if not stream:
        message = {"role": "assistant", "content": "hello " * EVENTS}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        body = json.dumps({**common, "object": "chat.completion", "choices": choices, "usage": _USAGE}).encode()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        return [head % len(body) + body]

    def event(choices: list[dict[str, Any]], **more: Any) -> bytes:
        return json.dumps({**common, "object": "chat.completion.chunk", "choices": choices, **more}).encode()

    def choice(delta: dict[str, str], finish: str | None = None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish}]

    payloads = [event(choice({"role": "assistant", "content": ""}))]
    payloads += [event(choice({"content": "hello "}))] * EVENTS
    payloads += [event(choice({}, "stop")), event([], usage=_USAGE), b"[DONE]"]
    events = [b"data: %b\n\n" % payload for payload in payloads]
    chunks = [b"%x\r\n%b\r\n" % (len(data), data) for data in events]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head + chunks[0], *chunks[1:-1], chunks[-1] + b"0\r\n\r\n"]


def request(key: str, *, stream: bool) -> bytes:
    prompt = "Hola, puedes presentarte en frances? " + "lorem ipsum " * 40
    messages = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}]
    body = {"model": "burst", "messages": messages, "max_tokens": 200, "temperature": 0.7}
    data = json.dumps(body | ({"stream": True} if stream else {})).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\nauthorization: Bearer {key}\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n%b" % (len(data), data)


class Engine:
    """Answers each request with the same packets, one at each turn of the loop."""

    def __init__(self, packets: list[bytes]) -> None:
        self._packets = packets
        self._loop = asyncio.get_running_loop()

    def answer(self, wire: Wire, _data: bytes, at: int = 0) -> None:
        wire.protocol.data_received(self._packets[at])
        if at + 1 < len(self._packets):
            self._loop.call_soon(self.answer, wire, b"", at + 1)


class Rows:
    """In place of the ledger's writer."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._unwritten: list[asyncio.Future[None]] = []

    def append(self, _row: object) -> asyncio.Future[None]:
        if not self._unwritten:
            self._loop.call_soon(self._write)
        self._unwritten.append(self._loop.create_future())
        return self._unwritten[-1]

    def _write(self) -> None:
        for future in self._unwritten:
            future.set_result(None)
        self._unwritten.clear()


class Callers:
    """Each sends its next request when it has a whole answer."""

    def __init__(self, server: HttpServer, asked: bytes, *, stream: bool) -> None:
        loop = asyncio.get_running_loop()
        self._asked = asked
        self._stream = stream
        self._wires = [Wire(HttpConnection(server, loop), self._hear) for _ in range(CONNECTIONS)]
        self._left = 0
        self._busy = 0
        self._idle = asyncio.Event()

    async def ask(self, count: int) -> None:
        self._left, self._busy = count, CONNECTIONS
        self._idle.clear()
        for wire in self._wires:
            self._go_on(wire)
        await self._idle.wait()

    def _hear(self, wire: Wire, data: bytes) -> None:
        if not self._stream or data.endswith(b"0\r\n\r\n"):
            self._go_on(wire)

    def _go_on(self, wire: Wire) -> None:
        if self._left > 0:
            self._left -= 1
            wire.protocol.data_received(self._asked)
        else:
            self._busy -= 1
            if not self._busy:
                self._idle.set()


async def run(folder: Path, count: int, *, stream: bool) -> None:
    asked = request(await prepare(folder, UPSTREAM_PORT, UPSTREAM_PORT), stream=stream)
    installation = await Installation(settings.load({"data_dir": str(folder)}, {}).settings).open()
    worker = GatewayWorker(installation)
    await worker.start()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()  # duties by time would be counted too
    worker.ledger.append = Rows().append  # type: ignore[method-assign]
    engine = Engine(answer(stream=stream))
    for _ in range(CONNECTIONS):
        connection = _Connection(worker.transport, Origin("http", "127.0.0.1", UPSTREAM_PORT))
        Wire(connection, engine.answer)
        connection.owner = "default"
        worker.transport.give_back(connection)
    server = HttpServer(worker.gateway.answer)
    callers = Callers(server, asked, stream=stream)
    await callers.ask(_WARM_UP)
    for sweeper in (server._sweeper, worker.transport._sweeper):  # noqa: SLF001 - they too go by time
        assert sweeper is not None
        sweeper.cancel()
    gc.collect()
    gc.disable()  # the service rarely searches for garbage
    control("-i", "on")
    await callers.ask(count)
    control("-d")
    os._exit(0)  # under valgrind an orderly stop takes a minute


def control(*order: str) -> None:
    subprocess.run(["callgrind_control", *order, str(os.getpid())], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.instructions")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--requests", type=int, default=500)
    given = parser.parse_args()
    if os.environ.get(_COUNTED):
        with tempfile.TemporaryDirectory() as folder:
            uvloop.run(run(Path(folder) / "data", given.requests, stream=given.stream))
    valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=callgrind.out"]
    command = [*valgrind, sys.executable, "-P", "-m", "bench.instructions", *sys.argv[1:]]
    environment = {**os.environ, _COUNTED: "1", "PYTHONHASHSEED": "0"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    listed = subprocess.run(
        ["callgrind_annotate", "callgrind.out.1"], check=True, capture_output=True, text=True
    ).stdout
    total = re.search(r"([\d,]+).*PROGRAM TOTALS", listed)
    assert total is not None, listed
    print(f"{int(total[1].replace(',', '')) / given.requests:,.0f} instructions each of {given.requests} requests")


if __name__ == "__main__":
    main()
