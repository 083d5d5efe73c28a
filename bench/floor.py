"""The least that a relay on our server and our HTTP client costs: no keys, no checks, no metering, no ledger.

usage: python -m bench.floor PORT UPSTREAM_PORT
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from llmaas.upstreams.http import HttpTransport, Origin, Timeouts, build_post

_TIMEOUTS = Timeouts(connect_s=5, first_byte_s=60, between_chunks_s=60, total_s=600)


class Floor:
    def __init__(self, upstream_port: int) -> None:
        self._transport = HttpTransport()
        self._origin = Origin("http", "127.0.0.1", upstream_port)

    async def __call__(self, _scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        body = message["body"]
        while message.get("more_body"):
            message = await receive()
            body += message.get("body", b"")
        path = "/v1/chat/completions"
        exchange = self._transport.send(self._origin, build_post(self._origin, path, body, None), _TIMEOUTS)
        status = await exchange.head()
        kind = exchange.headers.get(b"content-type", b"application/json")
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]})
        while data := await exchange.read():
            await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


async def main(port: int, upstream_port: int) -> None:
    server = Server(
        Floor(upstream_port),
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        websockets=False,
        log_enabled=False,
        backlog=1024,
        backpressure=4096,
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.stop)
    await server.serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
