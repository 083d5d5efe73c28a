"""The least that a relay on our HTTP server and our HTTP client costs: no keys, no checks, no metering, no ledger.

usage: python -m bench.floor PORT UPSTREAM_PORT
"""

from __future__ import annotations

import asyncio
import signal
import sys

import uvloop

from llmaas.net.channel import Channel
from llmaas.net.client import HttpTransport, Origin, Timeouts, build_post
from llmaas.net.server import HttpServer, listen

_TIMEOUTS = Timeouts(connect_s=5, first_byte_s=60, between_chunks_s=60, total_s=600)


class Floor:
    def __init__(self, upstream_port: int) -> None:
        self._transport = HttpTransport()
        self._origin = Origin("http", "127.0.0.1", upstream_port)

    async def answer(self, channel: Channel) -> None:
        body = b""
        while (part := await channel.part()) is not None:
            body += part
        path = "/v1/chat/completions"
        exchange = self._transport.send(self._origin, build_post(self._origin, path, body, None), _TIMEOUTS)
        status = await exchange.head()
        kind = exchange.headers.get(b"content-type", b"application/json")
        await channel.begin(status, [(b"content-type", kind)], b"")
        while not await exchange.each(channel.send):
            await channel.ready()
        await channel.end(b"")


async def main(port: int, upstream_port: int) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = HttpServer(Floor(upstream_port).answer)
    await server.start(listen("127.0.0.1", port))
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
